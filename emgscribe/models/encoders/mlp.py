"""The front end alone: norm and rotation-invariant MLP of each frame; deeper encoders start with it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emgscribe.config import register
from emgscribe.models.encoders.contract import Encoder, EncoderConfig, Frames, Front
from emgscribe.models.encoders.layers import RollingNorm, RotationInvariantMLP, SpectrogramNorm
from emgscribe.models.steps import Step, each


@register("mlp")
@dataclass(frozen=True)
class MlpConfig(EncoderConfig):
    """The front end alone."""

    mlp_features: Front = 384  # features of each band
    rolling: Frames = 0  # normalise by this many of the latest frames; 0: by batch

    def build(self, bands: int, channels: int, bins: int) -> "MlpEncoder":
        return MlpEncoder(bands, channels, bins, self.mlp_features, rolling=self.rolling)


class MlpEncoder(Encoder):
    """The features of both bands side by side."""

    def __init__(self, bands: int, channels: int, bins: int, mlp_features: int, *, rolling: int = 0) -> None:
        super().__init__()
        self.norm = RollingNorm(rolling) if rolling else SpectrogramNorm(bands, channels)
        self.mlp = RotationInvariantMLP(bands, channels, bins, mlp_features)
        self.width = bands * mlp_features
        self.left_context = max(rolling - 1, 0)

    def streamed(self) -> list[Step]:
        return [*self.front(), each(lambda hidden: hidden.flatten(2))]

    def norms(self, features: Tensor) -> Iterator[tuple[nn.BatchNorm1d, Tensor]]:
        if isinstance(self.norm, SpectrogramNorm):
            yield self.norm.norm, features

    def front(self) -> list[Step]:
        """The steps of norm and MLP: features (N, n, B, C, K) -> (N, n, B, mlp_features)."""
        norm = self.norm.step if isinstance(self.norm, RollingNorm) else each(self.norm)
        with torch.no_grad():
            rolled = self.mlp.rolled()
        return [norm, each(lambda features: self.mlp.hidden(features, rolled))]

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.hidden(features).flatten(2)  # (N, F, width)

    def hidden(self, features: Tensor) -> Tensor:
        """What the front end makes of features (N, F, B, C, K): (N, F, B, mlp_features)."""
        if isinstance(self.norm, RollingNorm):
            return self.mlp(self.norm(features))
        return self.mlp.hidden(self.norm.standardized(features), self.mlp.rolled(self.norm.norm))
