"""Random changes of a whole batch, on its device; training only.

Each change is a frozen dataclass that holds its parameters and acts on a batch, in place where it can: a training batch
is a copy of the recording already. `probability` is that of an item being changed at all. Random numbers are drawn on
the CPU from the generator that is passed in, so the same seed gives the same batch on every device (but for the noise
itself, which is drawn where it is added).
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn import functional as F

from emgscribe.config import require
from emgscribe.data.charset import BLANK
from emgscribe.data.windows import Batch


@dataclass(frozen=True)
class BandRotation:
    """Rolls each band's electrodes by an offset drawn from `offsets`, anew for each band and window.

    The bands turn on the wrist between sessions (Sivakumar et al. 2024, section 5.2).
    """

    offsets: tuple[int, ...] = (-1, 0, 1)
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(len(self.offsets) > 0, "augment.rotation.offsets", self.offsets, "at least one offset in electrodes")
        _require_probability("rotation", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C) -> the same shape; channel c of the result is channel c - offset of the band."""
        if set(self.offsets) == {0}:
            return emg
        items, _, bands, channels = emg.shape
        drawn = torch.randint(len(self.offsets), (items, bands, 1), generator=generator)
        offsets = torch.tensor(self.offsets)[drawn] * _chosen(items, self.probability, generator)[:, None, None]
        source = (torch.arange(channels) - offsets) % channels  # (N, B, C)
        return emg.gather(3, _on(emg.device, source)[:, None].expand_as(emg))  # (N, T, B, C)


@dataclass(frozen=True)
class AlignmentJitter:
    """Shifts the right band against the left by up to `samples` either way, anew for each window.

    The bands' clocks differ by a few tens of ms (Sivakumar et al. 2024, section 5.2). Past the window's ends the right
    band is mirrored, so no window gets shorter.
    """

    samples: int = 120
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(self.samples >= 0, "augment.jitter.samples", self.samples, "0 or more samples")
        _require_probability("jitter", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, 2, C), changed in place and returned; the left band is untouched. T must exceed `samples`."""
        items, length = emg.shape[:2]
        assert length > self.samples, f"{length} samples cannot be jittered by {self.samples}"
        if self.samples == 0:
            return emg
        shifts = torch.randint(-self.samples, self.samples + 1, (items,), generator=generator)
        shifts *= _chosen(items, self.probability, generator)
        source = torch.arange(length) + shifts[:, None]  # (N, T)
        source = source.where(source >= 0, -1 - source)
        source = _on(emg.device, source.where(source < length, 2 * length - 1 - source))
        emg[:, :, 1] = emg[torch.arange(items, device=emg.device)[:, None], source, 1]
        return emg


@dataclass(frozen=True)
class RandomCrop:
    """Withholds up to `samples` at the end of a window: signal 0, labels gone, length shorter.

    Windows begin anywhere, so cropping one end is cropping both (the seed paper's future work, section 4).
    """

    samples: int = 0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(self.samples >= 0, "augment.crop.samples", self.samples, "0 or more samples")
        _require_probability("crop", self.probability)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A batch of the same shapes, its EMG changed in place. At least one labelled sample is left."""
        if self.samples == 0:
            return batch
        items, device = len(batch), batch.emg.device
        cropped = torch.randint(self.samples + 1, (items,), generator=generator)
        cropped *= _chosen(items, self.probability, generator)
        lengths = torch.minimum(batch.lengths, (batch.labelled - cropped).clamp(min=1))
        # An item that is not cropped keeps its context.
        ends = (batch.left + lengths).where(lengths < batch.lengths, batch.emg.shape[1])
        kept = torch.arange(batch.emg.shape[1], device=device) < _on(device, ends)[:, None]  # (N, left + T + right)
        typed = (batch.onsets >= 0) & (batch.onsets < _on(device, lengths)[:, None])
        return replace(
            batch,
            emg=batch.emg.mul_(kept[..., None, None]),
            lengths=lengths,
            labels=batch.labels.where(typed, BLANK),
            label_lengths=typed.sum(dim=1).cpu(),
            onsets=batch.onsets.where(typed, -1),
        )


@dataclass(frozen=True)
class MagnitudeWarp:
    """Multiplies each window by a smooth random curve, the same for all channels of both bands.

    `knots` + 2 factors from N(1, `sigma`) at equally spaced times, both ends included, and the cubic spline through
    them with SciPy's default end condition (Um et al. 2017, arXiv 1706.00527). A spline is linear in its values, so a
    batch of curves is one product with a fixed basis.
    """

    knots: int = 4
    sigma: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(self.knots >= 0, "augment.warp.knots", self.knots, "0 or more")
        require(0 <= self.sigma < 1, "augment.warp.sigma", self.sigma, "0 up to 1")
        _require_probability("warp", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C), changed in place and returned."""
        if self.sigma == 0:
            return emg
        curves = self.curves(len(emg), emg.shape[1], generator)
        return emg.mul_(_on(emg.device, curves)[..., None, None])

    def curves(self, items: int, samples: int, generator: torch.Generator) -> Tensor:
        """Random curves (items, samples), 1 for an item that is left alone."""
        changes = self.sigma * torch.randn(items, self.knots + 2, generator=generator)
        changes *= _chosen(items, self.probability, generator)[:, None]
        return F.pad(changes, (0, 1), value=1.0) @ warp_basis(self.knots + 2, samples)


@lru_cache(maxsize=4)
def warp_basis(knots: int, samples: int) -> Tensor:
    """The cubic splines through the unit vectors at `knots` equally spaced times, then 1: float32 (knots + 1, samples).

    The 1 adds the curve that leaves a window alone to a batch's changes of it in the same product, and exactly.
    """
    splines = CubicSpline(np.linspace(0, samples - 1, knots), np.eye(knots))
    basis = np.vstack([splines(np.arange(samples)).T, np.ones(samples)])
    return torch.from_numpy(basis.astype(np.float32))


@dataclass(frozen=True)
class AmplitudeScale:
    """Multiplies each band of a window by exp(N(0, `spread`)): gain differs between donnings."""

    spread: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.spread <= 2, "augment.scale.spread", self.spread, "0 to 2")
        _require_probability("scale", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C), changed in place and returned."""
        if self.spread == 0:
            return emg
        items, _, bands, _ = emg.shape
        drawn = self.spread * torch.randn(items, bands, generator=generator)
        factors = (drawn * _chosen(items, self.probability, generator)[:, None]).exp()
        return emg.mul_(_on(emg.device, factors)[:, None, :, None])


@dataclass(frozen=True)
class ElectrodeDropout:
    """Silences each electrode channel of a window with probability `rate`: an electrode may lose contact."""

    rate: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "augment.dropout.rate", self.rate, "0 up to 1")
        _require_probability("dropout", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C), changed in place and returned."""
        if self.rate == 0:
            return emg
        items, _, bands, channels = emg.shape
        lost = torch.rand(items, bands, channels, generator=generator) < self.rate
        lost &= _chosen(items, self.probability, generator)[:, None, None]
        return emg.mul_(_on(emg.device, ~lost)[:, None])


@dataclass(frozen=True)
class GaussianNoise:
    """Adds white noise of `ratio` times the window's root mean square."""

    ratio: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.ratio <= 10, "augment.noise.ratio", self.ratio, "0 to 10")
        _require_probability("noise", self.probability)

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C), changed in place and returned."""
        if self.ratio == 0:
            return emg
        chosen = _on(emg.device, _chosen(len(emg), self.probability, generator))
        scale = self.ratio * emg.square().mean(dim=(1, 2, 3)).sqrt() * chosen  # (N,)
        seed = int(torch.randint(1 << 62, (), generator=generator))
        drawn = torch.Generator(emg.device).manual_seed(seed)
        noise = torch.randn(emg.shape, generator=drawn, device=emg.device)
        return emg.addcmul_(noise, scale[:, None, None, None])


@dataclass(frozen=True)
class SpecAugment:
    """Masks runs of frames and of frequency bins with 0 (Park et al. 2019, arXiv 1904.08779).

    The number of masks is uniform in 0..`time_masks` (`frequency_masks`), the size of each uniform in 0..`time_frames`
    (0..`frequency_bins`), its place uniform where it fits; drawn anew for each electrode channel, or once for all of an
    item where `shared`. 0 in log units is power 1.
    """

    time_masks: int = 3
    time_frames: int = 25
    frequency_masks: int = 2
    frequency_bins: int = 4
    shared: bool = False
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("time_masks", "time_frames", "frequency_masks", "frequency_bins"):
            require(getattr(self, name) >= 0, f"augment.spec.{name}", getattr(self, name), "0 or more")
        _require_probability("spec", self.probability)

    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K), changed in place and returned; at most all of F and K is masked."""
        items, frames, bands, channels, bins = features.shape
        shape = (items, 1, 1) if self.shared else (items, bands, channels)
        chosen = _chosen(items, self.probability, generator)[:, None, None, None]
        frame_masks = _masks(frames, self.time_masks, self.time_frames, shape, generator)
        bin_masks = _masks(bins, self.frequency_masks, self.frequency_bins, shape, generator)
        kept_frames = _kept(frames, *(_on(features.device, edge * chosen) for edge in frame_masks))  # (N, B, C, F)
        kept_bins = _kept(bins, *(_on(features.device, edge * chosen) for edge in bin_masks))  # (N, B, C, K)
        features *= kept_frames.to(features.dtype).permute(0, 3, 1, 2)[..., None]  # (N, F, B, C, 1)
        features *= kept_bins.to(features.dtype)[:, None]  # (N, 1, B, C, K)
        return features


def _masks(
    length: int, masks: int, largest: int, shape: tuple[int, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """First position and end of each mask: two (*shape, masks); an empty mask ends where it begins."""
    counts = torch.randint(masks + 1, (*shape, 1), generator=generator)
    sizes = torch.randint(min(largest, length) + 1, (*shape, masks), generator=generator)
    starts = (torch.rand((*shape, masks), generator=generator) * (length - sizes + 1)).long()
    return starts, torch.where(torch.arange(masks) < counts, starts + sizes, starts)


def _kept(length: int, starts: Tensor, ends: Tensor) -> Tensor:
    """Which of `length` positions no mask covers: bool (*shape, length)."""
    place = torch.arange(length, device=starts.device)
    covered = (place >= starts[..., None]) & (place < ends[..., None])  # (*shape, masks, length)
    return ~covered.any(dim=-2)


def _on(device: torch.device, drawn: Tensor) -> Tensor:
    """What was drawn on the CPU, on `device`, without waiting for the work that a GPU has queued."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn


def _chosen(items: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which items are changed: bool (items,). Nothing is drawn where all are."""
    if probability == 1:
        return torch.ones(items, dtype=torch.bool)
    return torch.rand(items, generator=generator) < probability


def _require_probability(change: str, probability: float) -> None:
    require(0 <= probability <= 1, f"augment.{change}.probability", probability, "0 to 1")


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training batch, in the order of the fields: all but SpecAugment on the EMG, it on the features.

    A change is left out by its neutral value: offsets (0,), 0 samples, sigma, spread, rate or ratio 0, 0 masks. The
    defaults are the published baseline's three.
    """

    rotation: BandRotation = field(default_factory=BandRotation)
    jitter: AlignmentJitter = field(default_factory=AlignmentJitter)
    crop: RandomCrop = field(default_factory=RandomCrop)
    warp: MagnitudeWarp = field(default_factory=MagnitudeWarp)
    scale: AmplitudeScale = field(default_factory=AmplitudeScale)
    dropout: ElectrodeDropout = field(default_factory=ElectrodeDropout)
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    spec: SpecAugment = field(default_factory=SpecAugment)

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its EMG, and where it is cropped its labels, changed; the argument may be changed in place."""
        moved = self.jitter(self.rotation(batch.emg, generator), generator)
        batch = self.crop(replace(batch, emg=moved), generator)
        emg = batch.emg
        for change in (self.warp, self.scale, self.dropout, self.noise):
            emg = change(emg, generator)
        return replace(batch, emg=emg)

    def on_features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K) -> the same shape; the argument may be changed in place."""
        return self.spec(features, generator)
