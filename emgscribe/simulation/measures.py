"""Measures that tell whether a signal looks like surface EMG, the same for simulated sessions and real recordings."""

from dataclasses import dataclass

import numpy as np
from scipy import signal, stats

from emgscribe.simulation.arrays import Float32, Float64

# A window of 0.1 s has about the length of a burst.
_WINDOW_SECONDS = 0.1
_ACTIVE_SHARE, _QUIET_SHARE = 0.3, 0.1
_BINS = np.linspace(-6, 6, 61)
BIN_CENTRES = (_BINS[1:] + _BINS[:-1]) / 2  # of `Measures.amplitudes`


@dataclass(frozen=True)
class Measures:
    """What `measure` finds in a signal of C channels."""

    median_frequency: Float64  # (C,), of the active windows, in Hz
    kurtosis: Float64  # (C,), excess kurtosis of the active windows
    local_kurtosis: Float64  # (C,), the same with each window scaled to unit power, so that bursts do not count
    contrast: Float64  # (C,), active over quiet windows, in dB
    level: Float64  # (C,), root mean square of the active windows
    frequencies: Float64  # (frequencies,), of the spectrum, in Hz
    spectrum: Float64  # (frequencies,), mean over channels of the active power, each channel scaled to sum 1
    amplitudes: Float64  # (bins,), density of the active samples in units of their window's root mean square

    def percentiles(self) -> dict[str, list[float]]:
        """The 10th, 50th and 90th percentile over channels of every measure that has one value per channel."""
        names = ("median_frequency", "kurtosis", "local_kurtosis", "contrast", "level")
        return {name: np.percentile(getattr(self, name), [10, 50, 90]).round(2).tolist() for name in names}


def measure(emg: Float32, rate: float) -> Measures:
    """Measures of `emg` (T, C) at `rate` Hz, high-passed at 40 Hz by the band or the caller; at least 1 s long.

    In each channel, the 30 % of windows with the most power are active and the 10 % with the least are quiet. So the
    same rule holds for typing and for long contractions.
    """
    size = int(_WINDOW_SECONDS * rate)
    count = len(emg) // size
    windows = emg[: count * size].reshape(count, size, -1).astype(np.float64).transpose(2, 0, 1)  # (C, windows, size)
    power = np.sqrt((windows**2).mean(axis=2))
    order = np.argsort(power, axis=1)
    active = order[:, -max(int(_ACTIVE_SHARE * count), 1) :]
    quiet = order[:, : max(int(_QUIET_SHARE * count), 1)]
    chosen = np.take_along_axis(windows, active[:, :, None], axis=1)  # (C, active, size)
    level = _root_mean_square(np.take_along_axis(power, active, axis=1))
    rest = _root_mean_square(np.take_along_axis(power, quiet, axis=1))
    frequencies, densities = signal.welch(chosen, rate, nperseg=size, detrend=False, axis=2)
    spectra = np.asarray(densities, dtype=np.float64).mean(axis=1)
    spectra /= spectra.sum(axis=1, keepdims=True)
    local = chosen / np.sqrt((chosen**2).mean(axis=2, keepdims=True) + 1e-20)
    return Measures(
        median_frequency=frequencies[(np.cumsum(spectra, axis=1) < 0.5).sum(axis=1)],
        kurtosis=_excess_kurtosis(chosen),
        local_kurtosis=_excess_kurtosis(local),
        contrast=20 * np.log10(level / np.maximum(rest, 1e-9)),
        level=level,
        frequencies=frequencies,
        spectrum=spectra.mean(axis=0),
        amplitudes=np.histogram(local, _BINS, density=True)[0],
    )


def _root_mean_square(values: Float64) -> Float64:
    return np.asarray(np.sqrt((values**2).mean(axis=1)))


def _excess_kurtosis(windows: Float64) -> Float64:
    return np.asarray(stats.kurtosis(windows.reshape(len(windows), -1), axis=1))


def correlation_by_distance(emg: Float32) -> Float64:
    """(9,): mean correlation between electrodes 0 to 8 steps apart on the ring, in `emg` (T, 16)."""
    correlation = np.asarray(np.corrcoef(emg, rowvar=False))
    channels = emg.shape[1]
    around = np.arange(channels)
    return np.array([correlation[around, (around + step) % channels].mean() for step in range(channels // 2 + 1)])
