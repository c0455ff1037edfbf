from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import seeded
from scipy.interpolate import CubicSpline
from torch import Tensor

from emgscribe.config import from_json, reads_as, register, to_json
from emgscribe.data.charset import BLANK
from emgscribe.data.windows import Batch
from emgscribe.models.augment import (
    AlignmentJitter,
    AmplitudeScale,
    Augmentation,
    BandRotation,
    Change,
    ElectrodeDropout,
    GaussianNoise,
    MagnitudeWarp,
    RandomCrop,
    SpecAugment,
)
from emgscribe.training.config import Recipe


def noise(*shape: int) -> Tensor:
    """Random numbers, none of them 0."""
    return torch.rand(*shape, generator=seeded(99)) + 1


@given(st.lists(st.integers(-16, 16), min_size=1, max_size=4), st.integers(0, 1000))
def test_rotation_rolls_each_band_by_one_of_the_offsets(offsets: list[int], seed: int) -> None:
    emg = noise(5, 3, 2, 16)
    rotated = BandRotation(tuple(offsets))(emg, seeded(seed))
    for before, after in zip(emg, rotated, strict=True):
        for band in range(2):
            assert any(torch.equal(after[:, band], before[:, band].roll(offset, dims=-1)) for offset in offsets)


def test_rotation_draws_for_each_band_and_window() -> None:
    emg = torch.arange(16.0).expand(3000, 1, 2, 16)
    rotated = BandRotation()(emg, seeded())
    offsets = (-rotated[:, 0, :, 0]).add(8).remainder(16).sub(8)  # channel 0 now holds channel -offset
    pairs = Counter((int(left), int(right)) for left, right in offsets.tolist())
    assert set(pairs) == {(left, right) for left in (-1, 0, 1) for right in (-1, 0, 1)}
    assert all(260 < number < 410 for number in pairs.values()), pairs  # 333 expected, 4.5 standard deviations


def test_jitter_shifts_the_right_band_only() -> None:
    samples, length = 12, 60
    emg = noise(4000, length, 2, 1)
    jittered = AlignmentJitter(samples)(emg.clone(), seeded())
    assert torch.equal(jittered[:, :, 0], emg[:, :, 0])
    seen = torch.zeros(2 * samples + 1, dtype=torch.int64)
    for before, after in zip(emg[:, :, 1, 0], jittered[:, :, 1, 0], strict=True):
        # The middle of the window shows by how much it was shifted; the rest must agree.
        middle = (before == after[length // 2]).nonzero().item() - length // 2
        assert -samples <= middle <= samples
        low, high = max(0, -middle), min(length, length - middle)
        assert torch.equal(after[low:high], before[low + middle : high + middle])
        mirrored = before[:low].flip(0) if middle < 0 else before[length - middle :].flip(0)
        assert torch.equal(after[:low] if middle < 0 else after[high:], mirrored)
        seen[middle + samples] += 1
    assert seen.min() > 100  # 160 expected of each shift, both ends included
    assert seen.max() < 220


@given(st.integers(0, 4), st.integers(0, 30), st.integers(0, 3), st.integers(0, 12), st.integers(0, 1000))
def test_masks_are_zero_and_leave_the_rest_unchanged(
    times: int, frames: int, frequencies: int, bins: int, seed: int
) -> None:
    features = noise(2, 20, 2, 3, 9)
    masked = SpecAugment(times, frames, frequencies, bins)(features.clone(), seeded(seed))
    zero = masked == 0
    assert torch.equal(masked[~zero], features[~zero])
    whole_frames, whole_bins = zero.all(dim=4), zero.all(dim=1)  # (N, F, B, C), (N, B, C, K)
    assert torch.equal(zero, whole_frames[..., None] | whole_bins[:, None])  # runs of frames and of bins, nothing else
    if not whole_frames.all(dim=1).any() and not whole_bins.all(dim=-1).any():
        assert whole_frames.sum(dim=1).max() <= times * frames
        assert whole_bins.sum(dim=-1).max() <= frequencies * bins
        assert _runs(whole_frames.permute(0, 2, 3, 1)).max() <= times
        assert _runs(whole_bins).max() <= frequencies


def _runs(covered: Tensor) -> Tensor:
    """How many runs of True the last axis holds."""
    padded = torch.nn.functional.pad(covered.int(), (1, 0))
    return (padded.diff(dim=-1) == 1).sum(dim=-1)


def test_number_size_and_place_of_masks_are_uniform() -> None:
    # Masks of at most one bin among very many hardly ever meet, so their number can be read off.
    masked = SpecAugment(0, 0, 3, 1)(torch.ones(4000, 1, 1, 1, 2000), seeded())
    numbers = (masked == 0).sum(dim=-1).flatten()
    # Number n uniform in 0..3, each size uniform in {0, 1}: P(k) = mean over n of binomial(n, 1/2).
    expected = [(1 + 1 / 2 + 1 / 4 + 1 / 8) / 4, (1 / 2 + 1 / 2 + 3 / 8) / 4, (1 / 4 + 3 / 8) / 4, 1 / 32]
    shares = torch.bincount(numbers, minlength=4) / len(numbers)
    assert shares.tolist() == pytest.approx(expected, abs=0.03)

    one = SpecAugment(1, 4, 0, 0)(torch.ones(8000, 10, 1, 1, 1), seeded())[:, :, 0, 0, 0] == 0
    sizes = torch.bincount(one.sum(dim=1), minlength=5) / len(one)
    assert sizes.tolist() == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.02)  # half have no mask, size 0 is none
    starts = one[one.sum(dim=1) == 4].int().argmax(dim=1)
    assert torch.bincount(starts, minlength=7).min() > 60  # 800 masks of 4 frames over the 7 places where they fit
    assert starts.max() == 6


ON_EMG = [
    BandRotation(),
    AlignmentJitter(),
    MagnitudeWarp(4, 0.2),
    AmplitudeScale(0.3),
    ElectrodeDropout(0.3),
    GaussianNoise(0.1),
]


def changed(before: Tensor, after: Tensor) -> list[bool]:
    return [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]


@pytest.mark.parametrize("change", ON_EMG, ids=lambda change: type(change).__name__)
def test_probability_is_the_share_of_items_that_change(change: Any) -> None:
    emg = noise(200, 130, 2, 16)
    assert not any(changed(emg, replace(change, probability=0.0)(emg.clone(), seeded())))
    share = sum(changed(emg, replace(change, probability=0.4)(emg.clone(), seeded()))) / 200
    whole = sum(changed(emg, change(emg.clone(), seeded()))) / 200  # an item may draw a shift of 0
    assert abs(share - 0.4 * whole) < 0.15


def test_spec_augment_probability_and_sharing() -> None:
    ones = torch.ones(200, 40, 2, 16, 33)
    assert SpecAugment(probability=0.0)(ones.clone(), seeded()).eq(1).all()
    share = sum(changed(ones, SpecAugment(3, 20, 2, 4, probability=0.3)(ones.clone(), seeded()))) / 200
    assert 0.18 < share < 0.42
    masked = SpecAugment(3, 5, 0, 0)(ones[:1].clone(), seeded())[0, :, :, :, 0].flatten(1)
    assert len({tuple(column.tolist()) for column in masked.T}) > 20  # drawn for each electrode channel
    shared = SpecAugment(shared=True)(ones.clone(), seeded())
    assert torch.equal(shared, shared[:, :, :1, :1].expand_as(shared))
    assert not shared.eq(1).all()


@given(st.integers(0, 8), st.integers(20, 400), st.integers(0, 100))
def test_warp_is_scipys_spline(knots: int, samples: int, seed: int) -> None:
    warp = MagnitudeWarp(knots, 0.2)
    emg = noise(3, samples, 2, 16)
    curves = warp(emg.clone(), seeded(seed)) / emg
    assert torch.allclose(curves, curves[:, :, :1, :1].expand_as(curves), rtol=1e-5)
    factors = 1 + 0.2 * torch.randn(3, knots + 2, generator=seeded(seed))
    for curve, through in zip(curves[:, :, 0, 0], factors, strict=True):
        spline = CubicSpline(np.linspace(0, samples - 1, knots + 2), through.double())
        np.testing.assert_allclose(curve, spline(np.arange(samples)), atol=1e-5)


def test_scale_is_one_factor_a_band_and_log_normal() -> None:
    emg = noise(2000, 5, 2, 3)
    factors = AmplitudeScale(0.3)(emg.clone(), seeded()) / emg
    assert torch.allclose(factors, factors[:, :1, :, :1].expand_as(factors), rtol=1e-5)
    logs = factors[:, 0, :, 0].log()
    assert abs(float(logs.mean())) < 0.03
    assert abs(float(logs.std()) - 0.3) < 0.02


def test_dropout_silences_whole_electrode_channels_at_its_rate() -> None:
    emg = noise(500, 5, 2, 16)
    left = ElectrodeDropout(0.2)(emg.clone(), seeded())
    silent = (left == 0).all(dim=1)
    assert torch.equal(silent, (left == 0).any(dim=1))
    assert abs(float(silent.float().mean()) - 0.2) < 0.02
    assert torch.equal(left.where(~silent[:, None], emg), emg)


def test_noise_is_proportional_to_the_level_of_each_window() -> None:
    emg = noise(4, 4000, 2, 16) * torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None, None, None]
    added = GaussianNoise(0.5)(emg.clone(), seeded()) - emg
    level = emg.square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(added.std(dim=(1, 2, 3)) / level, torch.full((4,), 0.5), rtol=0.02, atol=0)
    assert abs(float(torch.corrcoef(added[0].flatten(1).T)[0, 1])) < 0.06


def typed(emg: Tensor, left: int = 10, right: int = 10) -> Batch:
    """A batch in which a key goes down every 20 labelled samples; the second item is cut off by the session's end."""
    items, labelled = len(emg), emg.shape[1] - left - right
    lengths = torch.full((items,), labelled)
    lengths[1:2] = labelled // 2
    onsets = torch.arange(5, labelled, 20).expand(items, -1).clone()
    labels = torch.arange(onsets.shape[1]).expand(items, -1).clone()
    outside = onsets >= lengths[:, None]
    onsets[outside], labels[outside] = -1, BLANK
    return Batch(emg, left, right, lengths, labels, (~outside).sum(1), onsets)


@given(st.integers(1, 200), st.integers(0, 1000))
def test_crop_cuts_signal_labels_and_length_together(samples: int, seed: int) -> None:
    batch = typed(noise(4, 140, 2, 16))
    cropped = RandomCrop(samples)(replace(batch, emg=batch.emg.clone()), seeded(seed))
    assert cropped.emg.shape == batch.emg.shape
    for n in range(4):
        length = int(cropped.lengths[n])
        assert max(1, 120 - samples) <= length <= 120 or length == int(batch.lengths[n])
        assert length <= int(batch.lengths[n])
        kept = [int(onset) for onset in batch.onsets[n] if 0 <= onset < length]
        assert cropped.onsets[n].tolist() == kept + [-1] * (batch.onsets.shape[1] - len(kept))
        assert int(cropped.label_lengths[n]) == len(kept)
        assert cropped.labels[n, : len(kept)].tolist() == batch.labels[n, : len(kept)].tolist()
        assert (cropped.labels[n, len(kept) :] == BLANK).all()
        assert torch.equal(cropped.emg[n, : 10 + length], batch.emg[n, : 10 + length])
        if length < int(batch.lengths[n]):
            assert (cropped.emg[n, 10 + length :] == 0).all()
        else:
            assert torch.equal(cropped.emg[n], batch.emg[n])


def test_a_batch_goes_through_all_changes_in_the_order_of_the_fields() -> None:
    changes = Augmentation(
        crop=RandomCrop(40),
        warp=MagnitudeWarp(3, 0.1),
        scale=AmplitudeScale(0.2),
        dropout=ElectrodeDropout(0.1),
        noise=GaussianNoise(0.1),
    )
    batch, generator = typed(noise(4, 400, 2, 16)), seeded(3)
    expected = replace(batch, emg=changes.jitter(changes.rotation(batch.emg.clone(), generator), generator))
    expected = changes.crop(expected, generator)
    emg = expected.emg
    for change in (changes.warp, changes.scale, changes.dropout, changes.noise):
        emg = change(emg, generator)
    found = changes.on_batch(batch, seeded(3))
    assert torch.equal(found.emg, emg)
    assert torch.equal(found.lengths, expected.lengths)
    assert [field.name for field in fields(changes)] == [
        *("rotation", "jitter", "crop", "warp", "scale", "dropout", "noise", "spec", "more")
    ]


@pytest.mark.parametrize("spec", [SpecAugment(0, 25, 0, 4), SpecAugment(3, 0, 2, 0)])
def test_neutral_values_change_nothing(spec: SpecAugment) -> None:
    neutral = Augmentation(BandRotation((0,)), AlignmentJitter(0), spec=spec)
    batch, features = typed(noise(3, 100, 2, 16)), noise(3, 20, 2, 16, 33)
    before = batch.emg.clone()
    assert torch.equal(neutral.on_batch(batch, seeded()).emg, before)
    assert torch.equal(neutral.on_features(features.clone(), seeded()), features)


@register("louder-for-a-test")
@dataclass(frozen=True)
class Louder(Change):
    factor: float = 2.0

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, emg=self.factor * batch.emg)

    def on_features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        return features + self.factor


def test_registered_changes_come_last_and_are_part_of_the_settings() -> None:
    twice = Augmentation(more=(Louder(), Louder(3.0)))
    batch, features = typed(noise(3, 300, 2, 16)), noise(3, 60, 2, 16, 33)
    plain = Augmentation().on_batch(replace(batch, emg=batch.emg.clone()), seeded(5)).emg
    assert torch.equal(twice.on_batch(batch, seeded(5)).emg, 6 * plain)
    masked = SpecAugment()(features.clone(), seeded(6))
    assert torch.equal(twice.on_features(features, seeded(6)), masked + 2 + 3)
    stored = to_json(Recipe(augment=twice))
    assert stored["augment"]["more"][1] == {"kind": "louder-for-a-test", "factor": 3.0}
    assert from_json(Recipe, stored, where="test").augment == twice
    assert not reads_as(Recipe(augment=Augmentation(more=(Louder(),))), stored)
    assert Change().on_batch(batch, seeded()) is batch
    assert hash(twice) != hash(Augmentation())
