"""Symbols and labels: the keys of the emg2qwerty task, in its order.

99 classes: a-z A-Z (52), 0-9 (10), the 32 ASCII punctuation characters, backspace, enter, space, shift, and the
CTC blank as the last. Source: Sivakumar et al. 2024, "emg2qwerty" (arXiv 2410.20081), section 3.
"""

import string
import unicodedata
from collections.abc import Iterable

from anyascii import anyascii

BACKSPACE, ENTER, SPACE, SHIFT = "⌫", "⏎", " ", "⇧"
SYMBOLS: tuple[str, ...] = (*string.ascii_letters, *string.digits, *string.punctuation, BACKSPACE, ENTER, SPACE, SHIFT)
BLANK = len(SYMBOLS)
NUM_CLASSES = BLANK + 1

_LABELS = {symbol: label for label, symbol in enumerate(SYMBOLS)}
_KEY_NAMES = {"Key.backspace": BACKSPACE, "Key.enter": ENTER, "Key.space": SPACE, "Key.shift": SHIFT}
_REPLACED = {"\n": ENTER, "\r": ENTER, "\b": BACKSPACE}


def symbol_of_character(character: str) -> str | None:
    """The symbol for one Unicode character, or None where there is none, as for signs such as ⌘ or →.

    Letters, numbers, punctuation and spaces outside ASCII are transliterated if one character suffices.
    """
    candidate = _REPLACED.get(character, character)
    if candidate not in _LABELS and unicodedata.category(candidate)[0] in "LNPZ":
        candidate = anyascii(candidate)
    return candidate if candidate in _LABELS else None


def symbol_of_key(key: str) -> str | None:
    """The symbol for a key as pynput names it (`"a"`, `"Key.space"`), or None for a key outside the task."""
    return _KEY_NAMES.get(key) or (symbol_of_character(key) if len(key) == 1 else None)


def key_of_symbol(symbol: str) -> str:
    """The pynput name of the key that types `symbol`: the inverse of `symbol_of_key` on the symbols."""
    return next((name for name, known in _KEY_NAMES.items() if known == symbol), symbol)


def clean_text(text: str) -> str:
    """`text` in symbols: characters that have one are mapped, all others dropped. Cleaning twice changes nothing."""
    return "".join(filter(None, map(symbol_of_character, text)))


def labels_of_text(text: str) -> list[int]:
    """The labels of a string of symbols. Any other character raises `KeyError`: clean the text first."""
    return [_LABELS[character] for character in text]


def text_of_labels(labels: Iterable[int]) -> str:
    """The string of symbols of `labels`, each in 0..97: the blank has no symbol."""
    return "".join(SYMBOLS[label] for label in labels)


def screen_text(labels: Iterable[int]) -> str:
    """What the screen shows after the keys `labels`: backspaces remove the symbol before them, shift is dropped."""
    shown: list[str] = []
    for symbol in text_of_labels(labels):
        if symbol == BACKSPACE:
            del shown[-1:]
        elif symbol != SHIFT:
            shown.append(symbol)
    return "".join(shown)
