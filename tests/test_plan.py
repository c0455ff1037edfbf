"""What is left of a suite, and how long it takes: measured, not done."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_suite import SUITE, TINY

from emgscribe import cli, plan
from emgscribe.config import DataConfig, to_json
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import Experiment
from emgscribe.files import write_json
from emgscribe.session import SAMPLE_RATE
from emgscribe.splits import split_sessions
from emgscribe.store import StoredSession, open_sessions
from emgscribe.suites import Simulated
from emgscribe.synthetic import synthesize_dataset
from emgscribe.train import seconds_for
from emgscribe.train.callbacks import Clock


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-users") / "data"
    synthesize_dataset(folder, users=2, sessions=4, minutes=0.1)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments that were measured; a stand-in takes 100 s for a minute that trains, 1 s for one to validate."""
    seen: list[Experiment] = []

    def seconds_for(experiment: Experiment, *, train_sessions: list, val_sessions: list) -> float:
        seen.append(experiment)
        trains, validates = (sum(map(len, part)) / SAMPLE_RATE / 60 for part in (train_sessions, val_sessions))
        return 100 * trains + validates

    monkeypatch.setattr(plan, "seconds_for", seconds_for)
    return seen


def begin(folder: Path, epochs: int) -> None:
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    with (folder / "curves.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", "val_cer"), *((epoch, 50.0) for epoch in range(epochs))])


def test_each_run_is_done_cut_off_or_missing_with_its_share_of_time(
    data: Path, tmp_path: Path, measured: list[Experiment]
) -> None:
    again = replace(TINY, train=replace(TINY.train, seed=6))
    wide = replace(TINY, name="wide", data=replace(TINY.data, train_users=(), minutes=0.15))
    tested = [{"session": path.stem} for path in split_sessions(data, TINY.data).test]
    write_json(
        tmp_path / "results" / "tiny-5.json", {"experiment": to_json(TINY), "test": {"greedy": {"sessions": tested}}}
    )
    begin(tmp_path / "runs" / "tiny-6", epochs=10)
    planned = list(
        plan.plan([TINY, again, wide, *SUITE[:1]], data, runs=tmp_path / "runs", results=tmp_path / "results")
    )
    assert [(run.name, run.state) for run in planned] == [
        ("tiny-5", "done"),
        ("tiny-6", "cut off"),
        ("wide-5", "missing"),
        ("tiny-adapted-5", "missing"),
    ]
    # Two sessions of 0.1 minutes of user 0 train and one validates, of which 30 of 40 epochs are left; one and a half
    # train and one of each user validates; two and one.
    assert [run.seconds for run in planned] == pytest.approx([0, 0.75 * 20.1, 15.2, 20.1])
    assert len(measured) == 3
    with pytest.raises(EmgscribeError, match="other settings"):
        list(plan.plan([replace(TINY, start="x")], data, runs=tmp_path / "runs", results=tmp_path / "results"))


def test_what_differs_in_the_seed_is_measured_once(data: Path, tmp_path: Path, measured: list[Experiment]) -> None:
    seeds = [replace(TINY, train=replace(TINY.train, seed=seed)) for seed in range(3)]
    assert len(list(plan.plan(seeds, data, runs=tmp_path / "runs", results=tmp_path / "results"))) == 3
    assert len(measured) == 1


@pytest.mark.parametrize(
    ("used", "trains", "validates"),
    [
        (DataConfig(), 3 * 12 * 5, 3 * 5),
        (DataConfig(train_users=(0,)), 12 * 5, 5),
        (DataConfig(train_users=(0, 2), sessions=2), 2 * 2 * 5, 2 * 5),
        (DataConfig(train_users=(0,), sessions=30), 12 * 5, 5),
        (DataConfig(train_users=(0,), minutes=7.0), 7, 5),
    ],
)
def test_simulated_sessions_are_counted_before_they_are_made(
    tmp_path: Path,
    measured: list[Experiment],
    monkeypatch: pytest.MonkeyPatch,
    make_stored: Callable[..., StoredSession],
    used: DataConfig,
    trains: float,
    validates: float,
) -> None:
    session = make_stored()
    monkeypatch.setattr(plan, "synthesize_session", lambda path, **_: path.touch())
    monkeypatch.setattr(plan, "open_sessions", lambda paths, _: [session for _ in paths])
    made = Simulated("made", users=3, sessions=14, minutes=5.0)
    [run] = plan.plan([replace(TINY, data=used)], made, runs=tmp_path / "runs", results=tmp_path / "results")
    assert run.seconds == pytest.approx(100 * trains + validates)


def test_seconds_are_those_of_all_steps_and_validations(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "mean", lambda clock, kind: {"train": 2.0, "val": 3.0}[kind] * bool(clock.seconds[kind]))
    sessions = open_sessions(sorted(data.glob("*.hdf5"))[:2], tmp_path / "cache")
    recipe = replace(TINY, train=replace(TINY.train, epochs=6, validate_every=2, batch_size=2))
    # 6 s: 6 windows of 1 s train, in 3 steps, and as many validate.
    assert seconds_for(recipe, train_sessions=sessions[:1], val_sessions=sessions[1:]) == 6 * 3 * 2.0 + 3 * 3 * 3.0


def test_a_dry_run_measures_and_leaves_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache-of-mine"
    monkeypatch.setenv("EMGSCRIBE_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["reproduce", "tiny", "--data", str(data), "--dry-run", "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  about")[0].split() for line in lines[:2]] == [
        ["missing", "tiny-adapted-5"],
        ["missing", "tiny-5"],
    ]
    assert lines[2].startswith("0 done, 0 cut off, 2 missing: about")
    assert lines[2].endswith("2 at a time")
    assert sorted(tmp_path.iterdir()) == before
    assert not cache.exists()
