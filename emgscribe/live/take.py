"""A recording in progress: prompts for a person who types in the page, or the keys of a source that knows them."""

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from emgscribe.config import is_number, require
from emgscribe.data.charset import ENTER, SYMBOLS, key_of_symbol, labels_of_text, symbol_of_key
from emgscribe.data.hdf5 import Keystroke, Prompt
from emgscribe.data.recordings import HOLD, key_name
from emgscribe.files import open_text
from emgscribe.live.engine import Received
from emgscribe.live.recorder import Recorder
from emgscribe.live.sources import Source, Typed
from emgscribe.simulation.text import PromptWriter, prompts_of_text

LONGEST = 3600.0  # s of a recording
_MAX_KEYS, _LONGEST_NAME = 64, 20  # of a message; characters of a key's name
_LATE = 60.0  # s after which a key is too late

Prompts = Callable[[], Iterator[str]]


def made_up_prompts() -> Iterator[str]:
    """Prompts without end, like those of the data set: four lower-case words."""
    writer = PromptWriter(np.random.default_rng())
    while True:
        yield writer.next_prompt().removesuffix(ENTER)


def from_file(path: Path) -> Prompts:
    """The lines of a text file, again and again. A character that no key types raises `EmgscribeError`."""
    with open_text(path) as file:
        lines = [line.removesuffix(ENTER) for line in prompts_of_text(file.read())]
    return lambda: cycle(lines)


class Take:
    """One recording of a source into the folder `out`. `prompt` is what is to be typed now, after `prompts` others."""

    def __init__(self, source: Source, out: Path, *, user: str, prompts: Iterator[str]) -> None:
        self._prompts = prompts
        self._zero = source.when(0.0)  # of the source's clock, on the monotonic one
        origin = time.time() - time.monotonic() + self._zero
        self.recorder = Recorder(out, source.shape, user=user, origin=origin, simulation=source.simulation)
        self.asks, self.prompts = not source.knows_keys, 0
        self._next()

    def _next(self) -> None:
        self.prompt, self._shown = next(self._prompts) if self.asks else "", time.monotonic() - self._zero

    def add(self, came: Received) -> None:
        """Add what the source gave."""
        if len(came.emg):
            self.recorder.add(came.emg, came.times)
        if not self.asks:
            for key in came.typed:
                self.recorder.add_key(Keystroke(key_of_symbol(SYMBOLS[key.label]), key.time, key.time + HOLD))

    def press(self, keys: Any, error: Any) -> list[Typed]:
        """Keys that a page saw, each [name, down, up] in s of the monotonic clock, which it knows to within `error` s.

        Returns those with a label, on the source's clock. Anything but a list of keys raises `EmgscribeError`.
        """
        require(isinstance(keys, list) and len(keys) <= _MAX_KEYS, "keys", keys, f"a list of at most {_MAX_KEYS}")
        require(is_number(error) and 0 <= error < 10, "error", error, "seconds")
        now, pressed = time.monotonic(), list[Keystroke]()
        for key in keys:
            whole = isinstance(key, list) and len(key) == 3 and isinstance(key[0], str) and all(map(is_number, key[1:]))
            require(whole and key[0].isprintable() and len(key[0]) <= _LONGEST_NAME, "key", key, "[name, down, up]")
            name, down, up = key
            require(now - _LATE < down <= up < now + 1, "the time of a key", key, "within the last minute")
            pressed.append(Keystroke(key_name(name), down - self._zero, up - self._zero))
        if not self.asks or not pressed:
            return []
        typed = list[Typed]()
        for one in pressed:
            self.recorder.add_key(one)
            symbol = symbol_of_key(one.key)
            if symbol is not None:
                typed.append(Typed(labels_of_text(symbol)[0], one.start))
            if symbol == ENTER:
                self.recorder.add_prompt(Prompt(f"prompt-{one.start:.3f}", self._shown, one.start, self.prompt))
                self.prompts += 1
                self._next()
        self.recorder.note_clock(float(error))
        return typed
