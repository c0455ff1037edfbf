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


def fibres(angle: float = 0.0, depth: float = 8.0) -> Fibres:
    one = np.ones(1)
    return Fibres(angle * one, (28.0 - depth) * one, -38 * one, 55 * one, 50 * one, 4500 * one)


def potential(ring: Ring = RING, angle: float = 0.0, depth: float = 8.0) -> np.ndarray:
    return action_potentials(fibres(angle, depth), np.ones(1), ring)[0]


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

    def centre(wave: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(wave)) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    assert centre(far[:, 0]) < centre(near[:, 0])


def test_turning_the_band_by_one_electrode_shifts_the_channels() -> None:
    turned = potential(Ring(28.0, STEP, 0.0, 8.0), angle=3 * STEP)
    np.testing.assert_allclose(turned, np.roll(potential(angle=3 * STEP), -1, axis=1), atol=1e-3)


def test_a_fraction_of_an_electrode_and_a_shift_along_the_arm_change_the_potential() -> None:
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


def test_the_device_removes_what_is_slow_and_keeps_what_is_fast() -> None:
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


def test_noise_hum_and_lost_contact_are_as_configured() -> None:
    silence = np.zeros((20 * SAMPLE_RATE, CHANNELS), dtype=np.float32)
    plain = {"artefacts_per_minute": 0.0, "poor_contact": 0.0}
    noise = recorder(SimulationConfig(noise=5, hum=0, **plain), len(silence)).record(silence)
    assert np.median(noise.std(axis=0)) == pytest.approx(5, rel=0.35)
    hum = recorder(SimulationConfig(noise=0.01, hum=5, mains_frequency=50, **plain), len(silence)).record(silence)
    frequencies, power = signal.welch(hum, SAMPLE_RATE, nperseg=SAMPLE_RATE, axis=0)
    assert frequencies[power.sum(axis=1).argmax()] == 50
    lost = SimulationConfig(noise=5, hum=0, artefacts_per_minute=0, poor_contact=1.0)
    assert recorder(lost, len(silence)).record(silence).std() > 1.5 * noise.std()
    tugged = SimulationConfig(noise=5, hum=0, poor_contact=0, artefacts_per_minute=30)
    assert np.abs(recorder(tugged, len(silence)).record(silence)).max() > 1.2 * np.abs(noise).max()


def test_an_electrode_that_loses_contact_loses_signal_for_a_while() -> None:
    time = np.arange(20 * SAMPLE_RATE)[:, None] / SAMPLE_RATE
    wave = np.repeat(np.sin(2 * np.pi * 200 * time), CHANNELS, axis=1).astype(np.float32)
    config = SimulationConfig(noise=0, hum=0, artefacts_per_minute=0, poor_contact=1.0)
    recorded = recorder(config, len(wave)).record(wave)
    seconds = recorded.reshape(20, SAMPLE_RATE, CHANNELS).std(axis=1)
    low = seconds < 0.3 * wave.std()
    assert 0.05 < low.mean() < 0.6
    assert not low.all(axis=0).any()
