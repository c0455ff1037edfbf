"""What is wrong with session files: every fault that would disturb training.

`scan` also runs when a session is opened for the first time, so that both refuse the same files.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import symbol_of_key
from emgscribe.data.hdf5 import LARGEST, SessionFile, SessionHeader, Times, session_files
from emgscribe.errors import EmgscribeError

_GAP = 10  # sample periods between two samples that count as a gap
_FEW = 100  # steps from sample to sample, below which they do not give a rate
_INTERRUPTED = 60.0  # s between two samples, above which the second belongs to another recording


class Finding(NamedTuple):
    """One fault: `severity` "error" (the session cannot be used) or "warning", the `field` it is in, and what it is."""

    severity: str
    field: str
    message: str


@dataclass(repr=False)
class Inspection:
    """What a file holds, and everything that is wrong with it."""

    path: str
    summary: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def __repr__(self) -> str:
        return "\n  ".join([f"{self.path}: {'not ' * (not self.usable)}usable", *map(": ".join, self.findings)])

    @property
    def usable(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def add(self, field: str, message: str, severity: str = "warning") -> None:
        """Add a fault."""
        self.findings.append(Finding(severity, field, message))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return {**vars(self), "findings": [finding._asdict() for finding in self.findings], "usable": self.usable}


def inspect(paths: Path | str | Iterable[Path | str]) -> list[Inspection]:
    """Check one or many session files; a folder stands for its session files.

    A fault is a finding, never an exception. Only a folder without session files raises `EmgscribeError`.
    """
    given = [paths] if isinstance(paths, Path | str) else paths
    inspections = []
    for path in session_files(given):
        inspections.append(found := Inspection(str(path)))
        try:
            with SessionFile(path) as file:
                times, _ = scan(file, found)
                _check_header(file.header, times, found)
        except EmgscribeError as error:
            found.add("file", error.what, "error")
    return inspections


def scan(file: SessionFile, found: Inspection) -> tuple[Times, "hashlib._Hash"]:
    """Read all samples once, block by block, and add what is wrong to `found`.

    Returns the samples' times (T,) and a SHA-256 of the EMG. Raises `EmgscribeError` where they cannot be read.
    """
    seconds, content = [], hashlib.sha256()
    (_, first), unusable = file.read(0, 1), np.zeros(len(file.shape.bands), dtype=int)
    unchanged = np.ones(first.shape[1:], dtype=bool)  # electrodes that still have their first value
    for block, emg in file.blocks():
        content.update(emg.data)
        seconds.append(block)
        if not -LARGEST <= emg.min() <= emg.max() <= LARGEST:  # NaN is not
            unusable += (~(np.abs(emg) <= LARGEST).all(axis=2)).sum(axis=0)
        if unchanged.any():
            unchanged &= (emg == first).all(axis=0)
    found.summary |= {"samples": len(file), "shape": str(file.shape)}
    if (size := file.layout.row_bytes) != file.shape.row.itemsize:
        found.add("timeseries", f"{size} bytes a sample, expected {file.shape.row.itemsize}")
    if not seconds:
        found.add("timeseries", "the session has no samples", "error")
        return np.empty(0), content
    for name, count in zip(file.shape.fields, unusable, strict=True):
        if count:
            found.add(name, f"{count} of {len(file)} samples are not finite, or too large for EMG in any unit", "error")
    _check_electrodes(file.shape.fields, unchanged & (len(file) > 1), found)
    with np.errstate(all="ignore"):  # times may be anything
        _check_times(times := np.concatenate(seconds), file.shape.rate, found)
    return times, content


def _check_electrodes(names: tuple[str, ...], unchanged: npt.NDArray[np.bool_], found: Inspection) -> None:
    if unchanged.all():
        found.add("timeseries", "no electrode channel ever changes", "error")
        return
    for name, electrodes in zip(names, unchanged, strict=True):
        if electrodes.any():
            found.add(name, f"electrode channels {np.flatnonzero(electrodes).tolist()} never change")


def _check_times(times: Times, expected: float, found: Inspection) -> None:
    if count := np.sum(~np.isfinite(times)):
        found.add("time", f"{count} of {len(times)} samples are not finite", "error")
        return
    steps = np.diff(times)
    if backwards := np.sum(steps < 0):
        found.add("time", f"time runs backwards ({backwards}x)", "error")
    if (longest := steps.max(initial=0)) > _INTERRUPTED:
        found.add("time", "a gap of more than a minute: these are several recordings", "error")
    elif gaps := np.sum(steps > _GAP / expected):
        found.add("time", f"gaps ({gaps}x), the longest {longest:.3f} s")
    if len(steps):
        rate = len(steps) / (times[-1] - times[0])
        if np.isfinite(rate):
            found.summary["sample_rate"] = round(float(rate), 2)
        if not abs(rate - expected) <= 0.02 * expected:
            # Gaps alone leave the usual step as it is; another rate would be taken for faster or slower muscles.
            usual = len(steps) < _FEW or abs(np.median(steps) * expected - 1) <= 0.02
            what = f"{rate:.6g} samples a second, expected {expected:g} (attribute sample_rate; without it, 2000)"
            found.add("time", what, "warning" if usual else "error")


def _check_header(header: SessionHeader, times: Times, found: Inspection) -> None:
    unknown = Counter(k.key for k in header.keystrokes if symbol_of_key(k.key) is None)
    found.summary |= {
        "session": header.name,
        "user": header.user,
        "condition": header.condition,
        "duration_mins": header.duration_mins if np.isfinite(header.duration_mins) else None,
        "simulated": bool(header.simulation),
        "real_keys": header.real_keys,
        "keystrokes": len(header.keystrokes),
        "prompts": len(header.prompts),
        "unknown_keys": dict(unknown),
        "text": header.text[:200],
    }
    named = ", ".join(f"{key[:20]} x{number}" for key, number in unknown.most_common(8))
    starts, ends = (np.array([getattr(k, name) for k in header.keystrokes]) for name in ("start", "end"))
    first, last = (times[0], times[-1]) if len(times) else (-np.inf, np.inf)
    for fault, count in {
        f"are of keys without a symbol and are ignored: {named}": unknown.total(),
        "do not end after they start": np.sum(~(ends >= starts)),
        "start before their predecessors; keystrokes are sorted when read": np.sum(starts[1:] < starts[:-1]),
        "lie outside the recording and are ignored": np.sum(~((starts >= first) & (starts <= last))),
    }.items():
        if count:
            found.add("keystrokes", f"{count} of {len(starts)} {fault}")
    if not header.labelled_keystrokes(first, last):
        found.add("keystrokes", "none has a label: the session can be transcribed, but not trained on or scored")
    with np.errstate(over="ignore"):
        minutes = float(last - first) / 60
    if not abs(minutes - header.duration_mins) <= 0.05 * max(minutes, 0.2):  # NaN is a fault too
        found.add("duration_mins", f"says {header.duration_mins:.4g}, the samples span {minutes:.4g}")
