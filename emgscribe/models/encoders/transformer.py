"""Attention over time after a base encoder (Vaswani et al. 2017, arXiv 1706.03762), with rotary positions.

Rows 10 to 12 of table 2 of Borthakur et al. attended over the batch, without positions; these attend over time.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Count, Dropout, Layers, register, require
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Frames, Reach, StackedBlocks, Width, WidthOrNone
from emgscribe.models.encoders.layers import FastDropout, feed_forward
from emgscribe.models.encoders.tds import TdsConfig
from emgscribe.models.steps import State, Step, each, joined, residual

_REACH = 125  # past frames that a stream attends to in place of all: a second at the published frame rate


@register("transformer")
@dataclass(frozen=True)
class TransformerConfig(EncoderConfig):
    """Layers of attention and a feed-forward, after a base encoder.

    With `future` 0 it is causal. With both `past` and `future` 0 or more its receptive field is finite, and its context
    is what it needs.
    """

    base: EncoderConfig = field(default_factory=TdsConfig)  # the encoder that makes the frames
    width: WidthOrNone = 0  # features of a linear layer before the attention; 0: none, as wide as the base encoder
    layers: Layers = 1  # layers of attention and feed-forward
    heads: Count = 3  # attention heads
    feed_forward: Width = 1048  # features inside each feed-forward
    dropout: Dropout = 0.1  # dropout in attention and feed-forward
    past: Reach = -1  # frames before its own that a frame attends to in each layer; -1: all of the window
    future: Reach = -1  # frames after its own that a frame attends to in each layer; -1: all of the window
    left: Frames = 0  # frames of context before, where past is -1
    right: Frames = 0  # frames of context after, where future is -1

    def streaming(self) -> Self:
        past, future = (_REACH if self.past < 0 else self.past), (self.right if self.future < 0 else self.future)
        return replace(super().streaming(), past=past, future=future)

    def build(self, bands: int, channels: int, bins: int) -> "TransformerEncoder":
        return TransformerEncoder(self, self.base.build(bands, channels, bins))

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after its own that a frame sees in each layer, where they are bounded."""
        return self.past, self.future

    def block(self, width: int) -> nn.Module:
        """One layer: frames (N, F, `width`), padding (N,) -> frames of the same shape."""
        return TransformerBlock(self, width)


class TransformerEncoder(StackedBlocks):
    """The base encoder, an optional projection, the layers, and a norm of the sum of their residuals."""

    def __init__(self, config: TransformerConfig, base: Encoder) -> None:
        before, after = config.reach
        left = config.left if config.past < 0 else config.layers * before
        right = config.right if config.future < 0 else config.layers * after
        width = config.width or base.width
        allowed = f"a divisor of half the width, {width} / 2"
        require(width % (2 * config.heads) == 0, "encoder.heads", config.heads, allowed)
        super().__init__(base, left, right, config.width, config.layers, config.block)
        self.unbounded_left |= config.past < 0
        self.unbounded_right |= config.future < 0
        self.extrapolates &= config.past >= 0 and config.future >= 0


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each with pre-norm and a residual (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, past=config.past, future=config.future, dropout=config.dropout)
        self.feed_forward = feed_forward(width, config.feed_forward, nn.ReLU(), config.dropout)

    def streamed(self) -> list[Step]:
        """Its steps, where its reach is bounded."""
        return [residual(each(self.attention_norm), self.attention.step), residual(each(self.feed_forward))]

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        frames = frames + self.attention(self.attention_norm(frames), padding)
        return frames + self.feed_forward(frames)


class Attention(nn.Module):
    """Self-attention with rotary positions, over `past` and `future` frames beside each (-1: all of them)."""

    def __init__(self, width: int, heads: int, *, past: int, future: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.past, self.future, self.dropout = heads, past, future, dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Sequential(nn.Linear(width, width), FastDropout(dropout))

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        count = frames.shape[1]
        query, key, value = self._heads(frames)
        query, key = rotated(query), rotated(key)
        place = torch.arange(count, device=frames.device)
        ends = (count - padding).to(frames.device, non_blocking=True)[:, None, None] if padding.any() else None
        banded = self.past >= 0 and self.future >= 0
        # A band is computed in segments, each with the keys in its reach: memory stays linear in F.
        step = max(self.past + self.future, 128) if banded else count
        rate, mixed = self.dropout if self.training else 0.0, []
        for first in range(0, count, step):
            queries = slice(first, first + step)
            keys = slice(max(0, first - self.past), first + step + self.future) if banded else slice(None)
            mask = self._mask(place[queries, None], place[keys], ends)
            part = query[:, :, queries], key[:, :, keys], value[:, :, keys]
            mixed.append(F.scaled_dot_product_attention(*part, attn_mask=mask, dropout_p=rate))
        return self.output(torch.cat(mixed, dim=2).transpose(1, 2).flatten(2))  # (N, F, width)

    def _heads(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Frames (N, F, width) -> queries, keys and values, each (N, heads, F, width / heads)."""
        return self.inputs(frames).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def step(self, frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        """The step of a stream. It keeps queries that wait for later frames, and the keys and values that they can see.

        They are rotated when they are used, from the first kept key on: positions do not grow with the stream.
        """
        kept = state or (None, None, None)
        query, key, value = (joined(old, new, 2) for old, new in zip(kept, self._heads(frames), strict=True))
        first = key.shape[2] - query.shape[2]  # place of the first query among the keys
        count = max(0, query.shape[2] - self.future)
        low = max(0, first + count - self.past)  # no later query sees a key before it
        state = tuple(part.clone() for part in (query[:, :, count:], key[:, :, low:], value[:, :, low:]))
        if not count:
            return None, state
        place = torch.arange(key.shape[2], device=frames.device)
        mask = self._mask(place[first : first + count, None], place, None)
        mixed = F.scaled_dot_product_attention(
            rotated(query[:, :, :count], first), rotated(key), value, attn_mask=mask
        )  # (N, heads, count, width / heads)
        return self.output(mixed.transpose(1, 2).flatten(2)), state

    def _mask(self, queries: Tensor, keys: Tensor, ends: Tensor | None) -> Tensor | None:
        """Which keys each query sees, (1 or N, 1, queries, keys); None where all see all."""
        if self.past < 0 and self.future < 0 and ends is None:
            return None
        distance = keys - queries  # (queries, keys)
        past, future = (math.inf if reach < 0 else reach for reach in (self.past, self.future))
        seen = ((distance >= -past) & (distance <= future))[None]
        if ends is not None:
            # Padding sees itself: a query without any key would be NaN, and NaN spreads even where its weight is zero.
            seen = seen & ((keys < ends) | (distance == 0))  # (N, queries, keys)
        return seen[:, None]


def rotated(heads: Tensor, first: int = 0) -> Tensor:
    """Queries or keys (..., F, D), from the place `first` on, rotated by angles that grow with time.

    Their products depend only on distances in time. Source: Su et al. 2021 (RoFormer, arXiv 2104.09864).
    """
    count, width = heads.shape[-2:]
    turns = angles(first, count, width, heads.device)
    cosine, sine = turns.cos(), turns.sin()
    one, other = heads.float().chunk(2, dim=-1)
    turned = torch.cat([one * cosine - other * sine, one * sine + other * cosine], dim=-1)  # (..., F, D)
    return turned.to(heads.dtype)


def angles(first: int, count: int, width: int, device: torch.device) -> Tensor:
    """Positions `first`, `first` + 1, ... as angles (count, `width` / 2), each column slower than the one before."""
    speeds = 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width)  # (width / 2,)
    return torch.outer(torch.arange(first, first + count, device=device), speeds)
