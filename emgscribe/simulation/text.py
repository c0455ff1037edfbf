"""Prompts to type: four lower-case words as in the data set, or a mixture with capitals, digits and punctuation.

Words and their frequencies come from the `wordfreq` package (Speer 2022; code Apache-2.0, frequencies CC BY-SA 4.0),
a dependency, not copied here. Sentences have the letters, the words and some of the syntax of English, but no meaning.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import numpy as np

from emgscribe.data.charset import ENTER, clean_text, symbol_of_character
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.arrays import Float64, Rng

VOCABULARY_SIZE = 20_000
_WORD = re.compile(r"[a-z]{2,14}|[ai]")
# A demonstration must not swear.
_VULGAR = re.compile(r"fuck|shit|cunt|nigg|fag|bitch|whore|slut|rape|porn|cock|dick|nazi|asshole|penis|vagina|retard")

_CLOSED = {
    "D": "the the the a a this that my your his her our their some every no another each",
    "N": "i you he she it we they who nobody everyone",
    "A": "is was will can could would may might must should has had never always often",
    "P": "of of of to to in in for on with at by from about into over after before under between",
}
_JOINERS = ("and", "but", "or", "because", "while", "when", "if", "so")
# The shapes of clauses: a letter is a class of `_CLOSED`, W any word of the vocabulary.
_CLAUSES = ("D W A W", "N A W D W", "D W P D W", "N W D W", "D W W A W", "N A W P W", "D W A W P D W")
_MARKS = "#$%&*+-/=@^_~<>|\\`"
_PAIRS = ("()", "[]", "{}", '""', "''", "<>")

# Prompts as in the data set: half of them unrelated words, half pieces of an encyclopedia, and a pangram that recurs.
Prompts = Literal["words", "mixed"]
PANGRAM, _PANGRAM_EVERY = "the quick brown fox jumps over a lazy dog", 76
_WORDS_IN_PROMPT = 4
_RANDOM_WORDS = 8000  # the most frequent words, of which those of four letters and more are drawn, all equally likely
_ENCYCLOPEDIC = {
    "D": "the the the the the the a a a an his their this these many some most other",
    "P": "of of of of to to to in in in in for on as with by by at from from about over after",
    "V": "is is is was was are are were has had can may to be became known used made found born called often also",
    "C": "and and and that that which it it they he there or but who because when if not",
}
_FACTS = ("D W P D W V W P W", "D W V P D W C D W", "W C W P D W", "C V D W P W", "P D W D W V D W", "C D W W V W")
_COMMA, _FULL_STOP = 0.027, 0.05  # the share of the words of a piece that have one after them


@cache
def vocabulary() -> tuple[str, ...]:
    """The words of the prompts, most frequent first."""
    import wordfreq  # takes a second, and few who import this module write prompts

    listed = wordfreq.top_n_list("en", VOCABULARY_SIZE * 2)
    return tuple(word for word in listed if _WORD.fullmatch(word) and not _VULGAR.search(word))[:VOCABULARY_SIZE]


@cache
def _cumulative_frequencies() -> Float64:
    # The square root flattens Zipf's law, so that a session has more than the few hundred most common words.
    import wordfreq

    weights = np.sqrt([wordfreq.word_frequency(word, "en") for word in vocabulary()])
    return np.asarray(np.cumsum(weights[:-1]) / weights.sum())


@cache
def _random_words() -> tuple[str, ...]:
    return tuple(word for word in vocabulary()[:_RANDOM_WORDS] if len(word) >= 4)


def prompts_of_text(text: str) -> tuple[str, ...]:
    """The lines of a text as prompts, each with ⏎ at its end; typographic and accented characters become plain ones.

    Raises `EmgscribeError` for an empty text and for a character that no key types, which it names with its line.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if unknown := {ascii(character) for character in line if symbol_of_character(character) is None}:
            named, where = ", ".join(sorted(unknown)), f"text, line {number}"
            raise EmgscribeError(f"no key types {named}", where=where, hint="replace or remove it")
    prompts = tuple(clean_text(line) + ENTER for line in text.splitlines() if line)
    if not prompts:
        raise EmgscribeError("there is nothing to type", where="text", hint="give at least one line")
    return prompts


class PromptWriter:
    """Makes up prompts from one random generator, in one of two styles.

    `words` is that of the data set: four lower-case words, drawn at random or a piece of a running text. `mixed` has
    sentences, words, and strings of digits and punctuation, with capitals.
    """

    def __init__(self, rng: Rng, prompts: Prompts = "words") -> None:
        self._rng, self._mixed, self._count = rng, prompts == "mixed", 0

    def next_prompt(self) -> str:
        """About 30 characters and a final ⏎."""
        self._count += 1
        if self._mixed:
            write = self._rng.choice(np.array([0, 1, 2]), p=[0.6, 0.3, 0.1])
            return (self._sentence, self._words, self._string)[write]() + ENTER
        if self._count % _PANGRAM_EVERY == 1:
            return PANGRAM + ENTER
        return (self._piece() if self._chance(0.5) else " ".join(self._unrelated())) + ENTER

    def _unrelated(self) -> list[str]:
        words = _random_words()
        return [words[place] for place in self._rng.integers(len(words), size=_WORDS_IN_PROMPT)]

    def _piece(self) -> str:
        """Four neighbouring words of a running text in the style of an encyclopedia."""
        text = [word for _ in range(2) for word in self._filled(self._one_of(_FACTS), _ENCYCLOPEDIC)]
        first = int(self._rng.integers(len(text) - _WORDS_IN_PROMPT + 1))
        dice = self._rng.random(_WORDS_IN_PROMPT)
        marks = ["," if d < _COMMA else "." if d < _COMMA + _FULL_STOP else "" for d in dice]
        return " ".join(word + mark for word, mark in zip(text[first:], marks, strict=False))

    def _filled(self, shape: str, closed: Mapping[str, str]) -> list[str]:
        """The shape of a clause with its letters replaced by words, W by any word of the vocabulary."""
        return [self._open_word() if slot == "W" else self._one_of(closed[slot].split()) for slot in shape.split()]

    def _one_of(self, options: Sequence[str]) -> str:
        return options[int(self._rng.integers(len(options)))]

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _open_word(self) -> str:
        return vocabulary()[bisect_left(_cumulative_frequencies(), self._rng.random())]

    def _words(self) -> str:
        """Unrelated words: half of the time by frequency, else with every word of the vocabulary equally likely."""
        rare, count = self._chance(0.5), self._rng.integers(2, 6)
        words = [self._one_of(vocabulary()) if rare else self._open_word() for _ in range(count)]
        return " ".join(word.capitalize() if self._chance(0.08) else word for word in words)

    def _clause(self) -> list[str]:
        return self._filled(self._one_of(_CLAUSES), _CLOSED)

    def _sentence(self) -> str:
        words = self._clause()
        if self._chance(0.2):
            if self._chance(0.6):
                words[-1] += ","
            words += [self._one_of(_JOINERS), *self._clause()[:3]]
        words = ["I" if word == "i" else self._decorated(word) for word in words]
        words[0] = words[0][0].upper() + words[0][1:]
        end = self._rng.choice(np.array([".", "?", "!", ";", "..."]), p=[0.76, 0.1, 0.08, 0.03, 0.03])
        return " ".join(words) + str(end)

    def _decorated(self, word: str) -> str:
        """The word, now and then with a capital, possessive, hyphen or quotes, or replaced by a number."""
        dice = self._rng.random()
        if dice < 0.03:
            return word.capitalize()
        if dice < 0.045:
            return str(self._rng.integers(1, 3000))
        if dice < 0.06 and word[-1].isalpha():
            return word + "'s"
        if dice < 0.068 and word[-1].isalpha():
            return f"{word}-{self._open_word()}"
        return f'"{word}"' if dice < 0.075 else word

    def _string(self) -> str:
        return " ".join(self._part() for _ in range(self._rng.integers(2, 4)))

    def _part(self) -> str:
        """Digits, marks and brackets with words, as in sums, prices, times, addresses and code."""
        number, word, pair = str(self._rng.integers(10, 100_000)), self._open_word(), self._one_of(_PAIRS)
        forms = (
            f"{number}{self._one_of(_MARKS)}{word}",
            f"{pair[0]}{word}{pair[1]}",
            f"{self._rng.integers(24)}:{self._rng.integers(60):02d}",
            f"{word}{self._one_of(_MARKS)}{self._open_word()}",
            f"${number[:3]}.{number[-2:]}",
            word.upper() if len(word) < 5 else word.capitalize(),
            number,
        )
        return self._one_of(forms)
