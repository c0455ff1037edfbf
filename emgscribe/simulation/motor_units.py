"""Excitation of the muscles -> spike trains of their motor units.

The pools follow Fuglevand, Winter and Patla 1993, "Models of recruitment and rate coding organization in motor-unit
pools" (J Neurophysiol 70:2470): recruitment thresholds and sizes are distributed exponentially, small units are
recruited first (Henneman's size principle), and firing rates rise linearly from the threshold to a peak. The peak is
high because units fire much faster in fast finger movements than in steady contractions (Desmedt and Godaux 1977,
J Physiol 264:673). Inter-spike intervals are gamma distributed with a coefficient of variation of 0.3: 0.2 in
steady contractions (Clamann 1969), more where the force changes quickly. Sizes scatter so much that some large units
fire alone between the keys.
"""

from dataclasses import dataclass

import numpy as np

from emgscribe.simulation.arrays import Float32, Float64, Int64, Rng
from emgscribe.simulation.muscles import DRIVE_RATE, NUM_MUSCLES, SAMPLES_PER_FRAME

# Excitation is a fraction of the maximum; rates are in spikes/s.
_FIRST_THRESHOLD, _THRESHOLD_RANGE, _SIZE_RANGE = 0.012, 45.0, 8.0
_MIN_RATE, _PEAK_RATE_SMALL, _PEAK_RATE_LARGE, _RATE_PER_EXCITATION = 8.0, 60.0, 45.0, 110.0
INTERVAL_VARIATION = 0.3


@dataclass(frozen=True)
class MotorUnits:
    """The motor units of a forearm, muscle by muscle and small before large; arrays are (units,)."""

    muscle: Int64
    threshold: Float32
    size: Float64
    peak_rate: Float32

    @classmethod
    def pools(cls, per_muscle: int, rng: Rng) -> "MotorUnits":
        """Units whose thresholds and sizes scatter a little around the exponential distribution."""
        rank = np.tile(np.arange(per_muscle) / max(per_muscle - 1, 1), NUM_MUSCLES)
        scatter = np.exp(np.array([[0.1], [0.4]]) * rng.standard_normal((2, len(rank))))
        return cls(
            muscle=np.repeat(np.arange(NUM_MUSCLES), per_muscle),
            threshold=(_FIRST_THRESHOLD * _THRESHOLD_RANGE**rank * scatter[0]).astype(np.float32),
            # The root makes the strength of the signal independent of the number of units.
            size=_SIZE_RANGE**rank * scatter[1] / np.sqrt(per_muscle),
            peak_rate=(_PEAK_RATE_SMALL + rank * (_PEAK_RATE_LARGE - _PEAK_RATE_SMALL)).astype(np.float32),
        )


class SpikeTrains:
    """The spikes of motor units, block by block; each unit carries the time to its next spike into the next block."""

    def __init__(self, units: MotorUnits, rng: Rng) -> None:
        self._units, self._rng = units, rng
        self._due = rng.random(len(units.size))

    def fire(self, drive: Float32) -> tuple[Int64, Int64]:
        """(unit, sample within the block) of each spike under the excitation `drive` (frames, muscles).

        A unit fires when the integral of its firing rate has grown by a random interval with mean 1.
        """
        above = drive.T[self._units.muscle] - self._units.threshold[:, None]
        rate = np.minimum(_MIN_RATE + _RATE_PER_EXCITATION * above, self._units.peak_rate[:, None]) * (above > 0)
        growth = np.cumsum(rate, axis=1, dtype=np.float64) / DRIVE_RATE  # (units, frames), at the end of each frame
        total = growth[:, -1]
        shape = 1 / INTERVAL_VARIATION**2
        gaps = self._rng.standard_gamma(shape, (len(total), int(np.ceil(total.max() * 1.25)) + 8)) / shape
        due = np.cumsum(np.concatenate([self._due[:, None], gaps], axis=1), axis=1)
        unit, nth = np.nonzero(due <= total[:, None])
        self._due = due[np.arange(len(total)), np.bincount(unit, minlength=len(total))] - total
        return unit, _crossings(growth, unit, due[unit, nth])


def _crossings(growth: Float64, unit: Int64, due: Float64) -> Int64:
    """The sample at which the `growth` of each spike's unit reaches `due`, interpolated within the frame."""
    count, frames = growth.shape
    # One search for all units: each row is lifted above the end of the row before it.
    lift = np.arange(count) * (growth[:, -1].max() + 1)
    stacked = (growth + lift[:, None]).ravel()
    at = np.minimum(np.searchsorted(stacked, due + lift[unit]), (unit + 1) * frames - 1)
    frame = at - unit * frames
    above, below = growth.ravel()[at], np.where(frame > 0, growth.ravel()[at - 1], 0.0)
    part = np.clip((due - below) / np.maximum(above - below, 1e-9), 0, 1)
    sample = np.minimum((frame + part) * SAMPLES_PER_FRAME, frames * SAMPLES_PER_FRAME - 1)
    return np.asarray(sample, dtype=np.int64)
