"""A session file: the emg2qwerty HDF5 layout, read and written.

Group `emg2qwerty` holds the dataset `timeseries` (one compound row of 136 bytes a sample); everything else is an
attribute of the group (Sivakumar et al. 2024, arXiv 2410.20081, appendix). docs/your-data.md shows the layout.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
Rows = npt.NDArray[np.void]
Entry = TypeVar("Entry")
_COPY_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class Keystroke:
    """One key press; `key` is the pynput name, `start` and `end` are unix seconds."""

    key: str
    start: float
    end: float


@dataclass(frozen=True)
class Prompt:
    """What the wearer was asked to type from `start` to `end` (unix seconds); `text` is None for a pause."""

    name: str
    start: float
    end: float
    text: str | None


@dataclass(frozen=True)
class SessionHeader:
    """Everything of a session but its samples. `simulation`: JSON of the simulator's settings, empty for recordings."""

    name: str
    user: str
    condition: str
    duration_mins: float
    keystrokes: tuple[Keystroke, ...]
    prompts: tuple[Prompt, ...]
    simulation: str = ""

    def labelled_keystrokes(self) -> list[tuple[str, float]]:
        """(symbol, start time) of each keystroke that has a symbol and a finite start, in order of start."""
        known = ((symbol_of_key(k.key), k.start) for k in self.keystrokes if math.isfinite(k.start))
        return sorted(((symbol, start) for symbol, start in known if symbol is not None), key=lambda pair: pair[1])

    @property
    def text(self) -> str:
        """All symbols that were typed."""
        return "".join(symbol for symbol, _ in self.labelled_keystrokes())


class SessionFile:
    """An open session file, and a context manager. Samples stay on disk until they are read.

    Raises `EmgscribeError` where the file is missing, truncated or foreign; reading a damaged part raises it too.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = h5py.File(self.path, "r")
        except FileNotFoundError as error:
            raise EmgscribeError("no such file", where=str(path), hint="check the path") from error
        except OSError as error:
            what = f"not a readable HDF5 file ({str(error).splitlines()[0]})"
            hint = "the file is truncated or has another format; copy or download it again and compare its size"
            raise EmgscribeError(what, where=str(path), hint=hint) from error
        with ExitStack() as failed, _readable(self.path):
            failed.callback(self._file.close)
            self._group, self._rows = _group_and_rows(self._file, self.path)
            failed.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    @cached_property
    def header(self) -> SessionHeader:
        """The attributes; an `EmgscribeError` names the one that is missing or broken."""
        with _readable(self.path):
            return _read_header(self._group, self.path)

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Samples [start, stop) as compound rows."""
        with _readable(self.path):
            rows: Rows = self._rows[start:stop]
            return rows

    def blocks(self, size: int = 1 << 17) -> Iterator[Rows]:
        """All rows, at most `size` at a time, so that memory is bounded."""
        return (self.rows(start, start + size) for start in range(0, len(self), size))

    def times(self, start: int = 0, stop: int | None = None) -> Times:
        """Unix seconds of samples [start, stop)."""
        return np.asarray(self.rows(start, stop)["time"], dtype=np.float64)

    def emg(self, start: int = 0, stop: int | None = None) -> Emg:
        """Samples [start, stop) as float32 (T, 2 bands, 16 electrode channels), left band first."""
        return stack_bands(self.rows(start, stop))

    def rows_offset(self) -> int:
        """The byte at which the rows begin; -1 where they cannot be mapped as one block of `SAMPLE_DTYPE`."""
        offset = self._rows.id.get_offset()  # None where rows are chunked, compressed or in another file
        return int(offset) if offset is not None and offset % 4 == 0 and self._rows.dtype == SAMPLE_DTYPE else -1


def stack_bands(rows: Rows) -> Emg:
    """Compound rows -> float32 (T, 2, 16), left band first."""
    return np.stack([rows["emg_left"], rows["emg_right"]], axis=1).astype(np.float32, copy=False)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever h5py raises over damaged bytes into one error."""
    try:
        yield
    except EmgscribeError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise EmgscribeError(f"the file is damaged ({error})", where=str(path), hint=_COPY_AGAIN) from error


def _group_and_rows(file: h5py.File, path: Path) -> tuple[h5py.Group, h5py.Dataset]:
    """The session's group and its rows; an error says which part differs from the layout."""
    group = file.get(GROUP)
    rows = group.get(TIMESERIES) if isinstance(group, h5py.Group) else None
    found = {name: kind for name, (kind, *_) in (getattr(rows, "dtype", SAMPLE_DTYPE).fields or {}).items()}
    wrong = [name for name in SAMPLE_DTYPE.names or () if found.get(name, "missing") != SAMPLE_DTYPE[name]]
    if not isinstance(group, h5py.Group):
        fault = f"HDF5 group '{GROUP}' is missing"
    elif not isinstance(rows, h5py.Dataset):
        fault = f"dataset '{GROUP}/{TIMESERIES}' is missing"
    elif wrong:
        fault = f"'{TIMESERIES}.{wrong[0]}' is {found.get(wrong[0], 'missing')}, expected {SAMPLE_DTYPE[wrong[0]]}"
    elif rows.ndim != 1:
        fault = f"'{TIMESERIES}' has {rows.ndim} dimensions, expected 1"
    else:
        return group, rows
    raise EmgscribeError(fault, where=str(path), hint="docs/your-data.md shows the layout of a session file")


def _read_header(group: h5py.Group, path: Path) -> SessionHeader:
    if missing := [name for name in ATTRIBUTES if name not in group.attrs]:
        hint = "emgscribe.data.hdf5.write_session writes a complete file"
        raise EmgscribeError(f"attributes are missing: {', '.join(missing)}", where=str(path), hint=hint)
    # Other writers store text with a fixed length, which h5py reads as bytes.
    values = {name: value.decode() if isinstance(value, bytes) else value for name, value in group.attrs.items()}

    def entries(field: str, parse: Callable[[Any], Entry]) -> tuple[Entry, ...]:
        place, parsed = f"attribute '{field}'", list[Entry]()
        try:
            found = json.loads(values[field])
            for index, entry in enumerate(found if isinstance(found, list) else [found]):
                place = f"attribute '{field}', entry {index}"
                parsed.append(parse(entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{place}: {type(error).__name__} {error}"
            raise EmgscribeError(what, where=str(path), hint=_COPY_AGAIN) from error
        return tuple(parsed)

    def prompt(e: Any) -> Prompt:
        return Prompt(str(e["name"]), float(e["start"]), float(e["end"]), (e.get("payload") or {}).get("text"))

    return SessionHeader(
        name=str(values["session_name"]),
        user=str(values["user"]),
        condition=str(values["condition"]),
        duration_mins=float(values["duration_mins"]),
        keystrokes=entries("keystrokes", lambda e: Keystroke(str(e["key"]), float(e["start"]), float(e["end"]))),
        prompts=entries("prompts", prompt),
        simulation=str(values.get("simulation", "")),
    )


class SessionWriter:
    """Appends blocks of samples to a session file of known length (contiguous, uncompressed)."""

    def __init__(self, file: h5py.File, num_samples: int) -> None:
        self._group = file.create_group(GROUP)
        self._rows = self._group.create_dataset(TIMESERIES, shape=(num_samples,), dtype=SAMPLE_DTYPE)
        self._written = 0

    def append(self, times: Times, emg: Emg) -> None:
        """Add T samples: `times` (T,) unix seconds, `emg` (T, 2, 16) left band first."""
        assert emg.shape == (len(times), BANDS, CHANNELS), f"emg is {emg.shape} for {len(times)} times"
        rows = np.empty(len(times), dtype=SAMPLE_DTYPE)
        rows["time"], rows["emg_left"], rows["emg_right"] = times, emg[:, 0], emg[:, 1]
        self._rows[self._written : self._written + len(rows)] = rows
        self._written += len(rows)

    def finish(self, header: SessionHeader) -> None:
        """Write the attributes, after all samples."""
        assert self._written == len(self._rows), f"{self._written} of {len(self._rows)} samples appended"
        prompts = [
            {"name": p.name, "start": p.start, "end": p.end, "payload": None if p.text is None else {"text": p.text}}
            for p in header.prompts
        ]
        keystrokes = json.dumps([vars(keystroke) for keystroke in header.keystrokes])
        values = header.name, header.user, header.condition, header.duration_mins, keystrokes, json.dumps(prompts)
        attributes = list(zip(ATTRIBUTES, values, strict=True))
        if header.simulation:
            attributes.insert(4, ("simulation", header.simulation))  # this order keeps the bytes of simulated sessions
        self._group.attrs.update(attributes)


@contextmanager
def writing_session(path: Path | str, num_samples: int) -> Iterator[SessionWriter]:
    """A `SessionWriter` for `path`. The name appears only when the block ends well; a failure leaves nothing."""
    with replacing(Path(path)) as temporary:
        file = h5py.File(temporary, "w")
        try:
            yield SessionWriter(file, num_samples)
            assert ATTRIBUTES[0] in file[GROUP].attrs, "finish() was not called"
        finally:
            try:
                file.close()
            except RuntimeError as error:  # how h5py reports a disk that is full when it closes
                raise OSError(str(error)) from error


def write_session(path: Path | str, header: SessionHeader, times: Times, emg: Emg) -> None:
    """Write a whole session: `times` (T,) unix seconds, `emg` (T, 2, 16) left band first."""
    with writing_session(path, len(times)) as writer:
        writer.append(times, emg)
        writer.finish(header)


def find_sessions(folder: Path | str) -> Sequence[Path]:
    """The session files (`*.hdf5`) of a folder, sorted by name. Published names begin with the date."""
    folder = Path(folder)
    if not folder.is_dir():
        raise EmgscribeError("no such folder", where=str(folder), hint="check the path")
    found = sorted(folder.glob("*.hdf5"))
    if not found:
        hint = "name a folder of session files, or simulate some: emgscribe simulate"
        raise EmgscribeError("has no session files (*.hdf5)", where=str(folder), hint=hint)
    return found


def prompts_of(paths: Sequence[Path | str]) -> frozenset[str]:
    """The prompts of sessions. A language model that decodes them must not have been trained on these texts."""
    texts = set[str]()
    for path in paths:
        with SessionFile(path) as file:
            texts |= {prompt.text for prompt in file.header.prompts if prompt.text}
    return frozenset(texts)
