"""What published figures of a recording show, measured on any session: spectra, levels, activity around a key press.

All functions take `emg` (T, 2 bands, 16) in µV at 2 kHz. `published` has what the figures of a recorded session show
(sub-03734552 of Sivakumar et al. 2024, NEMAR NM000104; figures of the EEGLAB tutorial).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal

from emgscribe.data.hdf5 import Emg
from emgscribe.simulation.arrays import HANDS, SAMPLE_RATE, Float64

FREQUENCIES = np.arange(40.0, 501.0, 10.0)
BEFORE, AFTER = 0.3, 0.3  # s around key-down
_PAUSE = 0.5  # s without a key: the next one begins a burst


@dataclass(frozen=True)
class Spectra:
    """Power spectra of the channels."""

    density: Float64  # (channels, FREQUENCIES), dB (µV²/Hz)
    median_frequency: Float64  # (channels,), Hz
    level: Float64  # (channels,), root mean square in µV

    @property
    def median_channel(self) -> Float64:
        """(FREQUENCIES,): the median over channels, dB."""
        return np.median(self.density, axis=0)


def spectra(emg: Emg) -> Spectra:
    """Spectra over the whole of `emg`; windows of 0.1 s."""
    frequencies, density = signal.welch(emg.reshape(len(emg), -1).T, SAMPLE_RATE, nperseg=SAMPLE_RATE // 10)
    share = np.cumsum(density, axis=1) / density.sum(axis=1, keepdims=True)
    middle = np.array([np.interp(0.5, each, frequencies) for each in share])
    at = np.rint(FREQUENCIES / frequencies[1]).astype(int)
    return Spectra(10 * np.log10(density[:, at] + 1e-12), middle, np.sqrt(density.sum(axis=1) * frequencies[1]))


def envelope(emg: Emg) -> Emg:
    """Rectified `emg`, low-passed at 20 Hz without delay."""
    sections = signal.butter(2, 20, fs=SAMPLE_RATE, output="sos")
    return np.asarray(signal.sosfiltfilt(sections, np.abs(emg), axis=0), dtype=np.float32)


def key_locked(emg: Emg, keys: Sequence[tuple[int, float]]) -> Float64:
    """(2 hands, time, 2 bands, 16): mean envelope from `BEFORE` to `AFTER` keys that begin a burst, by the key's hand.

    `keys`: (hand, seconds from the start of `emg`) of all keys in order.
    """
    smooth = envelope(emg)
    before, after = round(BEFORE * SAMPLE_RATE), round(AFTER * SAMPLE_RATE)
    found: list[list[Emg]] = [[] for _ in range(HANDS)]
    last = -np.inf
    for hand, time in keys:
        at = round(time * SAMPLE_RATE)
        if time - last > _PAUSE and before <= at < len(smooth) - after:
            found[hand].append(smooth[at - before : at + after])
        last = time
    shape = before + after, *smooth.shape[1:]
    return np.stack([np.mean(each, axis=0, dtype=np.float64) if each else np.zeros(shape) for each in found])
