"""Emissions -> keystrokes by prefix beam search, with a language model that follows backspaces.

A hypothesis is ranked by its CTC log-probability, plus `lm_weight` times the language model's log-probability of the
text on the screen, plus `insertion_bonus` for each character there. A backspace takes back the model state, score and
bonus of the character that it removes. The search itself is in `emgscribe.decoding.prefix_search`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from emgscribe.config import Count, Range, Settings, require, to_json
from emgscribe.data.charset import BACKSPACE, BLANK, ENTER, SHIFT, SYMBOLS, labels_of_text
from emgscribe.data.charset import SPACE as SPACE_KEY
from emgscribe.decoding.decoder import Decoder, Emissions, Hypothesis, check_emissions
from emgscribe.decoding.language_model import END, SPACE, UNKNOWN, Automaton, LanguageModel
from emgscribe.decoding.prefix_search import Ints, Rules, advance, begin, collect, rank, trace
from emgscribe.errors import EmgscribeError

_CAPACITY = 4096  # nodes of the tree at the beginning; it doubles where the beam needs more
_MAX_NODES = 1 << 18  # nodes (15 MB) above which old alternatives are dropped rather than kept
_REMEMBERED = 1 << 16  # characters that backspaces can reach, however long the session
_IMPOSSIBLE = np.float32(-100)  # log10, as KenLM has it: minus infinity times a weight of 0 would be NaN
_LAYOUT: tuple[Literal["C", "W", "A"], ...] = ("C", "W", "A")  # as the compiled search takes arrays


@dataclass(frozen=True)
class BeamConfig(Settings):
    """How to search, and what is scored.

    The convention "natural" takes natural logarithms everywhere, ends an unfinished word at the flush and scores
    capitals as lowercase; shift puts nothing on the screen, so neither model nor backspace sees it. "reference" is
    the convention of published numbers: the model's log10 beside natural logarithms of the emissions, no end of a word
    at the flush, capitals and shift as characters unknown to the model, backspace removes a shift, and no bonus
    without a model.
    """

    section = "beam"
    beam_size: Annotated[int, Range(1, 10_000)] = 50  # hypotheses that are kept after each frame
    labels_per_frame: Count = 10  # how many of a frame's likeliest classes extend hypotheses, blank included
    lm_weight: Annotated[float, Range(0, 1000)] = 0.5  # weight of the language model's log-probability
    insertion_bonus: Annotated[float, Range(-1000, 1000)] = 1.0  # added for each character on the screen
    convention: Literal["natural", "reference"] = "natural"  # what is scored: reference is that of published numbers


PUBLISHED = BeamConfig(lm_weight=2.0, insertion_bonus=2.0, convention="reference")  # of the published numbers


@dataclass(frozen=True)
class Scored:
    """A hypothesis and its score: a natural log-probability plus what language model and bonus add."""

    hypothesis: Hypothesis
    score: float


class BeamDecoder(Decoder):
    """Prefix beam search. It releases the GIL; each thread needs a decoder of its own.

    Without a language model the score is that of CTC, with the bonus in the natural convention. Memory is bounded,
    except for the keystrokes that are returned: what all hypotheses share leaves the tree, and backspaces reach the
    last 65,536 characters. If the tree outgrows its limit, hypotheses whose old keys are not the best one's are
    dropped. `tuned_on` names the sessions that the weights were tuned on.
    """

    def __init__(
        self, config: BeamConfig | None = None, lm: LanguageModel | None = None, *, tuned_on: Sequence[str] = ()
    ) -> None:
        self.config, self.lm, self.tuned_on = config or BeamConfig(), lm, tuned_on
        self._rules = _rules(self.config, lm.tables if lm else None)
        self.reset()

    def __repr__(self) -> str:
        return f"<BeamDecoder: {self.config}, lm={self.lm}>"

    @property
    def settings(self) -> dict[str, Any]:
        known = {"language_model": self.lm.digest, "order": self.lm.ngrams.order} if self.lm else {}
        return {**to_json(self.config), **known, "tuned_on": list(self.tuned_on)}

    def reset(self) -> None:
        size = self.config.beam_size
        self._search = begin(self._rules, size, self.config.labels_per_frame, max(_CAPACITY, 4 * size))
        self._labels = self._frames = np.empty(0, dtype=np.int64)
        self._taken = -1  # frame of the last key that was taken out

    @property
    def nodes(self) -> int:
        """How many keystrokes the tree has room for, 56 bytes each."""
        return len(self._search.nodes)

    def feed(self, log_probs: Emissions) -> Hypothesis:
        """Read F more frames (F, 99) of natural log-probabilities; returns the best hypothesis up to now.

        Reads nothing and raises `EmgscribeError` for another number of classes, NaN, plus infinity, or a frame in which
        no class is possible.
        """
        frames, read = _checked(log_probs), 0
        while (read := advance(self._search, self._rules, frames, read)) < len(frames):
            self._make_room()
        return self._best(1, final=False)[0].hypothesis

    def flush(self) -> Hypothesis:
        """The best hypothesis of all that was read, its last word ended where the convention says so."""
        return self.n_best(1)[0].hypothesis

    def settle(self, before: int) -> Hypothesis:
        labels, frames = self._leader()
        if old := int(np.searchsorted(frames, before)):
            self._decide(labels[:old])
        labels, frames = self._joined(*collect(self._search, _REMEMBERED))
        self._labels = self._frames = np.empty(0, dtype=np.int64)
        self._taken = max((self._taken, *frames.tolist()))
        return Hypothesis(tuple(labels.tolist()), tuple(frames.tolist()))

    def n_best(self, count: int) -> list[Scored]:
        """The `count` best hypotheses of all that was read, best first; fewer where the beam holds fewer."""
        require(count >= 1, "count", count, "1 or more")
        return self._best(count, final=self.config.convention == "natural")

    def _best(self, count: int, *, final: bool) -> list[Scored]:
        scores, found = rank(self._search, self._rules, final), []
        for place in np.argsort(-scores, kind="stable")[:count]:
            labels, frames = self._joined(*trace(self._search, int(self._search.beam["node"][place])))
            found.append(Scored(Hypothesis(tuple(labels.tolist()), tuple(frames.tolist())), float(scores[place])))
        return found

    def _joined(self, labels: Ints, frames: Ints) -> tuple[Ints, Ints]:
        """The settled keys and those after them. Later frames may move an onset: settled ones still come before it."""
        settled = self._frames
        if len(frames) and len(settled) and settled[-1] >= frames[0]:
            settled = np.minimum(settled, frames[0] - np.arange(len(settled), 0, -1))
        joined = np.concatenate([settled, frames])
        return np.concatenate([self._labels, labels]), np.maximum(joined, self._taken + 1 + np.arange(len(joined)))

    def _make_room(self) -> None:
        while True:
            self._labels, self._frames = self._joined(*collect(self._search, _REMEMBERED))
            nodes = self._search.nodes
            if 2 * int(self._search.place[0]["used"]) <= len(nodes):
                return
            best, _ = self._leader()
            if len(nodes) < _MAX_NODES or not len(best):
                break
            self._decide(best[: -(-len(best) // 2)])
        self._search = self._search._replace(nodes=np.concatenate([nodes, np.zeros_like(nodes)]))

    def _leader(self) -> tuple[Ints, Ints]:
        """Labels and onset frames of the best hypothesis, without what is settled."""
        scores = rank(self._search, self._rules, False)
        return trace(self._search, int(self._search.beam["node"][np.argmax(scores)]))

    def _decide(self, old: Ints) -> None:
        """Drop the hypotheses that do not begin with the keys `old`."""
        search, beam = self._search, self._search.beam
        slots = int(search.place[0]["slots"])
        paths = [trace(search, int(node))[0] for node in beam["node"][:slots]]
        alike = [place for place, path in enumerate(paths) if np.array_equal(path[: len(old)], old)]
        search.nodes["slot"][beam["node"][:slots]] = -1
        beam[: len(alike)] = beam[alike]
        search.nodes["slot"][beam["node"][: len(alike)]] = np.arange(len(alike))
        search.place[0]["slots"] = len(alike)


def _checked(log_probs: Emissions) -> npt.NDArray[np.float32]:
    """Log-probabilities as the compiled search takes them; what it cannot rank is refused."""
    check_emissions(log_probs)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        frames = np.require(log_probs, dtype=np.float32, requirements=_LAYOUT)
    best = frames.max(axis=1, initial=-np.inf)
    if len(bad := np.flatnonzero(np.isinf(best))):
        what = "a log-probability is infinite" if best[bad[0]] > 0 else "no class is possible"
        hint = "feed natural log-probabilities, as a model returns them"
        raise EmgscribeError(f"{what} in frame {bad[0]} of the emissions", hint=hint)
    return frames


def _rules(config: BeamConfig, model: Automaton | None) -> Rules:
    natural = config.convention == "natural"
    column = np.full(BLANK + 1, UNKNOWN, dtype=np.int64)
    backspace, shift = labels_of_text(BACKSPACE + SHIFT)
    scored = natural or model is not None
    if model is None:
        model = Automaton(("",) * (END + 1), 0, np.zeros((1, END + 1), np.float32), np.zeros((1, END + 1), np.int32))
    tokens, across, log_prob = list(model.tokens), model.across, model.log_prob
    if log_prob.min() < _IMPOSSIBLE:
        log_prob = np.maximum(log_prob, _IMPOSSIBLE)
    for label, symbol in enumerate(SYMBOLS):
        names = [SPACE if symbol == SPACE_KEY else symbol, *([symbol.lower()] if natural else [])]
        known = [tokens.index(name) for name in names if name in tokens]
        column[label] = END if across and symbol == ENTER else known[0] if known else UNKNOWN
    # Unknown symbols do not end a line.
    inside = (column != END) & (np.arange(len(column)) != BLANK) if across else column > END
    return Rules(
        log_prob=np.require(log_prob, np.float32, _LAYOUT),
        following=np.require(model.following, np.int32, _LAYOUT),
        column=column,
        inside=inside,
        start=int(model.start),
        unknown=float(log_prob[0, UNKNOWN]),
        across=across,
        scale=config.lm_weight * (math.log(10) if natural else 1.0),
        bonus=float(config.insertion_bonus) if scored else 0.0,
        blank=BLANK,
        backspace=backspace,
        silent=shift if natural else -1,
    )
