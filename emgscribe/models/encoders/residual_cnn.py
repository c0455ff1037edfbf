"""Residual convolutions over time: the seed paper's own CNN (its section 2.2), alone or below a recurrent encoder."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import register, require
from emgscribe.models.encoders.contract import EncoderConfig
from emgscribe.models.encoders.mlp import MlpEncoder


@register("residual-cnn")
@dataclass(frozen=True)
class ResidualCnnConfig(EncoderConfig):
    """A linear layer to `projection` features (0: none), then a block for each of `widths`.

    Each block convolves over `kernel` frames without padding, of which `lookahead` are later than those that its frame
    stands for; its `strides` (empty: all 1) make one frame of that many. The published lookahead is half the kernel.
    """

    mlp_features: int = 384
    projection: int = 0
    widths: tuple[int, ...] = (128, 128)
    kernel: int = 9
    strides: tuple[int, ...] = ()
    lookahead: int = 4
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for field in ("mlp_features", "kernel"):
            require(getattr(self, field) >= 1, f"encoder.{field}", getattr(self, field), "1 or more")
        require(self.projection >= 0, "encoder.projection", self.projection, "0 or more")
        require(len(self.widths) > 0 and min(self.widths) >= 1, "encoder.widths", self.widths, "some, 1 or more each")
        fits = not self.strides or (len(self.strides) == len(self.widths) and min(self.strides) >= 1)
        fits = fits and max(self.strides, default=1) <= self.kernel
        require(fits, "encoder.strides", self.strides, f"none, or one for each of widths from 1 to {self.kernel}")
        most = self.kernel - max(self.strides, default=1)
        require(0 <= self.lookahead <= most, "encoder.lookahead", self.lookahead, f"0 to {most} frames")
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 or more, below 1")

    def build(self, bands: int, channels: int, bins: int) -> "ResidualCnnEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return ResidualCnnEncoder(self, bands, channels, bins)


class ResidualCnnEncoder(MlpEncoder):
    """Norm, rotation-invariant MLP, a projection if asked for, residual blocks."""

    def __init__(self, config: ResidualCnnConfig, bands: int, channels: int, bins: int) -> None:
        super().__init__(bands, channels, bins, config.mlp_features)
        self.projection = nn.Linear(self.width, config.projection) if config.projection else nn.Identity()
        self.width = config.projection or self.width
        self.blocks = nn.Sequential()
        for width, stride in zip(config.widths, config.strides or (1,) * len(config.widths), strict=True):
            block = ResidualConv(
                self.width, width, config.kernel, stride, lookahead=config.lookahead, dropout=config.dropout
            )
            self.blocks.append(block)
            self.left_context += block.before * self.stride
            self.right_context += config.lookahead * self.stride
            self.stride *= stride
            self.width = width

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F * stride + right_context, B, C, K) -> frames (N, F, width)."""
        frames: Tensor = self.blocks(self.projection(super().forward(features, lengths)))
        return frames  # (N, F, width)


class ResidualConv(nn.Module):
    """Convolution over time, ReLU, dropout, residual, norm.

    The residual is the mean of the frames that a frame stands for, through a linear layer where widths differ.
    """

    def __init__(
        self, width: int, out: int, kernel: int, stride: int = 1, *, lookahead: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.before, self.stride = kernel - stride - lookahead, stride
        self.conv = nn.Conv1d(width, out, kernel, stride)
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Identity() if width == out else nn.Linear(width, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, before + F * stride + lookahead, width) -> (N, F, out)."""
        convolved = F.relu(self.conv(frames.transpose(1, 2)))  # (N, out, F)
        hidden = self.dropout(convolved.transpose(1, 2))  # (N, F, out)
        count = hidden.shape[1]
        own = frames[:, self.before : self.before + count * self.stride]  # (N, F * stride, width)
        if self.stride > 1:
            own = own.reshape(len(own), count, self.stride, -1).mean(dim=2)  # (N, F, width)
        normed: Tensor = self.norm(hidden + self.residual(own))
        return normed
