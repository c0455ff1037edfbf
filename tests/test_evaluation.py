"""Scores of whole sessions: references, units, refusals, how a score is stored."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from emgscribe.data.session import Session
from emgscribe.data.windows import Store, Windows
from emgscribe.decoding.decoder import Decoder, Hypothesis
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import (
    Evaluation,
    Protocol,
    attention_texts,
    evaluate,
    evaluate_all,
    evaluate_attention,
)
from emgscribe.models.attention import AttentionConfig, search
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.scoring import Counts, count, total
from emgscribe.transcription import log_probs

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


evaluate_windows = partial(evaluate, protocol="windows")


def typing(samples: int, every: int) -> list[tuple[int, int]]:
    """A keystroke every `every` samples."""
    return [(i % 98, onset) for i, onset in enumerate(range(0, samples, every))]


def test_a_score_compares_the_decoders_whole_text(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(30_000, typing(30_000, 300))
    (score,) = evaluate(model, [session]).sessions
    hypothesis = GreedyDecoder().decode(log_probs(model, session))
    assert len(hypothesis.labels) > 50  # else there is nothing to compare
    assert (score.hypothesis, score.reference) == (hypothesis.text, session.text)
    assert score.counts == count(session.labels.tolist(), hypothesis.labels)


@pytest.mark.parametrize("protocol", ["sessions", "windows"])
def test_several_decoders_are_fed_from_one_pass(
    protocol: Protocol, model: Model, make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, passes = make_stored(9_000, typing(9_000, 500)), []
    forward = Model.forward
    monkeypatch.setattr(Model, "forward", lambda self, batch: passes.append(1) or forward(self, batch))
    echo = Mock(spec=Decoder)  # returns the reference, whatever it is fed
    echo.flush.return_value = Hypothesis(tuple(session.labels.tolist()), tuple(range(18)))
    echo.decode.return_value = Hypothesis()
    found = evaluate_all(model, [session], {"echo": echo, "greedy": GreedyDecoder()}, protocol=protocol)
    assert len(passes) == 1
    assert found["greedy"] == evaluate(model, [session], "greedy", protocol=protocol)
    if protocol == "sessions":
        assert [name for name, *_ in echo.method_calls] == ["reset", "feed", "flush"]
        assert found["echo"].counts == Counts(length=18)
        assert found["echo"].cer == 0
    with pytest.raises(EmgscribeError, match="gredy"):
        evaluate(model, [session], "gredy")


def test_units_are_segments_of_ten_seconds_and_add_up(model: Model, make_stored: MakeStored) -> None:
    keys = [(0, 0), (1, 19_999), (2, 20_000), (3, 44_999)]
    (score,) = evaluate(model, [make_stored(45_000, keys)]).sessions
    assert [unit.length for unit in score.units] == [2, 1, 1]
    assert total(score.units) == score.counts == count(score.reference, score.hypothesis)


def test_sessions_add_up_and_keep_their_names(model: Model, make_stored: MakeStored) -> None:
    sessions = [
        make_stored(30_000, typing(30_000, 300), name="one"),
        make_stored(22_000, typing(22_000, 400), seed=1, name="two"),
    ]
    seen: list[float] = []
    result = evaluate(model, sessions, progress=seen.append)
    alone = [evaluate(model, [session]).sessions[0] for session in sessions]
    assert list(result.sessions) == alone  # one session does not leak into the next
    assert [score.session for score in result.sessions] == ["one", "two"]
    assert result.counts == alone[0].counts + alone[1].counts
    low, high = result.interval
    assert low <= result.cer <= high
    assert f"{result.cer:.2f}" in repr(result)
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (2, 1.0)


def test_a_difference_requires_the_same_sessions(model: Model, make_stored: MakeStored) -> None:
    one, two = (make_stored(60_000, typing(60_000, 300), seed=n, name=f"{n}") for n in (1, 2))
    read = evaluate(model, [one, two])
    perfect = replace(
        read,
        sessions=tuple(
            replace(s, hypothesis=s.reference, units=tuple(Counts(length=unit.length) for unit in s.units))
            for s in read.sessions
        ),
    )
    difference, low, high = read.minus(perfect)
    assert difference == read.cer
    assert low <= difference <= high
    assert perfect.minus(read)[0] == -difference
    for other in (evaluate(model, [one]), evaluate(model, [two, one]), replace(read, unit="windows")):
        with pytest.raises(EmgscribeError, match="differ in sessions"):
            read.minus(other)


def test_the_published_protocol_counts_keys_at_unread_ends_as_missed(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(20_000, typing(20_000, 300))
    ours, published = evaluate(model, [session]), evaluate(model, [session], protocol="published")
    assert (ours.protocol, published.protocol) == ("whole session", "whole session, published")
    assert ours.counts.length == published.counts.length == 67
    assert published.passes == "no padding"
    with pytest.raises(EmgscribeError, match="protocol is 'Published', allowed: sessions, published, windows"):
        evaluate(model, [session], protocol="Published")  # type: ignore[arg-type]


def test_windows_are_scored_one_by_one(model: Model, make_stored: MakeStored) -> None:
    session = make_stored(21_000, typing(21_000, 300))
    (score,) = evaluate_windows(model, [session]).sessions
    emissions = log_probs(model, session)
    hypotheses = [GreedyDecoder().decode(emissions[start : start + 500]) for start in (0, 500, 1000)]
    references = [session.labels[session.typed(start, start + 8000)].tolist() for start in (0, 8000, 16000)]
    assert list(score.units) == [count(r, h.labels) for r, h in zip(references, hypotheses, strict=True)]
    assert score.hypothesis == "".join(hypothesis.text for hypothesis in hypotheses)
    assert (score.reference, score.counts.length) == (session.text, len(session.labels))
    short = make_stored(7_000, typing(7_000, 300))  # no window cuts it
    whole, windowed = evaluate(model, [short]), evaluate_windows(model, [short])
    assert whole.counts == windowed.counts
    assert (whole.unit, windowed.unit) == ("segments of 10 s", "windows")
    assert (windowed.protocol, windowed.passes) == ("windows of 4 s", "windows")
    with pytest.raises(EmgscribeError, match=r"own_norm is 0.5, allowed: 0 with windows"):
        evaluate_windows(model, [short], own_norm=0.5)


@pytest.mark.parametrize("score", [evaluate, evaluate_windows])
def test_one_simulated_session_marks_the_result_as_simulated(
    model: Model, make_stored: MakeStored, score: Callable
) -> None:
    real, other = make_stored(3_000), make_stored(3_000, seed=1)
    assert not score(model, [real, other]).simulated
    made = replace(other, simulated=True)
    under_keys = replace(make_stored(3_000, seed=2), simulated=True, real_keys=True)
    mixed, known = score(model, [real, made, under_keys]), score(model, [real, under_keys])
    assert (mixed.simulated, mixed.real_keys, known.simulated, known.real_keys) == (True, False, True, True)
    stored = [json.loads(json.dumps(each.to_json())) for each in (mixed, known)]
    assert [each.get("real_keys") for each in stored] == [None, True]
    assert [Evaluation.from_json(each) for each in stored] == [mixed, known]


def test_a_model_in_training_mode_is_scored_by_its_running_statistics(model: Model, make_stored: MakeStored) -> None:
    session, other = make_stored(9_000, typing(9_000, 300)), copy.deepcopy(model).train()
    assert evaluate(other, [session]) == evaluate(model, [session])
    assert other.training


def test_json_gives_back_what_was_scored(model: Model, make_stored: MakeStored) -> None:
    result = evaluate(model, [make_stored(25_000, typing(25_000, 300))])
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Evaluation.from_json(content) == result
    assert content["cer_interval"] == pytest.approx(list(result.interval))
    silent = evaluate(model, [make_stored(3_000)])  # no key went down: there is no rate
    content = json.loads(json.dumps(silent.to_json(), allow_nan=False))
    assert (content["cer"], content["cer_interval"]) == (None, None)
    assert Evaluation.from_json(content) == silent


def score(hypothesis: object = "ab", units: object = ([0, 0, 0, 2],), **others: object) -> dict[str, object]:
    return {"session": "s", "user": "u", "reference": "ab", "hypothesis": hypothesis, "units": list(units), **others}


STORED = {"protocol": "p", "passes": "p", "unit": "u", "simulated": True, "cer": 0.0, "sessions": [score()]}


@pytest.mark.parametrize(
    ("sessions", "cer", "reason"),
    [
        ([score()], 0.1, "its CER is 0.1, but its counts give 0.0"),
        ([score()], 10**400, "but its counts give 0.0"),
        ([score(units=[[0, 0, 0, 9]])], 0.0, "counts of s do not fit"),
        ([score("x" * 90)], 0.0, "counts of s do not fit"),
        ([score(units=[[0, 0, 0, math.inf]])], 0.0, "a unit is .*4 counts"),
        ([score(units=[[1, -1, 0, 2]])], 0.0, "a unit is"),
        ([score(units=[[0, 0, 10**20, 2]])], 0.0, "a unit is"),
        ([score() | {"units": 7}], 0.0, "wrong type"),
        ([score(more=1)], 0.0, "more"),
        ([score(7)], 0.0, "hypothesis is 7"),
        ([score("x" * 10**6, [[0, 0, 0, 10**6]], reference="y" * 10**6)], 0.0, "longer than all sessions"),
        ([score(units=[[0, 0, 0, 0]] * 200_001)], 0.0, "longer than all sessions"),
        (None, 0.0, "wrong type"),
        ([[]], 0.0, "wrong type"),
    ],
    ids=range(14),
)
def test_json_that_contradicts_itself_is_refused(sessions: object, cer: object, reason: str) -> None:
    with pytest.raises(EmgscribeError, match=reason) as caught:
        Evaluation.from_json(STORED | {"cer": cer, "sessions": sessions})
    assert caught.value.hint


def test_json_of_other_things_is_refused() -> None:
    assert Evaluation.from_json(STORED).counts == Counts(length=2)
    for content in ([STORED], None, {}, STORED | {"simulated": "yes"}, STORED | {"seen": 1}, STORED | {"passes": None}):
        with pytest.raises(EmgscribeError, match=r"missing|type|allowed"):
            Evaluation.from_json(content)


@pytest.fixture(scope="module")
def two_headed() -> Model:
    """A tiny network with an attention decoder that types a few keys in every window."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TDS, AttentionConfig(1, 16, 2, 16))
        network = Model(config).eval()
        assert network.attention is not None
        torch.nn.init.normal_(network.attention.head.weight, std=0.5)
        network.attention.head.bias.data[98] = -2
    return network


def test_attention_reads_windows_one_after_the_other(two_headed: Model, make_stored: MakeStored) -> None:
    session = make_stored(27_000, typing(27_000, 300))
    (score,) = evaluate_attention(two_headed, [session], seconds=2.0).sessions
    windows = Windows(Store([session]), 4000, 4000, *two_headed.context)
    labels: list[int] = []
    for batch in (windows.batch([place]) for place in windows.tiling()):
        with torch.inference_mode():
            frames = two_headed.encode(two_headed.featurize(batch), batch.lengths)
            emissions = two_headed.classify(frames)
        labels += search(two_headed.attention, frames, two_headed.frames(batch.lengths), emissions)[0]
    assert len(labels) > 14  # two keys a window, or there is nothing to compare
    assert score.counts == total(score.units) == count(session.labels.tolist(), labels)
    assert [unit.length for unit in score.units] == [67, 23]


def test_an_attention_result_is_like_any_other(two_headed: Model, make_stored: MakeStored) -> None:
    # A session, and another of more than a minute.
    sessions = [make_stored(9_000, typing(9_000, 300)), make_stored(150_000, typing(150_000, 300), name="long")]
    result, greedy = evaluate_attention(two_headed, sessions), evaluate(two_headed, sessions)
    assert (result.protocol, result.unit, result.simulated) == (greedy.protocol, greedy.unit, greedy.simulated)
    assert result.passes == "windows of 4 s, CTC weight 0.5"
    alone = evaluate_attention(two_headed, sessions, ctc_weight=0)
    assert [score.hypothesis for score in alone.sessions] != [score.hypothesis for score in result.sessions]
    assert [score.reference for score in result.sessions] == [score.reference for score in greedy.sessions]


def test_a_model_without_an_attention_decoder_is_refused(model: Model, make_stored: MakeStored) -> None:
    with pytest.raises(EmgscribeError, match="no attention decoder"):
        next(attention_texts(model, make_stored(3000)))


def test_a_session_that_the_model_was_trained_on_is_not_scored(model: Model, make_stored: MakeStored) -> None:
    trained, other = make_stored(3000, [(5, 100)]), make_stored(3000, [(5, 100)], seed=1, name="other")
    learned = copy.deepcopy(model)
    learned.ancestry = learned.ancestry.after([trained.first(2000)], [other])
    for score in (evaluate, evaluate_windows):
        assert score(learned, [other]).sessions[0].session == "other"
        with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
            score(learned, [other, trained])
        assert caught.value.where == "session"
        assert score(learned, [other, trained], allow_seen=True).seen
    allowed = evaluate(learned, [other, trained], allow_seen=True)
    assert allowed.to_json()["seen"]
    assert Evaluation.from_json(allowed.to_json()).seen
    assert "seen" not in evaluate(learned, [other], allow_seen=True).to_json()


def test_each_session_is_read_by_a_model_normalized_to_it(model: Model, make_stored: MakeStored) -> None:
    quiet, loud = make_stored(3000, [(5, 100)]), make_stored(4000, [(5, 100)], seed=1, name="loud")
    sessions = [quiet, replace(loud, emg=loud.emg[:] * 30)]
    for protocol in ("sessions", "published"):
        found = evaluate(model, sessions, protocol=protocol, own_norm=1.0)
        assert found.protocol == "whole session" + ", published" * (protocol == "published") + ", norm moved by 1"
        for session, score in zip(sessions, found.sessions, strict=True):
            (own,) = evaluate(model.normalized_to(session, 1.0), [session], protocol=protocol).sessions
            assert score == own
    assert found.sessions != evaluate(model, sessions, protocol="published").sessions
    assert "norm" not in evaluate(model, sessions).protocol


def test_no_session_is_scored_twice(model: Model, make_stored: MakeStored) -> None:
    session, other = make_stored(3000, [(5, 100)]), make_stored(3000, [(5, 100)], seed=1, name="other")
    copied = replace(session, name="copied")
    for score in (evaluate, evaluate_windows):
        with pytest.raises(EmgscribeError, match=r"session: is given twice\n") as caught:
            score(model, [session, other, session])
        assert caught.value.hint == "name each session once"
        with pytest.raises(EmgscribeError, match="copied: is given twice, also under the name session"):
            score(model, [session, other, copied])
    with pytest.raises(EmgscribeError, match="is given twice"):
        evaluate(model, [session, session], allow_seen=True)
