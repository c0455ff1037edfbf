"""EMG -> features, part of the model: a fixed log-spectrogram, or learned convolutions over the raw signal."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from scipy import signal
from torch import Tensor, nn

from emgscribe.config import Kind, register, require
from emgscribe.data.hdf5 import BANDS, CHANNELS


class Features(nn.Module):
    """EMG (N, T, 2, 16) at 2 kHz -> (N, F, B, C, K) with F = (T - span) // hop + 1, in float32.

    A frame spans `span` samples, a new one begins every `hop` samples, each has `bins` features.
    """

    span: int
    hop: int
    bins: int

    @property
    def before(self) -> int:
        """Samples by which a frame starts before the hop that it stands for, so that its span is centred on it."""
        return (self.span - self.hop) // 2

    def frames(self, samples: int) -> int:
        """Frames that lie whole within `samples` samples."""
        return max(0, (samples - self.span) // self.hop + 1)

    def samples(self, frames: int) -> int:
        """Samples (2 kHz) that `frames` frames span."""
        return (frames - 1) * self.hop + self.span


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Kind):
    """Base of the features' parameters: `electrodes` and `bands` choose what is used of both bands (0 is the left)."""

    section = "features"
    kinds: ClassVar[dict[str, type["FeaturesConfig"]]] = {}

    electrodes: tuple[int, ...] = tuple(range(CHANNELS))
    bands: tuple[int, ...] = tuple(range(BANDS))

    def __post_init__(self) -> None:
        for name, chosen, count in (("electrodes", self.electrodes, CHANNELS), ("bands", self.bands, BANDS)):
            fits = len(chosen) > 0 and len(set(chosen)) == len(chosen) and set(chosen) <= set(range(count))
            require(fits, f"features.{name}", chosen, f"some of 0 to {count - 1}, each once")

    @property
    def samples_per_frame(self) -> int:
        """Samples (2 kHz) from one frame to the next."""
        raise NotImplementedError

    def build(self) -> Features:
        """The module that computes them."""
        raise NotImplementedError

    def chosen(self, emg: Tensor) -> Tensor:
        """EMG (N, T, 2, 16) -> (N, T, B, C) of the chosen bands and electrodes."""
        if self.bands != tuple(range(BANDS)):
            emg = emg[:, :, list(self.bands)]
        if self.electrodes != tuple(range(CHANNELS)):
            emg = emg[..., list(self.electrodes)]
        return emg  # (N, T, B, C)


@register("spectrogram")
@dataclass(frozen=True)
class SpectrogramConfig(FeaturesConfig):
    """Log-spectrogram of each electrode channel: log10(power + `offset`) of `n_fft` samples, every `hop` samples.

    `decimation` lowers the sampling rate first, with an anti-alias filter: 2 is 1 kHz, 4 is 500 Hz, 8 is 250 Hz;
    `n_fft` and `hop` then count samples of the lower rate. `edges` pools the n_fft / 2 + 1 bins into as many sums of
    power as there are gaps between edges, bin edges[i] up to but not including edges[i + 1]; none: every bin is one.
    """

    n_fft: int = 64
    hop: int = 16
    offset: float = 1e-6
    decimation: Literal[1, 2, 4, 8] = 1
    edges: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_fft >= 2, "features.n_fft", self.n_fft, "2 samples or more")
        require(0 < self.hop <= self.n_fft, "features.hop", self.hop, f"1 to n_fft = {self.n_fft} samples")
        require(0 < self.offset < 1e6, "features.offset", self.offset, "above 0, below a million")
        require(self.decimation in (1, 2, 4, 8), "features.decimation", self.decimation, "1, 2, 4, 8")
        bins, rising = self.n_fft // 2 + 1, list(self.edges) == sorted(set(self.edges))
        fits = not self.edges or (len(self.edges) > 1 and rising and self.edges[0] >= 0 and self.edges[-1] <= bins)
        require(fits, "features.edges", self.edges, f"none, or two and more rising from 0 to {bins}")

    @property
    def samples_per_frame(self) -> int:
        """Samples (2 kHz) from one frame to the next."""
        return self.hop * self.decimation

    def build(self) -> "LogSpectrogram":
        """The module that computes them."""
        return LogSpectrogram(self)


class LogSpectrogram(Features):
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
        self.hop = config.samples_per_frame
        self.config, self.offset = config, config.offset
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

    def forward(self, emg: Tensor) -> Tensor:
        """EMG (N, T, 2, 16) at 2 kHz -> (N, F, B, C, K) with F = (T - span) // hop + 1, in float32."""
        # Low precision would cost the quiet bins their digits, and there is nothing to learn here.
        with torch.no_grad(), torch.autocast(emg.device.type, enabled=False):
            return self._spectra(self.config.chosen(emg))

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


@register("strided-conv")
@dataclass(frozen=True)
class StridedConvConfig(FeaturesConfig):
    """Learned features of the raw EMG: convolutions over time, one after the other, the same for every electrode.

    `strides` multiply to the hop; each kernel is `overlap` times as long as its stride. `filters` grow from layer to
    layer up to `bins`, the features of an electrode. The default's 3, 4, 4 make 41.7 frames/s, as in the best public
    front end of this kind.
    """

    strides: tuple[int, ...] = (3, 4, 4)
    filters: tuple[int, ...] = (16, 24)
    bins: int = 32
    overlap: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strides", "filters"):
            values = getattr(self, name)
            require(all(value >= 1 for value in values), f"features.{name}", values, "whole numbers of 1 or more")
        require(len(self.strides) >= 1, "features.strides", self.strides, "one stride or more")
        layers = len(self.strides)
        require(
            len(self.filters) == layers - 1, "features.filters", self.filters, f"{layers - 1}, one fewer than strides"
        )
        require(self.bins >= 1, "features.bins", self.bins, "1 or more")
        require(self.overlap >= 1, "features.overlap", self.overlap, "1 or more")

    @property
    def samples_per_frame(self) -> int:
        """Samples (2 kHz) from one frame to the next."""
        return math.prod(self.strides)

    def build(self) -> "StridedConv":
        """The untrained module."""
        return StridedConv(self)


class StridedConv(Features):
    """Strided convolutions over each electrode's own signal, each with batch norm and ReLU; log(1 + x) of the last.

    Every electrode passes through the same filters, so that turning the band stays turning the electrodes. Without the
    logarithm bursts of muscle activity, which span decades, would reach the encoder with their heavy tails.
    """

    def __init__(self, config: StridedConvConfig) -> None:
        super().__init__()
        self.config, self.bins = config, config.bins
        self.span, self.hop = 1, 1
        widths = (1, *config.filters, config.bins)
        self.layers = nn.ModuleList()
        for (before, after), stride in zip(pairwise(widths), config.strides, strict=True):
            conv = nn.Conv1d(before, after, config.overlap * stride, stride, bias=False)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm1d(after), nn.ReLU()))
            self.span += (config.overlap * stride - 1) * self.hop
            self.hop *= stride

    def forward(self, emg: Tensor) -> Tensor:
        """EMG (N, T, 2, 16) at 2 kHz -> (N, F, B, C, K)."""
        chosen = self.config.chosen(emg)
        items, _, bands, channels = chosen.shape
        hidden = chosen.flatten(2).transpose(1, 2).flatten(0, 1)[:, None]  # (N*B*C, 1, T)
        for layer in self.layers:
            hidden = layer(hidden)  # (N*B*C, filters, shorter)
        return hidden.log1p().view(items, bands, channels, self.bins, -1).permute(0, 4, 1, 2, 3)  # (N, F, B, C, K)


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
