"""What every encoder is: the contract between features and emissions."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from emgscribe.config import Kind
from emgscribe.models.encoders.sizes import Sized


class Encoder(nn.Module):
    """Features -> frames, `stride` feature frames to one.

    `forward(features, lengths)` takes features (N, left_context + F * stride + right_context, B, C, K) and the number
    of labelled feature frames of each item (N,), on the CPU. It returns frames (N, F, width): exactly one for every
    `stride` labelled feature frames. What comes after an item's labelled frames and `right_context` is padding. It does
    not change the frames of the labelled ones; nor do other items.

    `left_context` and `right_context` are the feature frames that the encoder needs beyond the labelled ones. Where
    `unbounded_left` or `unbounded_right` is false, no frame depends on anything further away on that side, so a session
    can be transcribed block by block. Where it is true (recurrence, attention), frames depend on all of the window on
    that side. `extrapolates` says that windows far longer than those of training work as well (recurrence does,
    attention does not).

    A dropout is an `nn.Dropout`, or a rate in a module's attribute `dropout`: training finds and schedules both.
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
class EncoderConfig(Sized, Kind):
    """Base of every architecture's settings."""

    section = "encoder"
    kinds: ClassVar[dict[str, type["EncoderConfig"]]] = {}

    def build(self, bands: int, channels: int, bins: int) -> Encoder:
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        raise NotImplementedError


class Stacked(Encoder):
    """An encoder that transforms the frames of a base encoder, with `left` and `right` frames of context.

    A subclass defines `transform`. Of the frames that it returns, those in the middle are kept; with `delay` the last
    ones, each of which then stands for what was `right` frames earlier.
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
        around = self.left + self.right
        frames = self.base(features, lengths + around * self.stride)  # (N, left + F + right, base.width)
        count = frames.shape[1] - around
        frames = self.transform(frames, count - lengths // self.stride)
        first = around if self.delay else self.left
        return frames[:, first : first + count]  # (N, F, width)

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, S, base.width), of which `padding` (N,), on the CPU, at the end are padding -> (N, S, width)."""
        raise NotImplementedError


class StackedBlocks(Stacked):
    """A `projection` to the width, `blocks`, and a last `norm`.

    A block transforms frames (N, S, width), of which `padding` (N,), on the CPU, at the end are padding, to that shape.
    """

    projection: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        hidden = self.projection(frames)  # (N, S, width)
        for block in self.blocks:
            hidden = block(hidden, padding)
        return self.norm(hidden)
