"""Beam search: exact without pruning, equal to the plain version with pruning, and safe with any input."""

import json
import math
from collections import defaultdict
from dataclasses import replace
from functools import cache, reduce
from importlib import import_module
from itertools import groupby, product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import BACKSPACE, BLANK, NUM_CLASSES, SHIFT, labels_of_text
from emgscribe.decoding import beam as module
from emgscribe.decoding.beam import PUBLISHED, BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Emissions, Hypothesis
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import UNKNOWN, LanguageModel, train
from emgscribe.errors import EmgscribeError

WORDS = "abba baba ab cab bac abacab aba cabba\nbab abc 42 ab\n" * 3
DATA = Path(__file__).parent / "data"


@cache
def models(name: str) -> LanguageModel | None:
    """A language model by a name for the test's output."""
    if name == "none":
        return None
    return train(WORDS, order=1 if name == "unigrams" else 4, across=name == "across")


MODELS = st.sampled_from(["none", "within", "across", "unigrams"]).map(models)
CHOSEN = st.tuples(  # weight, bonus, convention
    st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([-1.0, 0.0, 1.5]), st.sampled_from(["natural", "reference"])
)


def peaky(classes: str, frames: int, seed: int) -> Emissions:
    """Random log-probabilities (F, 99), finite only for some symbols and the blank."""
    random = np.random.default_rng(seed)
    scores = np.full((frames, NUM_CLASSES), -np.inf)
    columns = [*labels_of_text(classes), BLANK]
    scores[:, columns] = 2 * random.normal(size=(frames, len(columns)))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def typing(frames: int, seed: int, classes: str = "abc " + BACKSPACE + SHIFT, rate: float = 0.2) -> Emissions:
    """Emissions as networks make them: mostly blank, keys for a frame or two, now and then in doubt."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(frames, NUM_CLASSES))
    scores[:, BLANK] += 6
    labels = labels_of_text(classes)
    for frame in np.flatnonzero(random.random(frames) < rate):
        scores[frame : frame + random.integers(1, 3), random.choice(labels)] += random.uniform(4, 10)
        scores[frame, random.choice(labels)] += random.uniform(3, 8)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def doubtful(text: str, *doubts: int) -> Emissions:
    """Emissions that are certain of a text, except in the frames `doubts`: c or 3, which no later frame decides."""
    emissions = np.full((2 * len(text), NUM_CLASSES), -np.inf, np.float32)
    emissions[np.arange(0, 2 * len(text), 2), labels_of_text(text)] = 0
    emissions[1::2, BLANK] = 0
    for doubt in doubts:
        emissions[doubt, labels_of_text("c3")] = np.log([0.3, 0.2])
    return emissions


@cache
def plain() -> ModuleType:
    """The search in plain Python of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return import_module("plain_beam")


def screen_score(labels: tuple[int, ...], config: BeamConfig, model: LanguageModel | None) -> float:
    """What model and bonus add for the text on the screen, key by key."""
    scorer = plain().PlainScorer(config, model and model.tables)
    screen = reduce(scorer.typed, labels, scorer.empty)
    return screen.bias + scorer.final(screen)


def by_brute_force(
    emissions: Emissions, config: BeamConfig, model: LanguageModel | None
) -> dict[tuple[int, ...], float]:
    """The score of every hypothesis, from all paths through the possible classes."""
    possible = np.flatnonzero(np.isfinite(emissions).any(axis=0)).tolist()
    masses: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for path in product(possible, repeat=len(emissions)):
        value = sum(float(emissions[frame, label]) for frame, label in enumerate(path))
        if value > -math.inf:
            masses[tuple(label for label, _ in groupby(path) if label != BLANK)].append(value)
    return {
        labels: float(np.logaddexp.reduce(values)) + screen_score(labels, config, model)
        for labels, values in masses.items()
    }


@given(
    st.sampled_from(["a⌫", "ab⌫", "aA⇧", "a ⌫⇧", "ab1", "a⏎⌫"]), st.integers(0, 4), st.integers(0, 999), MODELS, CHOSEN
)
@example("a ⌫", 6, 3, models("within"), (1.3, 0.7, "natural"))
@example("a ⌫", 6, 3, models("within"), (1.3, 0.7, "reference"))
@example("a ⌫", 6, 3, models("across"), (1.3, 0.7, "natural"))
def test_the_search_is_exact_where_nothing_is_pruned(
    classes: str, frames: int, seed: int, model: LanguageModel | None, chosen: tuple[float, float, str]
) -> None:
    emissions = peaky(classes, frames, seed)
    config = BeamConfig(5000, 99, *chosen)
    expected = by_brute_force(emissions, config, model)
    decoder = BeamDecoder(config, model)
    best = decoder.decode(emissions)
    found = {scored.hypothesis.labels: scored.score for scored in decoder.n_best(10_000)}
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected[best.labels] == pytest.approx(max(expected.values()), abs=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 999), MODELS, CHOSEN, st.sampled_from([1, 2, 7, 50]), st.sampled_from([1, 3, 10, 200]))
def test_the_search_prunes_as_the_plain_search_does(
    seed: int, model: LanguageModel | None, chosen: tuple[float, float, str], beam_size: int, classes: int
) -> None:
    emissions = typing(40, seed, "aB1 \u23ce" + BACKSPACE + SHIFT, rate=0.4)
    config = BeamConfig(beam_size, classes, *chosen)
    expected = plain().plain_beam_search(emissions.tolist(), config, model and model.tables)
    decoder = BeamDecoder(config, model)
    best = decoder.decode(emissions)
    assert best.labels == expected[0][0]
    found = {scored.hypothesis.labels: scored.score for scored in decoder.n_best(50)}
    assert found == pytest.approx(dict(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["none", "words.arpa.gz"])
def test_the_reference_convention_is_that_of_the_published_decoder(name: str) -> None:
    # 120 cases: 40 matrices without a model, and with one at two pairs of weights.
    words = None if name == "none" else LanguageModel.read(str(DATA / name))
    cases = json.loads((DATA / "beam_cases.json").read_text())
    cases = [case for case in cases if (case["lm"] != "none") == bool(words)]
    assert len(cases) == (80 if words else 40)
    with np.load(DATA / "beam_emissions.npz") as matrices:
        for case in cases:
            config = BeamConfig(50, 10, case["lm_weight"], case["insertion_bonus"], "reference")
            decoder = BeamDecoder(config, words)
            assert decoder.decode(matrices[case["emissions"]]).text == case["text"]
            assert decoder.n_best(1)[0].score == pytest.approx(case["score"], abs=1e-9)


def test_a_beam_of_one_with_one_label_a_frame_is_greedy() -> None:
    emissions = typing(500, 5)
    hypothesis = BeamDecoder(BeamConfig(1, 1, 0, 0)).decode(emissions)
    assert hypothesis == GreedyDecoder().decode(emissions)


@pytest.mark.parametrize("config", [BeamConfig(4, 2, 1.0, 0.5), replace(PUBLISHED, beam_size=4)])
@pytest.mark.parametrize("depth", [1, 12, 1500])
def test_backspace_returns_to_any_depth(config: BeamConfig, depth: int) -> None:
    # "ab", then `depth` characters over many words and as many backspaces: the score is that of "ab" itself.
    model = models("within")
    more = ("cab bac ab 1 " * depth)[:depth]
    decoder = BeamDecoder(config, model)

    def score(text: str) -> float:
        assert decoder.decode(doubtful(text)).text == text
        return decoder.n_best(1)[0].score

    plain = score("ab")
    assert score("ab" + more + BACKSPACE * depth) == plain
    assert score("ab" + more + BACKSPACE * depth + "ba") == score("abba")
    assert score("ab" + more + BACKSPACE * (depth + 2)) == 0
    assert score("ab" + more + BACKSPACE * (depth + 40) + "ab") == plain


def test_memory_is_bounded_and_settling_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config, model = BeamConfig(beam_size=10), models("within")
    emissions = [typing(500, seed) for seed in range(60)]
    monkeypatch.setattr(module, "_CAPACITY", 1 << 17)
    roomy = BeamDecoder(config, model)
    whole = roomy.decode(np.concatenate(emissions))
    assert roomy.nodes == 1 << 17
    assert int(roomy._search.place[0]["root"]) == 0  # nothing was settled
    monkeypatch.setattr(module, "_CAPACITY", 64)
    monkeypatch.setattr(module, "_REMEMBERED", 1000)
    decoder = BeamDecoder(config, model)
    sizes = []
    for chunk in emissions:
        decoder.feed(chunk)
        sizes.append(decoder.nodes)
    assert len(decoder._labels) > 4000
    assert decoder.flush() == whole
    assert sizes[-1] == sizes[29] <= 8192


@pytest.mark.parametrize("name", ["none", "within"])
def test_memory_is_bounded_where_a_doubt_is_never_decided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emissions = doubtful("ab " * 1500, 0, 60, 4000, 8880)
    monkeypatch.setattr(module, "_CAPACITY", 64)
    monkeypatch.setattr(module, "_REMEMBERED", 100)
    config = BeamConfig(beam_size=8)
    free = BeamDecoder(config, models(name))
    whole = free.decode(emissions)
    assert free.nodes >= 8192  # the tree of what is in doubt grew
    monkeypatch.setattr(module, "_MAX_NODES", 1024)
    bounded = BeamDecoder(config, models(name))
    for start in range(0, len(emissions), 700):
        bounded.feed(emissions[start : start + 700])
        assert bounded.nodes <= 1024
    assert bounded.flush() == whole
    assert len(bounded.n_best(8)) > 1  # young doubts are kept


def test_hypotheses_that_survive_a_decision_keep_consistent_slots() -> None:
    decoder = BeamDecoder(BeamConfig(beam_size=20), models("within"))
    decoder.feed(doubtful("ab " * 50, 0, 12, 282, 294))
    before = int(decoder._search.place[0]["slots"])
    best, _ = decoder._leader()
    decoder._decide(best[: len(best) // 2])
    left, nodes = int(decoder._search.place[0]["slots"]), decoder._search.nodes
    assert 0 < left < before
    assert nodes["slot"][decoder._search.beam["node"][:left]].tolist() == list(range(left))
    assert (nodes["slot"][: int(decoder._search.place[0]["used"])] >= 0).sum() == left


def test_backspace_beyond_the_remembered_text_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CAPACITY", 64)
    monkeypatch.setattr(module, "_REMEMBERED", 100)
    text = "ab " * 400 + BACKSPACE * 2000 + "cab " * 100
    decoder = BeamDecoder(BeamConfig(3), models("within"))
    assert decoder.decode(doubtful(text)).text == text
    assert decoder.nodes <= 512


def test_onsets_are_where_the_keys_began() -> None:
    emissions = np.full((9, NUM_CLASSES), np.log(1e-4), np.float32)
    path = [BLANK, 7, 7, BLANK, 7, 8, 8, BLANK, 33]
    emissions[range(9), path] = np.log(0.99)
    emissions[0, 7] = np.log(0.01)  # came in a frame early on few paths
    hypothesis = BeamDecoder().decode(emissions)
    assert (hypothesis.text, hypothesis.frames) == ("hhiH", (1, 4, 5, 8))


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([1, 5, 30]))
def test_onsets_rise_and_are_near_those_of_greedy(seed: int, beam_size: int) -> None:
    emissions = typing(300, seed)
    decoder = BeamDecoder(BeamConfig(beam_size, lm_weight=0, insertion_bonus=0))
    decoder.decode(emissions)
    for scored in decoder.n_best(5):
        frames = np.array(scored.hypothesis.frames)
        assert len(frames) == len(scored.hypothesis.labels)
        assert (np.diff(frames) > 0).all()
        assert frames[0] >= 0
        assert frames[-1] < 300
    greedy, best = GreedyDecoder().decode(emissions), decoder.flush()
    if greedy.labels == best.labels:
        assert np.abs(np.subtract(greedy.frames, best.frames)).max() <= 1


def test_n_best_is_sorted_distinct_and_no_longer_than_the_beam() -> None:
    decoder = BeamDecoder(BeamConfig(beam_size=20), models("within"))
    decoder.decode(typing(200, 2))
    scored = decoder.n_best(100)
    assert len(scored) == 20
    assert len({one.hypothesis.labels for one in scored}) == 20
    assert [one.score for one in scored] == sorted((one.score for one in scored), reverse=True)
    assert decoder.n_best(3) == scored[:3]
    assert decoder.flush() == scored[0].hypothesis
    with pytest.raises(EmgscribeError, match="count"):
        decoder.n_best(0)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "no class is possible")])
def test_emissions_that_cannot_be_ranked_are_refused_and_change_nothing(value: float, what: str) -> None:
    decoder = BeamDecoder()
    before = decoder.feed(typing(50, 0))
    bad = typing(5, 1)
    bad[3] = value
    with pytest.raises(EmgscribeError, match=f"{what}.*frame"):
        decoder.feed(bad)
    assert decoder.feed(typing(0, 2)) == before
    assert decoder.flush() == BeamDecoder().decode(typing(50, 0))


def test_no_frames_a_single_frame_and_impossible_classes_are_decoded() -> None:
    assert BeamDecoder().decode(np.empty((0, NUM_CLASSES), np.float32)) == Hypothesis()
    emissions = np.full((4, NUM_CLASSES), -np.inf, np.float32)
    emissions[range(4), [1, 1, BLANK, 2]] = 0
    for name in ("none", "within", "across"):
        decoder = BeamDecoder(lm=models(name))
        assert decoder.decode(emissions) == Hypothesis((1, 2), (0, 3))
        assert len(decoder.n_best(9)) == 1
        assert decoder.decode(emissions[3:]) == Hypothesis((2,), (0,))


@pytest.mark.parametrize("scale", [0.0, 1.0, -3e38, 3e38])
def test_extreme_scores_are_decoded(scale: float) -> None:
    emissions = (np.random.default_rng(0).normal(size=(100, NUM_CLASSES)).clip(-1, 1) * scale).astype(np.float32)
    decoder = BeamDecoder(BeamConfig(100, 99), models("within"))
    assert len(decoder.decode(emissions).labels) <= 100
    wide = np.full((3, NUM_CLASSES), -1e300)  # as float32: minus infinity
    wide[:, 4] = -1.0
    assert decoder.decode(wide).text == "e"


def test_emissions_in_any_memory_layout_decode_the_same() -> None:
    emissions = typing(200, 4)
    expected = BeamDecoder().decode(emissions)
    frozen = emissions.copy()
    frozen.setflags(write=False)
    spread = np.repeat(np.repeat(emissions, 2, axis=0), 2, axis=1)[::2, ::2]
    for other in (frozen, spread, np.asfortranarray(emissions), emissions.astype(np.float64)):
        assert BeamDecoder().decode(other) == expected


def test_tokens_that_the_language_model_rules_out_keep_a_finite_score(tmp_path: Path) -> None:
    hopeless = train(WORDS)
    hopeless.tables.log_prob[:, UNKNOWN] = -np.inf
    for weight in (0.0, 0.5):
        config = BeamConfig(lm_weight=weight)
        assert BeamDecoder(config, hopeless).decode(typing(100, 1)).labels
        decoder = BeamDecoder(config, hopeless)
        decoder.decode(typing(100, 1, "1 2"))
        assert math.isfinite(decoder.n_best(1)[0].score)


def test_settings_are_checked() -> None:
    sizes = [
        ("beam_size", 0),
        ("beam_size", 10_001),
        ("beam_size", 10**20),
        ("labels_per_frame", 0),
        ("convention", "published"),
    ]
    for field, value in (*sizes, ("lm_weight", -0.1), ("lm_weight", math.nan), ("insertion_bonus", math.inf)):
        with pytest.raises(EmgscribeError, match=f"beam.{field}"):
            replace(BeamConfig(), **{field: value})
