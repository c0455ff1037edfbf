"""Back-off n-grams as arrays, and ARPA files, plain or gzipped, as KenLM and SRILM write them.

Probabilities and back-off weights are log10 in float32, written with the fewest digits that read back as the same
number: a file that is read and written again holds the same model, bit for bit.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

Rows = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float32]

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, START, END)  # the first three tokens of every model, in this order
_HINT = "write the file again: emgscribe reads ARPA files as KenLM and SRILM write them"


@dataclass(frozen=True)
class Level:
    """All n-grams of one length, sorted by `context`, then `symbol`.

    An n-gram is a row (n,): `context` is the row, one level below, of all but its last token, `symbol` the number of
    the last one. At level 1 every token has the row of its own number and `context` is 0.
    """

    context: Rows
    symbol: Rows
    log_prob: Logs
    backoff: Logs

    def __len__(self) -> int:
        return len(self.symbol)


@dataclass(frozen=True)
class NGrams:
    """Tokens, numbered from 0 (`SPECIAL` first), and the levels of n-grams over them, shortest first."""

    tokens: tuple[str, ...]
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        return len(self.levels)

    @cached_property
    def _keys(self) -> list[Rows]:
        return [level.context * len(self.tokens) + level.symbol for level in self.levels]

    def find(self, grams: Rows) -> Rows:
        """The rows (n,) of n-grams (n, k) of token numbers in the level of length k; -1 where the model has none."""
        rows = np.zeros(len(grams), dtype=np.int64)
        for keys, symbols in zip(self._keys, grams.T, strict=False):
            wanted = rows * len(self.tokens) + symbols
            places = np.searchsorted(keys, wanted)
            found = (rows >= 0) & (keys[np.minimum(places, len(keys) - 1)] == wanted) if len(keys) else rows < 0
            rows = np.where(found, places, -1)
        return rows

    def spelled(self, length: int) -> Rows:
        """The token numbers (n, length) of every n-gram of that length."""
        rows = np.arange(len(self.levels[length - 1]))
        columns = []
        for level in self.levels[length - 1 :: -1]:
            columns.append(level.symbol[rows])
            rows = level.context[rows]
        return np.stack(columns[::-1], axis=1)


def write_arpa(path: Path, ngrams: NGrams) -> None:
    """Write an ARPA file, gzipped where the name ends in .gz. The same model always gives the same bytes."""
    data = ("\n".join(_lines(ngrams)) + "\n").encode()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _lines(ngrams: NGrams) -> Iterator[str]:
    yield "\\data\\"
    yield from (f"ngram {length}={len(level)}" for length, level in enumerate(ngrams.levels, 1))
    for length, level in enumerate(ngrams.levels, 1):
        yield f"\n\\{length}-grams:"
        words = (" ".join(ngrams.tokens[symbol] for symbol in gram) for gram in ngrams.spelled(length).tolist())
        for log_prob, word, backoff in zip(level.log_prob, words, level.backoff, strict=True):
            # str of a float32 has the digits that tell it from its neighbours, and no more.
            yield f"{log_prob!s}\t{word}" + (f"\t{backoff!s}" if length < ngrams.order else "")
    yield "\n\\end\\"


@dataclass
class _Reader:
    """The lines of one file, and the number of the line read last, from 1."""

    path: Path
    lines: list[str]
    number: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: {token: n for n, token in enumerate(SPECIAL)})

    def next_line(self, *, blank: bool = False) -> str:
        """The next line without its end; blank ones are skipped unless `blank`."""
        while self.number < len(self.lines):
            self.number += 1
            line = self.lines[self.number - 1].rstrip()
            if line or blank:
                return line
        raise self.fault("the file ends too early")

    def expect(self, wanted: str) -> None:
        if (line := self.next_line()) != wanted:
            raise self.fault(f"expected {wanted}, found {line[:40]!r}")

    def fault(self, what: str) -> EmgscribeError:
        return EmgscribeError(what, where=f"{self.path}, line {self.number}", hint=_HINT)


def read_arpa(path: Path) -> NGrams:
    """Read an ARPA file, plain or gzipped; anything else is an `EmgscribeError` with the line."""
    reader = _Reader(path, _text(path).split("\n"))
    reader.expect("\\data\\")
    counts = _counts(reader)
    ngrams = NGrams((), ())
    for length, count in enumerate(counts, 1):
        reader.expect(f"\\{length}-grams:")
        rows = [_row(reader, length, count, last=length == len(counts)) for _ in range(count)]
        tokens = tuple(reader.tokens)
        ngrams = NGrams(tokens, (*ngrams.levels, _level(reader, NGrams(tokens, ngrams.levels), rows)))
    reader.expect("\\end\\")
    return ngrams


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise EmgscribeError(f"is damaged, or not an ARPA file ({error})", where=str(path), hint=_HINT) from error
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error


def _counts(reader: _Reader) -> list[int]:
    counts: list[int] = []
    while line := reader.next_line(blank=bool(counts)):
        found = re.fullmatch(rf"ngram +{len(counts) + 1} *= *([0-9]+)", line)
        if not found:
            raise reader.fault(f"expected 'ngram {len(counts) + 1}=COUNT', found {line[:40]!r}")
        counts.append(int(found[1]))
    return counts


Row = tuple[list[int], float, float, int]  # token numbers, log-probability, back-off weight, number of the line


def _row(reader: _Reader, length: int, count: int, *, last: bool) -> Row:
    line = reader.next_line(blank=True)
    fields = line.split("\t")
    names = fields[1].split(" ") if len(fields) > 1 else []
    if not line.strip() or line.startswith("\\"):
        raise reader.fault(f"the header promises {count} {length}-grams, there are fewer")
    if len(names) != length or len(fields) > 3 - last or "" in names:
        raise reader.fault(
            f"expected a number, {length} tokens and perhaps a number, tabs between; found {line[:60]!r}"
        )
    if length == 1:
        reader.tokens.setdefault(names[0], len(reader.tokens))
    try:
        log_prob, backoff, *_ = *map(float, (fields[0], *fields[2:])), 0.0
        if not (log_prob < math.inf and backoff < math.inf):  # nor NaN
            raise ValueError(f"{line[:60]!r} holds a number that is not a log-probability")
        return [reader.tokens[name] for name in names], log_prob, backoff, reader.number
    except KeyError as error:
        raise reader.fault(f"{error} is not among the 1-grams") from error
    except ValueError as error:
        raise reader.fault(str(error)) from error


def _level(reader: _Reader, below: NGrams, rows: list[Row]) -> Level:
    """Sort one section; refuse n-grams that come twice, positive probabilities, and contexts that are missing."""
    length = len(below.levels) + 1
    if length == 1:  # a special token that the file leaves out is as impossible as KenLM takes it to be
        given = {row[0][0] for row in rows}
        rows = rows + [([token], -100.0, 0.0, 0) for token in range(len(SPECIAL)) if token not in given]
    grams = np.array([row[0] for row in rows], dtype=np.int64).reshape(-1, length)
    values = np.array([row[1:3] for row in rows], dtype=np.float32).reshape(-1, 2) + 0  # -0 becomes 0
    lines = np.array([row[3] for row in rows], dtype=np.int64)
    context = below.find(grams[:, :-1]) if length > 1 else np.zeros(len(grams), dtype=np.int64)
    order = np.lexsort((grams[:, -1], context))
    context, symbol, lines, values = context[order], grams[order, -1], lines[order], values[order]
    again = np.flatnonzero((np.diff(context) == 0) & (np.diff(symbol) == 0)) + 1
    faults = {
        "this n-gram came before": again,
        "the n-gram without its last token is missing": np.flatnonzero(context < 0),
        "a log-probability is above 0": np.flatnonzero(values[:, 0] > 0),
    }
    for what, bad in faults.items():
        if len(bad):
            reader.number = int(lines[bad].min())
            raise reader.fault(what)
    return Level(context, symbol, *np.ascontiguousarray(values.T))
