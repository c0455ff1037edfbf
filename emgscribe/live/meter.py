"""Latency, error rate and speed of the text."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from emgscribe.data.charset import BACKSPACE, SHIFT, labels_of_text
from emgscribe.live.sources import Typed
from emgscribe.scoring import Counts, count
from emgscribe.streaming import Update
from emgscribe.transcription import Transcript

_NEAR = 0.4  # s before or after its time at which a key may be read
_KEPT = 1000  # latest latencies, of which quantiles are taken
_MINUTE = 60.0
_PAUSE = 0.8  # s without a key between two pieces that are scored separately
_LONGEST = 400  # keys of a piece
_SILENT = frozenset(labels_of_text(BACKSPACE + SHIFT))


@dataclass(eq=False)
class _Key:
    label: int
    time: float
    timed: bool = True  # its latency counts
    shown: bool = False
    committed: bool = False


@dataclass(frozen=True)
class Scored:
    """A piece of text whose score is final: labels of the keys that went down, and of those that were read."""

    typed: tuple[int, ...]
    read: tuple[int, ...]
    counts: Counts


@dataclass(frozen=True)
class Measured:
    """`shown` and `committed` are seconds from key-down to the screen, `computing` seconds that updates took, each the
    50th, 95th and 99th percentile of the last thousand, or empty. `counts` are those of all committed text whose keys
    are known. `words_per_minute` counts five characters as a word, over the last minute."""

    shown: tuple[float, ...]
    committed: tuple[float, ...]
    computing: tuple[float, ...]
    counts: Counts
    words_per_minute: float


class Meter:
    """Compares what is read with the keys that are known to have gone down.

    `when` maps a time of the source to that of `time.monotonic`; without it there are no latencies. Threads may share a
    meter.
    """

    def __init__(self, when: Callable[[float], float] | None) -> None:
        self._when, self._lock, self._begun = when, threading.Lock(), time.monotonic()
        self._keys: list[_Key] = []  # that are not scored yet
        self._read: list[tuple[int, float]] = []  # committed labels and onsets that are not scored yet
        self._shown, self._committed, self._computing = (deque[float](maxlen=_KEPT) for _ in range(3))
        self._characters = deque[float]()  # when each was committed
        self._counts, self._horizon, self._known = Counts(), -np.inf, False

    def typed(self, keys: Sequence[Typed], *, late: bool = False) -> None:
        """Note keys that went down. Those that are `late` may be known only after they were shown: no latency."""
        if keys:
            with self._lock:
                self._keys += [_Key(key.label, key.time, timed=not late) for key in keys]
                self._keys.sort(key=lambda key: key.time)
                self._known = True

    def expect(self) -> None:
        """From now on all keys are known, also while there is none."""
        with self._lock:
            self._known = True

    def read(self, update: Update, computing: float) -> list[Scored]:
        """Note what was read, by `computing` seconds of work; returns the pieces whose score is now final."""
        now, committed = time.monotonic(), update.committed
        with self._lock:
            self._computing.append(computing)
            self._characters += [now] * sum(label not in _SILENT for label in committed.labels)
            while self._characters and self._characters[0] < now - _MINUTE:
                self._characters.popleft()
            if not self._known:
                return []
            if self._when is not None:
                self._match(committed, now, self._when, final=True)
                self._match(update.tentative, now, self._when, final=False)
            self._read += zip(committed.labels, committed.onsets, strict=True)
            self._horizon = min((*update.tentative.onsets, update.seconds - _NEAR))
            return list(iter(self._scored, None))

    def finish(self, *, all_read: bool = True) -> list[Scored]:
        """Score what is left, and expect no more keys. Without `all_read` the latest keys are still to be read."""
        with self._lock:
            cut = np.inf if all_read else self._horizon
            keys = sum(key.time < cut for key in self._keys)
            scored = [self._score(keys, cut)] if keys else []
            self._keys, self._read, self._known = [], [], False
            return scored

    def _match(self, text: Transcript, now: float, when: Callable[[float], float], *, final: bool) -> None:
        """Note the latency of each key that is shown, or committed, for the first time."""
        left = [key for key in self._keys if not key.committed]  # of which each is shown once
        for label, onset in zip(text.labels, text.onsets, strict=True):
            near = [key for key in left if key.label == label and abs(key.time - onset) < _NEAR]
            if not near:
                continue
            key = min(near, key=lambda key: abs(key.time - onset))
            left.remove(key)
            latency = now - when(key.time)
            if key.timed and not key.shown:
                self._shown.append(latency)
            if key.timed and final:
                self._committed.append(latency)
            key.shown, key.committed = True, final

    def _scored(self) -> Scored | None:
        """Score all that is committed up to the first pause, or what has become too long up to its longest gap."""
        ends = [key.time for key in self._keys if key.time < self._horizon]
        if not ends:
            return None
        gaps = [later - earlier for earlier, later in pairwise([*ends, self._horizon])]
        if self._horizon < max(key.time for key in self._keys):
            gaps[-1] = next(key.time for key in self._keys if key.time >= self._horizon) - ends[-1]
        first = next((place for place, gap in enumerate(gaps) if gap > _PAUSE), None)
        if first is None and len(ends) > _LONGEST:
            first = int(np.argmax(gaps[:-1]))
        if first is None or ends[first] + gaps[first] / 2 > self._horizon:
            return None
        return self._score(first + 1, ends[first] + gaps[first] / 2)

    def _score(self, keys: int, cut: float) -> Scored:
        """Score the first keys with what was read before `cut`."""
        typed = tuple(key.label for key in self._keys[:keys])
        read = tuple(label for label, onset in self._read if onset < cut)
        self._keys = self._keys[keys:]
        self._read = [one for one in self._read if one[1] >= cut]
        counts = count(typed, read)
        self._counts += counts
        return Scored(typed, read, counts)

    def measured(self) -> Measured:
        """All figures as they are now."""
        with self._lock:
            typed = [key.label for key in self._keys if key.time < self._horizon]
            counts = self._counts + count(typed, [label for label, onset in self._read if onset < self._horizon])
            seconds = min(_MINUTE, max(1.0, time.monotonic() - self._begun))
            shown, committed, computing = map(_quantiles, (self._shown, self._committed, self._computing))
            return Measured(shown, committed, computing, counts, len(self._characters) / 5 * 60 / seconds)


def _quantiles(values: deque[float]) -> tuple[float, ...]:
    return tuple(np.percentile(list(values), (50, 95, 99)).tolist()) if values else ()
