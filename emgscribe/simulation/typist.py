"""A touch typist: prompts -> key presses with times, fingers, typos and pauses.

Intervals and holds are drawn from the percentiles of real typing in `published`. A standard normal number says where in
its distribution a time lies: `_at` maps it to the logarithm of the time, linear between the published points and beyond
them. Half of that number belongs to the person, a little to the session and to how far it has come, the rest to the
press. So all people together have the published distribution, and each of them is fast or slow throughout; in the key
logs, people differ by about half of the spread in every kind of interval.

The fingers of the published table are the textbook's. A key that follows while its finger is still down is pressed by
the nearest free finger, as in people who roll over their keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, cycle, pairwise, takewhile

import numpy as np

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SPACE
from emgscribe.data.hdf5 import Prompt
from emgscribe.simulation.arrays import Float64, Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.keyboard import (
    ALTERNATIVES,
    LEFT,
    ROLL,
    SHIFTS,
    TEXTBOOK,
    Finger,
    Place,
    interval_kind,
    neighbours,
    pair_class,
    unshifted,
)
from emgscribe.simulation.published import published
from emgscribe.simulation.text import PromptWriter, prompts_of_text

MARGIN = 0.8  # seconds of quiet at both ends of a recording
_POINTS = np.array([-1.645, -0.674, 0.0, 0.674, 1.645])  # where the published percentiles are on a normal distribution
_PERSON, _SESSION, _HOLD_SESSION = 0.5, 0.12, 0.08  # weights of the person and the session in that number
_FASTER = -0.35  # change of the number over a session, whose last third is 10 % faster than the first
_OFFSET = 0.12  # real sessions have equally many prompts; in equally long ones, fast people type more of the keys
_NEIGHBOURS = 0.09  # weight of the press before in the part of the number that changes with each press
_ROLL_SECONDS, _ROLL = 0.14, 1.2  # a key is held longer where another finger of the hand follows so soon
_TOGETHER = 0.23  # correlation over people of holds and intervals
_USUAL_RATE = 4.4  # keys/s that the published intervals give
# How often people make each kind of typo: parameters of a Dirichlet distribution.
_TYPOS = {"neighbour": 10.0, "doubled": 3.0, "transposed": 4.0, "omitted": 3.0}
_UNCORRECTED = 0.15  # of the typos
_RUNS = np.cumsum([55.3, 24.1, 9.1, 4.5, 2.4, 1.4, 0.9, 0.7, 0.5, 1.1])  # % of the runs of 1, 2, … backspaces


def _logarithms(kind: str) -> dict[str, Float64]:
    return {name: np.log(points[:5]) - np.log(1000) for name, points in published()[kind].items()}


_INTERVALS, _HOLDS = _logarithms("intervals"), _logarithms("holds")


@dataclass(frozen=True)
class Press:
    """One press of a key."""

    symbol: str
    place: Place
    start: float  # key-down, seconds from the start of the session
    end: float  # key-up


@dataclass(frozen=True)
class Habits:
    """How one person types: the finger for every key, tempo, holds and typos."""

    places: dict[str, Place]
    slowness: float  # normal: 0 is the median person
    holding: float  # the same for how long keys are held
    typos: float  # factor
    typo_kinds: tuple[float, ...]

    @classmethod
    def of_user(cls, rng: Rng, spread: float) -> "Habits":
        """Habits drawn from `rng`; `spread` 0 gives the textbook typist."""
        own = {key: place for key, place in ALTERNATIVES.items() if rng.random() < 0.375 * spread}
        slowness, alone, typos = spread * rng.standard_normal(3)
        return cls(
            places=TEXTBOOK | own,
            slowness=float(slowness),
            holding=float(_TOGETHER * slowness + np.sqrt(1 - _TOGETHER**2) * alone),
            typos=float(np.exp(0.45 * typos)),
            typo_kinds=tuple(rng.dirichlet(list(_TYPOS.values())).tolist()),
        )


class Typist:
    """Types prompts until the session ends."""

    def __init__(self, habits: Habits, config: SimulationConfig, rng: Rng) -> None:
        self._habits, self._rng = habits, rng
        self._typo_rate = config.typo_rate * habits.typos
        made_up = iter(PromptWriter(rng, config.prompts).next_prompt, None)
        self._texts = cycle(prompts_of_text(config.text)) if config.text else made_up
        self._scale = _USUAL_RATE / config.keys_per_second
        self._slowness = _OFFSET + _PERSON * habits.slowness + _SESSION * rng.standard_normal()
        self._holding = _PERSON * habits.holding + _HOLD_SESSION * rng.standard_normal()

    def perform(self, duration: float) -> tuple[list[Press], list[Prompt]]:
        """Presses in order of their start, and prompts, in `duration` s; the last prompt may be incomplete."""
        strokes: list[tuple[str, float, float]] = []
        prompts: list[Prompt] = []
        now = shown = MARGIN
        for number in count():
            text = next(self._texts)
            typed = list(takewhile(lambda s: s[2] < duration - MARGIN, self._type(text, now, now / duration)))
            if not typed:
                break
            done = max(end for _, _, end in typed)
            prompts.append(Prompt(f"prompt-{number}", shown, done, text))
            strokes += typed
            if typed[-1][0] != ENTER:
                break
            now, shown = typed[-1][1], done  # the pause counts from the press of ⏎
        return with_fingers(strokes, self._habits), prompts

    def _type(self, text: str, now: float, done: float) -> list[tuple[str, float, float]]:
        """(symbol, start, end) of the presses for a prompt that appears at `now`, the share `done` into the session."""
        symbols = [key for symbol in self._with_typos(text) for key in (SHIFT * unshifted(symbol)[1], symbol) if key]
        kinds = [interval_kind(*pair) for pair in pairwise([ENTER, *symbols])]
        drawn = self._rng.standard_normal(len(kinds) + 1)
        each = (drawn[1:] + _NEIGHBOURS * drawn[:-1]) / np.hypot(1, _NEIGHBOURS)
        slowness = self._slowness + _FASTER * (done - 0.5)
        place = slowness + np.sqrt(1 - _PERSON**2 - _SESSION**2) * each
        points = np.array([_INTERVALS.get(kind, _INTERVALS["same finger"]) for kind in kinds])
        intervals = self._scale * np.exp(_at(points, place))
        starts = now + np.cumsum(intervals)
        soon = np.append(intervals[1:] < _ROLL_SECONDS, False)
        rolls = soon & np.append([pair_class(kind) == ROLL for kind in kinds[1:]], False)
        place = self._holding + np.sqrt(1 - _PERSON**2) * self._rng.standard_normal(len(kinds)) + _ROLL * (rolls - 0.15)
        points = np.array([_HOLDS.get(unshifted(symbol)[0], _HOLDS["d"]) for symbol in symbols])
        ends = starts + min(self._scale, 1.0) * np.exp(_at(points, place))
        return _shift_held(list(zip(symbols, starts.tolist(), ends.tolist(), strict=True)))

    def _with_typos(self, text: str) -> Iterator[str]:
        """The symbols that are pressed to type `text`, with typos and, mostly, their correction by backspaces."""
        position = 0
        while position < len(text):
            run = 1 + int(np.searchsorted(_RUNS / _RUNS[-1], self._rng.random()))
            typo = self._typo(text, position, run) if self._rng.random() < self._typo_rate else None
            hit, consumed = typo or (text[position], 1)
            yield from hit
            if typo and self._rng.random() >= _UNCORRECTED:
                # Noticed after some more characters; then all of it is deleted and typed again.
                late = text[position + consumed :].partition(ENTER)[0][: max(run - len(hit), 0)]
                yield from late + BACKSPACE * (len(hit) + len(late))
            else:
                position += consumed

    def _typo(self, text: str, position: int, run: int) -> tuple[str, int] | None:
        """(symbols that are pressed, how many characters of the text they replace), or None where no typo fits.

        One that takes more than `run` backspaces does not fit.
        """
        symbol, following = text[position], text[position + 1 : position + 2]
        if symbol == ENTER or following in ("", ENTER):
            return None
        kind = self._rng.choice(list(_TYPOS), p=self._habits.typo_kinds)
        if kind == "doubled" and position:
            return text[position - 1], 0
        if kind == "omitted":
            return following, 2
        if kind == "transposed" and run > 1:
            return following + symbol, 2
        key, shift = unshifted(symbol)
        near = neighbours(key) if key != SPACE and not shift else []
        return (near[int(self._rng.integers(len(near)))], 1) if near else None


def _at(points: Float64, place: Float64) -> Float64:
    """Values (n,) at the `place` (n,) on a normal distribution, from the values (n, 5) at `_POINTS`."""
    left = np.clip(np.searchsorted(_POINTS, place) - 1, 0, len(_POINTS) - 2)
    part = (place - _POINTS[left]) / np.diff(_POINTS)[left]
    low, high = (np.take_along_axis(points, (left + side)[:, None], axis=1)[:, 0] for side in (0, 1))
    return np.asarray(low + part * (high - low))


def _shift_held(strokes: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """The same, with each shift held until shortly before its key is released."""
    held = [*strokes]
    for place, ((symbol, start, end), (_, follows, until)) in enumerate(pairwise(strokes)):
        if symbol == SHIFT:
            held[place] = symbol, start, max(follows + 0.5 * (until - follows), end)
    return held


def with_fingers(strokes: Sequence[tuple[str, float, float]], habits: Habits) -> list[Press]:
    """Presses of strokes (symbol, start, end), which are in order of their start. No finger holds two keys at once."""
    presses: list[Press] = []
    latest: dict[tuple[int, Finger], int] = {}  # the last press of each finger
    for (symbol, start, end), (following, *_) in pairwise([*strokes, (SPACE, 0.0, 0.0)]):
        meant = _shift_for(following, habits) if symbol == SHIFT else habits.places[unshifted(symbol)[0]]
        options = _options(meant)
        down = [latest.get((o.hand, o.finger)) for o in options]
        down = [None if last is None or presses[last].end <= start else last for last in down]
        again = (n for n, last in enumerate(down) if last is not None and presses[last].symbol == symbol)
        option = next(again, down.index(None) if None in down else 0)
        if (last := down[option]) is not None:  # halfway between the presses, the finger lifts
            presses[last] = replace(presses[last], end=(presses[last].start + start) / 2)
        chosen = options[option]
        latest[chosen.hand, chosen.finger] = len(presses)
        presses.append(Press(symbol, chosen, start, end))
    return presses


def _shift_for(symbol: str, habits: Habits) -> Place:
    """The shift key of the hand that does not type `symbol`."""
    key = habits.places.get(unshifted(symbol)[0])
    return SHIFTS[1 - key.hand if key else LEFT]


@cache
def _options(place: Place) -> tuple[Place, ...]:
    """The place with the finger that is meant to press it, then with the others that could: the nearest first."""
    if place.finger == Finger.THUMB:
        return place, replace(place, hand=1 - place.hand)
    fingers = sorted((f for f in Finger if f), key=lambda finger: abs(finger - place.finger))
    return tuple(replace(place, finger=f, reach=place.reach + f - place.finger) for f in fingers)
