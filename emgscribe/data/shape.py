"""The shape of a recording: its bands, the electrodes of each, and the sampling rate."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from emgscribe.config import Range, Settings, require
from emgscribe.errors import EmgscribeError

Band = Literal["left", "right"]
MIN_HZ, MAX_HZ = 10, 100_000  # Hz
PUBLISHED_RATE = 2000.0  # Hz, of the data set: settings in samples are written for it


@dataclass(frozen=True)
class Shape(Settings):
    """What one sample of a recording holds, and how often one is taken; by default as in the emg2qwerty data set."""

    section = "shape"
    bands: tuple[Band, ...] = ("left", "right")  # one band or two, by the arm that wears it; left first
    electrodes: Annotated[int, Range(1, 256)] = 16  # electrode channels of each band
    rate: Annotated[float, Range(MIN_HZ, MAX_HZ)] = PUBLISHED_RATE  # samples a second

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bands in (("left",), ("right",), ("left", "right")), "shape.bands", self.bands, "left, right")

    def __str__(self) -> str:
        bands = f"{len(self.bands)} bands" if len(self.bands) > 1 else f"a {self.bands[0]} band"
        return f"{bands} of {self.electrodes} electrodes at {self.rate:g} Hz"

    @property
    def sample(self) -> tuple[int, int]:
        """How many bands, and electrodes of each, one sample has."""
        return len(self.bands), self.electrodes

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the bands' fields in a session file."""
        return tuple(f"emg_{band}" for band in self.bands)

    @property
    def row(self) -> np.dtype[np.void]:
        """A sample as it is in a session file: its time in unix seconds, then the electrodes of each band."""
        return np.dtype([("time", "<f8"), *((name, "<f4", (self.electrodes,)) for name in self.fields)])

    def checked(self, samples: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Samples (T, B, C) as PyTorch takes them; `EmgscribeError` for another shape or what is not finite."""
        found, row = np.require(samples, np.float32, ["C", "W"]), self.sample
        if found.ndim != 3 or found.shape[1:] != row:
            what = f"samples have shape {found.shape}, expected (samples, {row[0]}, {row[1]})"
            raise EmgscribeError(what, hint=f"the model reads {self}")
        if not np.isfinite(found).all():
            raise EmgscribeError("some samples are not finite", hint="put 0 in their place")
        return found

    def samples(self, seconds: float) -> int:
        """The number of samples in `seconds`."""
        return round(seconds * self.rate)
