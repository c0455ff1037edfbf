"""Result files -> a page of tables beside published numbers, a leaderboard, CSV, LaTeX and figures."""

import csv
import re
import shlex
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

from emgscribe.config import options
from emgscribe.data.charset import SPACE
from emgscribe.experiments.agreement import summary, trends
from emgscribe.experiments.comparison import Paired, alike, compare, names_of
from emgscribe.experiments.recipes import Suite
from emgscribe.experiments.results import REAL, REAL_KEYS, SIMULATED, Row, extent, other_parts, read_results
from emgscribe.experiments.tables import KINDS, OTHER, Table, published_numbers, tables
from emgscribe.files import replacing
from emgscribe.scoring import Counts, interval_text

_CONFUSIONS = 10  # that are listed
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
        if alike(row, base, same_decoder=True)
        for paired in [Paired.of(row, base)]
    ]
    return [f"Against {first}, on the same segments:", _markdown(records)] if records else []


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
        text.append(f"## {extent(len(sessions), people)}, {characters} characters ({KINDS[kind]})")
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
    data, words = "DIR", list[str]()
    if suite is not OTHER and not row.run.changes:
        command = f"reproduce {suite.name}"
        data = "simulated" if row.run.data.kind == SIMULATED else data
    elif row.run.base and not other_parts(row.run.changed):
        command, words = f"train {row.run.base}", options(row.run.changed.items())
        words += ["--name", row.name] * (row.name != row.run.base)
    else:
        return ""
    words += ["--decoder", row.decoder] * (row.decoder != "greedy")
    return f"`{shlex.join(['emgscribe', *command.split(), '--data', data, *words])}`"


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
    chosen = [row for row in table.rows if row is table.best or compared & names_of(row)]
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
