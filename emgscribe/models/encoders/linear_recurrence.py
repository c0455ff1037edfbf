"""Gated linear recurrences after a base encoder, computed for all frames at once.

The cell is minGRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201). Its gate and candidate depend on
the frame and not on the state, so the state is a running weighted sum, and segments of it can be summed in parallel.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Dropout, Layers, register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Frames, StackedBlocks, Width
from emgscribe.models.encoders.layers import FastDropout, feed_forward, mask_padding
from emgscribe.models.encoders.residual_cnn import ResidualCnnConfig
from emgscribe.models.steps import State, Step, each, residual

_SPANS = 2.0, 128.0  # memory of a new network's states in frames: the shortest and the longest


@register("linear-recurrence")
@dataclass(frozen=True)
class LinearRecurrenceConfig(EncoderConfig):
    """Layers of a gated linear recurrence and a feed-forward, after a base encoder."""

    base: EncoderConfig = field(default_factory=ResidualCnnConfig)  # the encoder that makes the frames
    width: Width = 256  # features of a frame
    hidden: Width = 256  # recurrent units of each layer and direction
    layers: Layers = 4  # layers
    dropout: Dropout = 0.1  # dropout in the feed-forward and after each recurrence
    bidirectional: bool = True  # run also from the window's end to its start
    left: Frames = 36  # frames of context before, to warm up the recurrence
    right: Frames = 4  # frames of context after; where not bidirectional, the lookahead

    def streaming(self) -> Self:
        return replace(super().streaming(), bidirectional=False)

    def build(self, bands: int, channels: int, bins: int) -> "LinearRecurrenceEncoder":
        return LinearRecurrenceEncoder(self, self.base.build(bands, channels, bins))


class LinearRecurrenceEncoder(StackedBlocks):
    """A projection to `width`, layers of recurrence and feed-forward, a norm."""

    def __init__(self, config: LinearRecurrenceConfig, base: Encoder) -> None:
        super().__init__(
            base, config.left, config.right, config.width, config.layers, lambda _: LinearRecurrenceBlock(config)
        )
        self.delay = not config.bidirectional
        self.unbounded_left, self.unbounded_right = True, base.unbounded_right or config.bidirectional


class LinearRecurrenceBlock(nn.Module):
    """h = (1 - z) * previous h + z * candidate in each direction; then a feed-forward. Both are pre-norm residuals."""

    def __init__(self, config: LinearRecurrenceConfig) -> None:
        super().__init__()
        self.ways = 2 if config.bidirectional else 1
        units = self.ways * config.hidden
        self.norm = nn.LayerNorm(config.width)
        self.gate = nn.Linear(config.width, units)
        self.candidate = nn.Linear(config.width, units)
        self.output = nn.Sequential(nn.Linear(units, config.width), FastDropout(config.dropout))
        self.feed_forward = feed_forward(config.width, 2 * config.width, nn.GELU(), config.dropout)
        # In each direction, states from a short to a long memory (Tallec and Ollivier 2018, arXiv 1804.11188).
        with torch.no_grad(), torch.device("cpu"):
            shortest, longest = (torch.tensor(span).log() for span in _SPANS)
            spans = torch.linspace(0, 1, config.hidden) * (longest - shortest) + shortest
            self.gate.bias.copy_((-spans).exp().logit().repeat(self.ways))

    def streamed(self) -> list[Step]:
        """Its steps, if it is unidirectional."""

        def recur(frames: Tensor, state: State) -> tuple[Tensor, State]:
            keep, add = self._terms(frames)
            if state is not None:
                add[:, 0] += keep[:, 0] * state
            states = scan(keep, add)
            return self.output(states.to(frames.dtype)), states[:, -1].clone()

        return [residual(recur), residual(each(self.feed_forward))]

    def _terms(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What each frame keeps of the state, and what it adds: both (N, F, ways * hidden)."""
        normed = self.norm(frames)
        gate = self.gate(normed).float().sigmoid()
        return 1 - gate, gate * self.candidate(normed).float()

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        keeps, adds = self._terms(frames)
        # Padding adds nothing, so the backward direction reaches an item's last frame with an empty state.
        keep, add = keeps.chunk(self.ways, dim=2), mask_padding(adds, padding).chunk(self.ways, dim=2)
        states = [scan(keep[0], add[0])]
        if self.ways == 2:
            states.append(scan(keep[1].flip(1), add[1].flip(1)).flip(1))
        frames = frames + self.output(torch.cat(states, dim=2).to(frames.dtype))
        return frames + self.feed_forward(frames)


def scan(keep: Tensor, add: Tensor) -> Tensor:
    """States (N, F, D) of h[f] = keep[f] * h[f - 1] + add[f] from h = 0, in 2 sqrt(F) steps instead of F.

    Segments of sqrt(F) frames run in parallel, each from 0; then each segment's initial state is carried to the next.
    """
    items, count, width = keep.shape
    length = math.isqrt(count - 1) + 1
    padded = (F.pad(part, (0, 0, 0, -count % length)) for part in (keep, add))
    keeps, adds = (
        part.reshape(items, -1, length, width).unbind(2) for part in padded
    )  # `length` times (N, F / length, D)
    kept, states = [keeps[0]], [adds[0]]  # of the state before the segment, and what was added to it
    for factor, term in zip(keeps[1:], adds[1:], strict=True):
        kept.append(factor * kept[-1])
        states.append(torch.addcmul(term, factor, states[-1]))
    before = [torch.zeros_like(states[-1][:, 0])]
    for factor, term in zip(kept[-1].unbind(1), states[-1].unbind(1), strict=True):
        before.append(torch.addcmul(term, factor, before[-1]))
    begins = torch.stack(before[:-1], dim=1)[:, :, None]  # (N, F / length, 1, D)
    whole = torch.addcmul(torch.stack(states, dim=2), torch.stack(kept, dim=2), begins)
    return whole.flatten(1, 2)[:, :count]  # (N, F, D)
