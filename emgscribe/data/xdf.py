"""Recordings of the Lab Streaming Layer in XDF files, as its LabRecorder writes them."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from emgscribe.data.recordings import Recording, Track, bands_of, keystrokes_of
from emgscribe.data.shape import Band
from emgscribe.errors import EmgscribeError, optional
from emgscribe.files import damage_reported, open_file

_EVENT = re.compile(r"(.+?)[ _:](pressed|down|released|up)", re.IGNORECASE | re.DOTALL)
UNIT_NAMES = {
    "microvolts": "uV",
    "microvolt": "uV",
    "uv": "uV",
    "µv": "uV",
    "millivolts": "mV",
    "mv": "mV",
    "volts": "V",
    "v": "V",
}
_MAGIC = b"XDF:"


def read_xdf(path: Path, bands: Sequence[Band], *, streams: Sequence[str] = (), unit: str = "") -> Recording:
    """A recording in an XDF file: EMG of one stream, or of two streams (left and right), and keys of a marker stream.

    `streams` names those of the EMG; without it they are those of type EMG. Clocks are synchronised as LabRecorder
    measured them. Markers are key names, or `KEY pressed` and `KEY released`. Needs pyxdf (the extra `xdf`).
    """
    pyxdf = optional("pyxdf", "xdf")
    with open_file(path) as file:
        if file.read(4) != _MAGIC:
            raise EmgscribeError("is not an XDF file", where=str(path), hint="name a file that LabRecorder wrote")
    with _logged() as messages, damage_reported(path):
        found, _ = pyxdf.load_xdf(str(path), dejitter_timestamps=False, verbose=False)
    named = Counter(map(_name, found))
    if twice := [name for name in streams or _emg(found) if named[name] > 1]:
        what, hint = f"has {named[twice[0]]} streams named {twice[0]!r}", "rename one in the device's program"
        raise EmgscribeError(what, where=str(path), hint=hint)
    held = {_name(stream): stream for stream in found}
    chosen = _chosen(held, streams, path)
    tracks: list[Track] = []
    for name in chosen:
        samples = np.asarray(held[name]["time_series"], dtype=np.float32)
        times = np.asarray(held[name]["time_stamps"], dtype=np.float64)
        parts = bands if len(chosen) == 1 else bands[:1]
        tracks += bands_of(samples.reshape(len(times), -1), times, parts)
    if len(tracks) != len(bands):
        what = f"{len(tracks)} streams of EMG ({', '.join(chosen)}) for {len(bands)} bands"
        raise EmgscribeError(what, where=str(path), hint="name the streams (--streams) and the bands (--bands)")
    rate = float(held[chosen[0]]["info"]["nominal_srate"][0])
    markers = [stream for stream in found if isinstance(stream["time_series"], list)]
    keys = tuple(key for stream in markers for key in keystrokes_of(_events(stream)))
    known = unit or _unit(held[chosen[0]]) or "raw"
    return Recording(tuple(bands), tuple(tracks), rate, 0.0, known, keys, name=path.stem, notes=_noted(messages))


class _Collected(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split()))


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect what pyxdf logs: it goes on after a damaged part of a file."""
    logger, handler = logging.getLogger("pyxdf"), _Collected(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _noted(messages: list[str]) -> tuple[str, ...]:
    more = (f"and {len(messages) - 2} more messages from pyxdf",) if len(messages) > 3 else ()
    return (*(f"pyxdf: {message:.150}" for message in messages[: 2 if more else 3]), *more)


def _name(stream: Any) -> str:
    return str(stream["info"]["name"][0])


def _emg(streams: Iterable[Any]) -> list[str]:
    """The names of the streams that are of EMG."""
    return [_name(stream) for stream in streams if stream["info"]["type"][0] == "EMG"]


def _chosen(held: dict[str, Any], streams: Sequence[str], path: Path) -> list[str]:
    there = ", ".join(f"{name} ({stream['info']['type'][0]})" for name, stream in held.items()) or "none"
    if strange := [name for name in streams if name not in held]:
        raise EmgscribeError(f"has no stream {strange[0]!r}", where=str(path), hint=f"its streams: {there}")
    found = list(streams) or _emg(held.values())
    if not found or any(
        isinstance(held[name]["time_series"], list) or not len(held[name]["time_stamps"]) for name in found
    ):
        raise EmgscribeError(
            "has no samples of EMG", where=str(path), hint=f"name a stream (--streams); its streams: {there}"
        )
    return found


def _unit(stream: Any) -> str:
    try:
        channel = stream["info"]["desc"][0]["channels"][0]["channel"][0]
        return UNIT_NAMES.get(str(channel["unit"][0]).lower(), "")
    except (KeyError, IndexError, TypeError):
        return ""


def _events(stream: Any) -> Iterator[tuple[str, float, bool | None]]:
    """(key, time, whether it went down) of a marker stream; None where a marker is the key alone."""
    for (marker, *_), time in zip(stream["time_series"], stream["time_stamps"].tolist(), strict=True):
        event = _EVENT.fullmatch(marker)
        yield (event[1], time, event[2].lower() in ("pressed", "down")) if event else (marker, time, None)
