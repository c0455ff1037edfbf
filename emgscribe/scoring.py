"""Edits between hypothesis and reference -> CER, IER, DER, SER, WER and their intervals.

An insertion is an extra character in the hypothesis, a deletion a missing one, as in speech recognition. Sivakumar et
al. 2024 name the two the other way round: their published IER is our DER, and their DER our IER.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, isnan

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from emgscribe.data.charset import ENTER

_MANY = 50  # segments, from which on their mean is taken as normal
Resampled = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Edits that turn the reference into the hypothesis, and the reference's length. Counts can be added.

    The unit is the character, or the word where `count_words` made them; do not add the two. Rates are in per cent of
    the length, NaN for an empty reference.
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

    def __radd__(self, other: object) -> "Counts":  # `sum` begins with 0
        return self if other == 0 else NotImplemented

    @property
    def edits(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def cer(self) -> float:
        return self._rate(self.edits)

    wer = cer  # where words were counted

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
    first = second = below = ""
    for block in Levenshtein.opcodes(reference, hypothesis):
        wanted, got = reference[block.src_start : block.src_end], hypothesis[block.dest_start : block.dest_end]
        length = max(len(wanted), len(got))
        first, second = first + wanted.ljust(length, "·"), second + got.ljust(length, "·")
        below += marks[block.tag] * length
    return first, second, below


def count(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> Counts:
    """Counts of the edits between two sequences of labels or two strings."""
    return count_units(reference, hypothesis, np.zeros(len(reference), dtype=np.int64), 1)[0]


def count_words(reference: str, hypothesis: str) -> Counts:
    """Counts of the edits between the words of two texts, as a screen shows them (`charset.screen_text`).

    Spaces and enters separate words; case and punctuation count. Do not mix rates of the screen with rates of
    keystrokes: an extra key and the backspace after it are two edits of keystrokes, and none on the screen.
    """
    numbers: dict[str, int] = {}
    words = [text.replace(ENTER, " ").split() for text in (reference, hypothesis)]
    return count(*([numbers.setdefault(word, len(numbers)) for word in text] for text in words))


def count_units(
    reference: Sequence[int] | str, hypothesis: Sequence[int] | str, unit: npt.NDArray[np.int64], units: int
) -> list[Counts]:
    """Counts for each of `units` parts of the reference; `unit` (len(reference),) gives the part of each character.

    The texts are aligned as a whole, so the parts add up to the whole. An insertion belongs to the character that it
    precedes, at the end to the last one; with an empty reference, to unit 0.
    """
    table = np.zeros((units, 4), dtype=np.int64)
    np.add.at(table[:, 3], unit, 1)
    for edit in Levenshtein.editops(reference, hypothesis):
        place = unit[min(edit.src_pos, len(unit) - 1)] if len(unit) else 0
        table[place, ("insert", "delete", "replace").index(edit.tag)] += 1
    return [Counts(*row) for row in table.tolist()]


def total(counts: Sequence[Counts]) -> Counts:
    """The sum of counts."""
    return sum(counts, Counts())


def cer_interval(units: Sequence[Counts]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the CER in per cent, resampling whole units (segments or windows).

    Errors cluster, so units, not characters, are exchangeable (Bisani and Ney 2004, "Bootstrap estimates for
    confidence intervals in ASR performance evaluation"). NaN where fewer than two units have characters.
    """
    return percentile_interval(resampled_cers(units))


def cer_difference(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[float, float, float]:
    """CER of `first` minus CER of `second` in points, and the 95 % percentile bootstrap interval of that difference.

    Unit i of both is the same segment of the same session, read by two systems, and each resample draws the same units
    for both. What is hard for both cancels, so the interval is narrower than two separate ones suggest (Bisani and Ney
    2004). An interval that excludes 0 shows a difference on these sessions. NaN where no unit has a character, and the
    interval where fewer than two have some.
    """
    assert len(first) == len(second), "both sides need the same number of paired units"
    return total(first).cer - total(second).cer, *percentile_interval(resampled_cers(first) - resampled_cers(second))


def probability_of_improvement(first: Resampled, second: Resampled) -> float:
    """The share of paired resamples (`resampled_cers`) in which `first` has a lower CER; equal ones count half.

    Source: Bisani and Ney 2004.
    """
    return float(np.mean((first < second) + 0.5 * (first == second)))


def errors_at(reference: Sequence[int] | str, hypothesis: Sequence[int] | str) -> npt.NDArray[np.float64]:
    """How many edits there are at each character of the reference: (len(reference) + 1,).

    An insertion counts at the character that it precedes; the last place is for those at the end.
    """
    places = [edit.src_pos for edit in Levenshtein.editops(reference, hypothesis)]
    return np.bincount(places, minlength=len(reference) + 1).astype(np.float64)


def matched_pairs(
    first: Sequence[npt.NDArray[np.float64]], second: Sequence[npt.NDArray[np.float64]]
) -> tuple[int, float]:
    """The matched-pairs test of two systems (MAPSSWE): its number of segments, and the two-sided p.

    `first` and `second` are what `errors_at` found in the same texts. Two or more characters that both systems get
    right separate two segments. The differences of segments are taken as independent and, from fifty on, their mean as
    normal (Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms"; NIST's
    sclite). Fewer are compared with themselves at random signs. NaN where fewer than two segments have an error.
    """
    found = list[float]()
    for one, other in zip(first, second, strict=True):
        places = np.flatnonzero((one > 0) | (other > 0))
        if len(places):
            starts = np.flatnonzero(np.diff(places, prepend=-3) > 2)
            found += np.add.reduceat((one - other)[places], starts).tolist()
    differences = np.array(found)
    if len(differences) < 2:
        return len(differences), np.nan
    if len(differences) < _MANY:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (9999, len(differences)))
        as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
        return len(differences), float(1 + as_large.sum()) / 10_000
    spread = differences.std(ddof=1) / np.sqrt(len(differences))
    if not spread:
        return len(differences), float(not differences.any())
    return len(differences), erfc(abs(differences.mean()) / spread / np.sqrt(2))


def cer_ratio(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[float, float, float]:
    """CER of `first` divided by that of `second`, and its 95 % percentile bootstrap interval.

    Units are paired, as in `cer_difference`, where both sides have the same number of them. A resample of `second`
    without an error counts as one with a single error. NaN where `second` has no error.
    """
    one, other = total(first), total(second)
    if not other.edits:
        return np.nan, np.nan, np.nan
    return one.cer / other.cer, *percentile_interval(
        resampled_cers(first) / np.maximum(resampled_cers(second), 100.0 / other.length)
    )


def percentile_interval(values: Resampled) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN where these are NaN."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def interval_text(interval: tuple[float, float], form: str = "{:.2f} to {:.2f}") -> str:
    """The two ends of an interval, or that one segment has no interval."""
    return "unknown, one segment" if isnan(interval[0]) else form.format(*interval)


def resampled_cers(*groups: Sequence[Counts]) -> Resampled:
    """CER (2000,) of units drawn with replacement; the mean over several groups of units, such as people.

    Groups with equal numbers of units always get the same draws, so that two systems are paired. NaN where a group has
    fewer than two units with characters.
    """
    rates: Resampled = np.mean([_resampled(units, seed) for seed, units in enumerate(groups)], axis=0)
    return rates


def _resampled(units: Sequence[Counts], seed: int) -> Resampled:
    if sum(unit.length > 0 for unit in units) < 2:
        return np.full(2000, np.nan)
    edits, lengths = np.array([(unit.edits, unit.length) for unit in units]).T
    generator, rates = np.random.default_rng(seed), []
    for part in np.array_split(np.arange(2000), min(2000, 1 + len(units) // 500)):  # a few MB at a time
        drawn = generator.integers(len(units), size=(len(part), len(units)))
        # A resample without any reference character would have no rate: it counts as one character long.
        rates.append(100.0 * edits[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1))
    return np.concatenate(rates)
