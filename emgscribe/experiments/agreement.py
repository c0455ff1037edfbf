"""How far conclusions from simulated sessions agree with those from recordings.

A trend is the ratio of two CERs, such as that of half the electrodes to that of all, or one CER in per cent.
`docs/results/paper.json` has the published ones, and names our experiments that show the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, sqrt
from statistics import mean
from typing import Any

from emgscribe.experiments.results import Row
from emgscribe.scoring import cer_ratio


@dataclass(frozen=True)
class Trend:
    """A trend on recordings, from the lowest to the highest published value, and on simulated sessions.

    The simulated one is the CER of the row `of`, divided by that of the row `to` where there is one.
    """

    what: str
    published: tuple[float, float]
    of: Row
    to: Row | None
    note: str

    @cached_property  # a bootstrap
    def simulated(self) -> tuple[float, float, float]:
        """The simulated trend and its 95 % interval."""
        if self.to is None:
            return self.of.cer, *self.of.interval
        return cer_ratio(list(self.of.units.values()), [self.to.units[segment] for segment in self.of.units])

    @property
    def distance(self) -> float:
        """ln(simulated / published), with the geometric mean of the published values."""
        return log(self.simulated[0] / sqrt(self.published[0] * self.published[1]))

    def record(self) -> dict[str, str]:
        """A row of a table, column -> text."""
        lowest, highest = self.published
        value, low, high = self.simulated
        unit, rows = (" %", [self.of]) if self.to is None else ("", [self.of, self.to])
        return {
            "what": self.what,
            "recordings": (f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}") + unit,
            "simulated": f"{value:.2f}{unit}",
            "95 % interval": f"{low:.2f}–{high:.2f}",
            "simulated CERs, %": " : ".join(f"{row.cer:.1f}" for row in rows),
            "ln ratio": f"{self.distance:+.2f}",
            "recordings of": self.note,
        }


def trends(published: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> tuple[list[Trend], list[str]]:
    """The published trends that simulated rows show, and those without a result yet; a name alone is a greedy row.

    A ratio needs two rows that were tested on the same sessions. Of an experiment that was tested on several sets of
    sessions, the first row counts.
    """
    named = [row for row in reversed(rows) if not row.run.changes]
    by_name = {f"{row.name}:{row.decoder}": row for row in named}
    by_name |= {row.name: row for row in named if row.decoder == "greedy"}
    found, lacking = list[Trend](), list[str]()
    for trend in published:
        values = trend["ratio"] if "to" in trend else trend["cer"]
        needed = [by_name.get(trend[part]) for part in ("of", "to") if part in trend]
        if all(row is not None and row.cer > 0 for row in needed):
            of, to = [*needed, None][:2]
            assert of is not None
            if to is not None and not of.pairs_with(to):
                lacking.append(f"{trend['what']} ({of.label} was tested on other sessions than {to.label})")
                continue
            found.append(Trend(trend["what"], tuple(values), of, to, trend.get("note", "")))
        else:
            lacking.append(trend["what"])
    return found, lacking


def agreement(found: Sequence[Trend]) -> tuple[float, float, Trend]:
    """The agreement error, the mean of |ln(simulated / published)|; the trend furthest off, and by which factor."""
    furthest = max(found, key=lambda trend: abs(trend.distance))
    return mean(abs(trend.distance) for trend in found), exp(abs(furthest.distance)), furthest


def summary(found: Sequence[Trend]) -> str:
    """The agreement in words."""
    error, factor, furthest = agreement(found)
    return (
        f"Agreement error over {len(found)} trends: the mean of |ln(simulated / recordings)| is {error:.2f}."
        f" Furthest off, by a factor of {factor:.2f}: {furthest.what}."
    )
