"""Conformer after a base encoder: attention and convolution between two half-step feed-forwards.

Source: Gulati et al. 2020 (arXiv 2005.08100), with rotary positions, and with a layer norm in the convolution module in
place of the batch norm, whose statistics would include padding.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Count, Layers, register
from emgscribe.models.encoders.contract import EncoderConfig, Frames, Kernel, Width, WidthOrNone
from emgscribe.models.encoders.layers import FastDropout, feed_forward, mask_padding
from emgscribe.models.encoders.mlp import MlpConfig
from emgscribe.models.encoders.transformer import Attention, TransformerConfig
from emgscribe.models.steps import Sliding, State, Step, each, residual


@register("conformer")
@dataclass(frozen=True)
class ConformerConfig(TransformerConfig):
    """Conformer layers after a base encoder; `past` and `future` as in the transformer."""

    base: EncoderConfig = field(default_factory=MlpConfig)  # the encoder that makes the frames
    width: WidthOrNone = 256  # features of a linear layer before the layers; 0: none, as wide as the base encoder
    layers: Layers = 4  # layers
    heads: Count = 4  # attention heads
    feed_forward: Width = 1024  # features inside each half-step feed-forward
    left: Frames = 36  # frames of context before, where past is -1
    right: Frames = 4  # frames of context after, where future is -1
    kernel: Kernel = 15  # frames of each convolution, centred; with future 0 the last ones

    @property
    def around(self) -> tuple[int, int]:
        """Frames before and after its own that a convolution sees."""
        after = 0 if self.future == 0 else (self.kernel - 1) // 2
        return self.kernel - 1 - after, after

    @property
    def reach(self) -> tuple[int, int]:
        before, after = self.around
        return self.past + before, self.future + after

    def block(self, width: int) -> nn.Module:
        return ConformerBlock(self, width)


class ConformerBlock(nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, each a residual; a norm at the end."""

    def __init__(self, config: ConformerConfig, width: int) -> None:
        super().__init__()
        self.first = feed_forward(width, config.feed_forward, nn.SiLU(), config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, past=config.past, future=config.future, dropout=config.dropout)
        self.conv = ConvModule(width, config.around, config.dropout)
        self.second = feed_forward(width, config.feed_forward, nn.SiLU(), config.dropout)
        self.norm = nn.LayerNorm(width)

    def streamed(self) -> list[Step]:
        """Its steps, where its reach is bounded."""
        return [
            each(lambda frames: frames + 0.5 * self.first(frames)),
            residual(each(self.attention_norm), self.attention.step),
            residual(self.conv.step),
            each(lambda frames: self.norm(frames + 0.5 * self.second(frames))),
        ]

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        frames = frames + 0.5 * self.first(frames)
        frames = frames + self.attention(self.attention_norm(frames), padding)
        frames = frames + self.conv(frames, padding)
        return self.norm(frames + 0.5 * self.second(frames))


class ConvModule(nn.Module):
    """Gated pointwise, depthwise over `around` frames (before, after), norm, SiLU, pointwise; zeros beyond the ends."""

    def __init__(self, width: int, around: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.around = around
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Sequential(nn.Linear(width, 2 * width), nn.GLU())
        self.depthwise = nn.Conv1d(width, width, sum(around) + 1, groups=width)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), FastDropout(dropout))

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        gated = mask_padding(self.gated(self.norm(frames)), padding).transpose(1, 2)  # (N, width, F)
        return self.output(self.depthwise(F.pad(gated, self.around)).transpose(1, 2))  # (N, F, width)

    def step(self, frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        """The step of a stream; before its first frame there are zeros."""
        gated = self.gated(self.norm(frames)).transpose(1, 2)  # (N, width, n)
        if state is None:
            state = gated.new_zeros(*gated.shape[:2], self.around[0])
        made, state = Sliding(self.depthwise, sum(self.around) + 1, axis=2)(gated, state)
        return made if made is None else self.output(made.transpose(1, 2)), state
