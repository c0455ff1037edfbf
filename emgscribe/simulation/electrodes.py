"""Spikes -> potentials at differential electrodes around the forearm.

The action potential of a motor unit is the field of current tripoles that travel from the innervation zone to both ends
of its fibres, where they vanish (Rosenfalck 1969; Griep et al. 1982; Merletti et al. 1999, "Modeling of surface
myoelectric signals", IEEE Trans Biomed Eng 46:810). The volume conductor conducts better along the fibres than across
them (Andreassen and Rosenfalck 1981). It is infinite, without skin or bone: fat only adds distance.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, sparse

from emgscribe.simulation.arrays import SAMPLE_RATE, Float32, Float64, Int64

TAPS = 48  # samples of an action potential
_OVERSAMPLING = 2
_TRIPOLE = ((24.6, 0.0), (-35.4, 1.5), (10.8, 4.8))  # relative currents, and their distance behind the front in mm
_ANISOTROPY = 2.0  # muscle alone: about 5; fat and skin are isotropic. Fitted to the spectra of a recorded session
_UNIT_OF_POTENTIAL = 475.0  # gives µV: the median electrode has a root mean square of some 8 µV, as recorded


@dataclass(frozen=True)
class Fibres:
    """The fibres of each motor unit; arrays are (units,), angles in radians, lengths in mm."""

    angle: Float64  # from the palm side towards the thumb
    radius: Float64  # distance from the axis of the arm
    innervation: Float64  # innervation zone along the arm: 0 under the textbook band, hand positive
    towards_hand: Float64  # fibre length from the innervation zone
    towards_elbow: Float64
    velocity: Float64  # mm/s
    dispersion: Float64  # s: the fibres' innervation points and velocities scatter, which smooths the potential


@dataclass(frozen=True)
class Ring:
    """The electrodes of a band on the arm, each a pair of poles along the arm; lengths in mm."""

    radius: float
    rotation: float  # radians, towards the thumb
    along: float  # place along the arm, towards the hand
    pole_distance: float
    electrodes: int = 16


def action_potentials(fibres: Fibres, sizes: Float64, ring: Ring) -> Float32:
    """Motor unit action potentials (units, TAPS, electrodes), from the sample of the spike on."""
    apart = fibres.angle[:, None] - (ring.rotation + 2 * np.pi * np.arange(ring.electrodes) / ring.electrodes)
    radius = fibres.radius[:, None]
    squared_across = ring.radius**2 + radius**2 - 2 * ring.radius * radius * np.cos(apart)
    across = (_ANISOTROPY * squared_across[:, None, :]).astype(np.float32)
    seconds = np.arange(TAPS * _OVERSAMPLING) / (SAMPLE_RATE * _OVERSAMPLING)
    travelled = fibres.velocity[:, None] * seconds
    potential = np.zeros((len(sizes), len(seconds), ring.electrodes), dtype=np.float32)
    for current, behind in _TRIPOLE:
        for side, length in ((1.0, fibres.towards_hand), (-1.0, fibres.towards_elbow)):
            source = fibres.innervation[:, None] + side * np.clip(travelled - behind, 0, length[:, None])
            for pole in (-0.5, 0.5):
                along = source - (ring.along + pole * ring.pole_distance)
                squared = (along**2).astype(np.float32)[:, :, None]
                potential += np.float32(np.sign(pole) * current) / np.sqrt(squared + across)
    turns = 2 * np.pi * np.fft.rfftfreq(len(seconds), seconds[1])
    passed = np.exp(-0.5 * (fibres.dispersion[:, None] * turns) ** 2).astype(np.float32)
    smooth = fft.irfft(fft.rfft(potential, axis=1) * passed[:, :, None], axis=1)
    fade = np.minimum(1, np.arange(TAPS)[::-1] / 6)[:, None]  # without it, each spike would end in a step
    return np.asarray(smooth[:, ::_OVERSAMPLING] * fade * (_UNIT_OF_POTENTIAL * sizes)[:, None, None], dtype=np.float32)


class SpikeSum:
    """The sum of all action potentials, block by block; the tails of a block are carried into the next one."""

    def __init__(self, electrodes: int) -> None:
        self._tail = np.zeros((TAPS, electrodes), dtype=np.float32)

    def add(self, unit: Int64, sample: Int64, potentials: Float32, num_samples: int) -> Float32:
        """The signal (num_samples, electrodes) of spikes (unit, sample) with `potentials` (units, TAPS, electrodes)."""
        # A sparse matrix times the potentials: 1 at [sample, (unit, tap)] where the unit fired `tap` samples before. In
        # order of time, the spikes that matter for one sample are neighbours: a row of the matrix is a range of spikes.
        # Sorting coordinates instead would take longer than everything else together.
        order = np.argsort(sample, kind="stable")
        sample, unit = sample[order].astype(np.int32), unit[order].astype(np.int32)
        now = np.arange(num_samples + TAPS, dtype=np.int32)
        first, end = np.searchsorted(sample, now - TAPS + 1), np.searchsorted(sample, now, side="right")
        starts = np.concatenate([[0], np.cumsum(end - first)])
        # Entry i of row n is spike first[n] + i; its column is its unit and how many samples ago it was.
        spike = np.arange(starts[-1], dtype=np.int32) + np.repeat((first - starts[:-1]).astype(np.int32), end - first)
        columns = (unit * TAPS - sample)[spike] + np.repeat(now, end - first)
        entries = np.ones(len(columns), dtype=np.float32), columns, starts.astype(np.int32)
        trains = sparse.csr_matrix(entries, shape=(len(now), len(potentials) * TAPS))
        signal = np.asarray(trains @ potentials.reshape(-1, potentials.shape[2]), dtype=np.float32)
        signal[:TAPS] += self._tail
        self._tail = signal[num_samples:]
        return signal[:num_samples]
