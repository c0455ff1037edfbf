"""What skin and band add to the potentials: loss of contact, gain drift, noise, hum, artefacts, filters, sampling."""

import numpy as np

from emgscribe.simulation.arrays import SAMPLE_RATE, Float32, Rng
from emgscribe.simulation.config import SimulationConfig

_GAIN_DRIFT = 0.08  # in a session, as the skin warms and sweats (standard deviation of the logarithm)
_LOST_GAIN, _LOST_NOISE, _LOST_HUM = 0.15, 6.0, 15.0


class Recorder:
    """The skin and the electronics of one band in a session of `num_samples` samples, block by block."""

    def __init__(self, config: SimulationConfig, gains: Float32, num_samples: int, rng: Rng) -> None:
        hard, electrodes = config.difficulty, config.electrodes
        from scipy import signal  # takes a second; many only check settings, or let another process simulate

        self._rng, self._gains, self._num_samples, self._done = rng, gains, num_samples, 0
        self._drifted = gains * np.expm1(_GAIN_DRIFT * hard * rng.standard_normal(electrodes)).astype(np.float32)
        # Under dry electrodes the impedance of the skin, and with it noise and hum, differs from place to place.
        skin = hard * np.exp(0.3 * rng.standard_normal(electrodes))
        self._noise = (config.noise * skin).astype(np.float32)
        self._hum = (config.hum * skin * rng.standard_normal(electrodes)).astype(np.float32)
        self._mains = config.mains_frequency * (1 + 2e-4 * rng.standard_normal())
        lost = np.flatnonzero(rng.random(electrodes) < config.poor_contact * hard)
        starts = rng.uniform(-0.2, 0.9, len(lost)) * num_samples
        ends = starts + rng.exponential(0.3, len(lost)) * num_samples  # on average a third of a session later
        self._lost = list(zip(lost, np.maximum(starts, 0).astype(int), ends.astype(int), strict=True))
        self._artefacts_per_sample = config.artefacts_per_minute * hard / 60 / SAMPLE_RATE
        self._sections = signal.butter(2, config.highpass, "highpass", fs=SAMPLE_RATE, output="sos").astype(np.float32)
        self._step = SAMPLE_RATE // config.sample_rate
        if self._step > 1:  # anti-aliasing
            low = signal.cheby1(8, 0.05, 0.8 / self._step, output="sos").astype(np.float32)
            self._sections = np.concatenate([self._sections, low])
        self._filter = signal.sosfilt
        self._state = np.zeros((len(self._sections), 2, electrodes), dtype=np.float32)

    def record(self, potentials: Float32) -> Float32:
        """What the band reports for the potentials (T, electrodes) of the next block."""
        count, electrodes = potentials.shape
        raw = potentials * (self._gains + np.float32(self._done / self._num_samples) * self._drifted)
        noise = self._rng.standard_normal((count, electrodes), dtype=np.float32) * self._noise
        angle = 2 * np.pi * self._mains / SAMPLE_RATE * (self._done + np.arange(count))
        wave = np.sin(angle) + 0.4 * np.sin(3 * angle + 1)  # the mains frequency and its third harmonic
        hum = wave[:, None].astype(np.float32) * self._hum
        for channel, start, end in self._lost:
            lost = slice(max(start - self._done, 0), max(end - self._done, 0)), channel
            raw[lost] *= _LOST_GAIN
            noise[lost] *= _LOST_NOISE
            hum[lost] *= _LOST_HUM
        raw += noise + hum
        # Artefacts are damped oscillations on a few neighbouring electrodes, as from a tug at the band.
        for start in self._rng.integers(count, size=self._rng.poisson(self._artefacts_per_sample * count)):
            seconds = np.arange(min(count - start, SAMPLE_RATE // 2)) / SAMPLE_RATE
            swing = np.exp(-seconds / 0.08) * np.sin(2 * np.pi * self._rng.uniform(8, 35) * seconds)
            around = (np.arange(electrodes) - self._rng.integers(electrodes)) % electrodes
            size = self._rng.uniform(30, 300) * np.exp(-np.minimum(around, electrodes - around) / 1.5)
            raw[start : start + len(seconds)] += (swing[:, None] * size).astype(np.float32)
        filtered, self._state = self._filter(self._sections, raw, axis=0, zi=self._state)
        first = -self._done % self._step
        self._done += count
        return np.asarray(filtered[first :: self._step], dtype=np.float32)
