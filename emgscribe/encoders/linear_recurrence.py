"""Gated linear recurrences upon another encoder: a recurrence that is computed for all frames at once.

The cell is minGRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201): its gate and candidate see the
frame and not the state, so the state is a running weighted sum, and log2(F) additions give it for every frame.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from emgscribe.config import require
from emgscribe.encoders.contract import Encoder, EncoderConfig, UponBlocks
from emgscribe.encoders.layers import feed_forward, without
from emgscribe.encoders.residual_cnn import ResidualCnnConfig

_SPANS = 2.0, 128.0  # frames after which a new network's states have forgotten, shortest and longest


@dataclass(frozen=True)
class LinearRecurrenceConfig(EncoderConfig):
    """`layers`, each a gated linear recurrence of `hidden` units each way and a feed-forward, of `width` features.

    `left` and `right` are as in `RecurrentConfig`: context that runs the recurrence in, and where it is not
    `bidirectional` the lookahead.
    """

    on: EncoderConfig = field(default_factory=ResidualCnnConfig)
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
        return LinearRecurrenceEncoder(self, self.on.build(bands, channels, bins))


class LinearRecurrenceEncoder(UponBlocks):
    """The frames of `on` brought to `width`, layers of recurrence and feed-forward, a norm."""

    def __init__(self, config: LinearRecurrenceConfig, on: Encoder) -> None:
        super().__init__(on, config.left, config.right, delay=not config.bidirectional)
        self.unbounded_left, self.unbounded_right = True, on.unbounded_right or config.bidirectional
        self.width = config.width
        self.projection = nn.Linear(on.width, config.width)
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
    """States (N, F, D) of h[f] = keep[f] * h[f - 1] + add[f] from h = 0, in log2(F) steps over whole tensors.

    After a step, each frame has summed up twice as many frames as before (Hillis and Steele 1986).
    """
    reach = 1
    while reach < keep.shape[1]:
        add = torch.cat([add[:, :reach], torch.addcmul(add[:, reach:], keep[:, reach:], add[:, :-reach])], dim=1)
        keep = torch.cat([keep[:, :reach], keep[:, reach:] * keep[:, :-reach]], dim=1)
        reach *= 2
    return add  # (N, F, D)
