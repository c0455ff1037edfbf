"""From spikes to the potentials between the poles of 16 electrodes around the forearm.

A motor unit's action potential is the field of current tripoles that run from the innervation zone to both ends of its
fibres and die there (Rosenfalck 1969; Griep et al. 1982; Merletti et al. 1999, "Modeling of surface myoelectric
signals", IEEE Trans Biomed Eng 46:810), in an infinite medium that conducts better along than across the fibres
(Andreassen and Rosenfalck 1981). Each electrode is a differential pair along the arm. The skin is no boundary here,
fat counts as distance only, and bone is absent.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from emgscribe.data.hdf5 import CHANNELS, SAMPLE_RATE

Array = npt.NDArray[np.float32]

TAPS = 48
_OVERSAMPLING = 2
# The tripole: relative currents and their distance behind the front in mm.
_CURRENTS, _BEHIND = (24.6, -35.4, 10.8), (0.0, 1.5, 4.8)
# Muscle alone has about 5; with fat and skin between, which conduct alike both ways, 2 gives spectra as measured.
_ANISOTROPY = 2.0
# Innervation points scatter along the muscle, which smears the action potential in time.
_DISPERSION = 0.0002
# Chosen so that typing comes out at some tens, as in the data set's files.
_UNIT_OF_POTENTIAL = 1500.0


@dataclass(frozen=True)
class Fibres:
    """Where the fibres of each motor unit lie; arrays are (units,), angles in radians, lengths in mm.

    `angle` runs from the palm side towards the thumb, `radius` from the arm's axis, `innervation` is the place along
    the arm of the innervation zone (positive towards the hand, 0 at the textbook band), `towards_hand` and
    `towards_elbow` the fibre lengths from there, `velocity` in mm/s.
    """

    angle: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]
    innervation: npt.NDArray[np.float64]
    towards_hand: npt.NDArray[np.float64]
    towards_elbow: npt.NDArray[np.float64]
    velocity: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ring:
    """A band on the arm: `rotation` in radians (towards the thumb), `along` and `pole_distance` in mm."""

    radius: float
    rotation: float
    along: float
    pole_distance: float

    def angles(self) -> npt.NDArray[np.float64]:
        """The angle of each electrode (16,)."""
        return self.rotation + 2 * np.pi * np.arange(CHANNELS) / CHANNELS


def action_potentials(fibres: Fibres, sizes: npt.NDArray[np.float64], ring: Ring) -> Array:
    """(units, TAPS, 16): what one spike of each unit adds to each electrode from the spike's sample on."""
    apart = fibres.angle[:, None] - ring.angles()
    radius = fibres.radius[:, None]
    squared_across = ring.radius**2 + radius**2 - 2 * ring.radius * radius * np.cos(apart)
    across = (_ANISOTROPY * squared_across[:, None, :]).astype(np.float32)
    seconds = np.arange(TAPS * _OVERSAMPLING) / (SAMPLE_RATE * _OVERSAMPLING)
    travelled = fibres.velocity[:, None] * seconds
    potential = np.zeros((len(sizes), len(seconds), CHANNELS), dtype=np.float32)
    for current, behind in zip(_CURRENTS, _BEHIND, strict=True):
        for side, length in ((1.0, fibres.towards_hand), (-1.0, fibres.towards_elbow)):
            source = fibres.innervation[:, None] + side * np.clip(travelled - behind, 0, length[:, None])
            for pole in (-0.5, 0.5):
                along = source - (ring.along + pole * ring.pole_distance)
                squared = (along**2).astype(np.float32)[:, :, None]
                potential += np.float32(np.sign(pole) * current) / np.sqrt(squared + across)
    smooth = ndimage.gaussian_filter1d(potential, _DISPERSION * SAMPLE_RATE * _OVERSAMPLING, axis=1, mode="nearest")
    # Leave on the same line as you came: a template that ends off zero would click at every spike.
    fade = np.minimum(1, np.arange(TAPS)[::-1] / 6)[:, None]
    scaled = smooth[:, ::_OVERSAMPLING] * fade * (_UNIT_OF_POTENTIAL * sizes)[:, None, None]
    return np.asarray(scaled, dtype=np.float32)


class SpikeSum:
    """Adds up action potentials block by block; what outlasts a block is carried into the next."""

    def __init__(self) -> None:
        self._tail = np.zeros((TAPS, CHANNELS), dtype=np.float32)

    def add(
        self, unit: npt.NDArray[np.int64], sample: npt.NDArray[np.int64], potentials: Array, num_samples: int
    ) -> Array:
        """The signal (num_samples, 16) of spikes (unit, sample) with `potentials` (units, TAPS, 16)."""
        trains = _trains(unit, sample, len(potentials), num_samples + TAPS)
        signal = np.asarray(trains @ potentials.reshape(-1, CHANNELS), dtype=np.float32)
        signal[:TAPS] += self._tail
        self._tail = signal[num_samples:]
        return signal[:num_samples]


def _trains(
    unit: npt.NDArray[np.int64], sample: npt.NDArray[np.int64], units: int, num_samples: int
) -> sparse.csr_matrix:
    """(samples, units x TAPS): a one where a spike of the unit was so many samples ago.

    With the spikes in order of time, those that still sound at a sample are one stretch of them, so the rows of the
    matrix are written down directly; sorting coordinates would take longer than everything else together.
    """
    order = np.argsort(sample, kind="stable")
    sample, unit = sample[order].astype(np.int32), unit[order].astype(np.int32)
    now = np.arange(num_samples, dtype=np.int32)
    first, end = np.searchsorted(sample, now - TAPS + 1), np.searchsorted(sample, now, side="right")
    starts = np.concatenate([[0], np.cumsum(end - first)])
    # Entry i of row n belongs to spike first[n] + i; the column says which unit and how many samples ago.
    spike = np.arange(starts[-1], dtype=np.int32) + np.repeat((first - starts[:-1]).astype(np.int32), end - first)
    columns = (unit * TAPS - sample)[spike] + np.repeat(now, end - first)
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, columns, starts.astype(np.int32)), shape=(num_samples, units * TAPS))
