"""Recordings from any device -> session files: one regular clock, one unit, gaps filled with silence.

A reader of a format (`tables`, `xdf`, `bids`) gives a `Recording`; `write_recording` makes a session of it and reports
what it had to change.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from emgscribe.config import require
from emgscribe.data.hdf5 import LARGEST, Emg, Keystroke, Prompt, SessionFile, SessionHeader, Times, moved, write_session
from emgscribe.data.shape import MAX_HZ, MIN_HZ, Band, Shape
from emgscribe.errors import EmgscribeError

UNITS = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3, "raw": 1.0}
HOLD = 0.1  # s, of a key whose release is not known
_MAX_SECONDS = 12 * 3600
_STEADY = 0.2  # sample periods: where a clock scatters by less, one missing sample shows
_KEY_NAMES = {
    "space": "Key.space", "enter": "Key.enter", "return": "Key.enter", "backspace": "Key.backspace",
    "shift": "Key.shift", "shift_l": "Key.shift", "shift_r": "Key.shift", "lshift": "Key.shift", "rshift": "Key.shift",
    "shiftleft": "Key.shift", "shiftright": "Key.shift", "\n": "Key.enter", "\r": "Key.enter", "\b": "Key.backspace",
    " ": "Key.space", "back": "Key.backspace",
}  # fmt: skip


@dataclass(frozen=True)
class Track:
    """What one band recorded: `emg` (T, electrodes) at `times` (T,) in seconds."""

    times: Times
    emg: Emg


@dataclass(frozen=True)
class Recording:
    """The tracks of one or two bands, left first, and the keys and prompts on the same clock (seconds).

    `rate` is the nominal sampling rate in Hz, 0 where only the times give it. `start` is what to add to all times to
    get unix seconds.
    """

    bands: tuple[Band, ...]
    tracks: tuple[Track, ...]
    rate: float = 0.0
    start: float = 0.0
    unit: str = "uV"
    keystrokes: tuple[Keystroke, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    user: str = ""
    name: str = ""
    condition: str = "on_keyboard"
    simulation: str = ""  # the simulator's settings as JSON, if the recording is simulated
    clock_error: float = 0.0  # s by which the times of the keys may be wrong, where it was measured
    notes: tuple[str, ...] = ()  # what its reader found


@dataclass
class Conversion:
    """What a conversion found and changed."""

    path: Path
    shape: Shape
    seconds: float
    keys: int
    notes: list[str] = field(default_factory=list)


def keystrokes_of(events: Iterable[tuple[str, float, bool | None]]) -> Iterator[Keystroke]:
    """Keystrokes from events (key, time in s, whether it went down) in order of time.

    A key counts as held for 0.1 s where an event has None in place of down or up, and where a press has no release. A
    key that repeats while it is held counts as pressed once.
    """
    held: dict[str, float] = {}
    for key, time, down in events:
        if down is None:
            yield Keystroke(key, time, time + HOLD)
        elif down:
            held.setdefault(key, time)
        elif key in held:
            yield Keystroke(key, held.pop(key), time)
    for key, time in held.items():
        yield Keystroke(key, time, time + HOLD)


def key_name(key: str) -> str:
    """The pynput name of a key that a logger, a browser or a marker calls `key`."""
    return _KEY_NAMES.get(key.lower(), key)


def write_recording(
    recording: Recording, out: Path, *, user: str = "", name: str = "", resample: float = 0.0
) -> Conversion:
    """Write `recording` as the session file `out`, or into the folder `out` under its name; returns what was changed.

    The samples get the regular clock that fits their times best. Missing samples become 0. With `resample` (Hz) the
    rate is changed, after an anti-aliasing filter. Raises `EmgscribeError` where the times cannot be those of a
    recording, the bands do not overlap, or the file cannot be written.
    """
    fits = resample == 0 or MIN_HZ <= resample <= MAX_HZ
    require(fits, "resample", resample, f"0, or {MIN_HZ} to {MAX_HZ}")
    recording, notes = _from_zero(recording), [*recording.notes]
    emg, first, period, rate = _together(recording, notes)
    if resample:
        emg, factor = _resampled(emg, resample / rate)
        period, rate = period / factor, resample
    name, user, by = name or recording.name or out.stem, user or recording.user or "unknown", recording.start
    if not f"{name}{user}".isprintable() or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise EmgscribeError(f"{name!r} of {user!r} cannot be a session's name", hint="give another name and user")
    typed = sorted(recording.keystrokes, key=lambda key: key.start)  # a log may list keys as they were released
    times: Times = by + (first + period * np.arange(len(emg), dtype=np.float64))
    header = SessionHeader(
        name=name,
        user=user,
        condition=recording.condition,
        duration_mins=len(times) / rate / 60,
        keystrokes=moved((replace(key, key=key_name(key.key)) for key in typed), by),
        prompts=moved(recording.prompts, by),
        simulation=recording.simulation,
        clock_error=recording.clock_error,
    )
    if outside := sum(not times[0] <= key.start <= times[-1] for key in header.keystrokes):
        notes.append(f"{outside} of {len(header.keystrokes)} keys lie outside the samples")
    path, shape = out if out.suffix == ".hdf5" else out / f"{name}.hdf5", Shape(recording.bands, emg.shape[2], rate)
    write_session(path, header, times, emg, shape)
    return Conversion(path, shape, float(times[-1] - times[0]), len(header.keystrokes) - outside, notes)


def _from_zero(recording: Recording) -> Recording:
    """The recording with times from the first sample of the first band on: unix seconds leave few decimals."""
    for band, track in zip(recording.bands, recording.tracks, strict=True):
        if len(track.times) < 2 or not np.isfinite(track.times).all():
            hint = "correct the times, or leave them out and give --rate"
            raise EmgscribeError(f"the {band} band has fewer than two times, or some that are not finite", hint=hint)
    zero = float(recording.tracks[0].times[0])
    return replace(
        recording,
        start=recording.start + zero,
        tracks=tuple(Track(track.times - zero, track.emg) for track in recording.tracks),
        keystrokes=moved(recording.keystrokes, -zero),
        prompts=moved(recording.prompts, -zero),
    )


def _together(recording: Recording, notes: list[str]) -> tuple[Emg, float, float, float]:
    """EMG (T, bands, electrodes) in µV on one clock, its start and its period in s, and the nominal rate."""
    bands, tracks = recording.bands, recording.tracks
    require(recording.unit in UNITS, "unit", recording.unit, ", ".join(UNITS))
    if len({track.emg.shape[1] for track in tracks}) != 1:
        counts = ", ".join(str(track.emg.shape[1]) for track in tracks)
        raise EmgscribeError(f"the bands have {counts} electrodes", hint="choose the same number of columns for each")
    clocks = [_clock(track.times, recording.rate, band, notes) for band, track in zip(bands, tracks, strict=True)]
    period, first = float(clocks[0].period), round(float(max(clock.times[0] for clock in clocks)), 9)
    seconds = min(clock.times[-1] for clock in clocks) - first
    if seconds >= _MAX_SECONDS or period > 1 / MIN_HZ:
        what = f"its times span {seconds:.0f} s, with {1 / period:.3g} samples a second"
        raise EmgscribeError(what, hint="write times in s, not in ms or samples")
    if seconds <= 0:
        raise EmgscribeError(f"the bands do not overlap ({seconds:.3f} s)", hint="check the times of both bands")
    grid: Times = first + period * np.arange(int(seconds / period + 1e-6) + 1, dtype=np.float64)
    scale = np.float32(UNITS[recording.unit])
    pairs = zip(bands, clocks, tracks, strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        emg = np.stack(
            [scale * _on_grid(grid, period, clock, track.emg, band, notes) for band, clock, track in pairs], axis=1
        )
    if count := int((~(np.abs(emg) <= LARGEST).all(axis=(1, 2))).sum()):  # NaN is not
        hint = "set them to 0, or cut them out: what is missing is filled with 0"
        raise EmgscribeError(
            f"{count} of {len(emg)} samples are not finite, or too large for EMG in any unit", hint=hint
        )
    if recording.unit == "raw":
        notes.append("the unit is unknown: numbers are kept as they are")
    return emg, first, period, recording.rate or round(1 / period, 2)


@dataclass(frozen=True)
class _Clock:
    """The times of a track on a regular clock of `period` s."""

    times: Times
    period: float


def _clock(times: Times, nominal: float, band: str, notes: list[str]) -> _Clock:
    """Fit a regular clock to the times of each stretch without a gap; note what is unusual."""
    steps = np.diff(times)
    if (backwards := int((steps < 0).sum())) > 0:
        at = int(np.argmax(steps < 0)) + 1
        raise EmgscribeError(
            f"the {band} band's time runs backwards {backwards}x, first at sample {at}", hint="sort or split it"
        )
    usual = float(np.median(steps)) or float(times[-1] - times[0]) / (len(times) - 1)
    if not usual > 0:
        raise EmgscribeError(f"all samples of the {band} band have the same time", hint="give the rate instead: --rate")
    expected = 1 / nominal if nominal else usual
    scatter = float(np.median(np.abs(steps - usual))) / expected
    breaks = np.flatnonzero(steps > expected * (1.5 if scatter < _STEADY else 10)) + 1
    edges = [0, *breaks.tolist(), len(times)]
    fitted, weights = np.empty(len(times)), list[tuple[float, int]]()
    for begin, end in pairwise(edges):
        index = np.arange(end - begin)
        slope = expected
        if len(index) >= 20:  # the slope of fewer is mostly scatter
            slope = float(np.polyfit(index - index.mean(), times[begin:end] - times[begin:end].mean(), 1)[0])
            weights.append((slope, end - begin))
        fitted[begin:end] = times[begin:end].mean() + slope * (index - index.mean())
    counted = sum(count for _, count in weights)
    period = sum(slope * count for slope, count in weights) / counted if counted else expected
    if nominal and abs(period * nominal - 1) > 0.02:
        hint = "leave --rate out, or correct it"
        raise EmgscribeError(f"the {band} band has {1 / period:.6g} samples a second, not {nominal:g}", hint=hint)
    if nominal and abs(period * nominal - 1) > 1e-4:
        notes.append(
            f"the {band} band's clock gives {1 / period:.6g} samples a second, not {nominal:g}; times follow it"
        )
    if nominal and abs(period * nominal - 1) < 1e-6:
        period = expected
    moved = float(np.abs(fitted - times).max())
    if moved > period:
        notes.append(f"the {band} band's times scatter by up to {1000 * moved:.1f} ms; a regular clock replaces them")
    return _Clock(fitted, period)


def _on_grid(grid: Times, period: float, clock: _Clock, emg: Emg, band: str, notes: list[str]) -> Emg:
    """The samples nearest to the times of `grid`, 0 where there is none."""
    after = np.clip(np.searchsorted(clock.times, grid), 1, len(clock.times) - 1)
    nearest = np.where(grid - clock.times[after - 1] <= clock.times[after] - grid, after - 1, after)
    missing = np.abs(clock.times[nearest] - grid) > 0.75 * period
    found = emg[nearest].astype(np.float32)
    found[missing] = 0
    if count := int(missing.sum()):
        runs = int((np.diff(np.concatenate([[0], missing.astype(np.int8)])) == 1).sum())
        notes.append(f"the {band} band lacks {count * period:.3f} s (gaps: {runs}), which are now silent")
    return found


def _resampled(emg: Emg, factor: float) -> tuple[Emg, float]:
    """EMG at about `factor` times its rate, and the exact factor: a ratio of small numbers, within 0.05 %."""
    from scipy import signal

    ratio = Fraction(factor).limit_denominator(1000)
    resampled = signal.resample_poly(emg, ratio.numerator, ratio.denominator, axis=0)
    return np.asarray(resampled, dtype=np.float32), float(ratio)


def bands_of(columns: Emg, times: Times, bands: Sequence[Band]) -> Iterator[Track]:
    """The tracks of a matrix (T, all electrodes), whose columns are divided equally among `bands`."""
    if columns.shape[1] % len(bands) or not columns.shape[1]:
        what = f"{columns.shape[1]} columns cannot be divided among {len(bands)} bands"
        raise EmgscribeError(what, hint="name the bands that were worn (--bands left), or choose columns (--columns)")
    return (Track(times, part) for part in np.split(columns, len(bands), axis=1))


def of_session(path: Path) -> Recording:
    """The recording in a session file, to be written in another shape."""
    with SessionFile(path) as file:
        header, shape, start = file.header, file.shape, file.layout.start
        times, emg = file.read()
    tracks = tuple(Track(times - start, emg[:, band]) for band in range(len(shape.bands)))
    return Recording(
        bands=shape.bands,
        tracks=tracks,
        rate=shape.rate,
        start=start,
        keystrokes=moved(header.keystrokes, -start),
        prompts=moved(header.prompts, -start),
        user=header.user,
        name=header.name,
        condition=header.condition,
        simulation=header.simulation,
        clock_error=header.clock_error,
    )
