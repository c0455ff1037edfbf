import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import noise

from emgscribe.models.features import LogSpectrogram, SpectrogramConfig, StridedConvConfig, anti_alias_filter


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


def test_the_features_are_the_published_ones_and_have_no_weights() -> None:
    features = LogSpectrogram(SpectrogramConfig())
    assert (features.span, features.hop, features.config.offset, features.bins) == (64, 16, 1e-6, 33)
    assert features.state_dict() == {}


@given(st.integers(2, 80), st.integers(1, 80), st.integers(1, 30))
def test_samples_are_what_the_frames_span(n_fft: int, hop: int, frames: int) -> None:
    features = LogSpectrogram(SpectrogramConfig(n_fft, min(hop, n_fft)))
    samples = features.samples(frames)
    assert features(noise(1, samples, 1, 1)).shape[1] == frames
    assert features(noise(1, samples + features.hop - 1, 1, 1)).shape[1] == frames
    assert frames == 1 or features(noise(1, samples - 1, 1, 1)).shape[1] == frames - 1


def test_features_are_float32_under_autocast_and_leave_the_input_unchanged() -> None:
    emg = noise(1, 200, 2, 16)
    before = emg.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = LogSpectrogram(SpectrogramConfig())(emg)
    assert features.dtype == torch.float32
    assert torch.equal(features, LogSpectrogram(SpectrogramConfig())(emg))
    assert torch.equal(emg, before)


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
def test_chosen_electrodes_and_bands_are_kept_in_their_order(electrodes: tuple[int, ...]) -> None:
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


LEARNED = StridedConvConfig(strides=(3, 4), filters=(4,), bins=5)


@given(
    strides=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    overlap=st.integers(1, 3),
    samples=st.integers(0, 60),
)
def test_learned_features_make_a_frame_every_hop(strides: list[int], overlap: int, samples: int) -> None:
    config = StridedConvConfig(strides=tuple(strides), filters=(3,) * (len(strides) - 1), bins=2, overlap=overlap)
    features = config.build()
    assert features.hop == math.prod(strides)
    frames = features(torch.randn(2, features.span + samples, 2, 16))
    assert frames.shape == (2, samples // features.hop + 1, 2, 16, 2)
    assert features.samples(frames.shape[1]) <= features.span + samples


def test_a_learned_frame_depends_on_its_span_alone() -> None:
    features = LEARNED.build().eval()
    emg = torch.randn(1, features.samples(9), 2, 16)
    start = 4 * features.hop
    assert torch.allclose(features(emg)[:, 4], features(emg[:, start : start + features.span])[:, 0], atol=1e-6)
    other = emg.clone()
    other[:, start : start + features.span] = 7.0
    before_and_after = [frame for frame in range(9) if abs(frame - 4) * features.hop >= features.span]
    assert before_and_after
    assert torch.equal(features(emg)[:, before_and_after], features(other)[:, before_and_after])
    assert not torch.allclose(features(emg)[:, 4], features(other)[:, 4])


def test_learned_features_rotate_with_the_band_and_can_be_trained() -> None:
    features = LEARNED.build()
    emg = torch.randn(3, features.samples(8), 2, 16)
    frames = features(emg)
    assert torch.allclose(frames.roll(1, dims=3), features(emg.roll(1, dims=3)), atol=1e-5)
    frames.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in features.parameters())


def test_learned_features_use_only_the_chosen_electrodes_and_bands() -> None:
    config = replace(LEARNED, electrodes=(0, 8), bands=(1,))
    features = config.build().eval()
    emg = torch.randn(1, features.samples(3), 2, 16)
    assert features(emg).shape == (1, 3, 1, 2, 5)
    silent = emg.clone()
    silent[:, :, 0] = 0
    silent[..., 1:8] = 0
    assert torch.equal(features(emg), features(silent))
