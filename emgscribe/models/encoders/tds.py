"""Time-depth separable convolutions, the published baseline's encoder (Hannun et al. 2019, arXiv 1904.02619).

The published network splits its features into channels x width with the channels outermost. Here they are innermost,
the layout in which convolutions are fastest and linear layers need no copy; otherwise the network is the same.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Count, Dropout, Layers, register, require
from emgscribe.models.encoders.contract import EncoderConfig, Frames, Front, FrontOrNone, Kernel
from emgscribe.models.encoders.layers import FastDropout, Reduction, running_sums
from emgscribe.models.encoders.mlp import MlpEncoder
from emgscribe.models.steps import Recent, Sliding, Step, each


@register("tds")
@dataclass(frozen=True)
class TdsConfig(EncoderConfig):
    """The TDS encoder; the defaults are the published baseline (5,293,315 parameters with its head)."""

    mlp_features: Front = 384  # features of each band
    blocks: Layers = 4  # blocks of a convolution and a feed-forward
    channels: Count = 24  # channels of the convolutions, of both bands together
    kernel: Kernel = 32  # frames of each convolution, without padding
    lookahead: Frames = 12  # future frames, of those that all convolutions consume
    reduction: FrontOrNone = 0  # features that a convolution reduces to before the blocks; 0: no reduction
    reduction_kernel: Kernel = 32  # frames of that convolution
    reduction_back: bool = False  # a transposed convolution restores the number of features
    rolling: Frames = 0  # normalise by this many of the latest frames; 0: by batch
    dropout: Dropout = 0.0  # dropout after the ReLU of each convolution and feed-forward
    # Squeeze-and-excitation after each convolution. Its means cover the frames around each one: those that the window
    # has (sliding), or all of them, which takes more context (finite). Or they cover the whole window (global).
    excitation: Literal["none", "sliding", "finite", "global"] = "none"
    squeeze: Kernel = 625  # frames in each of these means: around a frame, or the last ones if lookahead is 0

    def __post_init__(self) -> None:
        super().__post_init__()
        width = 2 * self.mlp_features
        fits = self.channels % 2 == 0 and width % self.channels == 0
        require(fits, "encoder.channels", self.channels, f"an even divisor of 2 * mlp_features = {width}")
        fits = self.reduction_back or self.reduction % self.channels == 0
        require(fits, "encoder.reduction", self.reduction, f"0 or a multiple of channels = {self.channels}")
        fits = self.lookahead <= self.consumed
        require(fits, "encoder.lookahead", self.lookahead, f"0 to {self.consumed} frames")

    def streaming(self) -> Self:
        waits = self.excitation == "global" or (self.excitation == "sliding" and self.lookahead > 0)
        return replace(self, excitation="finite") if waits else self

    @property
    def consumed(self) -> int:
        """Frames by which the convolutions shorten their input."""
        reducing = (self.reduction_kernel - 1) * (2 if self.reduction_back else 1) if self.reduction else 0
        return reducing + self.blocks * (self.kernel - 1)

    def build(self, bands: int, channels: int, bins: int) -> "TdsEncoder":
        return TdsEncoder(self, bands, channels, bins)


class TdsEncoder(MlpEncoder):
    """Norm, rotation-invariant MLP of each band, optional reduction, blocks of convolution and feed-forward."""

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
        padding = features.shape[1] - self.left_context - self.right_context - lengths
        frames = self._split(self.hidden(features))
        for block in self.blocks:
            frames = block(frames, padding) if isinstance(block, SqueezeExcitation) else block(frames)
        return frames

    def streamed(self) -> list[Step]:
        return [*self.front(), each(self._split), *(_streamed(block) for block in self.blocks)]

    def _split(self, hidden: Tensor) -> Tensor:
        """Hidden (N, F, B, mlp_features) -> frames (N, F, width), each of whose columns holds channels of all bands."""
        split = hidden.view(*hidden.shape[:3], -1, self.channels // hidden.shape[2])  # (N, F, B, W, channels / B)
        return split.transpose(2, 3).flatten(2)


def _streamed(block: nn.Module) -> Step:
    if isinstance(block, SqueezeExcitation):
        before, after = block.span or (0, 0)  # one that sees everything is not streamed

        def excite(frames: Tensor) -> Tensor:
            return block(frames, torch.zeros(len(frames), dtype=torch.int64))

        return Sliding(excite, before + 1 + after) if block.cropped else Recent(excite, before)
    if isinstance(block, TdsConv):
        return Sliding(block, block.conv.kernel_size[0])
    return Sliding(block, block.consumed + 1) if isinstance(block, Reduction) else each(block)


class TdsConv(nn.Module):
    """Convolution over time with the width as a batch axis, ReLU, residual with the last frames, layer norm."""

    def __init__(self, width: int, channels: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, (kernel, 1))
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last)
        self.dropout = FastDropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - kernel + 1, width)."""
        planes = frames.view(*frames.shape[:2], -1, self.channels).permute(
            0, 3, 1, 2
        )  # (N, channels, F, W), channels last
        hidden = self.dropout(F.relu(self.conv(planes)))
        convolved = hidden.permute(0, 2, 3, 1).flatten(2)  # (N, F - kernel + 1, width)
        return self.norm(convolved + frames[:, -convolved.shape[1] :])


class TdsFeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual, layer norm."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = FastDropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        return self.norm(frames + self.outer(self.dropout(F.relu(self.inner(frames)))))


class SqueezeExcitation(nn.Module):
    """Scales each convolution channel by a function of all channels' means over time (Hu et al. 2018).

    A mean covers the convolution's width and the frames from `span[0]` before to `span[1]` after each, where the window
    has them; without `span`, all frames. `cropped` returns only the frames that have their whole span.
    """

    def __init__(self, channels: int, span: tuple[int, int] | None, *, cropped: bool = False) -> None:
        super().__init__()
        self.channels, self.span, self.cropped = channels, span, cropped
        squeezed = max(1, channels // 8)
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, channels, bias=False)

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, width), of which `padding` (N,) at the end are padding -> the same, or fewer with `cropped`."""
        split = frames.view(*frames.shape[:2], -1, self.channels)  # (N, F, W, channels), as TdsConv splits them
        scale = self.excite(F.relu(self.squeeze(self._means(split.mean(dim=2), padding)))).sigmoid()  # (N, F, channels)
        scaled = (split * scale[:, :, None]).flatten(2)  # (N, F, width)
        return scaled[:, self.span[0] : scaled.shape[1] - self.span[1]] if self.cropped and self.span else scaled

    def _means(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Means of frames (N, F, channels) over the span of each: the same shape."""
        count = frames.shape[1]
        place = torch.arange(count, device=frames.device)[None]
        ends = (count - padding).to(frames.device, non_blocking=True)[:, None]  # (N, 1)
        before, after = self.span or (count, count)
        low = (place - before).clamp(min=0).expand(len(frames), -1)  # (N, F)
        high = torch.minimum(place + after + 1, ends).maximum(low + 1)  # never empty, even for padding
        sums = running_sums(frames)  # (N, F + 1, channels)
        last, first = (sums.gather(1, part[..., None].expand(-1, -1, frames.shape[2])) for part in (high, low))
        return ((last - first) / (high - low)[..., None]).to(frames.dtype)
