"""Residual convolutions over time: the CNN of Borthakur et al. (section 2.2), alone or as a base encoder."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Count, Dropout, register, require
from emgscribe.models.encoders.contract import EncoderConfig, Frames, Front, Kernel, Width, WidthOrNone
from emgscribe.models.encoders.layers import FastDropout
from emgscribe.models.encoders.mlp import MlpEncoder
from emgscribe.models.steps import Sliding, Step, each


@register("residual-cnn")
@dataclass(frozen=True)
class ResidualCnnConfig(EncoderConfig):
    """A residual block of convolution for each of `widths`."""

    mlp_features: Front = 384  # features of each band
    projection: WidthOrNone = 0  # features of a linear layer before the blocks; 0: none
    widths: tuple[Width, ...] = (128, 128)  # features of each block
    kernel: Kernel = 9  # frames of each convolution, without padding
    strides: tuple[Count, ...] = ()  # stride of each block; empty: all 1
    lookahead: Frames = 4  # future frames of each convolution; as published, half the kernel
    dropout: Dropout = 0.3  # dropout in each block

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.widths) > 0, "encoder.widths", self.widths, "one or more")
        longest = max(self.strides, default=1)
        fits = len(self.strides) in (0, len(self.widths)) and longest <= self.kernel
        require(fits, "encoder.strides", self.strides, f"none, or one for each of widths from 1 to {self.kernel}")
        most = self.kernel - longest
        require(self.lookahead <= most, "encoder.lookahead", self.lookahead, f"0 to {most} frames")

    def build(self, bands: int, channels: int, bins: int) -> "ResidualCnnEncoder":
        return ResidualCnnEncoder(self, bands, channels, bins)


class ResidualCnnEncoder(MlpEncoder):
    """Norm, rotation-invariant MLP, optional projection, residual blocks."""

    def __init__(self, config: ResidualCnnConfig, bands: int, channels: int, bins: int) -> None:
        super().__init__(bands, channels, bins, config.mlp_features)
        self.projection = nn.Linear(self.width, config.projection) if config.projection else nn.Identity()
        self.width = config.projection or self.width
        self.blocks = nn.Sequential()
        for width, stride in zip(config.widths, config.strides or (1,) * len(config.widths), strict=True):
            block = ResidualConv(self.width, width, config.kernel, stride, config.lookahead, config.dropout)
            self.blocks.append(block)
            self.left_context += block.before * self.stride
            self.right_context += config.lookahead * self.stride
            self.stride, self.width = self.stride * stride, width

    def streamed(self) -> list[Step]:
        blocks = [block for block in self.blocks if isinstance(block, ResidualConv)]  # all of them
        kept = [Sliding(block, block.conv.kernel_size[0], block.stride) for block in blocks]
        return [*super().streamed(), each(self.projection), *kept]

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.blocks(self.projection(super().forward(features, lengths)))  # (N, F, width)


class ResidualConv(nn.Module):
    """Convolution over time, ReLU, dropout, residual, norm.

    The residual is the mean of the `stride` frames that a frame stands for, through a linear layer where widths differ.
    """

    def __init__(self, width: int, out: int, kernel: int, stride: int, lookahead: int, dropout: float) -> None:
        super().__init__()
        self.before, self.stride = kernel - stride - lookahead, stride
        self.conv = nn.Conv1d(width, out, kernel, stride)
        self.dropout = FastDropout(dropout)
        self.residual = nn.Identity() if width == out else nn.Linear(width, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, before + F * stride + lookahead, width) -> (N, F, out)."""
        convolved = F.relu(self.conv(frames.transpose(1, 2)))  # (N, out, F)
        hidden = self.dropout(convolved.transpose(1, 2))  # (N, F, out)
        own = frames[:, self.before : self.before + hidden.shape[1] * self.stride]  # (N, F * stride, width)
        if self.stride > 1:
            own = own.reshape(len(own), -1, self.stride, own.shape[2]).mean(dim=2)  # (N, F, width)
        return self.norm(hidden + self.residual(own))
