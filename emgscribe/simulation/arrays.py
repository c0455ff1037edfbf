"""What all of the simulation shares: types of arrays and generators, the two hands, the rate of its signals."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Rng = np.random.Generator

HANDS = 2
SAMPLE_RATE = 2000  # Hz, of potentials; a band may report fewer
