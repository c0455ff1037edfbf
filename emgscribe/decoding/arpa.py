"""Back-off n-grams as arrays, and ARPA files, plain or gzipped, as KenLM and SRILM write them.

Probabilities and back-off weights are log10 in float32, written with the fewest digits that read back as the same
number: a file that is read and written again holds the same model, bit for bit.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

Rows = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float32]
Gram = tuple[int, ...]

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

    def spelled(self, length: int) -> Rows:
        """The token numbers (n, length) of every n-gram of that length."""
        rows, columns = np.arange(len(self.levels[length - 1])), []
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


def read_arpa(path: Path) -> NGrams:
    """Read an ARPA file, plain or gzipped; anything else is an `EmgscribeError` with the line."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise EmgscribeError(f"is damaged, or not an ARPA file ({error})", where=str(path), hint=_HINT) from error
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error
    reader = _Reader(path, text.split("\n"))
    reader.expect("\\data\\")
    counts = list(reader.counts())
    tokens = {token: number for number, token in enumerate(SPECIAL)}
    rows: dict[Gram, int] = {(): 0}  # of each n-gram one shorter
    levels = []
    for length, count in enumerate(counts, 1):
        reader.expect(f"\\{length}-grams:")
        found: dict[Gram, tuple[float, float]] = {}
        for _ in range(count):
            gram, numbers = reader.entry(tokens, length, last=length == len(counts))
            if gram in found:
                raise reader.fault("this n-gram came before")
            if gram[:-1] not in rows:
                raise reader.fault("the n-gram without its last token is missing")
            found[gram] = numbers
        if length == 1:  # a special token that the file leaves out is as impossible as KenLM takes it to be
            found = {(token,): (-100.0, 0.0) for token in range(len(SPECIAL))} | found
        grams = sorted(found)
        context = np.array([rows[gram[:-1]] for gram in grams], dtype=np.int64)
        symbol = np.array([gram[-1] for gram in grams], dtype=np.int64)
        values = np.array([found[gram] for gram in grams], dtype=np.float32).reshape(-1, 2).T + 0  # -0 becomes 0
        levels.append(Level(context, symbol, *np.ascontiguousarray(values)))
        rows = {gram: row for row, gram in enumerate(grams)}
    reader.expect("\\end\\")
    return NGrams(tuple(tokens), tuple(levels))


@dataclass
class _Reader:
    """The lines of one file, and the number of the line read last, from 1."""

    path: Path
    lines: list[str]
    number: int = 0

    def fault(self, what: str) -> EmgscribeError:
        return EmgscribeError(what, where=f"{self.path}, line {self.number}", hint=_HINT)

    def line(self, *, blank: bool = False) -> str:
        """The next line without its end; blank ones are skipped unless `blank`."""
        while self.number < len(self.lines):
            self.number += 1
            line = self.lines[self.number - 1].rstrip()
            if line or blank:
                return line
        raise self.fault("the file ends too early")

    def expect(self, wanted: str) -> None:
        if (line := self.line()) != wanted:
            raise self.fault(f"expected {wanted}, found {line[:40]!r}")

    def counts(self) -> Iterator[int]:
        """The number of n-grams of each length, from the header."""
        length = 1
        while line := self.line(blank=length > 1):
            found = re.fullmatch(rf"ngram +{length} *= *([0-9]+)", line)
            if not found:
                raise self.fault(f"expected 'ngram {length}=COUNT', found {line[:40]!r}")
            yield int(found[1])
            length += 1

    def entry(self, tokens: dict[str, int], length: int, *, last: bool) -> tuple[Gram, tuple[float, float]]:
        """An n-gram with its log-probability and back-off weight; a 1-gram adds its token to `tokens`."""
        line = self.line(blank=True)
        fields = line.split("\t")
        names = fields[1].split(" ") if len(fields) > 1 else []
        if not line or line.startswith("\\"):
            raise self.fault(f"the header promises more {length}-grams than there are")
        if len(names) != length or len(fields) > 3 - last or "" in names:
            raise self.fault(f"expected a number, {length} tokens, perhaps a number, tabs between; found {line[:60]!r}")
        if length == 1:
            tokens.setdefault(names[0], len(tokens))
        try:
            log_prob, backoff, *_ = *map(float, (fields[0], *fields[2:])), 0.0
            if not (log_prob <= 0 and backoff < math.inf):  # nor NaN
                raise ValueError(f"{line[:60]!r} holds a number that is not a log-probability")
            return tuple(tokens[name] for name in names), (log_prob, backoff)
        except KeyError as error:
            raise self.fault(f"{error} is not among the 1-grams") from error
        except ValueError as error:
            raise self.fault(str(error)) from error
