"""Time-depth separable convolutions, the published baseline's encoder (Hannun et al. 2019, arXiv 1904.02619).

The published network splits its features into channels x width with the channels outermost. Here the channels are
innermost, which is the layout that convolutions run fastest on, so frames go from a linear layer into a convolution
and back without a copy; the network is the same up to the order of its features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import register, require
from emgscribe.models.encoders.contract import EncoderConfig
from emgscribe.models.encoders.layers import Reduction
from emgscribe.models.encoders.mlp import MlpEncoder


@register("tds")
@dataclass(frozen=True)
class TdsConfig(EncoderConfig):
    """Sizes of the TDS encoder; the defaults are the published baseline (5,293,315 parameters with its head).

    `mlp_features` of each band are split into `channels` (of both bands together) times a width. Each of `blocks`
    convolves over `kernel` frames without padding; `lookahead` of the frames that all convolutions consume are future.
    `reduction` above 0 convolves over `reduction_kernel` frames to so many features before the blocks, and back to as
    many as before with `reduction_back`. `rolling` above 0 normalises by the last so many frames instead of by batch.
    `dropout` follows the ReLU of each convolution and the first of each feed-forward. `excitation` puts a
    squeeze-and-excitation behind each convolution, which squeezes over the `squeeze` frames around each (with
    `lookahead` 0: the last ones): "sliding" over those of them that the window has, "finite" over all of them, for
    which it asks for more context, block upon block, or over everything that the window has, "global".
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
    dropout: float = 0.0
    excitation: Literal["none", "sliding", "finite", "global"] = "none"
    squeeze: int = 625

    def __post_init__(self) -> None:
        for field in ("mlp_features", "blocks", "channels", "kernel", "reduction_kernel", "squeeze"):
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
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 or more, below 1")
        kinds = ("none", "sliding", "finite", "global")
        require(self.excitation in kinds, "encoder.excitation", self.excitation, ", ".join(kinds))

    @property
    def consumed(self) -> int:
        """Frames by which the convolutions shorten their input."""
        reducing = (self.reduction_kernel - 1) * (2 if self.reduction_back else 1) if self.reduction else 0
        return reducing + self.blocks * (self.kernel - 1)

    def build(self, bands: int, channels: int, bins: int) -> "TdsEncoder":
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        return TdsEncoder(self, bands, channels, bins)


class TdsEncoder(MlpEncoder):
    """Norm, rotation-invariant MLP for each band, a reduction if asked for, blocks of convolution and feed-forward."""

    def __init__(self, config: TdsConfig, bands: int, channels: int, bins: int) -> None:
        super().__init__(bands, channels, bins, config.mlp_features, rolling=config.rolling)
        fits = config.channels % bands == 0 and self.width % config.channels == 0
        require(fits, "encoder.channels", config.channels, f"a multiple of {bands} and a divisor of {self.width}")
        self.channels = config.channels
        self.left_context += config.consumed - config.lookahead
        self.right_context = config.lookahead
        self.blocks = nn.ModuleList()
        if config.reduction:
            reduction = Reduction(self.width, config.reduction, config.reduction_kernel, back=config.reduction_back)
            self.width = reduction.width
            self.blocks.append(reduction)
        for _ in range(config.blocks):
            self.blocks.append(TdsConv(self.width, config.channels, config.kernel, config.dropout))
            if config.excitation != "none":
                self.blocks.append(self._excitation(config))
            self.blocks.append(TdsFeedForward(self.width, config.dropout))

    def _excitation(self, config: TdsConfig) -> "SqueezeExcitation":
        centred = config.lookahead > 0
        after = (config.squeeze - 1) // 2 if centred else 0
        before = config.squeeze - 1 - after
        if config.excitation == "finite":
            self.left_context += before
            self.right_context += after
            return SqueezeExcitation(config.channels, (before, after), cropped=True)
        everything = config.excitation == "global"
        self.unbounded_left, self.unbounded_right = True, centred or everything
        return SqueezeExcitation(config.channels, None if everything else (before, after))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F + right_context, B, C, K) -> frames (N, F, width)."""
        padding = features.shape[1] - self.left_context - self.right_context - lengths
        hidden = self.mlp(self.norm(features))  # (N, F, B, mlp_features)
        items, count, bands, _ = hidden.shape
        # Every column of the convolution's width holds channels of both bands.
        split = hidden.view(items, count, bands, -1, self.channels // bands).transpose(2, 3)  # (N, F, W, B, channels/B)
        frames: Tensor = split.flatten(2)  # (N, F, width)
        for block in self.blocks:
            frames = block(frames, padding) if isinstance(block, SqueezeExcitation) else block(frames)
        return frames


class TdsConv(nn.Module):
    """Convolution over time with the width as a batch axis, ReLU, residual with the last frames, layer norm."""

    def __init__(self, width: int, channels: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, (kernel, 1))
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - kernel + 1, width)."""
        items, count, width = frames.shape
        split = frames.view(items, count, width // self.channels, self.channels)  # (N, F, W, channels)
        planes = split.permute(0, 3, 1, 2)  # (N, channels, F, W), channels last
        hidden = self.dropout(F.relu(self.conv(planes)))
        convolved = hidden.permute(0, 2, 3, 1).flatten(2)  # (N, F - kernel + 1, width)
        normed: Tensor = self.norm(convolved + frames[:, -convolved.shape[1] :])
        return normed


class TdsFeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual, layer norm."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        normed: Tensor = self.norm(frames + self.outer(self.dropout(F.relu(self.inner(frames)))))
        return normed


class SqueezeExcitation(nn.Module):
    """Scales each convolution channel by what its mean over time says of all channels' means (Hu et al. 2018).

    The mean goes over the convolution's width and over the frames from `span[0]` before to `span[1]` after each, as far
    as the window has them, or over all frames with no `span`. `cropped` returns only frames that have all of theirs.
    """

    def __init__(self, channels: int, span: tuple[int, int] | None, *, cropped: bool = False) -> None:
        super().__init__()
        self.channels, self.span, self.cropped = channels, span, cropped
        squeezed = max(1, channels // 8)
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, channels, bias=False)

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, width), of which `padding` (N,) at the end are none -> the same, or fewer with `cropped`."""
        split = frames.view(*frames.shape[:2], -1, self.channels)  # (N, F, W, channels), as TdsConv splits them
        scale = self.excite(F.relu(self.squeeze(self._means(split.mean(dim=2), padding)))).sigmoid()  # (N, F, channels)
        scaled: Tensor = (split * scale[:, :, None]).flatten(2)  # (N, F, width)
        if not self.cropped:
            return scaled
        assert self.span is not None
        return scaled[:, self.span[0] : scaled.shape[1] - self.span[1]]

    def _means(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Means over time of frames (N, F, channels): as many, or (N, 1, channels) with no span."""
        count = frames.shape[1]
        place = torch.arange(count, device=frames.device)
        ends = (count - padding).to(frames.device, non_blocking=True)[:, None]  # (N, 1)
        if self.span is None:
            low, high = torch.zeros_like(ends), ends
        else:
            low = (place - self.span[0]).clamp(min=0)[None].expand(len(frames), -1)  # (N, F)
            high = torch.minimum((place + self.span[1] + 1)[None], ends).maximum(low + 1)  # padding sees something
        sums = F.pad(frames.double().cumsum(dim=1), (0, 0, 1, 0))  # (N, F + 1, channels)
        index = torch.stack([low, high])[..., None].expand(-1, -1, -1, frames.shape[2])
        total = sums.gather(1, index[1]) - sums.gather(1, index[0])  # (N, F or 1, channels)
        return (total / (high - low)[..., None]).to(frames.dtype)
