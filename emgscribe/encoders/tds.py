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
from emgscribe.encoders.layers import RotationInvariantMLP, SpectrogramNorm


@dataclass(frozen=True)
class TdsConfig(EncoderConfig):
    """Sizes of the TDS encoder; the defaults are the published baseline (5,293,315 parameters with its head).

    `mlp_features` of each band are split into `channels` (of both bands together) times a width. Each of `blocks`
    convolves over `kernel` frames without padding; `lookahead` of the frames so consumed lie in the future.
    """

    mlp_features: int = 384
    blocks: int = 4
    channels: int = 24
    kernel: int = 32
    lookahead: int = 12

    def __post_init__(self) -> None:
        for field in ("mlp_features", "blocks", "channels", "kernel"):
            require(getattr(self, field) >= 1, f"encoder.{field}", getattr(self, field), "1 or more")
        fits = self.channels % 2 == 0 and 2 * self.mlp_features % self.channels == 0
        require(
            fits, "encoder.channels", self.channels, f"an even divisor of 2 * mlp_features = {2 * self.mlp_features}"
        )
        consumed = self.blocks * (self.kernel - 1)
        require(0 <= self.lookahead <= consumed, "encoder.lookahead", self.lookahead, f"0 to {consumed} frames")

    def build(self, bands: int, channels: int, bins: int) -> "TdsEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return TdsEncoder(self, bands, channels, bins)


class TdsEncoder(Encoder):
    """Norm, rotation-invariant MLP for each band, then blocks of a convolution over time and a feed-forward part."""

    def __init__(self, config: TdsConfig, bands: int, channels: int, bins: int) -> None:
        super().__init__()
        self.width = bands * config.mlp_features
        consumed = config.blocks * (config.kernel - 1)
        self.left_context, self.right_context = consumed - config.lookahead, config.lookahead
        self.channels = config.channels
        self.norm = SpectrogramNorm(bands, channels)
        self.mlp = RotationInvariantMLP(bands, channels, bins, config.mlp_features)
        self.blocks = nn.Sequential()
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
