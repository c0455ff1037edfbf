import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.charset import text_of_labels
from emgscribe.decode import Emissions, GreedyDecoder, Hypothesis, decode
from emgscribe.encoders import TdsConfig
from emgscribe.evaluate import Result, evaluate, evaluate_windows, session_emissions
from emgscribe.model import Model, ModelConfig
from emgscribe.score import Counts, count, total
from emgscribe.store import Store, StoredSession
from emgscribe.windows import Windows

MakeStored = Callable[..., StoredSession]
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


def one_pass(model: Model, session: StoredSession) -> Emissions:
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
    hypothesis = decode(GreedyDecoder(), emissions)
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
    hypotheses = [decode(GreedyDecoder(), emissions[start : start + 500]) for start in (0, 500, 1000)]
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
    real = make_stored(3_000)
    assert not score(model, [real, real], GreedyDecoder()).simulated
    assert score(model, [real, replace(real, simulated=True)], GreedyDecoder()).simulated


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
