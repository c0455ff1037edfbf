import math
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.scoring import (
    Counts,
    cer_difference,
    cer_interval,
    cer_ratio,
    count,
    count_units,
    count_words,
    errors_at,
    interval_text,
    matched_pairs,
    percentile_interval,
    probability_of_improvement,
    resampled_cers,
    side_by_side,
    total,
)

TEXTS = st.text("abcd", max_size=12)
COUNTS = st.builds(Counts, *[st.integers(0, 50)] * 4)


def distance(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Levenshtein distance by the textbook recurrence."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


@given(TEXTS, TEXTS)
def test_counts_match_the_textbook_edit_distance(reference: str, hypothesis: str) -> None:
    counts = count(reference, hypothesis)
    assert counts.edits == counts.insertions + counts.deletions + counts.substitutions
    assert counts.edits == distance(reference, hypothesis)
    assert len(hypothesis) == counts.length + counts.insertions - counts.deletions
    assert counts.length == len(reference)
    assert counts == count(list(map(ord, reference)), tuple(map(ord, hypothesis)))  # labels are counted like text


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("abc", "abxc", Counts(insertions=1, length=3)),  # an extra character in the hypothesis
        ("abc", "ac", Counts(deletions=1, length=3)),
        ("abc", "axc", Counts(substitutions=1, length=3)),
        ("abc", "abc", Counts(length=3)),
        ("abc", "", Counts(deletions=3, length=3)),
        ("", "abc", Counts(insertions=3, length=0)),
        ("", "", Counts()),
        ("abc", "ABC", Counts(substitutions=3, length=3)),
        ("a⌫b", "ab", Counts(deletions=1, length=3)),  # backspace is a character like all others
    ],
)
def test_counts_follow_the_conventions_of_speech_recognition(reference: str, hypothesis: str, counts: Counts) -> None:
    assert count(reference, hypothesis) == counts


def test_rates_are_per_cent_of_the_reference() -> None:
    counts, nothing = Counts(insertions=1, deletions=2, substitutions=5, length=40), Counts(insertions=3)
    assert (counts.cer, counts.ier, counts.der, counts.ser) == (20.0, 2.5, 5.0, 12.5)
    assert all(math.isnan(rate) for rate in (nothing.cer, nothing.ier, nothing.der, nothing.ser))


@given(TEXTS, TEXTS, st.integers(1, 4), st.data())
def test_units_add_up_to_the_whole(reference: str, hypothesis: str, units: int, data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, units - 1), min_size=len(reference), max_size=len(reference))
    unit = np.array(sorted(data.draw(numbers)), dtype=np.int64)
    parts = count_units(reference, hypothesis, unit, units)
    assert len(parts) == units
    assert total(parts) == count(reference, hypothesis)
    assert [part.length for part in parts] == np.bincount(unit, minlength=units).tolist()


def test_edits_belong_to_the_unit_where_they_are() -> None:
    unit = np.array([0, 0, 1, 1, 2, 2])
    assert count_units("abcdef", "Xbcef", unit, 3) == [
        Counts(substitutions=1, length=2),
        Counts(deletions=1, length=2),
        Counts(length=2),
    ]
    assert count_units("abcdef", "abXcdef", unit, 3)[1].insertions == 1  # before c, so c's unit
    assert count_units("abcdef", "abcdefXY", unit, 4)[2].insertions == 2  # at the end: the last character's unit
    assert count_units("", "XY", np.array([], dtype=np.int64), 2) == [Counts(insertions=2), Counts()]


@given(st.text("abc·", max_size=10), TEXTS)
def test_side_by_side_agrees_with_the_counts(reference: str, hypothesis: str) -> None:
    first, second, marks = side_by_side(reference, hypothesis)
    assert len(first) == len(second) == len(marks)
    assert Counts(*map(marks.count, "IDS"), len(reference)) == count(reference, hypothesis)
    assert "".join(c for c, mark in zip(first, marks, strict=True) if mark != "I") == reference
    assert "".join(c for c, mark in zip(second, marks, strict=True) if mark != "D") == hypothesis
    meaning = {
        " ": lambda a, b: a == b,
        "S": lambda a, b: a != b,
        "I": lambda a, b: a == "·",
        "D": lambda a, b: b == "·",
    }
    assert all(meaning[mark](*pair) for *pair, mark in zip(first, second, marks, strict=True))
    assert side_by_side("abcd", "aXcde") == ("abcd·", "aXcde", " S  I")


def some_units(number: int, seed: int = 0) -> list[Counts]:
    """Segments of 20 to 60 characters with about one error in five."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 60, number)
    return [Counts(0, 0, int(rng.binomial(length, 0.2)), int(length)) for length in lengths]


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_estimate_and_is_repeatable(seed: int) -> None:
    units = some_units(40, seed)
    low, high = cer_interval(units)
    assert low < total(units).cer < high
    assert cer_interval(units) == (low, high)
    # About two standard errors to either side: sqrt(p (1 - p) / n) of some 1600 characters is 1 point.
    assert 2 < high - low < 6
    widths = [high - low for low, high in (cer_interval(some_units(number)) for number in (200, 50, 12))]
    assert widths == sorted(widths)


def test_the_interval_resamples_units_not_characters() -> None:
    clustered = [Counts(0, 0, 30, 30)] * 2 + [Counts(0, 0, 0, 30)] * 8
    spread = [Counts(0, 0, 6, 30)] * 10
    assert cer_interval(spread) == (20.0, 20.0)
    low, high = cer_interval(clustered)
    assert (low, high) == (0.0, 50.0)  # the 2.5 % points of binomial(10, 0.2) / 10


def test_resampling_in_parts_gives_the_interval_of_resampling_at_once() -> None:
    units = some_units(2000)
    drawn = np.random.default_rng(0).integers(2000, size=(2000, 2000))
    edits, lengths = np.array([(unit.edits, unit.length) for unit in units]).T
    rates = 100 * edits[drawn].sum(axis=1) / lengths[drawn].sum(axis=1)
    assert cer_interval(units) == tuple(np.quantile(rates, [0.025, 0.975]))


def test_an_interval_without_characters_is_not_a_number() -> None:
    assert all(math.isnan(bound) for bound in (*cer_interval([]), *cer_difference([Counts()], [Counts()])))
    assert all(math.isnan(bound) for bound in cer_interval([Counts(insertions=2), Counts()]))
    low, high = cer_interval([Counts(insertions=1), Counts(substitutions=1, length=10), Counts(length=10)])
    assert 0 <= low <= high
    assert math.isfinite(high)


@given(st.lists(COUNTS, min_size=2, max_size=12), st.integers(1, 20))
def test_a_difference_that_is_the_same_in_every_unit_is_certain(units: list[Counts], more: int) -> None:
    units = [Counts(u.insertions, u.deletions, u.substitutions, 40) for u in units]
    worse = [u + Counts(substitutions=more) for u in units]
    assert np.allclose(cer_difference(worse, units), 100 * more / 40)


def test_pairs_tell_apart_what_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(3)
    hard = rng.integers(0, 25, 60)  # errors that both make: segments differ much
    one, other = (
        [Counts(substitutions=int(n), length=50) for n in errors] for errors in (hard, hard + rng.integers(0, 3, 60))
    )
    difference, low, high = cer_difference(other, one)
    assert 0 < low < difference < high < 4
    assert cer_interval(other)[0] < cer_interval(one)[1]  # apart they overlap
    assert high - low < min(np.diff(cer_interval(units))[0] for units in (one, other)) / 2


@given(st.text("abc ", max_size=30), st.text("abc ", max_size=30))
def test_edits_have_places_that_add_up(reference: str, hypothesis: str) -> None:
    places = errors_at(reference, hypothesis)
    assert len(places) == len(reference) + 1
    assert places.sum() == count(reference, hypothesis).edits


def test_matched_pairs_are_split_where_both_are_right() -> None:
    reference = "the quick brown fox jumps"
    one = errors_at(reference, "the qUIck brXwn fox jumpss")
    other = errors_at(reference, "the quick brXwn FOx jumps")
    # "UI", "X", "FO", "s": differences 2, 0, -2, 1
    assert matched_pairs([one], [other])[0] == 4
    count, p = matched_pairs([one] * 15, [other] * 15)
    assert count == 60
    mean, spread = 0.25, np.std([2, 0, -2, 1] * 15, ddof=1) / 60**0.5
    assert p == pytest.approx(2 * NormalDist().cdf(-mean / spread))
    assert matched_pairs([one] * 3, [one] * 3) == (9, 1.0)
    assert matched_pairs([2 * one] * 5, [one] * 5)[1] < 0.001
    assert math.isnan(matched_pairs([errors_at("a", "b")], [errors_at("a", "a")])[1])


@pytest.mark.parametrize("differences", [[1, 1], [2, 1, 1], [3, -1, 2, 2, 1], [1] * 12])
def test_few_matched_pairs_are_tested_by_the_signs_of_their_differences(differences: list[int]) -> None:
    one, other = ([np.array([max(0.0, sign * each)]) for each in differences] for sign in (1, -1))
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    exact = np.mean(np.array(sums) >= abs(sum(differences)))
    count, p = matched_pairs(one, other)
    assert count == len(differences)
    assert p == pytest.approx(exact, abs=0.02)
    assert p > 0


def test_matched_pairs_find_chance_differences_as_often_as_p_predicts() -> None:
    """Two systems that are equally good: p is below 0.1 in a tenth of the comparisons."""
    rng = np.random.default_rng(0)
    found = [matched_pairs([(rng.random(1000) < 0.1) * 1.0], [(rng.random(1000) < 0.1) * 1.0])[1] for _ in range(500)]
    assert 0.06 < np.mean(np.array(found) < 0.1) < 0.14
    assert 0.42 < np.median(found) < 0.58


def test_the_probability_of_improvement_counts_resamples() -> None:
    units = some_units(40, 1)
    one, other = resampled_cers(units), resampled_cers(some_units(40, 2))
    share = probability_of_improvement(one, other)
    assert 0 < share < 1
    assert probability_of_improvement(other, one) == pytest.approx(1 - share)
    assert probability_of_improvement(one, one) == 0.5
    better = [Counts(0, 0, unit.substitutions, unit.length + 5) for unit in units]
    worse = [unit + Counts(deletions=9) for unit in units]
    assert probability_of_improvement(resampled_cers(better), resampled_cers(worse)) == 1


def test_the_interval_of_a_mean_over_people_surrounds_it() -> None:
    """A person who typed little counts as much as one who typed a lot."""
    much, little = [Counts(substitutions=5, length=100)] * 60, [Counts(substitutions=n, length=10) for n in (4, 6) * 3]
    low, high = percentile_interval(resampled_cers(much, little))
    assert 20 < low < (5 + 50) / 2 < high < 35
    assert cer_interval(much + little)[1] < 20
    one, other = resampled_cers(some_units(9, 1)), resampled_cers(some_units(9, 1), some_units(9, 1))
    assert np.std(other) < 0.9 * np.std(one)  # the draws of two people differ


def test_one_segment_has_no_interval() -> None:
    for units in ([Counts(1, 2, 3, 40)], [Counts(1, 2, 3, 40), Counts(insertions=1)]):
        assert all(map(math.isnan, cer_interval(units)))
        assert interval_text(cer_interval(units)) == "unknown, one segment"
    assert interval_text(cer_interval([Counts(1, 2, 3, 40)] * 2)) == "15.00 to 15.00"


def test_counts_can_be_summed() -> None:
    assert sum([Counts(1, 2, 3, 4), Counts(length=6)]) == Counts(1, 2, 3, 10)


def test_a_ratio_is_paired_and_defined_where_the_second_has_errors() -> None:
    units = some_units(40, 1)
    twice = [Counts(2 * u.insertions, 2 * u.deletions, 2 * u.substitutions, u.length) for u in units]
    assert np.allclose(cer_ratio(twice, units), 2)
    _, low, high = cer_ratio(some_units(40, 2), units)
    assert low < 1 < high
    value, low, high = cer_ratio(units, [Counts(1, 0, 0, 10), *[Counts(0, 0, 0, 10)] * 3])
    assert low <= value <= high < math.inf
    assert all(math.isnan(value) for value in cer_ratio(units, [Counts(length=5)]))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0, 3)),
        ("the cat sat", " the  cat⏎sat ", (0, 0, 0, 3)),
        ("the cat sat", "the hat", (0, 1, 1, 3)),
        ("the cat⏎sat", "the cat, sat", (0, 0, 1, 3)),
        ("The cat", "the c at", (1, 0, 2, 2)),
        ("", "word", (1, 0, 0, 0)),
        ("one two", "", (0, 2, 0, 2)),
    ],
)
def test_word_errors_are_counted(reference: str, hypothesis: str, edits: tuple[int, int, int, int]) -> None:
    counts = count_words(reference, hypothesis)
    assert counts == Counts(*edits)
    assert math.isnan(counts.wer) if not edits[3] else counts.wer == 100 * sum(edits[:3]) / edits[3]
