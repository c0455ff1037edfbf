"""Search for the settings of an experiment with the lowest validation CER. Test sessions are not scored.

A study is in `runs/tune/<experiment>/`: `study.db` holds its trials (Optuna, SQLite), PNG files show them. A trial's
run is named after its settings, so that an interrupted study goes on from the run's checkpoint.
"""

import difflib
import json
import shlex
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Console

from emgscribe.config import from_json, leaves, reads_as, require, to_json
from emgscribe.data.session import open_sessions
from emgscribe.data.splits import split_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.launch import Order, Workers, launch, optional
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.results import data_hash
from emgscribe.experiments.run import progress, train_experiment
from emgscribe.files import alone, replacing

_SEARCHED = ("model", "windows", "augment", "train")
_FORM = "PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A,B,C; for example train.lr=1e-4..3e-3:log"
_PLOTS = {"history": "plot_optimization_history", "settings": "plot_slice"}


@dataclass(frozen=True)
class Span:
    """Where one setting is searched: from the first of `values` to the second, or among all of them."""

    path: str
    values: tuple[Any, ...]
    choice: bool = False
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        if self.choice:
            return trial.suggest_categorical(self.path, self.values)
        suggest = trial.suggest_int if isinstance(self.values[0], int) else trial.suggest_float
        return suggest(self.path, *self.values, log=self.log)


def spans(texts: Sequence[str], experiment: Experiment) -> tuple[Span, ...]:
    """The spans of settings that `--search` names; `EmgscribeError` for another form, and for what is not allowed."""
    found = [_span(text, experiment) for text in texts]
    if len({span.path for span in found}) != len(found) or not found:
        raise EmgscribeError("no setting to search, or one of them twice", where="--search", hint=_FORM)
    for span in found:
        for value in span.values:
            changed(experiment, {span.path: value})
    return tuple(found)


def _span(text: str, experiment: Experiment) -> Span:
    path, _, values = text.partition("=")
    path = path.removeprefix("--").replace("-", "_")
    known = {path: value for path, value in leaves(to_json(experiment)) if path.partition(".")[0] in _SEARCHED}
    if path not in known:
        near = ", ".join(difflib.get_close_matches(path, known)) or ", ".join(known)
        raise EmgscribeError(f"{experiment.name} has no setting {path!r}", where="--search", hint=f"one of: {near}")
    *parents, name = path.split(".")
    hint = get_type_hints(type(reduce(getattr, parents, experiment)))[name]
    kind: type = str if isinstance(known[path], str) else hint
    require(kind in (int, float, str), path, known[path], "to search: a number, or one of several words")
    span, _, scale = values.partition(":")
    try:
        if ".." in span and kind is not str and scale in ("", "log"):
            low, high = (kind(end) for end in span.split("..", 1))
            if not low < high or (scale and low <= 0):
                raise ValueError("spans nothing: LOW must be below HIGH, and above 0 with :log")
            return Span(path, (low, high), log=bool(scale))
        choices = tuple(kind(value) for value in values.split(","))
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError("is no range and no choice")
    except ValueError as error:
        raise EmgscribeError(f"{text}: {error}", where="--search", hint=_FORM) from error
    return Span(path, choices, choice=True)


def changed(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with other values of the settings at these paths; `EmgscribeError` where one is not allowed."""
    data = to_json(experiment)
    for path, value in settings.items():
        *parts, name = path.split(".")
        place = data
        for part in parts:
            place = place[part]
        place[name] = value
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
    together, are not counted; a call ends when as many of them failed as it was to add. Returns the study's folder.
    Raises `EmgscribeError` where the study has other settings, another search or other data, where another process
    works on it, where its file cannot be used, and where no trial is finished.
    """
    require(trials >= 1, "trials", trials, "1 or more")
    optuna = optional("optuna", "tune")
    space, folder = spans(texts, experiment), runs.absolute() / "tune" / experiment.name
    split = split_sessions(data.absolute(), experiment.data)
    sessions = open_sessions(split.train + split.val)
    kind = "SIMULATED" if any(session.simulated for session in sessions) else "recorded"
    about = {"search": sorted(texts), "experiment": experiment, "data": data_hash(sessions)}
    with alone(folder, "works on this study"), _usable(optuna, folder / "study.db"):
        study = _study(optuna, folder, about)
        numbers: dict[str, int] = {}

        def orders() -> Iterator[Order]:
            for trial in _asked(optuna, study, trials, experiment.train.seed):
                settings = {span.path: span.suggest(trial) for span in space}
                digest = sha256(json.dumps(settings).encode()).hexdigest()[:8]
                try:
                    named = replace(changed(experiment, settings), name=f"tune/{experiment.name}/{digest}")
                except EmgscribeError as error:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    console.print(f"trial {trial.number}: not allowed ({error.what})", soft_wrap=True)
                    continue
                work = partial(train_experiment, named, split, runs=runs.absolute())
                order = Order(named, runs.absolute(), work, workers.threads)
                trial.set_user_attr("run", order.name)
                numbers[order.name] = trial.number
                yield order

        def done(order: Order, status: int) -> None:
            cer = None if status else progress(order.folder)[1]
            number = numbers[order.name]
            study.tell(number, cer, None if cer is not None else optuna.trial.TrialState.FAIL)
            console.print(f"trial {number}: " + ("failed" if cer is None else f"validation CER {cer:.2f} %"))

        launch(orders(), workers, done, console)
        if not _finished(study):
            hint = f"the runs' logs say why: {folder}/*.log"
            raise EmgscribeError("no trial is finished", where=str(folder), hint=hint)
        best = study.best_trial
        _draw(optuna, study, folder, f"validation CER, %, {kind} sessions")
    best_line = (
        f"best of {len(_finished(study))}: trial {best.number}, validation CER {best.value:.2f} %, {kind} sessions"
    )
    console.print(f"{best_line}\n{_command(base, changed(experiment, best.params), data)}", soft_wrap=True)
    return folder


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]


@contextmanager
def _usable(optuna: Any, path: Path) -> Iterator[None]:
    """Report whatever goes wrong with the study's file as one error that names it."""
    alchemy = optional("sqlalchemy.exc", "tune")
    try:
        yield
    except (sqlite3.Error, alchemy.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        fault: BaseException = error
        while fault.__cause__:
            fault = fault.__cause__
        hint = "free some disk space; to replace a damaged study, delete its folder or choose another with --runs"
        raise EmgscribeError(f"cannot be read or written ({fault})", where=str(path), hint=hint) from error


def _study(optuna: Any, folder: Path, about: Mapping[str, Any]) -> Any:
    """The study in `folder`, made if there is none; refused where it is about something else.

    Trials that an earlier call began and did not finish are queued again, with their settings.
    """
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
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    return study


def _asked(optuna: Any, study: Any, trials: int, seed: int) -> Iterator[Any]:
    """Trials until `trials` are finished or under way, or as many as this call was to add have failed."""
    begun = study.get_trials(deepcopy=False)
    allowed = len(begun) + 2 * (trials - len(_finished(study)))
    states = optuna.trial.TrialState
    while ((found := study.get_trials(deepcopy=False)) and len(found) < allowed) or not found:
        if sum(trial.state in (states.COMPLETE, states.RUNNING) for trial in found) >= trials:
            return
        # Each trial draws from a seed of its own: otherwise a resumed study would repeat the first trial's draws.
        drawn = sum("again" not in trial.user_attrs for trial in found)
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + drawn)
        yield study.ask()


def _draw(optuna: Any, study: Any, folder: Path, label: str) -> None:
    import matplotlib.pyplot as plt

    for name, plot in _PLOTS.items():
        with warnings.catch_warnings(), replacing(folder / f"{name}.png") as temporary:
            warnings.simplefilter("ignore")  # Optuna calls these plots experimental
            getattr(optuna.visualization.matplotlib, plot)(study, target_name=label)
            plt.gcf().savefig(temporary, dpi=110, bbox_inches="tight")
            plt.close()


def _command(base: Experiment, experiment: Experiment, data: Path) -> str:
    """The command line that trains the experiment, made from a named one."""
    words = ["emgscribe", "train", base.name, "--data", str(data)]
    named = dict(leaves(to_json(base)))
    for path, value in leaves(to_json(experiment)):
        owner, dot, name = path.replace("_", "-").rpartition(".")
        if named.get(path) != value:
            no = "no-" if value is False else ""
            values = [] if isinstance(value, bool) else value if isinstance(value, list | tuple) else [value]
            words += [f"--{owner}{dot}{no}{name}", *map(str, values)]
    return shlex.join(words)
