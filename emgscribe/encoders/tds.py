"""Time-depth separable convolutions, the published baseline's encoder (Hannun et al. 2019, arXiv 1904.02619).

The published network splits its features into channels x width with the channels outermost. Here the channels are
innermost, which is the layout that convolutions run fastest on, so frames go from a linear layer into a convolution
and back without a copy; the network is the same up to the order of its features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import require
from emgscribe.encoders.contract import Encoder, EncoderConfig
from emgscribe.encoders.layers import Reduction, RollingNorm, RotationInvariantMLP, SpectrogramNorm


@dataclass(frozen=True)
class TdsConfig(EncoderConfig):
    """Sizes of the TDS encoder; the defaults are the published baseline (5,293,315 parameters with its head).

    `mlp_features` of each band are split into `channels` (of both bands together) times a width. Each of `blocks`
    convolves over `kernel` frames without padding; `lookahead` of the frames that all convolutions consume are future.
    `reduction` above 0 convolves over `reduction_kernel` frames to so many features before the blocks, and back to as
    many as before with `reduction_back`. `rolling` above 0 normalises by the last so many frames instead of by batch.
    """

    mlp_features: int = 384
    blocks: int = 4
    channels: int = 24
    kernel: int = 32
    lookahead: int = 12
    reduction: int = 0
    reduction_kernel: int = 32
    reduction_back: bool = False
    rolling: int = 0

    def __post_init__(self) -> None:
        for field in ("mlp_features", "blocks", "channels", "kernel", "reduction_kernel"):
            require(getattr(self, field) >= 1, f"encoder.{field}", getattr(self, field), "1 or more")
        for field in ("reduction", "rolling"):
            require(getattr(self, field) >= 0, f"encoder.{field}", getattr(self, field), "0 or more")
        fits = self.channels % 2 == 0 and 2 * self.mlp_features % self.channels == 0
        require(
            fits, "encoder.channels", self.channels, f"an even divisor of 2 * mlp_features = {2 * self.mlp_features}"
        )
        fits = self.reduction_back or self.reduction % self.channels == 0
        require(fits, "encoder.reduction", self.reduction, f"0 or a multiple of channels = {self.channels}")
        consumed = self.consumed
        require(0 <= self.lookahead <= consumed, "encoder.lookahead", self.lookahead, f"0 to {consumed} frames")

    @property
    def consumed(self) -> int:
        """Frames by which the convolutions shorten their input."""
        reducing = (self.reduction_kernel - 1) * (2 if self.reduction_back else 1) if self.reduction else 0
        return reducing + self.blocks * (self.kernel - 1)

    def build(self, bands: int, channels: int, bins: int) -> "TdsEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return TdsEncoder(self, bands, channels, bins)


class TdsEncoder(Encoder):
    """Norm, rotation-invariant MLP for each band, a reduction if asked for, blocks of convolution and feed-forward."""

    def __init__(self, config: TdsConfig, bands: int, channels: int, bins: int) -> None:
        super().__init__()
        self.width = bands * config.mlp_features
        self.left_context = config.consumed - config.lookahead + max(config.rolling - 1, 0)
        self.right_context = config.lookahead
        self.channels = config.channels
        self.norm = RollingNorm(config.rolling) if config.rolling else SpectrogramNorm(bands, channels)
        self.mlp = RotationInvariantMLP(bands, channels, bins, config.mlp_features)
        self.blocks = nn.Sequential()
        if config.reduction:
            reduction = Reduction(self.width, config.reduction, config.reduction_kernel, back=config.reduction_back)
            self.width = reduction.width
            self.blocks.append(reduction)
        for _ in range(config.blocks):
            self.blocks.append(TdsConv(self.width, config.channels, config.kernel))
            self.blocks.append(TdsFeedForward(self.width))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F + right_context, B, C, K) -> frames (N, F, width)."""
        hidden = self.mlp(self.norm(features))  # (N, F, B, mlp_features)
        items, count, bands, _ = hidden.shape
        # Every column of the convolution's width holds channels of both bands.
        split = hidden.view(items, count, bands, -1, self.channels // bands).transpose(2, 3)  # (N, F, W, B, channels/B)
        frames: Tensor = self.blocks(split.flatten(2))  # (N, F, width)
        return frames


class TdsConv(nn.Module):
    """Convolution over time with the width as a batch axis, ReLU, residual with the last frames, layer norm."""

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, (kernel, 1))
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - kernel + 1, width)."""
        items, count, width = frames.shape
        split = frames.view(items, count, width // self.channels, self.channels)  # (N, F, W, channels)
        planes = split.permute(0, 3, 1, 2)  # (N, channels, F, W), channels last
        convolved = F.relu(self.conv(planes)).permute(0, 2, 3, 1).flatten(2)  # (N, F - kernel + 1, width)
        normed: Tensor = self.norm(convolved + frames[:, -convolved.shape[1] :])
        return normed


class TdsFeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual, layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        normed: Tensor = self.norm(frames + self.outer(F.relu(self.inner(frames))))
        return normed
