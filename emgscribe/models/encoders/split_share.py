"""One encoder for both hands, applied to each alone (SplashNet, Hadidi et al. 2025, arXiv 2506.12356)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from emgscribe.config import register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Stacked
from emgscribe.models.encoders.tds import TdsConfig


@register("split-share")
@dataclass(frozen=True)
class SplitShareConfig(EncoderConfig):
    """A base encoder for each band alone, the second with its electrodes reversed; their frames stand side by side."""

    base: EncoderConfig = field(default_factory=TdsConfig)  # the encoder of one band

    def build(self, bands: int, channels: int, bins: int) -> "SplitShareEncoder":
        return SplitShareEncoder(self.base.build(1, channels, bins), bands)


class SplitShareEncoder(Stacked):
    """Bands as items of a batch for the base encoder, then side by side again. Arms mirror each other."""

    def __init__(self, base: Encoder, bands: int) -> None:
        super().__init__(base, 0, 0)
        self.width = bands * base.width

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        items, _, bands = features.shape[:3]
        mirrored = torch.cat([features[:, :, :1], features[:, :, 1:].flip(3)], dim=2)
        hands = mirrored.transpose(1, 2).flatten(0, 1)[:, :, None]  # (N*B, F, 1, C, K)
        frames = self.base(hands, lengths.repeat_interleave(bands)).unflatten(0, (items, bands))
        return frames.transpose(1, 2).flatten(2)  # (N, F, B * base.width)
