"""Result files -> tables, one for each suite and kind of data, with published numbers where they are comparable.

Simulated and recorded results never share a table. A row exists only where a result file does.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import pstdev
from typing import Any, get_args

from emgscribe.data.hdf5 import shown_kind
from emgscribe.experiments.recipes import SUITES, Budget, Suite
from emgscribe.experiments.results import REAL, REAL_KEYS, SIMULATED, Row, RunResult, Score
from emgscribe.files import read_json
from emgscribe.scoring import interval_text

KINDS = {
    SIMULATED: shown_kind(simulated=True, real_keys=False),
    REAL_KEYS: shown_kind(simulated=True, real_keys=True),
    REAL: shown_kind(simulated=False, real_keys=False),
}
OTHER = Suite("other", "results that belong to no suite", ())
# In the installed package, else in the checkout that it runs from.
_PAPER = (Path(__file__).parents[1] / "paper.json", Path(__file__).parents[2] / "docs" / "results" / "paper.json")


@dataclass(frozen=True)
class Table:
    """The rows of one suite that have results, all simulated or all recorded; `published` per row, where comparable."""

    suite: Suite
    kind: str
    rows: tuple[Row, ...]
    published: tuple[float | None, ...]

    @property
    def title(self) -> str:
        suite = "other results" if self.suite is OTHER else self.suite.name
        return f"{suite}, {KINDS[self.kind]}"

    @property
    def recordings(self) -> tuple[float | None, ...]:
        """What was published of the rows on recordings, for tables of simulated sessions, which those are not."""
        return tuple(None if self.kind == REAL else _known(row) for row in self.rows)

    @property
    def best(self) -> Row:
        """The row with the lowest CER."""
        return min(self.rows, key=lambda row: row.cer)

    def short(self, row: Row) -> str:
        """A row's label without the suite, which the title names."""
        return row.label.removeprefix(f"{self.suite.name}/")

    def records(self) -> Iterator[dict[str, str]]:
        """One dictionary a row, column -> text; the same columns in every row."""
        unit = "user" if self.suite.over_users else "seed"
        for row, paper, known in zip(self.rows, self.published, self.recordings, strict=True):
            record = {"experiment": row.label, "decoder": row.decoder}
            if self.kind != REAL:
                record |= {"recordings %": "" if known is None else f"{known:g}"} if any(self.recordings) else {}
                record["simulated %"] = f"{row.cer:.2f}"
            else:
                record["published %"] = "" if paper is None else f"{paper:g}"
                record["ours %"] = f"{row.cer:.2f}"
                record["difference"] = "" if paper is None else f"{row.cer - paper:+.2f}"
            if self.suite.over_users:  # divided by their number, as in published tables
                record["deviation over users"] = f"{pstdev(row.cers.values()):.2f}"
            record["95 % interval"] = interval_text(row.interval, "{:.2f}–{:.2f}")
            record[f"each {unit}"] = ", ".join(f"{key}: {cer:.2f}" for key, cer in row.cers.items())
            texts = {(session.session, session.reference) for session in row.sessions}
            record["characters"] = str(sum(len(text) for _, text in texts))
            if self.kind == REAL:
                record["caveats"] = ", ".join((*row.caveats, *_incomplete(texts)))
            hashes = sorted({score.run.data.hash[:8] for score in row.scores})
            yield record | {"data": f"{self.kind}, {hashes[0] if len(hashes) == 1 else f'{len(hashes)} sets'}"}


def tables(results: Iterable[RunResult], only: str = "") -> list[Table]:
    """A table for each suite, or for `only` one, and kind of data; rows in the suite's order, results of no suite last.

    A suite has no table if an earlier suite's table has all of its results.
    """
    results, found, shown = list(results), list[Table](), set[RunResult]()
    for kind in (REAL, REAL_KEYS, SIMULATED):
        for suite in (*SUITES.values(), OTHER):
            members = _members([result for result in results if result.data.kind == kind], suite)
            if members and (suite.name == only or not (only or shown >= set(members))):
                shown |= set(members)
                rows = _rows(_comparable_scores(members, suite), suite)
                numbers = tuple(_published(row) if kind == REAL else None for row in rows)
                found.append(Table(suite, kind, rows, numbers))
    return found


def _members(results: Sequence[RunResult], suite: Suite) -> list[RunResult]:
    """The results of a suite's experiments, in its order."""
    if suite is OTHER:
        known = {experiment.name for each in SUITES.values() for experiment in each.experiments}
        return sorted((r for r in results if r.name not in known), key=lambda result: (result.name, result.seed))
    order = [experiment.name for experiment in suite.experiments]
    return sorted((r for r in results if r.name in order), key=lambda result: (order.index(result.name), result.seed))


def _comparable_scores(results: Sequence[RunResult], suite: Suite) -> Iterator[Score]:
    """What each decoder read; runs of a protocol other than the suite's only with sessions that the suite tests."""
    ours = {experiment.name for experiment in suite.experiments if experiment.data.protocol == suite.protocol}
    tested = {s.session for r in results if r.name in ours for test in r.test.values() for s in test.sessions}
    for result in results:
        whole = result.name in ours or not tested
        for decoder, evaluation in result.test.items():
            if sessions := tuple(s for s in evaluation.sessions if whole or s.session in tested):
                yield Score(result, decoder, sessions)


def _rows(scores: Iterable[Score], suite: Suite) -> tuple[Row, ...]:
    """One row for the runs that differ only in the seed, or the user. Seeds are of the same test sessions."""
    grouped = defaultdict[tuple[str, ...], dict[frozenset[tuple[str, str]], list[Score]]](dict)
    for score in scores:
        name = re.sub(r"/user\d+/", "/", score.run.name) if suite.over_users else score.run.name
        unit = score.run.test[score.decoder].unit
        texts = frozenset(() if suite.over_users else ((s.session, s.reference) for s in score.sessions))
        grouped[name, score.decoder, unit, *score.run.changes].setdefault(texts, []).append(score)
    rows = [
        Row(name, tuple(members), suite.over_users, _tested(members) if len(sets) > 1 else "")
        for (name, *_), sets in grouped.items()
        for members in sets.values()
    ]
    names = [row.name for row in rows]
    return tuple(sorted(rows, key=lambda row: (names.index(row.name), row.decoder)))


def _tested(scores: Sequence[Score]) -> str:
    """What tells these scores from others of the same experiment: the people, and the data's hash."""
    people = sorted({session.user for score in scores for session in score.sessions})
    return f"{'users' if len(people) > 1 else 'user'} {', '.join(people[:3])}, data {scores[0].run.data.hash[:8]}"


@cache
def published_numbers() -> dict[str, Any]:
    """`docs/results/paper.json`: published numbers by experiment, and bars, each with its split, decoder and source."""
    found: dict[str, Any] = read_json(next((path for path in _PAPER if path.exists()), _PAPER[-1]))
    return found


def _number(row: Row) -> dict[str, Any] | None:
    """What is published of a row's experiment, at whatever budget, and decoder: a test CER of whole sessions."""
    paper, bar = published_numbers(), row.name.replace("benchmark/", "users-0-7/")
    budget, _, name = row.name.partition("/")
    name = name if budget in get_args(Budget) else row.name
    numbers = paper["bars"].get(bar, ()) if row.over_users else paper["experiments"].get(name, ())
    wanted = {"part": "test", "protocol": "whole session", "decoder": row.decoder}
    found = (number for number in numbers if wanted.items() <= number.items())
    return None if row.run.changes else next(found, None)


def _known(row: Row) -> float | None:
    number = _number(row)
    return None if number is None else float(number["cer"])


def _published(row: Row) -> float | None:
    """The published CER of a row, if it is of the same sessions."""
    paper, number = published_numbers(), _number(row)
    if number is None:
        return None
    if row.over_users:
        recorded = any(score.run.data.protocol not in ("latest", "file") for score in row.scores)
        same = recorded and len(row.cers) == len(number.get("users", ()))
    else:
        same = {session.session for session in row.sessions} == {*paper["splits"][number["split"]].get("test", ())}
    return float(number["cer"]) if same else None


def _incomplete(texts: Collection[tuple[str, str]]) -> Iterator[str]:
    """Found and published numbers of characters, where they differ on exactly the published test sessions."""
    characters = sum(len(text) for _, text in texts)
    for split in published_numbers()["splits"].values():
        if {name for name, _ in texts} == {*split.get("test", ())} and characters != split["characters"]:
            yield f"{characters} of {split['characters']} characters"
