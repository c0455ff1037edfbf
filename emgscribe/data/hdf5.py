"""A session file: the emg2qwerty HDF5 layout, read and written.

Group `emg2qwerty` holds the dataset `timeseries` (one compound row per sample); everything else is an attribute of the
group (Sivakumar et al. 2024, arXiv 2410.20081, appendix). A file of ours may hold one band, or bands that do not have
16 electrodes. It has the attribute `sample_rate` where that is not 2 kHz, and `simulation` and `clock_error` where they
apply. docs/your-data.md shows the layout.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import symbol_of_key
from emgscribe.data.reader import convert_rows, read_layout
from emgscribe.data.shape import PUBLISHED_RATE, Shape
from emgscribe.errors import EmgscribeError
from emgscribe.files import failed, replacing

SUFFIXES = (".hdf5", ".h5")
CUT_OFF = ".recording"  # the ending of a folder that becomes a session: see live.recorder
GROUP, TIMESERIES = "emg2qwerty", "timeseries"
REAL_KEYS = "simulated EMG, real keys"  # in the settings of EMG that was simulated for keys that people pressed
ATTRIBUTES = ("session_name", "user", "condition", "duration_mins", "keystrokes", "prompts")
LARGEST = 2.0**32  # of a sample, in any unit: what a 32-bit converter counts; 6.6 mV are 6.6e6 nV

Times = npt.NDArray[np.float64]
Emg = npt.NDArray[np.float32]


def kind_of(*, simulated: bool, real_keys: bool) -> str:
    """Sessions in words: recorded, simulated, or simulated EMG under keys that people pressed."""
    return (REAL_KEYS if real_keys else "simulated") if simulated else "recorded"


def shown_kind(*, simulated: bool, real_keys: bool) -> str:
    """The same as a heading has it, which nobody must overlook where sessions are simulated."""
    kind = kind_of(simulated=simulated, real_keys=real_keys)
    return f"sessions of {kind.upper()}" if real_keys else f"{kind.upper() if simulated else kind} sessions"


@dataclass(frozen=True)
class Keystroke:
    """One key press; `key` is the pynput name, `start` and `end` are seconds, in a session file unix seconds."""

    key: str
    start: float
    end: float


@dataclass(frozen=True)
class Prompt:
    """What the wearer was asked to type from `start` to `end` (s, as of a key); `text` is None for a pause."""

    name: str
    start: float
    end: float
    text: str | None


Event = TypeVar("Event", Keystroke, Prompt)


def moved(events: Iterable[Event], seconds: float) -> tuple[Event, ...]:
    """Keystrokes or prompts with `seconds` added to their times."""
    return tuple(replace(event, start=event.start + seconds, end=event.end + seconds) for event in events)


@dataclass(frozen=True)
class SessionHeader:
    """Everything in a session but its samples. `simulation`: JSON of the simulator's settings, empty for recordings.

    `clock_error`: by how many seconds the times of the keys may be wrong, where it was measured; else 0.
    Raises `ValueError` where name, user or condition hold a control character, which a terminal may obey.
    """

    name: str
    user: str
    condition: str
    duration_mins: float
    keystrokes: tuple[Keystroke, ...]
    prompts: tuple[Prompt, ...]
    simulation: str = ""
    clock_error: float = 0.0

    def __post_init__(self) -> None:
        if not (text := f"{self.name}{self.user}{self.condition}").isprintable():
            raise ValueError(f"{text!r} holds a control character")

    @property
    def real_keys(self) -> bool:
        """Whether the EMG is simulated for keys that a person pressed."""
        return REAL_KEYS in self.simulation

    def labelled_keystrokes(self, first: float = -math.inf, last: float = math.inf) -> list[tuple[str, float]]:
        """(symbol, start time) of each keystroke that has a symbol and starts in [first, last], in order of start."""
        known = ((symbol_of_key(k.key), k.start) for k in self.keystrokes if first <= k.start <= last)
        return sorted(((symbol, start) for symbol, start in known if symbol is not None), key=lambda pair: pair[1])

    @property
    def text(self) -> str:
        """All symbols that were typed."""
        return "".join(symbol for symbol, _ in self.labelled_keystrokes())


class SessionFile:
    """An open session file, and a context manager. Samples stay on disk until they are read.

    Opening raises `EmgscribeError` where the file is missing, truncated, damaged, of another format, or refers to
    other files.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self._rows_kept = Path(path), ExitStack()
        self.layout = read_layout(self.path)
        try:
            rate = float(self.layout.attributes.get("sample_rate", PUBLISHED_RATE))
            self.shape = Shape(self.layout.bands, self.layout.electrodes, rate)
        except ValueError as error:
            what = f"attribute 'sample_rate' or dataset '{TIMESERIES}': {getattr(error, 'what', error)}"
            raise EmgscribeError(what, where=str(self.path), hint="write the file again with the rate in Hz") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the rows."""
        self.__dict__.pop("_rows", None)  # Windows removes no file that is mapped
        self._rows_kept.close()

    def __len__(self) -> int:
        return self.layout.rows

    @cached_property
    def header(self) -> SessionHeader:
        """The attributes; an `EmgscribeError` names the one that is missing or broken."""
        return _parsed(self.layout.attributes, self.path)

    @cached_property
    def _rows(self) -> npt.NDArray[np.void]:
        """The rows as they are in the file, or in a temporary copy where they must be converted."""
        if self.layout.offset >= 0 or not len(self):
            return map_rows(self.path, self.shape, self.layout.offset, len(self))
        try:
            self.convert(Path(self._rows_kept.enter_context(TemporaryDirectory())) / "rows")
        except OSError as error:
            raise failed("converted", self.path, error) from error
        return self._rows

    def convert(self, out: Path) -> None:
        """Write the rows to `out` as one block, and read them from there; `OSError` where the disk has no room."""
        convert_rows(self.path, out)
        self._rows = map_rows(out, self.shape, 0, len(self))

    def read(self, start: int = 0, stop: int | None = None) -> tuple[Times, Emg]:
        """Samples [start, stop): unix seconds (T,), and EMG (T, bands, electrode channels), left band first."""
        rows = self._rows[start:stop]
        return rows["time"].copy(), unpacked(rows, self.shape)

    def blocks(self, size: int = 1 << 17) -> Iterator[tuple[Times, Emg]]:
        """All samples, at most `size` at a time, so that memory is bounded."""
        return (self.read(start, start + size) for start in range(0, len(self), size))


def packed(times: Times, emg: Emg, shape: Shape) -> npt.NDArray[np.void]:
    """Samples at `times` (T,) and `emg` (T, bands, electrodes) as the rows of a session file."""
    rows = np.empty(len(times), shape.row)
    rows["time"] = times
    for name, band in zip(shape.fields, np.moveaxis(emg, 1, 0), strict=True):
        rows[name] = band
    return rows


def unpacked(rows: npt.NDArray[np.void], shape: Shape) -> Emg:
    """The EMG (T, bands, electrodes) of rows."""
    return np.stack([rows[name] for name in shape.fields], axis=1)


def map_rows(path: Path, shape: Shape, offset: int, rows: int) -> npt.NDArray[np.void]:
    """`rows` rows from byte `offset` of a file on. Writing into the array changes memory only, not the file."""
    if not rows:
        return np.empty(0, shape.row)
    try:
        return np.memmap(path, shape.row, "c", offset, (rows,))
    except (OSError, ValueError) as error:  # it was whole a moment ago
        raise EmgscribeError(f"changed while it was read ({error})", where=str(path), hint="try again") from error


def read_header(path: Path | str) -> SessionHeader:
    """The header of a session file."""
    with SessionFile(path) as file:
        return file.header


def _parsed(attributes: Mapping[str, str], path: Path) -> SessionHeader:
    if missing := [name for name in ATTRIBUTES if name not in attributes]:
        hint = "emgscribe.data.hdf5.write_session writes a complete file"
        raise EmgscribeError(f"attributes are missing: {', '.join(missing)}", where=str(path), hint=hint)
    parsers: dict[str, Callable[[Any], object]] = {
        "keystrokes": lambda e: Keystroke(_text(e["key"]), _finite(e["start"]), float(e["end"])),
        "prompts": lambda e: Prompt(_text(e["name"]), float(e["start"]), float(e["end"]), _prompted(e.get("payload"))),
    }
    place, lists = "an attribute", dict[str, Any]()
    try:
        for field, parse in parsers.items():
            place, parsed = f"attribute '{field}'", []
            if not isinstance(entries := json.loads(attributes[field]), list):
                raise TypeError("is not a list")
            for index, entry in enumerate(entries):
                place = f"attribute '{field}', entry {index}"
                parsed.append(parse(entry))
            lists[field] = tuple(parsed)
        place = "attribute 'duration_mins'"
        minutes = float(attributes["duration_mins"])
        place = "attribute 'session_name', 'user' or 'condition'"
        name, user, condition = (_text(attributes[field]) for field in ATTRIBUTES[:3])
        place, simulation = "attribute 'clock_error'", attributes.get("simulation", "")
        clock_error = _finite(attributes.get("clock_error", 0.0))
        return SessionHeader(name, user, condition, minutes, **lists, simulation=simulation, clock_error=clock_error)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{place}: {type(error).__name__} {str(error)[:200]}"
        raise EmgscribeError(what, where=str(path), hint="copy or download the file again") from error


def _text(value: object) -> str:
    text = str(value)
    text.encode()  # refuses what is not UTF-8, which no screen could show
    return text


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{number} is not a time")
    return number


def _prompted(payload: Any) -> str | None:
    text = (payload or {}).get("text")
    if not isinstance(text, str | None):
        raise TypeError("a prompt's text is not a string")
    return text and _text(text)


def _attributes(header: SessionHeader) -> dict[str, Any]:
    keystrokes = json.dumps([vars(keystroke) for keystroke in header.keystrokes])
    prompts = []
    for prompt in header.prompts:
        payload = None if prompt.text is None else {"text": prompt.text}
        prompts.append({"name": prompt.name, "start": prompt.start, "end": prompt.end, "payload": payload})
    values = header.name, header.user, header.condition, header.duration_mins, keystrokes, json.dumps(prompts)
    others = {"simulation": header.simulation, "clock_error": header.clock_error}
    return dict(zip(ATTRIBUTES, values, strict=True)) | {name: value for name, value in others.items() if value}


@contextmanager
def writing_session(
    path: Path | str, header: SessionHeader, num_samples: int, shape: Shape | None = None
) -> Iterator[Callable[[Times, Emg], None]]:
    """Write a session file of known length, contiguous and uncompressed, in blocks.

    Yields `append(times, emg)`: T samples at `times` (T,) in unix seconds, `emg` (T, bands, electrodes) left band
    first, of the given `shape` (default: that of the data set). The name appears only if the block succeeds; a failure
    leaves nothing. Raises `EmgscribeError` for arrays of another shape, and for too few or too many samples.
    """
    shape = shape or Shape()
    expected = shape.sample
    with replacing(Path(path)) as temporary:
        file, written = h5py.File(temporary, "w"), 0
        try:
            group = file.create_group(GROUP)
            stored = group.create_dataset(TIMESERIES, shape=(num_samples,), dtype=shape.row)

            def append(times: Times, emg: Emg) -> None:
                nonlocal written
                if np.shape(times) != (len(emg),) or np.shape(emg)[1:] != expected or written + len(emg) > num_samples:
                    what = f"emg {np.shape(emg)} with times {np.shape(times)} after {written} of {num_samples} samples"
                    hint = f"give times (T,) and emg (T, {expected[0]} bands, {expected[1]} electrodes)"
                    raise EmgscribeError(f"does not take {what}", where=str(path), hint=hint)
                stored[written : written + len(times)] = packed(times, emg, shape)
                written += len(times)

            yield append
            if written != num_samples:
                what = f"got {written} of {num_samples} samples"
                raise EmgscribeError(what, where=str(path), hint="append as many samples as were announced")
            group.attrs.update(_attributes(header))
            if shape.rate != PUBLISHED_RATE:
                group.attrs["sample_rate"] = shape.rate
        finally:
            try:
                file.close()
            except RuntimeError as error:  # how h5py reports, when it closes the file, that the disk is full
                raise OSError(str(error)) from error


def write_session(path: Path | str, header: SessionHeader, times: Times, emg: Emg, shape: Shape | None = None) -> None:
    """Write a whole session: `times` (T,) unix seconds, `emg` (T, bands, electrodes); see `writing_session`."""
    with writing_session(path, header, len(times), shape) as append:
        append(times, emg)


def is_session_name(path: Path | str) -> bool:
    """Whether a name has the ending of session files."""
    return Path(path).suffix.lower() in SUFFIXES


def find_sessions(folder: Path | str) -> Sequence[Path]:
    """The session files (`*.hdf5` or `*.h5`) of a folder, sorted by name. Published names begin with the date."""
    if not os.path.isdir(folder):  # False too for a name that no folder can have
        file = os.path.isfile(folder)
        what, hint = ("is a file, not a folder", "name its folder") if file else ("no such folder", "check the path")
        raise EmgscribeError(what, where=str(folder), hint=hint)
    if found := sorted(path for path in Path(folder).iterdir() if is_session_name(path)):
        return found
    hint = "name a folder of session files, or simulate some: emgscribe simulate"
    if any(Path(folder).glob(f"*{CUT_OFF}")):
        hint = f"a recording there was cut off: emgscribe record --out {folder} --finish-only makes a session of it"
    raise EmgscribeError("has no session files (*.hdf5 or *.h5)", where=str(folder), hint=hint)


def session_files(given: Iterable[Path | str]) -> list[Path]:
    """The files that are named, and the session files of the folders that are."""
    return [file for place in given for file in (find_sessions(place) if os.path.isdir(place) else [Path(place)])]


def prompts_of(paths: Sequence[Path | str]) -> frozenset[str]:
    """The prompts of sessions. A language model that decodes them must not have been trained on these texts."""
    return frozenset(prompt.text for path in paths for prompt in read_header(path).prompts if prompt.text)
