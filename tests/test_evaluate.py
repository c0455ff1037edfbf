import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe import evaluation
from emgscribe.data.charset import text_of_labels
from emgscribe.data.session import Session
from emgscribe.data.windows import Store, Windows
from emgscribe.decoding.greedy import Emissions, GreedyDecoder, Hypothesis
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import (
    Result,
    attention_texts,
    evaluate,
    evaluate_attention,
    evaluate_windows,
    one_pass_bytes,
    reading,
    session_emissions,
)
from emgscribe.models.attention import AttentionConfig, search
from emgscribe.models.encoders import EncoderConfig, MlpConfig, RecurrentConfig, TdsConfig, TransformerConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.scoring import Counts, count, total

MakeStored = Callable[..., Session]
TDS = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny network with random weights whose head favours no class, so that it "types" a lot."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Model(ModelConfig(encoder=TDS)).eval()
        torch.nn.init.normal_(network.head.weight, std=0.5)
    return network


def typing(samples: int, every: int) -> list[tuple[int, int]]:
    """A keystroke every so many samples."""
    return [(i % 98, onset) for i, onset in enumerate(range(0, samples, every))]


def one_pass(model: Model, session: Session) -> Emissions:
    """Emissions of the whole session as one window."""
    windows = Windows(Store([session]), len(session), len(session), *model.context)
    with torch.inference_mode():
        return model(windows.batch([(0, 0)]))[0].numpy()


@settings(max_examples=20)
@given(st.integers(1, 5000), st.integers(200, 6000))
def test_blocks_of_any_length_give_the_emissions_of_one_pass(
    model: Model, make_stored: MakeStored, samples: int, block: int
) -> None:
    session = make_stored(samples)
    blocks = list(session_emissions(model, session, block_seconds=block / 2000))
    size = max(1, round(block / model.samples_per_frame))
    frames = math.ceil(samples / model.samples_per_frame)
    assert [len(part) for part in blocks] == [min(size, frames - start) for start in range(0, frames, size)]
    np.testing.assert_allclose(np.concatenate(blocks), one_pass(model, session), rtol=0, atol=1e-4)


def test_a_hypothesis_is_that_of_the_concatenated_emissions(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(30_000, typing(30_000, 300))
    result = evaluate(model, [session], GreedyDecoder(), block_seconds=1.3)
    emissions = np.concatenate(list(session_emissions(model, session, block_seconds=1.3)))
    hypothesis = GreedyDecoder().decode(emissions)
    (score,) = result.sessions
    assert len(hypothesis.labels) > 50  # else there is nothing to compare
    assert score.hypothesis == hypothesis.text
    assert score.reference == text_of_labels(session.labels.tolist())
    assert score.counts == count(session.labels.tolist(), hypothesis.labels)


def test_block_length_does_not_change_the_result(model: Model, make_stored: MakeStored) -> None:
    sessions = [make_stored(30_000, typing(30_000, 300)), make_stored(9_000, typing(9_000, 250), seed=1)]
    results = [evaluate(model, sessions, GreedyDecoder(), block_seconds=s) for s in (60, 2.0, 0.7)]
    assert results[0] == results[1] == results[2]


def test_blocks_of_a_single_frame(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(200)
    blocks = list(session_emissions(model, session, block_seconds=1e-3))
    assert [len(block) for block in blocks] == [1] * 13
    np.testing.assert_allclose(np.concatenate(blocks), one_pass(model, session), rtol=0, atol=1e-4)


def test_units_are_stretches_of_ten_seconds_and_add_up(model: Model, make_stored: MakeStored) -> None:
    keys = [(0, 0), (1, 19_999), (2, 20_000), (3, 44_999)]
    (score,) = evaluate(model, [make_stored(45_000, keys)], GreedyDecoder()).sessions
    assert [unit.length for unit in score.units] == [2, 1, 1]
    assert total(score.units) == score.counts
    assert score.counts == count(score.reference, score.hypothesis)


def test_sessions_add_up_and_keep_their_names(model: Model, make_stored: MakeStored) -> None:
    sessions = [
        make_stored(30_000, typing(30_000, 300), name="one"),
        make_stored(22_000, typing(22_000, 400), seed=1, name="two"),
    ]
    result = evaluate(model, sessions, GreedyDecoder())
    alone = [evaluate(model, [session], GreedyDecoder()).sessions[0] for session in sessions]
    assert list(result.sessions) == alone  # one session does not leak into the next
    assert [score.session for score in result.sessions] == ["one", "two"]
    assert result.counts == alone[0].counts + alone[1].counts
    low, high = result.interval()
    assert low <= result.counts.cer <= high


class Echo:
    """A decoder that has read the reference, whatever it is fed."""

    def __init__(self, labels: list[int]) -> None:
        self.labels, self.calls = labels, [""]

    def reset(self) -> None:
        self.calls.append("reset")

    def feed(self, emissions: Emissions) -> Hypothesis:
        self.calls.append("feed")
        return Hypothesis()

    def flush(self) -> Hypothesis:
        self.calls.append("flush")
        return Hypothesis(tuple(self.labels), tuple(range(len(self.labels))))


def test_a_perfect_decoder_scores_no_error(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(9_000, typing(9_000, 500))
    decoder = Echo(session.labels.tolist())
    result = evaluate(model, [session], decoder, block_seconds=2)
    assert result.counts == Counts(length=18)
    assert result.counts.cer == 0
    assert decoder.calls == ["", "reset", "feed", "feed", "feed", "flush"]


def test_progress_rises_to_one(model: Model, make_stored: MakeStored) -> None:
    seen: list[float] = []
    sessions = [make_stored(5_000), make_stored(3_001, seed=1)]
    evaluate(model, sessions, GreedyDecoder(), block_seconds=0.4, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == 7 + 4
    assert 0 < seen[0] < 1
    assert seen[-1] == 1.0


def test_windows_are_scored_one_by_one(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(21_000, typing(21_000, 300))
    result = evaluate_windows(model, [session], GreedyDecoder(), 8000)
    (score,) = result.sessions
    emissions = one_pass(model, session)
    hypotheses = [GreedyDecoder().decode(emissions[start : start + 500]) for start in (0, 500, 1000)]
    references = [session.labels[session.typed(start, start + 8000)].tolist() for start in (0, 8000, 16000)]
    assert list(score.units) == [count(r, h.labels) for r, h in zip(references, hypotheses, strict=True)]
    assert score.hypothesis == "".join(hypothesis.text for hypothesis in hypotheses)
    assert score.reference == text_of_labels(session.labels.tolist())
    assert score.counts.length == len(session.labels)


def test_whole_and_windowed_agree_where_no_window_cuts(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(7_000, typing(7_000, 300))
    whole = evaluate(model, [session], GreedyDecoder())
    windowed = evaluate_windows(model, [session], GreedyDecoder(), 8000)
    assert whole.counts == windowed.counts
    assert whole.sessions[0].hypothesis == windowed.sessions[0].hypothesis
    assert whole.protocol != windowed.protocol
    assert (whole.unit, windowed.unit) == ("stretches of 10 s", "windows")


@pytest.mark.parametrize("score", [evaluate, evaluate_windows])
def test_one_simulated_session_marks_the_result(
    model: Model, make_stored: MakeStored, score: Callable[..., Result]
) -> None:
    real, other = make_stored(3_000), make_stored(3_000, seed=1)
    assert not score(model, [real, other], GreedyDecoder()).simulated
    assert score(model, [real, replace(other, simulated=True)], GreedyDecoder()).simulated


def test_as_json(model: Model, make_stored: MakeStored) -> None:
    def content(result: Result) -> dict[str, Any]:
        return json.loads(json.dumps(result.to_json(), allow_nan=False))

    result = evaluate(model, [make_stored(25_000, typing(25_000, 300))], GreedyDecoder())
    found = content(result)
    assert found["cer"] == pytest.approx(result.counts.cer)
    assert found["cer_interval"] == pytest.approx(list(result.interval()))
    assert [Counts(*unit) for unit in found["sessions"][0]["units"]] == list(result.sessions[0].units)
    assert found["simulated"] is False
    silent = content(evaluate(model, [make_stored(3_000)], GreedyDecoder()))  # nobody typed: there is no rate
    assert (silent["cer"], silent["cer_interval"]) == (None, None)
    assert silent["sessions"][0]["reference"] == ""


SLOW = SpectrogramConfig(n_fft=64, hop=64)
GRU = RecurrentConfig(base=MlpConfig(8), hidden=8, left=3, right=2)
TRANSFORMER = TransformerConfig(base=TDS, heads=2, feed_forward=16, left=3, right=2)


def network(encoder: EncoderConfig) -> Model:
    """A small network whose frames are 32 ms."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Model(ModelConfig(SLOW, encoder)).eval()


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
    found = np.concatenate(list(session_emissions(small, session, block_seconds=2)))
    np.testing.assert_allclose(found, one_pass(small, session), rtol=0, atol=1e-4)
    assert reading(small, 20_000).name == "blocks"


def test_recurrence_is_one_pass_while_memory_allows(make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch) -> None:
    small, session = network(GRU), make_stored(100_000, typing(100_000, 300))
    whole = np.concatenate(list(session_emissions(small, session)))
    np.testing.assert_allclose(whole, one_pass(small, session), rtol=0, atol=1e-5)
    assert evaluate(small, [session], GreedyDecoder()).passes == "one pass"
    minutes = (1, 20)
    estimates = [one_pass_bytes(small, m * 120_000) for m in minutes]
    assert estimates[1] == pytest.approx(20 * estimates[0])
    assert estimates[1] > 20 * 120_000 * 32 * 4  # more than the signal itself
    # Then in stretches; the state that a margin of 10 s brings along is that of the whole session.
    monkeypatch.setattr(evaluation, "ONE_PASS_BYTES", 0)
    parts = list(session_emissions(small, session, block_seconds=8))
    assert len(parts) == 7
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-4)
    assert evaluate(small, [session], GreedyDecoder(), block_seconds=8).passes == "stitched, 8 s with margins of 10 s"


@pytest.mark.parametrize("encoder", [TRANSFORMER, replace(TRANSFORMER, future=0), replace(GRU, base=TRANSFORMER)])
def test_attention_reads_windows_as_long_as_those_of_training(encoder: EncoderConfig, make_stored: MakeStored) -> None:
    small, session = network(encoder), make_stored(50_000, typing(50_000, 300))
    found = np.concatenate(list(session_emissions(small, session)))
    assert len(found) == small.frames(50_000)
    assert evaluate(small, [session], GreedyDecoder()).passes == "stitched, 2 s with margins of 1 s"
    way = reading(small, 50_000)
    kept, margin = way.kept, way.margin
    after = margin if small.encoder.unbounded_right else 0
    windows = Windows(Store([session]), margin + kept + after, kept, *small.context)
    with torch.inference_mode():
        third = small(windows.batch([(0, 2 * kept - margin)]))[0].numpy()
    expected = third[small.frames(margin) : small.frames(margin + kept)]
    np.testing.assert_allclose(found[2 * small.frames(kept) : 3 * small.frames(kept)], expected, rtol=0, atol=1e-4)


@settings(max_examples=25)
@given(st.integers(1, 30_000), st.sampled_from([GRU, replace(GRU, bidirectional=False), TRANSFORMER]))
def test_stitched_emissions_cover_sessions_of_any_length(
    make_stored: MakeStored, samples: int, encoder: EncoderConfig
) -> None:
    small = network(encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "ONE_PASS_BYTES", 0)
        parts = list(session_emissions(small, make_stored(samples), block_seconds=3))
    assert sum(map(len, parts)) == small.frames(samples)
    assert all(len(part) > 0 and np.isfinite(part).all() for part in parts)


@pytest.fixture(scope="module")
def two_headed() -> Model:
    """A tiny network with an attention decoder that types a few keys in every window."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Model(ModelConfig(SLOW, TDS, AttentionConfig(1, 16, 2, 16))).eval()
        assert network.attention is not None
        torch.nn.init.normal_(network.attention.head.weight, std=0.5)
        network.attention.head.bias.data[98] = -2
    return network


def test_attention_reads_windows_one_after_the_other(two_headed: Model, make_stored: MakeStored) -> None:
    session = make_stored(27_000, typing(27_000, 300))
    (score,) = evaluate_attention(two_headed, [session], length=4000).sessions
    windows = Windows(Store([session]), 4000, 4000, *two_headed.context)
    labels: list[int] = []
    for place in windows.tiling():
        batch = windows.batch([place])
        with torch.inference_mode():
            frames = two_headed.encode(two_headed.featurize(batch), batch.lengths)
            emissions = two_headed.classify(frames)
        (text,) = search(two_headed.attention, frames, two_headed.frames(batch.lengths), emissions)
        labels += text
    assert len(labels) > 14  # two keys a window, or there is nothing to compare
    assert score.hypothesis == text_of_labels(labels)
    assert score.reference == text_of_labels(session.labels.tolist())
    assert [unit.length for unit in score.units] == [67, 23]
    assert score.counts == total(score.units) == count(session.labels.tolist(), labels)


def test_an_attention_result_is_like_any_other(two_headed: Model, make_stored: MakeStored) -> None:
    sessions = [make_stored(9_000, typing(9_000, 300)), make_stored(150_000, typing(150_000, 300), name="long")]
    seen: list[float] = []
    result = evaluate_attention(two_headed, sessions, progress=seen.append)
    greedy = evaluate(two_headed, sessions, GreedyDecoder())
    assert (result.protocol, result.unit, result.simulated) == (greedy.protocol, greedy.unit, greedy.simulated)
    assert result.passes == "windows of 4 s, the share of CTC 0.5"
    alone = evaluate_attention(two_headed, sessions, ctc_weight=0)
    assert alone.passes == "windows of 4 s, the share of CTC 0"
    assert [score.hypothesis for score in alone.sessions] != [score.hypothesis for score in result.sessions]
    assert [score.reference for score in result.sessions] == [score.reference for score in greedy.sessions]
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (3, 1.0)  # a session, and another of more than a minute
    assert json.loads(json.dumps(result.to_json()))["cer"] == pytest.approx(result.counts.cer)
    assert evaluate_attention(two_headed, [replace(sessions[0], simulated=True)]).simulated


def test_a_model_without_an_attention_decoder_is_not_read_by_one(model: Model, make_stored: MakeStored) -> None:
    with pytest.raises(EmgscribeError, match="no attention decoder"):
        evaluate_attention(model, [make_stored(3000)])
    with pytest.raises(EmgscribeError, match="no attention decoder"):
        next(attention_texts(model, make_stored(3000)))


def test_twenty_minutes_stay_below_four_gigabytes() -> None:
    code = """
import resource
import numpy as np
import torch
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import MlpConfig, RecurrentConfig, TransformerConfig
from emgscribe.evaluation import attention_texts, reading, session_emissions
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.data.session import Session

samples, none = 20 * 60 * 2000, np.zeros(0, dtype=np.int64)
session = Session("s", "u", False, "", np.ones((samples, 2, 16), dtype=np.float32), none, none)
small = MlpConfig(8)
for encoder in (RecurrentConfig(base=small, hidden=8, layers=1), TransformerConfig(base=small, heads=2, feed_forward=16)):
    model = Model(ModelConfig(SpectrogramConfig(hop=64), encoder)).eval()
    assert sum(map(len, session_emissions(model, session))) == model.frames(samples)
    print(reading(model, samples).name.split(",")[0])
model = Model(ModelConfig(SpectrogramConfig(n_fft=200, hop=200), small, AttentionConfig(1, 16, 2, 16))).eval()
model.attention.head.bias.data[98] = -1e4  # every window is read to the last frame
assert sum(len(text) for texts in attention_texts(model, session) for text in texts) == samples // 200
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 4e9
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["one pass", "stitched"]


def test_no_session_is_scored_that_the_model_was_trained_on(model: Model, make_stored: MakeStored) -> None:
    trained, other = make_stored(3000, [(5, 100)]), make_stored(3000, [(5, 100)], seed=1, name="other")
    learned = copy.deepcopy(model)
    learned.ancestry = learned.ancestry.after([trained.first(2000)], [other])
    for score in (evaluate, evaluate_windows):
        assert score(learned, [other], GreedyDecoder()).sessions[0].session == "other"
        with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
            score(learned, [other, trained], GreedyDecoder())
        assert caught.value.where == "session"
    with pytest.raises(EmgscribeError, match="was trained on this session"):
        evaluate_attention(learned, [other, trained])


def test_no_session_is_scored_twice(model: Model, make_stored: MakeStored) -> None:
    session, other = make_stored(3000, [(5, 100)]), make_stored(3000, [(5, 100)], seed=1, name="other")
    copied = replace(session, name="copied")
    for score in (evaluate, evaluate_windows):
        with pytest.raises(EmgscribeError, match=r"session: is given twice\n") as caught:
            score(model, [session, other, session], GreedyDecoder())
        assert caught.value.hint == "name each session once"
        with pytest.raises(EmgscribeError, match="copied: is given twice, there called session"):
            score(model, [session, other, copied], GreedyDecoder())
    with pytest.raises(EmgscribeError, match="is given twice"):
        evaluate_attention(model, [session, session])
