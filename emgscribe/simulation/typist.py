"""A touch typist: prompts -> key presses with times, fingers, typos and pauses.

Intervals between key presses are log-normal. Their mean depends on hands and fingers: alternating hands are fastest,
one finger on two keys is slowest (Salthouse 1986, "Perceptual, cognitive, and motoric aspects of transcription typing";
Dhakal et al. 2018, "Observations on typing from 136 million keystrokes", also for rollover and error rates).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SPACE
from emgscribe.data.hdf5 import Prompt
from emgscribe.simulation.arrays import Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.keyboard import ALTERNATIVES, LEFT, RIGHT, SHIFTS, TEXTBOOK, Place, neighbours, unshifted
from emgscribe.simulation.text import PromptWriter, prompts_of_text

MARGIN = 0.8  # seconds of quiet at both ends of a recording
_SHORTEST_INTERVAL = 0.035
_KEYS_PER_PROMPT = 31.0  # so that whole sessions have the rate that is set
# How often people make each kind of typo: parameters of a Dirichlet distribution.
_TYPOS = {"neighbour": 10.0, "doubled": 3.0, "transposed": 4.0, "omitted": 3.0}


@dataclass(frozen=True)
class Press:
    """One press of a key."""

    symbol: str
    place: Place
    start: float  # key-down, seconds from the start of the session
    end: float  # key-up


@dataclass(frozen=True)
class Habits:
    """How one person types: the finger for every key, tempo, regularity and typos."""

    places: dict[str, Place]
    tempo: float
    unevenness: float
    finger_slowness: tuple[tuple[float, ...], tuple[float, ...]]
    press_seconds: float
    typos: float
    typo_kinds: tuple[float, ...]

    @classmethod
    def of_user(cls, rng: Rng, spread: float) -> "Habits":
        """Habits drawn from `rng`; `spread` 0 gives the textbook typist."""
        own = {key: place for key, place in ALTERNATIVES.items() if rng.random() < 0.25 * spread}
        slowness = np.exp(0.08 * spread * rng.standard_normal((2, 5))) * np.array([1.0, 0.95, 0.97, 1.06, 1.12])
        return cls(
            places=TEXTBOOK | own,
            tempo=float(np.exp(0.08 * spread * rng.standard_normal())),
            unevenness=float(np.exp(0.2 * spread * rng.standard_normal())),
            finger_slowness=(tuple(slowness[LEFT].tolist()), tuple(slowness[RIGHT].tolist())),
            press_seconds=float(0.115 * np.exp(0.15 * spread * rng.standard_normal())),
            typos=float(np.exp(0.4 * spread * rng.standard_normal())),
            typo_kinds=tuple(rng.dirichlet(list(_TYPOS.values())).tolist()),
        )


class Typist:
    """Types prompts until the session ends."""

    def __init__(self, habits: Habits, config: SimulationConfig, rng: Rng) -> None:
        self._habits, self._rng = habits, rng
        self._typo_rate = config.typo_rate * habits.typos
        self._pause = config.prompt_pause
        made_up = iter(PromptWriter(rng).next_prompt, None)
        self._texts = cycle(prompts_of_text(config.text)) if config.text else made_up
        self._sigma = 0.28 * habits.unevenness * (0.4 + 0.6 * config.difficulty)
        rate = config.keys_per_second * habits.tempo * float(np.exp(0.04 * rng.standard_normal()))
        # Long pauses at a high rate must leave some time to type.
        per_prompt = max(_KEYS_PER_PROMPT / rate - config.prompt_pause, 0.4 * _KEYS_PER_PROMPT / rate)
        self._interval = per_prompt / _KEYS_PER_PROMPT
        self._drift_phase, self._drift_period = rng.uniform(0, 2 * np.pi), rng.uniform(120, 400)

    def perform(self, duration: float) -> tuple[list[Press], list[Prompt]]:
        """Presses in order of their start, and prompts, in `duration` s; the last prompt may be incomplete."""
        presses: list[Press] = []
        prompts: list[Prompt] = []
        now, last = MARGIN, duration - MARGIN
        while now < last:
            text, shown = next(self._texts), now
            now += self._pause * self._lognormal(0.25)
            typed = [press for press in self._type(text, now) if press.end < last]
            if not typed:
                break
            now = max(press.end for press in typed) + 0.05
            prompts.append(Prompt(f"prompt-{len(prompts)}", shown, now, text))
            presses += typed
            if typed[-1].symbol != ENTER:
                break
        return sorted(presses, key=lambda press: press.start), prompts

    def _lognormal(self, sigma: float) -> float:
        return float(np.exp(sigma * self._rng.standard_normal() - sigma**2 / 2))  # with mean 1

    def _type(self, text: str, now: float) -> list[Press]:
        """The presses for one prompt, the first at `now`."""
        presses: list[Press] = []
        for symbol in self._with_typos(text):
            key, shift = unshifted(symbol)
            place = SHIFTS[LEFT] if key == SHIFT else self._habits.places[key]
            if shift:
                now = self._press(presses, SHIFT, SHIFTS[1 - place.hand], now)
            now = self._press(presses, symbol, place, now)
            if shift:
                held = max(presses[-1].start + 0.03, presses[-1].end - 0.03 * self._lognormal(0.5))
                presses[-2] = replace(presses[-2], end=held)
        return presses

    def _press(self, presses: list[Press], symbol: str, place: Place, now: float) -> float:
        """Append a press after those of this prompt; returns its start."""
        start = now + self._interval_to(place, presses[-1]) if presses else now
        end = start + self._habits.press_seconds * self._lognormal(0.25)
        # A finger leaves its key before it presses the next one.
        for back, before in enumerate(presses[-4:], max(len(presses) - 4, 0)):
            if (before.place.hand, before.place.finger) == (place.hand, place.finger) and before.end > start - 0.01:
                presses[back] = replace(before, end=before.start + 0.7 * (start - before.start))
        presses.append(Press(symbol, place, start, end))
        return start

    def _interval_to(self, place: Place, before: Press) -> float:
        if before.symbol == SHIFT:
            return max(0.11 * self._lognormal(self._sigma), _SHORTEST_INTERVAL)
        if before.place.hand != place.hand:
            factor = 0.86
        elif before.place.finger != place.finger:
            factor = 1.05
        else:
            factor = 0.9 if before.place == place else 1.4
        factor *= self._habits.finger_slowness[place.hand][place.finger]
        factor *= 1 + 0.08 * abs(place.row if place.finger else 0) + 0.05 * abs(place.reach)
        factor *= 1.12 if before.symbol == SPACE else 1.0
        factor *= 1 + 0.08 * np.sin(self._drift_phase + 2 * np.pi * before.start / self._drift_period)
        return float(max(self._interval * factor * self._lognormal(self._sigma), _SHORTEST_INTERVAL))

    def _with_typos(self, text: str) -> Iterator[str]:
        """The symbols that are pressed to type `text`, with typos and, mostly, their correction by backspaces."""
        position = 0
        while position < len(text):
            typo = self._typo(text, position) if self._rng.random() < self._typo_rate else None
            hit, consumed = typo or (text[position], 1)
            yield from hit
            if typo and self._rng.random() < 0.8:
                # Noticed up to two characters later; then all of it is deleted and typed again.
                late = max(min(int(self._rng.integers(3)), len(text) - 1 - position - consumed), 0)
                yield from text[position + consumed : position + consumed + late]
                yield from BACKSPACE * (len(hit) + late)
            else:
                position += consumed

    def _typo(self, text: str, position: int) -> tuple[str, int] | None:
        """(symbols that are pressed, how many characters of the text they replace), or None where no typo fits."""
        symbol, following = text[position], text[position + 1 : position + 2]
        if symbol == ENTER or following in ("", ENTER):
            return None
        kind = self._rng.choice(list(_TYPOS), p=self._habits.typo_kinds)
        typos = {"doubled": (symbol * 2, 1), "transposed": (following + symbol, 2), "omitted": (following, 2)}
        if kind in typos:
            return typos[kind]
        key, shift = unshifted(symbol)
        near = neighbours(key) if key != SPACE and not shift else []
        return (near[int(self._rng.integers(len(near)))], 1) if near else None
