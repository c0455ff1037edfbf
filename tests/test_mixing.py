from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_language_model import TEXTS, entries, looked_up

from emgscribe.decoding import mixing
from emgscribe.decoding.language_model import START, LanguageModel, train
from emgscribe.decoding.mixing import bits_per_character, fitted_shares, mix
from emgscribe.errors import EmgscribeError

MODELS = st.tuples(TEXTS, st.integers(1, 5), st.integers(1, 2))  # text, order, min_count


def made(recipe: tuple[str, int, int], *, across: bool) -> LanguageModel:
    text, order, min_count = recipe
    return train(text + "a b" * across, order=order, across=across, min_count=min_count)  # a space says across


def probability(model: LanguageModel, context: tuple[str, ...], token: str) -> float:
    """By the definition of ARPA files; 0 for a token that the model lacks."""
    found = entries(model.ngrams)
    if (token,) not in found:
        return 0.0
    while context and (context[-1],) not in found:  # nothing is known after such a token
        context = ()
    known = next((k for k in range(len(context)) if all((each,) in found for each in context[k:])), len(context))
    kept = context[known:][-(model.ngrams.order - 1) :] if model.ngrams.order > 1 else ()
    return float(10 ** looked_up(found, kept, token))


@given(MODELS, MODELS, st.booleans(), st.floats(0.01, 0.99))
def test_a_mixture_holds_the_weighted_mean_of_every_ngram(
    one: tuple[str, int, int], other: tuple[str, int, int], across: bool, share: float
) -> None:
    models = [made(one, across=across), made(other, across=across)]
    mixture = mix(models, (share, 1 - share))
    found = entries(mixture.ngrams)
    assert set(found) == {gram for model in models for gram in entries(model.ngrams)}
    for gram, (log_prob, _) in found.items():
        if gram[-1] != "<s>":
            first, second = (probability(model, gram[:-1], gram[-1]) for model in models)
            assert 10**log_prob == pytest.approx(share * first + (1 - share) * second, rel=1e-4)


@given(MODELS, MODELS, st.booleans(), st.floats(0.01, 0.99))
def test_probabilities_of_a_mixture_sum_to_one_in_every_state(
    one: tuple[str, int, int], other: tuple[str, int, int], across: bool, share: float
) -> None:
    mixture = mix([made(one, across=across), made(other, across=across)], (share, 1 - share))
    probabilities = 10.0 ** mixture.tables.log_prob.astype(np.float64)
    probabilities[:, START] = 0
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_two_unigram_models_mixed_by_hand() -> None:
    one, other = train("aab", order=1), train("bc", order=1)
    mixture = entries(mix([one, other], (3, 1)).ngrams)
    for token in ("a", "b", "c", "</s>", "<unk>"):
        values = [10 ** entries(model.ngrams).get((token,), (-np.inf, 0))[0] for model in (one, other)]
        assert 10 ** mixture[(token,)][0] == pytest.approx(0.75 * values[0] + 0.25 * values[1])


@given(MODELS, st.booleans())
def test_a_model_mixed_with_itself_stays_as_it_was(recipe: tuple[str, int, int], across: bool) -> None:
    model = made(recipe, across=across)
    mixture, before = entries(mix([model, model], (0.3, 0.7)).ngrams), entries(model.ngrams)
    continued = {gram[:-1] for gram in before}
    for gram, (log_prob, backoff) in before.items():
        if gram[-1] != "<s>":
            assert mixture[gram][0] == pytest.approx(log_prob, abs=1e-5)
        if gram in continued and 10**backoff > 1e-3:  # of less, float32 sums keep few digits
            assert mixture[gram][1] == pytest.approx(backoff, abs=1e-2)


def test_the_fitted_shares_are_those_of_the_best_mixture() -> None:
    models = [train("the cat sat on the mat"), train("a dog ran to a log")]
    text = "the cat ran to the log and sat"
    shares = fitted_shares(models, text)
    assert sum(shares) == pytest.approx(1)
    known = mixing._probs_of(models, text)

    def likelihood(share: float) -> float:
        return float(np.log(share * known[0] + (1 - share) * known[1]).sum())

    grid = np.linspace(0.001, 0.999, 999)
    assert shares[0] == pytest.approx(grid[np.argmax([likelihood(share) for share in grid])], abs=2e-3)


def test_a_mixture_reads_its_own_kind_of_text_better_than_either_model(tmp_path: Path) -> None:
    general, own = train("the cat sat on the mat " * 3, across=True), train("emg of two bands " * 2, across=True)
    text = "the emg sat on two mats"
    mixture = mix([general, own], fitted_shares([general, own], text))
    assert bits_per_character(mixture, text) < min(bits_per_character(model, text) for model in (general, own))
    mixture.write(tmp_path / "mixed.arpa.gz")
    assert LanguageModel.read(tmp_path / "mixed.arpa.gz").digest == mixture.digest


def test_models_that_cannot_be_mixed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    within, across = train("a b"), train("a b", across=True)
    with pytest.raises(EmgscribeError, match="some models work within words and others across them"):
        mix([within, across], (1, 1))
    with pytest.raises(EmgscribeError, match="there is no model"):
        mix([], ())
    for shares in ((1,), (1, 0), (1, -1), (1, float("nan"))):
        with pytest.raises(EmgscribeError, match="positive, one for each model"):
            mix([within, within], shares)
    with pytest.raises(EmgscribeError, match="nothing to compare models by"):
        fitted_shares([within, within], "123")
    monkeypatch.setattr(mixing, "MAX_NGRAMS", 5)
    with pytest.raises(EmgscribeError, match="more than 5 n-grams"):
        mix([within, within], (1, 1))
