import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.errors import EmgscribeError
from emgscribe.features import LogSpectrogram, SpectrogramConfig


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 90), st.integers(1, 90), st.integers(0, 200), st.integers(1, 3), st.floats(-3, 3))
def test_power_is_that_of_torch_stft(n_fft: int, hop: int, more: int, items: int, scale: float) -> None:
    hop = min(hop, n_fft)
    emg = noise(items, n_fft + more, 2, 3) * 10**scale
    offset = 1e-6 * 100**scale
    features = LogSpectrogram(n_fft, hop, offset)(emg)
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
    features = LogSpectrogram()(emg)
    assert features.shape == (1, 247, 2, 16, 33)
    assert (features[0, :, 1, 5].argmax(dim=-1) == 10).all()
    assert (features[0, :, 0] == torch.tensor(1e-6).log10()).all()  # silence is the offset


def test_defaults_are_the_published_ones() -> None:
    config, features = SpectrogramConfig(), LogSpectrogram()
    assert (config.n_fft, config.hop, config.offset) == (64, 16, 1e-6)
    assert (features.n_fft, features.hop, features.offset, features.bins) == (64, 16, 1e-6, 33)
    assert list(features.parameters()) == []
    assert features.state_dict() == {}  # nothing of it belongs to the weights


@given(st.integers(2, 80), st.integers(1, 80), st.integers(1, 30))
def test_samples_is_what_so_many_frames_span(n_fft: int, hop: int, frames: int) -> None:
    features = LogSpectrogram(n_fft, min(hop, n_fft))
    samples = features.samples(frames)
    assert features(noise(1, samples, 1, 1)).shape[1] == frames
    assert features(noise(1, samples + features.hop - 1, 1, 1)).shape[1] == frames
    assert frames == 1 or features(noise(1, samples - 1, 1, 1)).shape[1] == frames - 1


def test_items_do_not_influence_each_other_and_the_input_stays() -> None:
    emg = noise(3, 200, 2, 16)
    before = emg.clone()
    features = LogSpectrogram()(emg)
    assert torch.equal(emg, before)
    for n in range(3):
        assert torch.allclose(features[n], LogSpectrogram()(emg[n : n + 1])[0], atol=1e-5)


def test_float32_even_under_autocast() -> None:
    emg = noise(1, 200, 2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = LogSpectrogram()(emg)
    assert features.dtype == torch.float32
    assert torch.equal(features, LogSpectrogram()(emg))


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
    ],
)
def test_parameters_out_of_range_are_named(changes: dict[str, float], field: str) -> None:
    with pytest.raises(EmgscribeError, match=field):
        SpectrogramConfig(**changes)  # type: ignore[arg-type]
    assert SpectrogramConfig(n_fft=32, hop=32).hop == 32
