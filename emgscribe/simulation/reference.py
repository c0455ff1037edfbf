"""Measures of a real recording, to compare simulated sessions with; the recording is not part of the project.

Four bipolar channels around the proximal forearm at 2 kHz, ten hand movements of 3 s contraction and 3 s rest, from the
BioPatRec repository (Ortiz-Catalan, Brånemark and Håkansson 2013), high-passed at 40 Hz and given to `measures.measure`
as 40 channels (4 channels x 10 movements). Place on the arm, amplifier and task differ from the wristbands': simulated
sessions should be near these values, not equal to them.
"""

import numpy as np

# 10th, 50th and 90th percentile over channels and movements; units as in `measures.Measures`.
PERCENTILES: dict[str, tuple[float, float, float]] = {
    "median_frequency": (140.0, 170.0, 241.0),
    "kurtosis": (0.87, 2.13, 7.95),
    "local_kurtosis": (0.35, 0.73, 1.91),
    "contrast": (3.27, 6.89, 17.58),
}

# fmt: off
# Share of the active power in every 10 Hz from 0 Hz to 600 Hz, in thousandths.
SPECTRUM = np.array([
    0.0, 0.2, 3.0, 7.3, 6.2, 5.6, 8.2, 19.0, 32.5, 44.7, 50.7, 52.4, 50.1, 50.3, 45.5, 40.9, 35.8, 34.5, 36.8, 35.0,
    31.1, 27.9, 26.6, 26.2, 22.0, 21.7, 18.5, 16.1, 15.1, 13.7, 12.4, 11.6, 10.5, 9.3, 9.4, 11.3, 9.3, 8.4, 8.6, 7.2,
    6.0, 5.9, 6.1, 5.4, 5.3, 6.5, 4.3, 3.5, 3.0, 2.8, 2.6, 2.3, 2.1, 1.9, 1.9, 1.7, 1.6, 1.5, 1.4, 1.3, 1.3,
])

# Density of the active samples in bins of 0.2 from -6 to 6 times their window's root mean square, in thousandths.
AMPLITUDES = np.array([
    0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.3, 0.4, 0.6, 0.9, 1.1, 1.7, 2.8, 4.2, 5.8, 8.8, 12.5, 18.4, 26.9, 39.3,
    55.7, 80.6, 109.0, 144.1, 195.6, 248.2, 309.1, 370.9, 426.9, 461.4, 450.4, 409.8, 360.7, 297.4, 238.7, 188.0,
    146.5, 111.1, 79.1, 57.0, 42.0, 28.8, 20.0, 13.9, 10.0, 6.6, 4.3, 3.1, 2.2, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.2,
    0.1, 0.1, 0.0, 0.0,
])
# fmt: on
