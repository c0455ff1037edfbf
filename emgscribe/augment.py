"""Random changes of a whole batch, on its device; training only.

Each change is a frozen dataclass that holds its parameters and acts on a batch. Random numbers are drawn on the CPU
from the generator that is passed in, so the same seed gives the same batch on every device.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from emgscribe.config import require


@dataclass(frozen=True)
class BandRotation:
    """Rolls each band's electrodes by an offset drawn from `offsets`, anew for each band and window.

    The bands turn on the wrist between sessions (Sivakumar et al. 2024, section 5.2).
    """

    offsets: tuple[int, ...] = (-1, 0, 1)

    def __post_init__(self) -> None:
        require(len(self.offsets) > 0, "augment.rotation.offsets", self.offsets, "at least one offset in electrodes")

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C) -> the same shape; channel c of the result is channel c - offset of the band."""
        if set(self.offsets) == {0}:
            return emg
        items, _, bands, channels = emg.shape
        drawn = torch.randint(len(self.offsets), (items, bands, 1), generator=generator)
        offsets = torch.tensor(self.offsets)[drawn]
        source = (torch.arange(channels) - offsets) % channels  # (N, B, C)
        return emg.gather(3, source.to(emg.device)[:, None].expand_as(emg))  # (N, T, B, C)


@dataclass(frozen=True)
class AlignmentJitter:
    """Shifts the right band against the left by up to `samples` either way, anew for each window.

    The bands' clocks differ by a few tens of ms (Sivakumar et al. 2024, section 5.2). Past the window's ends the right
    band is mirrored, so no window gets shorter.
    """

    samples: int = 120

    def __post_init__(self) -> None:
        require(self.samples >= 0, "augment.jitter.samples", self.samples, "0 or more samples")

    def __call__(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, 2, C) -> the same shape; the left band is untouched. T must exceed `samples`."""
        items, length = emg.shape[:2]
        assert length > self.samples, f"{length} samples cannot be jittered by {self.samples}"
        if self.samples == 0:
            return emg
        shifts = torch.randint(-self.samples, self.samples + 1, (items,), generator=generator).tolist()
        shifted = emg.clone()
        for item, original, shift in zip(shifted, emg, shifts, strict=True):
            if shift > 0:
                item[:-shift, 1] = original[shift:, 1]
                item[-shift:, 1] = original[-shift:, 1].flip(0)
            elif shift < 0:
                item[-shift:, 1] = original[:shift, 1]
                item[:-shift, 1] = original[:-shift, 1].flip(0)
        return shifted


@dataclass(frozen=True)
class SpecAugment:
    """Masks runs of frames and of frequency bins with 0, drawn anew for each electrode channel (Park et al. 2019).

    The number of masks is uniform in 0..`time_masks` (`frequency_masks`), the size of each uniform in
    0..`time_frames` (0..`frequency_bins`), its place uniform where it fits. 0 in log units is power 1.
    """

    time_masks: int = 3
    time_frames: int = 25
    frequency_masks: int = 2
    frequency_bins: int = 4

    def __post_init__(self) -> None:
        for name in ("time_masks", "time_frames", "frequency_masks", "frequency_bins"):
            require(getattr(self, name) >= 0, f"augment.spec.{name}", getattr(self, name), "0 or more")

    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K), changed in place and returned; at most all of F and K is masked."""
        items, frames, bands, channels, bins = features.shape
        shape = (items, bands, channels)
        kept_frames = _kept(frames, self.time_masks, self.time_frames, shape, generator)  # (N, B, C, F)
        kept_bins = _kept(bins, self.frequency_masks, self.frequency_bins, shape, generator)  # (N, B, C, K)
        features *= kept_frames.to(features.device, features.dtype).permute(0, 3, 1, 2)[..., None]  # (N, F, B, C, 1)
        features *= kept_bins.to(features.device, features.dtype)[:, None]  # (N, 1, B, C, K)
        return features


def _kept(length: int, masks: int, largest: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Which of `length` positions no mask covers: bool (*shape, length)."""
    counts = torch.randint(masks + 1, (*shape, 1), generator=generator)
    sizes = torch.randint(min(largest, length) + 1, (*shape, masks), generator=generator)
    starts = (torch.rand((*shape, masks), generator=generator) * (length - sizes + 1)).long()
    ends = torch.where(torch.arange(masks) < counts, starts + sizes, starts)  # a mask past the count is empty
    place = torch.arange(length)
    covered = (place >= starts[..., None]) & (place < ends[..., None])  # (*shape, masks, length)
    return ~covered.any(dim=-2)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training batch, in this order: rotation, jitter (on EMG), SpecAugment (on features).

    A change is left out by its neutral value: offsets (0,), 0 samples, 0 masks.
    """

    rotation: BandRotation = field(default_factory=BandRotation)
    jitter: AlignmentJitter = field(default_factory=AlignmentJitter)
    spec: SpecAugment = field(default_factory=SpecAugment)

    def on_emg(self, emg: Tensor, generator: torch.Generator) -> Tensor:
        """EMG (N, T, B, C) -> the same shape."""
        return self.jitter(self.rotation(emg, generator), generator)

    def on_features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features (N, F, B, C, K) -> the same shape; the argument may be changed in place."""
        return self.spec(features, generator)
