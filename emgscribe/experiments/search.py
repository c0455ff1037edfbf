"""Search for the settings of an experiment with the lowest validation CER. Test sessions are not scored.

A study is in `runs/tune/<experiment>/`: `study.db` holds its trials (Optuna, SQLite), PNG files show them. A trial's
run is named after its number: an interrupted study resumes from that run's checkpoint.
"""

import difflib
import shlex
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Console

from emgscribe.config import from_json, leaves, options, reads_as, require, to_json
from emgscribe.data.hdf5 import shown_kind
from emgscribe.data.session import how_simulated, open_sessions
from emgscribe.data.splits import split_sessions
from emgscribe.errors import EmgscribeError, needing, optional
from emgscribe.experiments.launch import UNWRITABLE, Order, Workers, launch
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.results import data_hash
from emgscribe.experiments.run import progress, run_name, train_experiment
from emgscribe.files import exclusive, replacing

_WORST = 1e6  # per cent: no run has a larger CER
_SEARCHED = ("model", "windows", "augment", "train")
_FORM = "PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A,B,C; for example train.lr=1e-4..3e-3:log"
_PLOTS = {"history": "plot_optimization_history", "settings": "plot_slice"}


def search_space(texts: Sequence[str], experiment: Experiment) -> dict[str, Any]:
    """Path of a setting -> its Optuna distribution. Raises `EmgscribeError` for another form or a forbidden value."""
    space = dict(_distribution(text, experiment) for text in texts)
    if len(space) < max(1, len(texts)):
        raise EmgscribeError("no setting to search, or one of them twice", where="--search", hint=_FORM)
    return space


def _distribution(text: str, experiment: Experiment) -> tuple[str, Any]:
    distributions = optional("optuna", "tune").distributions
    path, _, values = text.partition("=")
    path = path.removeprefix("--").replace("-", "_")
    known = {path: value for path, value in leaves(to_json(experiment)) if path.partition(".")[0] in _SEARCHED}
    if path not in known:
        near = ", ".join(difflib.get_close_matches(path, known)) or ", ".join(known)
        raise EmgscribeError(f"{experiment.name} has no setting {path!r}", where="--search", hint=f"one of: {near}")
    *parents, name = path.split(".")
    hint = get_type_hints(type(reduce(getattr, parents, experiment)))[name]
    kind: type = str if isinstance(known[path], str) else hint
    require(kind in (int, float, str), path, known[path], "a number or one of several words, to search it")
    ends, _, scale = values.partition(":")
    ranged = ".." in ends and kind is not str and scale in ("", "log")
    try:
        found = tuple(map(kind, ends.split("..", 1) if ranged else values.split(",")))
        if ranged and (not found[0] < found[1] or (scale and found[0] <= 0)):
            raise ValueError("spans nothing: LOW must be below HIGH, and above 0 with :log")
        if len(set(found)) < max(2, len(found)):
            raise ValueError("is neither a range nor a choice")
    except ValueError as error:
        raise EmgscribeError(f"{text}: {error}", where="--search", hint=_FORM) from error
    for value in found:
        changed(experiment, {path: value})
    if not ranged:
        return path, distributions.CategoricalDistribution(found)
    number = distributions.IntDistribution if kind is int else distributions.FloatDistribution
    return path, number(*found, log=bool(scale))


def changed(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with these values of the settings at their paths; `EmgscribeError` where one is not allowed."""
    data = to_json(experiment)
    for path, value in settings.items():
        *parts, name = path.split(".")
        reduce(getitem, parts, data)[name] = value
    return from_json(Experiment, data, where=", ".join(f"{path}={value}" for path, value in settings.items()))


def search(
    experiment: Experiment,
    data: Path,
    texts: Sequence[str],
    *,
    base: Experiment,
    trials: int,
    runs: Path,
    workers: Workers,
    console: Console,
) -> Path:
    """Bring the experiment's study to `trials` finished trials, draw them, and print the best as a command.

    `base` is the named experiment that this one was made from. Failed trials, and settings that are not allowed
    together, are not counted; a call ends when as many have failed as it was to add. Returns the study's folder.
    Raises `EmgscribeError` where the study has other settings, another search or other data, where another process
    works on it, where its file cannot be used, and where no trial is finished.
    """
    require(1 <= trials <= 100_000, "trials", trials, "1 to 100,000")
    optuna = optional("optuna", "tune")
    space, runs = search_space(texts, experiment), runs.absolute()
    folder, numbers = runs / "tune" / experiment.name, dict[Order, int]()
    split = split_sessions(data.absolute(), experiment.data)
    sessions = open_sessions(split.train + split.val)
    simulated, real_keys = how_simulated(sessions)
    kind = shown_kind(simulated=simulated, real_keys=real_keys)
    about = {"search": sorted(texts), "experiment": experiment, "data": data_hash(sessions)}
    states, stored = optuna.trial.TrialState, folder / "study.db"
    faults = sqlite3.Error, optional("sqlalchemy.exc", "tune").SQLAlchemyError, optuna.exceptions.StorageInternalError
    with exclusive(folder, "works on this study"), _usable(stored, *faults):
        with _usable(stored, Exception):  # someone else's file may hold anything
            study = _study(optuna, folder, about, space)

        def orders() -> Iterator[Order]:
            for trial in _read(_trials(optuna, study, space, trials, experiment.train.seed), stored):
                name = f"tune/{experiment.name}/{trial.number}"
                try:
                    one = replace(changed(experiment, trial.params), name=name)
                except EmgscribeError as error:
                    study.tell(trial.number, state=states.PRUNED)
                    console.print(f"trial {trial.number}: not allowed ({error.what})", soft_wrap=True)
                    continue
                order = Order(run_name(one), runs, partial(train_experiment, one, split, runs=runs), workers.threads)
                numbers[order] = trial.number
                yield order

        def done(order: Order, status: int) -> None:
            number, cer = numbers[order], None if status else progress(runs / order.name)[1]
            if status == UNWRITABLE:  # not the fault of the trial's settings: it stays running, to be resumed
                what = f"trial {number} stopped ({order.news('Error: ').removeprefix('Error: ') or 'the disk is full'})"
                hint = "free some disk space, or fix what it reports; the same command resumes this trial"
                raise EmgscribeError(what, where=str(order.log), hint=hint)
            with _usable(stored, Exception):
                study.tell(number, cer, states.FAIL if cer is None else None)
            if cer is not None:
                console.print(f"trial {number}: validation CER {cer:.2f} %")

        launch(orders(), workers, done, console)
        if not (finished := study.get_trials(states=(states.COMPLETE,))):
            hint = f"the runs' logs say why: {folder}/*.log"
            raise EmgscribeError("no trial is finished", where=str(folder), hint=hint)
        best = study.best_trial
        _draw(optuna, study, folder, f"validation CER, %, {kind}")
    console.print(f"best of {len(finished)}: trial {best.number}, validation CER {best.value:.2f} %, {kind}")
    console.print(_command(base, changed(experiment, best.params), data), soft_wrap=True)
    return folder


def _read(trials: Iterator[Any], path: Path) -> Iterator[Any]:
    """The trials, one after another: stray rows in the file may make one that cannot be read."""
    while True:
        with _usable(path, Exception):
            trial = next(trials, None)
        if trial is None:
            return
        yield trial


@contextmanager
def _usable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Report these errors of the study's file as one that names it."""
    try:
        yield
    except EmgscribeError:
        raise
    except errors as error:
        fault: BaseException = error
        while fault.__cause__:
            fault = fault.__cause__
        what = f"cannot be read or written ({' '.join(str(fault).split()):.200})"
        hint = "free some disk space; to replace a damaged study, delete its folder or choose another with --runs"
        raise EmgscribeError(what, where=str(path), hint=hint) from error


def _study(optuna: Any, folder: Path, about: Mapping[str, Any], space: Mapping[str, Any]) -> Any:
    """The study in `folder`, made if there is none; refused where it is of something else or incomplete."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Not as a URL: in one, a folder's name could hold what looks like a query.
    connect = {"creator": lambda: sqlite3.connect(folder / "study.db", check_same_thread=False)}
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=connect)
    study = optuna.create_study(storage=storage, study_name="study", direction="minimize", load_if_exists=True)
    for name, value in about.items():
        if name in study.user_attrs and not reads_as(value, study.user_attrs[name]):
            hint = "repeat the study's own, choose another folder with --runs, or delete it"
            raise EmgscribeError(f"holds a study with another {name}", where=str(folder), hint=hint)
        study.set_user_attr(name, to_json(value))
    for place, trial in enumerate(study.get_trials()):
        done = trial.state.name == "COMPLETE"
        whole = not done or (trial.params.keys() == space.keys() and 0 <= trial.value <= _WORST)
        if not whole or trial.params.keys() - space.keys() or trial.number != place:
            raise ValueError(f"trial {trial.number} is not of this search")
    if study.direction.name != "MINIMIZE":
        raise ValueError("its direction is not to minimize")
    return study


def _trials(optuna: Any, study: Any, space: dict[str, Any], trials: int, seed: int) -> Iterator[Any]:
    """Trials that an earlier call began, then new ones, until `trials` are finished or too many have failed."""
    states, found = optuna.trial.TrialState, study.get_trials()
    begun = [trial for trial in found if trial.state == states.RUNNING]
    left = max(0, trials - sum(trial.state == states.COMPLETE for trial in found))
    limit = len(found) - len(begun) + 2 * left
    for trial in begun[:left]:
        if trial.params.keys() == space.keys():
            yield trial
        else:  # cut off before all of its settings were stored
            study.tell(trial.number, state=states.FAIL)
    while len(found := study.get_trials(deepcopy=False)) < limit:
        if sum(trial.state in (states.COMPLETE, states.RUNNING) for trial in found) >= trials:
            return
        # Each trial draws from its own seed: otherwise a resumed study would repeat the first trial's draws.
        sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + len(found))
        make = partial(optuna.trial.create_trial, state=states.RUNNING)
        drawn = {name: sampler.sample_independent(study, make(), name, space[name]) for name in space}
        # In one step, unlike `study.ask`: a trial that was killed has all of its settings, or was never begun.
        study.add_trial(make(params=drawn, distributions=space))
        yield study.get_trials(deepcopy=False)[-1]


def _draw(optuna: Any, study: Any, folder: Path, label: str) -> None:
    with needing("train"):
        import matplotlib.pyplot as plt

    for name, plot in _PLOTS.items():
        with warnings.catch_warnings(), replacing(folder / f"{name}.png") as temporary:
            warnings.simplefilter("ignore")  # Optuna calls these plots experimental
            getattr(optuna.visualization.matplotlib, plot)(study, target_name=label)
            plt.gcf().savefig(temporary, dpi=110, bbox_inches="tight")
            plt.close()


def _command(base: Experiment, experiment: Experiment, data: Path) -> str:
    """The command line that trains the experiment, made from a named one."""
    named = dict(leaves(to_json(base)))
    differ = ((path, value) for path, value in leaves(to_json(experiment)) if named.get(path) != value)
    return shlex.join(["emgscribe", "train", base.name, "--data", str(data), *options(differ)])
