"""Result files, read and checked: the runs of an experiment, whose seeds make one row of a table."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emgscribe.config import to_json
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import SessionScore
from emgscribe.experiments.suites import EXPERIMENTS
from emgscribe.files import read_json
from emgscribe.scoring import Counts, cer_interval, count, total

SIMULATED, REAL = "simulated", "real"
_LISTED = 3  # settings named in a row's label


@dataclass(frozen=True)
class Run:
    """One decoder's score in one result file."""

    path: Path
    name: str
    seed: int
    settings: dict[str, Any]
    kind: str
    data: str  # hash of all sessions, of training too
    commit: str
    curves: tuple[dict[str, float], ...]
    decoder: str
    unit: str
    sessions: tuple[SessionScore, ...]

    @property
    def counts(self) -> Counts:
        """Counts over all sessions."""
        return total([session.counts for session in self.sessions])

    @cached_property
    def changes(self) -> tuple[str, ...]:
        """The settings that differ from the experiment of this name as it is now, the seed aside.

        All of them where no experiment has this name. What a file leaves out was added since and is taken as named.
        """
        ours = dict(leaves(self.settings))
        known = EXPERIMENTS.get(self.name)
        named = dict(leaves(json.loads(json.dumps(to_json(known))))) if known else dict.fromkeys(ours)
        return tuple(
            f"{field} {value}"
            for field, value in ours.items()
            if field != "train.seed" and named.get(field, value) != value
        )


def leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each single setting in settings as JSON, as in ("train.lr", 0.001)."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


@dataclass(frozen=True)
class Row:
    """The runs of one experiment that differ in nothing but the seed.

    `apart` are changes that the label has to name, since another row would have the same label without them.
    """

    runs: tuple[Run, ...]
    apart: frozenset[str] = frozenset()

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common."""
        return self.runs[0]

    @property
    def label(self) -> str:
        """The experiment's name, and what was set otherwise on the command line."""
        changes = self.first.changes
        named = [change for place, change in enumerate(changes) if place < _LISTED or change in self.apart]
        more = [f"and {len(changes) - len(named)} more"] if len(changes) > len(named) else []
        return self.first.name + (f" ({', '.join([*named, *more])})" if changes else "")

    @cached_property
    def units(self) -> dict[tuple[str, str, int], Counts]:
        """Counts of each stretch, (session, its text, place in it), those of all seeds added."""
        found: dict[tuple[str, str, int], Counts] = {}
        for run in self.runs:
            for session in run.sessions:
                for place, unit in enumerate(session.units):
                    key = session.session, session.reference, place
                    found[key] = found.get(key, Counts()) + unit
        return found

    @property
    def cers(self) -> list[float]:
        """CER of each seed."""
        return [run.counts.cer for run in self.runs]

    @property
    def cer(self) -> float:
        """Mean over the seeds."""
        return sum(self.cers) / len(self.runs)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the CER over stretches, with the seeds of a stretch kept together."""
        return cer_interval(list(self.units.values()))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Reference and hypothesis of every session and seed."""
        return [(session.reference, session.hypothesis) for run in self.runs for session in run.sessions]

    @property
    def test_sessions(self) -> dict[str, list[Counts]]:
        """Session -> counts of its stretches, the seeds added."""
        found: dict[str, list[Counts]] = {}
        for (session, _, _), unit in self.units.items():
            found.setdefault(session, []).append(unit)
        return found


def read_results(folder: Path) -> list[Run]:
    """Every result file in a folder and those below it, one entry a decoder.

    Raises `EmgscribeError` where the folder holds none, and for the first file that is no whole result.
    """
    paths = [path for path in sorted(_json_files(folder)) if path != folder / "paper.json"]
    if not paths:
        raise EmgscribeError("no result files", where=str(folder), hint="emgscribe reproduce SUITE makes them")
    return [run for path in paths for run in read_result(path)]


def _json_files(folder: Path) -> Iterator[Path]:
    """The JSON files in a folder and those below it, but for hidden ones: another run is writing them, or died so."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if name.endswith(".json") and not name.startswith("."))


def read_result(path: Path) -> list[Run]:
    """The scores in one result file, one for each decoder; `EmgscribeError` where it is not whole and consistent."""
    record = read_json(path)
    try:
        runs = [_run(path, record, decoder, test) for decoder, test in record["test"].items()]
        if not runs:
            raise ValueError("its test names no decoder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        if isinstance(error, TypeError | AttributeError):
            fault = f"a field is of another type ({error})"
        hint = "run the experiment again (emgscribe reproduce), or move the file out of the results"
        raise EmgscribeError(f"is no whole result: {fault}", where=str(path), hint=hint) from error
    return runs


def _run(path: Path, record: dict[str, Any], decoder: str, test: dict[str, Any]) -> Run:
    kind = str(record["data"]["kind"])
    if kind not in (SIMULATED, REAL) or (test["simulated"] and kind == REAL):
        raise ValueError(f"its data are said to be {kind!r}, its test {'simulated' if test['simulated'] else 'real'}")
    run = Run(
        path=path,
        name=str(record["experiment"]["name"]),
        seed=int(record["seed"]),
        settings=record["experiment"],
        kind=kind,
        data=str(record["data"]["hash"]),
        commit=str(record.get("commit")),
        curves=tuple({name: float(value) for name, value in entry.items()} for entry in record["curves"]),
        decoder=decoder,
        unit=str(test["unit"]),
        sessions=tuple(_session(session) for session in test["sessions"]),
    )
    if not run.counts.length:
        raise ValueError("its test sessions have no character")
    if not abs(run.counts.cer - float(test["cer"])) < 1e-6:  # NaN does not fit either
        raise ValueError(f"its CER is {test['cer']}, its counts make {run.counts.cer}")
    return run


def _session(record: dict[str, Any]) -> SessionScore:
    units = tuple(Counts(int(i), int(d), int(s), int(length)) for i, d, s, length in record["units"])
    session = SessionScore(record["session"], record["user"], record["reference"], record["hypothesis"], units)
    fewest = count(session.reference, session.hypothesis).edits  # windows, aligned one by one, may need more
    if session.counts.length != len(session.reference) or session.counts.edits < fewest:
        raise ValueError(f"the counts of {session.session} do not fit its texts")
    return session
