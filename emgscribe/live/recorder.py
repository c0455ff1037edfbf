"""Recordings, written to disk as samples come: a kill loses nothing that was written; `finish` makes a session of it.

While it is recorded, a session is a folder `NAME.recording`, with the samples as rows of a session file, and keys and
prompts as lines of JSON. At the end, or by `finish` after a kill, it becomes `NAME.hdf5`.
"""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emgscribe.config import from_json, to_json
from emgscribe.data.charset import symbol_of_key
from emgscribe.data.hdf5 import (
    CUT_OFF,
    Emg,
    Keystroke,
    Prompt,
    SessionHeader,
    Times,
    map_rows,
    moved,
    packed,
    unpacked,
    writing_session,
)
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.files import exclusive, failed, holder, open_file, read_json, write_json

_ABOUT, _ROWS, _EVENTS = "about.json", "rows", "events.jsonl"
_BLOCK = 1 << 17  # samples


class Recorder:
    """A session that is being recorded into the folder `out`. Times are on the source's clock, in s.

    `origin` is what to add to them to get unix seconds, `simulation` the simulator's settings where there is one.
    Raises `EmgscribeError` where nothing can be written.
    """

    def __init__(self, out: Path, shape: Shape, *, user: str, origin: float, simulation: str = "") -> None:
        self.shape, self.samples, self.keys = shape, 0, 0
        now = time.time()
        name = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}-{now:.0f}-keystrokes-{user}"
        self.folder = out / f"{name}{CUT_OFF}"
        about = {"name": name, "user": user, "origin": origin, "simulation": simulation, "shape": to_json(shape)}
        with ExitStack() as opened:
            opened.enter_context(exclusive(self.folder, "is recording here"))
            try:  # without a buffer: a write has reached the system when it returns
                self._rows, self._events = (
                    opened.enter_context((self.folder / file).open("wb", buffering=0)) for file in (_ROWS, _EVENTS)
                )
            except OSError as error:
                raise failed("written", self.folder, error) from error
            write_json(self.folder / _ABOUT, about)  # last: a recording without it was killed before it began
            self._open = opened.pop_all()

    @property
    def seconds(self) -> float:
        """How much has been recorded."""
        return self.samples / self.shape.rate

    def add(self, emg: Emg, times: Times) -> None:
        """Record samples (T, B, C) in µV, at `times` (T,)."""
        self._write(self._rows, packed(times, emg, self.shape).tobytes())
        self.samples += len(times)

    def add_key(self, key: Keystroke) -> None:
        """Record a key that was pressed."""
        self.keys += symbol_of_key(key.key) is not None
        self._note("key", vars(key))

    def add_prompt(self, prompt: Prompt) -> None:
        """Record a prompt that has been typed."""
        self._note("prompt", vars(prompt))

    def note_clock(self, error: float) -> None:
        """Note by how many seconds the times of the keys may be wrong."""
        self._note("clock_error", error)

    def _note(self, kind: str, content: Any) -> None:
        self._write(self._events, f"{json.dumps({kind: content})}\n".encode())

    def _write(self, file: Any, data: bytes) -> None:
        try:
            while data:  # a file without a buffer may take only a part
                data = data[file.write(data) :]
        except OSError as error:
            raise failed("written", self.folder, error) from error

    def close(self) -> None:
        """Stop, and leave what a kill would leave."""
        self._open.close()

    def finish(self) -> Path | None:
        """Stop, and make the session file; None where no sample was recorded."""
        self.close()
        return _session_of(self.folder)


def finish(out: Path) -> list[Path]:
    """Make sessions of the recordings in a folder that were cut off. A damaged one raises `EmgscribeError`."""
    cut_off = [folder for folder in sorted(out.glob(f"*{CUT_OFF}")) if not holder(folder)]
    return [path for path in map(_session_of, cut_off) if path]


def _session_of(folder: Path) -> Path | None:
    """Make the session file of a recording folder, and remove the folder."""
    path = folder.with_name(f"{folder.name.removesuffix(CUT_OFF)}.hdf5")
    rows = folder / _ROWS
    made = rows.exists() and rows.stat().st_size > 0 and _write_session(path, folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise failed("removed", folder, error) from error
    return path if made else None


def _write_session(path: Path, folder: Path) -> bool:
    """Write the session file of a recording; false where it has no samples."""
    try:
        about = read_json(folder / _ABOUT)
        shape, origin = from_json(Shape, about["shape"], where=str(folder)), float(about["origin"])
        samples = (folder / _ROWS).stat().st_size // shape.row.itemsize  # a kill may cut off the last one
        rows = map_rows(folder / _ROWS, shape, 0, samples)
        header = _header(about, folder, rows["time"], shape)
    except EmgscribeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = f"is damaged ({type(error).__name__}: {error})"
        raise EmgscribeError(what, where=str(folder), hint="move it elsewhere, or delete it") from error
    if not samples:
        return False
    with writing_session(path, header, samples, shape) as append:
        for start in range(0, samples, _BLOCK):
            part = rows[start : start + _BLOCK]
            append(part["time"] + origin, unpacked(part, shape))
    return True


def _header(about: dict[str, Any], folder: Path, times: Times, shape: Shape) -> SessionHeader:
    found = _events(folder / _EVENTS)
    keys = sorted((Keystroke(**key) for key in found["key"]), key=lambda key: key.start)
    return SessionHeader(
        name=about["name"],
        user=about["user"],
        condition="on_keyboard",
        duration_mins=len(times) / shape.rate / 60,
        keystrokes=moved(keys, about["origin"]),
        prompts=moved((Prompt(**prompt) for prompt in found["prompt"]), about["origin"]),
        simulation=about["simulation"],
        clock_error=max(map(float, found["clock_error"]), default=0.0),
    )


def _events(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    with open_file(path) as file:
        lines: Iterable[bytes] = file.read().split(b"\n")[:-1]  # a kill may cut off the last one
    for line in lines:
        for kind, content in json.loads(line).items():
            found[kind].append(content)
    return found
