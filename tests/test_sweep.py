"""Sweeps: what may be searched, that nothing is lost or counted twice, and what the report says."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from tiny_suite import TINY

from emgscribe import cli, launch
from emgscribe.config import to_json
from emgscribe.errors import EmgscribeError
from emgscribe.launch import Order, Workers
from emgscribe.results import leaves
from emgscribe.sweep import changed, spans, tune
from emgscribe.synthetic import synthesize_dataset

pytest.importorskip("optuna")
QUIET = Console(quiet=True)
SEARCH = [
    "train.lr=1e-4..3e-2:log",
    "model.encoder.dropout=0..0.5",
    "train.batch_size=2..8",
    "train.optimizer=adam,adamw",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-user") / "data"
    synthesize_dataset(folder, users=1, sessions=3, minutes=0.1)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were carried out: a stand-in leaves a curve by the learning rate; that of trial 2 fails."""
    names: list[str] = []

    def execute(order: Order, *_: object) -> int:
        names.append(order.name)
        folder = order.runs / order.name
        folder.mkdir(parents=True, exist_ok=True)
        cer = 10 + 20 * abs(math.log10(order.experiment.train.lr) + 2)
        with (folder / "curves.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("epoch", "val_cer"), (0, cer), (1, ""), (2, cer + 5)])
        assert order.results is None
        return 2 if order.name.endswith("/2-5") else 0

    monkeypatch.setattr(launch, "execute", execute)
    return names


def search(data: Path, runs: Path, trials: int, texts: list[str] = SEARCH, jobs: int = 1) -> str:
    page = tune(TINY, data, texts, trials=trials, runs=runs, workers=Workers(jobs=jobs), console=QUIET)
    return page.read_text()


def rows(report: str) -> dict[int, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    return {int(first): rest for first, *rest in lines[1:]}


def test_a_span_is_of_the_kind_of_its_setting() -> None:
    texts = ["train.optimizer=adam,adamw", "--train.lr=1e-4..3e-3:log", "train.batch-size=4..32", "train.ema=0,0.5"]
    batch, ema, rate, optimizer = spans(texts, TINY)
    assert (batch.path, batch.values, batch.log) == ("train.batch_size", (4, 32), False)
    assert (ema.values, ema.choice) == ((0.0, 0.5), True)
    assert str(rate) == "train.lr=0.0001..0.003:log"
    assert str(optimizer) == texts[0]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "no setting to search"),
        (["train.lr=1e-4..1e-3", "train.lr=1e-3..1e-2"], "one of them twice"),
        (["train.lrr=1e-4..1e-3"], "did you mean lr?"),
        (["model.encoder.dropuot=0..0.5"], "did you mean dropout?"),
        (["train.lr.rate=0..1"], "it has no parts"),
        (["data.sessions=1..4"], "has no setting 'data' there"),
        (["name=a,b"], "has no setting 'name' there"),
        (["train=1..2"], "train is"),
        (["train.lr=1e-3..1e-3"], "spans nothing"),
        (["train.lr=1e-3..1e-4"], "spans nothing"),
        (["train.lr=0..1e-4:log"], "spans nothing"),
        (["train.lr=nan..1"], "spans nothing"),
        (["train.lr=-1..1e-3"], "train.lr is -1.0"),
        (["model.encoder.dropout=0..2"], "dropout is 2.0"),
        (["train.batch_size=4..8.5"], "invalid literal"),
        (["train.optimizer=adam,sgd"], "sgd"),
        (["train.optimizer=adam..sgd"], "no range and no choice"),
        (["train.lr=1e-3"], "no range and no choice"),
        (["train.lr=1e-4..1e-3:linear"], "no range and no choice"),
        (["train.lr=1e-3,1e-3"], "no range and no choice"),
    ],
)
def test_what_cannot_be_searched_is_refused(texts: list[str], told: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        spans(texts, TINY)
    assert told in str(caught.value)
    assert caught.value.mend


def test_a_study_searches_and_reports(data: Path, tmp_path: Path, ran: list[str]) -> None:
    report = search(data, tmp_path, 12)
    assert ran == [f"tune/tiny/{number}-5" for number in range(12)]
    assert "# tiny: validation CER of 12 trials, SIMULATED sessions" in report
    found = rows(report)
    assert found.keys() == set(range(12))
    assert list(found)[-1] == 2
    assert found[2][0] == "failed"
    cers = [float(cells[0].split()[0]) for number, cells in found.items() if number != 2]
    assert cers == sorted(cers)
    lrs = {number: float(cells[3]) for number, cells in found.items()}
    assert all(1e-4 <= lr <= 3e-2 for lr in lrs.values())
    assert len(set(lrs.values())) == 12
    best = next(iter(found))
    assert cers[0] == pytest.approx(10 + 20 * abs(math.log10(lrs[best]) + 2), abs=0.006)
    assert (tmp_path / "tune" / "tiny" / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_is_told_as_a_command_that_makes_it(
    data: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emgscribe.cli import experiments

    given = replace(TINY, train=replace(TINY.train, clip_norm=1.0))
    page = tune(given, data, SEARCH, trials=1, runs=tmp_path, workers=Workers(), console=QUIET)
    [command] = [line for line in page.read_text().splitlines() if line.startswith("emgscribe train tiny")]
    made = []

    def run(experiment, *_: object) -> None:
        made.append(experiment)
        raise EmgscribeError("enough")

    monkeypatch.setattr(experiments, "_run", run)
    assert cli.main([*command.split()[1:], "--data", str(data)]) == 2
    values = rows(page.read_text())[0][1:]
    told = dict(leaves(to_json(made[0])))
    names = ["model.encoder.dropout", "train.batch_size", "train.lr", "train.optimizer"]
    assert [str(told[name]) for name in names] == values
    assert made[0] == changed(given, {name: told[name] for name in names})


def test_a_study_that_was_cut_off_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before trial 3 has run, and again after trial 5 has and before the study heard of it."""
    whole = search(data, tmp_path / "whole", 7)
    execute = launch.execute
    for name, has_run in (("tune/tiny/3-5", False), ("tune/tiny/5-5", True)):

        def killed(order: Order, *rest: object, name: str = name, has_run: bool = has_run) -> int:
            if order.name == name and not has_run:
                raise KeyboardInterrupt
            status = execute(order, *rest)
            if order.name == name:
                raise KeyboardInterrupt
            return status

        with monkeypatch.context() as patch:
            patch.setattr(launch, "execute", killed)
            with pytest.raises(KeyboardInterrupt):
                search(data, tmp_path / "cut", 7)
    ran.clear()
    assert search(data, tmp_path / "cut", 7) == whole
    assert ran == [f"tune/tiny/{number}-5" for number in (5, 6)]
    assert search(data, tmp_path / "cut", 7) == whole
    assert len(ran) == 2
    assert rows(search(data, tmp_path / "cut", 8)).keys() == set(range(8))


def test_trials_beside_each_other_are_each_counted_once(data: Path, tmp_path: Path, ran: list[str]) -> None:
    assert rows(search(data, tmp_path, 9, jobs=3)).keys() == set(range(9))
    assert sorted(ran) == [f"tune/tiny/{number}-5" for number in range(9)]


def test_a_study_of_something_else_is_not_gone_on_with(
    data: Path, tmp_path: Path, ran: list[str], make_other: Callable[[], Path]
) -> None:
    search(data, tmp_path, 1)
    with pytest.raises(EmgscribeError, match="another search"):
        search(data, tmp_path, 2, ["train.lr=1e-4..1e-2:log"])
    with pytest.raises(EmgscribeError, match="another data"):
        search(make_other(), tmp_path, 2)
    other = replace(TINY, train=replace(TINY.train, epochs=3))
    with pytest.raises(EmgscribeError, match="another experiment"):
        tune(other, data, SEARCH, trials=2, runs=tmp_path, workers=Workers(), console=QUIET)
    with FileLock(tmp_path / "tune" / "tiny" / ".lock"), pytest.raises(EmgscribeError, match="another process"):
        search(data, tmp_path, 2)
    with pytest.raises(EmgscribeError, match="trials is 0"):
        search(data, tmp_path, 0)
    assert len(ran) == 1


@pytest.fixture
def make_other(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        synthesize_dataset(tmp_path / "other", users=1, sessions=3, minutes=0.1, seed=1)
        return tmp_path / "other"

    return make


def test_a_study_whose_every_trial_fails_says_where_to_look(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "execute", lambda *_: 2)
    with pytest.raises(EmgscribeError, match=r"no trial has ended well\n.*logs say why"):
        search(data, tmp_path, 2)


def test_tune_trains_and_does_not_test(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--cores", "1", "--train.epochs", "2"]
    assert cli.main(["tune", "tiny", *places, "--search", "train.lr=1e-4..1e-2:log", "--trials", "1"]) == 0
    page = tmp_path / "runs" / "tune" / "tiny" / "report.md"
    assert f"report: {page}" in capsys.readouterr().out
    lines = (page.parent / "0-5" / "curves.csv").read_text().splitlines()
    assert len(lines) == 3
    best = min(float(line.rpartition(",")[2]) for line in lines[1:])
    assert f"| 0 | {best:.2f} % |" in page.read_text()
    assert not list(tmp_path.rglob("tiny*.json"))
    assert not Path("results/tune").exists()
