"""Emissions -> keystrokes: what every decoder does."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from emgscribe.data.charset import NUM_CLASSES, text_of_labels
from emgscribe.errors import EmgscribeError

Emissions = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Hypothesis:
    """What a decoder has read so far: `labels`, and for each the frame in which it began (its onset)."""

    labels: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Hypothesis of {len(self.labels)} keys: {self.text[:40]!r}{'…' * (len(self.labels) > 40)}>"

    @property
    def text(self) -> str:
        """The keystrokes, with ⌫ ⏎ and ⇧ as symbols."""
        return text_of_labels(self.labels)


class Decoder(ABC):
    """Reads log-probabilities (F, V) chunk by chunk; any chunking gives the same hypothesis.

    A decoder of your own is a subclass with these three methods; `decode` comes with it.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What a result stores about the decoder, ready for JSON; by default nothing."""
        return {}

    @abstractmethod
    def reset(self) -> None:
        """Forget everything read."""

    @abstractmethod
    def feed(self, log_probs: Emissions) -> Hypothesis:
        """Read F more frames (F, V); returns the best hypothesis up to now, whose end may still change."""

    @abstractmethod
    def flush(self) -> Hypothesis:
        """Return the final hypothesis: nothing more will be fed before the next `reset`."""

    def settle(self, before: int) -> Hypothesis:
        """Take out the keys that nothing fed later can change, and those that began before the frame `before`.

        The latter are taken as the best hypothesis has them. Later hypotheses start after what was taken out, so that
        an endless stream needs bounded memory. A decoder that does not define this settles nothing before the end.
        """
        return Hypothesis()

    def decode(self, log_probs: Emissions) -> Hypothesis:
        """The hypothesis for log-probabilities (F, V) of a whole recording."""
        self.reset()
        self.feed(log_probs)
        return self.flush()


def check_emissions(log_probs: Emissions) -> None:
    """Refuse what no decoder can read: a shape other than (F, 99), or NaN."""
    hint = "feed the output of a model, one item at a time"
    if log_probs.ndim != 2 or log_probs.shape[1] != NUM_CLASSES:
        raise EmgscribeError(f"emissions have shape {log_probs.shape}, expected (frames, {NUM_CLASSES})", hint=hint)
    if np.isnan(log_probs).any():
        frame = int(np.argmax(np.isnan(log_probs).any(axis=1)))
        hint = "check the model, and the recording: emgscribe inspect FILE"
        raise EmgscribeError(f"emissions are NaN from frame {frame} on", hint=hint)


def decode_batch(decoder: Decoder, log_probs: Tensor, frames: Tensor) -> list[Hypothesis]:
    """Decode each item of log-probabilities (N, F, V) over its first `frames[n]` frames."""
    items = log_probs.detach().float().cpu().numpy()
    return [decoder.decode(item[:length]) for item, length in zip(items, frames.tolist(), strict=True)]
