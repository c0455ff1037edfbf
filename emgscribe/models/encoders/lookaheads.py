"""One causal network that runs with any of several lookaheads: a key that it outputs later has been seen for longer.

The largest burst of a key's muscles comes some 40 ms after the key goes down, so a little lookahead pays off.
"""

from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Range, register, require
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Stacked, Width
from emgscribe.models.encoders.recurrent import RecurrentConfig
from emgscribe.models.steps import Step, each

LookaheadFrames = Annotated[int, Range(0, 10_000)]  # frames; a small network keeps them, or some would become equal


def _causal() -> EncoderConfig:
    return RecurrentConfig(bidirectional=False, right=0)


@register("lookaheads")
@dataclass(frozen=True)
class LookaheadsConfig(EncoderConfig):
    """A base encoder whose frames are read out after any of several lookaheads, by a layer for each."""

    base: EncoderConfig = field(default_factory=_causal)  # the encoder that makes the frames
    output: Width = 128  # features of each lookahead's layer
    known: tuple[LookaheadFrames, ...] = (2, 4, 6, 12)  # lookaheads that are trained, in frames of the base encoder
    lookahead: LookaheadFrames = 12  # the one that is used; longer ones are not trained

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = len(self.known) > 0 and list(self.known) == sorted(set(self.known))
        require(rising, "encoder.known", self.known, "one or more, increasing")
        require(self.lookahead in self.known, "encoder.lookahead", self.lookahead, ", ".join(map(str, self.known)))

    def build(self, bands: int, channels: int, bins: int) -> "LookaheadsEncoder":
        return LookaheadsEncoder(self, self.base.build(bands, channels, bins))


class LookaheadsEncoder(Stacked):
    """The base encoder, and a linear layer and ReLU for each lookahead.

    In training the lookaheads up to the one that is used share each batch: its first window is for the first of them,
    its second for the second, and so on, in turn.
    """

    delay = True

    def __init__(self, config: LookaheadsConfig, base: Encoder) -> None:
        super().__init__(base, 0, config.lookahead)
        self.known, self.width = config.known, config.output
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.Linear(base.width, config.output), nn.ReLU()) for _ in config.known
        )

    @property
    def readout(self) -> nn.Module:
        """The layer of the lookahead that is used."""
        return self.outputs[self.known.index(self.right)]

    def steps(self) -> list[Step]:
        return [each(self.readout)]

    def transform(self, frames: Tensor, padding: Tensor) -> Tensor:
        if not self.training:
            return self.readout(frames)
        trained = [(output, self.right - known) for output, known in zip(self.outputs, self.known, strict=True)]
        trained = [(output, earlier) for output, earlier in trained if earlier >= 0]
        hidden = frames.new_empty(*frames.shape[:2], self.width)
        for first, (output, earlier) in enumerate(trained):
            made = output(frames[first :: len(trained)])
            hidden[first :: len(trained)] = F.pad(made, (0, 0, earlier, -earlier))  # to where the longest would be
        return hidden
