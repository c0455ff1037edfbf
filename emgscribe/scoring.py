"""Edits between hypothesis and reference -> CER, IER, DER, SER, WER, and how sure they are.

Conventions of speech recognition: an insertion is an extra character in the hypothesis, a deletion a missing one.
All rates are per cent of the reference's characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from emgscribe.data.charset import ENTER


@dataclass(frozen=True)
class Counts:
    """Edits that turn the reference into the hypothesis, and the reference's length. Counts add up.

    The unit is the character, or the word where `count_words` made them; the two are not for adding.
    """

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    length: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.length + other.length,
        )

    @property
    def edits(self) -> int:
        """All edits: the Levenshtein distance."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def cer(self) -> float:
        """Character error rate in per cent; NaN for an empty reference."""
        return self._rate(self.edits)

    @property
    def wer(self) -> float:
        """Word error rate in per cent, of counts of words."""
        return self._rate(self.edits)

    @property
    def ier(self) -> float:
        """Insertion error rate in per cent."""
        return self._rate(self.insertions)

    @property
    def der(self) -> float:
        """Deletion error rate in per cent."""
        return self._rate(self.deletions)

    @property
    def ser(self) -> float:
        """Substitution error rate in per cent."""
        return self._rate(self.substitutions)

    def _rate(self, edits: int) -> float:
        return 100.0 * edits / self.length if self.length else float("nan")


def side_by_side(reference: str, hypothesis: str) -> tuple[str, str, str]:
    """Reference and hypothesis at equal length, gaps filled with "·", and a line with I, D or S under each edit."""
    rows: list[tuple[str, str, str]] = []
    done_reference = done_hypothesis = 0
    end = Edit("", len(reference), len(hypothesis))
    for edit in [*align(reference, hypothesis), end]:
        same = reference[done_reference : edit.reference]
        rows += [(character, character, " ") for character in same]
        done_reference, done_hypothesis = edit.reference, done_hypothesis + len(same)
        if edit is end:
            break
        extra, missing = edit.kind == "insertion", edit.kind == "deletion"
        shown = "·" if extra else reference[done_reference], "·" if missing else hypothesis[done_hypothesis]
        rows.append((*shown, edit.kind[0].upper()))
        done_reference, done_hypothesis = done_reference + (not extra), done_hypothesis + (not missing)
    first, second, marks = ("".join(column) for column in zip(*rows, strict=True)) if rows else ("", "", "")
    return first, second, marks


@dataclass(frozen=True)
class Edit:
    """One edit: `kind` is insertion, deletion or substitution; positions in reference and hypothesis."""

    kind: str
    reference: int
    hypothesis: int


_KINDS = {"insert": "insertion", "delete": "deletion", "replace": "substitution"}


def align(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> list[Edit]:
    """The edits of a shortest path from reference to hypothesis, in order of their place."""
    operations = Levenshtein.editops(reference, hypothesis)
    return [Edit(_KINDS[op.tag], op.src_pos, op.dest_pos) for op in operations]


def count(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> Counts:
    """Counts of the edits between two sequences of labels or two strings."""
    return count_units(reference, hypothesis, np.zeros(len(reference), dtype=np.int64), 1)[0]


def count_words(reference: str, hypothesis: str) -> Counts:
    """Counts of the edits between the words of two texts, as a screen shows them (`charset.screen_text`).

    Words are what stands between spaces and enters; case and punctuation count. Rates of what is on the screen are to
    be told apart from those of keystrokes: a key too many and a backspace after it are two edits there and none here.
    """
    numbers: dict[str, int] = {}
    first, second = (
        [numbers.setdefault(word, len(numbers)) for word in text.replace(ENTER, " ").split()]
        for text in (reference, hypothesis)
    )
    return count(first, second)


def count_units(
    reference: Sequence[int] | str, hypothesis: Sequence[int] | str, unit: npt.NDArray[np.int64], units: int
) -> list[Counts]:
    """Counts for each of `units` parts of the reference; `unit` (len(reference),) says where each character belongs.

    The alignment is that of the whole, so the parts add up to it. An insertion belongs to the character before
    which it stands, at the end to the last one; with an empty reference, to unit 0.
    """
    table = np.zeros((units, 4), dtype=np.int64)
    np.add.at(table[:, 3], unit, 1)
    columns = {"insertion": 0, "deletion": 1, "substitution": 2}
    for edit in align(reference, hypothesis):
        place = unit[min(edit.reference, len(unit) - 1)] if len(unit) else 0
        table[place, columns[edit.kind]] += 1
    return [Counts(*map(int, row)) for row in table]


def total(counts: Sequence[Counts]) -> Counts:
    """The sum of counts."""
    return sum(counts, Counts())


def cer_interval(
    units: Sequence[Counts], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the CER in per cent, resampling whole units (prompts or windows).

    Errors cluster, so units, not characters, are exchangeable (Bisani and Ney 2004, "Bootstrap estimates for
    confidence intervals in ASR performance evaluation"). NaN where no unit has a character.
    """
    if not sum(unit.length for unit in units):
        return float("nan"), float("nan")
    low, high = np.quantile(_resampled_rates(units, resamples, seed), _tails(level))
    return float(low), float(high)


def cer_difference(
    first: Sequence[Counts], second: Sequence[Counts], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """CER of `first` minus CER of `second` in points, and the percentile bootstrap interval of that difference.

    Unit i of both is the same stretch of the same session, read by two systems, and each resample draws the same units
    for both: what is hard for both cancels, so the interval is narrower than two separate ones suggest (Bisani and Ney
    2004). An interval without 0 is a difference that these sessions show. NaN where no unit has a character.
    """
    assert len(first) == len(second), "paired units are as many on both sides"
    one, other = total(first), total(second)
    if not (one.length and other.length):
        return (float("nan"),) * 3
    differences = _resampled_rates(first, resamples, seed) - _resampled_rates(second, resamples, seed)
    low, high = np.quantile(differences, _tails(level))
    return one.cer - other.cer, float(low), float(high)


def _resampled_rates(units: Sequence[Counts], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """CER (resamples,) of units drawn with replacement; as many units and the same seed draw the same ones."""
    edits = np.array([unit.edits for unit in units])
    lengths = np.array([unit.length for unit in units])
    drawn = np.random.default_rng(seed).integers(len(units), size=(resamples, len(units)))
    # A resample that holds no reference character at all would have no rate: it is taken as one character long.
    rates: npt.NDArray[np.float64] = 100.0 * edits[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1)
    return rates


def _tails(level: float) -> list[float]:
    tail = (1 - level) / 2
    return [tail, 1 - tail]
