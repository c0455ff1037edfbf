"""Edits between hypothesis and reference -> CER, IER, DER, SER, WER and their intervals.

An insertion is an extra character in the hypothesis, a deletion a missing one, as in speech recognition. Sivakumar et
al. 2024 name the two the other way round: their published IER is our DER, and their DER our IER.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from emgscribe.data.charset import ENTER


@dataclass(frozen=True)
class Counts:
    """Edits that turn the reference into the hypothesis, and the reference's length. Counts add up.

    The unit is the character, or the word where `count_words` made them; do not add the two. Rates are per cent of the
    length, NaN for an empty reference.
    """

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    length: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def edits(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def cer(self) -> float:
        return self._rate(self.edits)

    wer = cer  # the word error rate, where words were counted

    @property
    def ier(self) -> float:
        return self._rate(self.insertions)

    @property
    def der(self) -> float:
        return self._rate(self.deletions)

    @property
    def ser(self) -> float:
        return self._rate(self.substitutions)

    def _rate(self, edits: int) -> float:
        return 100.0 * edits / self.length if self.length else float("nan")


def side_by_side(reference: str, hypothesis: str) -> tuple[str, str, str]:
    """Reference and hypothesis at equal length, gaps filled with "·", and a line with I, D or S under each edit."""
    marks = {"equal": " ", "insert": "I", "delete": "D", "replace": "S"}
    rows = ["", "", ""]
    for block in Levenshtein.opcodes(reference, hypothesis):
        parts = reference[block.src_start : block.src_end], hypothesis[block.dest_start : block.dest_end]
        length = max(map(len, parts))
        for row, part in enumerate((*parts, marks[block.tag] * length)):
            rows[row] += part.ljust(length, "·")
    return rows[0], rows[1], rows[2]


class Edit(NamedTuple):
    """One edit: `kind` is insertion, deletion or substitution; positions in reference and hypothesis."""

    kind: str
    reference: int
    hypothesis: int


def align(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> list[Edit]:
    """The edits of a shortest path from reference to hypothesis, in order of their place."""
    kinds = {"insert": "insertion", "delete": "deletion", "replace": "substitution"}
    return [Edit(kinds[op.tag], op.src_pos, op.dest_pos) for op in Levenshtein.editops(reference, hypothesis)]


def count(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> Counts:
    """Counts of the edits between two sequences of labels or two strings."""
    return count_units(reference, hypothesis, np.zeros(len(reference), dtype=np.int64), 1)[0]


def count_words(reference: str, hypothesis: str) -> Counts:
    """Counts of the edits between the words of two texts, as a screen shows them (`charset.screen_text`).

    Words stand between spaces and enters; case and punctuation count. Do not mix rates of the screen with rates of
    keystrokes: an extra key and the backspace after it are two edits there and none here.
    """
    numbers: dict[str, int] = {}
    words = [text.replace(ENTER, " ").split() for text in (reference, hypothesis)]
    return count(*([numbers.setdefault(word, len(numbers)) for word in text] for text in words))


def count_units(
    reference: Sequence[int] | str, hypothesis: Sequence[int] | str, unit: npt.NDArray[np.int64], units: int
) -> list[Counts]:
    """Counts for each of `units` parts of the reference; `unit` (len(reference),) gives the part of each character.

    The alignment is that of the whole, so the parts add up to it. An insertion belongs to the character before
    which it stands, at the end to the last one; with an empty reference, to unit 0.
    """
    table = np.zeros((units, 4), dtype=np.int64)
    np.add.at(table[:, 3], unit, 1)
    for edit in align(reference, hypothesis):
        place = unit[min(edit.reference, len(unit) - 1)] if len(unit) else 0
        table[place, ("insertion", "deletion", "substitution").index(edit.kind)] += 1
    return [Counts(*map(int, row)) for row in table]


def total(counts: Sequence[Counts]) -> Counts:
    """The sum of counts."""
    return sum(counts, Counts())


def cer_interval(
    units: Sequence[Counts], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the CER in per cent, resampling whole units (segments or windows).

    Errors cluster, so units, not characters, are exchangeable (Bisani and Ney 2004, "Bootstrap estimates for
    confidence intervals in ASR performance evaluation"). NaN where no unit has a character.
    """
    if not total(units).length:
        return float("nan"), float("nan")
    low, high = np.quantile(_resampled_rates(units, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cer_difference(
    first: Sequence[Counts], second: Sequence[Counts], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """CER of `first` minus CER of `second` in points, and the percentile bootstrap interval of that difference.

    Unit i of both is the same segment of the same session, read by two systems, and each resample draws the same units
    for both. What is hard for both cancels, so the interval is narrower than two separate ones suggest (Bisani and Ney
    2004). An interval without 0 shows a difference on these sessions. NaN where no unit has a character.
    """
    assert len(first) == len(second), "both sides need the same number of paired units"
    one, other = total(first), total(second)
    if not (one.length and other.length):
        return (float("nan"),) * 3
    differences = _resampled_rates(first, resamples, seed) - _resampled_rates(second, resamples, seed)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return one.cer - other.cer, float(low), float(high)


def _resampled_rates(units: Sequence[Counts], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """CER (resamples,) of units drawn with replacement; the same number of units and the same seed draw the same."""
    edits, lengths = np.array([(unit.edits, unit.length) for unit in units]).T
    drawn = np.random.default_rng(seed).integers(len(units), size=(resamples, len(units)))
    # A resample without any reference character would have no rate: it counts as one character long.
    rates: npt.NDArray[np.float64] = 100.0 * edits[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1)
    return rates
