"""Result files, which only `RunResult` writes and reads, and the rows of tables that are made from them."""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from glob import glob
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from emgscribe.config import differences, from_json, leaves, reads_as, to_json
from emgscribe.data.charset import SYMBOLS
from emgscribe.data.session import Session, how_simulated
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Evaluation, SessionScore
from emgscribe.experiments.recipes import EXPERIMENTS, Experiment
from emgscribe.files import read_json, write_json
from emgscribe.scoring import Counts, Resampled, errors_at, percentile_interval, resampled_cers

_FEW = 5  # changed settings, with which an experiment still is a variant of another
_MAX_VALUE = 1e12  # beyond any loss or rate; larger ones cannot be drawn
SIMULATED, REAL_KEYS, REAL = "simulated", "real-keys", "real"  # the second: only the EMG is simulated


@dataclass(frozen=True)
class DataUsed:
    """The sessions of a run by part and name, a hash over all of them, and the content of those that were tested."""

    kind: str
    hash: str
    protocol: str = ""  # latest where the experiment's is a published one, and simulated sessions were split by date
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    contents: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, protocol: str, *parts: Sequence[Session]) -> "DataUsed":
        """The data of a run that has these sessions to train, validate and test."""
        every = [session for part in parts for session in part]
        simulated, real_keys = how_simulated(every)
        kind = (REAL_KEYS if real_keys else SIMULATED) if simulated else REAL
        train, val, test = (tuple(session.name for session in part) for part in parts)
        contents = {session.name: session.content for session in parts[-1]}
        return cls(kind, data_hash(every), protocol, train, val, test, contents)


@dataclass(frozen=True, eq=False)
class RunResult:
    """One finished run: its experiment as JSON, its data, how it was trained, and what each decoder read.

    `settings` are those of each decoder that has any, such as the beam's tuned weights.
    """

    experiment: dict[str, Any]
    seed: int
    data: DataUsed
    commit: str
    versions: dict[str, str]
    device: str
    machine: str
    precision: str
    seconds: float
    curves: list[dict[str, float]]
    test: dict[str, Evaluation]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        scores = ", ".join(f"{decoder} CER {test.cer:.2f} %" for decoder, test in self.test.items())
        return f"<RunResult of {self.name}, seed {self.seed}, {self.data.kind} sessions: {scores}>"

    @property
    def name(self) -> str:
        return str(self.experiment["name"])

    @cached_property
    def base(self) -> str:
        """The named experiment that this one is or, with up to five values changed, was made from; empty: none."""
        if self.name in EXPERIMENTS:
            return self.name
        apart = {name: self._apart(name) for name in EXPERIMENTS}
        near = (name for name, changes in apart.items() if len(changes) <= _FEW and not other_parts(changes))
        return min(near, key=lambda name: len(apart[name]), default="")

    @cached_property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from the experiment `base` as it is now, apart from the seed; all, where it is none.

        A setting that the file lacks is newer, and counts as unchanged.
        """
        return self._apart(self.base)

    @property
    def changes(self) -> tuple[str, ...]:
        """`changed` as texts."""
        return tuple(f"{path} {value}" for path, value in self.changed.items())

    def _apart(self, name: str) -> dict[str, Any]:
        ours = dict(leaves(self.experiment))
        named = _settings_of(EXPERIMENTS[name]) if name else dict.fromkeys(ours)
        differ = (path for path, value in ours.items() if named.get(path, value) != value)
        return {path: ours[path] for path in differ if path not in ("name", "train.seed")}

    @property
    def noted(self) -> tuple[str, ...]:
        """The `changes` of a named experiment, after its name where this one has another."""
        renamed = (self.base,) * (self.base not in ("", self.name))
        return renamed + self.changes if self.base else ()

    def check(self, path: Path, experiment: Experiment, tested: Sequence[Session] = ()) -> None:
        """Refuse the result at `path` if it is not of `experiment` or of these sessions, by name and content."""
        hint = "move it away, or choose another folder with --results"
        if not reads_as(experiment, self.experiment):
            found = differences(self.experiment, to_json(experiment))
            what = f"is of an experiment of this name with other settings: {found}"
            raise EmgscribeError(what, where=str(path), hint=f"name this variant with --name, {hint}")
        now = {session.name: session.content for session in tested}
        then = self.data.contents or dict.fromkeys(self.data.test)
        if now and (now.keys() != then.keys() or any(then[name] not in (None, now[name]) for name in now)):
            raise EmgscribeError("is of this experiment on other sessions", where=str(path), hint=hint)

    def write(self, path: Path | str) -> None:
        content = {part.name: getattr(self, part.name) for part in fields(self)} | {"data": asdict(self.data)}
        settings = {decoder: {"settings": of} for decoder, of in content.pop("settings").items()}
        content["test"] = {name: test.to_json() | settings.get(name, {}) for name, test in self.test.items()}
        write_json(Path(path), content)

    @classmethod
    def read(cls, path: Path | str) -> "RunResult":
        """Read a result file; one that is not complete and consistent raises `EmgscribeError`."""
        content = read_json(Path(path))
        try:
            tests = content["test"].items()
            parts = {part.name: content[part.name] for part in fields(cls) if part.name != "settings"} | {
                "data": from_json(DataUsed, content["data"], where=""),
                "curves": [{name: float(value) for name, value in entry.items()} for entry in content["curves"]],
                "test": {decoder: Evaluation.from_json(test) for decoder, test in tests},
                "settings": {decoder: test["settings"] for decoder, test in tests if "settings" in test},
            }
            return cls(**parts)._checked()
        except (ArithmeticError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            other = isinstance(error, TypeError | AttributeError)
            fault = f"a field has the wrong type ({error})" if other else getattr(error, "what", str(error))
            fault = f"{error} is missing" if isinstance(error, KeyError) else fault
            hint = "move it out of the results, and run the experiment again"
            raise EmgscribeError(f"is not a complete result: {fault}", where=str(path), hint=hint) from error

    def _checked(self) -> "RunResult":
        if not self.test or not self.name:
            raise ValueError("its test names no decoder, or its experiment has no name")
        if type(self.seed) is not int or any("epoch" not in line for line in self.curves):
            raise ValueError("its seed is not a whole number, or its curves name no epoch")
        if not all(abs(value) < _MAX_VALUE for line in self.curves for value in line.values()):
            raise ValueError("its curves hold numbers that no run has")
        for test in self.test.values():
            if self.data.kind not in (SIMULATED, REAL_KEYS, REAL) or (test.simulated and self.data.kind == REAL):
                raise ValueError(f"its data are {self.data.kind!r}, its test {SIMULATED if test.simulated else REAL}")
            if not test.counts.length:
                raise ValueError("its test sessions have no character")
            if foreign := {*"".join(score.reference + score.hypothesis for score in test.sessions)} - set(SYMBOLS):
                raise ValueError(f"its texts hold what is not a symbol: {sorted(foreign)!r:.80}")
        return self


def extent(sessions: int, people: int) -> str:
    """Such as "2 sessions of 1 person"."""
    return f"{sessions} session{'s' * (sessions != 1)} of {people} {'person' if people == 1 else 'people'}"


def other_parts(paths: Iterable[str]) -> bool:
    """Whether changed settings go beyond other values: another kind of network, or custom augmentations."""
    return any(path.endswith(".kind") or path == "augment.more" for path in paths)


@cache
def _settings_of(experiment: Experiment) -> dict[str, Any]:
    """The settings of an experiment, by path."""
    return dict(leaves(json.loads(json.dumps(to_json(experiment)))))


def data_hash(sessions: Sequence[Session]) -> str:
    """One hash over what is in the sessions, whatever their order: names, samples, labels and onsets."""
    parts = sorted(f"{session.name} {session.content}" for session in sessions)
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_results(folder: Path | str, warn: Callable[[str], object] = warnings.warn) -> list[RunResult]:
    """Every result in a folder and those below it. A file that holds none is named in a warning, and left out.

    Raises `EmgscribeError` where there is no result. Hidden files and folders are those that another run is writing.
    """
    found, faults = list[RunResult](), list[EmgscribeError]()
    names = sorted(name for name in glob("**/*.json", root_dir=folder, recursive=True) if name != "paper.json")
    if not names:
        raise EmgscribeError("no result files", where=str(folder), hint="emgscribe reproduce SUITE makes them")
    for name in names:
        try:
            found.append(RunResult.read(Path(folder, name)))
        except EmgscribeError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    for fault in faults:
        warn(f"left out: {fault}")
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """What one decoder read in the test sessions of a run, or in some of them."""

    run: RunResult
    decoder: str
    sessions: tuple[SessionScore, ...]


@dataclass(frozen=True, repr=False)
class Row:
    """Runs that differ in nothing but the seed or, with `over_users`, the user; `name` is what they have in common.

    `tested` says on what, where the same experiment was tested on several data sets.
    """

    name: str
    scores: tuple[Score, ...]
    over_users: bool = False
    tested: str = ""

    def __repr__(self) -> str:
        return f"<Row {self.label}, {self.decoder}: CER {self.cer:.2f} %>"

    @property
    def run(self) -> RunResult:
        return self.scores[0].run

    @property
    def decoder(self) -> str:
        return self.scores[0].decoder

    @property
    def evaluation(self) -> Evaluation:
        return self.run.test[self.decoder]

    @property
    def sessions(self) -> list[SessionScore]:
        return [session for score in self.scores for session in score.sessions]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The reference and what was read of each session, of every seed."""
        return [(session.reference, session.hypothesis) for session in self.sessions]

    @property
    def label(self) -> str:
        """The name, and what was set differently on the command line, if the name is that of an experiment."""
        notes = [*self.run.noted, *[self.tested] * bool(self.tested), *["seen in training"] * self.evaluation.seen]
        return self.name + (f" ({', '.join(notes)})" if notes else "")

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader should know before relying on the CER, in words."""
        runs = [score.run for score in self.scores]
        tests = [run.test[self.decoder] for run in runs]
        found = {
            "one training run": len({run.seed for run in runs}) == 1,
            "decoded in windows": any("windows" in test.protocol + test.passes for test in tests),
            "seen in training": any(test.seen for test in tests),
            "changed settings": any(run.base and run.changes for run in runs),
            "uncommitted code": any("-dirty" in run.commit for run in runs),
            "unknown commit": any("unknown" in run.commit for run in runs),
        }
        return tuple(doubt for doubt, holds in found.items() if holds)

    @cached_property
    def units(self) -> dict[tuple[str, str, int], Counts]:
        """Counts of each segment, by (session, its text, place in it), those of all seeds added."""
        found: dict[tuple[str, str, int], Counts] = defaultdict(Counts)
        for session in self.sessions:
            for place, unit in enumerate(session.units):
                found[session.session, session.reference, place] += unit
        return found

    def pairs_with(self, other: "Row") -> bool:
        """Whether the other row was tested on the same segments of the same texts."""
        return self.evaluation.unit == other.evaluation.unit and self.units.keys() == other.units.keys()

    @cached_property
    def errors(self) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Edits at each character of each session's text (`errors_at`), by session and text; the mean over seeds."""
        found: dict[tuple[str, str], list[npt.NDArray[np.float64]]] = defaultdict(list)
        for session in self.sessions:
            made = errors_at(session.reference, session.hypothesis)
            found[session.session, session.reference].append(made)
        return {key: np.mean(made, axis=0) for key, made in found.items()}

    @cached_property
    def cers(self) -> dict[str, float]:
        """CER of each seed, or of each user."""
        found: dict[str, Counts] = defaultdict(Counts)
        for score in self.scores:
            for session in score.sessions:
                found[session.user if self.over_users else str(score.run.seed)] += session.counts
        return {key: found[key].cer for key in (sorted(found) if self.over_users else found)}

    @property
    def cer(self) -> float:
        return mean(self.cers.values())

    def resampled(self, segments: Iterable[tuple[str, str, int]]) -> Resampled:
        """CERs of resamples of these segments, which are keys of `units`: of users, the mean over them."""
        users = {session.session: session.user for session in self.sessions} if self.over_users else {}
        groups: dict[str, list[Counts]] = defaultdict(list)
        for segment in segments:
            groups[users.get(segment[0], "")].append(self.units[segment])
        return resampled_cers(*(groups.values() or [()]))

    @cached_property
    def interval(self) -> tuple[float, float]:
        return percentile_interval(self.resampled(self.units))
