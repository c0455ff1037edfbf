"""Measures of typing, the same for simulated sessions and real ones, by the names of the rows in `published`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, clean_text, labels_of_text, screen_text, symbol_of_key
from emgscribe.data.hdf5 import SessionHeader
from emgscribe.simulation.arrays import Float64
from emgscribe.simulation.keyboard import interval_kind, pair_class
from emgscribe.simulation.published import published

_POINTS = {"5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95}
_TICK = 8.0  # ms; keys in one step of the logger's clock are 0 ms apart, which has no logarithm
_FEWEST = 50  # intervals of a pair of fingers that a median needs
_Strings = npt.NDArray[np.str_]
_Flags = npt.NDArray[np.bool_]


class _Keys:
    """The keys of a session that have symbols, in order of their start; times in ms."""

    def __init__(self, header: SessionHeader) -> None:
        strokes = sorted((k.start, k.end, symbol) for k in header.keystrokes if (symbol := symbol_of_key(k.key)))
        self.user, self.symbols = header.user, [symbol for _, _, symbol in strokes]
        starts, ends = 1000 * np.array([stroke[:2] for stroke in strokes]).reshape(-1, 2).T
        self.intervals, self.holds = np.diff(starts).round(3), (ends - starts).round(3)
        self.kinds = np.array([interval_kind(*pair) for pair in pairwise(self.symbols)], dtype=str)
        typed = screen_text(labels_of_text("".join(self.symbols)))
        asked = [clean_text(prompt.text or "").removesuffix(ENTER) for prompt in header.prompts]
        self.lines = list(zip(asked, typed.split(ENTER)[:-1], strict=False))


def measure_typing(headers: Iterable[SessionHeader]) -> dict[str, float]:
    """The numbers for sessions of two or more keys; none where there is no such session."""
    sessions = [keys for keys in map(_Keys, headers) if len(keys.symbols) > 1]
    if not sessions:
        return {}
    intervals = np.concatenate([session.intervals for session in sessions])
    kinds = np.concatenate([session.kinds for session in sessions])
    held = np.concatenate([session.holds[:-1] for session in sessions]) > intervals
    classes = np.array([pair_class(kind) for kind in kinds])
    found = {f"{each}, held past the next press": 100 * float(held[classes == each].mean()) for each in set(classes)}
    for each in set(classes):
        found |= _points(each, intervals[classes == each])
    found |= _points("interval between keys", intervals) | _pairs(intervals, held, kinds) | _sessions(sessions)
    return found | _keys(sessions) | _texts(sessions)


def _points(name: str, values: Float64) -> dict[str, float]:
    return {f"{name}, {at}": float(np.percentile(values, p)) for at, p in _POINTS.items() if len(values)}


def _pairs(intervals: Float64, held: _Flags, kinds: _Strings) -> dict[str, float]:
    """Mean distances from the published table of intervals and overlaps, over pairs of fingers."""
    apart = []
    for kind, (*_, median, _, _, overlap) in published()["intervals"].items():
        those = kinds == kind
        if " > " in kind and those.sum() >= _FEWEST:
            apart.append((np.median(intervals[those]) / median - 1, held[those].mean() - overlap / 100))
    names = "pairs of fingers: deviation of their medians, mean", "pairs of fingers: deviation of overlaps, mean"
    return dict(zip(names, 100 * np.abs(apart).mean(axis=0), strict=True)) if apart else {}


def _sessions(sessions: Sequence[_Keys]) -> dict[str, float]:
    rates = np.array([60_000 * len(session.symbols) / session.intervals.sum() for session in sessions])
    long = [np.log(np.maximum(each.intervals, _TICK)) for each in sessions if len(each.intervals) >= _FEWEST]
    found = _points("keys per minute of a session", rates)
    if long:
        faster = [np.median(each[-(len(each) // 3) :]) - np.median(each[: len(each) // 3]) for each in long]
        found |= {
            "standard deviation of log intervals in a session": float(np.median([each.std() for each in long])),
            "correlation of neighbouring intervals": float(
                np.median([np.corrcoef(each[:-1], each[1:])[0, 1] for each in long])
            ),
            "intervals in the last third of a session, relative to the first": float(np.exp(np.median(faster))),
        }
    return found


def _keys(sessions: Sequence[_Keys]) -> dict[str, float]:
    symbols = np.array([symbol for session in sessions for symbol in session.symbols])
    holds = np.concatenate([session.holds for session in sessions])
    counts, real = Counter(symbols.tolist()), published()["shares"]
    share = {symbol: 100 * number / len(symbols) for symbol, number in counts.items()}
    deleted = defaultdict[str, list[bool]](list)
    for session in sessions:
        deleted[session.user] += [symbol == BACKSPACE for symbol in session.symbols]
    runs = np.array([length for session in sessions for length in _runs(session.symbols)])
    found = _points("hold of letters", holds[np.char.isalpha(symbols)])
    found |= _points("hold of backspace", holds[symbols == BACKSPACE])
    found |= _points("backspaces of a user, share of keys", np.array([100 * np.mean(own) for own in deleted.values()]))
    if len(runs):
        found |= {f"runs of {length}": 100 * float(np.mean(runs == length)) for length in (1, 2, 3)}
        found["backspaces in a run, mean"] = float(runs.mean())
    rare = (s for s in share if s == SHIFT or s.isupper() or s.isdigit())
    marks = (s for s in share if not s.isalnum() and s not in (BACKSPACE, ENTER, SHIFT, " "))
    return found | {
        "runs of backspaces per 100 keys": 100 * len(runs) / len(symbols),
        "shift, capitals and digits, share of keys": sum(share[symbol] for symbol in rare),
        "punctuation, share of keys": sum(share[symbol] for symbol in marks),
        "keys of other symbols than published, share": sum(
            abs(share.get(symbol, 0) - real.get(symbol, 0)) for symbol in share.keys() | real.keys()
        )
        / 2,
    }


def _runs(symbols: Sequence[str]) -> Iterator[int]:
    """Lengths of the runs of backspaces."""
    length = 0
    for symbol in [*symbols, ""]:
        if symbol != BACKSPACE and length:
            yield length
        length = length + 1 if symbol == BACKSPACE else 0


def _texts(sessions: Sequence[_Keys]) -> dict[str, float]:
    """How prompts were typed; a line that is mostly something else belongs to no prompt."""
    lines = [line for session in sessions for line in session.lines]
    edits = [(Levenshtein.distance(asked, typed), len(asked)) for asked, typed in lines]
    near = [(distance, length) for distance, length in edits if distance < length / 2]
    found = _points("characters of a prompt", np.array([length for _, length in edits]))
    if near:
        wrong, asked = np.sum(near, axis=0)
        found["characters wrong at the end"] = 100 * wrong / asked
    return found
