"""Whatever a device sends, what comes out is on one clock, in order, and nothing is lost without being counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.live.grid import Faults, Grid, Piece

RATE = 1000.0
BOTH = Shape(("left", "right"), 2, RATE)
COUNT = 8000
EMG = np.arange(1, COUNT + 1, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)  # numbered
TIMES = 50 + np.arange(COUNT) / RATE
HANDS = (slice(0, 1), slice(1, 2))


def through(grid: Grid, *pieces: Piece) -> tuple[np.ndarray, np.ndarray]:
    """All that comes out of the grid for the pieces, taken after each."""
    found = []
    for piece in pieces:
        grid.add(piece)
        found.append(grid.take())
    return np.concatenate([emg for emg, _ in found]), np.concatenate([times for _, times in found])


def cut(emg: np.ndarray, times: np.ndarray, size: int = 40, device: int = 0) -> list[Piece]:
    return [Piece(emg[at : at + size], times[at : at + size], device) for at in range(0, len(times), size)]


@given(size=st.integers(1, 999))
@settings(max_examples=20, deadline=None)
def test_a_good_clock_changes_nothing(size: int) -> None:
    grid = Grid(BOTH)
    emg, times = through(grid, *cut(EMG, TIMES, size))
    np.testing.assert_array_equal(emg, EMG)
    np.testing.assert_allclose(times, TIMES, atol=1e-6)
    assert grid.faults == Faults()


@given(seed=st.integers(0, 99), scatter=st.floats(0, 0.008), drift=st.floats(-2e-4, 2e-4), size=st.integers(10, 80))
@settings(max_examples=40, deadline=None)
def test_jitter_and_drift_are_smoothed(seed: int, scatter: float, drift: float, size: int) -> None:
    """As over radio: the times of all samples of a piece are late by the same amount."""
    late = np.abs(np.random.default_rng(seed).normal(0, scatter, -(-COUNT // size)))
    grid, clock = Grid(BOTH), 50 + np.arange(COUNT) / RATE * (1 + drift)
    emg, times = through(grid, *cut(EMG, clock + np.repeat(late, size)[:COUNT], size))
    assert grid.faults.missing + grid.faults.stalled + grid.faults.jumps == 0
    sample = emg[:, 0, 0]
    assert (np.diff(sample) >= 0).all()
    steps = np.diff(sample)
    assert (steps != 1).mean() < 0.02  # here and there a sample is left out or repeated
    truth = np.interp(times, clock, EMG[:, 0, 0])
    assert np.abs(sample - truth)[1000:].max() < 1 + RATE * (0.01 + 2 * scatter)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 4.9])
def test_a_gap_is_zero_and_counted(seconds: float) -> None:
    kept = np.r_[0:2000, 2000 + round(seconds * RATE) : COUNT]
    grid = Grid(BOTH)
    emg, times = through(grid, *cut(EMG[kept], TIMES[kept]))
    whole = EMG.copy()
    whole[2000 : kept[2000]] = 0
    np.testing.assert_array_equal(emg, whole)
    np.testing.assert_allclose(times, TIMES, atol=1e-6)
    assert grid.faults == Faults(missing=kept[2000] - 2000, gaps=1)


@pytest.mark.parametrize("seconds", [-60.0, -1.0, 30.0])
def test_the_signal_continues_where_a_clock_jumps(seconds: float) -> None:
    grid, times = Grid(BOTH), TIMES + seconds * (np.arange(COUNT) >= 3000)
    emg, found = through(grid, *cut(EMG, times))
    np.testing.assert_array_equal(emg, EMG)
    assert grid.faults == Faults(jumps=1)
    if seconds > 0:  # time went on; a clock that runs backwards is wrong
        np.testing.assert_allclose(found, times, atol=1e-6)
    else:
        np.testing.assert_allclose(found, TIMES, atol=1e-6)


def test_two_bands_are_aligned_on_one_clock() -> None:
    """Each has its own clock, and one of them starts late."""
    left = cut(EMG[:, :1], TIMES * (1 + 5e-5) - 50 * 5e-5)
    right = cut(EMG[300:, 1:], (TIMES * (1 - 5e-5) + 50 * 5e-5)[300:], 55, device=1)
    grid = Grid(BOTH, HANDS)
    emg, _ = through(grid, *sorted([*left, *right], key=lambda piece: piece.times[-1]))
    assert not emg[:290, 1].any()
    assert np.abs(emg[400:, 0] - emg[400:, 1]).max() <= 2
    assert grid.faults.missing + grid.faults.stalled == pytest.approx(300, abs=3)
    assert grid.faults.jumps == 0


def test_a_band_that_falls_silent_is_not_waited_for() -> None:
    left, right = cut(EMG[:, :1], TIMES), cut(EMG[:, 1:], TIMES, device=1)
    right = [piece for piece in right if not 53 <= piece.times[0] < 55]
    pieces = sorted([*left, *right], key=lambda piece: piece.times[-1])
    grid = Grid(BOTH, HANDS)
    emg, _ = through(grid, *pieces)
    np.testing.assert_array_equal(emg[:, 0], EMG[: len(emg), 0])
    silent = ~emg[:, 1].any(axis=1)
    assert silent.sum() == grid.faults.stalled + grid.faults.missing == 2000
    np.testing.assert_array_equal(emg[~silent, 1], EMG[: len(emg)][~silent, 1])
    delays = []
    grid = Grid(BOTH, HANDS)
    for piece in pieces:
        grid.add(piece)
        delays.append(piece.times[-1] - (grid.take()[1][-1:].tolist() or [np.nan])[-1])
    assert np.nanmax(delays) < 0.3


@pytest.mark.parametrize("seconds", [2.0, -2.0, 60.0, -60.0])
def test_one_clock_of_two_may_jump(seconds: float) -> None:
    left = cut(EMG[:, :1], TIMES + seconds * (np.arange(COUNT) >= 3000))
    right = cut(EMG[:, 1:], TIMES, device=1)
    grid = Grid(BOTH, HANDS)
    emg, times = through(grid, *(piece for both in zip(left, right, strict=True) for piece in both))
    assert 1 <= grid.faults.jumps <= 2
    assert (emg[-2000:] > 0).all()  # both are there again
    assert len(emg) < COUNT + 2500
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("seconds", [60.0, -60.0, -3.0])
def test_a_band_may_begin_with_another_clock(seconds: float) -> None:
    left, right = cut(EMG[:, :1], TIMES), cut(EMG[:, 1:], TIMES + seconds, device=1)
    grid = Grid(BOTH, HANDS)
    emg, _ = through(grid, *left[:20], *(piece for both in zip(left[20:], right, strict=False) for piece in both))
    assert grid.faults.jumps == 1
    assert (emg[-2000:] > 0).all()
    assert len(emg) <= COUNT


def test_samples_that_come_too_late_are_counted() -> None:
    grid, times = Grid(BOTH), TIMES - 0.09 * (np.arange(COUNT) >= 4000)
    emg, _ = through(grid, *cut(EMG, times))
    assert len(emg) + grid.faults.dropped == pytest.approx(COUNT, abs=12)
    assert grid.faults.dropped > 60


def test_samples_that_are_not_finite_are_zero() -> None:
    emg = EMG.copy()
    emg[[5, 6, 900], 1, 0] = np.nan, np.inf, -np.inf
    grid = Grid(BOTH)
    found, _ = through(grid, *cut(emg, TIMES))
    assert grid.faults == Faults(not_finite=3)
    assert not found[[5, 6, 900], 1, 0].any()
    assert found[[5, 6, 900], 0].all()


def test_pieces_that_fit_no_band_are_refused() -> None:
    grid = Grid(BOTH, HANDS)
    for samples, times in ((EMG[:9], TIMES[:9]), (EMG[:9, :1], TIMES[:8]), (EMG[:9, :1], np.full(9, np.nan))):
        with pytest.raises(EmgscribeError, match="expected"):
            grid.add(Piece(samples, times, 1))
    grid.add(Piece(EMG[:0, :1], TIMES[:0], 0))
    assert grid.take()[0].shape == (0, 2, 2)


def test_memory_does_not_grow_over_hours() -> None:
    grid = Grid(BOTH, HANDS)
    for hour in range(3):
        for piece in cut(EMG[:, :1], TIMES + 3600 * hour, 400):
            grid.add(piece)
            grid.add(Piece(piece.samples, piece.times, 1))
            grid.take()
    assert len(grid._emg) < 400
