"""Samples as devices send them, with jitter, gaps and clocks of their own -> samples on one regular clock."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emgscribe.data.hdf5 import Emg, Times
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError

Places = npt.NDArray[np.int64]
_SETTLING, _MOST = (
    0.5,
    0.1,
)  # s in which a clock follows its times; the share of a piece's error that it corrects at most
_JUMP = 0.1  # s by which times may be off and still be jitter
_STALL = 0.25  # s that bands wait for one that sends nothing
_PAUSE = 5.0  # s without samples after which the signal goes on without a gap
_BEHIND = 1.0  # s of samples that come too late, after which a device's clock is taken to be behind


@dataclass(frozen=True)
class Piece:
    """Samples (T, bands of the device, C) in µV, and their times (T,) in s on a clock that all devices share."""

    samples: Emg
    times: Times
    device: int = 0


@dataclass
class Faults:
    """What was wrong with the signal, in samples of a device: `missing`, in `gaps`; `stalled` while others went on;
    `not_finite`. They are zero now. `dropped` came too late. `jumps` are those of a clock, and pauses of more than five
    seconds."""

    missing: int = 0
    gaps: int = 0
    stalled: int = 0
    not_finite: int = 0
    dropped: int = 0
    jumps: int = 0


class Grid:
    """The samples of all bands on one clock, from devices that send one or more bands each.

    `add` pieces as they come; `take` what is complete. A device's clock is smoothed by a loop of second order. A device
    that sends nothing for a quarter of a second is not waited for. Where a clock jumps, and after a pause of more than
    five seconds, the signal goes on without a gap and the times jump.
    """

    def __init__(self, shape: Shape, devices: Sequence[slice] = (slice(None),)) -> None:
        self.shape, self.faults, self._period = shape, Faults(), 1 / shape.rate
        self._devices = [_Device(bands, self._period) for bands in devices]
        self._origin = np.nan  # time of place 0
        self._at = 0  # place of the next sample to take

    def add(self, piece: Piece) -> None:
        """Raises `EmgscribeError` where the samples do not fit the times and the device's bands."""
        device, times = self._devices[piece.device], np.asarray(piece.times, np.float64)
        row = len(range(len(self.shape.bands))[device.bands]), self.shape.electrodes
        samples = np.asarray(piece.samples, np.float32)
        if samples.shape != (len(times), *row) or not np.isfinite(times).all():
            what = f"{len(times)} times, samples of shape {samples.shape}: expected (times, {row[0]}, {row[1]})"
            raise EmgscribeError(what, hint="check the bands and electrodes of the device")
        if not (finite := np.isfinite(samples)).all():
            self.faults.not_finite += int((~finite.all(axis=(1, 2))).sum())
            samples = np.where(finite, samples, np.float32(0))
        breaks = np.flatnonzero(np.abs(np.diff(times)) > _JUMP) + 1
        for part in np.split(np.arange(len(times)), breaks):
            if len(part):
                self._place(device, samples[part], device.smoothed(times[part]))

    def _place(self, device: "_Device", samples: Emg, times: Times) -> None:
        if np.isnan(self._origin):
            self._origin = float(times[0])
        places = np.rint((times - self._origin) / self._period).astype(np.int64) + device.shift
        pause = places[0] - max(one.end for one in self._devices)
        back = places[0] < device.end - round(_JUMP / self._period) if device.end else pause < -_PAUSE / self._period
        if any(one.end for one in self._devices) and (back or pause > _PAUSE / self._period):
            self.faults.jumps += 1
            moved = max(one.end for one in self._devices) - int(places[0])
            places += moved
            if pause > 0 and device.end:  # the time went on for all
                self._origin -= moved * self._period
            else:
                device.shift += moved
        first = int(np.searchsorted(places, max(device.end, self._at)))
        if first > device.slack:  # a clock that is a little fast says some places twice
            self.faults.dropped += first
        device.behind = device.behind + first if first == len(places) else 0
        if device.behind > _BEHIND / self._period:
            self.faults.jumps += 1
            device.shift += max(one.end for one in self._devices) - int(places[-1]) - 1
            device.behind = 0
        device.places.append(places[first:])
        device.samples.append(samples[first:])
        if first < len(places):
            device.end = int(places[-1]) + 1

    def take(self) -> tuple[Emg, Times]:
        """Samples (T, B, C) and their times (T,) since the last call."""
        ends = [device.end for device in self._devices]
        end = max(min(ends), max(ends) - round(_STALL / self._period), self._at)
        emg: Emg = np.zeros((end - self._at, *self.shape.sample), np.float32)
        for device in self._devices:
            there = device.take(self._at, end, emg)
            holes, stalled = np.flatnonzero(~there), max(0, end - max(device.end, self._at))
            self.faults.stalled += stalled
            self.faults.missing += len(holes) - stalled
            self.faults.gaps += int((np.diff(holes[: len(holes) - stalled], prepend=-2) > 1).sum())
        times: Times = self._origin + self._period * np.arange(self._at, end, dtype=np.float64)
        self._at = end
        return emg, times


class _Device:
    """One device's clock, and its samples that wait for those of the others."""

    def __init__(self, bands: slice, period: float) -> None:
        self.bands, self._nominal, self._period = bands, period, period
        self._next, self._jitter = np.nan, _JUMP
        self.slack = max(1, round(_MOST * _JUMP / period))  # places by which a piece may correct the clock
        self._last: Emg | None = None  # the sample before the next one to take
        self.shift, self.end = 0, 0  # by how many places its clock jumped; the place after its last sample
        self.behind = 0  # samples in a row that came too late
        self.places: list[Places] = []
        self.samples: list[Emg] = []

    def smoothed(self, times: Times) -> Times:
        """Times on the device's clock as it is known by now; where they jump, as they are."""
        steady: Times = self._next + self._period * np.arange(len(times), dtype=np.float64)
        error, share = float(np.mean(times - steady)), min(_MOST, len(times) * self._nominal / _SETTLING)
        if abs(error) <= min(max(8 * self._jitter, 2.5 * self._nominal), _JUMP):
            self._jitter += 0.05 * (abs(error) - self._jitter)
            self._period += share**2 / 8 * error / len(times)
        else:  # also the first times, whose error is NaN
            steady = times[0] + self._period * np.arange(len(times), dtype=np.float64)
            error = float(np.mean(times - steady))
        steady += share * error
        self._next = float(steady[-1]) + self._period
        return steady

    def take(self, first: int, end: int, out: Emg) -> npt.NDArray[np.bool_]:
        """Put the samples of the places from `first` to `end` into `out`; returns where there are some."""
        places = np.concatenate([np.empty(0, np.int64), *self.places])
        samples = np.concatenate([out[:0, self.bands], *self.samples])
        later, there = int(np.searchsorted(places, end)), np.zeros(end - first, np.bool_)
        own = slice(int(np.searchsorted(places, first)), later)
        out[places[own] - first, self.bands], there[places[own] - first] = samples[own], True
        self.places, self.samples = [places[later:].copy()], [samples[later:].copy()]
        if first == end:
            return there
        # Small holes are a clock's corrections: the sample before is said again, if it is in the window or just before.
        at = np.arange(-1, end - first)
        seen = np.concatenate([[self._last is not None], there])
        before = np.maximum.accumulate(np.where(seen, at, -2))
        after = np.minimum.accumulate(np.where(seen, at, end)[::-1])[::-1]
        small = ~seen & (before > -2) & (after < end - first) & (after - before - 1 <= self.slack)
        filled, sources = at[small], before[small]
        if self._last is not None:
            out[filled[sources < 0], self.bands] = self._last
        out[filled[sources >= 0], self.bands] = out[sources[sources >= 0], self.bands]
        there[filled] = True
        self._last = out[-1, self.bands].copy() if there[-1] else None
        return there
