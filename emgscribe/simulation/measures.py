"""Measures of EMG, the same for simulated sessions and recordings, by the names of the rows in `published`."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import signal

from emgscribe.data.hdf5 import SAMPLE_RATE, Emg
from emgscribe.simulation.arrays import Float32, Float64

_WINDOW = SAMPLE_RATE // 10  # samples


def measure_emg(recordings: Sequence[Emg]) -> dict[str, float]:
    """Means over recordings (T, 2, 16)."""
    found = defaultdict[str, list[float]](list)
    for emg in recordings:
        channels = emg.reshape(len(emg), -1)
        for at, level in zip(
            ("10 %", "median", "90 %"), np.percentile(channels.std(axis=0), [10, 50, 90]), strict=True
        ):
            found[f"root mean square of a channel, {at}"].append(float(level))
        frequencies, power = signal.welch(channels, SAMPLE_RATE, nperseg=_WINDOW, axis=0)
        middle = frequencies[(np.cumsum(power, axis=0) < power.sum(axis=0) / 2).sum(axis=0)]
        found["median frequency of a channel"].append(float(np.median(middle)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def correlation_by_distance(emg: Float32) -> Float64:
    """(9,): mean correlation between electrodes 0 to 8 steps apart on the ring, in `emg` (T, 16)."""
    correlation = np.asarray(np.corrcoef(emg, rowvar=False))
    ring = np.arange(len(correlation))
    return np.array([correlation[ring, np.roll(ring, -step)].mean() for step in range(len(ring) // 2 + 1)])
