"""One encoder for both hands, applied to each alone (SplashNet, Hadidi et al. 2025, arXiv 2506.12356)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from emgscribe.config import register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Stacked
from emgscribe.models.encoders.tds import TdsConfig
from emgscribe.models.steps import Step, each


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
        return self._beside(self.base(self._hands(features), lengths.repeat_interleave(features.shape[2])))

    def norms(self, features: Tensor) -> Iterator[tuple[nn.BatchNorm1d, Tensor]]:
        return self.base.norms(self._hands(features))

    def streamed(self) -> list[Step]:
        return [each(self._hands), *self.base.streamed(), each(self._beside)]

    def _hands(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> (N*B, F, 1, C, K)."""
        mirrored = torch.cat([features[:, :, :1], features[:, :, 1:].flip(3)], dim=2)
        return mirrored.transpose(1, 2).flatten(0, 1)[:, :, None]

    def _beside(self, frames: Tensor) -> Tensor:
        """Frames of the hands (N*B, F, base.width) -> (N, F, B * base.width)."""
        return frames.view(-1, self.width // self.base.width, *frames.shape[1:]).transpose(1, 2).flatten(2)
