"""Back-off n-grams as arrays, and ARPA files, plain or gzipped, as KenLM and SRILM write them.

Probabilities and back-off weights are log10 in float32, written with the fewest digits that read back as the same
number: a file that is read and written again holds the same model, bit for bit.
"""

import gzip
import os
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from emgscribe.errors import EmgscribeError
from emgscribe.files import failed, open_file, replacing

Rows = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float32]

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, START, END)  # the first three tokens of every model, in this order
MAX_TOKENS = 20  # of an n-gram
MAX_NGRAMS, _MAX_BYTES = 1 << 23, 1 << 29  # reading them takes 2 GB at most
_MAX_UNPACKED = 100  # bytes for each byte of a gzipped file; models have 3 to 10
_CHUNK = 1 << 16  # bytes that are read at a time, and that a line may have
_MAX_BLANK = 100  # lines
_LOWEST = -1e30  # log10; sums of them stay finite in float32
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
        temporary.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


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
    """Read an ARPA file, plain or gzipped; anything else raises an `EmgscribeError` with the line.

    What a file can ask for is bounded: n-grams of 20 tokens, 8,388,608 n-grams, 512 MB of text.
    """
    with open_file(path) as file:
        try:
            return _Reader(path, file).ngrams()
        except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise EmgscribeError(f"is damaged, or not an ARPA file ({error})", where=str(path), hint=_HINT) from error
        except OSError as error:
            raise failed("read", path, error) from error


class _Reader:
    """The lines of one file, the number of the line read last, from 1, and the tokens found so far."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.number, self.lines = path, 0, self._split(file)
        self.tokens = {token.encode(): number for number, token in enumerate(SPECIAL)}

    def _split(self, file: BinaryIO) -> Iterator[bytes]:
        packed = file.read(2) == b"\x1f\x8b"
        most = min(_MAX_BYTES, _CHUNK + _MAX_UNPACKED * file.seek(0, os.SEEK_END))
        file.seek(0)
        text = gzip.GzipFile(fileobj=file) if packed else file
        read, rest = 0, b""
        while chunk := text.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            read += len(chunk)
            if read > most or len(rest) > _CHUNK:
                raise self.fault("there is more text, or a longer line, than in any usable language model")
        yield rest

    def fault(self, what: str) -> EmgscribeError:
        return EmgscribeError(what, where=f"{self.path}, line {self.number}", hint=_HINT)

    def line(self, *, blank: bool = False) -> str:
        """The next line without its end; some blank ones are skipped unless `blank`."""
        for line in islice(self.lines, 1 if blank else _MAX_BLANK):
            self.number += 1
            if line.strip() or blank:
                return line.decode(errors="replace").rstrip()
        raise self.fault("the file ends too early")

    def expect(self, wanted: str) -> None:
        if (line := self.line()) != wanted:
            raise self.fault(f"expected {wanted}, found {line[:40]!r}")

    def ngrams(self) -> NGrams:
        """All that the file holds."""
        self.expect("\\data\\")
        counts, levels = self.counts(), []
        numbers, rows = {b"": 0}, np.zeros(1, np.int64)  # of n-grams one shorter: place in the file, row in the level
        for length, count in enumerate(counts, 1):
            self.expect(f"\\{length}-grams:")
            keys, values, numbers = self.entries(length, count, numbers, last=length == len(counts))
            keys[:, 0] = rows[keys[:, 0]]
            order = np.lexsort(keys.T[::-1])
            rows = np.argsort(order)
            context, symbol = np.ascontiguousarray(keys[order].T)
            log_prob, backoff = np.ascontiguousarray(values[order].astype(np.float32).T) + 0  # -0 becomes 0
            levels.append(Level(context, symbol, log_prob, backoff))
        self.expect("\\end\\")
        for _ in islice(self.lines, _MAX_BLANK):  # where a gzipped file ends, its checksum is compared
            pass
        return NGrams(tuple(token.decode() for token in self.tokens), tuple(levels))

    def counts(self) -> list[int]:
        """The number of n-grams of each length, from the header."""
        found: list[int] = []
        while line := self.line(blank=bool(found)):
            length = len(found) + 1
            claimed = re.fullmatch(rf"ngram +{length} *= *([0-9]{{1,18}})", line)
            if not claimed:
                raise self.fault(f"expected 'ngram {length}=COUNT', found {line[:40]!r}")
            found.append(int(claimed[1]))
            if length > MAX_TOKENS or sum(found) > MAX_NGRAMS:
                raise self.fault(f"n-grams of more than {MAX_TOKENS} tokens, or more than {MAX_NGRAMS:,} n-grams")
        return found

    def entries(
        self, length: int, count: int, contexts: dict[bytes, int], *, last: bool
    ) -> tuple[Rows, npt.NDArray[np.float64], dict[bytes, int]]:
        """The n-grams of one length in the order of the file: (context, last token) and (log-probability, back-off).

        Then the place of each n-gram in that order. 1-grams add their tokens to `tokens`.
        """
        keys, values, numbers, tokens = array("q"), array("d"), dict[bytes, int](), self.tokens
        for place, line in enumerate(islice(self.lines, count)):
            self.number += 1
            try:
                log_prob, words, *rest = line.rstrip().split(b"\t")
                if length == 1 and words:
                    tokens.setdefault(words, len(tokens))
                context, _, token = words.rpartition(b" ")
                keys.extend((contexts[context], tokens[token]))
                values.extend((float(log_prob), float(rest[0]) if rest else 0.0))
                if len(rest) > 1 - last or not (_LOWEST < values[-2] <= 0 and _LOWEST < values[-1] < -_LOWEST):
                    raise ValueError("a number is not a log-probability")
            except (KeyError, ValueError) as error:
                raise self.fault(self.reason(line, length, error, last=last)) from None
            if numbers.setdefault(words, place) != place:
                raise self.fault("this n-gram is a duplicate")
        if len(keys) < 2 * count:
            raise self.fault("the file ends too early")
        # A special token that the file leaves out gets the log-probability that KenLM gives it.
        for number, special in enumerate(SPECIAL if length == 1 else ()):
            if numbers.setdefault(special.encode(), len(numbers)) == len(keys) // 2:
                keys.extend((0, number))
                values.extend((-100.0, 0.0))
        return np.asarray(keys).reshape(-1, 2), np.asarray(values).reshape(-1, 2), numbers

    def reason(self, entry: bytes, length: int, error: Exception, *, last: bool) -> str:
        """What is wrong with an entry that could not be read."""
        line = entry.decode(errors="replace").rstrip()
        if not line or line.startswith("\\"):
            return f"the header promises more {length}-grams than there are"
        fields = line.split("\t")
        names = fields[1].split(" ") if len(fields) > 1 else []
        if len(names) != length or "" in names or len(fields) > 3 - last:
            return f"expected a number, {length} tokens, an optional number, tab-separated; found {line[:60]!r}"
        if unknown := [name for name in names if name.encode() not in self.tokens]:
            return f"{unknown[0][:40]!r} is not among the 1-grams"
        return "the n-gram without its last token is missing" if isinstance(error, KeyError) else str(error)[:100]
