"""Random changes to a whole batch, on its device; training only.

A change acts in place where it can: a training batch is already a copy of the recording. Random numbers are drawn on
the CPU from the generator that is passed in, so the same seed gives the same batch on every device; only the noise
itself is drawn on the batch's device.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emgscribe.config import SAMPLES, Below, Kind, Range, Settings, Share, Whole, require
from emgscribe.data.charset import BLANK
from emgscribe.data.windows import Batch

Masks = Annotated[int, Range(0, 1000)]
Roll = Annotated[int, Range(-16, 16)]
Samples = Annotated[int, Range(0, 10**9), SAMPLES]


@dataclass(frozen=True)
class _Random(Settings):
    """A change that is called with EMG (N, T, B, C), unless it says otherwise, and returns it changed."""

    probability: Share = field(default=1.0, kw_only=True)  # chance that a window is changed

    def chosen(self, items: int, generator: torch.Generator, axes: int = 1) -> Tensor:
        """Which items are changed: bool (items, 1, ...) of `axes` axes. With probability 1 nothing is drawn."""
        if self.probability < 1:
            return (torch.rand(items, generator=generator) < self.probability).view(-1, *(1,) * (axes - 1))
        return torch.ones(items, *(1,) * (axes - 1), dtype=torch.bool)


@dataclass(frozen=True)
class BandRotation(_Random):
    """Rolls each band's electrodes by a random offset, drawn for each band and window: channel c becomes c + offset.

    The bands rotate on the wrist between sessions (Sivakumar et al. 2024, section 5.2).
    """

    section = "augment.rotation"
    offsets: tuple[Roll, ...] = (-1, 0, 1)  # electrodes to roll by, drawn with equal chance; (0,): never

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.offsets) > 0, "augment.rotation.offsets", self.offsets, "at least one offset in electrodes")

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        if set(self.offsets) == {0}:
            return emg
        items, _, bands, channels = emg.shape
        drawn = torch.randint(len(self.offsets), (items, bands, 1), generator=generator)
        offsets = torch.tensor(self.offsets)[drawn] * self.chosen(items, generator, 3)
        source = (torch.arange(channels) - offsets) % channels  # (N, B, C)
        return emg.gather(3, _on(emg.device, source)[:, None].expand_as(emg))  # (N, T, B, C)


@dataclass(frozen=True)
class AlignmentJitter(_Random):
    """Shifts the right band against the left by a random number of samples, drawn for each window.

    The bands' clocks differ by a few tens of ms (Sivakumar et al. 2024, section 5.2). The right band is mirrored beyond
    the window's ends, so no window gets shorter.
    """

    section = "augment.jitter"
    samples: Samples = 120  # largest shift of the right band, in samples either way

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        items, length = emg.shape[:2]
        assert length > self.samples, f"{length} samples cannot be jittered by {self.samples}"
        if self.samples == 0 or emg.shape[2] == 1:
            return emg
        shifts = torch.randint(-self.samples, self.samples + 1, (items,), generator=generator)
        source = torch.arange(length) + (shifts * self.chosen(items, generator))[:, None]  # (N, T)
        source = source.where(source >= 0, -1 - source)
        source = _on(emg.device, source.where(source < length, 2 * length - 1 - source))
        emg[:, :, 1] = emg[torch.arange(items, device=emg.device)[:, None], source, 1]
        return emg


@dataclass(frozen=True)
class RandomCrop(_Random):
    """Cuts a random number of samples off the end of a window: signal, labels and length.

    At least one labelled sample is left. The shapes stay. Windows begin anywhere, so cropping one end is enough.
    Borthakur et al. name it as future work (section 4).
    """

    section = "augment.crop"
    samples: Samples = 0  # largest number of samples to cut off

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        if self.samples == 0:
            return batch
        device, width = batch.emg.device, batch.emg.shape[1]
        cropped = torch.randint(self.samples + 1, (len(batch),), generator=generator)
        cropped *= self.chosen(len(batch), generator)
        lengths = torch.minimum(batch.lengths, (batch.labelled - cropped).clamp(min=1))
        ends = (batch.left + lengths).where(lengths < batch.lengths, width)  # an uncropped item keeps its context
        kept = torch.arange(width, device=device) < _on(device, ends)[:, None]  # (N, left + T + right)
        typed = (batch.onsets >= 0) & (batch.onsets < lengths[:, None])
        return replace(
            batch,
            emg=batch.emg.mul_(kept[..., None, None]),
            lengths=lengths,
            labels=batch.labels.where(_on(device, typed), BLANK),
            label_lengths=typed.sum(dim=1),
            onsets=batch.onsets.where(typed, -1),
        )


@dataclass(frozen=True)
class MagnitudeWarp(_Random):
    """Multiplies each window by a smooth random curve, the same for all channels of both bands.

    The curve is a cubic spline through `knots` + 2 factors from N(1, `sigma`) at equally spaced times, both ends
    included, with SciPy's default end condition (Um et al. 2017, arXiv 1706.00527). A spline is linear in its values:
    a batch of curves is one product with a fixed basis.
    """

    section = "augment.warp"
    knots: Annotated[int, Range(0, 1000)] = 4  # random factors between the two at the ends
    sigma: Annotated[float, Below(0, 1)] = 0.0  # standard deviation of the factors

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        if self.sigma == 0:
            return emg
        return emg.mul_(_on(emg.device, self.curves(len(emg), emg.shape[1], generator))[..., None, None])

    def curves(self, items: int, samples: int, generator: torch.Generator) -> Tensor:
        """Random curves (items, samples); 1 everywhere for an item that is not changed."""
        changes = self.sigma * torch.randn(items, self.knots + 2, generator=generator)
        changes *= self.chosen(items, generator, 2)
        return F.pad(changes, (0, 1), value=1.0) @ _warp_basis(self.knots + 2, samples)


@lru_cache(maxsize=4)
def _warp_basis(knots: int, samples: int) -> Tensor:
    """The cubic splines through the unit vectors at `knots` equally spaced times; a row of 1 for unchanged windows."""
    from scipy.interpolate import CubicSpline  # takes half a second to import, and few networks are trained with warps

    splines = CubicSpline(np.linspace(0, samples - 1, knots), np.eye(knots))
    basis = np.vstack([splines(np.arange(samples)).T, np.ones(samples)])
    return torch.from_numpy(basis.astype(np.float32))


@dataclass(frozen=True)
class AmplitudeScale(_Random):
    """Multiplies each band of a window by exp(N(0, `spread`)): the gain differs each time a band is put on."""

    section = "augment.scale"
    spread: Annotated[float, Range(0, 2)] = 0.0  # standard deviation of the logarithm of the gain

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        if self.spread == 0:
            return emg
        drawn = self.spread * torch.randn(len(emg), emg.shape[2], generator=generator)
        factors = (drawn * self.chosen(len(emg), generator, 2)).exp()
        return emg.mul_(_on(emg.device, factors)[:, None, :, None])


@dataclass(frozen=True)
class ElectrodeDropout(_Random):
    """Silences random electrode channels of a window: an electrode may lose contact."""

    section = "augment.dropout"
    rate: Annotated[float, Below(0, 1)] = 0.0  # chance that an electrode channel is silenced

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        if self.rate == 0:
            return emg
        lost = torch.rand(len(emg), *emg.shape[2:], generator=generator) < self.rate
        lost &= self.chosen(len(emg), generator, 3)
        return emg.mul_(_on(emg.device, ~lost)[:, None])


@dataclass(frozen=True)
class GaussianNoise(_Random):
    """Adds white noise to all electrode channels of a window."""

    section = "augment.noise"
    ratio: Annotated[float, Range(0, 10)] = 0.0  # level of the noise, relative to the window's root mean square

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        if self.ratio == 0:
            return emg
        chosen = _on(emg.device, self.chosen(len(emg), generator, 4))
        scale = self.ratio * emg.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() * chosen  # (N, 1, 1, 1)
        seed = int(torch.randint(1 << 62, (), generator=generator))
        drawn = torch.Generator(emg.device).manual_seed(seed)
        return emg.addcmul_(torch.randn(emg.shape, generator=drawn, device=emg.device), scale)


@dataclass(frozen=True)
class SpecAugment(_Random):
    """Masks runs of frames and of frequency bins with 0 (Park et al. 2019, arXiv 1904.08779).

    The number of masks is uniform from 0 to its maximum, the size of each uniform from 0 to the largest, its place
    uniform where it fits; all are drawn for each electrode channel of each window. A 0 in log units is power 1.
    """

    section = "augment.spec"
    time_masks: Masks = 3  # largest number of masks over time
    time_frames: Whole = 25  # longest mask, in frames
    frequency_masks: Masks = 2  # largest number of masks over frequency
    frequency_bins: Whole = 4  # widest mask, in frequency bins
    shared: bool = False  # the same masks for all electrode channels of a window

    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K), changed in place and returned; at most all of F and K is masked."""
        items, frames, bands, channels, bins = features.shape
        shape = (items, 1, 1) if self.shared else (items, bands, channels)
        chosen = self.chosen(items, generator, 4)

        def kept(length: int, masks: int, largest: int) -> Tensor:
            """1 where no mask covers one of `length` positions, else 0: (*shape, length)."""
            counts = torch.randint(masks + 1, (*shape, 1), generator=generator)
            sizes = torch.randint(min(largest, length) + 1, (*shape, masks), generator=generator)
            starts = (torch.rand((*shape, masks), generator=generator) * (length - sizes + 1)).long()
            ends = starts + sizes * (torch.arange(masks) < counts) * chosen  # an empty mask ends where it begins
            place = torch.arange(length, device=features.device)
            first, last = (_on(features.device, edge)[..., None] for edge in (starts, ends))
            covered = (place >= first) & (place < last)  # (*shape, masks, length)
            return (~covered.any(dim=-2)).to(features.dtype)

        features *= kept(frames, self.time_masks, self.time_frames).permute(0, 3, 1, 2)[..., None]  # (N, F, B, C, 1)
        features *= kept(bins, self.frequency_masks, self.frequency_bins)[:, None]  # (N, 1, B, C, K)
        return features


def _on(device: torch.device, drawn: Tensor) -> Tensor:
    """A copy on `device` of what was drawn on the CPU, without waiting for a GPU's queue."""
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


@dataclass(frozen=True)
class Change(Kind):
    """Base of a change of your own: define one of the two methods, and register the class under a name.

    A subclass takes every random number from `generator`, which is on the CPU; it may change its argument in place.
    """

    section = "augment.more"
    kinds: ClassVar[dict[str, type["Change"]]] = {}

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, changed."""
        return batch

    def on_features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K), changed; the shape stays."""
        return features


@dataclass(frozen=True)
class Augmentation(Settings):
    """Changes to a training batch, in the order of the fields; SpecAugment on the features, the others on the EMG.

    A change is off at its neutral value: offsets (0,), 0 samples, sigma, spread, rate or ratio 0, 0 masks. The defaults
    are the published baseline's three.
    """

    section = "augment"
    rotation: BandRotation = field(default_factory=BandRotation)  # band rotation
    jitter: AlignmentJitter = field(default_factory=AlignmentJitter)  # alignment jitter between the bands
    crop: RandomCrop = field(default_factory=RandomCrop)  # random crop
    warp: MagnitudeWarp = field(default_factory=MagnitudeWarp)  # magnitude warp
    scale: AmplitudeScale = field(default_factory=AmplitudeScale)  # random gain of each band
    dropout: ElectrodeDropout = field(default_factory=ElectrodeDropout)  # electrode dropout
    noise: GaussianNoise = field(default_factory=GaussianNoise)  # additive noise
    spec: SpecAugment = field(default_factory=SpecAugment)  # SpecAugment
    more: tuple[Change, ...] = ()  # registered changes, after those above

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its EMG, and where it is cropped its labels, changed; the argument may be changed in place."""
        moved = self.jitter(self.rotation(batch.emg, generator), generator)
        batch = self.crop(replace(batch, emg=moved), generator)
        for change in (self.warp, self.scale, self.dropout, self.noise):
            batch = replace(batch, emg=change(batch.emg, generator))
        for own in self.more:
            batch = own.on_batch(batch, generator)
        return batch

    def on_features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K) -> the same shape; the argument may be changed in place."""
        features = self.spec(features, generator)
        for own in self.more:
            features = own.on_features(features, generator)
        return features
