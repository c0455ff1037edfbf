"""Result files -> tables beside published numbers, in Markdown, CSV, figures and the terminal.

Simulated and recorded results never share a table. A cell exists only where a result file does.
"""

import csv
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import isnan
from pathlib import Path
from statistics import pstdev
from typing import Any, NamedTuple, get_args

from rich.console import Console
from rich.table import Table as TerminalTable

from emgscribe.data.charset import SPACE, labels_of_text, screen_text
from emgscribe.data.hdf5 import shown_kind
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Evaluation
from emgscribe.experiments.agreement import summary, trends
from emgscribe.experiments.recipes import SUITES, Budget, Suite
from emgscribe.experiments.results import (
    REAL,
    REAL_KEYS,
    SIMULATED,
    Row,
    RunResult,
    Score,
    extent,
    other_parts,
    read_results,
)
from emgscribe.files import read_json, replacing
from emgscribe.scoring import (
    Counts,
    count,
    count_words,
    interval_text,
    matched_pairs,
    percentile_interval,
    probability_of_improvement,
    side_by_side,
    total,
)

_CONFUSIONS = 10  # that are listed
_KINDS = {
    SIMULATED: shown_kind(simulated=True, real_keys=False),
    REAL_KEYS: shown_kind(simulated=True, real_keys=True),
    REAL: shown_kind(simulated=False, real_keys=False),
}
_OTHER = Suite("other", "results that belong to no suite", ())
# In the installed package, else in the checkout that it runs from.
_PAPER = (Path(__file__).parents[1] / "paper.json", Path(__file__).parents[2] / "docs" / "results" / "paper.json")
_SIMULATED = (
    "SIMULATED: no person typed these sessions, and a rate on them says nothing about recordings. Rows compare with"
    " each other only."
)
_REAL_KEYS = (
    "SIMULATED EMG, REAL KEYS: people pressed the keys, no person's muscles were recorded. Rows compare with each other"
    " only."
)
_INTERVAL = (
    "Rates are CER in per cent. 95 % intervals resample the 10 s segments of the test sessions, all seeds of a segment"
    " together. They show how much a rate would vary with other text of the same sessions, not with another person or,"
    " where there is a single seed, another training run."
)
_PAIRED = (
    "Below a table, each row is compared with the suite's first experiment: the difference of their CERs with its"
    " interval (paired bootstrap), the p of the matched-pairs test (MAPSSWE), and the share of resamples in which the"
    " row is better. No p is corrected for the number of rows."
)
_RECORDINGS = (
    "The column *recordings* has the published rate of each row, of the full-size network on recordings. Compare the"
    " order of the rows in the two columns, not the rates."
)
_BESIDE = "A published number stands only beside results on the very sessions that it was measured on."
_CAVEATS = (
    "Caveats are what a reader should know before relying on a rate: a single training run, sessions decoded in windows"
    " or with another number of characters than published, sessions seen in training, settings other than the recipe's,"
    " and code that was not committed, or is of no known commit."
)
_SWAPPED = (
    "Published insertion and deletion error rates (IER, DER) are swapped against the usual convention: the published"
    " code counts a missing character as an insertion and an extra one as a deletion. Here an insertion is an extra"
    " character. CER is not affected."
)
_LEADERBOARD = (
    "Every recipe that was tested on the same sessions, the lowest CER first. Other sessions give other rates:"
    " compare within a table only, and there with `emgscribe report --compare ONE OTHER`. A row with one seed may be"
    " luck. The command of a row makes it from nothing, and with it the other rows of its suite."
)
_AGREEMENT = (
    "Do simulated sessions lead to the conclusions that recordings led to? Published ratios of CERs, or CERs, of"
    " recordings beside the simulated ones. A simulated CER alone says nothing about recordings."
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
        suite = "other results" if self.suite is _OTHER else self.suite.name
        return f"{suite}, {_KINDS[self.kind]}"

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
        for suite in (*SUITES.values(), _OTHER):
            members = _members([result for result in results if result.data.kind == kind], suite)
            if members and (suite.name == only or not (only or shown >= set(members))):
                shown |= set(members)
                rows = _rows(_comparable_scores(members, suite), suite)
                numbers = tuple(_published(row) if kind == REAL else None for row in rows)
                found.append(Table(suite, kind, rows, numbers))
    return found


def _members(results: Sequence[RunResult], suite: Suite) -> list[RunResult]:
    """The results of a suite's experiments, in its order."""
    if suite is _OTHER:
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
    """One row for the runs that differ only in the seed, or the user."""
    grouped = defaultdict[tuple[str, ...], list[Score]](list)
    for score in scores:
        name = re.sub(r"/user\d+/", "/", score.run.name) if suite.over_users else score.run.name
        unit = score.run.test[score.decoder].unit
        grouped[name, score.decoder, unit, *score.run.changes].append(score)
    rows = [Row(name, tuple(members), suite.over_users) for (name, *_), members in grouped.items()]
    names = [row.name for row in rows]
    return tuple(sorted(rows, key=lambda row: (names.index(row.name), row.decoder)))


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


def compare(found: Sequence[Table], first: str, second: str) -> list[str]:
    """CER of one experiment minus that of another, wherever both were tested on the same data: a sentence each.

    "demo:beam" is the experiment demo as the decoder beam reads it; unless both name one, only rows of the same decoder
    are compared. Raises `EmgscribeError` where an experiment has no result, or the two share no test session.
    """
    rows = [row for table in found for row in table.rows]
    named = [[row for row in rows if wanted in _names(row)] for wanted in (first, second)]
    for wanted, chosen in zip((first, second), named, strict=True):
        if not chosen:
            known = ", ".join(sorted({name for row in rows for name in _names(row)}))
            raise EmgscribeError(f"no result of {wanted!r} to compare", hint=f"name two of: {known}")
    free = ":" not in first or ":" not in second
    pairs = [(one, other) for one, other in product(*named) if _alike(one, other, same_decoder=free)]
    if not pairs:
        what = f"{first} and {second} were not tested on the same sessions by the same decoder"
        raise EmgscribeError(what, hint="run both with the same --data, and compare results of the same kind of data")
    return [_difference(one, other) for one, other in pairs]


class _Paired(NamedTuple):
    """How two rows differ on the same segments; `better` is the share of resamples in which the first has a lower CER.

    `p` is that of matched pairs (MAPSSWE) over `parts` segments of that test.
    """

    interval: tuple[float, float]
    better: float
    parts: int
    p: float

    @classmethod
    def of(cls, one: Row, other: Row) -> "_Paired":
        segments = sorted(one.units)
        resampled = one.resampled(segments), other.resampled(segments)
        pairs = matched_pairs(*([row.errors[text] for text in sorted(one.errors)] for row in (one, other)))
        interval = percentile_interval(resampled[0] - resampled[1])
        return cls(interval, 100 * probability_of_improvement(*resampled), *pairs)

    @property
    def chance(self) -> str:
        return "too few for a p" if isnan(self.p) else "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"


def _difference(one: Row, other: Row) -> str:
    paired = _Paired.of(one, other)
    low, high = paired.interval
    shown = interval_text(paired.interval, "{:+.2f} to {:+.2f}")
    return (
        f"{one.label} {one.cer:.2f} %, {other.label} {other.cer:.2f} % ({_KINDS[one.run.data.kind]},"
        f" {' and '.join(dict.fromkeys((one.decoder, other.decoder)))}): difference {one.cer - other.cer:+.2f} points,"
        f" 95 % interval {shown}, paired bootstrap over {len(one.units)} {one.evaluation.unit};"
        f" {one.label} is better in {paired.better:.1f} % of its resamples."
        f" The interval shows {'a' if low > 0 or high < 0 else 'no'} difference in these sessions."
        f" Matched pairs (MAPSSWE) over {paired.parts} segment{'s' * (paired.parts != 1)}: {paired.chance}"
    )


def _against(table: Table) -> list[str]:
    """Paragraphs: all rows beside the suite's first experiment, where it has a result of the same decoder."""
    first = table.suite.experiments[0].name if table.suite.experiments else ""
    bases = [row for row in table.rows if row.name == first and not row.run.changes]
    records = [
        {
            "experiment": row.label,
            "decoder": row.decoder,
            "difference, points": f"{row.cer - base.cer:+.2f}",
            "95 % interval": interval_text(paired.interval, "{:+.2f} to {:+.2f}"),
            "matched pairs": paired.chance,
            "better in": f"{paired.better:.1f} %",
        }
        for row, base in product(table.rows, bases)
        if _alike(row, base, same_decoder=True)
        for paired in [_Paired.of(row, base)]
    ]
    return [f"Against {first}, on the same segments:", _markdown(records)] if records else []


def _names(row: Row) -> set[str]:
    return {row.name, f"{row.name}:{row.decoder}"}


def _alike(one: Row, other: Row, *, same_decoder: bool) -> bool:
    kinds = {(row.run.data.kind, same_decoder and row.decoder) for row in (one, other)}
    return len(kinds) == 1 and one.pairs_with(other) and one is not other


def write_report(
    folder: Path | str,
    out: Path | str,
    compared: tuple[str, str] | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> list[Path]:
    """Render the results in `folder` to report.md, CSV and LaTeX tables and figures in `out`; returns the files.

    Figures of errors show each table's row with the lowest CER, and the rows of `compared`, the names of two
    experiments (see `compare`). A file that holds no result is named in a warning.
    """
    out, found = Path(out), tables(read_results(folder, warn))
    text = ["# Results", _INTERVAL, _PAIRED]
    if compared:
        text += ["## Compared", *(f"- {comparison}" for comparison in compare(found, *compared))]
    written = []
    for table in found:
        pictures = _figures(table, out / "figures", set(compared or ()))
        text += [f"## {table.title}", *_introduction(table), _markdown(list(table.records())), *_against(table)]
        text += [_commonest(table.best)]
        text += [f"![{path.stem}](figures/{path.name})" for path in pictures if path.suffix == ".png"]
        written += pictures
    if any(table.kind == REAL for table in found):
        fields = ("cer", "part", "protocol", "decoder", "source", "place")
        bars = [
            {"bar": name, **{field: str(number[field]) for field in fields}, "note": number.get("note", "")}
            for name, numbers in published_numbers()["bars"].items()
            for number in numbers
        ]
        text += ["## Published bars, on recordings", _SWAPPED, _markdown(bars)]
    agreeing, lacking = trends(published_numbers()["trends"], [r for t in found for r in t.rows if t.kind == SIMULATED])
    if agreeing:
        text += ["## Agreement with recordings", _AGREEMENT, summary(agreeing)]
        text += [_markdown([trend.record() for trend in agreeing])]
        text += [f"No simulated result yet: {'; '.join(lacking)}."] * bool(lacking)
    for kind in sorted({table.kind for table in found}):
        rows = [{"suite": t.suite.name, **record} for t in found if t.kind == kind for record in t.records()]
        with replacing(out / f"{kind}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
            writer.writeheader()
            writer.writerows(rows)
        with replacing(out / f"{kind}.tex") as temporary:
            temporary.write_text("\n\n".join(_latex(t) for t in found if t.kind == kind) + "\n", encoding="utf-8")
        written += [out / f"{kind}.csv", out / f"{kind}.tex"]
    for name, parts in (("leaderboard.md", leaderboard(found)), ("report.md", text)):
        with replacing(out / name) as temporary:
            temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [out / "report.md", out / "leaderboard.md", *written]


def leaderboard(found: Sequence[Table]) -> list[str]:
    """Paragraphs of a page: all rows that were tested on the same sessions in one table, with the command of each."""
    tested = defaultdict[tuple[str, str, frozenset[tuple[str, str]]], dict[tuple[str, ...], tuple[Suite, Row]]](dict)
    for table in found:
        for row in table.rows:
            texts = frozenset((session.session, session.reference) for session in row.sessions)
            same = tested[table.kind, row.evaluation.unit, texts]
            same.setdefault((row.label, row.decoder), (table.suite, row))  # some rows belong to several suites
    text = ["# Leaderboard", _LEADERBOARD]
    for (kind, unit, texts), rows in sorted(tested.items(), key=lambda each: (each[0][0] != REAL, -len(each[1]))):
        sessions, characters = {name for name, _ in texts}, sum(len(reference) for _, reference in texts)
        people = len({session.user for _, row in rows.values() for session in row.sessions})
        text.append(f"## {extent(len(sessions), people)}, {characters} characters ({_KINDS[kind]})")
        text.append(f"{', '.join(sorted(sessions)[:3])}{' and others' * (len(sessions) > 3)}; intervals over {unit}.")
        ranked = sorted(rows.values(), key=lambda each: each[1].cer)
        text.append(_markdown([_ranked(place, suite, row) for place, (suite, row) in enumerate(ranked, 1)]))
    return text


def _ranked(place: int, suite: Suite, row: Row) -> dict[str, str]:
    commits = {commit for score in row.scores for commit in re.findall(r"\b[0-9a-f]{8}", score.run.commit)}
    return {
        "": str(place),
        "recipe": row.label,
        "decoder": row.decoder,
        "CER %": f"{row.cer:.2f}",
        "95 % interval": interval_text(row.interval, "{:.2f}–{:.2f}"),
        "runs": str(len(row.scores)),
        "commit": ", ".join(sorted(commits)),
        "command": _command(suite, row),
    }


def _command(suite: Suite, row: Row) -> str:
    """What makes a row: all seeds of its suite, or the variant that it is; empty where only Python can."""
    data, options = "DIR", list[str]()
    if suite is not _OTHER and not row.run.changes:
        command = f"reproduce {suite.name}"
        data = "simulated" if row.run.data.kind == SIMULATED else data
    elif row.run.base and not other_parts(row.run.changes):
        command, changes = f"train {row.run.base}", [change.partition(" ") for change in row.run.changes]
        options = [f" --{path.replace('_', '-')} {value.strip('[]').replace(',', '')}" for path, _, value in changes]
        options += [f" --name {row.name}"] * (row.name != row.run.base)
    else:
        return ""
    options += [f" --decoder {row.decoder}"] * (row.decoder != "greedy")
    return f"`emgscribe {command} --data {data}{''.join(options)}`"


def _introduction(table: Table) -> list[str]:
    wanted = {(e.name, e.train.seed) for e in table.suite.experiments}
    done = {(s.run.name, s.run.seed) for row in table.rows for s in row.scores if not s.run.changes}
    seen = any(row.evaluation.seen for row in table.rows)
    notes = {
        f"{len(wanted & done)} of the suite's {len(wanted)} runs have a result.": wanted,
        "Rates are means over users, beside their standard deviation.": table.suite.over_users,
        "A row seen in training scores sessions that its model was trained on: no measure of new typing.": seen,
        _SIMULATED: table.kind == SIMULATED,
        _REAL_KEYS: table.kind == REAL_KEYS,
        _RECORDINGS: any(table.recordings),
        _BESIDE: table.kind == REAL and None in table.published,
        _CAVEATS: table.kind == REAL,
    }
    return [note for note, holds in notes.items() if holds]


def _markdown(records: Sequence[Mapping[str, str]]) -> str:
    lines = [list(records[0]), ["---"] * len(records[0]), *(list(record.values()) for record in records)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _commonest(row: Row) -> str:
    """What was confused most in a row's texts, as a numbered list."""
    from emgscribe.experiments.figures import GAP, confusions  # which imports matplotlib

    names = {GAP: "nothing", SPACE: "space", "`": "the backtick"}
    counted = confusions(row.texts)
    errors = [(pair, number) for pair, number in counted.most_common() if pair[0] != pair[1]][:_CONFUSIONS]
    about = f"Commonest errors of {row.label}, {row.decoder}:"
    if not errors:
        return f"{about} none."
    lines = [about, ""]
    for place, (pair, number) in enumerate(errors, 1):
        typed, read = (names.get(symbol, f"`{symbol}`") for symbol in pair)
        lines.append(f"{place}. {typed} read as {read}: {number}")
    return "\n".join(lines)


def _latex(table: Table) -> str:
    """A table for a paper, with the booktabs package."""
    records = list(table.records())
    columns = [column for column in records[0] if column not in ("data", "caveats") and not column.startswith("each")]
    cells = [[*columns, "runs"]]
    for row, record in zip(table.rows, records, strict=True):
        record["experiment"] = table.short(row)
        cells.append([*(record[column] for column in columns), str(len(row.cers))])
    head, *rows = (rf"{' & '.join(map(_for_latex, line))} \\" for line in cells)
    begin = rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 1)}}}"
    needs = rf"% {table.title}; needs \usepackage{{booktabs}}"
    return "\n".join([needs, begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])


def _for_latex(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "–": "--"}
    plain = re.sub(r"[&%$#_{}\\^~–]", lambda found: named.get(found[0], rf"\{found[0]}"), text)
    return plain.replace(r" \%", r"\,\%")


def _figures(table: Table, folder: Path, compared: set[str]) -> list[Path]:
    from emgscribe.experiments import figures  # matplotlib takes a second to import, and few callers draw

    slug = f"{table.kind}-{table.suite.name.replace('/', '-')}"
    curves = {table.short(row): [score.run.curves for score in row.scores if score.run.curves] for row in table.rows}
    curves = {label: seeds for label, seeds in curves.items() if seeds}
    title, path = f"Loss by epoch: {table.title}", folder / f"{slug}-losses"
    bars = [
        figures.Bar(table.short(row), row.decoder, row.cer, row.interval, tuple(row.cers.values()), published)
        for row, published in zip(table.rows, table.published, strict=True)
    ]
    written = figures.draw_rows(bars, f"CER: {table.title}", folder / f"{slug}-rows") if len(bars) > 1 else []
    shown = {bar.label: bar for bar in bars if bar.decoder == "greedy"}
    amounts = {
        curve.amount: {amount: shown[name] for amount, name in curve.experiments.items() if name in shown}
        for curve in table.suite.curves
    }
    if amounts := {amount: steps for amount, steps in amounts.items() if len(steps) > 1}:
        written += figures.draw_curves(amounts, f"CER by amount: {table.title}", folder / f"{slug}-amounts")
    written += figures.draw_losses(curves, title, path) if curves else []
    taken = set[str]()
    chosen = [row for row in table.rows if row is table.best or compared & _names(row)]
    confused = [figures.confusions(row.texts) for row in chosen]
    highest = max(rate for counted in confused for rate in (0.0, *figures.key_rates(counted).values()))
    for row, counted in zip(chosen, confused, strict=True):
        seeds = f", {len(row.scores)} {'users' if row.over_users else 'seeds'}" if len(row.scores) > 1 else ""
        title = f"{row.label}: {table.title}, {row.decoder} decoder, CER {row.cer:.2f} %{seeds}"
        words = (re.sub("[^a-z0-9]+", "-", text.lower())[:100].strip("-") for text in (row.decoder, table.short(row)))
        name = f"{slug}-{'-'.join(words)}"
        if name in taken:  # labels may differ in what a file's name leaves out
            name += f"-row-{table.rows.index(row) + 1}"
        taken.add(name)
        segments = defaultdict[str, list[Counts]](list)
        for (session, _, _), counts in row.units.items():
            segments[session].append(counts)
        written += figures.draw_confusions(counted, f"Typed and read. {title}", folder / f"{name}-confusions")
        written += figures.draw_keyboard(counted, f"Errors by key. {title}", folder / f"{name}-keyboard", highest)
        written += figures.draw_sessions(segments, f"Errors over a session. {title}", folder / f"{name}-sessions")
    return written


def print_tables(found: Sequence[Table], console: Console) -> None:
    """Tables as the terminal shows them, simulated and recorded results apart; narrow enough for 80 columns."""
    for table in found:
        shown, records = TerminalTable(title=f"CER: {table.title}"), list(table.records())
        columns = [column for column in records[0] if column not in ("decoder", "characters", "caveats", "data")]
        for column in columns:
            words = column == "experiment" or column.startswith("each")
            shown.add_column(column, overflow="fold", no_wrap=not words, justify="left" if words else "right")
        several = len({row.decoder for row in table.rows}) > 1
        for row, record in zip(table.rows, records, strict=True):
            decoder = f", {row.decoder}" if several else ""
            shown.add_row(table.short(row) + decoder, *(record[column] for column in columns[1:]))
        console.print(shown)


def print_evaluation(evaluation: Evaluation, console: Console, decoder: str = "greedy") -> None:
    """Rates of each session and of all, the interval of the whole, and error rates of the text on the screen."""
    kind = shown_kind(simulated=evaluation.simulated, real_keys=evaluation.real_keys)
    seen = ", seen in training" * evaluation.seen
    table = TerminalTable(title=f"{evaluation.protocol}, {decoder}, {kind}{seen}")
    for column in ("session", "characters", "CER", "IER", "DER", "SER"):
        table.add_column(column, justify="left" if column == "session" else "right")
    rows = [(score.session, score.counts) for score in evaluation.sessions]
    for name, counts in [*rows, ("all", evaluation.counts)] if len(rows) > 1 else rows:
        rates = (counts.cer, counts.ier, counts.der, counts.ser)
        table.add_row(name, str(counts.length), *(f"{rate:.2f} %" for rate in rates))
    console.print(table)
    if evaluation.counts.length:
        ends = interval_text(evaluation.interval, "{:.2f} to {:.2f} %")
        interval = f"95 % interval {ends}, bootstrap over {evaluation.unit}"
        console.print(f"CER {evaluation.cer:.2f} % ({interval})")
    texts = [(score.reference, score.hypothesis) for score in evaluation.sessions]
    shown = [[screen_text(labels_of_text(text)) for text in pair] for pair in texts]
    characters, words = (total([counted(*pair) for pair in shown]) for counted in (count, count_words))
    if words.length:
        console.print(f"on the screen, backspaces applied: CER {characters.cer:.2f} %, WER {words.wer:.2f} %")


def print_difference(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """How far each decoder's CER is below the first one's on the same segments, with its interval."""
    (first, base), *others = evaluations.items()
    for name, evaluation in others:
        difference, low, high = base.minus(evaluation)
        ends = interval_text((low, high), "{:+.2f} to {:+.2f}")
        interval = f"95 % interval {ends}, paired bootstrap over {len(base.units)} {base.unit}"
        console.print(f"{first} minus {name}: {difference:+.2f} points ({interval})", soft_wrap=True)


def print_alignment(evaluation: Evaluation, console: Console, characters: int = 600) -> None:
    """The beginning of the first session, reference over hypothesis, with every edit marked."""
    session = evaluation.sessions[0]
    rows = side_by_side(session.reference, session.hypothesis)
    width = max(40, min(console.width, 120) - 12)
    kind = f"{evaluation.kind}; " * evaluation.simulated
    console.print(f"\n{session.session} ({kind}I insertion, D deletion, S substitution)")
    for start in range(0, min(characters, len(rows[0])), width):
        for name, row in zip(("reference", "hypothesis", ""), rows, strict=True):
            console.print(f"{name:<11} {row[start : start + width]}", style=None if name else "red", soft_wrap=True)
