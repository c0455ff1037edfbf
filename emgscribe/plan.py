"""What a suite has left to run, and about how long that takes: a few steps are measured, and nothing is kept."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from emgscribe.config import DataConfig
from emgscribe.experiments import Experiment
from emgscribe.launch import missing
from emgscribe.runs import run_name
from emgscribe.session import SAMPLE_RATE, Session
from emgscribe.splits import split_sessions
from emgscribe.store import StoredSession, open_sessions
from emgscribe.suites import Simulated
from emgscribe.synthetic import synthesize_session
from emgscribe.train import seconds_for

_MEASURED_MINUTES = 4.0  # of a simulated session, to take steps on


@dataclass(frozen=True)
class Planned:
    """A run of a suite: whether it has a result, was cut off or is to begin, and about how many seconds are left."""

    name: str
    state: Literal["done", "cut off", "missing"]
    seconds: float


def plan(suite: Sequence[Experiment], data: Path | Simulated, *, runs: Path, results: Path) -> Iterator[Planned]:
    """The runs of a suite in order, each estimated from steps on the first sessions of the folder `data`.

    Where those are not made yet, `data` says which will be, and the steps are on a session that is simulated for them.
    Experiments that differ in nothing but the seed are measured once. Raises `EmgscribeError` as `run_suite` does.
    """
    left = missing(suite, results, data if isinstance(data, Path) else None)
    measured: dict[Experiment, float] = {}
    with TemporaryDirectory() as folder:
        for experiment in suite:
            name = run_name(experiment)
            if experiment not in left:
                yield Planned(name, "done", 0.0)
                continue
            kind = replace(experiment, name="", train=replace(experiment.train, seed=0))
            if kind not in measured:
                measured[kind] = _seconds(kind, data, Path(folder))
            seconds = measured[kind] * (1 - _epochs(runs / name) / experiment.train.epochs)
            yield Planned(name, "cut off" if (runs / name / "last.ckpt").exists() else "missing", seconds)


def _epochs(folder: Path) -> int:
    """How many epochs the run in a folder has behind it."""
    try:
        with (folder / "curves.csv").open(newline="") as file:
            return len(list(csv.DictReader(file)))
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _seconds(experiment: Experiment, data: Path | Simulated, folder: Path) -> float:
    """About how long an experiment trains, in seconds: on one session over and over, as long as what there is to read.

    What has to be written for that goes to `folder`.
    """
    if isinstance(data, Simulated):
        train = val = folder / "simulated.hdf5"
        if not train.exists():
            synthesize_session(train, user=0, session=0, minutes=_MEASURED_MINUTES, seed=0)
        trains, validates = _minutes_used(data, experiment.data)
    else:
        split = split_sessions(data, experiment.data)
        train, val = split.train[0], split.val[0]
        trains, validates = _minutes(split.train), _minutes(split.val)
    trains = min(trains, experiment.data.minutes or trains)
    one, other = open_sessions([train, val], folder / "cache")
    return seconds_for(experiment, train_sessions=_repeated(one, trains), val_sessions=_repeated(other, validates))


def _minutes_used(made: Simulated, data: DataConfig) -> tuple[float, float]:
    """Minutes that train and minutes that validate, of the sessions that are `made`."""
    users = len(data.train_users) or made.users
    sessions = min(made.sessions - 2, data.sessions or made.sessions)
    return users * sessions * made.minutes, users * made.minutes


def _minutes(paths: Sequence[Path]) -> float:
    total = 0
    for path in paths:
        with Session(path) as session:
            total += len(session)
    return total / SAMPLE_RATE / 60


def _repeated(session: StoredSession, minutes: float) -> list[StoredSession]:
    """So many minutes of a session that begins again when it ends."""
    times, rest = divmod(round(minutes * 60 * SAMPLE_RATE), len(session))
    return [session] * times + ([session.first(rest)] if rest else [])
