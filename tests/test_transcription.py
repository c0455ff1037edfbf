"""Whole sessions -> emissions -> text: inference plans, block by block."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe import transcription
from emgscribe.data.session import Session
from emgscribe.data.windows import Store, Windows
from emgscribe.decoding.decoder import Emissions
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.models.encoders import (
    EncoderConfig,
    EnsembleConfig,
    MlpConfig,
    RecurrentConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import FeaturesConfig, SeveralConfig, SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.models.published import import_checkpoint
from emgscribe.transcription import (
    emission_blocks,
    inference_plan,
    normalized_to,
    one_pass_bytes,
    published_blocks,
    transcribe,
)

MakeStored = Callable[..., Session]
TDS = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)
SLOW = SpectrogramConfig(n_fft=64, hop=64)  # frames of 32 ms
GRU = RecurrentConfig(base=MlpConfig(8), hidden=8, left=3, right=2)
TRANSFORMER = TransformerConfig(base=TDS, heads=2, feed_forward=16, left=3, right=2)


def network(encoder: EncoderConfig, features: FeaturesConfig = SLOW) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Model(ModelConfig(features, encoder)).eval()


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny network with random weights whose head favours no class, so that it "types" a lot."""
    made = network(TDS, SpectrogramConfig())
    torch.nn.init.normal_(made.head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return made


def one_pass(model: Model, session: Session) -> Emissions:
    """Emissions of the whole session as one window."""
    windows = Windows(Store([session]), len(session), len(session), *model.context)
    with torch.inference_mode():
        return model(windows.batch([(0, 0)]))[0][0].numpy()


def joined(model: Model, session: Session, seconds: float = 60) -> Emissions:
    return np.concatenate(list(emission_blocks(model, session, block_seconds=seconds)))


@settings(max_examples=20)
@given(st.integers(1, 5000), st.one_of(st.just(2), st.integers(200, 6000)))
def test_blocks_of_any_length_give_the_emissions_of_one_pass(
    model: Model, make_stored: MakeStored, samples: int, block: int
) -> None:
    session = make_stored(samples)
    blocks = list(emission_blocks(model, session, block_seconds=block / 2000))
    size = max(1, round(block / model.samples_per_frame))
    frames = math.ceil(samples / model.samples_per_frame)
    assert [len(part) for part in blocks] == [min(size, frames - start) for start in range(0, frames, size)]
    np.testing.assert_allclose(np.concatenate(blocks), one_pass(model, session), rtol=0, atol=1e-4)


def test_a_transcript_has_the_decoders_labels_with_onsets_in_seconds(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(9_000)
    transcript = model.transcribe(session)
    expected = GreedyDecoder().decode(model.log_probs(session))
    assert len(transcript.labels) > 20
    assert (transcript.labels, transcript.text) == (expected.labels, expected.text)
    assert list(transcript.onsets) == pytest.approx([frame * 16 / 2000 for frame in expected.frames])
    model.train()
    frozen = next(part for part in model.modules() if isinstance(part, torch.nn.BatchNorm1d)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for read in (model.transcribe, partial(transcribe, model)):  # with batch norm's running statistics, which stay
        assert read(session) == transcript
    inference_plan(model, 20_000)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, frozen.training) == (True, False)
    model.eval()


@pytest.mark.parametrize("blocks", [emission_blocks, published_blocks])
def test_nan_is_blamed_on_the_model_or_on_the_recording(blocks: Callable, make_stored: MakeStored) -> None:
    session, broken = make_stored(9_000), network(TDS)
    broken.head.bias.data[3] = math.nan
    with pytest.raises(EmgscribeError, match="NaN: its samples are finite, so the model is at fault") as caught:
        list(blocks(broken, session))
    assert caught.value.where == "session"
    session.emg[4000, 1, 3] = math.nan
    with pytest.raises(EmgscribeError, match="NaN: some of its samples are not finite"):
        list(blocks(network(TDS), session))


@pytest.mark.parametrize(
    "encoder",
    [
        replace(TRANSFORMER, layers=2, past=5, future=2),
        replace(TDS, excitation="finite", squeeze=9),
        replace(TDS, rolling=7),
    ],
)
def test_bounded_encoders_read_blocks_as_one_pass(encoder: EncoderConfig, make_stored: MakeStored) -> None:
    small, session = network(encoder), make_stored(20_000)
    np.testing.assert_allclose(joined(small, session, 2), one_pass(small, session), rtol=0, atol=1e-4)
    assert inference_plan(small, 20_000).name == "blocks"


def test_recurrence_is_one_pass_while_memory_allows(make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch) -> None:
    small, session = network(GRU), make_stored(100_000)
    whole = joined(small, session)
    np.testing.assert_allclose(whole, one_pass(small, session), rtol=0, atol=1e-5)
    assert inference_plan(small, 100_000).name == "one pass"
    estimates = [one_pass_bytes(small, minutes * 120_000) for minutes in (1, 20)]
    assert estimates[1] == pytest.approx(20 * estimates[0])
    assert estimates[1] > 20 * 120_000 * 32 * 4  # more than the signal itself
    # Then in segments: after a margin of 10 s, the state is that of the whole session.
    monkeypatch.setattr(transcription, "ONE_PASS_BYTES", 0)
    assert inference_plan(small, 100_000, 8).name == "stitched, 8 s with margins of 10 s"
    assert len(list(emission_blocks(small, session, block_seconds=8))) == 7
    np.testing.assert_allclose(joined(small, session, 8), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("encoder", [TRANSFORMER, replace(TRANSFORMER, future=0), replace(GRU, base=TRANSFORMER)])
def test_attention_reads_windows_as_long_as_those_of_training(encoder: EncoderConfig, make_stored: MakeStored) -> None:
    small, session = network(encoder), make_stored(50_000)
    found = joined(small, session)
    assert len(found) == small.frames(50_000)
    plan = inference_plan(small, 50_000)
    assert plan.name == "stitched, 2 s with margins of 1 s"
    kept, margin = plan.kept, plan.margin
    after = margin if small.encoder.unbounded_right else 0
    windows = Windows(Store([session]), margin + kept + after, kept, *small.context)
    with torch.inference_mode():
        third = small(windows.batch([(0, 2 * kept - margin)]))[0][0].numpy()
    expected = third[small.frames(margin) : small.frames(margin + kept)]
    np.testing.assert_allclose(found[2 * small.frames(kept) : 3 * small.frames(kept)], expected, rtol=0, atol=1e-4)


@settings(max_examples=25)
@given(st.integers(1, 30_000), st.sampled_from([GRU, replace(GRU, bidirectional=False), TRANSFORMER]))
def test_stitched_emissions_cover_sessions_of_any_length(
    make_stored: MakeStored, samples: int, encoder: EncoderConfig
) -> None:
    small = network(encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcription, "ONE_PASS_BYTES", 0)
        parts = list(emission_blocks(small, make_stored(samples), block_seconds=3))
    assert sum(map(len, parts)) == small.frames(samples)
    assert all(len(part) > 0 and np.isfinite(part).all() for part in parts)


def test_the_published_protocol_gives_the_published_emissions(make_stored: MakeStored) -> None:
    stored = np.load(DATA / "published_tiny.npz")
    session = replace(make_stored(6000), emg=stored["emg"])
    found = np.concatenate(list(published_blocks(import_checkpoint(DATA / "published_tiny.ckpt"), session)))
    assert found.shape == stored["emissions"].shape == (310, 99)
    np.testing.assert_allclose(found, stored["emissions"], rtol=0, atol=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcription, "BLOCK_SECONDS", 0.5)
        parts = list(published_blocks(import_checkpoint(DATA / "published_tiny.ckpt"), session))
    assert len(parts) == 5
    np.testing.assert_allclose(np.concatenate(parts), found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", [TDS, GRU, TRANSFORMER, replace(GRU, bidirectional=False)])
@pytest.mark.parametrize("samples", [1, 400, 5000])
def test_the_published_protocol_has_only_whole_frames(
    encoder: EncoderConfig, samples: int, make_stored: MakeStored
) -> None:
    small = network(encoder)
    context = small.encoder.left_context + small.encoder.right_context
    expected = max(0, (samples - 64) // 64 + 1 - context)
    assert sum(map(len, published_blocks(small, make_stored(samples)))) == expected


def test_twenty_minutes_stay_below_four_gigabytes() -> None:
    code = """
import resource
import numpy as np
from emgscribe.data.session import Session
from emgscribe.evaluation import attention_texts
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import MlpConfig, RecurrentConfig, TransformerConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.models.published import import_checkpoint
from emgscribe.transcription import emission_blocks, inference_plan

samples, none = 20 * 60 * 2000, np.zeros(0, dtype=np.int64)
session = Session("s", "u", False, "", np.ones((samples, 2, 16), dtype=np.float32), none, none)
small = MlpConfig(8)
recurrent = RecurrentConfig(base=small, hidden=8, layers=1)
for encoder in (recurrent, TransformerConfig(base=small, heads=2, feed_forward=16)):
    model = Model(ModelConfig(SpectrogramConfig(hop=64), encoder)).eval()
    assert sum(map(len, emission_blocks(model, session))) == model.frames(samples)
    print(inference_plan(model, samples).name.split(",")[0])
model = Model(ModelConfig(SpectrogramConfig(n_fft=200, hop=200), small, AttentionConfig(1, 16, 2, 16))).eval()
model.attention.head.bias.data[98] = -1e4  # every window is read to the last frame
assert sum(map(len, attention_texts(model, session))) == samples // 200
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 4e9
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["one pass", "stitched"]


FRONTS = {
    "tds": (SLOW, TDS),
    "bidirectional": (SLOW, GRU),
    "raw EMG": (StridedConvConfig(), MlpConfig(8)),
    "hands": (SLOW, SplitShareConfig(TDS)),
    "an ensemble": (SLOW, EnsembleConfig((GRU, TDS))),
    "each with its own features": (
        SeveralConfig((StridedConvConfig(), StridedConvConfig())),
        EnsembleConfig((GRU, GRU), shared=False),
    ),
}


@pytest.mark.parametrize("name", ["tds", "bidirectional", "an ensemble"])
def test_a_model_normalized_to_a_session_does_not_see_gains(name: str, make_stored: MakeStored) -> None:
    features, encoder = FRONTS[name]
    model, session = network(encoder, features), make_stored(20_000)
    gains = np.random.default_rng(0).uniform(0.3, 3, (2, 16)).astype(np.float32)
    session = replace(session, emg=session.emg[:] * 100)  # far above the smallest power that counts
    louder = replace(session, emg=session.emg[:] * gains, content="louder")
    plain, other = (model.log_probs(each)[40:-40] for each in (session, louder))  # silence around it has no gain
    own, others = (model.normalized_to(each, 1.0).log_probs(each)[40:-40] for each in (session, louder))
    assert np.abs(own - others).max() < 0.1 * np.abs(plain - other).max()


@pytest.mark.parametrize("name", FRONTS)
def test_the_norm_moves_by_a_share_and_the_model_stays_as_it_was(
    name: str, make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, encoder = FRONTS[name]
    model, session = network(encoder, features).train(), make_stored(9_000)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = [normalized_to(model, session, share).state_dict() for share in (0.0, 0.5, 1.0)]
    moved = {key for key in before if not torch.equal(found[2][key], before[key])}
    assert moved == {key for key in before if key.endswith("norm.norm.running_mean")} != set()
    for key in before:
        assert torch.equal(model.state_dict()[key], before[key])
        assert torch.equal(found[0][key], before[key])
        if key in moved:
            torch.testing.assert_close(found[1][key], (before[key] + found[2][key]) / 2)
    assert model.training
    monkeypatch.setattr(transcription, "BLOCK_SECONDS", 1)  # frames across the ends of blocks are left out
    blocks = normalized_to(model, session, 1.0).state_dict()
    for key in moved:
        torch.testing.assert_close(blocks[key], found[2][key], atol=0.02, rtol=0.02)
    if name == "tds":
        power = model.features(torch.from_numpy(session.emg[:])[None]).mean(dim=(0, 1, 4)).flatten()
        torch.testing.assert_close(found[2]["encoder.norm.norm.running_mean"], power)


def test_models_that_cannot_be_normalized_to_a_session_are_refused(make_stored: MakeStored) -> None:
    with pytest.raises(EmgscribeError, match="no norm over electrodes") as caught:
        network(replace(TDS, rolling=10)).normalized_to(make_stored())
    assert "rolling" in caught.value.hint
    with pytest.raises(EmgscribeError, match="share is"):
        network(TDS).normalized_to(make_stored(), 1.5)
    broken = make_stored()
    broken.emg[1500, 1, 3] = np.nan
    with pytest.raises(EmgscribeError, match="not finite") as caught:
        network(TDS).normalized_to(broken)
    assert caught.value.where == "session"


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("samples", [5, 70, 700])  # shorter than a frame, a frame, less than the context
def test_short_sessions_normalize_a_model_too(name: str, samples: int, make_stored: MakeStored) -> None:
    features, encoder = FRONTS[name]
    model = network(encoder, features)
    found = model.normalized_to(make_stored(samples), 1.0)
    moved = [bool(value.any()) for key, value in found.state_dict().items() if key.endswith("norm.norm.running_mean")]
    assert all(moved) if samples >= model.features.span else not any(moved)
    assert np.isfinite(found.log_probs(make_stored(samples))).all()
