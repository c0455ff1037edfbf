"""One recorded session on disk: open, slice by sample or time, read its labels, write.

The file is the emg2qwerty HDF5 layout: group `emg2qwerty`, dataset `timeseries` (one compound row of 136 bytes a
sample), everything else as attributes of the group (Sivakumar et al. 2024, arXiv 2410.20081, appendix).
`inspection.py` holds the check that explains what is wrong with a file.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import symbol_of_key
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

SAMPLE_RATE = 2000
BANDS, CHANNELS = 2, 16
GROUP, TIMESERIES = "emg2qwerty", "timeseries"
SAMPLE_DTYPE = np.dtype([("time", "<f8"), ("emg_left", "<f4", (CHANNELS,)), ("emg_right", "<f4", (CHANNELS,))])
ATTRIBUTES = ("session_name", "user", "condition", "duration_mins", "keystrokes", "prompts")

Times = npt.NDArray[np.float64]
Emg = npt.NDArray[np.float32]
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Keystroke:
    """One key press; `key` is the pynput name, `start` and `end` are unix seconds."""

    key: str
    start: float
    end: float


@dataclass(frozen=True)
class Prompt:
    """What the wearer was asked to type between `start` and `end` (unix seconds); `text` None for a null payload."""

    name: str
    start: float
    end: float
    text: str | None


@dataclass(frozen=True)
class SessionHeader:
    """Everything of a session but its samples."""

    name: str
    user: str
    condition: str
    duration_mins: float
    keystrokes: tuple[Keystroke, ...]
    prompts: tuple[Prompt, ...]
    simulation: str = ""  # JSON of what made it, for a session that nobody typed; real files lack the attribute

    def labelled_keystrokes(self) -> list[tuple[str, float]]:
        """(symbol, start time) of every keystroke inside the task's symbols, in order of their start."""
        known = ((symbol_of_key(k.key), k.start) for k in self.keystrokes)
        # A time that is not a number has no place in the order, nor on the signal; `inspect` reports it.
        return sorted(((s, t) for s, t in known if s is not None and math.isfinite(t)), key=lambda pair: pair[1])


class SessionFile:
    """An open session file. Samples stay on disk until they are asked for; use it as a context manager.

    Raises `EmgscribeError` when the file is missing, truncated, foreign or lacks a field.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_file(self.path)
        try:
            self._group, self._rows = sample_rows(self._file, self.path)
            self.header = read_header(self._group, self.path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the header stays readable."""
        self._file.close()

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def times(self, start: int = 0, stop: int | None = None) -> Times:
        """Unix seconds of samples [start, stop)."""
        return np.asarray(self._read(start, stop)["time"], dtype=np.float64)

    def emg(self, start: int = 0, stop: int | None = None) -> Emg:
        """Samples [start, stop) as float32 (T, 2 bands, 16 electrode channels), left band first."""
        return stack_bands(self._read(start, stop))

    def slice_time(self, start: float, end: float) -> slice:
        """The samples whose time lies in [start, end), as a slice; a pair of binary searches on disk."""
        return slice(self._search(start), self._search(end))

    def text(self, start: float = -np.inf, end: float = np.inf) -> str:
        """The symbols typed by keystrokes that started in [start, end)."""
        return "".join(symbol for symbol, t in self.header.labelled_keystrokes() if start <= t < end)

    def blocks(self, size: int = 1 << 17) -> Iterator[npt.NDArray[np.void]]:
        """All rows in blocks of at most `size`, so that memory is bounded by the block (136 bytes a row)."""
        for start in range(0, len(self), size):
            yield self._read(start, start + size)

    def rows_offset(self) -> int:
        """The byte at which the rows begin, where they lie in the file as `SAMPLE_DTYPE` says, one after the other."""
        offset = self._rows.id.get_offset()
        whole = offset is not None and offset + self._rows.nbytes <= self.path.stat().st_size
        return int(offset) if whole and self._rows.dtype == SAMPLE_DTYPE else -1

    def _read(self, start: int, stop: int | None) -> npt.NDArray[np.void]:
        with _readable(self.path):
            rows: npt.NDArray[np.void] = self._rows[start:stop]
            return rows

    def _search(self, time: float) -> int:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if float(self._read(middle, middle + 1)["time"][0]) < time:
                low = middle + 1
            else:
                high = middle
        return low


def stack_bands(rows: npt.NDArray[np.void]) -> Emg:
    """Compound rows -> float32 (T, 2, 16), left band first."""
    return np.stack([rows["emg_left"], rows["emg_right"]], axis=1).astype(np.float32, copy=False)


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; a missing, truncated or foreign one is an `EmgscribeError`."""
    if not path.is_file():
        raise EmgscribeError("no such file", where=str(path), hint="check the path")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise EmgscribeError(
            f"not a readable HDF5 file ({str(error).splitlines()[0]})",
            where=str(path),
            hint="the file is truncated or of another format: copy or download it anew and compare its size",
        ) from error


def sample_rows(file: h5py.File, path: Path) -> tuple[h5py.Group, h5py.Dataset]:
    """The group and its sample rows, or an error that says which part is not as in emg2qwerty."""
    with _readable(path):
        return _rows(file, path)


def _rows(file: h5py.File, path: Path) -> tuple[h5py.Group, h5py.Dataset]:

    def foreign(what: str) -> EmgscribeError:
        return EmgscribeError(what, where=str(path), hint="not an emg2qwerty session; docs/data.md shows the layout")

    group = file.get(GROUP)
    if not isinstance(group, h5py.Group):
        raise foreign(f"HDF5 group '{GROUP}' is missing")
    rows = group.get(TIMESERIES)
    if not isinstance(rows, h5py.Dataset):
        raise foreign(f"dataset '{GROUP}/{TIMESERIES}' is missing")
    fields = rows.dtype.fields or {}
    for name in SAMPLE_DTYPE.names or ():
        if name not in fields:
            raise foreign(f"'{TIMESERIES}' has no field '{name}'")
        if fields[name][0] != SAMPLE_DTYPE[name]:
            raise foreign(f"'{TIMESERIES}.{name}' is {fields[name][0]}, expected {SAMPLE_DTYPE[name]}")
    if rows.ndim != 1:
        raise foreign(f"'{TIMESERIES}' has {rows.ndim} dimensions, expected 1")
    return group, rows


def read_header(group: h5py.Group, path: Path) -> SessionHeader:
    """The attributes of the session group; an `EmgscribeError` names the field that is missing or broken."""
    with _readable(path):
        return _header(group, path)


def _header(group: h5py.Group, path: Path) -> SessionHeader:
    missing = [name for name in ATTRIBUTES if name not in group.attrs]
    if missing:
        raise EmgscribeError(
            f"attribute{'s' * (len(missing) > 1)} {', '.join(missing)} missing",
            where=str(path),
            hint="download the file anew or write it with emgscribe.data.hdf5.write_session",
        )
    values = {name: group.attrs[name] for name in (*ATTRIBUTES, "simulation") if name in group.attrs}
    # Other writers store text with a fixed length, which h5py reads as bytes.
    texts = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in values.items()}
    return SessionHeader(
        name=texts["session_name"],
        user=texts["user"],
        condition=texts["condition"],
        duration_mins=float(values["duration_mins"]),
        keystrokes=tuple(_parsed(texts["keystrokes"], path, "keystrokes", _keystroke)),
        prompts=tuple(_parsed(texts["prompts"], path, "prompts", _prompt)),
        simulation=texts.get("simulation", ""),
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever h5py raises over damaged bytes, in one error."""
    try:
        yield
    except EmgscribeError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise EmgscribeError(f"the file is damaged ({error})", where=str(path), hint="download it anew") from error


def _keystroke(entry: dict[str, Any]) -> Keystroke:
    return Keystroke(str(entry["key"]), float(entry["start"]), float(entry["end"]))


def _prompt(entry: dict[str, Any]) -> Prompt:
    payload = entry.get("payload")
    text = payload.get("text") if isinstance(payload, dict) else None
    return Prompt(str(entry["name"]), float(entry["start"]), float(entry["end"]), text)


def _parsed(text: str, path: Path, field: str, parse: Callable[[dict[str, Any]], Entry]) -> list[Entry]:
    hint = "download the file anew"
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise EmgscribeError(f"attribute '{field}' is not JSON ({error})", where=str(path), hint=hint) from error
    if not isinstance(entries, list):
        raise EmgscribeError(f"attribute '{field}' is no JSON list", where=str(path), hint=hint)
    parsed: list[Entry] = []
    for index, entry in enumerate(entries):
        try:
            parsed.append(parse(entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"attribute '{field}', entry {index}: {type(error).__name__} {error}"
            raise EmgscribeError(what, where=str(path), hint=hint) from error
    return parsed


class SessionWriter:
    """Appends blocks of samples to a session file of a size that is known beforehand (contiguous, uncompressed)."""

    def __init__(self, file: h5py.File, num_samples: int) -> None:
        self._group = file.create_group(GROUP)
        self._rows = self._group.create_dataset(TIMESERIES, shape=(num_samples,), dtype=SAMPLE_DTYPE)
        self._written = 0
        self.finished = False

    def append(self, times: Times, emg: Emg) -> None:
        """Add T samples: `times` (T,) unix seconds, `emg` (T, 2, 16) left band first."""
        assert emg.shape == (len(times), BANDS, CHANNELS), f"emg is {emg.shape} for {len(times)} times"
        rows = np.empty(len(times), dtype=SAMPLE_DTYPE)
        rows["time"], rows["emg_left"], rows["emg_right"] = times, emg[:, 0], emg[:, 1]
        self._rows[self._written : self._written + len(rows)] = rows
        self._written += len(rows)

    def finish(self, header: SessionHeader) -> None:
        """Write the attributes; every announced sample must have been appended."""
        assert self._written == len(self._rows), f"{self._written} of {len(self._rows)} samples appended"
        attributes = self._group.attrs
        attributes["session_name"], attributes["user"] = header.name, header.user
        attributes["condition"], attributes["duration_mins"] = header.condition, header.duration_mins
        if header.simulation:
            attributes["simulation"] = header.simulation
        keystrokes = [{"key": k.key, "start": k.start, "end": k.end} for k in header.keystrokes]
        prompts = [
            {"name": p.name, "start": p.start, "end": p.end, "payload": None if p.text is None else {"text": p.text}}
            for p in header.prompts
        ]
        attributes["keystrokes"], attributes["prompts"] = json.dumps(keystrokes), json.dumps(prompts)
        self.finished = True


@contextmanager
def writing_session(path: Path, num_samples: int) -> Iterator[SessionWriter]:
    """A `SessionWriter` for `path`. The name appears only when the block ends well; a failure leaves nothing."""
    with replacing(path) as temporary:
        file = h5py.File(temporary, "w")
        try:
            writer = SessionWriter(file, num_samples)
            yield writer
            assert writer.finished, "finish() was not called"
        finally:
            _close_written(file)


def _close_written(file: h5py.File) -> None:
    try:
        file.close()
    except RuntimeError as error:  # how h5py reports a disk that is full when it closes
        raise OSError(str(error)) from error


def write_session(path: Path, header: SessionHeader, times: Times, emg: Emg) -> None:
    """Write a whole session at once: `times` (T,) unix seconds, `emg` (T, 2, 16)."""
    with writing_session(path, len(times)) as writer:
        writer.append(times, emg)
        writer.finish(header)


def find_sessions(folder: Path) -> Sequence[Path]:
    """The session files (`*.hdf5`) of a folder, sorted by name; names begin with the recording's date."""
    if not folder.is_dir():
        raise EmgscribeError("no such folder", where=str(folder), hint="check the path")
    found = sorted(folder.glob("*.hdf5"))
    if not found:
        raise EmgscribeError("holds no session (*.hdf5)", where=str(folder), hint="emgscribe synthesize makes some")
    return found


def prompts_of(paths: Sequence[Path]) -> frozenset[str]:
    """What the wearers of sessions were asked to type: a language model that reads them must not have seen it."""
    texts = set[str]()
    for path in paths:
        with SessionFile(path) as session:
            texts |= {prompt.text for prompt in session.header.prompts if prompt.text}
    return frozenset(texts)
