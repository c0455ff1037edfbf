"""Prefix beam search in plain Python, as a textbook has it, to measure and test `emgscribe.decoding.beam` against.

Hypotheses are tuples of labels, the keys of two dictionaries: one has their probabilities, the other their screens.
"""

import math
from collections.abc import Sequence

from emgscribe.data.charset import BACKSPACE, BLANK, ENTER, SHIFT, SYMBOLS
from emgscribe.decoding.beam import BeamConfig
from emgscribe.decoding.language_model import END, SPACE, UNKNOWN, Automaton

Prefix = tuple[int, ...]
MINUS_INFINITY = -math.inf


def add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high if low == MINUS_INFINITY else high + math.log1p(math.exp(low - high))


class Screen:
    """A text on the screen: the text before its last character, the model's state, and what model and bonus add."""

    def __init__(self, before: "Screen | None", state: int, bias: float, *, inside: bool) -> None:
        self.before, self.state, self.bias, self.inside = before, state, bias, inside


class PlainScorer:
    """Scores what is typed, character by character."""

    def __init__(self, config: BeamConfig, model: Automaton | None) -> None:
        self.natural, self.model = config.convention == "natural", model
        self.scale = config.lm_weight * (math.log(10) if self.natural else 1)
        self.bonus = config.insertion_bonus if self.natural or model else 0.0
        self.tokens = {} if model is None else {token: column for column, token in enumerate(model.tokens)}
        self.empty = Screen(None, model.start if model else 0, 0.0, inside=False)

    def typed(self, screen: Screen, label: int) -> Screen:
        """The screen after a key."""
        symbol = SYMBOLS[label]
        if symbol == BACKSPACE:
            return screen.before or screen
        if symbol == SHIFT and self.natural:
            return screen
        if self.model is None:
            return Screen(screen, 0, screen.bias + self.bonus, inside=False)
        column = self.tokens.get(SPACE if symbol == " " else symbol, UNKNOWN)
        if column == UNKNOWN and self.natural:
            column = self.tokens.get(symbol.lower(), UNKNOWN)
        if self.model.across:
            column = END if symbol == ENTER else column
            inside = column != END
        else:
            inside = column != UNKNOWN
            column = END if column == UNKNOWN and screen.inside else column
        state = int(self.model.following[screen.state, column])
        step = float(self.model.log_prob[screen.state, column])
        if column == UNKNOWN:  # a character that belongs to no word, outside a word
            state = state if self.model.across else self.model.start
            step = float(self.model.log_prob[0, UNKNOWN])
        return Screen(screen, state, screen.bias + self.scale * step + self.bonus, inside=inside)

    def final(self, screen: Screen) -> float:
        """What is added at the end."""
        if self.model is None or not self.natural or not screen.inside:
            return 0.0
        return self.scale * float(self.model.log_prob[screen.state, END])


def plain_beam_search(
    emissions: Sequence[Sequence[float]], config: BeamConfig, model: Automaton | None
) -> list[tuple[Prefix, float]]:
    """All hypotheses of the last beam with their final scores, best first."""
    scorer = PlainScorer(config, model)
    beam: dict[Prefix, tuple[float, float]] = {(): (0.0, MINUS_INFINITY)}
    screens: dict[Prefix, Screen] = {(): scorer.empty}
    for frame in emissions:
        best = sorted(range(len(frame)), key=lambda label: -frame[label])[: config.labels_per_frame]
        after: dict[Prefix, tuple[float, float]] = {}
        for prefix, (blank, key) in beam.items():
            both = add(blank, key)
            for label in best:
                value = frame[label]
                if label == BLANK:
                    old = after.get(prefix, (MINUS_INFINITY, MINUS_INFINITY))
                    after[prefix] = add(old[0], both + value), old[1]
                    continue
                again = bool(prefix) and prefix[-1] == label
                if again:
                    old = after.get(prefix, (MINUS_INFINITY, MINUS_INFINITY))
                    after[prefix] = old[0], add(old[1], key + value)
                longer = (*prefix, label)
                old = after.get(longer, (MINUS_INFINITY, MINUS_INFINITY))
                after[longer] = old[0], add(old[1], (blank if again else both) + value)
                if longer not in screens:
                    screens[longer] = scorer.typed(screens[prefix], label)
        scores = {prefix: add(*masses) + screens[prefix].bias for prefix, masses in after.items()}
        kept = sorted((p for p in after if scores[p] > MINUS_INFINITY), key=lambda prefix: -scores[prefix])
        beam = {prefix: after[prefix] for prefix in kept[: config.beam_size]}
        screens = {prefix: screens[prefix] for prefix in beam}
    final = {prefix: add(*masses) + screens[prefix].bias for prefix, masses in beam.items()}
    final = {prefix: score + scorer.final(screens[prefix]) for prefix, score in final.items()}
    return sorted(final.items(), key=lambda item: -item[1])
