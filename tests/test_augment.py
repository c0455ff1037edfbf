import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from emgscribe.augment import AlignmentJitter, Augmentation, BandRotation, SpecAugment
from emgscribe.errors import EmgscribeError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_rotation_draws_anew_for_each_band_and_window() -> None:
    emg = torch.arange(16.0).expand(3000, 1, 2, 16)
    rotated = BandRotation()(emg, seeded())
    offsets = (-rotated[:, 0, :, 0]).add(8).remainder(16).sub(8)  # channel 0 now holds channel -offset
    pairs = {(int(left), int(right)): 0 for left, right in offsets.tolist()}
    for left, right in offsets.tolist():
        pairs[int(left), int(right)] += 1
    assert set(pairs) == {(left, right) for left in (-1, 0, 1) for right in (-1, 0, 1)}
    assert all(260 < number < 410 for number in pairs.values()), pairs  # 333 expected, 4.5 standard deviations


def test_jitter_shifts_the_right_band_only() -> None:
    samples, length = 12, 60
    emg = noise(4000, length, 2, 1)
    jittered = AlignmentJitter(samples)(emg, seeded())
    assert torch.equal(jittered[:, :, 0], emg[:, :, 0])
    seen = torch.zeros(2 * samples + 1, dtype=torch.int64)
    for before, after in zip(emg[:, :, 1, 0], jittered[:, :, 1, 0], strict=True):
        # The middle of the window tells by how much it was shifted; the rest must agree.
        middle = (before == after[length // 2]).nonzero().item() - length // 2
        assert -samples <= middle <= samples
        low, high = max(0, -middle), min(length, length - middle)
        assert torch.equal(after[low:high], before[low + middle : high + middle])
        mirrored = before[:low].flip(0) if middle < 0 else before[length - middle :].flip(0)
        assert torch.equal(after[:low] if middle < 0 else after[high:], mirrored)
        seen[middle + samples] += 1
    assert seen.min() > 100  # 160 expected of each shift, both ends included
    assert seen.max() < 220


def test_jitter_leaves_its_argument_alone() -> None:
    emg = noise(8, 50, 2, 3)
    before = emg.clone()
    AlignmentJitter(10)(emg, seeded())
    assert torch.equal(emg, before)


@given(st.integers(0, 4), st.integers(0, 30), st.integers(0, 3), st.integers(0, 12), st.integers(0, 1000))
def test_masks_are_zero_and_leave_the_rest(times: int, frames: int, frequencies: int, bins: int, seed: int) -> None:
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


def test_masks_are_drawn_for_each_electrode_channel() -> None:
    masked = SpecAugment(3, 5, 0, 0)(torch.ones(1, 40, 2, 16, 1), seeded())[0, :, :, :, 0].flatten(1)
    assert len({tuple(column.tolist()) for column in masked.T}) > 20


@pytest.mark.parametrize("change", [BandRotation, AlignmentJitter, SpecAugment])
def test_the_same_seed_gives_the_same_batch(change: type) -> None:
    shape = (4, 200, 2, 16) if change is not SpecAugment else (4, 50, 2, 16, 33)
    first, again, other = (change()(noise(*shape), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("spec", [SpecAugment(0, 25, 0, 4), SpecAugment(3, 0, 2, 0)])
def test_neutral_values_change_nothing(spec: SpecAugment) -> None:
    neutral = Augmentation(BandRotation((0,)), AlignmentJitter(0), spec)
    emg, features = noise(3, 100, 2, 16), noise(3, 20, 2, 16, 33)
    assert torch.equal(neutral.on_emg(emg.clone(), seeded()), emg)
    assert torch.equal(neutral.on_features(features.clone(), seeded()), features)


def test_augmentation_is_rotation_then_jitter_then_masks() -> None:
    emg, features = noise(3, 300, 2, 16), noise(3, 60, 2, 16, 33)
    everything = Augmentation()
    generator = seeded(5)
    expected = AlignmentJitter()(BandRotation()(emg, generator), generator)
    assert torch.equal(everything.on_emg(emg, seeded(5)), expected)
    assert torch.equal(everything.on_features(features.clone(), seeded(6)), SpecAugment()(features.clone(), seeded(6)))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: BandRotation(()), "augment.rotation.offsets"),
        (lambda: AlignmentJitter(-1), "augment.jitter.samples"),
        (lambda: SpecAugment(time_masks=-1), "augment.spec.time_masks"),
        (lambda: SpecAugment(time_frames=-1), "augment.spec.time_frames"),
        (lambda: SpecAugment(frequency_masks=-2), "augment.spec.frequency_masks"),
        (lambda: SpecAugment(frequency_bins=-2), "augment.spec.frequency_bins"),
    ],
)
def test_parameters_out_of_range_are_named(make: object, field: str) -> None:
    with pytest.raises(EmgscribeError, match=field):
        make()  # type: ignore[operator]
