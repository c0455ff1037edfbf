"""What an engine does -> messages: JSON for text and figures, binary columns for the scope (see docs/live.md)."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from emgscribe.data.charset import BLANK, SYMBOLS, text_of_labels
from emgscribe.data.hdf5 import Emg
from emgscribe.data.shape import Shape
from emgscribe.live.contact import Contact
from emgscribe.live.engine import Ended, Engine, Received
from emgscribe.live.meter import Scored
from emgscribe.scoring import side_by_side
from emgscribe.streaming import Update

VERSION = 1
COLUMN_SECONDS = 0.005  # of samples that one column of the scope shows
UNIT = 0.25  # µV of a step of the scope's numbers
_LIT = 0.02  # probability above which a key is lit

Message = str | bytes


def message(kind: str, **content: Any) -> str:
    """A JSON message, in ASCII: half of a surrogate pair could not be sent otherwise."""
    return json.dumps({"version": VERSION, "type": kind, **content}, allow_nan=False)


def ready(engine: Engine, **choices: Any) -> str:
    """What is running: sent to every client first, and after every change."""
    source, shape = engine.source, engine.source.shape
    return message(
        "ready",
        source=source.about,
        simulated=bool(source.simulation),
        model=repr(engine.stream.model) if engine.stream else None,
        delay=engine.stream.delay if engine.stream else None,
        bands=shape.bands,
        electrodes=shape.electrodes,
        rate=shape.rate,
        column=Scope(shape).samples / shape.rate,
        unit=UNIT,
        **choices,
    )


def shown(event: Received | Update | Scored | Ended, scope: "Scope") -> Iterator[Message]:
    """The messages of an event."""
    match event:
        case Received():
            if columns := scope.columns(event.emg):
                yield columns
            if event.typed:
                keys = [[SYMBOLS[key.label], round(key.time, 3)] for key in event.typed]
                yield message("typed", keys=keys)
        case Update():
            if event.committed.labels:
                yield message("final", text=event.committed.text, onsets=_rounded(event.committed.onsets))
            lit = {}
            if len(event.emissions):
                likely = np.exp(event.emissions.max(axis=0))
                keys = [
                    [SYMBOLS[at], round(float(likely[at]), 3)] for at in np.flatnonzero(likely > _LIT) if at != BLANK
                ]
                lit = {"keys": keys}
            yield message("partial", text=event.tentative.text, seconds=round(event.seconds, 3), **lit)
        case Scored():
            typed, read = text_of_labels(event.typed), text_of_labels(event.read)
            yield message("scored", lines=side_by_side(typed, read), **asdict(event.counts))
        case Ended():
            error = event.error
            cause = {"what": str(error).splitlines()[0], "hint": error.hint} if error else {}
            yield message("ended", **cause)


def stats(engine: Engine) -> str:
    """The current statistics."""
    measured = engine.meter.measured()
    cer = measured.counts.cer
    return message(
        "stats",
        shown=_rounded(measured.shown),
        committed=_rounded(measured.committed),
        computing=_rounded(measured.computing),
        cer=None if math.isnan(cer) else round(cer, 2),
        characters=measured.counts.length,
        words_per_minute=round(measured.words_per_minute, 1),
        waiting=round(engine.waiting, 3),
        late=engine.late,
        quiet=round(engine.quiet, 1),
        reconnected=engine.source.reconnected,
        **asdict(engine.grid.faults),
    )


def electrodes(contact: Contact) -> str:
    """The amplitude (µV) and the state of each electrode, those of the left band first."""
    return message("electrodes", amplitude=_rounded(contact.amplitude.tolist()), states=list(contact.states))


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 4) for value in values]


class Scope:
    """Samples -> columns: of each electrode the lowest and the highest sample of `COLUMN_SECONDS`."""

    def __init__(self, shape: Shape) -> None:
        self.samples = max(1, shape.samples(COLUMN_SECONDS))
        self._rest: Emg = np.zeros((0, len(shape.bands) * shape.electrodes), np.float32)
        self._made = 0

    def columns(self, emg: Emg) -> bytes:
        """The whole columns that samples (T, B, C) complete; empty where there is none.

        Two uint32, the kind (1) and the number of the first column, then for each column and electrode two int16, the
        lowest and the highest value in units of `UNIT`; all little-endian.
        """
        samples = np.concatenate([self._rest, emg.reshape(-1, self._rest.shape[1])])
        count = len(samples) // self.samples
        self._rest = samples[count * self.samples :].copy()
        if not count:
            return b""
        columns = samples[: count * self.samples].reshape(count, self.samples, -1)
        both = np.stack([columns.min(axis=1), columns.max(axis=1)], axis=2) / UNIT
        head = np.array([1, self._made], "<u4").tobytes()
        self._made += count
        return head + np.clip(np.rint(both), -32768, 32767).astype("<i2").tobytes()
