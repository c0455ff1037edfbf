"""Evaluation files -> tables beside published numbers, Markdown, CSV and figures; and what the terminal shows of results.

Simulated and recorded results never share a table. A cell exists only where a result file does.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from emgscribe.data.charset import labels_of_text, screen_text
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Evaluation
from emgscribe.experiments.results import REAL, SIMULATED, Row, Run, read_results
from emgscribe.experiments.suites import EXPERIMENTS, SUITES
from emgscribe.files import read_json, replacing
from emgscribe.scoring import cer_difference, count, count_words, side_by_side, total

OTHER = "other"  # the table of results that belong to no suite
# In the installed package, else in the checkout that it runs from.
_PAPER = (Path(__file__).parent / "paper.json", Path(__file__).parents[2] / "docs" / "results" / "paper.json")
_WHY_NOT_BESIDE = (
    "SIMULATED: nobody typed these sessions. Published numbers are of recordings and are not shown here, since a rate"
    " on simulated EMG says nothing about them; rows compare with each other only."
)
_INTERVAL = (
    "Rates are CER in per cent. 95 % intervals resample the stretches of the test sessions, all seeds of a stretch"
    " together: they say what other text of the same sessions would do, not what another person or, behind a single"
    " seed, another training would."
)


@dataclass(frozen=True)
class Table:
    """The rows of one suite that have results, all simulated or all recorded; `published` per row, where comparable."""

    suite: str
    kind: str
    rows: tuple[Row, ...]
    published: tuple[float | None, ...]

    @property
    def title(self) -> str:
        """Suite and kind of data."""
        suite = "results of no suite" if self.suite == OTHER else self.suite
        return f"{suite}, {'SIMULATED sessions' if self.kind == SIMULATED else 'recorded sessions'}"

    def short(self, row: Row) -> str:
        """A row's label without the suite, which the title names."""
        return row.label.removeprefix(f"{self.suite}/")

    def records(self) -> list[dict[str, str]]:
        """One dictionary a row, column -> text; the same columns in every row."""
        return [self._record(row, paper) for row, paper in zip(self.rows, self.published, strict=True)]

    def _record(self, row: Row, paper: float | None) -> dict[str, str]:
        low, high = row.interval
        first, hashes = row.first, {run.data for run in row.runs}
        cer = f"{row.cer:.2f}"
        beside = {
            "published %": "" if paper is None else f"{paper:g}",
            "ours %": cer,
            "difference": "" if paper is None else f"{row.cer - paper:+.2f}",
        }
        return {
            "experiment": row.label,
            "decoder": first.decoder,
            **({"simulated %": cer} if self.kind == SIMULATED else beside),
            "95 % interval": f"{low:.2f}–{high:.2f}",
            "each seed": ", ".join(f"{run.seed}: {run.counts.cer:.2f}" for run in row.runs),
            "characters": str(first.counts.length),
            "data": f"{first.kind}, {first.data[:8] if len(hashes) == 1 else f'{len(hashes)} sets'}",
        }


def tables(runs: Iterable[Run], only: str = "") -> list[Table]:
    """A table for each suite, or of `only` one, and kind of data; rows in the suite's order, results of no suite last.

    A suite that has no result of which an earlier suite's table does not tell has none of its own.
    """
    order = {name: place for place, name in enumerate(EXPERIMENTS)}
    places = {suite: place for place, suite in enumerate((*SUITES, OTHER))}
    paper, told = published_numbers(), set[Path]()
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (order.get(run.name, len(order)), run.name, run.decoder, run.seed)):
        for suite in _suites_of(run.name):
            grouped.setdefault((suite, run.kind), []).append(run)
    found = []
    for (suite, kind), members in sorted(grouped.items(), key=lambda item: (item[0][1], places[item[0][0]])):
        if suite == only or not (only or told >= {run.path for run in members}):
            told |= {run.path for run in members}
            rows = _seeds_together(_as_tested_beside(members, suite))
            beside = tuple(None if kind == SIMULATED else _comparable(row, paper) for row in rows)
            found.append(Table(suite, kind, rows, beside))
    return found


def _suites_of(name: str) -> list[str]:
    return [suite for suite, members in SUITES.items() if name in {e.name for e in members}] or [OTHER]


def _as_tested_beside(runs: list[Run], suite: str) -> list[Run]:
    """Runs of a suite; those of another protocol than its last row's, on no sessions but those that this row tests."""
    protocols = {experiment.name: experiment.data.protocol for experiment in SUITES.get(suite, ())}
    ours = {name for name, protocol in protocols.items() if protocol == list(protocols.values())[-1]}
    tested = {session.session for run in runs if run.name in ours for session in run.sessions}
    if not tested:
        return runs
    kept = [tuple(s for s in run.sessions if run.name in ours or s.session in tested) for run in runs]
    return [replace(run, sessions=sessions) for run, sessions in zip(runs, kept, strict=True) if sessions]


def _seeds_together(runs: Iterable[Run]) -> tuple[Row, ...]:
    """Rows of the runs that differ in nothing but the seed, in the order of their first, told apart by their labels."""
    grouped: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.name, run.decoder, run.unit, *run.changes), []).append(run)
    rows = [Row(tuple(seeds)) for seeds in grouped.values()]
    alike: dict[str, list[frozenset[str]]] = {}
    for row in rows:
        alike.setdefault(row.label, []).append(frozenset(row.first.changes))
    apart = {label: frozenset.union(*changes) - frozenset.intersection(*changes) for label, changes in alike.items()}
    return tuple(replace(row, apart=apart[row.label]) for row in rows)


def published_numbers() -> dict[str, Any]:
    """`results/paper.json`: published numbers by experiment, and bars, each with its split, decoder and source."""
    paths = [path for path in _PAPER if path.exists()]
    found: dict[str, Any] = read_json(paths[0] if paths else _PAPER[-1])
    return found


def _comparable(row: Row, paper: Mapping[str, Any]) -> float | None:
    """The published test CER of a row's experiment and decoder, if it is of whole sessions and of the same ones."""
    run = row.first
    ours = {session.session for each in row.runs for session in each.sessions}
    for number in paper["experiments"].get(run.name, ()):
        theirs = paper["splits"][number["split"]].get("test", ())
        if (number["part"], number["protocol"], number["decoder"]) == ("test", "whole session", run.decoder):
            return float(number["cer"]) if ours == set(theirs) and not run.changes else None
    return None


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same stretches: CER of the first minus that of the second, in points, with a 95 % interval."""

    first: Row
    second: Row
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        one, other = self.first, self.second
        distinct = self.low > 0 or self.high < 0
        seen = "these sessions show a difference" if distinct else "these sessions show no difference"
        kind = "SIMULATED" if one.first.kind == SIMULATED else "recorded"
        decoders = dict.fromkeys((one.first.decoder, other.first.decoder))
        return (
            f"{one.label} {one.cer:.2f} %, {other.label} {other.cer:.2f} % ({kind} sessions, {' and '.join(decoders)}):"
            f" difference {self.difference:+.2f} points, 95 % interval {self.low:+.2f} to {self.high:+.2f},"
            f" paired bootstrap over {len(one.units)} {one.first.unit}: {seen}"
        )


def compare(found: Sequence[Table], first: str, second: str) -> list[Comparison]:
    """Compare two experiments wherever both were tested on the same data, by the same decoder unless both name one.

    "demo:beam" is the experiment demo as the decoder beam reads it. Raises `EmgscribeError` where one of them has no
    result or they share no test session.
    """
    rows = [row for table in found for row in table.rows]
    named = [[row for row in rows if _is(row, wanted)] for wanted in (first, second)]
    for wanted, chosen in zip((first, second), named, strict=True):
        if not chosen:
            known = ", ".join(sorted({row.first.name for row in rows} | {_full_name(row) for row in rows}))
            raise EmgscribeError(f"no result of {wanted!r} to compare", hint=f"name two of: {known}")
    free = ":" not in first or ":" not in second
    pairs = [(one, other) for one in named[0] for other in named[1] if _alike(one, other, same_decoder=free)]
    if not pairs:
        hint = "run both with the same --data, and compare results of the same kind of data"
        raise EmgscribeError(
            f"{first} and {second} were not tested on the same sessions by the same decoder", hint=hint
        )
    return [
        Comparison(
            one, other, *cer_difference(*([row.units[key] for key in sorted(one.units)] for row in (one, other)))
        )
        for one, other in pairs
    ]


def _full_name(row: Row) -> str:
    return f"{row.first.name}:{row.first.decoder}"


def _is(row: Row, wanted: str) -> bool:
    return wanted in (row.first.name, _full_name(row))


def _alike(one: Row, other: Row, *, same_decoder: bool) -> bool:
    kinds = {(row.first.kind, row.first.unit, same_decoder and row.first.decoder) for row in (one, other)}
    return len(kinds) == 1 and one.units.keys() == other.units.keys() and one is not other


def make_report(
    folder: Path, out: Path, compared: tuple[str, str] | None = None, decoders: Collection[str] | None = None
) -> list[Path]:
    """Render the results in `folder` to report.md, a CSV for each kind of data and figures in `out`; returns the files.

    Figures of errors are of each table's row with the lowest CER, and of `compared`, two experiments' names (see
    `compare`). With `decoders`, only rows of those are there; an `EmgscribeError` where there are none.
    """
    whole = read_results(folder)
    runs = [run for run in whole if decoders is None or run.decoder in decoders]
    if not runs:
        hint = f"name one that has some: {', '.join(sorted({run.decoder for run in whole}))}"
        raise EmgscribeError(f"no result by {' or '.join(decoders or ())}", where=str(folder), hint=hint)
    found = tables(runs)
    comparisons = compare(found, *compared) if compared else []
    text = ["# Results", _INTERVAL]
    if comparisons:
        text += ["## Compared", *(f"- {comparison}" for comparison in comparisons)]
    written = []
    for table in found:
        pictures = _figures(table, out / "figures", set(compared or ()))
        text += [f"## {table.title}", *_introduction(table, decoders), _markdown(table.records())]
        text += [f"![{path.stem}](figures/{path.name})" for path in pictures if path.suffix == ".png"]
        written += pictures
    if any(table.kind == REAL for table in found):
        text += ["## Published bars, on recordings", _markdown(list(_bars()))]
    for kind in sorted({table.kind for table in found}):
        rows = [{"suite": t.suite, **record} for t in found if t.kind == kind for record in t.records()]
        with replacing(out / f"{kind}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        written.append(out / f"{kind}.csv")
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return [out / "report.md", *written]


def _introduction(table: Table, decoders: Collection[str] | None) -> list[str]:
    wanted = {(e.name, e.train.seed) for e in SUITES.get(table.suite, ())}
    done = {(run.name, run.seed) for row in table.rows for run in row.runs if not run.changes}
    by = f" by {' or '.join(decoders)}" if decoders else ""
    lines = [f"{len(wanted & done)} of the suite's {len(wanted)} runs have a result{by}."] if wanted else []
    if table.kind == SIMULATED:
        lines.append(_WHY_NOT_BESIDE)
    elif None in table.published:
        lines.append("A published number stands only beside results on the very sessions that it was measured on.")
    return lines


def _markdown(records: Sequence[Mapping[str, str]]) -> str:
    lines = [list(records[0]), ["---"] * len(records[0]), *(list(record.values()) for record in records)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _bars() -> Iterator[dict[str, str]]:
    for name, numbers in published_numbers()["bars"].items():
        for number in numbers:
            fields = {field: str(number[field]) for field in ("cer", "part", "protocol", "decoder", "source", "place")}
            yield {"bar": name, **fields, "note": number.get("note", "")}


def _figures(table: Table, folder: Path, compared: set[str]) -> list[Path]:
    from emgscribe.experiments.figures import draw_confusions, draw_keyboard, draw_losses, draw_sessions

    slug = f"{table.kind}-{table.suite.replace('/', '-')}"
    curves = {table.short(row): [run.curves for run in row.runs if run.curves] for row in table.rows}
    curves = {label: seeds for label, seeds in curves.items() if seeds}
    written = draw_losses(curves, f"Loss by epoch: {table.title}", folder / f"{slug}-losses") if curves else []
    best, taken = min(table.rows, key=lambda row: row.cer), set[str]()
    for row in [row for row in table.rows if row is best or any(_is(row, wanted) for wanted in compared)]:
        seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
        title = f"{row.label}: {table.title}, {row.first.decoder} decoder, CER {row.cer:.2f} %{seeds}"
        name = f"{slug}-{row.first.decoder}-{re.sub('[^a-z0-9]+', '-', table.short(row).lower())[:100].strip('-')}"
        if name in taken:  # labels may differ in what a file's name leaves out
            name += f"-row-{table.rows.index(row) + 1}"
        taken.add(name)
        written += draw_confusions(row.texts, f"What was read for what. {title}", folder / f"{name}-confusions")
        written += draw_keyboard(row.texts, f"Errors by key. {title}", folder / f"{name}-keyboard")
        written += draw_sessions(row.test_sessions, f"Errors over a session. {title}", folder / f"{name}-sessions")
    return written


def print_tables(found: Sequence[Table], console: Console) -> None:
    """Tables as the terminal shows them, simulated and recorded results apart; narrow enough for 80 columns."""
    for table in found:
        records = table.records()
        shown = TerminalTable(title=f"CER: {table.title}")
        columns = [column for column in records[0] if column not in ("decoder", "characters", "data")]
        for column in columns:
            words = column in ("experiment", "each seed")
            shown.add_column(column, overflow="fold", no_wrap=not words, justify="left" if words else "right")
        for row, record in zip(table.rows, records, strict=True):
            decoder = f", {row.first.decoder}" if len({each.first.decoder for each in table.rows}) > 1 else ""
            name = table.short(row) + decoder
            shown.add_row(name, *(record[column] for column in columns[1:]))
        console.print(shown)


def print_result(result: Evaluation, console: Console, decoder: str = "greedy") -> None:
    """Rates of each session and of all, the interval of the whole, and the errors that the screen shows."""
    title = f"{result.protocol}, {decoder}, {'SIMULATED sessions' if result.simulated else 'recorded sessions'}"
    table = TerminalTable(title=title)
    for column in ("session", "characters", "CER", "IER", "DER", "SER"):
        table.add_column(column, justify="left" if column == "session" else "right")
    rows = [(score.session, score.counts) for score in result.sessions]
    for name, counts in [*rows, ("all", result.counts)] if len(rows) > 1 else rows:
        rates = (counts.cer, counts.ier, counts.der, counts.ser)
        table.add_row(name, str(counts.length), *(f"{rate:.2f} %" for rate in rates))
    console.print(table)
    if result.counts.length:
        low, high = result.interval
        interval = f"95 % interval {low:.2f} to {high:.2f} %, bootstrap over {result.unit}"
        console.print(f"CER {result.counts.cer:.2f} % ({interval})")
    shown = [
        (screen_text(labels_of_text(score.reference)), screen_text(labels_of_text(score.hypothesis)))
        for score in result.sessions
    ]
    characters, words = (total([counted(*pair) for pair in shown]) for counted in (count, count_words))
    if words.length:
        console.print(f"on the screen, backspaces applied: CER {characters.cer:.2f} %, WER {words.wer:.2f} %")


def print_difference(results: Mapping[str, Evaluation], console: Console) -> None:
    """What each decoder's CER is under the first one's on the same stretches, with its interval."""
    (first, base), *others = results.items()
    for name, result in others:
        one, other = ([unit for session in each.sessions for unit in session.units] for each in (base, result))
        difference, low, high = cer_difference(one, other)
        interval = f"95 % interval {low:+.2f} to {high:+.2f}, paired bootstrap over {len(one)} {base.unit}"
        console.print(f"{first} minus {name}: {difference:+.2f} points ({interval})", soft_wrap=True)


def print_comparison(result: Evaluation, console: Console, characters: int = 600) -> None:
    """The beginning of the first session, reference over hypothesis, with every edit marked."""
    session = result.sessions[0]
    rows = side_by_side(session.reference, session.hypothesis)
    width = max(40, min(console.width, 120) - 12)
    console.print(f"\n{session.session} (simulated; I insertion, D deletion, S substitution)")
    for start in range(0, min(characters, len(rows[0])), width):
        for name, row in zip(("reference", "hypothesis", ""), rows, strict=True):
            console.print(f"{name:<11} {row[start : start + width]}", style=None if name else "red", soft_wrap=True)
