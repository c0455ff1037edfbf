"""Electrode contact: which electrodes are flat, hum or clip."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from emgscribe.data.hdf5 import Emg
from emgscribe.data.shape import Shape

State = Literal["good", "flat", "hum", "clipped"]
_SECONDS = 1.0  # that are looked at, and how often
_FLAT = 0.2  # µV: no working amplifier has less noise
_CLIPPED, _LEVELS = 0.02, 16  # share at the highest or the lowest value; with fewer values it is a quiet 8-bit signal
_MAINS, _AROUND, _BESIDE = (50.0, 60.0), 1.5, 8.0  # Hz: a line of the spectrum, and the EMG beside it
_HUM = 0.5  # of the power, above which a line hides the EMG


class Contact:
    """The amplitude and the state of each electrode, from the latest second."""

    def __init__(self, shape: Shape) -> None:
        self._rate, self._size = shape.rate, max(8, shape.samples(_SECONDS))
        electrodes, self._waiting = math.prod(shape.sample), list[Emg]()
        self.amplitude: npt.NDArray[np.float32] = np.zeros(electrodes, np.float32)
        self.states: list[State] = ["good"] * electrodes

    def feed(self, emg: Emg) -> bool:
        """Look at samples (T, B, C) in µV; returns whether a second is complete, and new `amplitude` (µV) and `states`.

        Electrodes are in order, those of the left band first.
        """
        self._waiting.append(emg.reshape(len(emg), -1))
        if sum(map(len, self._waiting)) < self._size:
            return False
        self._look(np.concatenate(self._waiting)[-self._size :])
        self._waiting = []
        return True

    def _look(self, samples: Emg) -> None:
        centred = samples - samples.mean(axis=0)
        self.amplitude = np.sqrt(np.mean(np.square(centred), axis=0))
        extreme = np.maximum(
            (samples == samples.max(axis=0)).mean(axis=0), (samples == samples.min(axis=0)).mean(axis=0)
        )
        power = np.square(np.abs(np.fft.rfft(centred * np.hanning(len(centred))[:, None], axis=0)))
        hum = sum(self._line(power, mains) for mains in _MAINS) / np.maximum(power.sum(axis=0), 1e-12)
        for place, column in enumerate(samples.T):
            if self.amplitude[place] < _FLAT:
                self.states[place] = "flat"
            elif extreme[place] > _CLIPPED and len(np.unique(column)) >= _LEVELS:
                self.states[place] = "clipped"
            else:
                self.states[place] = "hum" if hum[place] > _HUM else "good"

    def _line(self, power: npt.NDArray[np.float64], mains: float) -> npt.NDArray[np.float64]:
        """The power of a line of the spectrum and its harmonics, beyond that of the frequencies beside it."""
        frequencies = np.fft.rfftfreq(self._size, 1 / self._rate)
        found = np.zeros(power.shape[1])
        for harmonic in (mains, 2 * mains, 3 * mains):
            distance = np.abs(frequencies - harmonic)
            line, beside = distance <= _AROUND, (distance > _AROUND) & (distance <= _BESIDE)
            if line.any() and beside.any():
                found += np.maximum(0, power[line].sum(axis=0) - line.sum() * power[beside].mean(axis=0))
        return found
