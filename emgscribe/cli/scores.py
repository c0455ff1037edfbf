"""Tables, and the scores of a model, as the terminal shows them."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table as TerminalTable

from emgscribe.data.charset import labels_of_text, screen_text
from emgscribe.data.hdf5 import shown_kind
from emgscribe.evaluation import Evaluation
from emgscribe.experiments.tables import Table
from emgscribe.scoring import count, count_words, interval_text, side_by_side, total


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
