"""Sweeps: which settings of an experiment read validation best. What tests is not scored.

A study lies in `runs/tune/<experiment>/`: `study.db` holds every trial (Optuna, SQLite), `report.md` and `trials.png`
what came of them. A trial's number and the trials that ended before it decide its settings, and each trial is a run
with a checkpoint: a study that was cut off goes on where it was, and ends, one trial at a time, as one that was not.
"""

import csv
import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Console

from emgscribe.config import from_json, reads_as, require, to_json
from emgscribe.data.session import open_sessions
from emgscribe.data.splits import split_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.figures import draw_trials
from emgscribe.experiments.launch import Order, Workers, launch, optional
from emgscribe.experiments.named import Experiment
from emgscribe.experiments.results import leaves
from emgscribe.experiments.run import data_hash
from emgscribe.files import alone, replacing

_SEARCHED = ("model", "windows", "augment", "train")
_FORM = "PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=ONE,OTHER,...; for example train.lr=1e-4..3e-3:log"


@dataclass(frozen=True)
class Span:
    """Where one setting is searched: from the first of `values` to the second, or among all of them."""

    path: str
    values: tuple[Any, ...]
    choice: bool = False
    log: bool = False

    def __str__(self) -> str:
        if self.choice:
            return f"{self.path}={','.join(map(str, self.values))}"
        return f"{self.path}={self.values[0]}..{self.values[1]}" + (":log" if self.log else "")

    def suggest(self, trial: Any) -> Any:
        """The value that an Optuna trial takes; numbers with a fraction have three digits, so that they can be read."""
        if self.choice:
            return trial.suggest_categorical(self.path, self.values)
        low, high = self.values
        if isinstance(low, int):
            return trial.suggest_int(self.path, low, high, log=self.log)
        return min(max(float(f"{trial.suggest_float(self.path, low, high, log=self.log):.3g}"), low), high)


@dataclass(frozen=True)
class Outcome:
    """A trial that has ended: its settings by path, and its best validation CER (None where there is none).

    `refused` says why there was no run: these settings are not allowed beside each other.
    """

    number: int
    settings: Mapping[str, Any]
    cer: float | None
    refused: str = ""

    def __str__(self) -> str:
        return f"{self.cer:.2f} %" if self.cer is not None else "not allowed" if self.refused else "failed"


def spans(texts: Sequence[str], experiment: Experiment) -> tuple[Span, ...]:
    """What `--search` says: spans of settings of `experiment`, in the order of their paths.

    Raises `EmgscribeError` where a text has another form, names no setting or one twice, spans nothing, or allows a
    value that the experiment does not.
    """
    found = tuple(sorted((_span(text, experiment) for text in texts), key=lambda span: span.path))
    if len({span.path for span in found}) != len(found) or not found:
        raise EmgscribeError("no setting to search, or one of them twice", where="--search", hint=_FORM)
    for span in found:
        for value in span.values:
            try:
                changed(experiment, {span.path: value})
            except EmgscribeError as error:
                where = f"--search {span}"
                raise EmgscribeError(error.what, where=where, hint="search where all is allowed") from error
    return found


def _span(text: str, experiment: Experiment) -> Span:
    path, _, values = text.partition("=")
    path = path.removeprefix("--").replace("-", "_")
    kind = _kind(path, experiment)
    span, _, scale = values.partition(":")
    ends = span.split("..")
    try:
        if len(ends) == 2 and kind in (int, float) and scale in ("", "log"):
            low, high = (kind(end) for end in ends)
            if not low < high or (scale and low <= 0):
                raise EmgscribeError(
                    f"{text} spans nothing", where="--search", hint="LOW below HIGH; with :log above 0"
                )
            return Span(path, (low, high), log=bool(scale))
        if "," in values:
            choices = tuple(values.split(",") if kind is str else (kind(value) for value in values.split(",")))
            if len(set(choices)) == len(choices) and kind in (int, float, str):
                return Span(path, choices, choice=True)
    except ValueError as error:
        if isinstance(error, EmgscribeError):
            raise
        raise EmgscribeError(f"{text}: {error}", where="--search", hint=_FORM) from error
    raise EmgscribeError(f"{text} is no range and no choice", where="--search", hint=_FORM)


def _kind(path: str, experiment: Experiment) -> type:
    """The type of the setting at a path: int, float or str, which last is also said of a choice of words."""
    owner: Any = experiment
    kind: type = Experiment
    for depth, name in enumerate(path.split(".")):
        names = [part.name for part in fields(owner)] if is_dataclass(owner) else []
        names = [each for each in names if depth or each in _SEARCHED]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}" if names else "it has no parts"
            raise EmgscribeError(
                f"{path}: {experiment.name} has no setting {name!r} there", where="--search", hint=hint
            )
        kind, owner = get_type_hints(type(owner))[name], getattr(owner, name)
    if kind in (int, float):
        return kind
    require(isinstance(owner, str), path, owner, "to search: a number, or one of several words")
    return str


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


def tune(
    experiment: Experiment,
    data: Path,
    search: Sequence[str],
    *,
    base: Experiment,
    trials: int,
    runs: Path,
    workers: Workers,
    console: Console,
) -> Path:
    """Bring the experiment's study to so many trials, write its report and return that.

    `base` is the named experiment that this one was made from, by which the report tells the best trial as a command. A
    trial whose settings are not allowed beside each other counts as one that failed. Raises `EmgscribeError` where the
    study has other settings, another search or other data, where another process has it, where its file cannot be used,
    and where no trial has ended well.
    """
    require(trials >= 1, "trials", trials, "1 or more")
    optuna = optional("optuna", "sweep")
    space, folder = spans(search, experiment), runs / "tune" / experiment.name
    sessions = open_sessions([*(split := split_sessions(data, experiment.data)).train, *split.val])
    told = {"search": [*map(str, space)], "experiment": experiment, "data": data_hash(sessions)}
    with alone(folder, "works on this study"), _usable(optuna, folder / "study.db"):
        study = _study(optuna, folder, told)
        failed = optuna.trial.TrialState.FAIL

        def done(order: Order, status: int) -> None:
            number = int(order.experiment.name.rpartition("/")[2])
            cer = None if status else best_cer(order.runs / order.name)
            study.tell(number, cer, failed if cer is None else None)
            console.print(f"trial {number}: {Outcome(number, {}, cer)}", soft_wrap=True)

        def orders() -> Iterator[Order]:
            for number, trial in _trials(optuna, study, trials, experiment.train.seed):
                settings = {span.path: span.suggest(trial) for span in space}
                trial.set_user_attr("settings", settings)
                try:
                    named = replace(changed(experiment, settings), name=f"tune/{experiment.name}/{number}")
                except EmgscribeError as error:
                    trial.set_user_attr("refused", error.what)
                    study.tell(number, state=failed)
                    console.print(f"trial {number}: not allowed ({error.what})", soft_wrap=True)
                else:
                    yield Order(named, data, runs)

        launch(orders(), workers, done)
        ended = [Outcome(t.number, cer=t.value, **t.user_attrs) for t in study.trials if t.state.is_finished()]
    simulated = any(session.simulated for session in sessions)
    return report(experiment, space, ended, folder, base=base, data=data, simulated=simulated)


@contextmanager
def _usable(optuna: Any, path: Path) -> Iterator[None]:
    """Tell whatever goes wrong with the study's file as one error that names it."""
    storage = optional("sqlalchemy.exc", "sweep")
    try:
        yield
    except (storage.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        fault: BaseException = error
        while fault.__cause__:
            fault = fault.__cause__
        hint = "free some disk space; a damaged study begins anew with another --runs, or with its folder deleted"
        raise EmgscribeError(f"cannot be read or written ({fault})", where=str(path), hint=hint) from error


def _study(optuna: Any, folder: Path, told: Mapping[str, Any]) -> Any:
    """The study in `folder`, made if there is none; refused where it is about something else than `told`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", study_name="study", direction="minimize", load_if_exists=True
    )
    for name, value in told.items():
        if name in study.user_attrs and not reads_as(value, study.user_attrs[name]):
            hint = "give the study's own (report.md names its search), choose another folder with --runs, or delete it"
            raise EmgscribeError(f"holds a study with another {name}", where=str(folder), hint=hint)
        study.set_user_attr(name, to_json(value))
    return study


def _trials(optuna: Any, study: Any, trials: int, seed: int) -> Iterator[tuple[int, Any]]:
    """The trials that are left: first those that an earlier call began and did not end, with what they had drawn."""
    running = optuna.trial.TrialState.RUNNING
    begun = study.get_trials(deepcopy=False, states=(running,))
    # Each trial draws from a seed of its own: a sampler that goes on would begin again with the first trial's numbers.
    for trial in begun:
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + trial.number)
        yield trial.number, optuna.trial.Trial(study, trial._trial_id)
    while (number := len(study.get_trials(deepcopy=False))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + number)
        yield number, study.ask()


def best_cer(folder: Path) -> float | None:
    """The lowest validation CER of the run in a folder, from its curves; None where nothing was validated."""
    with (folder / "curves.csv").open(newline="") as file:
        return min((float(row["val_cer"]) for row in csv.DictReader(file) if row["val_cer"]), default=None)


def report(
    experiment: Experiment,
    space: Sequence[Span],
    ended: Sequence[Outcome],
    folder: Path,
    *,
    base: Experiment,
    data: Path,
    simulated: bool,
) -> Path:
    """Write `report.md`, `trials.png` and `trials.svg` to `folder`: the trials, and the best one as a command."""
    good = {trial.number: trial.cer for trial in ended if trial.cer is not None}
    if not good:
        raise _nothing(ended, folder)
    by_cer = sorted(ended, key=lambda trial: (trial.cer is None, trial.cer, trial.number))
    best = by_cer[0]
    kind = "SIMULATED" if simulated else "real"
    title = f"{experiment.name}: validation CER of {len(ended)} trials, {kind} sessions"
    draw_trials(
        good,
        {span.path: [trial.settings[span.path] for trial in ended if trial.number in good] for span in space},
        {span.path for span in space if span.log},
        title,
        folder / "trials",
    )
    lines = [
        f"# {title}",
        "",
        f"Searched: {', '.join(f'`{span}`' for span in space)}. Best: trial {best.number}, made by",
        "",
        "```",
        _command(base, changed(experiment, best.settings), data),
        "```",
        "",
        "The best of many trials looks better than it is on what it was chosen by; what it reads, its test says.",
        "",
        "![trials](trials.png)",
        "",
        " | ".join(["| trial | validation CER", *(s.path for s in space)]) + " |",
        "|---" * (2 + len(space)) + "|",
    ]
    for trial in by_cer:
        chosen = [str(trial.settings[span.path]) for span in space]
        lines.append(" | ".join([f"| {trial.number}", str(trial), *chosen]) + " |")
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "report.md"


def _nothing(ended: Sequence[Outcome], folder: Path) -> EmgscribeError:
    """Why there is nothing to report: no settings were allowed, or the runs failed."""
    if all(trial.refused for trial in ended):
        what = f"none of the settings of {len(ended)} trials is allowed, of the last: {ended[-1].refused}"
        return EmgscribeError(what, where="--search", hint="search where all is allowed, with another --runs")
    return EmgscribeError("no trial has ended well", where=str(folder), hint=f"the runs' logs say why: {folder}/*.log")


def _command(base: Experiment, experiment: Experiment, data: Path) -> str:
    """The command line that trains the experiment, made from a named one."""
    words = ["emgscribe", "train", base.name, "--data", str(data)]
    named = dict(leaves(to_json(base)))
    for path, value in leaves(to_json(experiment)):
        owner, dot, name = path.replace("_", "-").rpartition(".")
        if named.get(path) == value:
            continue
        if isinstance(value, bool):
            words.append(f"--{owner}{dot}{name if value else f'no-{name}'}")
        else:
            words += [f"--{owner}{dot}{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)
