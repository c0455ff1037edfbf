"""One encoder for both hands, applied to each alone (SplashNet, Hadidi et al. 2025, arXiv 2506.12356)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from emgscribe.config import register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Stacked
from emgscribe.models.encoders.tds import TdsConfig, TdsFeedForward


@register("split-share")
@dataclass(frozen=True)
class SplitShareConfig(EncoderConfig):
    """A base encoder for each band alone, with shared weights; their frames stand side by side."""

    base: EncoderConfig = field(default_factory=TdsConfig)  # the encoder of one band
    mirror: bool = True  # reverse the electrodes of the second band, since arms mirror each other
    joint: bool = False  # a feed-forward over both hands at the end

    def build(self, bands: int, channels: int, bins: int) -> "SplitShareEncoder":
        return SplitShareEncoder(self, self.base.build(1, channels, bins), bands)


class SplitShareEncoder(Stacked):
    """Bands as items of a batch for the base encoder, then side by side again."""

    def __init__(self, config: SplitShareConfig, base: Encoder, bands: int) -> None:
        super().__init__(base, 0, 0)
        self.mirror = config.mirror
        self.width = bands * base.width
        self.joint = TdsFeedForward(self.width) if config.joint else nn.Identity()

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        items, _, bands = features.shape[:3]
        if self.mirror:
            features = torch.cat([features[:, :, :1], features[:, :, 1:].flip(3)], dim=2)
        hands = features.transpose(1, 2).flatten(0, 1)[:, :, None]  # (N*B, F, 1, C, K)
        frames = self.base(hands, lengths.repeat_interleave(bands)).unflatten(0, (items, bands))
        return self.joint(frames.transpose(1, 2).flatten(2))  # (N, F, B * base.width)
