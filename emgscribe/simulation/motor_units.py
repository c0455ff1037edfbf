"""From the excitation of a muscle to the spike trains of its motor units.

Pools follow Fuglevand, Winter and Patla 1993, "Models of recruitment and rate coding organization in motor-unit pools"
(J Neurophysiol 70:2470): recruitment thresholds and sizes spread exponentially, small units first (Henneman's size
principle), rates rise linearly from the threshold to a peak. Fast finger movements drive units far above the rates of
steady contractions (Desmedt and Godaux 1977, J Physiol 264:673), hence the high peak. Inter-spike intervals are gamma
distributed with a coefficient of variation of 0.2 (Clamann 1969; Fuglevand et al. 1993).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.simulation.muscles import DRIVE_RATE, NUM_MUSCLES

# Excitation is a fraction of the maximum, rates are spikes a second.
FIRST_THRESHOLD, THRESHOLD_RANGE = 0.012, 45.0
SIZE_RANGE = 8.0
MIN_RATE, PEAK_RATE_SMALL, PEAK_RATE_LARGE = 8.0, 60.0, 45.0
RATE_PER_EXCITATION = 110.0
INTERVAL_VARIATION = 0.2


@dataclass(frozen=True)
class MotorUnits:
    """The units of all muscles of a forearm, muscle by muscle and small before large; arrays are (units,)."""

    muscle: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float32]
    size: npt.NDArray[np.float64]
    peak_rate: npt.NDArray[np.float32]

    @classmethod
    def pools(cls, per_muscle: int, rng: np.random.Generator) -> "MotorUnits":
        """`per_muscle` units in each muscle, thresholds and sizes scattered a little about the exponential ladder."""
        rank = np.arange(per_muscle) / max(per_muscle - 1, 1)
        rank = np.tile(rank, NUM_MUSCLES)
        scatter = np.exp(0.1 * rng.standard_normal((2, len(rank))))
        # Sizes are divided by the count, so that the strength of the signal does not depend on how many stand for all.
        return cls(
            muscle=np.repeat(np.arange(NUM_MUSCLES), per_muscle),
            threshold=(FIRST_THRESHOLD * THRESHOLD_RANGE**rank * scatter[0]).astype(np.float32),
            size=SIZE_RANGE**rank * scatter[1] / np.sqrt(per_muscle),
            peak_rate=(PEAK_RATE_SMALL + rank * (PEAK_RATE_LARGE - PEAK_RATE_SMALL)).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.muscle)


class SpikeTrains:
    """Fires the units block after block; each unit's time to its next spike is carried from block to block."""

    def __init__(self, units: MotorUnits, rng: np.random.Generator) -> None:
        self._units, self._rng = units, rng
        self._due = rng.random(len(units))

    def fire(self, drive: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(unit, sample within the block) of each spike under `drive` (frames at DRIVE_RATE, muscles).

        A unit fires whenever the integral of its rate has grown by one (random) interval of unit mean, so all trains
        come from one search in the stacked integrals.
        """
        growth = self._integrated_rates(drive)
        total = growth[:, -1]
        gaps = self._gaps(int(np.ceil(total.max() * 1.25)) + 8)
        due = np.cumsum(np.concatenate([self._due[:, None], gaps], axis=1), axis=1)
        unit, nth = np.nonzero(due <= total[:, None])
        counts = np.bincount(unit, minlength=len(total))
        self._due = due[np.arange(len(total)), counts] - total
        return unit, _crossings(growth, unit, due[unit, nth])

    def _integrated_rates(self, drive: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """(units, frames): expected spikes of each unit from the block's start to the end of each frame."""
        units = self._units
        above = drive.T[units.muscle] - units.threshold[:, None]
        rate = np.minimum(MIN_RATE + RATE_PER_EXCITATION * above, units.peak_rate[:, None])
        rate *= above > 0
        return np.cumsum(rate, axis=1, dtype=np.float64) / DRIVE_RATE

    def _gaps(self, count: int) -> npt.NDArray[np.float64]:
        shape = 1 / INTERVAL_VARIATION**2
        return self._rng.standard_gamma(shape, (len(self._units), count)) / shape


def _crossings(
    growth: npt.NDArray[np.float64], unit: npt.NDArray[np.int64], due: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """The sample at which `growth` of each spike's unit reaches `due`, interpolated within the frame."""
    count, frames = growth.shape
    lift = np.arange(count) * (growth[:, -1].max() + 1)
    stacked = (growth + lift[:, None]).ravel()
    at = np.minimum(np.searchsorted(stacked, due + lift[unit]), (unit + 1) * frames - 1)
    frame = at - unit * frames
    above = growth.ravel()[at]
    below = np.where(frame > 0, growth.ravel()[at - 1], 0.0)
    part = np.clip((due - below) / np.maximum(above - below, 1e-9), 0, 1)
    samples_per_frame = SAMPLE_RATE // DRIVE_RATE
    sample = np.minimum((frame + part) * samples_per_frame, frames * samples_per_frame - 1)
    return np.asarray(sample, dtype=np.int64)
