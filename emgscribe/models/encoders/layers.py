"""Parts that several encoders share."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn


class SpectrogramNorm(nn.Module):
    """Batch normalisation with one mean and variance for each electrode channel, over items, frames and bins."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(bands * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> the same shape."""
        normed: Tensor = self.norm(features.flatten(0, 1).flatten(1, 2))  # (N*F, B*C, K)
        return normed.view_as(features)


class RotationInvariantMLP(nn.Module):
    """One linear layer and ReLU for each band, averaged over rolls of the band's electrodes by each of `offsets`.

    Rolling the electrodes of the input is rolling those of the weights the other way, so the rolls share one matrix
    product over the features as they are. Source: Sivakumar et al. 2024 (arXiv 2410.20081), section 5.1.
    """

    def __init__(self, bands: int, channels: int, bins: int, width: int, offsets: tuple[int, ...] = (-1, 0, 1)) -> None:
        super().__init__()
        self.channels, self.bins, self.width, self.offsets = channels, bins, width, offsets
        self.layers = nn.ModuleList(nn.Linear(channels * bins, width) for _ in range(bands))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> (N, F, B, width)."""
        bands = [self._band(features[:, :, band].flatten(2), layer) for band, layer in enumerate(self.layers)]
        return torch.stack(bands, dim=2)  # (N, F, B, width)

    def _band(self, features: Tensor, layer: nn.Module) -> Tensor:
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.view(self.width, self.channels, self.bins)
        rolled = torch.cat([weight.roll(-offset, dims=1).flatten(1) for offset in self.offsets])  # (rolls*width, C*K)
        hidden = F.relu(F.linear(features, rolled, layer.bias.repeat(len(self.offsets))))  # (N, F, rolls*width)
        items, frames, _ = hidden.shape
        return hidden.view(items, frames, len(self.offsets), self.width).mean(dim=2)  # (N, F, width)


class RollingNorm(nn.Module):
    """Mean 0 and variance 1 of each electrode channel's bins over the last `span` frames, this one included.

    Causal and without learned statistics, so a session is normalised by its own recent past (after the rolling time
    normalisation of SplashNet, arXiv 2506.12356, with a finite span so that any block of a session gives the same).
    """

    def __init__(self, span: int) -> None:
        super().__init__()
        self.span = span

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> (N, F - span + 1, B, C, K)."""
        sums = F.pad(features.double().cumsum(dim=1), (0, 0, 0, 0, 0, 0, 1, 0))  # (N, F + 1, B, C, K)
        squares = F.pad(features.double().square().cumsum(dim=1), (0, 0, 0, 0, 0, 0, 1, 0))
        mean = (sums[:, self.span :] - sums[:, : -self.span]) / self.span  # (N, F - span + 1, B, C, K)
        power = (squares[:, self.span :] - squares[:, : -self.span]) / self.span
        deviation = (power - mean.square()).clamp(min=1e-4).sqrt()
        return (features[:, self.span - 1 :] - mean.to(features.dtype)) / deviation.to(features.dtype)


class Reduction(nn.Module):
    """Convolution over time to fewer features, ReLU, optionally back to as many by a transposed one, layer norm.

    The seed paper's dimensionality reduction (its section 2.1.2). Frames at the ends that the transposed convolution
    could only build from a part of its inputs are cut off.
    """

    def __init__(self, width: int, reduced: int, kernel: int, *, back: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, reduced, kernel)
        self.back = nn.ConvTranspose1d(reduced, width, kernel) if back else None
        self.width = width if back else reduced
        self.consumed = (kernel - 1) * (2 if back else 1)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - consumed, self.width)."""
        hidden = F.relu(self.conv(frames.transpose(1, 2)))  # (N, reduced, F - kernel + 1)
        if self.back is not None:
            edge = self.consumed // 2
            hidden = F.relu(self.back(hidden))[:, :, edge : frames.shape[1] - edge]  # (N, width, F - consumed)
        normed: Tensor = self.norm(hidden.transpose(1, 2))
        return normed


class Recurrent(nn.Module):
    """LSTM or GRU layers over time, one way or both; padding is not read, so the way back starts at each item's end."""

    def __init__(
        self,
        width: int,
        hidden: int,
        layers: int,
        *,
        cell: Literal["gru", "lstm"],
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        between = dropout if layers > 1 else 0.0
        self.cells = kind(width, hidden, layers, batch_first=True, bidirectional=bidirectional, dropout=between)
        self.width = hidden * (2 if bidirectional else 1)

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Frames (N, F, width), of which `padding` (N,), on the CPU, at the end are none -> (N, F, self.width)."""
        if not self.cells.bidirectional or not padding.any():
            whole: Tensor = self.cells(frames)[0]
            return whole  # (N, F, self.width)
        # Packing costs time, and is needed only where a session ends within a window.
        packed = rnn.pack_padded_sequence(frames, frames.shape[1] - padding, batch_first=True, enforce_sorted=False)
        hidden: Tensor = rnn.pad_packed_sequence(self.cells(packed)[0], True, total_length=frames.shape[1])[0]
        return hidden  # (N, F, self.width)


def without(frames: Tensor, padding: Tensor) -> Tensor:
    """Frames (N, F, D), the `padding` (N,), on the CPU, at the end of each item replaced by zeros."""
    if not padding.any():
        return frames
    ends = (frames.shape[1] - padding).to(frames.device, non_blocking=True)
    place = torch.arange(frames.shape[1], device=frames.device)
    return frames.masked_fill((place >= ends[:, None])[..., None], 0)  # where, not times zero: padding may be NaN


def feed_forward(width: int, inner: int, activation: nn.Module, dropout: float) -> nn.Sequential:
    """Norm, linear layer to `inner` features, activation, linear layer back, dropout after both: (N, F, width)."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        activation,
        nn.Dropout(dropout),
        nn.Linear(inner, width),
        nn.Dropout(dropout),
    )
