"""Searches: what may be searched, that nothing is lost or counted twice, and what is reported."""

import math
import resource
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from tiny_suite import TINY, brief

from emgscribe.errors import EmgscribeError
from emgscribe.experiments import search as module
from emgscribe.experiments.launch import FAILED, Order, Workers
from emgscribe.experiments.recipes import EXPERIMENTS, Experiment
from emgscribe.experiments.search import _command, search, search_space
from emgscribe.simulation.sessions import simulate

optuna = pytest.importorskip("optuna")
SEARCH = ["train.lr=1e-4..3e-2:log", "model.encoder.dropout=0..0.5", "train.optimizer=adam,adamw"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-user") / "data"
    simulate(folder, users=1, sessions=3, minutes=0.1)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The runs that were carried out: a stand-in leaves a curve by the learning rate; the third one fails."""
    found: list[Experiment] = []

    def launch(orders: Iterator[Order], workers: Workers, done: object, console: Console) -> None:
        for order in orders:
            found.append(order.work.args[0])
            folder = order.runs / order.name
            folder.mkdir(parents=True, exist_ok=True)
            cer = 10 + 20 * abs(math.log10(found[-1].train.lr) + 2)
            (folder / "curves.csv").write_text(f"epoch,val_cer\n0,{cer}\n1,\n2,{cer + 5}\n")
            done(order, FAILED if len(found) == 3 else 0)

    monkeypatch.setattr(module, "launch", launch)
    return found


def run(
    data: Path, runs: Path, trials: int, texts: list[str] = SEARCH, experiment: Experiment = TINY
) -> tuple[optuna.Study, str]:
    """The study, and what was printed."""
    output = StringIO()
    console = Console(file=output, width=200)
    folder = search(experiment, data, texts, base=TINY, trials=trials, runs=runs, workers=Workers(), console=console)
    return module._study(optuna, folder, {}, search_space(texts, experiment)), output.getvalue()


def ended(study: optuna.Study) -> list[tuple[dict, float | None]]:
    """Settings and CER of the trials that are finished."""
    return [(trial.params, trial.value) for trial in study.trials if trial.value is not None]


def test_a_search_range_has_the_type_of_its_setting() -> None:
    texts = ["train.optimizer=adam,adamw", "--train.lr=1e-4..3e-3:log", "train.batch-size=4..32", "train.ema=0,0.5"]
    assert search_space([*texts, "train.warmup_epochs=0.5..2"], TINY) == {
        "train.optimizer": optuna.distributions.CategoricalDistribution(("adam", "adamw")),
        "train.lr": optuna.distributions.FloatDistribution(1e-4, 3e-3, log=True),
        "train.batch_size": optuna.distributions.IntDistribution(4, 32),
        "train.ema": optuna.distributions.CategoricalDistribution((0.0, 0.5)),
        "train.warmup_epochs": optuna.distributions.FloatDistribution(0.5, 2.0),  # at 1 now, but need not be whole
    }


@pytest.mark.parametrize(
    ("texts", "reported"),
    [
        ([], "no setting to search"),
        (["train.lr=1e-4..1e-3", "train.lr=1e-3..1e-2"], "one of them twice"),
        (["train.lrr=1e-4..1e-3"], "one of: train.lr"),
        (["data.sessions=1..4"], "has no setting 'data.sessions'"),
        (["name=a,b"], "has no setting 'name'"),
        (["train=1..2"], "has no setting 'train'"),
        (["windows=1,2"], "has no setting 'windows'"),
        (["model.features.electrodes=1,2"], "a number or one of several words, to search it"),
        (["train.lr=1e-3..1e-4"], "spans nothing"),
        (["train.lr=0..1e-4:log"], "spans nothing"),
        (["train.lr=nan..1"], "spans nothing"),
        (["train.lr=-1..1e-3"], "train.lr is -1.0"),
        (["train.batch_size=4..8.5"], "invalid literal"),
        (["train.optimizer=adam,sgd"], "sgd"),
        (["train.optimizer=adam..sgd"], "neither a range nor a choice"),
        (["train.lr=1e-3"], "neither a range nor a choice"),
        (["train.lr=1e-4..1e-3:linear"], "could not convert"),
        (["train.lr=1e-3,1e-3"], "neither a range nor a choice"),
    ],
)
def test_what_cannot_be_searched_is_refused(texts: list[str], reported: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        search_space(texts, TINY)
    assert reported in str(caught.value)
    assert caught.value.hint


def test_a_study_searches_reports_its_best_and_adds_trials(data: Path, tmp_path: Path, ran: list[Experiment]) -> None:
    study, printed = run(data, tmp_path, 8)
    found = ended(study)
    assert (len(ran), len(found)) == (9, 8)  # the failed one is not counted
    assert all(1e-4 <= settings["train.lr"] <= 3e-2 for settings, _ in found)
    assert len({settings["train.lr"] for settings, _ in found}) == 8
    best = min(cer for _, cer in found)
    assert f"best of 8: trial {study.best_trial.number}, validation CER {best:.2f} %, SIMULATED sessions\n" in printed
    dropout = study.best_params["model.encoder.dropout"]
    assert f"emgscribe train tiny --data {data} --model.encoder.dropout {dropout}" in printed
    for name in ("history", "settings"):
        assert (tmp_path / "tune" / "tiny" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for trials, runs in ((8, 9), (10, 11)):
        assert ended(run(data, tmp_path, trials)[0])[:8] == found
        assert len(ran) == runs
    with pytest.raises(EmgscribeError, match="trials is 0"):
        run(data, tmp_path, 0)


BACK = replace(TINY.model, encoder=replace(TINY.model.encoder, reduction=24, reduction_back=True))
BILSTM = EXPERIMENTS["small/table2/bilstm"]
FORWARD = replace(BILSTM.model, encoder=replace(BILSTM.model.encoder, bidirectional=False))


def test_the_best_is_reported_as_the_command_that_makes_it() -> None:
    clipped = replace(TINY, train=replace(TINY.train, clip_norm=1.0, lr=0.5))
    assert _command(TINY, clipped, Path("a folder")) == (
        "emgscribe train tiny --data 'a folder' --train.lr 0.5 --train.clip-norm 1.0"
    )
    words = shlex.split(_command(TINY, replace(TINY, name="my own", model=BACK), Path("data")))
    assert words[5:] == ["--model.encoder.reduction", "24", "--model.encoder.reduction-back", "--name", "my own"]
    assert _command(BILSTM, replace(BILSTM, model=FORWARD), Path("d")).endswith(" --model.encoder.no-bidirectional")
    edges = replace(TINY, model=replace(TINY.model, features=replace(TINY.model.features, edges=(0, 3, 33))))
    assert _command(TINY, edges, Path("d")).endswith(" --model.features.edges 0 3 33")


def test_settings_that_are_not_allowed_together_are_skipped(data: Path, tmp_path: Path, ran: list[Experiment]) -> None:
    """Numbers of epochs that `validate_every` does not divide; both ends of the search range are allowed."""
    given = replace(TINY, train=replace(TINY.train, validate_every=2))
    study, printed = run(data, tmp_path, 6, ["train.epochs=2..8"], given)
    refused = [line for line in printed.splitlines() if "not allowed" in line]
    assert 0 < len(refused) == len([t for t in study.trials if t.params["train.epochs"] % 2])
    assert all("train.validate_every is 2" in line for line in refused)
    assert all(experiment.train.epochs % 2 == 0 for experiment in ran)
    before = len(ran)
    with pytest.raises(EmgscribeError, match=r"no trial is finished\n.*logs say why"):
        run(data, tmp_path / "none", 5, ["train.epochs=11,13", "train.validate_every=4,8"])
    assert len(ran) == before


def test_an_interrupted_study_ends_as_an_uninterrupted_one(
    data: Path, tmp_path: Path, ran: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, launch = ended(run(data, tmp_path / "whole", 6)[0]), module.launch
    names = [experiment.name for experiment in ran]
    ran.clear()

    def killed(orders: Iterator[Order], *rest: object) -> None:
        launch(islice(orders, 4), *rest)
        ran.append(next(orders).work.args[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "launch", killed)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "cut", 6)
    assert ended(run(data, tmp_path / "cut", 6)[0]) == whole
    assert [experiment.name for experiment in ran] == [*names[:5], *names[4:]]  # the same run is resumed


def test_a_trial_without_stored_settings_is_not_resumed(data: Path, tmp_path: Path, ran: list[Experiment]) -> None:
    study, _ = run(data, tmp_path, 1)
    study.ask()
    study, _ = run(data, tmp_path, 2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_study_of_another_search_data_set_or_experiment_is_not_resumed(
    data: Path, tmp_path: Path, ran: list[Experiment]
) -> None:
    run(data, tmp_path, 1)
    simulate(other := tmp_path / "other", users=1, sessions=3, minutes=0.1, seed=1)
    for what, call in (
        ("search", partial(run, data, texts=["train.lr=1e-4..1e-2:log"])),
        ("data", partial(run, other)),
        ("experiment", partial(run, data, experiment=brief(TINY))),
    ):
        with pytest.raises(EmgscribeError, match=f"another {what}"):
            call(runs=tmp_path, trials=2)
    with FileLock(tmp_path / "tune" / "tiny" / ".lock"), pytest.raises(EmgscribeError, match="another process"):
        run(data, tmp_path, 2)
    assert len(ran) == 1


TRAP = b"cos\nmkdir\n(Vtrapped\ntR."  # a pickle that makes a folder
STRANGE = {
    "cut": "",
    "pickle": f"update study_user_attributes set value_json = x'{TRAP.hex()}'",
    "pickled system": f"insert into study_system_attributes values (9, 1, 'cma:optimizer:0', '\"{TRAP.hex()}\"')",
    "attribute": "update study_user_attributes set value_json = 'null' where key = 'experiment'",
    "distribution": "update trial_params set distribution_json = '[7]'",
    "parameter": "update trial_params set param_value = 'fast'",
    "setting": "update trial_params set param_name = '__class__' where param_name = 'train.lr'",
    "value": "update trial_values set value_type = 'INF_POS'",
    "orphan": "update trial_params set distribution_json = 'Inf'; delete from trials",
    "huge value": "update trial_values set value = 1e308",
    "negative value": "update trial_values set value = -1",
    "state": "update trials set state = 'PICKLED'",
    "number": "update trials set number = '../../../x', state = 'RUNNING'",
    "direction": "update study_directions set direction = 'MAXIMIZE'",
    "table": "drop table trial_values",
}


def test_a_damaged_study_gives_one_error_and_runs_nothing(
    data: Path, tmp_path: Path, ran: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "whole", 1)
    monkeypatch.chdir(tmp_path)
    for kind, statement in STRANGE.items():
        path = Path(shutil.copytree("whole", kind), "tune", "tiny", "study.db")
        if statement:
            with closing(sqlite3.connect(path)) as database, database:
                database.executescript(statement)
        else:
            path.write_bytes(path.read_bytes()[:20_000])
        harmless = kind == "pickled system"  # where Optuna keeps a sampler's own state, which ours does not have
        with nullcontext() if harmless else pytest.raises(EmgscribeError, match="study"):
            run(data, path.parents[2], 1)
    assert len(ran) == 1
    assert not list(tmp_path.rglob("trapped"))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file gets larger than this; a write beyond it fails as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_no_trial(data: Path, tmp_path: Path, ran: list[Experiment]) -> None:
    run(data, tmp_path / "other", 1)  # leaves the sessions in the cache
    with full_disk(50_000), pytest.raises(EmgscribeError, match=r"study.db: cannot be read or written") as caught:
        run(data, tmp_path, 8)
    assert "free some disk space" in caught.value.hint
    assert len(ended(run(data, tmp_path, 8)[0])) == 8


def test_a_trial_that_could_not_write_is_resumed(data: Path, tmp_path: Path) -> None:
    """The trial's own process has the full disk: its checkpoint does not fit."""
    given = (["train.lr=1e-4..1e-2:log"], brief(TINY))
    for _ in range(2):
        with full_disk(300_000), pytest.raises(EmgscribeError, match=r"0-5.log: trial 0 stopped .*cannot be written"):
            run(data, tmp_path, 1, *given)
    study, _ = run(data, tmp_path, 1, *given)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


def test_a_trial_trains_and_does_not_test(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("a?b=c")  # in a URL, this would look like a query
    study, printed = run(data, runs, 1, ["train.lr=1e-4..1e-2:log"], brief(TINY))
    lines = (runs / "tune" / "tiny" / "0-5" / "curves.csv").read_text().splitlines()
    assert len(lines) == 3
    assert [trial.value for trial in study.trials] == [min(float(line.rpartition(",")[2]) for line in lines[1:])]
    assert "tune/tiny/0-5: started, log a?b=c/tune/tiny/0-5.log" in printed
    assert not list(tmp_path.rglob("tiny*.json"))
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "a?b=c"}
