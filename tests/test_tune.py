from dataclasses import replace

import numpy as np
import pytest

from emgscribe.data.charset import BLANK, NUM_CLASSES, labels_of_text
from emgscribe.decoding.beam import PUBLISHED, BeamConfig, decode_all
from emgscribe.decoding.greedy import Emissions
from emgscribe.decoding.language_model import Automaton, train
from emgscribe.decoding.tuning import Grid, Trial, tune
from emgscribe.errors import EmgscribeError
from emgscribe.scoring import count, total

TEXT = "the cat sat on the mat and the rat ate the oat that the cat had at the mat "
SMALL = BeamConfig(beam_size=8, labels_per_frame=6)


@pytest.fixture(scope="module")
def model() -> Automaton:
    return train(TEXT * 3, order=4).automaton()


def misread(text: str, seed: int) -> Emissions:
    """Emissions of a typed text in which wrong letters are often the likelier ones, and keys are weak."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(4 * len(text), NUM_CLASSES))
    scores[:, BLANK] += 6
    for place, label in enumerate(labels_of_text(text)):
        scores[4 * place + 1, label] += 6 + random.normal()
        scores[4 * place + 1, random.choice(labels_of_text("bcdefgnopqrst"))] += 6 + random.normal()
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.fixture(scope="module")
def validation() -> tuple[list[Emissions], list[list[int]]]:
    texts = [TEXT[:40], TEXT[20:70], TEXT[8:30]]
    return [misread(text, seed) for seed, text in enumerate(texts)], [labels_of_text(text) for text in texts]


@pytest.mark.parametrize("config", [SMALL, replace(PUBLISHED, beam_size=8)])
def test_the_best_pair_is_the_best_of_all_that_were_tried(
    config: BeamConfig, model: Automaton, validation: tuple[list[Emissions], list[list[int]]]
) -> None:
    emissions, references = validation
    seen: list[Trial] = []
    tuning = tune(emissions, references, model, config, progress=seen.append)
    assert tuple(seen) == tuning.trials
    pairs = [(trial.lm_weight, trial.insertion_bonus) for trial in tuning.trials]
    assert len(set(pairs)) == len(pairs) > 22
    assert min(pairs)[0] >= 0
    found = tuning.config
    assert replace(found, lm_weight=config.lm_weight, insertion_bonus=config.insertion_bonus) == config
    assert (tuning.best.lm_weight, tuning.best.insertion_bonus) == (found.lm_weight, found.insertion_bonus)
    assert tuning.best.counts.edits == min(trial.counts.edits for trial in tuning.trials)
    hypotheses = decode_all(emissions, found, model)
    assert total([count(r, h.labels) for r, h in zip(references, hypotheses, strict=True)]) == tuning.best.counts
    without = next(trial for trial in tuning.trials if (trial.lm_weight, trial.insertion_bonus) == (0, 0))
    assert tuning.best.counts.cer < 0.6 * without.counts.cer
    assert tune(emissions, references, model, config, threads=3) == tuning


def test_of_equals_the_smaller_weights_are_taken(model: Automaton) -> None:
    emissions = np.full((6, NUM_CLASSES), -np.inf, np.float32)
    emissions[range(6), [*labels_of_text("cat"), BLANK, BLANK, BLANK]] = 0
    tuning = tune([emissions], [labels_of_text("cat")], model, SMALL, grid=Grid((2.0, 1.0), (2.0, -1.0), 0))
    assert [trial.counts.edits for trial in tuning.trials] == [0] * 4
    assert (tuning.config.lm_weight, tuning.config.insertion_bonus) == (1.0, -1.0)


def test_refinements_halve_the_smallest_step(
    model: Automaton, validation: tuple[list[Emissions], list[list[int]]]
) -> None:
    grid = Grid((0.0, 1.0, 4.0), (0.5,), 1)
    tuning = tune(*validation, model, SMALL, grid=grid)
    coarse, fine = tuning.trials[:3], tuning.trials[3:]
    best = min(coarse, key=lambda trial: trial.counts.edits)
    assert {abs(trial.lm_weight - best.lm_weight) for trial in fine} <= {0.0, 0.5}
    assert {trial.insertion_bonus for trial in fine} == {0.0, 0.5, 1.0}


@pytest.mark.parametrize(("sessions", "texts"), [(0, []), (1, []), (1, [""]), (1, ["a", "b"])])
def test_nothing_to_score_is_refused(model: Automaton, sessions: int, texts: list[str]) -> None:
    emissions = [misread("the", 0)] * sessions
    with pytest.raises(EmgscribeError, match=f"{sessions} sessions and {len(texts)} references"):
        tune(emissions, [labels_of_text(text) for text in texts], model)


def test_settings_are_checked(model: Automaton) -> None:
    with pytest.raises(EmgscribeError, match="lm_weights"):
        Grid(lm_weights=())
    with pytest.raises(EmgscribeError, match="insertion_bonuses"):
        Grid(insertion_bonuses=(1.0, 1.0))
    with pytest.raises(EmgscribeError, match="refinements"):
        Grid(refinements=-1)
    with pytest.raises(EmgscribeError, match="threads"):
        tune([misread("the", 0)], [labels_of_text("the")], model, threads=0)
    with pytest.raises(EmgscribeError, match="threads"):
        decode_all([], threads=0)
