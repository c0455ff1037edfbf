"""Emissions -> keystrokes: the decoder protocol, and greedy decoding."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from emgscribe.data.charset import BLANK, NUM_CLASSES, text_of_labels
from emgscribe.errors import EmgscribeError

Emissions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hypothesis:
    """What a decoder has read so far: `labels`, and for each the frame in which it began (its onset)."""

    labels: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The symbols of the labels."""
        return text_of_labels(self.labels)


class Decoder(Protocol):
    """Reads emissions (F, V) chunk by chunk; any chunking of the same emissions gives the same hypothesis."""

    def reset(self) -> None:
        """Forget everything read."""

    def feed(self, emissions: Emissions) -> Hypothesis:
        """Read F more frames (F, V) of log-probabilities; returns the hypothesis up to now."""

    def flush(self) -> Hypothesis:
        """Return the final hypothesis: nothing more will be fed before the next `reset`."""


class GreedyDecoder:
    """The best class of each frame, repeats merged, blanks dropped (Graves et al. 2006, best path decoding)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything read."""
        self._last, self._read = BLANK, 0
        self._labels: list[int] = []
        self._frames: list[int] = []

    def feed(self, emissions: Emissions) -> Hypothesis:
        """Read F more frames (F, 99); raises `EmgscribeError` on another number of classes or on NaN."""
        check_emissions(emissions)
        best = emissions.argmax(axis=1) if len(emissions) else np.empty(0, dtype=np.int64)
        before = np.concatenate([[self._last], best[:-1]]) if len(best) else best
        begun = np.flatnonzero((best != BLANK) & (best != before))
        self._labels += best[begun].tolist()
        self._frames += (begun + self._read).tolist()
        self._read += len(best)
        self._last = int(best[-1]) if len(best) else self._last
        return self.flush()

    def flush(self) -> Hypothesis:
        """The hypothesis of all that was read."""
        return Hypothesis(tuple(self._labels), tuple(self._frames))


def check_emissions(emissions: Emissions) -> None:
    """Refuse what no decoder can read: another shape than (F, 99), or NaN."""
    hint = "feed the output of a model, one item at a time"
    if emissions.ndim != 2 or emissions.shape[1] != NUM_CLASSES:
        raise EmgscribeError(f"emissions have shape {emissions.shape}, expected (frames, {NUM_CLASSES})", hint=hint)
    if np.isnan(emissions).any():
        frame = int(np.argmax(np.isnan(emissions).any(axis=1)))
        raise EmgscribeError(
            f"emissions are NaN from frame {frame} on", hint="check the recording: emgscribe inspect FILE"
        )


def decode(decoder: Decoder, emissions: Emissions) -> Hypothesis:
    """Decode emissions (F, V) at once: reset, feed, flush."""
    decoder.reset()
    decoder.feed(emissions)
    return decoder.flush()


def decode_batch(decoder: Decoder, emissions: Tensor, frames: Tensor) -> list[Hypothesis]:
    """Decode each item of emissions (N, F, V) over its first `frames[n]` frames."""
    items = emissions.detach().float().cpu().numpy()
    return [decode(decoder, item[:length]) for item, length in zip(items, frames.tolist(), strict=True)]
