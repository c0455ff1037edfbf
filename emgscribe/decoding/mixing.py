"""Interpolate language models, such as one of general text with one of the user's own.

As SRILM's `ngram -mix-lm` does it (Stolcke 2002): the mixture holds the n-grams of all models, each with the weighted
mean of its probabilities, and back-off weights with which every context sums to one. The shares that suit a text best
are found by expectation maximisation (Jelinek and Mercer 1980).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emgscribe.config import require
from emgscribe.decoding.arpa import MAX_NGRAMS, SPECIAL, Level, NGrams, Rows
from emgscribe.decoding.language_model import START, LanguageModel, encoded, normal_text
from emgscribe.errors import EmgscribeError

_LOWEST = -100.0  # log10, as of <s>
_ROUNDING = 1e-7  # of a sum of float32 probabilities
_ROUNDS, _ENOUGH = 1000, 1e-6  # of expectation maximisation: rounds at most, and the change of a share that ends them

Probs = npt.NDArray[np.float64]


def mix(models: Sequence[LanguageModel], shares: Sequence[float]) -> LanguageModel:
    """The model whose probabilities are the means of the models' own, weighted by `shares`, for every n-gram in any.

    `shares` are positive; they are divided by their sum. A token that a model lacks has probability 0 there. Raises
    `EmgscribeError` where some models work within words and others across them, and for a mixture too large to read.
    """
    tokens = _tokens(models)
    usable = len(shares) == len(models) and all(0 < share < np.inf for share in shares)
    require(usable, "shares", tuple(shares), "positive, one for each model")
    parts = [_Part(model, tokens) for model in models]
    levels: list[Level] = []
    for _ in range(max(model.ngrams.order for model in models)):
        keys = [part.keys(len(levels), len(tokens)) for part in parts]
        united = np.unique(np.concatenate(keys))
        if sum(map(len, levels)) + len(united) > MAX_NGRAMS:
            raise EmgscribeError(f"more than {MAX_NGRAMS:,} n-grams", hint="train with a larger min_count")
        context, symbol = np.divmod(united, len(tokens))
        found = [
            part.extend(context, symbol, np.searchsorted(united, own)) for part, own in zip(parts, keys, strict=True)
        ]
        probs = np.average(found, axis=0, weights=np.asarray(shares, dtype=np.float64))
        if levels:
            levels[-1].backoff[:] = _backoff(NGrams(tokens, tuple(levels)), context, symbol, probs)
        logs = np.log10(np.clip(probs, 10**_LOWEST, 1)).astype(np.float32)
        levels.append(Level(context, symbol, logs, np.zeros_like(logs)))
    return LanguageModel(NGrams(tokens, tuple(levels)))


def fitted_shares(models: Sequence[LanguageModel], text: str) -> tuple[float, ...]:
    """The shares, of sum 1, whose mixture gives `text` the highest probability. Raises what `mix` does."""
    probs = _probs_of(models, text)
    shares = np.full(len(models), 1 / len(models))
    for _ in range(_ROUNDS):
        joint = shares[:, None] * probs
        before, shares = shares, (joint / joint.sum(axis=0)).mean(axis=1)
        if np.abs(shares - before).max() < _ENOUGH:
            break
    return tuple(shares.tolist())


def bits_per_character(model: LanguageModel, text: str) -> float:
    """The mean of -log2 of the probabilities of a text's tokens, ends of words or lines included.

    A token that the model lacks counts with the probability of <unk>.
    """
    return float(-np.log2(_probs_of([model], text)).mean())


class _Part:
    """One of the models, while the mixture grows by a token at a time.

    `columns` are the mixture's numbers of its tokens, `rows` the mixture's rows of its n-grams of the length reached,
    and `states` its own states after each n-gram of the mixture of that length.
    """

    def __init__(self, model: LanguageModel, tokens: Sequence[str]) -> None:
        self.model, table, width = model, model.tables, len(tokens)
        self.columns = np.array([tokens.index(token) for token in model.ngrams.tokens])
        self.rows = self.states = np.zeros(1, dtype=np.int64)
        self.start = table.start
        self.probs = np.zeros((len(table.log_prob), width))
        self.probs[:, self.columns] = 10.0 ** table.log_prob.astype(np.float64)
        self.following = np.zeros((len(table.log_prob), width), dtype=np.int64)  # after a token it lacks: no context
        self.following[:, self.columns] = table.following

    def keys(self, length: int, width: int) -> Rows:
        """Its n-grams one token longer than `length` as context * width + token; none where it has no longer ones."""
        if length >= self.model.ngrams.order:
            return np.empty(0, dtype=np.int64)
        level = self.model.ngrams.levels[length]
        keys: Rows = self.rows[level.context] * width + self.columns[level.symbol]
        return keys

    def extend(self, context: Rows, symbol: Rows, rows: Rows) -> Probs:
        """Go on to the mixture's n-grams one token longer; returns their probabilities."""
        probs = self.probs[self.states[context], symbol]
        self.rows, self.states = rows, self.following[self.states[context], symbol]
        return probs

    def walk(self, symbols: Rows) -> Probs:
        """The probabilities of tokens one after the other; those of <s> mean nothing."""
        state, found = self.start, np.empty(len(symbols))
        for place, symbol in enumerate(symbols.tolist()):
            found[place] = self.probs[state, symbol]
            state = self.following[state, symbol]
        return found


def _tokens(models: Sequence[LanguageModel]) -> tuple[str, ...]:
    """The tokens of all models, the special ones first."""
    if len({model.across for model in models}) != 1:
        what = "some models work within words and others across them" if models else "there is no model"
        raise EmgscribeError(what, hint="mix models of one kind: lm train --across, or without it")
    return SPECIAL + tuple(sorted({token for model in models for token in model.ngrams.tokens} - set(SPECIAL)))


def _probs_of(models: Sequence[LanguageModel], text: str) -> Probs:
    """The probabilities (M, N) that models give the tokens of a text, without those to which all give none."""
    tokens = _tokens(models)
    symbols = encoded(normal_text(text, across=models[0].across), tokens)
    probs = np.array([_Part(model, tokens).walk(symbols) for model in models])[:, symbols != START]
    if not probs.any():
        raise EmgscribeError("the text has nothing to compare models by", hint="give a text with letters")
    return probs[:, probs.any(axis=0)]


def _backoff(lower: NGrams, context: Rows, symbol: Rows, probs: Probs) -> Probs:
    """The log10 back-off weights of the longest n-grams in `lower`, which go before tokens with probabilities."""
    tables = LanguageModel(lower).tables
    states = np.zeros(1, dtype=np.int64)
    for level in lower.levels:
        states = tables.following[states[level.context], level.symbol].astype(np.int64)
    shorter = 10.0 ** tables.log_prob[states[context], symbol].astype(np.float64)
    spared, covered = (1 - np.bincount(context, mass, len(states)) for mass in (probs, shorter))
    weights = np.log10(np.maximum(spared, _ROUNDING) / np.maximum(covered, _ROUNDING))
    return np.where(np.bincount(context, minlength=len(states)) > 0, weights, 0.0)
