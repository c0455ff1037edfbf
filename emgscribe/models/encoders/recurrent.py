"""Gated recurrent networks (LSTM, GRU) after a base encoder: the best public networks for a single user.

Sources: rows 4 to 8 of table 2 of Borthakur et al.; the recipes of other emg2qwerty course projects.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.utils import rnn

from emgscribe.config import Dropout, Layers, register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Frames, Stacked, Width, WidthOrNone
from emgscribe.models.encoders.gru import Gru
from emgscribe.models.encoders.layers import FastDropout
from emgscribe.models.encoders.mlp import MlpConfig
from emgscribe.models.steps import State, Step


@register("recurrent")
@dataclass(frozen=True)
class RecurrentConfig(EncoderConfig):
    """LSTM or GRU layers after a base encoder."""

    base: EncoderConfig = field(default_factory=MlpConfig)  # the encoder that makes the frames
    cell: Literal["gru", "lstm"] = "gru"  # kind of recurrent unit
    hidden: Width = 256  # units of each layer and direction
    layers: Layers = 2  # recurrent layers
    dropout: Dropout = 0.3  # dropout between layers, and after the linear layer
    bidirectional: bool = True  # run also from the window's end to its start
    output: WidthOrNone = 0  # features of a linear layer at the end; 0: none
    left: Frames = 36  # frames of context before, to warm up the recurrence
    right: Frames = 4  # frames of context after; where not bidirectional, the lookahead

    def streaming(self) -> Self:
        return replace(super().streaming(), bidirectional=False)

    def build(self, bands: int, channels: int, bins: int) -> "RecurrentEncoder":
        return RecurrentEncoder(self, self.base.build(bands, channels, bins))


class RecurrentEncoder(Stacked):
    """The base encoder, the recurrence, and a linear layer where `output` is set."""

    def __init__(self, config: RecurrentConfig, base: Encoder) -> None:
        super().__init__(base, config.left, config.right)
        self.delay = not config.bidirectional
        self.unbounded_left, self.unbounded_right = True, base.unbounded_right or config.bidirectional
        kind, dropout = {"gru": Gru, "lstm": nn.LSTM}[config.cell], config.dropout if config.layers > 1 else 0.0
        settings = {"batch_first": True, "bidirectional": config.bidirectional, "dropout": dropout}
        self.cells = kind(base.width, config.hidden, config.layers, **settings)
        self.width = config.hidden * (2 if config.bidirectional else 1)
        self.output = nn.Sequential()
        if config.output:
            self.output.extend([nn.Linear(self.width, config.output), FastDropout(config.dropout)])
            self.width = config.output

    def steps(self) -> list[Step]:
        def recur(frames: Tensor, state: State) -> tuple[Tensor, State]:
            hidden, state = self.cells(frames, state)
            return self.output(hidden), state

        return [recur]

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        if not (self.cells.bidirectional and padding.any()):
            return self.output(self.cells(frames)[0])  # (N, S, width)
        # The backward direction starts at each item's end. Packing costs time, and is rarely needed.
        count = frames.shape[1]
        lengths, order = (count - padding).sort(descending=True)  # on the CPU: sorting on a GPU would wait for it
        rows = order.to(frames.device, non_blocking=True)
        packed = rnn.pack_padded_sequence(frames.index_select(0, rows), lengths, batch_first=True)
        hidden = rnn.pad_packed_sequence(self.cells(packed)[0], batch_first=True, total_length=count)[0]
        return self.output(hidden.index_select(0, rows.argsort()))
