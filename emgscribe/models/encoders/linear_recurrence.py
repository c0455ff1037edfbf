"""Gated linear recurrences upon another encoder: a recurrence that is computed for all frames at once.

The cell is minGRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201): its gate and candidate see the
frame and not the state, so the state is a running weighted sum, and stretches of it are summed up side by side.
"""

from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import register, require
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, StackedBlocks
from emgscribe.models.encoders.layers import feed_forward, without
from emgscribe.models.encoders.residual_cnn import ResidualCnnConfig

_SPANS = 2.0, 128.0  # frames after which a new network's states have forgotten, shortest and longest


@register("linear-recurrence")
@dataclass(frozen=True)
class LinearRecurrenceConfig(EncoderConfig):
    """`layers`, each a gated linear recurrence of `hidden` units each way and a feed-forward, of `width` features.

    `left` and `right` are as in `RecurrentConfig`: context that runs the recurrence in, and where it is not
    `bidirectional` the lookahead.
    """

    base: EncoderConfig = field(default_factory=ResidualCnnConfig)
    width: int = 256
    hidden: int = 256
    layers: int = 4
    dropout: float = 0.1
    bidirectional: bool = True
    left: int = 36
    right: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "layers"):
            require(getattr(self, name) >= 1, f"encoder.{name}", getattr(self, name), "1 or more")
        for name in ("left", "right"):
            require(getattr(self, name) >= 0, f"encoder.{name}", getattr(self, name), "0 or more")
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 or more, below 1")

    def build(self, bands: int, channels: int, bins: int) -> "LinearRecurrenceEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return LinearRecurrenceEncoder(self, self.base.build(bands, channels, bins))


class LinearRecurrenceEncoder(StackedBlocks):
    """The frames of `base` brought to `width`, layers of recurrence and feed-forward, a norm."""

    def __init__(self, config: LinearRecurrenceConfig, base: Encoder) -> None:
        super().__init__(base, config.left, config.right, delay=not config.bidirectional)
        self.unbounded_left, self.unbounded_right = True, base.unbounded_right or config.bidirectional
        self.width = config.width
        self.projection = nn.Linear(base.width, config.width)
        self.blocks = nn.ModuleList(LinearRecurrenceBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)


class LinearRecurrenceBlock(nn.Module):
    """h = (1 - z) * h before + z * candidate, each way; feed-forward; each with a norm before and a residual."""

    def __init__(self, config: LinearRecurrenceConfig) -> None:
        super().__init__()
        self.ways = 2 if config.bidirectional else 1
        units = self.ways * config.hidden
        self.norm = nn.LayerNorm(config.width)
        self.gate = nn.Linear(config.width, units)
        self.candidate = nn.Linear(config.width, units)
        self.output = nn.Sequential(nn.Linear(units, config.width), nn.Dropout(config.dropout))
        self.feed_forward = feed_forward(config.width, 2 * config.width, nn.GELU(), config.dropout)
        # Each way, states that forget at once to slowly (Tallec and Ollivier 2018, arXiv 1804.11188).
        shortest, longest = (torch.tensor(span).log() for span in _SPANS)
        spans = torch.linspace(0, 1, config.hidden) * (longest - shortest) + shortest
        with torch.no_grad():
            self.gate.bias.copy_((-spans).exp().logit().repeat(self.ways))

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, width), padding frames at each item's end (N,) -> the same shape."""
        normed = self.norm(frames)
        gate = self.gate(normed).float().sigmoid()  # (N, F, ways * hidden)
        # Padding adds nothing, so that the way back comes to an item's last frame with an empty state.
        value = without(gate * self.candidate(normed).float(), padding)
        parts = zip((1 - gate).chunk(self.ways, dim=2), value.chunk(self.ways, dim=2), strict=True)
        states = [
            scan(keep.flip(1), add.flip(1)).flip(1) if back else scan(keep, add)
            for back, (keep, add) in enumerate(parts)
        ]
        frames = frames + self.output(torch.cat(states, dim=2).to(frames.dtype))
        hidden: Tensor = frames + self.feed_forward(frames)
        return hidden


def scan(keep: Tensor, add: Tensor) -> Tensor:
    """States (N, F, D) of h[f] = keep[f] * h[f - 1] + add[f] from h = 0, in 2 sqrt(F) steps instead of F.

    Stretches of sqrt(F) frames are gone through side by side, each from 0; then what each begins with is carried from
    one to the next. Doubling the reach over whole tensors takes fewer steps still, but moves them log2(F) times.
    """
    items, count, width = keep.shape
    length = isqrt(count - 1) + 1
    padded = (F.pad(part, (0, 0, 0, -count % length)) for part in (keep, add))
    stretches = (part.reshape(items, -1, length, width) for part in padded)  # (N, F / length, length, D)
    keeps, adds = (part.unbind(2) for part in stretches)  # each `length` times (N, F / length, D)
    kept, states = [keeps[0]], [adds[0]]  # what is left of the state before the stretch, and what was added to it
    for factor, term in zip(keeps[1:], adds[1:], strict=True):
        kept.append(factor * kept[-1])
        states.append(torch.addcmul(term, factor, states[-1]))
    before = [torch.zeros_like(states[-1][:, 0])]
    for factor, term in zip(kept[-1].unbind(1), states[-1].unbind(1), strict=True):
        before.append(torch.addcmul(term, factor, before[-1]))
    begins = torch.stack(before[:-1], dim=1)[:, :, None]  # (N, F / length, 1, D)
    whole = torch.addcmul(torch.stack(states, dim=2), torch.stack(kept, dim=2), begins)
    return whole.flatten(1, 2)[:, :count]  # (N, F, D)
