from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from emgscribe.data.hdf5 import CHANNELS, SAMPLE_RATE
from emgscribe.simulation import SimulationConfig
from emgscribe.simulation.electrodes import TAPS, Fibres, Ring, SpikeSum, action_potentials
from emgscribe.simulation.recording import Recorder

RING = Ring(radius=28.0, rotation=0.0, along=0.0, pole_distance=8.0)
QUIET = SimulationConfig(noise=0, hum=0, artefacts_per_minute=0, poor_contact=0, difficulty=0)
STEP = 2 * np.pi / CHANNELS


def potential(ring: Ring = RING, angle: float = 0.0, depth: float = 8.0) -> np.ndarray:
    fibres = Fibres(*(np.array([value]) for value in (angle, 28.0 - depth, -38.0, 55.0, 50.0, 4500.0)))
    return action_potentials(fibres, np.ones(1), ring)[0]


def recorder(config: SimulationConfig, samples: int) -> Recorder:
    return Recorder(config, np.ones(CHANNELS, dtype=np.float32), samples, np.random.default_rng(0))


def test_a_potential_is_largest_above_the_unit_and_falls_with_distance() -> None:
    heights = np.ptp(potential(angle=3 * STEP), axis=0)
    assert heights.argmax() == 3
    assert heights[3] > heights[4] > heights[5] > heights[7] > heights[11]


def test_depth_makes_a_potential_smaller_wider_and_slower() -> None:
    near, far = potential(depth=5), potential(depth=14)
    assert np.ptp(far[:, 0]) < 0.5 * np.ptp(near[:, 0])
    assert np.ptp(far[:, 3]) / np.ptp(far[:, 0]) > np.ptp(near[:, 3]) / np.ptp(near[:, 0])
    powers = [np.abs(np.fft.rfft(wave[:, 0])) ** 2 for wave in (far, near)]
    slow, fast = (np.average(np.arange(len(power)), weights=power) for power in powers)
    assert slow < fast


def test_a_rotation_of_one_electrode_shifts_the_channels_and_smaller_moves_change_the_potential() -> None:
    turned = potential(Ring(28.0, STEP, 0.0, 8.0), angle=3 * STEP)
    np.testing.assert_allclose(turned, np.roll(potential(angle=3 * STEP), -1, axis=1), atol=1e-3)
    still = potential()
    for ring in (Ring(28.0, 0.3 * STEP, 0.0, 8.0), Ring(28.0, 0.0, 4.0, 8.0)):
        assert np.abs(potential(ring) - still).max() > 0.05 * np.abs(still).max()


@pytest.mark.parametrize("split", [10, 300, 977])
def test_sum_of_spikes_is_the_plain_sum_in_any_blocks(split: int) -> None:
    rng = np.random.default_rng(0)
    potentials = rng.standard_normal((5, TAPS, CHANNELS)).astype(np.float32)
    unit, sample = rng.integers(5, size=200), rng.integers(1000, size=200)
    expected = np.zeros((1000 + TAPS, CHANNELS))
    for which, when in zip(unit, sample, strict=True):
        expected[when : when + TAPS] += potentials[which]
    summed, early = SpikeSum(), sample < split
    first = summed.add(unit[early], sample[early], potentials, split)
    second = summed.add(unit[~early], sample[~early] - split, potentials, 1000 - split)
    np.testing.assert_allclose(np.concatenate([first, second]), expected[:1000], atol=1e-4)


def test_the_band_removes_what_is_slow_and_keeps_what_is_fast() -> None:
    time = np.arange(2 * SAMPLE_RATE)[:, None] / SAMPLE_RATE
    for frequency, gain in ((5.0, 0.02), (40.0, 0.71), (200.0, 1.0)):
        wave = np.repeat(np.sin(2 * np.pi * frequency * time), CHANNELS, axis=1).astype(np.float32)
        recorded = recorder(QUIET, len(wave)).record(wave)[SAMPLE_RATE:]
        assert recorded.std() / wave.std() == pytest.approx(gain, abs=0.02)


def test_blocks_do_not_change_a_recording() -> None:
    wave = np.random.default_rng(1).standard_normal((1000, CHANNELS)).astype(np.float32)
    whole = recorder(QUIET, 1000).record(wave)
    parts = recorder(QUIET, 1000)
    np.testing.assert_allclose(np.concatenate([parts.record(wave[:300]), parts.record(wave[300:])]), whole, atol=1e-5)


def test_noise_hum_lost_contact_and_artefacts_are_as_set() -> None:
    silence = np.zeros((20 * SAMPLE_RATE, CHANNELS), dtype=np.float32)

    def recorded(**changed: float) -> np.ndarray:
        config = replace(QUIET, difficulty=1.0, **{"noise": 5.0, **changed})
        return recorder(config, len(silence)).record(silence)

    noise = recorded()
    assert np.median(noise.std(axis=0)) == pytest.approx(5, rel=0.35)
    hum = recorded(noise=0.01, hum=5.0, mains_frequency=50.0)
    frequencies, power = signal.welch(hum, SAMPLE_RATE, nperseg=SAMPLE_RATE, axis=0)
    assert frequencies[power.sum(axis=1).argmax()] == 50
    assert recorded(poor_contact=1.0).std() > 1.5 * noise.std()
    assert np.abs(recorded(artefacts_per_minute=30.0)).max() > 1.2 * np.abs(noise).max()


def test_an_electrode_that_loses_contact_loses_signal_for_a_while() -> None:
    time = np.arange(20 * SAMPLE_RATE)[:, None] / SAMPLE_RATE
    wave = np.repeat(np.sin(2 * np.pi * 200 * time), CHANNELS, axis=1).astype(np.float32)
    recorded = recorder(replace(QUIET, difficulty=1.0, poor_contact=1.0), len(wave)).record(wave)
    seconds = recorded.reshape(20, SAMPLE_RATE, CHANNELS).std(axis=1)
    low = seconds < 0.3 * wave.std()
    assert 0.05 < low.mean() < 0.6
    assert not low.all(axis=0).any()
