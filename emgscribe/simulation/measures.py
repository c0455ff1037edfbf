"""Measures of EMG, the same for simulated sessions and recordings, by the names of the rows in `published`."""

from collections.abc import Sequence

import numpy as np

from emgscribe.data.hdf5 import Emg
from emgscribe.simulation.activity import BEFORE, FREQUENCIES, Spectra, key_locked
from emgscribe.simulation.arrays import SAMPLE_RATE
from emgscribe.simulation.published import spectrum as published_spectrum

_AFTERWARDS = 0.1  # s after key-down; later, the next key is there


def measure_emg(emg: Emg, found: Spectra, keys: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Numbers of `emg` (T, 2, 16) and its spectra; `keys` are (hand, seconds from the start of `emg`) in order."""
    levels = {}
    for at, level in zip(("10 %", "median", "90 %"), np.percentile(found.level, [10, 50, 90]), strict=True):
        levels[f"root mean square of a channel, {at}"] = float(level)
    curves = {"median": found.median_channel, "strongest": found.density[found.level.argmax()]}
    spectrum = {
        f"spectrum of the {which} channel, {frequency} Hz": float(np.interp(frequency, FREQUENCIES, curve))
        for which, curve in curves.items()
        for frequency in published_spectrum(which)
    }
    around = key_locked(emg, keys)[:, : round((BEFORE + _AFTERWARDS) * SAMPLE_RATE)].mean(axis=3)  # (hand, time, band)
    peaks = {
        f"largest activity after key-down, {side} hand": 1000 * (around[hand, :, hand].argmax() / SAMPLE_RATE - BEFORE)
        for hand, side in enumerate(("left", "right"))
        if around[hand].any()
    }
    return levels | spectrum | peaks | {"median frequency of a channel": float(np.median(found.median_frequency))}
