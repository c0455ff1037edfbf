"""Parts that several encoders share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
