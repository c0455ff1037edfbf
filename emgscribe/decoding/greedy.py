"""Greedy decoding of emissions."""

import numpy as np

from emgscribe.data.charset import BLANK
from emgscribe.decoding.decoder import Decoder, Emissions, Hypothesis, check_emissions


class GreedyDecoder(Decoder):
    """The best class of each frame, repeats merged, blanks dropped (Graves et al. 2006, best path decoding)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._last, self._read = BLANK, 0
        self._labels: list[int] = []
        self._frames: list[int] = []

    def feed(self, log_probs: Emissions) -> Hypothesis:
        check_emissions(log_probs)
        best = log_probs.argmax(axis=1)
        path = np.concatenate([[self._last], best])
        begun = np.flatnonzero((best != BLANK) & (best != path[:-1]))
        self._labels += best[begun].tolist()
        self._frames += (begun + self._read).tolist()
        self._read += len(best)
        self._last = int(path[-1])
        return self.flush()

    def flush(self) -> Hypothesis:
        return Hypothesis(tuple(self._labels), tuple(self._frames))

    def settle(self, before: int) -> Hypothesis:
        settled, self._labels, self._frames = self.flush(), [], []
        return settled
