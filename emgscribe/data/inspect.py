"""What is wrong with a session file: every fault that would surprise training, each named, none a traceback."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import symbol_of_key
from emgscribe.data.hdf5 import (
    BANDS,
    CHANNELS,
    SAMPLE_DTYPE,
    SAMPLE_RATE,
    SessionHeader,
    open_file,
    read_header,
    sample_rows,
    stack_bands,
)
from emgscribe.errors import EmgscribeError

_BLOCK = 1 << 17  # rows: 18 MB
_GAP = 0.005  # s without a sample that is called a gap: ten sample periods


@dataclass(frozen=True)
class Finding:
    """One fault: `severity` "error" (the session cannot be used) or "warning", the `field` it is in, and what it is."""

    severity: str
    field: str
    message: str


@dataclass
class Inspection:
    """The summary of a file and all that is wrong with it. Filled by `inspect_session`."""

    path: str
    summary: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def error(self, field: str, message: str) -> None:
        """Note a fault that makes the session unusable."""
        self.findings.append(Finding("error", field, message))

    def warn(self, field: str, message: str) -> None:
        """Note a fault that one should know of."""
        self.findings.append(Finding("warning", field, message))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return {**asdict(self), "usable": self.usable}


def inspect_session(path: Path) -> Inspection:
    """Check one file. A fault, even of the whole file, is a finding, never an exception."""
    inspection = Inspection(str(path))
    try:
        file = open_file(path)
    except EmgscribeError as error:
        inspection.error("file", error.what)
        return inspection
    with file:
        header, span = None, None
        try:
            group, rows = sample_rows(file, path)
        except EmgscribeError as error:
            inspection.error("timeseries", error.what)
            return inspection
        try:
            header = read_header(group, path)
        except EmgscribeError as error:
            inspection.error("attributes", error.what)
        span = _check_samples(rows, inspection)
        if header is not None:
            _check_header(header, span, inspection)
    return inspection


@dataclass
class _Scan:
    """What one pass over the rows has counted; `unchanged` (2, 16) marks channels that still hold their first value."""

    first: float
    previous: float
    not_finite: dict[str, int] = field(default_factory=lambda: {"emg_left": 0, "emg_right": 0, "time": 0})
    backwards: int = 0
    gaps: int = 0
    longest_gap: float = 0.0
    unchanged: npt.NDArray[np.bool_] = field(default_factory=lambda: np.ones((BANDS, CHANNELS), dtype=bool))

    def add(self, block: Any, start: Any) -> None:
        """Count one block of rows; `start` is the session's first row of EMG (2, 16)."""
        emg, times = stack_bands(block), block["time"]
        finite = np.asarray(np.isfinite(emg).all(axis=2))  # (rows, 2)
        self.not_finite["emg_left"] += int((~finite[:, 0]).sum())
        self.not_finite["emg_right"] += int((~finite[:, 1]).sum())
        self.not_finite["time"] += int((~np.isfinite(times)).sum())
        self.unchanged = np.logical_and(self.unchanged, (emg == start).all(axis=0))
        with np.errstate(invalid="ignore"):  # infinite times are counted above
            steps = np.diff(times, prepend=self.previous)
        self.backwards += int((steps < 0).sum())
        gaps = steps[steps > _GAP]
        self.gaps += len(gaps)
        self.longest_gap = max(self.longest_gap, *gaps.tolist(), 0.0)
        self.previous = float(times[-1])


def _check_samples(rows: h5py.Dataset, inspection: Inspection) -> tuple[float, float] | None:
    """Read every row once, in blocks; returns the first and the last time, None where they cannot be had."""
    inspection.summary["samples"] = len(rows)
    if len(rows) == 0:
        inspection.error("timeseries", "the session is empty: it has no samples")
        return None
    _check_extent(rows, inspection)
    try:
        first = rows[:1]
        scan = _Scan(float(first["time"][0]), float(first["time"][0]))
        for start in range(0, len(rows), _BLOCK):
            scan.add(rows[start : start + _BLOCK], stack_bands(first)[0])
    except OSError as error:
        inspection.error("timeseries", f"samples cannot be read ({error})")
        return None
    _report_scan(scan, len(rows), inspection)
    return scan.first, scan.previous


def _report_scan(scan: _Scan, samples: int, inspection: Inspection) -> None:
    for name, number in scan.not_finite.items():
        if number:
            inspection.error(name, f"{number} of {samples} samples are not finite")
    if scan.backwards:
        inspection.error("time", f"time runs backwards {scan.backwards} times")
    if scan.gaps:
        inspection.warn("time", f"{scan.gaps} gaps, the longest {scan.longest_gap:.3f} s")
    for name, channels in zip(("emg_left", "emg_right"), scan.unchanged, strict=True):
        if channels.any() and samples > 1:
            inspection.warn(name, f"electrode channels {np.flatnonzero(channels).tolist()} never change")
    if scan.previous > scan.first:
        rate = (samples - 1) / (scan.previous - scan.first)
        inspection.summary["sample_rate"] = round(rate, 2)
        if abs(rate - SAMPLE_RATE) > 0.02 * SAMPLE_RATE:
            inspection.warn("time", f"{rate:.1f} samples a second, expected {SAMPLE_RATE}")


def _check_extent(rows: h5py.Dataset, inspection: Inspection) -> None:
    """A contiguous dataset knows where its bytes end; a file cut off in the samples ends before that."""
    offset = rows.id.get_offset()
    size = Path(inspection.path).stat().st_size
    if offset is not None and offset + len(rows) * rows.dtype.itemsize > size:
        missing = offset + len(rows) * rows.dtype.itemsize - size
        inspection.error("file", f"truncated: {missing} bytes of samples are missing")
    if rows.dtype.itemsize != SAMPLE_DTYPE.itemsize:
        inspection.warn("timeseries", f"{rows.dtype.itemsize} bytes a sample, expected {SAMPLE_DTYPE.itemsize}")


def _check_header(header: SessionHeader, span: tuple[float, float] | None, inspection: Inspection) -> None:
    summary = inspection.summary
    unknown = Counter(k.key for k in header.keystrokes if symbol_of_key(k.key) is None)
    summary |= {
        "session": header.name,
        "user": header.user,
        "condition": header.condition,
        "duration_mins": header.duration_mins if np.isfinite(header.duration_mins) else None,
        "simulated": bool(header.simulation),
        "keystrokes": len(header.keystrokes),
        "prompts": len(header.prompts),
        "unknown_keys": dict(unknown),
        "text": "".join(symbol for symbol, _ in header.labelled_keystrokes())[:200],
    }
    if not header.keystrokes:
        inspection.warn("keystrokes", "no key was pressed")
    if unknown:
        named = ", ".join(f"{key} x{number}" for key, number in unknown.most_common(8))
        inspection.warn("keystrokes", f"{unknown.total()} keystrokes outside the task's symbols are ignored: {named}")
    starts = [k.start for k in header.keystrokes]
    if not np.isfinite([*starts, *(k.end for k in header.keystrokes)]).all():
        inspection.error("keystrokes", "some start or end is not finite")
    elif any(k.end < k.start for k in header.keystrokes):
        inspection.warn("keystrokes", f"{sum(k.end < k.start for k in header.keystrokes)} end before they start")
    if any(later < earlier for earlier, later in pairwise(starts)):
        inspection.warn("keystrokes", "not in order of time; they are sorted when read")
    if span is None:
        return
    outside = sum(not span[0] <= start <= span[1] for start in starts)
    if outside:
        inspection.warn("keystrokes", f"{outside} of {len(starts)} lie outside the recording and are ignored")
    minutes = (span[1] - span[0]) / 60
    if not abs(minutes - header.duration_mins) <= 0.05 * max(minutes, 0.2):  # so that NaN is told too
        inspection.warn("duration_mins", f"says {header.duration_mins:.3f}, the samples span {minutes:.3f}")
