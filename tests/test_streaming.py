"""A stream reads what a transcription of the whole session reads, whatever its chunks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CNN, FEATURES, GRU, SMALL, TDS, scrambled

from emgscribe.data.charset import BLANK, NUM_CLASSES, labels_of_text
from emgscribe.data.session import Session, open_session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Decoder, Emissions, GreedyDecoder, Hypothesis
from emgscribe.decoding.language_model import train
from emgscribe.errors import EmgscribeError
from emgscribe.models.encoders import Encoder, EncoderConfig
from emgscribe.models.features import FeaturesConfig, SeveralConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.streaming import Stream, Update

STREAMING = {kind: config for kind, config in SMALL.items() if config.streaming() == config}
WAITING = {kind: config for kind, config in SMALL.items() if kind not in STREAMING}


@pytest.fixture
def session(make_session: Callable[..., Path]) -> Session:
    """0.6 s of noise, not a whole number of frames."""
    return open_session(make_session(samples=1201))


def read(stream: Stream, emg: np.ndarray, *sizes: int) -> list[Update]:
    """The updates of the stream for chunks of these sizes, used in turn and repeatedly."""
    stream.reset()
    updates, at = [], 0
    while at < len(emg):
        size = sizes[len(updates) % len(sizes)]
        updates.append(stream.feed(emg[at : at + size]))
        at += size
    return [*updates, stream.flush()]


def emissions_of(updates: list[Update]) -> Emissions:
    return np.concatenate([update.emissions for update in updates])


def text_of(updates: list[Update]) -> str:
    return "".join(update.committed.text for update in updates)


def onsets_of(updates: list[Update]) -> list[float]:
    return [onset for update in updates for onset in update.committed.onsets]


def network(encoder: EncoderConfig, features: FeaturesConfig = FEATURES) -> Model:
    model = Model(ModelConfig(features, encoder))
    scrambled(model)
    return model


def test_streaming_and_waiting_encoders_are_both_tested() -> None:
    some = {"tds", "recurrent, with lookahead", "recurrent, causal lstm", "transformer, banded", "conformer, banded"}
    assert some <= STREAMING.keys()
    assert {"recurrent", "linear-recurrence", "transformer", "tds, global squeeze"} <= WAITING.keys()


@pytest.mark.parametrize("kind", STREAMING)
def test_any_chunks_give_the_emissions_of_the_whole(kind: str, make_session: Callable[..., Path]) -> None:
    stream = Stream(model := network(STREAMING[kind]))
    for samples, sizes in ((1201, (1, 7, 32)), (20_011, (400, 20_000))):
        session = open_session(make_session(samples=samples))
        whole = model.log_probs(session)
        for size in sizes:
            np.testing.assert_allclose(emissions_of(read(stream, session.emg, size)), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "features",
    [
        StridedConvConfig(strides=(2, 4), filters=(3,), bins=5),
        SeveralConfig(parts=(StridedConvConfig(strides=(2, 4), filters=(3,), bins=5),) * 2),
        replace(FEATURES, decimation=4),
        replace(FEATURES, hop=5, electrodes=(0, 3), bands=(1,)),
    ],
    ids=["strided convolutions", "several", "decimated", "hop 5"],
)
def test_any_features_can_be_streamed(features: FeaturesConfig, session: Session) -> None:
    bands = len(features.bands) or 2
    model = network(replace(CNN, lookahead=1) if bands == 2 else replace(CNN, projection=0), features)
    whole, stream = model.log_probs(session), Stream(model)
    for sizes in ((1,), (37, 2, 200), (5000,)):
        np.testing.assert_allclose(emissions_of(read(stream, session.emg, *sizes)), whole, rtol=1e-4, atol=1e-4)


def test_a_long_chunk_is_computed_in_parts(make_session: Callable[..., Path]) -> None:
    session, model = open_session(make_session(samples=20_011)), network(replace(TDS, rolling=300))
    seen: list[int] = []
    model.features.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    whole = model.log_probs(session)
    seen.clear()
    np.testing.assert_allclose(emissions_of(read(Stream(model), session.emg, 20_000)), whole, rtol=1e-4, atol=1e-4)
    assert max(seen) < 2.2 * 2000


class Averaging(Encoder):
    """A user's encoder that knows nothing of streams: means of five frames."""

    width, left_context, right_context = 9, 3, 1

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=(2, 3)).unfold(1, 5, 1).mean(dim=3)


def test_a_custom_encoder_streams_by_its_receptive_field(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(TDS)
    model.encoder, model.head = Averaging(), torch.nn.Linear(9, NUM_CLASSES)
    whole = model.log_probs(session)
    np.testing.assert_allclose(emissions_of(read(Stream(model), session.emg, 50)), whole, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(Averaging, "unbounded_left", True)
    with pytest.raises(EmgscribeError, match="Averaging cannot be streamed"):
        Stream(model)


@pytest.mark.parametrize("kind", WAITING)
def test_an_encoder_that_waits_for_the_end_is_refused_and_an_alternative_named(kind: str, session: Session) -> None:
    model, nearest = network(WAITING[kind]), WAITING[kind].streaming()
    with pytest.raises(EmgscribeError, match="whole recording") as caught:
        Stream(model)
    assert "encoder." in caught.value.hint
    assert nearest.streaming() == nearest
    model = network(nearest)
    found = emissions_of(read(Stream(model), session.emg, 300))
    np.testing.assert_allclose(found, model.log_probs(session), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["recurrent", "transformer", "tds, global squeeze"])
def test_an_encoder_that_waits_can_read_sliding_windows(kind: str, make_session: Callable[..., Path]) -> None:
    session, model = open_session(make_session(samples=4001)), network(WAITING[kind])
    stream = Stream(model, window=1.0, lookahead=0.3)
    updates = read(stream, session.emg, 113)
    found, whole = emissions_of(updates), model.log_probs(session)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, emissions_of(read(stream, session.emg, 1999)), rtol=1e-4, atol=1e-4)
    assert stream.delay == pytest.approx(0.3 + 0.25 + model.context[1] / 2000, abs=0.02)
    assert max(update.lag for update in updates) <= stream.delay + 113 / 2000
    # A window covers a frame's surroundings, though not the whole session.
    assert np.abs(found - whole).mean() < 0.7 * np.abs(found - np.roll(whole, 50, axis=0)).mean()


def test_sliding_windows_cover_a_finite_receptive_field(session: Session) -> None:
    model = network(TDS)
    found = emissions_of(read(Stream(model, window=0.5, lookahead=0.1), session.emg, 113))
    np.testing.assert_allclose(found, model.log_probs(session), rtol=1e-4, atol=1e-4)


def test_a_window_must_be_long_enough_for_its_lookahead(session: Session) -> None:
    for window, lookahead in ((0.5, 0.5), (0.6, 0.5), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(EmgscribeError, match=r"window|lookahead"):
            Stream(network(GRU), window=window, lookahead=lookahead)


class Spoken(Encoder):
    """An encoder that outputs given emissions, whatever the EMG."""

    width, unbounded_left = NUM_CLASSES, False

    def __init__(self, emissions: Emissions) -> None:
        super().__init__()
        self.emissions, self.at = torch.from_numpy(emissions), 0

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        first, self.at = self.at, self.at + features.shape[1]
        return self.emissions[None, first : self.at]


def saying(emissions: Emissions) -> Model:
    model = network(TDS)
    model.encoder, model.head = Spoken(emissions), torch.nn.Identity()
    model.head.weight, model.head.out_features = torch.zeros(1), NUM_CLASSES  # type: ignore[assignment]
    return model.eval()


def spoken(text: str, *, doubt: float = 0.2, seed: int = 0) -> Emissions:
    """Log-probabilities of a text, ten frames a key, of which the third is its onset, with noise."""
    scores = np.random.default_rng(seed).gumbel(size=(10 * len(text), NUM_CLASSES)).astype(np.float32) * doubt
    scores[:, BLANK] += 4
    for place, label in enumerate(labels_of_text(text)):
        scores[10 * place + 3 : 10 * place + 5, label] += 5
    return torch.from_numpy(scores).log_softmax(1).numpy()


TEXT = "the quick brown fox jumps⌫s over the lazy dog⏎it is the end of the day⏎"
MODEL = train("the quick brown fox jumps over the lazy dog\n" * 3, order=4)


def decoders() -> dict[str, Callable[[], Decoder]]:
    return {
        "greedy": GreedyDecoder,
        "beam": lambda: BeamDecoder(BeamConfig(beam_size=8)),
        "beam with a language model": lambda: BeamDecoder(BeamConfig(beam_size=12, lm_weight=1.0), MODEL),
    }


@pytest.mark.parametrize("name", decoders())
@given(sizes=st.lists(st.integers(20, 3000), min_size=1, max_size=4), seed=st.integers(0, 5), doubt=st.floats(0.2, 1.2))
@settings(max_examples=15, deadline=None)
def test_any_chunks_give_the_text_of_the_whole(name: str, sizes: list[int], seed: int, doubt: float) -> None:
    emissions = spoken(TEXT, doubt=doubt, seed=seed)
    whole = decoders()[name]().decode(emissions)
    emg = np.zeros((16 * len(emissions), 2, 16), np.float32)
    updates = read(Stream(saying(emissions), decoders()[name](), settle_after=1e6), emg, *sizes)
    assert text_of(updates) == whole.text
    # Later frames may move the onset of a key whose label is settled; what is committed stays.
    assert np.abs(np.array(onsets_of(updates)) - np.array(whole.frames) * 16 / 2000).max(initial=0) < 0.1


@pytest.mark.parametrize("name", decoders())
def test_committed_text_is_what_was_shown_and_never_changes(name: str) -> None:
    emissions = spoken(TEXT, doubt=1.3)
    emg = np.zeros((16 * len(emissions), 2, 16), np.float32)
    for settle_after in (0.15, 0.5, 2.0):
        updates = read(Stream(saying(emissions), decoders()[name](), settle_after=settle_after), emg, 80)
        for update in updates[:-1]:
            oldest = min(update.tentative.onsets, default=update.seconds)
            assert update.seconds - oldest <= settle_after + 0.1 + 1e-6
        again = read(Stream(saying(emissions), decoders()[name](), settle_after=settle_after), emg, 1, 999)
        assert text_of(again) == text_of(updates)
        assert onsets_of(updates) == sorted(onsets_of(updates))
        assert updates[-1].tentative.text == ""


def test_a_beam_must_decide_on_text_that_is_too_old() -> None:
    """Two texts that stay equally likely are decided by their age."""
    emissions = np.full((400, NUM_CLASSES), -20, np.float32)
    emissions[:, BLANK] = 0
    emissions[10, labels_of_text("ab")] = [-0.7, -0.69]
    emissions[10, BLANK] = -20
    emg = np.zeros((6400, 2, 16), np.float32)
    patient, hasty = (Stream(saying(emissions), BeamDecoder(BeamConfig(4)), settle_after=wait) for wait in (100, 0.5))
    assert [update.committed.text for update in read(patient, emg, 1600)] == ["", "", "", "", "b"]
    assert [update.committed.text for update in read(hasty, emg, 1600)] == ["b", "", "", "", ""]


class Whole(Decoder):
    """A decoder without a way of settling."""

    def reset(self) -> None:
        self.read: list[Emissions] = []

    def feed(self, log_probs: Emissions) -> Hypothesis:
        self.read.append(log_probs)
        return self.flush()

    def flush(self) -> Hypothesis:
        return GreedyDecoder().decode(np.concatenate(self.read))


def test_a_decoder_without_a_way_of_settling_commits_at_the_end() -> None:
    emissions = spoken(TEXT)
    updates = read(Stream(saying(emissions), Whole()), np.zeros((16 * len(emissions), 2, 16), np.float32), 999)
    assert [update.committed.text for update in updates] == [""] * (len(updates) - 1) + [TEXT]
    assert updates[-2].tentative.text == TEXT[:-1] or updates[-2].tentative.text == TEXT


def test_onsets_are_on_the_clock_of_the_samples() -> None:
    emissions = spoken("abcdef")
    emg = np.zeros((16 * len(emissions), 2, 16), np.float32)
    stream = Stream(saying(emissions))
    times = 1000 + np.arange(len(emg)) / 2000
    times[500:] += 60  # the clock jumped
    updates = [stream.feed(emg[at : at + 100], times[at : at + 100]) for at in range(0, len(emg), 100)]
    expected = [times[16 * (10 * place + 3)] for place in range(6)]
    np.testing.assert_allclose(onsets_of([*updates, stream.flush()]), expected, atol=1e-9)


def test_samples_that_no_model_reads_are_refused_and_change_nothing(session: Session) -> None:
    stream = Stream(network(TDS))
    whole = emissions_of(read(stream, session.emg, 100))
    stream.reset()
    first = stream.feed(session.emg[:600])
    for bad in (session.emg[:, :1], session.emg[:, :, 0], np.full((3, 2, 16), np.nan), np.full((3, 2, 16), np.inf)):
        with pytest.raises(EmgscribeError, match=r"shape|finite"):
            stream.feed(bad)
    rest = [stream.feed(session.emg[600:]), stream.flush()]
    np.testing.assert_allclose(emissions_of([first, *rest]), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(EmgscribeError, match="settle_after"):
        Stream(network(TDS), settle_after=0)


def kept(value: object) -> int:
    """How many numbers a nested list of tensors holds."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes() // value.element_size()
    return sum(map(kept, value)) if isinstance(value, list | tuple) else 0


@pytest.mark.parametrize("kind", STREAMING)
def test_the_memory_of_a_stream_does_not_grow(kind: str) -> None:
    stream, emg = Stream(network(STREAMING[kind])), np.random.default_rng(0).normal(size=(400, 2, 16))
    sizes = []
    for _ in range(12):
        stream.feed(emg)
        sizes.append(kept(stream._state))
    assert max(sizes[6:]) <= max(sizes[:6])
    stream.feed(np.concatenate([emg] * 20))
    assert kept(stream._state) <= 1.2 * max(sizes)


def test_committed_text_is_removed_from_the_decoder() -> None:
    emissions = spoken(TEXT * 10, doubt=0.5)
    decoder = BeamDecoder(BeamConfig(beam_size=8, insertion_bonus=0.0))
    stream, emg = Stream(saying(emissions), decoder), np.zeros((16 * len(emissions), 2, 16), np.float32)
    for at in range(0, len(emg), 3200):
        stream.feed(emg[at : at + 3200])
        assert len(decoder.flush().labels) < 60
    assert decoder.nodes <= 8192
