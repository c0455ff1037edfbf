"""Result files -> tables beside published numbers, in Markdown, CSV, figures and the terminal.

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
from emgscribe.experiments.recipes import SUITES, Suite
from emgscribe.experiments.results import REAL, SIMULATED, Row, RunResult, Score, read_results
from emgscribe.files import read_json, replacing
from emgscribe.scoring import cer_difference, count, count_words, side_by_side, total

_OTHER = Suite("other", "results that belong to no suite", ())
# In the installed package, else in the checkout that it runs from.
_PAPER = (Path(__file__).parents[1] / "paper.json", Path(__file__).parents[2] / "docs" / "results" / "paper.json")
_SIMULATED = (
    "SIMULATED: no person typed these sessions. Published numbers are of recordings and are not shown here, since a"
    " rate on simulated EMG says nothing about them. Rows compare with each other only."
)
_INTERVAL = (
    "Rates are CER in per cent. 95 % intervals resample the 10 s segments of the test sessions, all seeds of a segment"
    " together. They say what other text of the same sessions would do, not what another person or, where there is a"
    " single seed, another training run would."
)
_SWAPPED = (
    "Published insertion and deletion error rates (IER, DER) are swapped against the usual convention: the published"
    " code counts a missing character as an insertion and an extra one as a deletion. Here an insertion is an extra"
    " character. CER is not affected."
)


@dataclass(frozen=True)
class Table:
    """The rows of one suite that have results, all simulated or all recorded; `published` per row, where comparable."""

    suite: Suite
    kind: str
    rows: tuple[Row, ...]
    published: tuple[float | None, ...]

    @property
    def title(self) -> str:
        """Suite and kind of data."""
        suite = "results of no suite" if self.suite is _OTHER else self.suite.name
        return f"{suite}, {'SIMULATED sessions' if self.kind == SIMULATED else 'recorded sessions'}"

    def short(self, row: Row) -> str:
        """A row's label without the suite, which the title names."""
        return row.label.removeprefix(f"{self.suite.name}/")

    def records(self) -> list[dict[str, str]]:
        """One dictionary a row, column -> text; the same columns in every row."""
        return [self._record(row, paper) for row, paper in zip(self.rows, self.published, strict=True)]

    def _record(self, row: Row, paper: float | None) -> dict[str, str]:
        low, high = row.interval
        hashes = {score.run.data.hash for score in row.scores}
        cer = f"{row.cer:.2f}"
        beside = {
            "published %": "" if paper is None else f"{paper:g}",
            "ours %": cer,
            "difference": "" if paper is None else f"{row.cer - paper:+.2f}",
        }
        return {
            "experiment": row.label,
            "decoder": row.decoder,
            **({"simulated %": cer} if self.kind == SIMULATED else beside),
            **({"deviation over users": f"{row.deviation:.2f}"} if self.suite.over_users else {}),
            "95 % interval": f"{low:.2f}–{high:.2f}",
            f"each {'user' if self.suite.over_users else 'seed'}": ", ".join(
                f"{k}: {v:.2f}" for k, v in row.cers.items()
            ),
            "characters": str(sum(len(text) for _, text in {(s.session, s.reference) for s in row.sessions})),
            "data": f"{self.kind}, {row.run.data.hash[:8] if len(hashes) == 1 else f'{len(hashes)} sets'}",
        }


def tables(results: Iterable[RunResult], only: str = "") -> list[Table]:
    """A table for each suite, or of `only` one, and kind of data; rows in the suite's order, results of no suite last.

    A suite has no table if an earlier suite's table has all of its results.
    """
    results, paper, found, shown = list(results), published_numbers(), list[Table](), set[RunResult]()
    for kind in (REAL, SIMULATED):
        of_kind = [result for result in results if result.data.kind == kind]
        for suite in (*SUITES.values(), _OTHER):
            members = _members(of_kind, suite)
            if members and (suite.name == only or not (only or shown >= set(members))):
                shown |= set(members)
                rows = _rows(_as_tested_beside(members, suite), suite)
                numbers = tuple(None if kind == SIMULATED else _published(row, paper) for row in rows)
                found.append(Table(suite, kind, rows, numbers))
    return found


def _members(results: Sequence[RunResult], suite: Suite) -> list[RunResult]:
    """The results of a suite's experiments, in its order."""
    if suite is _OTHER:
        known = {experiment.name for each in SUITES.values() for experiment in each.experiments}
        return sorted((r for r in results if r.name not in known), key=lambda result: (result.name, result.seed))
    order = {experiment.name: place for place, experiment in reversed([*enumerate(suite.experiments)])}
    return sorted((r for r in results if r.name in order), key=lambda result: (order[result.name], result.seed))


def _as_tested_beside(results: Sequence[RunResult], suite: Suite) -> list[Score]:
    """What each decoder read; runs of another protocol than the suite's only with sessions that the suite tests."""
    ours = {experiment.name for experiment in suite.experiments if experiment.data.protocol == suite.protocol}
    tested = {s.session for r in results if r.name in ours for test in r.test.values() for s in test.sessions}
    found = []
    for result in results:
        for decoder, evaluation in result.test.items():
            whole = result.name in ours or not tested
            sessions = tuple(s for s in evaluation.sessions if whole or s.session in tested)
            found += [Score(result, decoder, sessions)] if sessions else []
    return found


def _rows(scores: Iterable[Score], suite: Suite) -> tuple[Row, ...]:
    """One row for the runs that differ only in the seed, or the user; no two rows have the same label."""
    grouped: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        name = re.sub(r"/user\d+/", "/", score.run.name) if suite.over_users else score.run.name
        unit = score.run.test[score.decoder].unit
        grouped.setdefault((name, score.decoder, unit, *score.run.changes), []).append(score)
    rows = [Row(name, tuple(members), over_users=suite.over_users) for (name, *_), members in grouped.items()]
    names = list(dict.fromkeys(row.name for row in rows))
    rows.sort(key=lambda row: (names.index(row.name), row.decoder))
    alike: dict[str, list[frozenset[str]]] = {}
    for row in rows:
        alike.setdefault(row.label, []).append(frozenset(row.run.changes))
    apart = {label: frozenset.union(*changes) - frozenset.intersection(*changes) for label, changes in alike.items()}
    return tuple(replace(row, apart=apart[row.label]) for row in rows)


def published_numbers() -> dict[str, Any]:
    """`docs/results/paper.json`: published numbers by experiment, and bars, each with its split, decoder and source."""
    found: dict[str, Any] = read_json(next((path for path in _PAPER if path.exists()), _PAPER[-1]))
    return found


def _published(row: Row, paper: Mapping[str, Any]) -> float | None:
    """The published test CER of a row's experiment and decoder, if it is of whole sessions and of the same ones."""
    if row.run.changes:
        return None
    bar = row.name.replace("benchmark/", "users-0-7/") if row.over_users else ""
    for number in paper["bars"].get(bar, ()) if row.over_users else paper["experiments"].get(row.name, ()):
        if (number["part"], number["protocol"], number["decoder"]) == ("test", "whole session", row.decoder):
            theirs = set(paper["splits"][number["split"]].get("test", ()))
            published = len(row.cers) == len(number.get("users", ())) and {s.run.data.protocol for s in row.scores} != {
                "latest"
            }
            same = published if row.over_users else theirs == {s.session for s in row.sessions}
            return float(number["cer"]) if same else None
    return None


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same segments: CER of the first minus that of the second, in points, with a 95 % interval."""

    first: Row
    second: Row
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        one, other = self.first, self.second
        distinct = self.low > 0 or self.high < 0
        shown = "these sessions show a difference" if distinct else "these sessions show no difference"
        kind = "SIMULATED" if one.run.data.kind == SIMULATED else "recorded"
        decoders = " and ".join(dict.fromkeys((one.decoder, other.decoder)))
        return (
            f"{one.label} {one.cer:.2f} %, {other.label} {other.cer:.2f} % ({kind} sessions, {decoders}):"
            f" difference {self.difference:+.2f} points, 95 % interval {self.low:+.2f} to {self.high:+.2f},"
            f" paired bootstrap over {len(one.units)} {one.evaluation.unit}: {shown}"
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
            known = ", ".join(sorted({name for row in rows for name in (row.name, f"{row.name}:{row.decoder}")}))
            raise EmgscribeError(f"no result of {wanted!r} to compare", hint=f"name two of: {known}")
    free = ":" not in first or ":" not in second
    pairs = [(one, other) for one in named[0] for other in named[1] if _alike(one, other, same_decoder=free)]
    if not pairs:
        what = f"{first} and {second} were not tested on the same sessions by the same decoder"
        raise EmgscribeError(what, hint="run both with the same --data, and compare results of the same kind of data")
    paired = [[[row.units[key] for key in sorted(pair[0].units)] for row in pair] for pair in pairs]
    return [Comparison(*pair, *cer_difference(*units)) for pair, units in zip(pairs, paired, strict=True)]


def _is(row: Row, wanted: str) -> bool:
    return wanted in (row.name, f"{row.name}:{row.decoder}")


def _alike(one: Row, other: Row, *, same_decoder: bool) -> bool:
    kinds = {(row.run.data.kind, row.evaluation.unit, same_decoder and row.decoder) for row in (one, other)}
    return len(kinds) == 1 and one.units.keys() == other.units.keys() and one is not other


def write_report(
    folder: Path | str,
    out: Path | str,
    compared: tuple[str, str] | None = None,
    decoders: Collection[str] | None = None,
) -> list[Path]:
    """Render the results in `folder` to report.md, a CSV for each kind of data and figures in `out`; returns the files.

    Figures of errors are of each table's row with the lowest CER, and of `compared`, two experiments' names (see
    `compare`). With `decoders`, only rows of those are there; an `EmgscribeError` where there are none.
    """
    out, whole = Path(out), read_results(folder)
    known = {decoder for result in whole for decoder in result.test}
    if decoders and not known & set(decoders):
        hint = f"name one that has some: {', '.join(sorted(known))}"
        raise EmgscribeError(f"no result by {' or '.join(decoders)}", where=str(folder), hint=hint)
    chosen = [
        {name: test for name, test in result.test.items() if not decoders or name in decoders} for result in whole
    ]
    found = tables([replace(result, test=test) for result, test in zip(whole, chosen, strict=True) if test])
    text = ["# Results", _INTERVAL]
    if compared:
        text += ["## Compared", *(f"- {comparison}" for comparison in compare(found, *compared))]
    written = []
    for table in found:
        pictures = _figures(table, out / "figures", set(compared or ()))
        text += [f"## {table.title}", *_introduction(table, decoders), _markdown(table.records())]
        text += [f"![{path.stem}](figures/{path.name})" for path in pictures if path.suffix == ".png"]
        written += pictures
    if any(table.kind == REAL for table in found):
        text += ["## Published bars, on recordings", _SWAPPED, _markdown(list(_bars()))]
    for kind in sorted({table.kind for table in found}):
        rows = [{"suite": t.suite.name, **record} for t in found if t.kind == kind for record in t.records()]
        with replacing(out / f"{kind}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
            writer.writeheader()
            writer.writerows(rows)
        written.append(out / f"{kind}.csv")
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return [out / "report.md", *written]


def _introduction(table: Table, decoders: Collection[str] | None) -> list[str]:
    wanted = {(e.name, e.train.seed) for e in table.suite.experiments}
    done = {(s.run.name, s.run.seed) for row in table.rows for s in row.scores if not s.run.changes}
    by = f" by {' or '.join(decoders)}" if decoders else ""
    lines = [f"{len(wanted & done)} of the suite's {len(wanted)} runs have a result{by}."] if wanted else []
    if table.suite.over_users:
        lines.append("Rates are means over users, beside their standard deviation.")
    if any(row.evaluation.seen for row in table.rows):
        lines.append("A row seen in training scores sessions that its model was trained on: no measure of new typing.")
    if table.kind == SIMULATED:
        lines.append(_SIMULATED)
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

    slug = f"{table.kind}-{table.suite.name.replace('/', '-')}"
    curves = {table.short(row): [score.run.curves for score in row.scores if score.run.curves] for row in table.rows}
    curves = {label: seeds for label, seeds in curves.items() if seeds}
    written = draw_losses(curves, f"Loss by epoch: {table.title}", folder / f"{slug}-losses") if curves else []
    best, taken = min(table.rows, key=lambda row: row.cer), set[str]()
    for row in [row for row in table.rows if row is best or any(_is(row, wanted) for wanted in compared)]:
        seeds = f", {len(row.scores)} {'users' if row.over_users else 'seeds'}" if len(row.scores) > 1 else ""
        title = f"{row.label}: {table.title}, {row.decoder} decoder, CER {row.cer:.2f} %{seeds}"
        name = f"{slug}-{row.decoder}-{re.sub('[^a-z0-9]+', '-', table.short(row).lower())[:100].strip('-')}"
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
        shown, records = TerminalTable(title=f"CER: {table.title}"), table.records()
        columns = [column for column in records[0] if column not in ("decoder", "characters", "data")]
        for column in columns:
            words = column == "experiment" or column.startswith("each")
            shown.add_column(column, overflow="fold", no_wrap=not words, justify="left" if words else "right")
        for row, record in zip(table.rows, records, strict=True):
            decoder = f", {row.decoder}" if len({each.decoder for each in table.rows}) > 1 else ""
            shown.add_row(table.short(row) + decoder, *(record[column] for column in columns[1:]))
        console.print(shown)


def print_evaluation(evaluation: Evaluation, console: Console, decoder: str = "greedy") -> None:
    """Rates of each session and of all, the interval of the whole, and the errors that the screen shows."""
    kind = "SIMULATED sessions" if evaluation.simulated else "recorded sessions"
    table = TerminalTable(
        title=f"{evaluation.protocol}, {decoder}, {kind}{', seen in training' if evaluation.seen else ''}"
    )
    for column in ("session", "characters", "CER", "IER", "DER", "SER"):
        table.add_column(column, justify="left" if column == "session" else "right")
    rows = [(score.session, score.counts) for score in evaluation.sessions]
    for name, counts in [*rows, ("all", evaluation.counts)] if len(rows) > 1 else rows:
        rates = (counts.cer, counts.ier, counts.der, counts.ser)
        table.add_row(name, str(counts.length), *(f"{rate:.2f} %" for rate in rates))
    console.print(table)
    if evaluation.counts.length:
        low, high = evaluation.interval
        interval = f"95 % interval {low:.2f} to {high:.2f} %, bootstrap over {evaluation.unit}"
        console.print(f"CER {evaluation.cer:.2f} % ({interval})")
    shown = [
        (screen_text(labels_of_text(score.reference)), screen_text(labels_of_text(score.hypothesis)))
        for score in evaluation.sessions
    ]
    characters, words = (total([counted(*pair) for pair in shown]) for counted in (count, count_words))
    if words.length:
        console.print(f"on the screen, backspaces applied: CER {characters.cer:.2f} %, WER {words.wer:.2f} %")


def print_difference(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """What each decoder's CER is below the first one's on the same segments, with its interval."""
    (first, base), *others = evaluations.items()
    for name, evaluation in others:
        difference, low, high = cer_difference(base.units, evaluation.units)
        interval = f"95 % interval {low:+.2f} to {high:+.2f}, paired bootstrap over {len(base.units)} {base.unit}"
        console.print(f"{first} minus {name}: {difference:+.2f} points ({interval})", soft_wrap=True)


def print_alignment(evaluation: Evaluation, console: Console, characters: int = 600) -> None:
    """The beginning of the first session, reference over hypothesis, with every edit marked."""
    session = evaluation.sessions[0]
    rows = side_by_side(session.reference, session.hypothesis)
    width = max(40, min(console.width, 120) - 12)
    kind = "simulated; " if evaluation.simulated else ""
    console.print(f"\n{session.session} ({kind}I insertion, D deletion, S substitution)")
    for start in range(0, min(characters, len(rows[0])), width):
        for name, row in zip(("reference", "hypothesis", ""), rows, strict=True):
            console.print(f"{name:<11} {row[start : start + width]}", style=None if name else "red", soft_wrap=True)
