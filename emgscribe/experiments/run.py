"""One experiment, from data to its result file: split, train, evaluate with every decoder, write."""

import csv
import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from emgscribe.config import to_json
from emgscribe.data.hdf5 import prompts_of
from emgscribe.data.session import Session, open_session, open_sessions
from emgscribe.data.shape import PUBLISHED_RATE
from emgscribe.data.splits import DataConfig, Split, first_minutes, shared_users, split_sessions
from emgscribe.decoding.language_model import LanguageModel, default_language_model
from emgscribe.decoding.registry import make_decoder
from emgscribe.decoding.tuning import load_tuned, tune_model
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import evaluate_all, evaluate_attention
from emgscribe.experiments.card import card
from emgscribe.experiments.recipes import EXPERIMENTS, Experiment, Simulated
from emgscribe.experiments.results import DataUsed, RunResult
from emgscribe.files import exclusive, replacing
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.model import load_ancestry

if TYPE_CHECKING:
    from emgscribe.training.run import Trained

_NAMED_VERSIONS = ("emgscribe", "torch", "lightning", "numpy")


def run_name(experiment: Experiment) -> str:
    """`<name>-<seed>`: the name of a run's folder and of its result."""
    return f"{experiment.name}-{experiment.train.seed}"


def result_path(experiment: Experiment, results: Path) -> Path:
    """Where an experiment's result is in the folder `results`."""
    return results / f"{run_name(experiment)}.json"


def stored_result(experiment: Experiment, results: Path, split: Split | None = None) -> RunResult | None:
    """The result that an experiment has in the folder `results`, None where it has none.

    Raises `EmgscribeError` where a result of this name has other settings or, with `split`, other test sessions.
    """
    path = result_path(experiment, results)
    if not path.exists():
        return None
    result = RunResult.read(path)
    result.check(path, experiment, open_sessions(split.test) if split else ())
    return result


def run_experiment(
    experiment: Experiment,
    data: Path | str,
    *,
    runs: Path | str = "runs",
    results: Path | str = "results",
    decoders: Sequence[str] = ("greedy",),
    lm: Path | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train, evaluate on the test sessions, write `results/<name>-<seed>.json` and the model's card.

    `data` is a folder of sessions, split by the experiment's protocol. An interrupted run continues from
    `runs/<name>-<seed>`; a finished one is only evaluated, greedily and with all `decoders` from the same emissions.
    Before that, the beam is tuned on the validation sessions, with the language model in the ARPA file `lm` or the
    default one. Scores of other decoders stay in a result if the greedy score has not changed. While another process
    works on this run, it waits. Raises what `stored_result` and `train_experiment` do.
    """
    from emgscribe.training.run import WORKING, current_commit  # Lightning takes seconds to load

    console = console or Console()
    _built_on(experiment, Path(runs))  # or it is refused before its folder is made
    split, folder = split_sessions(Path(data), experiment.data), Path(runs, run_name(experiment))
    if experiment.data.split and (users := shared_users(split)):
        shown = ", ".join(users[:5]) + ", ..." * (len(users) > 5)
        console.print(f"{len(users)} users are in both training and test: {shown}", soft_wrap=True)
    stored_result(experiment, Path(results), split)  # what cannot be replaced is refused before anything is waited for
    if not any(len(session.labels) for session in open_sessions(split.test)):
        what, where = "no test session has a usable key to score", ", ".join(path.stem for path in split.test)
        raise EmgscribeError(what, where=where, hint="test on sessions with keystrokes (emgscribe inspect)")
    with exclusive(folder, WORKING, lambda line: console.print(line, soft_wrap=True)):
        path, commit = result_path(experiment, Path(results)), current_commit()
        earlier = stored_result(experiment, Path(results), split)
        trained, (training, val, test) = train_experiment(experiment, split, runs=Path(runs), console=console)
        best, names = folder / "best", dict.fromkeys(("greedy", *decoders))
        if "beam" in names:
            unknown = prompts_of([*split.val, *split.test])  # to the default model, which must not have read them
            words = LanguageModel.read(lm) if lm else default_language_model(exclude=unknown)
            tuned = load_tuned(best)
            if tuned is None or tuned.language_model != words.digest:
                console.print(f"tuning the beam on {', '.join(session.name for session in val)}", soft_wrap=True)
                tune_model(best, trained.model.ancestry, val, map(trained.model.log_probs, val), words)
        made = {name: make_decoder(name, folder=best, scored=test) for name in names}
        scores = evaluate_all(trained.model, test, made)
        if trained.model.attention is not None:
            scores["attention"] = evaluate_attention(
                trained.model, test, seconds=experiment.windows.length / PUBLISHED_RATE
            )
        settings = {name: one.settings for name, one in made.items() if one.settings}
        if earlier and earlier.test["greedy"].to_json() == scores["greedy"].to_json():
            scores, settings = earlier.test | scores, earlier.settings | settings
        result = RunResult(
            experiment=to_json(experiment),
            seed=experiment.train.seed,
            data=DataUsed.of(split.protocol, training, val, test),
            commit=", ".join(dict.fromkeys([*trained.commits, commit])),  # of what trained, and of what tested
            versions={"python": platform.python_version(), **{name: version(name) for name in _NAMED_VERSIONS}},
            device=trained.device,
            machine=platform.machine(),
            precision=trained.precision,
            seconds=round(trained.seconds, 1),
            curves=trained.curves,
            test=scores,
            settings=settings,
        )
        result.write(path)
        with replacing(best / "README.md") as temporary:
            temporary.write_text(card(result, trained.model, (training, val, test)), encoding="utf-8")
        return result


def train_experiment(
    experiment: Experiment, split: Split, *, runs: Path, console: Console
) -> tuple["Trained", tuple[list[Session], ...]]:
    """Train without testing, or continue an interrupted run; returns the outcome, and the sessions of each part.

    Raises `EmgscribeError`, before training, where the experiment needs a model that is not in `runs` yet, or one that
    was trained on a test session or on a user that must be unseen.
    """
    from emgscribe.training.run import average, train

    training, val, test = map(open_sessions, (split.train, split.val, split.test))
    training, val = _labelled(first_minutes(training, experiment.data.minutes), console), _labelled(val, console)
    sizes = f"{len(training)} sessions to train on, {len(val)} to validate, {len(test)} to test"
    console.print(f"{sizes} (protocol {split.protocol})", soft_wrap=True)
    (starts, teachers), ancestry, folder = _built_on(experiment, runs), Ancestry(), runs / run_name(experiment)
    for model in (*starts, *teachers):
        ancestry = ancestry.joined(load_ancestry(model))
    # If no user is in both parts, the test is of unseen users: the model's ancestors must not have seen them either.
    unseen = not {session.user for session in training} & {session.user for session in test}
    ancestry.after(training, val).refuse(test, unseen_users=unseen)
    if not experiment.trains:
        return average(starts, folder), (training, val, test)
    start = next(iter(starts), None)
    trained = train(experiment, training, val, out=folder, start=start, teachers=teachers, console=console)
    return trained, (training, val, test)


def _built_on(experiment: Experiment, runs: Path) -> tuple[list[Path], list[Path]]:
    """The folders of the models that an experiment starts from, and of its teachers.

    Raises `EmgscribeError` where one has not been trained.
    """
    starts = int(experiment.start != "") if experiment.trains else experiment.ensemble
    return (
        _models(experiment, experiment.start, starts, runs),
        _models(experiment, experiment.teacher, experiment.teachers, runs),
    )


def _models(experiment: Experiment, name: str, seeds: int, runs: Path) -> list[Path]:
    found = list[Path]()
    for seed in range(experiment.train.seed, experiment.train.seed + seeds):
        one = replace(experiment, name=name, train=replace(experiment.train, seed=seed))
        found.append(model := runs / run_name(one) / "best")
        if not model.exists():
            what = f"{experiment.name} needs {name}, which has not been trained with seed {seed}"
            hint = f"emgscribe train {name} first, with the same --runs and --train.seed {seed}"
            if name not in EXPERIMENTS:
                hint = "name an experiment (emgscribe train lists them); emgscribe adapt fine-tunes any model"
            raise EmgscribeError(what, where=str(model), hint=hint)
    return found


def _labelled(sessions: Iterable[Session], console: Console) -> list[Session]:
    """Without those in which no key is known: they would teach that typing is silence."""
    found = list[Session]()
    for session in sessions:
        if len(session.labels):
            found.append(session)
        else:
            console.print(f"{session.name} has no key with a label, and is left out", soft_wrap=True)
    return found


def missing(
    suite: Sequence[Experiment], results: Path, data: Path | None = None, decoders: Sequence[str] = ()
) -> list[Experiment]:
    """The experiments of a suite that have no result by all of `decoders` yet; those that build on another one last.

    Raises `EmgscribeError` where a result was made with other settings or, with the folder `data`, on other sessions.
    """
    split = cache(partial(split_sessions, data)) if data is not None else lambda _: None

    def done(experiment: Experiment) -> bool:
        result = stored_result(experiment, results, split(experiment.data))
        return result is not None and set(decoders) <= result.test.keys()

    return sorted((one for one in suite if not done(one)), key=lambda experiment: experiment.depends)


def progress(folder: Path) -> tuple[int, float | None]:
    """Epochs that the run in a folder has done, and its lowest validation CER so far in per cent."""
    try:
        with (folder / "curves.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return len(rows), min((float(row["val_cer"]) for row in rows if row.get("val_cer")), default=None)
    except (FileNotFoundError, NotADirectoryError, ValueError, csv.Error):  # or damaged: the next epoch writes it again
        return 0, None


@dataclass(frozen=True)
class Planned:
    """A run of a suite: whether it has a result, was cut off or is missing, and an estimate of the seconds left."""

    name: str
    state: Literal["done", "cut off", "missing"]
    seconds: float


def plan(
    suite: Sequence[Experiment], data: Path | Simulated, *, runs: Path, results: Path, decoders: Sequence[str] = ()
) -> Iterator[Planned]:
    """The runs of a suite in order. Recipes that differ only in the seed or in augmentation, which takes a few per cent
    of a step, are timed once, with a few steps.

    Sessions that are not simulated yet are given as `Simulated`. Nothing is kept. Raises what `missing` does.
    """
    from emgscribe.training.run import estimate_seconds

    left = missing(suite, results, data if isinstance(data, Path) else None, decoders)
    minute = cache(_simulated_minute)
    measured: dict[object, float] = {}
    for experiment in suite:
        name, train = run_name(experiment), replace(experiment.train, seed=0)
        if experiment not in left:
            yield Planned(name, "done", 0.0)
            continue
        kind = (experiment.model, experiment.windows, experiment.data, train, experiment.teachers)
        if kind not in measured and experiment.trains:
            used = experiment.data
            sessions = _as_long(data, used) if isinstance(data, Path) else _as_long_simulated(data, minute(), used)
            measured[kind] = estimate_seconds(experiment, *sessions, teachers=experiment.teachers)
        seconds = measured[kind] if experiment.trains else 0.0
        state: Literal["cut off", "missing"] = "cut off" if (runs / name / "last.ckpt").exists() else "missing"
        yield Planned(name, state, seconds * (1 - progress(runs / name)[0] / experiment.train.epochs))


def _as_long(data: Path, used: DataConfig) -> Iterator[list[Session]]:
    """About as much data to train and validate on: the first session of each, repeated, so only two are opened."""
    _, *parts, _ = split_sessions(data, used)
    sizes = [[path.stat().st_size for path in part] for part in parts]
    train, val = open_sessions([part[0] for part in parts])
    times = [round(sum(part) / part[0]) for part in sizes]
    limit = math.ceil(used.minutes / train.minutes) if used.minutes else times[0]
    yield [train] * min(times[0], limit)
    yield [val] * times[1]


def _as_long_simulated(data: Simulated, minute: Session, used: DataConfig) -> Iterator[list[Session]]:
    """The same for sessions that are not simulated yet: one simulated minute, repeated."""
    users = len(used.train_users) or data.users
    trained = users * min(data.sessions - 1 - used.test_sessions, used.sessions or data.sessions) * data.minutes
    yield [minute] * math.ceil(min(trained, used.minutes or trained))
    yield [minute] * round(users * data.minutes)


def _simulated_minute() -> Session:
    from emgscribe.simulation.sessions import simulate_session

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        simulate_session(path := Path(folder, "minute.hdf5"), user=0, session=0, minutes=1.0, seed=0)
        return open_session(path)
