"""The front alone: norm and rotation-invariant MLP, each frame for itself; what deeper encoders are put upon."""

from dataclasses import dataclass

from torch import Tensor

from emgscribe.config import register, require
from emgscribe.models.encoders.contract import Encoder, EncoderConfig
from emgscribe.models.encoders.layers import RollingNorm, RotationInvariantMLP, SpectrogramNorm


@register("mlp")
@dataclass(frozen=True)
class MlpConfig(EncoderConfig):
    """`mlp_features` of each band; `rolling` above 0 normalises by the last so many frames instead of by batch."""

    mlp_features: int = 384
    rolling: int = 0

    def __post_init__(self) -> None:
        require(self.mlp_features >= 1, "encoder.mlp_features", self.mlp_features, "1 or more")
        require(self.rolling >= 0, "encoder.rolling", self.rolling, "0 or more")

    def build(self, bands: int, channels: int, bins: int) -> "MlpEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return MlpEncoder(bands, channels, bins, self.mlp_features, rolling=self.rolling)


class MlpEncoder(Encoder):
    """The features of both bands side by side; also the base of encoders that go on from there."""

    def __init__(self, bands: int, channels: int, bins: int, mlp_features: int, *, rolling: int = 0) -> None:
        super().__init__()
        self.norm = RollingNorm(rolling) if rolling else SpectrogramNorm(bands, channels)
        self.mlp = RotationInvariantMLP(bands, channels, bins, mlp_features)
        self.width = bands * mlp_features
        self.left_context = max(rolling - 1, 0)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F, B, C, K) -> frames (N, F, B * mlp_features)."""
        hidden: Tensor = self.mlp(self.norm(features))  # (N, F, B, mlp_features)
        return hidden.flatten(2)  # (N, F, width)
