from itertools import combinations

import numpy as np
import pytest

from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.simulation.keyboard import SHIFTS, TEXTBOOK
from emgscribe.simulation.motor_units import INTERVAL_VARIATION, MotorUnits, SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, NUM_MUSCLES, POSTURE, Drive, MotorHabits, Muscle, textbook_pattern
from emgscribe.simulation.typist import Press

PLAIN = MotorHabits.of_user(np.random.default_rng(0), 0.0)


def steady(excitation: float, seconds: float) -> np.ndarray:
    return np.full((round(seconds * DRIVE_RATE), NUM_MUSCLES), excitation, dtype=np.float32)


def test_every_key_of_a_hand_has_its_own_pattern() -> None:
    places = [*TEXTBOOK.values(), *SHIFTS]
    for first, second in combinations(places, 2):
        if first.hand == second.hand:
            assert np.abs(textbook_pattern(first) - textbook_pattern(second)).max() > 0.04, (first, second)


def test_the_finger_of_the_key_is_most_active_and_before_key_down() -> None:
    presses = [Press("d", TEXTBOOK["d"], 1.0, 1.1)]
    drive = Drive(presses, PLAIN, np.random.default_rng(0), variability=0.0).block(0, 2 * DRIVE_RATE) - POSTURE
    flexors = drive[:, Muscle.FDS_INDEX : Muscle.FDS_LITTLE + 1]
    assert flexors.max(axis=0).argmax() == 1
    assert 0.02 < 1.0 - flexors[:, 1].argmax() / DRIVE_RATE < 0.12
    assert drive[:, Muscle.ED_MIDDLE].argmax() / DRIVE_RATE > 1.05
    assert np.abs(drive[: DRIVE_RATE // 2]).max() < 1e-3


def test_blocks_do_not_change_the_drive() -> None:
    presses = [Press("d", TEXTBOOK["d"], 0.3 * n, 0.3 * n + 0.1) for n in range(1, 20)]
    drive = Drive(presses, PLAIN, np.random.default_rng(0), variability=1.0)
    pieces = np.concatenate([drive.block(first, 70) for first in range(0, 1400, 70)])
    np.testing.assert_allclose(pieces, drive.block(0, 1400), atol=1e-5)


def test_people_have_patterns_of_their_own() -> None:
    one, other = (MotorHabits.of_user(np.random.default_rng(user), 1.0) for user in (1, 2))
    place = TEXTBOOK["t"]
    np.testing.assert_array_equal(one.pattern(place), one.pattern(place))
    assert np.abs(one.pattern(place) - other.pattern(place)).max() > 0.05


def test_small_units_are_recruited_first() -> None:
    units = MotorUnits.pools(40, np.random.default_rng(0))
    mean_sizes, active = [], []
    assert len(SpikeTrains(units, np.random.default_rng(1)).fire(steady(0, 4))[0]) == 0
    for excitation in (0.02, 0.1, 0.5):
        fired, _ = SpikeTrains(units, np.random.default_rng(1)).fire(steady(excitation, 4))
        active.append(len(set(fired)))
        mean_sizes.append(units.size[fired].mean())
    assert active == sorted(active)
    assert active[0] < 0.4 * len(units) < active[2]
    assert mean_sizes == sorted(mean_sizes)


def test_rates_rise_with_excitation_and_intervals_vary_as_stated() -> None:
    units = MotorUnits.pools(4, np.random.default_rng(0))
    rates = []
    for excitation in (0.05, 0.2, 0.9):
        unit, sample = SpikeTrains(units, np.random.default_rng(1)).fire(steady(excitation, 60))
        first = sample[unit == 0]
        rates.append(len(first) / 60)
        gaps = np.diff(first)
        assert gaps.std() / gaps.mean() == pytest.approx(INTERVAL_VARIATION, abs=0.04)
    assert rates == sorted(rates)
    assert 8 < rates[0] < rates[2] < 61


def test_spike_trains_continue_from_block_to_block() -> None:
    trains = SpikeTrains(MotorUnits.pools(4, np.random.default_rng(0)), np.random.default_rng(1))
    length = SAMPLE_RATE // 20
    units, times = [], []
    for block in range(400):
        unit, sample = trains.fire(steady(0.3, 0.05))
        assert np.all((sample >= 0) & (sample < length))
        units.append(unit)
        times.append(sample + block * length)
    unit, time = np.concatenate(units), np.concatenate(times)
    variations = [gaps.std() / gaps.mean() for u in set(unit) if len(gaps := np.diff(time[unit == u])) > 100]
    assert len(variations) > 30
    assert max(variations) < 1.3 * INTERVAL_VARIATION
