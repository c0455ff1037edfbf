from itertools import combinations

import numpy as np
import pytest

from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.simulation.keyboard import SHIFTS, TEXTBOOK
from emgscribe.simulation.motor_units import INTERVAL_VARIATION, MotorUnits, SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, NUM_MUSCLES, POSTURE, Drive, MotorHabits, Muscle, textbook_pattern
from emgscribe.simulation.typist import Press

PLAIN = MotorHabits.of_user(np.random.default_rng(0), 0.0)


def drive_of(*presses: Press) -> Drive:
    return Drive(presses, PLAIN, np.random.default_rng(0), variability=0.0)


def steady(excitation: float, seconds: float) -> np.ndarray:
    return np.full((round(seconds * DRIVE_RATE), NUM_MUSCLES), excitation, dtype=np.float32)


def test_every_key_of_a_hand_has_its_own_pattern() -> None:
    places = [*TEXTBOOK.values(), *SHIFTS]
    for first, second in combinations(places, 2):
        if first.hand == second.hand:
            assert np.abs(textbook_pattern(first) - textbook_pattern(second)).max() > 0.04, (first, second)


def test_the_finger_of_the_key_works_most_and_before_key_down() -> None:
    drive = drive_of(Press("d", TEXTBOOK["d"], 1.0, 1.1)).block(0, 2 * DRIVE_RATE) - POSTURE
    flexors = drive[:, Muscle.FDS_INDEX : Muscle.FDS_LITTLE + 1]
    assert flexors.max(axis=0).argmax() == 1
    assert 0.02 < 1.0 - flexors[:, 1].argmax() / DRIVE_RATE < 0.12
    lift = drive[:, Muscle.ED_MIDDLE].argmax() / DRIVE_RATE
    assert lift > 1.05
    assert np.abs(drive[: DRIVE_RATE // 2]).max() < 1e-3


def test_blocks_do_not_change_the_drive() -> None:
    presses = [Press("d", TEXTBOOK["d"], 0.3 * n, 0.3 * n + 0.1) for n in range(1, 20)]
    drive = Drive(presses, PLAIN, np.random.default_rng(0), variability=1.0)
    pieces = np.concatenate([drive.block(first, 70) for first in range(0, 1400, 70)])
    np.testing.assert_allclose(pieces, drive.block(0, 1400), atol=1e-5)


def test_a_person_presses_a_key_alike_in_every_session_and_unlike_others() -> None:
    one, other = (MotorHabits.of_user(np.random.default_rng(user), 1.0) for user in (1, 2))
    place = TEXTBOOK["t"]
    np.testing.assert_array_equal(one.pattern(place), one.pattern(place))
    assert np.abs(one.pattern(place) - other.pattern(place)).max() > 0.05


def test_small_units_are_recruited_first() -> None:
    units = MotorUnits.pools(40, np.random.default_rng(0))
    mean_sizes, active = [], []
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


def test_spikes_carry_on_over_the_border_of_blocks() -> None:
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


def test_silence_fires_nothing() -> None:
    unit, _ = SpikeTrains(MotorUnits.pools(10, np.random.default_rng(0)), np.random.default_rng(1)).fire(steady(0, 5))
    assert len(unit) == 0
