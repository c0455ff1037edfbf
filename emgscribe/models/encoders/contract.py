"""What every encoder is: the contract between features and emissions."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from emgscribe.config import Kind


class Encoder(nn.Module):
    """Features -> frames, `stride` feature frames to one.

    `forward(features, lengths)` takes features (N, left_context + F * stride + right_context, B, C, K) and the
    number of feature frames (N,) that are labelled in each item, on the CPU, and returns frames (N, F, width): exactly
    one for every `stride` labelled feature frames. What comes later than an item's labelled frames and
    `right_context` is padding, and has no part in the frames of its labelled ones; nor have other items.

    `left_context` and `right_context` are the feature frames that the encoder is given beyond the labelled ones. Where
    `unbounded_left` or `unbounded_right` is false, no frame depends on anything beyond that many feature frames on
    that side, so that a session can be read block by block; where true (recurrence, attention) frames depend on all
    that the window has on that side, and the context is merely what a window brings along. `extrapolates` says that
    windows far longer than those of training are read as well as those (recurrence; not attention).
    """

    width: int
    stride: int = 1
    left_context: int = 0
    right_context: int = 0
    unbounded_left: bool = False
    unbounded_right: bool = False
    extrapolates: bool = True

    @property
    def causal(self) -> bool:
        """Whether no frame depends on a later feature frame than those it stands for."""
        return self.right_context == 0 and not self.unbounded_right

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F * stride + right_context, B, C, K) -> frames (N, F, width)."""
        raise NotImplementedError


@dataclass(frozen=True)
class EncoderConfig(Kind):
    """Base of every architecture's parameters. `build` makes the network for features of a given shape."""

    section = "encoder"
    kinds: ClassVar[dict[str, type["EncoderConfig"]]] = {}

    def build(self, bands: int, channels: int, bins: int) -> Encoder:
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        raise NotImplementedError


class Stacked(Encoder):
    """An encoder that reads the frames of another one, `base`, and asks it for `left` and `right` frames of context.

    A subclass makes of the frames (N, left + F + right, base.width) as many of its own in `upon`, told how many at the
    end of each item are padding; the `F` in the middle are returned, or with `delay` the last ones, each of which then
    stands for what was `right` frames earlier.
    """

    def __init__(self, base: Encoder, left: int, right: int, *, delay: bool = False) -> None:
        super().__init__()
        self.base, self.left, self.right, self.delay = base, left, right, delay
        self.width, self.stride, self.extrapolates = base.width, base.stride, base.extrapolates
        self.left_context = base.left_context + left * base.stride
        self.right_context = base.right_context + right * base.stride
        self.unbounded_left, self.unbounded_right = base.unbounded_left, base.unbounded_right

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F * stride + right_context, B, C, K) -> frames (N, F, width)."""
        frames = self.base(
            features, lengths + (self.left + self.right) * self.stride
        )  # (N, left + F + right, base.width)
        count = frames.shape[1] - self.left - self.right
        frames = self.transform(frames, count - lengths // self.stride)
        first = self.left + self.right if self.delay else self.left
        return frames[:, first : first + count]  # (N, F, width)

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, left + F + right, base.width), padding frames at each item's end (N,) -> (N, as many, width)."""
        raise NotImplementedError


class StackedBlocks(Stacked):
    """Frames of `base` through a `projection` to the width, `blocks` that are told of the padding, and a last `norm`."""

    projection: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, base.width), of which `padding` (N,) at the end are none -> (N, F, width)."""
        hidden = self.projection(frames)  # (N, F, width)
        for block in self.blocks:
            hidden = block(hidden, padding)
        normed: Tensor = self.norm(hidden)
        return normed
