"""EMG -> features: deterministic, part of the model."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from scipy import signal
from torch import Tensor, nn

from emgscribe.config import require
from emgscribe.session import BANDS, CHANNELS


@dataclass(frozen=True)
class SpectrogramConfig:
    """Log-spectrogram of each electrode channel: log10(power + `offset`) of `n_fft` samples, every `hop` samples.

    `decimation` lowers the sampling rate first, with an anti-alias filter: 2 is 1 kHz, 4 is 500 Hz, 8 is 250 Hz;
    `n_fft` and `hop` then count samples of the lower rate. `electrodes` and `bands` choose what is used of the two
    bands (0 is the left). `edges` pools the n_fft / 2 + 1 bins into as many sums of power as there are gaps between
    edges, bin edges[i] up to but not including edges[i + 1]; none: every bin is a feature.
    """

    n_fft: int = 64
    hop: int = 16
    offset: float = 1e-6
    decimation: Literal[1, 2, 4, 8] = 1
    electrodes: tuple[int, ...] = tuple(range(CHANNELS))
    bands: tuple[int, ...] = tuple(range(BANDS))
    edges: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.n_fft >= 2, "features.n_fft", self.n_fft, "2 samples or more")
        require(0 < self.hop <= self.n_fft, "features.hop", self.hop, f"1 to n_fft = {self.n_fft} samples")
        require(0 < self.offset < 1e6, "features.offset", self.offset, "above 0, below a million")
        require(self.decimation in (1, 2, 4, 8), "features.decimation", self.decimation, "1, 2, 4, 8")
        for name, chosen, count in (("electrodes", self.electrodes, CHANNELS), ("bands", self.bands, BANDS)):
            fits = len(chosen) > 0 and len(set(chosen)) == len(chosen) and set(chosen) <= set(range(count))
            require(fits, f"features.{name}", chosen, f"some of 0 to {count - 1}, each once")
        bins, rising = self.n_fft // 2 + 1, list(self.edges) == sorted(set(self.edges))
        fits = not self.edges or (len(self.edges) > 1 and rising and self.edges[0] >= 0 and self.edges[-1] <= bins)
        require(fits, "features.edges", self.edges, f"none, or two and more rising from 0 to {bins}")


class LogSpectrogram(nn.Module):
    """Short-time power spectra with a periodic Hann window of unit L2 norm, without centring, in log10.

    The transform of a short window is a product with a fixed basis (2K, span), one matrix product a frame over all
    electrode channels at once; on a CPU the frames are a strided view, not a copy. Decimation filters and then
    transforms, both linear: it is another basis, with a longer span and hop, and costs nothing else.
    """

    basis: Tensor
    pooling: Tensor

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        taps = anti_alias_filter(config.decimation)
        self.span = (config.n_fft - 1) * config.decimation + len(taps)
        self.hop = config.hop * config.decimation
        self.offset, self.electrodes, self.bands = config.offset, config.electrodes, config.bands
        spectrum = hann_basis(config.n_fft)
        basis = torch.zeros(len(spectrum), self.span, dtype=torch.float64)
        for sample, column in enumerate(spectrum.T):
            first = sample * config.decimation
            basis[:, first : first + len(taps)] += torch.outer(column, taps)
        self.register_buffer("basis", basis.float(), persistent=False)  # (2 * (n_fft / 2 + 1), span)
        edges = config.edges or tuple(range(config.n_fft // 2 + 2))
        self.bins = len(edges) - 1
        self.pooled = bool(config.edges)
        bins = torch.arange(config.n_fft // 2 + 1)
        pooling = [(bins >= low) & (bins < high) for low, high in pairwise(edges)]
        self.register_buffer("pooling", torch.stack(pooling).float(), persistent=False)  # (K, n_fft / 2 + 1)

    @property
    def before(self) -> int:
        """Samples by which a frame starts before the hop that it stands for, so that its span is centred on it."""
        return (self.span - self.hop) // 2

    def samples(self, frames: int) -> int:
        """Samples (2 kHz) that `frames` frames span."""
        return (frames - 1) * self.hop + self.span

    def forward(self, emg: Tensor) -> Tensor:
        """EMG (N, T, 2, 16) at 2 kHz -> (N, F, B, C, K) with F = (T - span) // hop + 1, in float32."""
        # Low precision would cost the quiet bins their digits, and there is nothing to learn here.
        with torch.no_grad(), torch.autocast(emg.device.type, enabled=False):
            return self._spectra(self._chosen(emg))

    def _chosen(self, emg: Tensor) -> Tensor:
        if self.bands != tuple(range(BANDS)):
            emg = emg[:, :, list(self.bands)]
        if self.electrodes != tuple(range(CHANNELS)):
            emg = emg[..., list(self.electrodes)]
        return emg  # (N, T, B, C)

    def _spectra(self, emg: Tensor) -> Tensor:
        items, _, bands, channels = emg.shape
        frames = emg.flatten(2).unfold(1, self.span, self.hop).transpose(2, 3)  # (N, F, span, B*C), a view
        count, half = frames.shape[1], len(self.basis) // 2
        features = emg.new_empty(items, count, bands * channels, self.bins)
        # On a CPU one item at a time, so that the intermediate results stay in its cache.
        step = 1 if emg.device.type == "cpu" else items
        for first in range(0, items, step):
            part = frames[first : first + step].flatten(0, 1)  # (n*F, span, B*C)
            spectrum = torch.bmm(self.basis.expand(len(part), -1, -1), part)  # (n*F, 2 * half, B*C)
            power = spectrum[:, :half].square().addcmul_(spectrum[:, half:], spectrum[:, half:])
            if self.pooled:
                power = torch.matmul(self.pooling, power)  # (n*F, K, B*C)
            power = power.add_(self.offset).log10_()
            features[first : first + step].flatten(0, 1).copy_(power.transpose(1, 2))  # (n*F, B*C, K)
        return features.view(items, count, bands, channels, self.bins)


def hann_basis(n_fft: int) -> Tensor:
    """The Fourier transform under a periodic Hann window of unit norm, real over imaginary part: (n_fft + 2, n_fft)."""
    window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
    angles = 2 * math.pi / n_fft * torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)).double()
    basis: Tensor = torch.cat([angles.cos(), angles.sin()]) * (window / window.norm())
    return basis


def anti_alias_filter(decimation: int) -> Tensor:
    """Taps of a linear-phase low-pass for keeping every `decimation`-th sample: 60 dB down at the new Nyquist rate.

    The pass band reaches to 0.7 of that rate (Kaiser window; Oppenheim and Schafer, "Discrete-time signal processing").
    """
    if decimation == 1:
        return torch.ones(1, dtype=torch.float64)
    nyquist = 1 / decimation  # of the lower rate, in units of the higher one's
    count, beta = signal.kaiserord(60.0, 0.3 * nyquist)
    return torch.from_numpy(signal.firwin(count | 1, 0.85 * nyquist, window=("kaiser", beta)))
