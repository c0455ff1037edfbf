"""Samples as devices send them, with jitter, gaps and clocks of their own -> samples on one regular clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from emgscribe.data.hdf5 import Emg, Times
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError

Places = npt.NDArray[np.int64]
_SETTLING = 0.5  # s in which a clock follows its times
_MAX_CORRECTION = 0.1  # the largest share of a piece's error that it corrects
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
    `not_finite`. Zeros replace all of these. `dropped` came too late. `jumps` are those of a clock, and pauses of more
    than five seconds."""

    missing: int = 0
    gaps: int = 0
    stalled: int = 0
    not_finite: int = 0
    dropped: int = 0
    jumps: int = 0


class Grid:
    """The samples of all bands on one clock, from devices that send one or more bands each.

    `add` pieces as they come; `take` what is complete. A second-order loop smooths a device's clock. The grid does not
    wait for a device that sends nothing for a quarter of a second. Where a clock jumps, and after a pause of more than
    five seconds, the signal goes on without a gap and the times jump.
    """

    def __init__(self, shape: Shape, devices: Sequence[slice] = (slice(None),)) -> None:
        self.shape, self.faults, self._period = shape, Faults(), 1 / shape.rate
        self._devices = [_Device(bands, self._period) for bands in devices]
        self._origin = np.nan  # time of place 0
        self._at = 0  # place of the next sample to take
        self._emg: Emg = np.zeros((0, *shape.sample), np.float32)  # from there on

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
        for first, end in pairwise((0, *breaks.tolist(), len(times))):
            if first < end:
                self._place(device, samples[first:end], device.smoothed(times[first:end]))

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
        if first > device.slack:  # a clock that is a little fast gives some places twice
            self.faults.dropped += first
        device.behind = device.behind + first if first == len(places) else 0
        if device.behind > _BEHIND / self._period:
            self.faults.jumps += 1
            device.shift += max(one.end for one in self._devices) - int(places[-1]) - 1
            device.behind = 0
        if first < len(places):
            device.end = int(places[-1]) + 1
            self._make_room(device.end)
            at = places[first:] - self._at
            self._emg[at, device.bands], device.there[at] = samples[first:], True

    def _make_room(self, end: int) -> None:
        """Make room for samples up to the place `end`."""
        if (more := end - self._at - len(self._emg)) > 0:
            self._emg = np.concatenate([self._emg, np.zeros((more, *self.shape.sample), np.float32)])
            for device in self._devices:
                device.there = np.concatenate([device.there, np.zeros(more, np.bool_)])

    def take(self) -> tuple[Emg, Times]:
        """Samples (T, B, C) and their times (T,) since the last call."""
        ends = [device.end for device in self._devices]
        end = max(min(ends), max(ends) - round(_STALL / self._period), self._at)
        self._make_room(end)
        count = end - self._at
        emg, self._emg = self._emg[:count], self._emg[count:].copy()
        for device in self._devices:
            holes = device.take(emg)
            stalled = max(0, end - max(device.end, self._at))
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
        self.slack = max(1, round(_MAX_CORRECTION * _JUMP / period))  # places by which a piece may correct the clock
        self._last: Emg | None = None  # the sample before the next one to take
        self.shift, self.end = 0, 0  # by how many places its clock jumped; the place after its last sample
        self.behind = 0  # samples in a row that came too late
        self.there = np.zeros(0, np.bool_)  # which of the grid's samples have come

    def smoothed(self, times: Times) -> Times:
        """Times on the device's clock as it is known by now; where they jump, as they are."""
        steady: Times = self._next + self._period * np.arange(len(times), dtype=np.float64)
        error, share = float(np.mean(times - steady)), min(_MAX_CORRECTION, len(times) * self._nominal / _SETTLING)
        if abs(error) <= min(max(8 * self._jitter, 2.5 * self._nominal), _JUMP):
            self._jitter += 0.05 * (abs(error) - self._jitter)
            self._period += share**2 / 8 * error / len(times)
        else:  # also the first times, whose error is NaN
            steady = times[0] + self._period * np.arange(len(times), dtype=np.float64)
            error = float(np.mean(times - steady))
        steady += share * error
        self._next = float(steady[-1]) + self._period
        return steady

    def take(self, emg: Emg) -> Places:
        """Fill small holes in the grid's next samples, all bands (T, B, C); returns the places that stay empty."""
        there, self.there = self.there[: len(emg)], self.there[len(emg) :].copy()
        if not there.all():
            self._fill(there, emg)
        if len(emg):
            self._last = emg[-1, self.bands].copy() if there[-1] else None
        return np.flatnonzero(~there)

    def _fill(self, there: npt.NDArray[np.bool_], emg: Emg) -> None:
        """Small holes are a clock's corrections: the sample before is repeated, if it is there or was taken last."""
        at, end = np.arange(-1, len(there)), len(there)
        seen = np.concatenate([[self._last is not None], there])
        before = np.maximum.accumulate(np.where(seen, at, -2))
        after = np.minimum.accumulate(np.where(seen, at, end)[::-1])[::-1]
        small = ~seen & (before > -2) & (after < end) & (after - before - 1 <= self.slack)
        filled, sources = at[small], before[small]
        if self._last is not None:
            emg[filled[sources < 0], self.bands] = self._last
        emg[filled[sources >= 0], self.bands] = emg[sources[sources >= 0], self.bands]
        there[filled] = True
