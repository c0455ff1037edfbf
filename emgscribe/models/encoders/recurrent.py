"""Gated recurrent networks (LSTM, GRU) upon another encoder: the best public readers of a single user.

Sources: the seed paper's rows 4 to 8; the recipes of the emg2qwerty course projects, see `experiments.RECORDS`.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from emgscribe.config import register, require
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Stacked
from emgscribe.models.encoders.layers import Recurrent
from emgscribe.models.encoders.mlp import MlpConfig


@register("recurrent")
@dataclass(frozen=True)
class RecurrentConfig(EncoderConfig):
    """`layers` of `hidden` units each way upon the encoder `base`, with `dropout` between them.

    `output` above 0 adds a linear layer to so many features and a dropout. `left` and `right` frames of context
    run the recurrence in. Where it is not `bidirectional`, `right` is the lookahead: a frame is emitted so many later.
    """

    base: EncoderConfig = field(default_factory=MlpConfig)
    cell: Literal["gru", "lstm"] = "gru"
    hidden: int = 256
    layers: int = 2
    dropout: float = 0.3
    bidirectional: bool = True
    output: int = 0
    left: int = 36
    right: int = 4

    def __post_init__(self) -> None:
        require(self.cell in ("gru", "lstm"), "encoder.cell", self.cell, "gru, lstm")
        for name in ("hidden", "layers"):
            require(getattr(self, name) >= 1, f"encoder.{name}", getattr(self, name), "1 or more")
        for name in ("output", "left", "right"):
            require(getattr(self, name) >= 0, f"encoder.{name}", getattr(self, name), "0 or more")
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 or more, below 1")

    def build(self, bands: int, channels: int, bins: int) -> "RecurrentEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return RecurrentEncoder(self, self.base.build(bands, channels, bins))


class RecurrentEncoder(Stacked):
    """The frames of `base`, the recurrence, and a linear layer if asked for."""

    def __init__(self, config: RecurrentConfig, base: Encoder) -> None:
        super().__init__(base, config.left, config.right, delay=not config.bidirectional)
        self.unbounded_left, self.unbounded_right = True, base.unbounded_right or config.bidirectional
        self.recurrent = Recurrent(
            base.width,
            config.hidden,
            config.layers,
            cell=config.cell,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        self.width = config.output or self.recurrent.width
        self.output = nn.Sequential()
        if config.output:
            self.output.extend([nn.Linear(self.recurrent.width, config.output), nn.Dropout(config.dropout)])

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, base.width), of which `padding` (N,) at the end are none -> (N, F, width)."""
        hidden: Tensor = self.output(self.recurrent(frames, padding))
        return hidden
