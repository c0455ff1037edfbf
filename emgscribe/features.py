"""EMG -> features: deterministic, part of the model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emgscribe.config import require


@dataclass(frozen=True)
class SpectrogramConfig:
    """Log-spectrogram of each electrode channel: log10(power + `offset`) of `n_fft` samples, every `hop` samples."""

    n_fft: int = 64
    hop: int = 16
    offset: float = 1e-6

    def __post_init__(self) -> None:
        require(self.n_fft >= 2, "features.n_fft", self.n_fft, "2 samples or more")
        require(0 < self.hop <= self.n_fft, "features.hop", self.hop, f"1 to n_fft = {self.n_fft} samples")
        require(self.offset > 0, "features.offset", self.offset, "above 0")


class LogSpectrogram(nn.Module):
    """Short-time power spectra with a periodic Hann window of unit L2 norm, without centring, in log10.

    The transform of a short window is a product with a fixed basis (2K, n_fft), one matrix product a frame over
    all electrode channels at once; the frames are a strided view, never a copy.
    """

    basis: Tensor

    def __init__(self, n_fft: int = 64, hop: int = 16, offset: float = 1e-6) -> None:
        super().__init__()
        self.n_fft, self.hop, self.offset = n_fft, hop, offset
        self.bins = n_fft // 2 + 1
        window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
        angles = 2 * math.pi / n_fft * torch.outer(torch.arange(self.bins), torch.arange(n_fft)).double()
        basis = torch.cat([angles.cos(), angles.sin()]) * (window / window.norm())
        self.register_buffer("basis", basis.float(), persistent=False)  # (2K, n_fft)

    @property
    def before(self) -> int:
        """Samples by which a frame starts before the hop that it stands for, so that its window is centred on it."""
        return (self.n_fft - self.hop) // 2

    def samples(self, frames: int) -> int:
        """Samples that `frames` frames span."""
        return (frames - 1) * self.hop + self.n_fft

    def forward(self, emg: Tensor) -> Tensor:
        """EMG (N, T, B, C) at 2 kHz -> (N, F, B, C, K) with F = (T - n_fft) // hop + 1, in float32."""
        # Low precision would cost the quiet bins their digits, and there is nothing to learn here.
        with torch.no_grad(), torch.autocast(emg.device.type, enabled=False):
            return self._spectra(emg)

    def _spectra(self, emg: Tensor) -> Tensor:
        items, _, bands, channels = emg.shape
        frames = emg.flatten(2).unfold(1, self.n_fft, self.hop).transpose(2, 3)  # (N, F, n_fft, B*C), a view
        count = frames.shape[1]
        features = emg.new_empty(items, count, bands * channels, self.bins)
        # On a CPU one item at a time, so that the intermediate results stay in its cache.
        step = 1 if emg.device.type == "cpu" else items
        for first in range(0, items, step):
            part = frames[first : first + step].flatten(0, 1)  # (n*F, n_fft, B*C)
            spectrum = torch.bmm(self.basis.expand(len(part), -1, -1), part)  # (n*F, 2K, B*C)
            real, imaginary = spectrum[:, : self.bins], spectrum[:, self.bins :]
            power = real.square().addcmul_(imaginary, imaginary).add_(self.offset)
            features[first : first + step].flatten(0, 1).copy_(power.log10_().transpose(1, 2))  # (n*F, B*C, K)
        return features.view(items, count, bands, channels, self.bins)
