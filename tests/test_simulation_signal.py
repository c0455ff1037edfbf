"""People, muscles, motor units, electrodes and the recording."""

from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy import signal, stats

from emgscribe.simulation import muscles
from emgscribe.simulation.activity import BEFORE, FREQUENCIES, key_locked, spectra
from emgscribe.simulation.arrays import SAMPLE_RATE
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import TAPS, Fibres, Ring, SpikeSum, action_potentials
from emgscribe.simulation.keyboard import LEFT, RIGHT, SHIFTS, TEXTBOOK, Place
from emgscribe.simulation.motor_units import INTERVAL_VARIATION, MotorUnits, SpikeTrains
from emgscribe.simulation.muscles import (
    DOWN,
    DRIVE_RATE,
    NUM_MUSCLES,
    PLAIN,
    POSTURE,
    RADIAL,
    UP,
    Drive,
    MotorHabits,
    Muscle,
    movements,
    textbook_patterns,
)
from emgscribe.simulation.people import draw_person
from emgscribe.simulation.published import spectrum
from emgscribe.simulation.recording import Recorder
from emgscribe.simulation.sessions import _band as band_blocks
from emgscribe.simulation.typist import Press

RING = Ring(radius=28.0, rotation=0.0, along=0.0, pole_distance=8.0)
CHANNELS = 16
STEP = 2 * np.pi / CHANNELS
PLAIN_HABITS = MotorHabits.of_user(np.random.default_rng(0), 0.0)
QUIET = SimulationConfig(noise=0, hum=0, artefacts_per_minute=0, poor_contact=0, difficulty=0)


def steady(excitation: float, seconds: float) -> np.ndarray:
    return np.full((round(seconds * DRIVE_RATE), NUM_MUSCLES), excitation, dtype=np.float32)


def potential(ring: Ring = RING, angle: float = 0.0, depth: float = 8.0) -> np.ndarray:
    fibres = Fibres(*(np.array([value]) for value in (angle, 28.0 - depth, -38.0, 55.0, 50.0, 4500.0, 0.0005)))
    return action_potentials(fibres, np.ones(1), ring)[0]


def sine(frequency: float, seconds: int) -> np.ndarray:
    wave = np.sin(2 * np.pi * frequency * np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE)
    return np.repeat(wave[:, None], CHANNELS, axis=1).astype(np.float32)


def recorder(samples: int, **changed: float) -> Recorder:
    return Recorder(replace(QUIET, **changed), np.ones(CHANNELS, dtype=np.float32), samples, np.random.default_rng(0))


def band_signal(user: int, hand: int, typed: list[Press], config: SimulationConfig) -> np.ndarray:
    """The samples (T, 16) of one band of a user while `typed` is typed."""
    frames = round((typed[-1].end + 1) * DRIVE_RATE)
    own = [press for press in typed if press.place.hand == hand]
    forearm = draw_person(user, config)[1][hand]
    return np.concatenate(list(band_blocks(forearm, own, 0.0, np.random.default_rng(hand), frames, config)))


def test_a_user_is_always_the_same_person_and_people_differ() -> None:
    config = SimulationConfig(units_per_muscle=4)
    (habits, (left, right)), again = draw_person(5, config), draw_person(5, config)
    assert habits == again[0]
    assert len({tuple(draw_person(user, config)[0].places.items()) for user in range(6)}) > 1
    assert draw_person(5, replace(config, users_differ=0))[0].places == TEXTBOOK
    patterns = left.motor_habits.patterns
    np.testing.assert_array_equal(patterns, again[1][0].motor_habits.patterns)
    assert np.abs(patterns - right.motor_habits.patterns).max() > 0.05


def test_redonning_moves_the_band_and_slip_turns_it_within_a_session() -> None:
    left, rng = draw_person(5, SimulationConfig(units_per_muscle=4))[1][0], np.random.default_rng(0)
    first, last, gains = left.don(rng, SimulationConfig(redonning=0, slip=0))
    assert first == last == left.usual
    assert set(gains) == {1}
    first, last, gains = left.don(rng, SimulationConfig())
    assert len({left.usual.rotation, first.rotation, last.rotation}) == 3
    assert left.usual.along != first.along == last.along
    assert len(set(gains)) == CHANNELS


def presses(keys: str, every: float = 0.3) -> list[Press]:
    starts = 1.0 + every * np.arange(len(keys))
    return [Press(key, TEXTBOOK[key], start, start + 0.1) for key, start in zip(keys, starts, strict=True)]


def test_every_key_of_a_hand_has_its_own_pattern() -> None:
    def pattern(place: Place) -> np.ndarray:
        return np.tensordot(movements([Press("", place, 0.0, 0.1)])[0], textbook_patterns()[place.finger], 1)

    for first, second in combinations([*TEXTBOOK.values(), *SHIFTS], 2):
        if first.hand == second.hand:
            assert np.abs(pattern(first) - pattern(second)).max() > 0.04, (first, second)


def test_the_way_to_a_key_starts_where_the_keys_before_left_the_hand() -> None:
    after_home, after_top, after_bottom, after_itself = (
        movements(presses(keys))[-1] for keys in ("fr", "er", "vr", "rr")
    )
    assert after_top[UP] < 0.7 * after_home[UP] < after_home[UP] < after_bottom[UP]
    assert after_itself[UP] < 0.7 * after_home[UP]
    assert movements(presses("rg"))[-1][DOWN] > 0 == movements(presses("fg"))[-1][DOWN]
    assert movements(presses("rg"))[-1][RADIAL] == 1
    np.testing.assert_allclose(movements(presses("rt", every=30.0))[-1], movements(presses("t"))[-1], atol=1e-6)
    assert movements(presses("r "))[-1].tolist() == np.eye(5)[PLAIN].tolist()  # the thumb has no distance to travel


def test_the_finger_of_the_key_is_most_active_and_just_after_key_down() -> None:
    drive = Drive(presses("d"), PLAIN_HABITS, np.random.default_rng(0), variability=0.0)
    activity = drive.block(0, 2 * DRIVE_RATE) - POSTURE
    flexors = activity[:, Muscle.FDS_INDEX : Muscle.FDS_LITTLE + 1]
    assert flexors.max(axis=0).argmax() == 1
    assert 0.01 < flexors[:, 1].argmax() / DRIVE_RATE - 1.0 < 0.04
    assert activity[:, Muscle.ED_MIDDLE].argmax() / DRIVE_RATE < 0.95
    assert np.abs(activity[: DRIVE_RATE // 2]).max() < 1e-3


def test_a_press_soon_after_another_takes_less_effort() -> None:
    heights = []
    for every in (0.1, 0.5):
        drive = Drive(presses("fd", every), PLAIN_HABITS, np.random.default_rng(0), variability=0.0)
        around = drive.block(0, 2 * DRIVE_RATE)[:, Muscle.FDS_MIDDLE]
        heights.append(around.max())
    assert heights[0] < 0.8 * heights[1]


def test_effort_varies_over_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    def spread() -> float:
        """Standard deviation of the logarithm of a muscle's mean over 20 s, in seven minutes of one key."""
        drive = Drive(presses("d" * 840, 0.5), PLAIN_HABITS, np.random.default_rng(0), variability=1.0)
        efforts = [(drive.block(n * 20 * DRIVE_RATE, 20 * DRIVE_RATE) - POSTURE).mean(axis=0) for n in range(21)]
        used = np.array(efforts)[:, [Muscle.FDS_MIDDLE, Muscle.FDP_MIDDLE, Muscle.ED_MIDDLE, Muscle.ECR, Muscle.ECU]]
        return float(np.log(used).std(axis=0).mean())

    varied = spread()
    monkeypatch.setattr(muscles, "_OF_MINUTES", 0.0)
    assert spread() < 0.6 * varied  # what is left is the mean of 40 presses
    assert 0.15 < varied < 0.4


def test_signals_have_the_recorded_spectrum_levels_timing_and_rest() -> None:
    """A minute of each of four people: the medians over them are those of a recorded session."""
    config, rng = SimulationConfig(), np.random.default_rng(3)
    place = [place for key, place in TEXTBOOK.items() if key.isalpha()]
    rhythm = np.cumsum(np.tile([1.0, 0.2, 0.2, 0.2], 24)) + rng.uniform(-0.02, 0.02, 96)
    typed = [Press("", place[n], at, at + 0.09) for n, at in zip(rng.integers(26, size=96), rhythm, strict=True)]
    keys = [(press.place.hand, press.start) for press in typed]
    people, peaks, others, silence, spikes = [], [], [], [], []
    for user in range(4):
        emg = np.stack([band_signal(user, hand, typed, config) for hand in (LEFT, RIGHT)], axis=1)
        people.append(spectra(emg))
        pauses = _parts(emg, [press.start for press in typed[3::4]], 0.4, 0.75)  # from the end of a burst to the next
        around = _parts(emg, [press.start for press in typed], -0.1, 0.1)
        silence.append(np.median(pauses.std(axis=0) / around.std(axis=0)))
        spikes.append(np.sort(stats.kurtosis(pauses, axis=0))[-4])
        until = round((BEFORE + 0.1) * SAMPLE_RATE)  # before the next key
        means = key_locked(emg, keys)[:, :until].mean(axis=3)
        for band in (LEFT, RIGHT):
            peaks.append(means[band, :, band].argmax() / SAMPLE_RATE - BEFORE)
            others.append(np.ptp(means[1 - band, :, band]) / np.ptp(means[band, :, band]))
    assert 0.025 <= np.median(peaks) <= 0.05
    assert 0.015 <= min(peaks) <= max(peaks) <= 0.06
    assert np.median(others) < 0.35
    assert max(others) < 0.45
    assert np.median(silence) < 0.46  # of a channel's level around keys; with half as much rest activity more: 0.49
    # In the pauses a few electrodes have single large spikes: a normal distribution has a kurtosis of 0.
    assert np.median(spikes) > 5
    assert 95 <= np.median([np.median(found.median_frequency) for found in people]) <= 115
    weak, middle, strong = np.median([np.percentile(found.level, [10, 50, 90]) for found in people], axis=0)
    assert 4 < middle < 13
    assert 10 < 20 * np.log10(strong / weak) < 16
    recorded = spectrum("median")
    curves = [np.interp(list(recorded), FREQUENCIES, found.median_channel) for found in people]
    apart = np.median(curves, axis=0) - list(recorded.values())
    assert np.abs(apart - apart[0]).max() < 3  # dB against 80 Hz: these people rest more than typists do


def _parts(emg: np.ndarray, times: list[float], first: float, last: float) -> np.ndarray:
    """The samples (T, 32) from `first` to `last` seconds after each of the times."""
    parts = [emg[round((time + first) * SAMPLE_RATE) : round((time + last) * SAMPLE_RATE)] for time in times]
    return np.concatenate(parts).reshape(-1, 2 * CHANNELS)


def test_excitation_recruits_larger_units_and_raises_rates() -> None:
    units = MotorUnits.pools(40, np.random.default_rng(0))
    active, sizes, rates = [], [], []
    for excitation in (0.02, 0.1, 0.5):
        unit, sample = SpikeTrains(units, np.random.default_rng(1)).fire(steady(excitation, 20))
        gaps = np.diff(sample[unit == 0])
        assert gaps.std() / gaps.mean() == pytest.approx(INTERVAL_VARIATION, abs=0.04)
        active.append(len(set(unit)))
        sizes.append(units.size[unit].mean())
        rates.append(SAMPLE_RATE / gaps.mean())
    for rising in (active, sizes, rates):
        assert rising == sorted(rising)
    assert active[0] < 0.4 * len(units.size) < active[2]
    assert 8 < rates[0] < rates[2] < 61
    assert len(SpikeTrains(units, np.random.default_rng(1)).fire(steady(0, 4))[0]) == 0


def test_spike_trains_continue_from_block_to_block() -> None:
    trains = SpikeTrains(MotorUnits.pools(4, np.random.default_rng(0)), np.random.default_rng(1))
    length = SAMPLE_RATE // 20
    units, samples = zip(*(trains.fire(steady(0.3, 0.05)) for _ in range(400)), strict=True)
    assert all(np.all((sample >= 0) & (sample < length)) for sample in samples)
    unit, time = np.concatenate(units), np.concatenate([sample + n * length for n, sample in enumerate(samples)])
    variations = [gaps.std() / gaps.mean() for u in set(unit) if len(gaps := np.diff(time[unit == u])) > 100]
    assert len(variations) > 30
    assert max(variations) < 1.3 * INTERVAL_VARIATION


def test_a_potential_is_largest_above_the_unit_and_falls_with_distance_and_depth() -> None:
    heights = np.ptp(potential(angle=3 * STEP), axis=0)
    assert heights.argmax() == 3
    assert heights[3] > heights[4] > heights[5] > heights[7] > heights[11]
    near, far = potential(depth=5), potential(depth=14)
    assert np.ptp(far[:, 0]) < 0.5 * np.ptp(near[:, 0])
    assert np.ptp(far[:, 3]) / np.ptp(far[:, 0]) > np.ptp(near[:, 3]) / np.ptp(near[:, 0])
    slow, fast = (np.average(np.arange(25), weights=np.abs(np.fft.rfft(wave[:, 0])) ** 2) for wave in (far, near))
    assert slow < fast


def test_a_rotation_of_one_electrode_shifts_the_channels_and_smaller_moves_change_the_potential() -> None:
    turned = potential(replace(RING, rotation=STEP), angle=3 * STEP)
    np.testing.assert_allclose(turned, np.roll(potential(angle=3 * STEP), -1, axis=1), atol=1e-3)
    still = potential()
    for ring in (replace(RING, rotation=0.3 * STEP), replace(RING, along=4.0)):
        assert np.abs(potential(ring) - still).max() > 0.05 * np.abs(still).max()


@pytest.mark.parametrize("split", [10, 300, 977])
def test_sum_of_spikes_is_the_plain_sum_in_any_blocks(split: int) -> None:
    rng = np.random.default_rng(0)
    potentials = rng.standard_normal((5, TAPS, CHANNELS)).astype(np.float32)
    unit, sample = rng.integers(5, size=200), rng.integers(1000, size=200)
    expected = np.zeros((1000 + TAPS, CHANNELS))
    for which, when in zip(unit, sample, strict=True):
        expected[when : when + TAPS] += potentials[which]
    summed, early = SpikeSum(CHANNELS), sample < split
    first = summed.add(unit[early], sample[early], potentials, split)
    second = summed.add(unit[~early], sample[~early] - split, potentials, 1000 - split)
    np.testing.assert_allclose(np.concatenate([first, second]), expected[:1000], atol=1e-4)


def test_blocks_change_neither_drive_nor_recording() -> None:
    drive = Drive(presses("d" * 19), PLAIN_HABITS, np.random.default_rng(0), variability=1.0)
    pieces = np.concatenate([drive.block(first, 70) for first in range(0, 1400, 70)])
    np.testing.assert_allclose(pieces, drive.block(0, 1400), atol=1e-5)
    wave = np.random.default_rng(1).standard_normal((1000, CHANNELS)).astype(np.float32)
    parts = recorder(1000)
    pieces = np.concatenate([parts.record(wave[:300]), parts.record(wave[300:])])
    np.testing.assert_allclose(pieces, recorder(1000).record(wave), atol=1e-5)


@pytest.mark.parametrize(("frequency", "gain"), [(5.0, 0.02), (40.0, 0.71), (200.0, 1.0)])
def test_the_recorder_removes_low_frequencies_and_keeps_high_ones(frequency: float, gain: float) -> None:
    wave = sine(frequency, 2)
    recorded = recorder(len(wave)).record(wave)[SAMPLE_RATE:]
    assert recorded.std() / wave.std() == pytest.approx(gain, abs=0.02)


def test_noise_hum_lost_contact_and_artefacts_are_as_set() -> None:
    rough, wave, silence = partial(recorder, 20 * SAMPLE_RATE, difficulty=1.0), sine(200, 20), sine(0, 20)
    noise = rough(noise=5.0).record(silence)
    assert np.median(noise.std(axis=0)) == pytest.approx(5, rel=0.35)
    hum = rough(noise=0.01, hum=5.0, mains_frequency=50.0).record(silence)
    frequencies, power = signal.welch(hum, SAMPLE_RATE, nperseg=SAMPLE_RATE, axis=0)
    assert frequencies[power.sum(axis=1).argmax()] == 50
    assert np.abs(rough(noise=5.0, artefacts_per_minute=30.0).record(silence)).max() > 1.2 * np.abs(noise).max()
    assert rough(noise=5.0, poor_contact=1.0).record(silence).std() > 1.5 * noise.std()
    seconds = rough(poor_contact=1.0).record(wave).reshape(20, SAMPLE_RATE, CHANNELS).std(axis=1)
    low = seconds < 0.3 * wave.std()  # where an electrode has lost contact, and only for a while
    assert 0.05 < low.mean() < 0.6
    assert not low.all(axis=0).any()


@pytest.mark.parametrize("rate", [1000, 500, 400, 250, 200])
def test_a_slower_band_has_no_aliases(rate: int) -> None:
    """A wave above half of its rate is gone, one well below it stays; blocks of any length give the same samples."""
    slow = partial(recorder, 4000, sample_rate=rate, highpass=5.0)
    above, below = (slow().record(sine(share * rate, 2)) for share in (0.65, 0.3))
    assert len(above) == 2 * rate
    assert above[rate // 2 :].std() < 0.02
    assert below[rate // 2 :].std() == pytest.approx(0.707, rel=0.1)
    parts, one = np.split(sine(0.3 * rate, 2), [7, 500, 501, 3999]), slow()
    np.testing.assert_allclose(np.concatenate([one.record(part) for part in parts]), below, atol=1e-4)
