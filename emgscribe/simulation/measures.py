"""Figures that say whether a signal looks like surface EMG, computed alike on simulated and on real recordings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

Floats = npt.NDArray[np.float64]

# Windows of a tenth of a second are about one burst of typing; bursts and pauses are told apart by their power.
_WINDOW_SECONDS = 0.1
_ACTIVE_SHARE, _QUIET_SHARE = 0.3, 0.1
_BINS = np.linspace(-6, 6, 61)


@dataclass(frozen=True)
class Figures:
    """What `measure` finds, for each of C electrode channels.

    `median_frequency` in Hz of the active tenths of a second; `kurtosis` (excess) of the active samples as they are and
    `local_kurtosis` of the same samples with every window scaled to unit power, which takes the coming and going of
    bursts out; `contrast` in dB between active and quiet windows; `level` the root mean square of the active windows.
    `spectrum` (frequencies,) is the mean over channels of the active power, each channel scaled to sum 1, at
    `frequencies`; `amplitudes` (bins,) the density of active samples in units of their window's root mean square.
    """

    median_frequency: Floats
    kurtosis: Floats
    local_kurtosis: Floats
    contrast: Floats
    level: Floats
    frequencies: Floats
    spectrum: Floats
    bin_centres: Floats
    amplitudes: Floats

    def percentiles(self) -> dict[str, list[float]]:
        """The 10th, 50th and 90th percentile over channels of every figure that is one number a channel."""
        names = ("median_frequency", "kurtosis", "local_kurtosis", "contrast", "level")
        return {name: np.percentile(getattr(self, name), [10, 50, 90]).round(2).tolist() for name in names}


def measure(emg: npt.NDArray[np.float32], rate: float) -> Figures:
    """The figures of `emg` (T, C), high-passed at 40 Hz by the band or the caller; at least ten windows long.

    Active are the three tenths of the windows with the most power, quiet the one tenth with the least, each channel by
    itself, so that the same rule serves typing and long contractions.
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
    density, _ = np.histogram(local, _BINS, density=True)
    return Figures(
        median_frequency=frequencies[(np.cumsum(spectra, axis=1) < 0.5).sum(axis=1)],
        kurtosis=_excess_kurtosis(chosen),
        local_kurtosis=_excess_kurtosis(local),
        contrast=20 * np.log10(level / np.maximum(rest, 1e-9)),
        level=level,
        frequencies=frequencies,
        spectrum=spectra.mean(axis=0),
        bin_centres=(_BINS[1:] + _BINS[:-1]) / 2,
        amplitudes=density,
    )


def _root_mean_square(values: Floats) -> Floats:
    squared: Floats = np.sqrt((values**2).mean(axis=1))
    return squared


def _excess_kurtosis(windows: Floats) -> Floats:
    """(C,) of windows (C, windows, size)."""
    kurtosis: Floats = stats.kurtosis(windows.reshape(windows.shape[0], -1), axis=1)
    return kurtosis


def correlation_by_distance(emg: npt.NDArray[np.float32]) -> Floats:
    """(9,): mean correlation between electrodes 0..8 steps apart on the ring, over `emg` (T, 16)."""
    correlation = np.asarray(np.corrcoef(emg, rowvar=False))
    channels = emg.shape[1]
    around = np.arange(channels)
    return np.array([correlation[around, (around + step) % channels].mean() for step in range(channels // 2 + 1)])
