"""Sweeps: what may be searched, that nothing is lost or counted twice, and what the report says."""

import csv
import math
import resource
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from tiny_suite import TINY

from emgscribe import cli
from emgscribe.config import to_json
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import launch as launch
from emgscribe.experiments.launch import Order, Workers
from emgscribe.experiments.recipes import EXPERIMENTS, Experiment
from emgscribe.experiments.results import leaves
from emgscribe.experiments.search import changed, spans, tune
from emgscribe.simulation import simulate

optuna = pytest.importorskip("optuna")
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
    simulate(folder, users=1, sessions=3, minutes=0.1)
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


def search(
    data: Path,
    runs: Path,
    trials: int,
    texts: list[str] = SEARCH,
    jobs: int = 1,
    experiment: Experiment = TINY,
    base: Experiment = TINY,
    console: Console = QUIET,
) -> str:
    workers = Workers(jobs=jobs)
    page = tune(experiment, data, texts, base=base, trials=trials, runs=runs, workers=workers, console=console)
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
    assert caught.value.hint


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
    drawn = (tmp_path / "tune" / "tiny" / "trials.svg").read_text()
    assert "<!-- adam -->" in drawn  # words are told on their axis, not the numbers of their places
    assert "<!-- adamw -->" in drawn


BACK = replace(TINY.model, encoder=replace(TINY.model.encoder, reduction=24, reduction_back=True))
BILSTM = EXPERIMENTS["small/table2/bilstm"]
FORWARD = replace(BILSTM.model, encoder=replace(BILSTM.model.encoder, bidirectional=False))
EDGES = replace(TINY.model, features=replace(TINY.model.features, edges=(0, 3, 33)))


@pytest.mark.parametrize(
    ("base", "given"),
    [
        (TINY, replace(TINY, train=replace(TINY.train, clip_norm=1.0))),
        (TINY, replace(TINY, name="mine", model=BACK)),
        (BILSTM, replace(BILSTM, name="one way's", model=FORWARD)),
        (replace(TINY, start="x", model=EDGES), TINY),
    ],
)
def test_the_best_is_told_as_a_command_that_makes_it(
    data: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch, base: Experiment, given: Experiment
) -> None:
    from emgscribe.cli import experiments

    places = tmp_path / "a folder"
    places.symlink_to(data)
    report = search(places, tmp_path, 1, experiment=given, base=base)
    [command] = [line for line in report.splitlines() if line.startswith(f"emgscribe train {base.name} ")]
    made: list[Experiment] = []

    def run(experiment: Experiment, folder: Path, *_: object) -> None:
        assert folder == places
        made.append(experiment)
        raise EmgscribeError("enough")

    monkeypatch.setattr(experiments, "_run", run)
    monkeypatch.setitem(EXPERIMENTS, base.name, base)
    assert cli.main(shlex.split(command)[1:]) == 2
    told = dict(leaves(to_json(made[0])))
    names = ["model.encoder.dropout", "train.batch_size", "train.lr", "train.optimizer"]
    assert [str(told[name]) for name in names] == rows(report)[0][1:]
    assert made[0] == changed(given, {name: told[name] for name in names})


def test_settings_that_are_not_allowed_beside_each_other_are_passed_over(
    data: Path, tmp_path: Path, ran: list[str]
) -> None:
    """Epochs that the epochs between two validations do not divide; both ends of what is searched are allowed."""
    given = replace(TINY, train=replace(TINY.train, validate_every=2))
    with (tmp_path / "told").open("w") as file:
        report = search(data, tmp_path, 12, ["train.epochs=2..8"], experiment=given, console=Console(file=file))
    told = [line for line in (tmp_path / "told").read_text().splitlines() if "not allowed" in line]
    found = rows(report)
    assert found.keys() == set(range(12))
    odd = {number for number, (_, epochs) in found.items() if int(epochs) % 2}
    assert 0 < len(odd) < 12
    assert {number for number, (cer, _) in found.items() if cer == "not allowed"} == odd
    assert ran == [f"tune/tiny/{number}-5" for number in range(12) if number not in odd]
    assert [int(line.split()[1].rstrip(":")) for line in told] == sorted(odd)
    assert all("train.validate_every is 2" in line for line in told)
    assert search(data, tmp_path, 12, ["train.epochs=2..8"], experiment=given) == report
    assert len(ran) == 12 - len(odd)


def test_a_search_in_which_nothing_is_allowed_says_so(data: Path, tmp_path: Path, ran: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(EmgscribeError, match=r"settings of 5 trials is allowed.*train.validate_every is"):
            search(data, tmp_path, 5, ["train.epochs=11,13", "train.validate_every=5,8"])
    assert ran == []


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
        search(data, tmp_path, 2, experiment=other)
    with FileLock(tmp_path / "tune" / "tiny" / ".lock"), pytest.raises(EmgscribeError, match="another process"):
        search(data, tmp_path, 2)
    with pytest.raises(EmgscribeError, match="trials is 0"):
        search(data, tmp_path, 0)
    assert len(ran) == 1


def test_a_study_from_before_a_setting_was_there_is_gone_on_with(data: Path, tmp_path: Path, ran: list[str]) -> None:
    search(data, tmp_path, 1)
    storage = f"sqlite:///{tmp_path / 'tune' / 'tiny' / 'study.db'}"
    study = optuna.load_study(storage=storage, study_name="study")
    earlier = study.user_attrs["experiment"]
    del earlier["train"]["ema"]
    study.set_user_attr("experiment", earlier)
    search(data, tmp_path, 2)
    assert len(ran) == 2


def test_a_study_whose_file_is_broken_is_named(data: Path, tmp_path: Path, ran: list[str]) -> None:
    search(data, tmp_path, 1)
    path = tmp_path / "tune" / "tiny" / "study.db"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(EmgscribeError, match=r"study.db: cannot be read or written \(database disk image is malformed"):
        search(data, tmp_path, 2)
    assert len(ran) == 1


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file gets larger than this; a write beyond it fails as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_is_full_costs_no_trial(data: Path, tmp_path: Path, ran: list[str], begun: bool) -> None:
    path = tmp_path / "tune" / "tiny" / "study.db"
    search(data, tmp_path if begun else tmp_path / "other", 1)  # elsewhere, it leaves the sessions in the cache
    with (
        full_disk(path.stat().st_size if begun else 50_000),
        pytest.raises(EmgscribeError, match=r"study.db: cannot be read or written") as caught,
    ):
        search(data, tmp_path, 20)
    assert "free some disk space" in caught.value.hint
    assert rows(search(data, tmp_path, 20)).keys() == set(range(20))


@pytest.fixture
def make_other(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        simulate(tmp_path / "other", users=1, sessions=3, minutes=0.1, seed=1)
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
