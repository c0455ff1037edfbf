"""Measures that tell whether a signal looks like surface EMG, the same for simulated sessions and real recordings."""

from dataclasses import dataclass

import numpy as np
from scipy import signal, stats

from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.simulation.arrays import Float32, Float64

_SIZE = SAMPLE_RATE // 10  # samples in a window; a burst lasts about 0.1 s
_EDGES = np.linspace(-6, 6, 61)
AMPLITUDES = (_EDGES[1:] + _EDGES[:-1]) / 2
FREQUENCIES = np.arange(61) * SAMPLE_RATE / _SIZE


@dataclass(frozen=True)
class Measures:
    """What `measure` finds in a signal."""

    percentiles: dict[str, list[float]]  # the 10th, 50th and 90th over channels of each measure of a channel
    spectrum: Float64  # share of the active power at FREQUENCIES, in Hz; mean over channels
    amplitudes: Float64  # density of the active samples at AMPLITUDES, in units of their window's root mean square


def measure(emg: Float32) -> Measures:
    """Measures of `emg` (T, C) at 2 kHz, high-passed at 40 Hz by the band or the caller; at least 1 s long.

    In each channel, the 30 % of windows with the most power are active and the 10 % with the least are quiet. So the
    same rule holds for typing and for long contractions.
    """
    count = len(emg) // _SIZE
    windows = emg[: count * _SIZE].reshape(count, _SIZE, -1).astype(np.float64).transpose(2, 0, 1)
    power = np.sqrt((windows**2).mean(axis=2))  # (C, windows)
    order = np.argsort(power, axis=1)
    active, quiet = order[:, -int(0.3 * count) :], order[:, : int(0.1 * count)]
    level, rest = (np.sqrt((np.take_along_axis(power, some, axis=1) ** 2).mean(axis=1)) for some in (active, quiet))
    chosen = np.take_along_axis(windows, active[:, :, None], axis=1)  # (C, active, samples)
    local = chosen / np.sqrt((chosen**2).mean(axis=2, keepdims=True) + 1e-20)
    frequencies, densities = signal.welch(chosen, SAMPLE_RATE, nperseg=_SIZE, detrend=False, axis=2)
    spectra = densities.mean(axis=1)
    spectra /= spectra.sum(axis=1, keepdims=True)
    channels = {
        "median_frequency": frequencies[(np.cumsum(spectra, axis=1) < 0.5).sum(axis=1)],  # Hz
        "kurtosis": stats.kurtosis(chosen.reshape(len(chosen), -1), axis=1),  # excess kurtosis of the active windows
        "local_kurtosis": stats.kurtosis(local.reshape(len(local), -1), axis=1),  # with windows of unit power
        "contrast": 20 * np.log10(level / np.maximum(rest, 1e-9)),  # active over quiet windows, in dB
        "level": level,  # root mean square of the active windows
    }
    return Measures(
        percentiles={name: np.percentile(each, [10, 50, 90]).round(2).tolist() for name, each in channels.items()},
        spectrum=spectra.mean(axis=0)[: len(FREQUENCIES)],
        amplitudes=np.histogram(local, _EDGES, density=True)[0],
    )


def correlation_by_distance(emg: Float32) -> Float64:
    """(9,): mean correlation between electrodes 0 to 8 steps apart on the ring, in `emg` (T, 16)."""
    correlation = np.asarray(np.corrcoef(emg, rowvar=False))
    ring = np.arange(len(correlation))
    return np.array([correlation[ring, np.roll(ring, -step)].mean() for step in range(len(ring) // 2 + 1)])


# Four bipolar channels around the proximal forearm at 2 kHz, ten hand movements of 3 s contraction and 3 s rest, from
# the BioPatRec repository (Ortiz-Catalan, Brånemark and Håkansson 2013), high-passed at 40 Hz and measured as 40
# channels (4 channels x 10 movements). The recording is not part of the project. Place on the arm, amplifier and task
# differ from the wristbands': simulated sessions should be near these values, not equal to them.
# fmt: off
RECORDING = Measures(
    percentiles={
        "median_frequency": [140.0, 170.0, 241.0],
        "kurtosis": [0.87, 2.13, 7.95],
        "local_kurtosis": [0.35, 0.73, 1.91],
        "contrast": [3.27, 6.89, 17.58],
    },
    spectrum=np.array([
        0.0, 0.2, 3.0, 7.3, 6.2, 5.6, 8.2, 19.0, 32.5, 44.7, 50.7, 52.4, 50.1, 50.3, 45.5, 40.9, 35.8, 34.5, 36.8, 35.0,
        31.1, 27.9, 26.6, 26.2, 22.0, 21.7, 18.5, 16.1, 15.1, 13.7, 12.4, 11.6, 10.5, 9.3, 9.4, 11.3, 9.3, 8.4, 8.6,
        7.2, 6.0, 5.9, 6.1, 5.4, 5.3, 6.5, 4.3, 3.5, 3.0, 2.8, 2.6, 2.3, 2.1, 1.9, 1.9, 1.7, 1.6, 1.5, 1.4, 1.3, 1.3,
    ]) / 1000,
    amplitudes=np.array([
        0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.3, 0.4, 0.6, 0.9, 1.1, 1.7, 2.8, 4.2, 5.8, 8.8, 12.5, 18.4, 26.9, 39.3,
        55.7, 80.6, 109.0, 144.1, 195.6, 248.2, 309.1, 370.9, 426.9, 461.4, 450.4, 409.8, 360.7, 297.4, 238.7, 188.0,
        146.5, 111.1, 79.1, 57.0, 42.0, 28.8, 20.0, 13.9, 10.0, 6.6, 4.3, 3.1, 2.2, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.2,
        0.1, 0.1, 0.0, 0.0,
    ]) / 1000,
)
# fmt: on
