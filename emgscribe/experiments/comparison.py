"""Two rows tested on the same segments: how much they differ, and how surely."""

from collections.abc import Sequence
from itertools import product
from math import isnan
from typing import NamedTuple

from emgscribe.errors import EmgscribeError
from emgscribe.experiments.results import Row
from emgscribe.experiments.tables import KINDS, Table
from emgscribe.scoring import interval_text, matched_pairs, percentile_interval, probability_of_improvement


def compare(found: Sequence[Table], first: str, second: str) -> list[str]:
    """CER of one experiment minus that of another, wherever both were tested on the same data: a sentence each.

    "demo:beam" is the experiment demo as the decoder beam reads it; unless both name one, only rows of the same decoder
    are compared. Raises `EmgscribeError` where an experiment has no result, or the two share no test session.
    """
    rows = [row for table in found for row in table.rows]
    named = [[row for row in rows if wanted in names_of(row)] for wanted in (first, second)]
    for wanted, chosen in zip((first, second), named, strict=True):
        if not chosen:
            known = ", ".join(sorted({name for row in rows for name in names_of(row)}))
            raise EmgscribeError(f"no result of {wanted!r} to compare", hint=f"name two of: {known}")
    free = ":" not in first or ":" not in second
    pairs = [(one, other) for one, other in product(*named) if alike(one, other, same_decoder=free)]
    if not pairs:
        what = f"{first} and {second} were not tested on the same sessions by the same decoder"
        raise EmgscribeError(what, hint="run both with the same --data, and compare results of the same kind of data")
    return [_difference(one, other) for one, other in pairs]


class Paired(NamedTuple):
    """How two rows differ on the same segments; `better` is the share of resamples in which the first has a lower CER.

    `p` is that of matched pairs (MAPSSWE) over `parts` segments of that test.
    """

    interval: tuple[float, float]
    better: float
    parts: int
    p: float

    @classmethod
    def of(cls, one: Row, other: Row) -> "Paired":
        segments = sorted(one.units)
        resampled = one.resampled(segments), other.resampled(segments)
        pairs = matched_pairs(*([row.errors[text] for text in sorted(one.errors)] for row in (one, other)))
        interval = percentile_interval(resampled[0] - resampled[1])
        return cls(interval, 100 * probability_of_improvement(*resampled), *pairs)

    @property
    def chance(self) -> str:
        return "too few for a p" if isnan(self.p) else "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"


def _difference(one: Row, other: Row) -> str:
    paired = Paired.of(one, other)
    low, high = paired.interval
    shown = interval_text(paired.interval, "{:+.2f} to {:+.2f}")
    return (
        f"{one.label} {one.cer:.2f} %, {other.label} {other.cer:.2f} % ({KINDS[one.run.data.kind]},"
        f" {' and '.join(dict.fromkeys((one.decoder, other.decoder)))}): difference {one.cer - other.cer:+.2f} points,"
        f" 95 % interval {shown}, paired bootstrap over {len(one.units)} {one.evaluation.unit};"
        f" {one.label} is better in {paired.better:.1f} % of its resamples."
        f" The interval shows {'a' if low > 0 or high < 0 else 'no'} difference in these sessions."
        f" Matched pairs (MAPSSWE) over {paired.parts} segment{'s' * (paired.parts != 1)}: {paired.chance}"
    )


def names_of(row: Row) -> set[str]:
    """What a user calls a row: its experiment, with or without the decoder."""
    return {row.name, f"{row.name}:{row.decoder}"}


def alike(one: Row, other: Row, *, same_decoder: bool) -> bool:
    """Whether two rows can be compared: other scores of the same segments, by the same decoder where that is asked."""
    kinds = {(row.run.data.kind, same_decoder and row.decoder) for row in (one, other)}
    return len(kinds) == 1 and one.pairs_with(other) and one is not other
