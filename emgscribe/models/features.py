"""EMG -> features, part of the model: a fixed log-spectrogram, or learned convolutions over the raw signal."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import SAMPLES, Kind, Range, Whole, register, require
from emgscribe.data.shape import Shape
from emgscribe.models.steps import Sliding, Step

Filters = Annotated[int, Range(1, 1 << 14)]
Stride = Annotated[int, Range(1, 1000)]
Index = Annotated[int, Range(0, 255)]


class Features(nn.Module):
    """EMG (N, T, B, C) -> (N, F, B, C, K) with F = (T - span) // hop + 1 and K = `bins`, in float32.

    A frame spans `span` samples; a new one begins every `hop` samples.
    """

    span: int
    hop: int
    bins: int

    @property
    def numbers_per_sample(self) -> float:
        """Numbers that are held at a time for each sample of an electrode channel, roughly."""
        return 2 + 5 * self.bins / self.hop

    def streamed(self) -> list[Step]:
        """The steps of a stream: EMG (N, n, B, C) -> features."""
        return [Sliding(self, self.span, self.hop)]

    def frames(self, samples: int) -> int:
        """Whole frames within `samples` samples."""
        return max(0, (samples - self.span) // self.hop + 1)

    def samples(self, frames: int) -> int:
        """Samples that `frames` frames span."""
        return (frames - 1) * self.hop + self.span


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Kind):
    """Base of every feature extractor's settings."""

    section = "features"
    kinds: ClassVar[dict[str, type["FeaturesConfig"]]] = {}
    electrodes: tuple[Index, ...] = ()  # electrodes of each band, from 0; empty: all
    bands: tuple[Index, ...] = ()  # bands, from 0; of two, 0 is the left one; empty: all

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("electrodes", "bands"):
            chosen = getattr(self, name)
            require(len(chosen) == len(set(chosen)), f"features.{name}", chosen, "each one once")

    @property
    def samples_per_frame(self) -> int:
        """Samples from one frame to the next."""
        raise NotImplementedError  # each kind has its own

    def build(self) -> Features:
        """The module that computes the features; untrained where they are learned."""
        raise NotImplementedError  # each kind has its own

    def seen(self, shape: Shape) -> tuple[int, int]:
        """How many bands, and electrodes of each, are used; `EmgscribeError` where `shape` lacks a chosen one."""
        there = {"bands": len(shape.bands), "electrodes": shape.electrodes}
        for name, count in there.items():
            chosen = getattr(self, name)
            require(max(chosen, default=0) < count, f"features.{name}", chosen, f"0 to {count - 1} in {shape}")
        return len(self.bands) or there["bands"], len(self.electrodes) or there["electrodes"]

    def chosen(self, emg: Tensor) -> Tensor:
        """EMG (N, T, all bands, all electrodes) -> (N, T, B, C) of the chosen ones."""
        # Slices: an index tensor would be copied to a GPU, which waits for its queue.
        for axis, chosen in ((2, self.bands), (3, self.electrodes)):
            if chosen and chosen != tuple(range(emg.shape[axis])):
                emg = torch.stack([emg.select(axis, place) for place in chosen], dim=axis)
        return emg  # (N, T, B, C)


@register("spectrogram")
@dataclass(frozen=True)
class SpectrogramConfig(FeaturesConfig):
    """Log-spectrogram of each electrode channel: log10(power + `offset`)."""

    n_fft: Annotated[int, Range(2, 1024), SAMPLES] = 64  # samples of a frame's transform, at the decimated rate
    hop: Annotated[int, Range(1, 1024), SAMPLES] = 16  # samples from one frame to the next, at the decimated rate
    offset: Annotated[float, Range(0, 1e6, "()")] = 1e-6  # added to the power before the logarithm
    decimation: Literal[1, 2, 4, 8] = 1  # divide the sampling rate first: 2 turns 2 kHz into 1 kHz, 8 into 250 Hz
    edges: tuple[Whole, ...] = ()  # sum the power of bins edges[i] up to edges[i + 1] - 1; empty: each bin by itself

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hop <= self.n_fft, "features.hop", self.hop, f"1 to n_fft = {self.n_fft} samples")
        bins, rising = self.n_fft // 2 + 1, list(self.edges) == sorted(set(self.edges))
        fits = not self.edges or (len(self.edges) > 1 and rising and self.edges[-1] <= bins)
        require(fits, "features.edges", self.edges, f"none, or two or more, increasing, from 0 to {bins}")

    def at_rate(self, factor: float) -> Self:
        bins = round(self.n_fft * factor) // 2 + 1  # as wide as before
        edges = tuple(edge for edge in self.edges if edge <= bins)
        return super(SpectrogramConfig, replace(self, edges=edges)).at_rate(factor)

    @property
    def samples_per_frame(self) -> int:
        return self.hop * self.decimation

    def build(self) -> "LogSpectrogram":
        return LogSpectrogram(self)


class LogSpectrogram(Features):
    """Short-time power spectra with a periodic Hann window of unit L2 norm, without centring, in log10.

    The transform of a short window is one product with a fixed basis (2K, span), for all electrode channels of a frame
    at once. On a CPU the frames are a strided view, not a copy. Decimation filters and then transforms, both linear: it
    only makes a different basis, with a longer span and hop.
    """

    basis: Tensor
    pooling: Tensor

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("basis", basis(config.n_fft, config.decimation), persistent=False)  # (2 * bins, span)
        self.span, self.hop = self.basis.shape[1], config.samples_per_frame
        count = config.n_fft // 2 + 1
        edges, at = np.array(config.edges or range(count + 1)), np.arange(count)
        # In NumPy: on torch's meta device, where models are sketched, comparing loads PyTorch's compiler for seconds.
        pooling = (edges[:-1, None] <= at) & (at < edges[1:, None])
        self.register_buffer("pooling", torch.from_numpy(pooling.astype(np.float32)), persistent=False)  # (K, count)
        self.bins = len(pooling)

    def forward(self, emg: Tensor) -> Tensor:
        # Low precision would cost the quiet bins their digits. There is nothing to learn here: only saliency asks for
        # gradients with respect to the EMG.
        wanted = emg.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted), torch.autocast(emg.device.type, enabled=False):
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
            if self.config.edges:
                power = torch.matmul(self.pooling, power)  # (n*F, K, B*C)
            power = power.add_(self.config.offset).log10_()
            features[first : first + step].flatten(0, 1).copy_(power.transpose(1, 2))  # (n*F, B*C, K)
        return features.view(items, count, bands, channels, self.bins)


@register("strided-conv")
@dataclass(frozen=True)
class StridedConvConfig(FeaturesConfig):
    """Learned features of the raw EMG: convolutions over time, the same for every electrode channel.

    The default makes 41.7 frames/s, as the best public front end of this kind does.
    """

    strides: tuple[Stride, ...] = (3, 4, 4)  # stride of each layer; they multiply to the hop in samples
    filters: tuple[Filters, ...] = (16, 24)  # filters of each layer but the last
    bins: Filters = 32  # filters of the last layer: features of each electrode channel
    overlap: Annotated[int, Range(1, 100)] = 2  # length of each kernel, in strides

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.strides) >= 1, "features.strides", self.strides, "one stride or more")
        fits, allowed = len(self.filters) == len(self.strides) - 1, f"{len(self.strides) - 1}, one fewer than strides"
        require(fits, "features.filters", self.filters, allowed)

    def at_rate(self, factor: float) -> Self:
        return replace(self, strides=tuple(max(1, round(s * factor ** (1 / len(self.strides)))) for s in self.strides))

    @property
    def samples_per_frame(self) -> int:
        return math.prod(self.strides)

    def build(self) -> "StridedConv":
        return StridedConv(self)


class StridedConv(Features):
    """Strided convolutions over each electrode's own signal, each with batch norm and ReLU; log(1 + x) of the last.

    All electrodes share the filters, so rotating the band still rotates the features' electrodes. Without the logarithm
    the heavy tails of muscle activity, which spans orders of magnitude, would reach the encoder.
    """

    def __init__(self, config: StridedConvConfig) -> None:
        super().__init__()
        self.config, self.bins, self.span, self.hop = config, config.bins, 1, 1
        self.layers, widths = nn.ModuleList(), (1, *config.filters, config.bins)
        for (before, after), stride in zip(pairwise(widths), config.strides, strict=True):
            conv = nn.Conv1d(before, after, config.overlap * stride, stride, bias=False)
            self.layers.append(_Strided(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)))
            self.span += (config.overlap * stride - 1) * self.hop
            self.hop *= stride

    def forward(self, emg: Tensor) -> Tensor:
        chosen = self.config.chosen(emg)
        items, _, bands, channels = chosen.shape
        hidden = chosen.permute(0, 2, 3, 1).flatten(0, 2)[:, None, None]  # (N*B*C, 1, 1, T)
        for layer in self.layers:
            hidden = layer(hidden)  # (N*B*C, filters, 1, shorter)
        features = hidden.log1p().view(items, bands, channels, self.bins, -1)
        return features.permute(0, 4, 1, 2, 3)  # (N, F, B, C, K)


class _Strided(nn.Sequential):
    """A convolution, norm and ReLU of (M, features, 1, T) -> (M, filters, 1, shorter).

    As images of one row, with the filters innermost, this takes 0.6 of the time on a CPU (LOG.md, 2026-11-30).
    """

    def forward(self, images: Tensor) -> Tensor:
        conv, norm, relu = self
        assert isinstance(conv, nn.Conv1d)
        last = torch.channels_last
        weight = conv.weight[:, :, None].contiguous(memory_format=last)
        return relu(norm(F.conv2d(images.contiguous(memory_format=last), weight, stride=(1, *conv.stride))))


@register("several")
@dataclass(frozen=True)
class SeveralConfig(FeaturesConfig):
    """Learned features of several networks, one after the other: each member of an ensemble reads its own."""

    parts: tuple[FeaturesConfig, ...] = (StridedConvConfig(),) * 5  # the networks' features, all of one kind and size

    def __post_init__(self) -> None:
        super().__post_init__()
        alike = len(set(self.parts)) == 1 and not self.parts[0].electrodes and not self.parts[0].bands
        require(alike, "features.parts", self.parts, "one or more, all alike, of all electrodes of both bands")

    @property
    def samples_per_frame(self) -> int:
        return self.parts[0].samples_per_frame

    def build(self) -> "Several":
        return Several(self)


class Several(Features):
    """The bins of all parts."""

    def __init__(self, config: SeveralConfig) -> None:
        super().__init__()
        self.config, built = config, [part.build() for part in config.parts]
        self.parts = nn.ModuleList(built)
        self.span, self.hop, self.bins = built[0].span, built[0].hop, sum(part.bins for part in built)

    def forward(self, emg: Tensor) -> Tensor:
        chosen = self.config.chosen(emg)
        return torch.cat([part(chosen) for part in self.parts], dim=-1)


@lru_cache(maxsize=4)
def basis(n_fft: int, decimation: int) -> Tensor:
    """The decimated and windowed transform as a matrix on the CPU: (2 * (n_fft / 2 + 1), span), real parts first."""
    with torch.device("cpu"):
        taps, bins, points = anti_alias_filter(decimation), torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
        window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
        angles = 2 * math.pi / n_fft * torch.outer(bins, points).double()
        spectrum = torch.cat([angles.cos(), angles.sin()]) * (window / window.norm())
        whole = torch.zeros(len(spectrum), (n_fft - 1) * decimation + len(taps), dtype=torch.float64)
        for sample, column in enumerate(spectrum.T):
            first = sample * decimation
            whole[:, first : first + len(taps)] += torch.outer(column, taps)
        return whole.float()


def anti_alias_filter(decimation: int) -> Tensor:
    """Taps of a linear-phase low-pass for keeping every `decimation`-th sample: 60 dB down at the new Nyquist rate.

    The pass band reaches to 0.7 of that rate (Kaiser window; Oppenheim and Schafer, "Discrete-time signal processing").
    """
    if decimation == 1:
        return torch.ones(1, dtype=torch.float64)
    from scipy import signal  # importing it takes a second, and few models decimate

    nyquist = 1 / decimation  # of the lower rate, relative to that of the higher rate
    count, beta = signal.kaiserord(60.0, 0.3 * nyquist)
    return torch.from_numpy(signal.firwin(count | 1, 0.85 * nyquist, window=("kaiser", beta)))
