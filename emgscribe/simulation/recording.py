"""What skin and band add to the potentials: contact, gain drift, noise, hum, artefacts, and the high-pass filter."""

import numpy as np
import numpy.typing as npt
from scipy import signal

from emgscribe.data.hdf5 import CHANNELS, SAMPLE_RATE
from emgscribe.simulation.config import SimulationConfig

Array = npt.NDArray[np.float32]

# How far an electrode's gain wanders in one session as skin warms and sweats (standard deviation of its logarithm).
_GAIN_DRIFT = 0.08
_LOST_GAIN, _LOST_NOISE, _LOST_HUM = 0.15, 6.0, 15.0


class Recorder:
    """One band's skin and electronics over a session of `num_samples`, block by block; filter state is carried."""

    def __init__(self, config: SimulationConfig, gains: Array, num_samples: int, rng: np.random.Generator) -> None:
        hard = config.difficulty
        self._rng, self._num_samples, self._done = rng, num_samples, 0
        self._gains = gains
        self._drifted = gains * np.expm1(_GAIN_DRIFT * hard * rng.standard_normal(CHANNELS)).astype(np.float32)
        # Dry electrodes: the impedance of the skin, and with it noise and hum, differs from place to place.
        skin = hard * np.exp(0.3 * rng.standard_normal(CHANNELS))
        self._noise = (config.noise * skin).astype(np.float32)
        self._hum = (config.hum * skin * rng.standard_normal(CHANNELS)).astype(np.float32)
        self._mains = config.mains_frequency * (1 + 2e-4 * rng.standard_normal())
        self._lost = _losses(rng, config.poor_contact * hard, num_samples)
        self._artefacts_per_sample = config.artefacts_per_minute * hard / 60 / SAMPLE_RATE
        self._sections = signal.butter(2, config.highpass, "highpass", fs=SAMPLE_RATE, output="sos").astype(np.float32)
        self._state = np.zeros((len(self._sections), 2, CHANNELS), dtype=np.float32)

    def record(self, potentials: Array) -> Array:
        """What the band reports for the potentials (T, 16) of the next block."""
        count = len(potentials)
        raw = potentials * (self._gains + np.float32(self._done / self._num_samples) * self._drifted)
        noise = self._rng.standard_normal((count, CHANNELS), dtype=np.float32) * self._noise
        hum = self._hum_wave(count)[:, None] * self._hum
        for channel, start, end in self._lost:
            lost = slice(max(start - self._done, 0), max(end - self._done, 0)), channel
            raw[lost] *= _LOST_GAIN
            noise[lost] *= _LOST_NOISE
            hum[lost] *= _LOST_HUM
        raw += noise + hum
        self._add_artefacts(raw)
        self._done += count
        filtered, self._state = signal.sosfilt(self._sections, raw, axis=0, zi=self._state)
        return np.asarray(filtered, dtype=np.float32)

    def _hum_wave(self, count: int) -> Array:
        """The mains and its third harmonic over the next `count` samples."""
        angle = 2 * np.pi * self._mains / SAMPLE_RATE * (self._done + np.arange(count))
        return np.asarray(np.sin(angle) + 0.4 * np.sin(3 * angle + 1), dtype=np.float32)

    def _add_artefacts(self, raw: Array) -> None:
        """A tug at the band: a damped swing on a few neighbouring electrodes."""
        for start in self._rng.integers(len(raw), size=self._rng.poisson(self._artefacts_per_sample * len(raw))):
            seconds = np.arange(min(len(raw) - start, SAMPLE_RATE // 2)) / SAMPLE_RATE
            swing = np.exp(-seconds / 0.08) * np.sin(2 * np.pi * self._rng.uniform(8, 35) * seconds)
            around = (np.arange(CHANNELS) - self._rng.integers(CHANNELS)) % CHANNELS
            size = self._rng.uniform(30, 300) * np.exp(-np.minimum(around, CHANNELS - around) / 1.5)
            raw[start : start + len(seconds)] += (swing[:, None] * size).astype(np.float32)


def _losses(rng: np.random.Generator, chance: float, num_samples: int) -> list[tuple[int, int, int]]:
    """(electrode, first sample, end) of stretches of bad contact, a third of a session in the mean."""
    channels = np.flatnonzero(rng.random(CHANNELS) < chance)
    starts = rng.uniform(-0.2, 0.9, len(channels)) * num_samples
    lengths = rng.exponential(0.3, len(channels)) * num_samples
    return [
        (int(channel), max(int(start), 0), int(start + length))
        for channel, start, length in zip(channels, starts, lengths, strict=True)
    ]
