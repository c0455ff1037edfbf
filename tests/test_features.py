from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.errors import EmgscribeError
from emgscribe.features import LogSpectrogram, SpectrogramConfig, anti_alias_filter


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 90), st.integers(1, 90), st.integers(0, 200), st.integers(1, 3), st.floats(-3, 3))
def test_power_is_that_of_torch_stft(n_fft: int, hop: int, more: int, items: int, scale: float) -> None:
    hop = min(hop, n_fft)
    emg = noise(items, n_fft + more, 2, 3) * 10**scale
    offset = 1e-6 * 100**scale
    features = LogSpectrogram(SpectrogramConfig(n_fft, hop, offset))(emg)
    window = torch.hann_window(n_fft)
    rows = emg.permute(0, 2, 3, 1).flatten(0, 2)  # (N*B*C, T)
    spectrum = torch.stft(rows, n_fft, hop, window=window, center=False, return_complex=True)  # (N*B*C, K, F)
    power = (spectrum / window.norm()).abs().square() + offset
    expected = power.unflatten(0, (items, 2, 3)).permute(0, 4, 1, 2, 3)  # (N, F, B, C, K)
    assert features.shape == expected.shape == (items, more // hop + 1, 2, 3, n_fft // 2 + 1)
    # In quiet bins rounding of the frame's total power shows, hence the second term.
    assert torch.allclose(10**features, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_a_sine_shows_in_its_bin() -> None:
    time = torch.arange(4000) / 2000
    emg = torch.zeros(1, 4000, 2, 16)
    emg[0, :, 1, 5] = torch.sin(2 * torch.pi * 312.5 * time)  # bin 10 of 64 points at 2 kHz
    features = LogSpectrogram(SpectrogramConfig())(emg)
    assert features.shape == (1, 247, 2, 16, 33)
    assert (features[0, :, 1, 5].argmax(dim=-1) == 10).all()
    assert (features[0, :, 0] == torch.tensor(1e-6).log10()).all()  # silence is the offset


def test_defaults_are_the_published_ones() -> None:
    config, features = SpectrogramConfig(), LogSpectrogram(SpectrogramConfig())
    assert (config.n_fft, config.hop, config.offset) == (64, 16, 1e-6)
    assert (features.span, features.hop, features.offset, features.bins) == (64, 16, 1e-6, 33)
    assert list(features.parameters()) == []
    assert features.state_dict() == {}  # nothing of it belongs to the weights


@given(st.integers(2, 80), st.integers(1, 80), st.integers(1, 30))
def test_samples_is_what_so_many_frames_span(n_fft: int, hop: int, frames: int) -> None:
    features = LogSpectrogram(SpectrogramConfig(n_fft, min(hop, n_fft)))
    samples = features.samples(frames)
    assert features(noise(1, samples, 1, 1)).shape[1] == frames
    assert features(noise(1, samples + features.hop - 1, 1, 1)).shape[1] == frames
    assert frames == 1 or features(noise(1, samples - 1, 1, 1)).shape[1] == frames - 1


def test_items_do_not_influence_each_other_and_the_input_stays() -> None:
    emg = noise(3, 200, 2, 16)
    before = emg.clone()
    features = LogSpectrogram(SpectrogramConfig())(emg)
    assert torch.equal(emg, before)
    for n in range(3):
        assert torch.allclose(features[n], LogSpectrogram(SpectrogramConfig())(emg[n : n + 1])[0], atol=1e-5)


def test_float32_even_under_autocast() -> None:
    emg = noise(1, 200, 2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = LogSpectrogram(SpectrogramConfig())(emg)
    assert features.dtype == torch.float32
    assert torch.equal(features, LogSpectrogram(SpectrogramConfig())(emg))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_fft": 1, "hop": 1}, "features.n_fft"),
        ({"n_fft": 0}, "features.n_fft"),
        ({"hop": 0}, "features.hop"),
        ({"hop": -4}, "features.hop"),
        ({"n_fft": 32, "hop": 33}, "features.hop"),
        ({"offset": 0.0}, "features.offset"),
        ({"offset": -1e-6}, "features.offset"),
        ({"decimation": 3}, "features.decimation"),
        ({"electrodes": ()}, "features.electrodes"),
        ({"electrodes": (0, 16)}, "features.electrodes"),
        ({"electrodes": (3, 3)}, "features.electrodes"),
        ({"bands": (2,)}, "features.bands"),
        ({"edges": (4,)}, "features.edges"),
        ({"edges": (4, 2)}, "features.edges"),
        ({"edges": (0, 34)}, "features.edges"),
    ],
)
def test_parameters_out_of_range_are_named(changes: dict[str, float], field: str) -> None:
    with pytest.raises(EmgscribeError, match=field):
        SpectrogramConfig(**changes)
    assert SpectrogramConfig(n_fft=32, hop=32).hop == 32


@given(st.sampled_from([2, 4, 8]), st.integers(2, 40), st.integers(1, 40), st.integers(0, 100))
def test_decimation_is_filter_then_every_nth_sample(decimation: int, n_fft: int, hop: int, more: int) -> None:
    low = SpectrogramConfig(n_fft, min(hop, n_fft))
    decimated = LogSpectrogram(replace(low, decimation=decimation))
    emg = noise(1, decimated.span + more, 1, 2)
    taps = anti_alias_filter(decimation).numpy()
    slow = [np.convolve(emg[0, :, 0, c].double(), taps[::-1], mode="valid")[::decimation] for c in range(2)]
    expected = LogSpectrogram(low)(torch.from_numpy(np.stack(slow, axis=1)).float()[None, :, None])
    found = decimated(emg)
    count = found.shape[1]
    assert count == (more // decimated.hop) + 1
    assert torch.allclose(10**found, 10 ** expected[:, :count], rtol=1e-3, atol=1e-6 * float((10**expected).max()))


@pytest.mark.parametrize("decimation", [2, 4, 8])
def test_anti_alias_filter_keeps_what_fits_and_drops_what_would_fold(decimation: int) -> None:
    taps = anti_alias_filter(decimation)
    assert torch.equal(taps, taps.flip(0))
    response = torch.fft.rfft(taps, n=1 << 14).abs()
    frequency = torch.linspace(0, 1, len(response))  # 1 is half of 2 kHz
    assert (20 * response[frequency <= 0.7 / decimation].log10()).abs().max() < 0.05
    assert (20 * response[frequency >= 1 / decimation].log10()).max() < -55


@given(st.permutations(range(16)).flatmap(lambda p: st.integers(1, 16).map(lambda n: tuple(p[:n]))))
def test_chosen_electrodes_and_bands(electrodes: tuple[int, ...]) -> None:
    emg = noise(1, 200, 2, 16)
    whole = LogSpectrogram(SpectrogramConfig())(emg)
    for bands in ((0,), (1,), (0, 1), (1, 0)):
        chosen = LogSpectrogram(SpectrogramConfig(electrodes=electrodes, bands=bands))(emg)
        assert torch.allclose(chosen, whole[:, :, list(bands)][:, :, :, list(electrodes)], atol=1e-5)


def test_pooled_bins_are_sums_of_power() -> None:
    emg = noise(1, 400, 2, 16)
    power = 10 ** LogSpectrogram(SpectrogramConfig(offset=1e-12))(emg)
    edges = (1, 2, 4, 8, 12, 22, 33)
    pooled = 10 ** LogSpectrogram(SpectrogramConfig(offset=1e-12, edges=edges))(emg)
    sums = [power[..., low:high].sum(-1) for low, high in pairwise(edges)]
    torch.testing.assert_close(pooled, torch.stack(sums, dim=-1), rtol=1e-4, atol=1e-6)
