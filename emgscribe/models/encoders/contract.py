"""The contract of every encoder, between features and emissions, and the types of a network's sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from emgscribe.config import Kind, Range, Settings
from emgscribe.errors import EmgscribeError
from emgscribe.models.steps import Dropped, Sliding, Step, each


@dataclass(frozen=True)
class Shrinks:
    """Metadata of a size, after its `Range`: what `small` divides it by."""

    divisor: int


# The features of the front end shrink to a quarter, those of other layers to a half. Frames shrink to a third, since a
# frame of the small budget lasts three times as long. The special values 0 and -1 stay. The upper ends are far above
# what is useful, and low enough that no network built from them overflows.
Front = Annotated[int, Range(1, 1 << 14), Shrinks(4)]
FrontOrNone = Annotated[int, Range(0, 1 << 14), Shrinks(4)]
Width = Annotated[int, Range(1, 1 << 14), Shrinks(2)]
WidthOrNone = Annotated[int, Range(0, 1 << 14), Shrinks(2)]
Kernel = Annotated[int, Range(1, 10_000), Shrinks(3)]
Frames = Annotated[int, Range(0, 10_000), Shrinks(3)]
Reach = Annotated[int, Range(-1, 10_000), Shrinks(3)]


@dataclass(frozen=True)
class Sized(Settings):
    """Base of a network's settings that have a small version."""

    def small(self) -> Self:
        """The same network, and so its base encoder, at the size of the small budget."""
        hints = get_type_hints(type(self), include_extras=True)
        changes = {part.name: _shrunk(hints[part.name], getattr(self, part.name)) for part in fields(self)}
        return replace(self, **changes)


def _shrunk(hint: Any, value: Any) -> Any:
    if isinstance(value, Sized):
        return value.small()
    if get_origin(hint) is tuple:
        return tuple(_shrunk(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is Annotated and isinstance(hint.__metadata__[-1], Shrinks) and value > 0:
        limits, shrinks = hint.__metadata__
        return max(limits.low, round(value / shrinks.divisor))
    return value


class Encoder(nn.Module):
    """Features -> frames, `stride` feature frames to one.

    `forward(features, lengths)` takes features (N, left_context + F * stride + right_context, B, C, K) and the number
    of labelled feature frames of each item (N,), on the CPU. It returns frames (N, F, width): exactly one for every
    `stride` labelled feature frames. What comes after an item's labelled frames and `right_context` is padding.
    Neither padding nor other items change the frames of the labelled ones.

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

    def streamed(self) -> list[Step]:
        """The steps of a stream: features (N, n, B, C, K), from the left context on -> frames.

        By default every chunk is computed together with all of the receptive field before it; an architecture may
        override this with less work. One that depends on everything before or after raises `EmgscribeError`.
        """
        if self.unbounded_left or self.unbounded_right:
            what = f"{type(self).__name__} cannot be streamed: its frames depend on all of the recording"
            raise EmgscribeError(what, hint="choose an encoder with a finite receptive field, or define `streamed`")
        around = self.left_context + self.right_context

        def whole(features: Tensor) -> Tensor:
            return self(features, torch.full((len(features),), features.shape[1] - around))

        return [Sliding(whole, around + self.stride, self.stride)]

    def norms(self, features: Tensor) -> Iterator[tuple[nn.BatchNorm1d, Tensor]]:
        """The norms over electrode channels, each with the features (N, F, B, C, K) that it sees; by default none."""
        return iter(())

    @property
    def causal(self) -> bool:
        """Whether no frame depends on a later feature frame than those it stands for."""
        return self.right_context == 0 and not self.unbounded_right


@dataclass(frozen=True)
class EncoderConfig(Sized, Kind):
    """Base of every architecture's settings."""

    section = "encoder"
    kinds: ClassVar[dict[str, type["EncoderConfig"]]] = {}

    def build(self, bands: int, channels: int, bins: int) -> Encoder:
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        raise NotImplementedError  # each architecture has its own

    def chain(self) -> list[str]:
        """The kinds of this encoder and of those below it, the lowest one first."""
        base = getattr(self, "base", None)  # a field of many architectures, but not of all
        return [*(base.chain() if base else ()), self.kind()]

    def streaming(self) -> Self:
        """The nearest architecture that can be streamed: itself, where no frame waits for the end of the recording."""
        base = getattr(self, "base", None)  # a field of many architectures, but not of all
        return replace(self, base=base.streaming()) if isinstance(base, EncoderConfig) else self  # type: ignore[call-arg]


class Stacked(Encoder):
    """An encoder that transforms the frames of a base encoder, with `left` and `right` frames of context.

    A subclass defines `transform`. Of the frames that it returns, those in the middle are kept; with `delay` the last
    ones, each of which then stands for what was `right` frames earlier.
    """

    delay: bool = False

    def __init__(self, base: Encoder, left: int, right: int) -> None:
        super().__init__()
        self.base, self.left, self.right = base, left, right
        self.width, self.stride, self.extrapolates = base.width, base.stride, base.extrapolates
        self.left_context = base.left_context + left * base.stride
        self.right_context = base.right_context + right * base.stride
        self.unbounded_left, self.unbounded_right = base.unbounded_left, base.unbounded_right

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        around = self.left + self.right
        frames = self.base(features, lengths + around * self.stride)  # (N, left + F + right, base.width)
        count = frames.shape[1] - around
        frames = self.transform(frames, count - lengths // self.stride)
        first = around if self.delay else self.left
        return frames[:, first : first + count]  # (N, F, width)

    def norms(self, features: Tensor) -> Iterator[tuple[nn.BatchNorm1d, Tensor]]:
        return self.base.norms(features)

    def streamed(self) -> list[Step]:
        if not (steps := self.steps()):
            return super().streamed()
        return [*self.base.streamed(), *steps, Dropped(self.left + self.right if self.delay else self.left)]

    def steps(self) -> list[Step]:
        """The steps of `transform` in a stream; empty: the default of `Encoder` is used."""
        return []

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, S, base.width), of which `padding` (N,), on the CPU, at the end are padding -> (N, S, width)."""
        raise NotImplementedError  # what an encoder stacks on its base


class StackedBlocks(Stacked):
    """A linear layer to `width` (0: none), `layers` blocks, each made by `block(width)`, and a norm.

    A block transforms frames (N, S, width), of which `padding` (N,), on the CPU, at the end are padding, to the same
    shape; `streamed` gives its steps in a stream.
    """

    def __init__(
        self, base: Encoder, left: int, right: int, width: int, layers: int, block: Callable[[int], nn.Module]
    ) -> None:
        super().__init__(base, left, right)
        self.width = width or base.width
        self.projection = nn.Linear(base.width, width) if width else nn.Identity()
        self.blocks = nn.ModuleList(block(self.width) for _ in range(layers))
        self.norm = nn.LayerNorm(self.width)

    def steps(self) -> list[Step]:
        # What a ModuleList yields has no type of its own.
        inner = [step for block in self.blocks for step in block.streamed()]  # type: ignore[operator]
        return [each(self.projection), *inner, each(self.norm)]

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        hidden = self.projection(frames)  # (N, S, width)
        for block in self.blocks:
            hidden = block(hidden, padding)
        return self.norm(hidden)
