"""One recorded session, mapped into memory: its samples, the keys that were pressed, and when.

A row of a session file is float32 throughout (a time of 8 bytes, then all electrode channels), so a view of the file
is an array that torch accepts: nothing is copied. Rows that are compressed, chunked or have further fields are
converted once. The first time a file is opened, all of it is read, checked and hashed; its labels and hash stay in the
cache.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emgscribe.config import from_json, to_json
from emgscribe.data.cache import Entry
from emgscribe.data.charset import labels_of_text, text_of_labels
from emgscribe.data.hdf5 import Emg, SessionFile, kind_of, map_rows, session_files
from emgscribe.data.inspect import Inspection, scan
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False)
class Session:
    """A session: `emg` (T, bands, electrode channels) float32, left band first; its `shape` has the sampling rate.

    `labels` (K,) are the keystrokes' labels in order of time, `onsets` (K,) the first sample at or after each key-down.
    `content` is a hash of `emg`, `labels` and `onsets`. `simulated` is true where no person was recorded, `real_keys`
    where a person pressed the keys even so.
    """

    name: str
    user: str
    simulated: bool
    content: str
    emg: Emg
    labels: _Labels
    onsets: _Labels
    path: Path | None = None
    real_keys: bool = False
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        if self.emg.shape[1:] != self.shape.sample:
            what = f"emg is {self.emg.shape}, but its shape says {self.shape}"
            raise EmgscribeError(what, where=self.name, hint="give a shape that fits (T, bands, electrodes)")
        if not self.emg.flags.writeable or min(self.emg.strides) < 0:  # PyTorch takes no such array
            object.__setattr__(self, "emg", self.emg.copy())

    def __len__(self) -> int:
        return len(self.emg)

    def __repr__(self) -> str:
        kind = f", {self.kind}" * self.simulated
        return f"<Session {self.name}: user {self.user}, {self.minutes:.1f} min, {len(self.labels)} keys{kind}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Another process maps the same file; gigabytes of samples need not travel.
        if not isinstance(self.emg, np.memmap) or self.emg.filename is None:
            return super().__reduce__()
        without = replace(self, emg=np.empty((0, *self.emg.shape[1:]), np.float32))
        return _with_samples, (without, Path(self.emg.filename), self.emg.offset, len(self))

    @property
    def kind(self) -> str:
        """In words: recorded, simulated, or simulated EMG, real keys."""
        return kind_of(simulated=self.simulated, real_keys=self.real_keys)

    @property
    def minutes(self) -> float:
        """Length in minutes."""
        return len(self) / self.shape.rate / 60

    @property
    def text(self) -> str:
        """All keystrokes, with ⌫ ⏎ and ⇧ as symbols."""
        return text_of_labels(self.labels.tolist())

    @property
    def recording(self) -> str:
        """The hash of the whole recording, of which this session may be a part."""
        return self.content.partition(":")[0]

    def first(self, samples: int) -> "Session":
        """The session as if it had ended after `samples` samples."""
        return self if samples >= len(self) else self.part(0, samples)

    def part(self, start: int, stop: int) -> "Session":
        """Samples [start, stop), 0 <= start < stop, as a session of their own."""
        keys, stop = self.typed(start, stop), min(stop, len(self))
        emg = np.asarray(self.emg[start:stop]) if start else self.emg[:stop]  # not a map from the file's beginning
        content = f"{self.content}:{start}-{stop}" if start else f"{self.content}:{stop}"
        return replace(self, content=content, emg=emg, labels=self.labels[keys], onsets=self.onsets[keys] - start)

    def typed(self, start: int, stop: int) -> slice:
        """Which keystrokes went down in samples [start, stop), as a slice of `labels` and `onsets`."""
        first, last = np.searchsorted(self.onsets, (start, stop))
        return slice(int(first), int(last))

    def plot(self, start: float, stop: float, *, read: Any = None) -> "Figure":
        """Seconds [start, stop) as a matplotlib figure: electrodes, keys, and what a model `read` (`plot_session`)."""
        from emgscribe.data.plot import plot_session

        return plot_session(self, start, stop, read)


def how_simulated(sessions: Iterable[Session]) -> tuple[bool, bool]:
    """Whether any of the sessions is simulated, and whether people pressed the keys of all that are."""
    made = [session for session in sessions if session.simulated]
    return bool(made), bool(made) and all(session.real_keys for session in made)


def open_sessions(paths: Path | str | Iterable[Path | str], cache: Path | None = None) -> list[Session]:
    """Open session files, as `open_session` does. A folder stands for the session files in it, by name."""
    given = [paths] if isinstance(paths, Path | str) else paths
    return [open_session(path, cache) for path in session_files(given)]


def open_session(path: Path | str, cache: Path | None = None) -> Session:
    """Open one session file. What is found in it is kept in `cache` (default: `default_cache()`), if it is writable.

    Raises `EmgscribeError` where the file is missing or not a session, and where `inspect` finds an error in its
    samples.
    """
    path = Path(path)
    entry = Entry(path, "sessions", cache)
    copy = entry.folder / "rows"
    if (kept := entry.read()) is None or (kept[0]["offset"] < 0 and not _has_rows(copy, kept[0])):
        kept = _read(path, entry)
    facts, keys = kept
    offset, samples, shape = facts["offset"], facts["samples"], from_json(Shape, facts["shape"], where=str(path))
    emg = _mapped(path, shape, offset, samples) if offset >= 0 else _mapped(copy, shape, 0, samples)
    labels, onsets = np.frombuffer(keys, np.int64).reshape(2, -1).copy()
    return Session(**facts["session"], emg=emg, labels=labels, onsets=onsets, path=path, shape=shape)


def _mapped(file: Path, shape: Shape, offset: int, samples: int) -> Emg:
    """The EMG (T, bands, electrodes) of the rows from byte `offset` of a file on."""
    numbers = map_rows(file, shape, offset, samples).view("<f4").reshape(samples, -1)[:, 2:]  # behind 8 bytes of time
    return numbers.reshape(samples, *shape.sample)


def _with_samples(session: Session, file: Path, offset: int, samples: int) -> Session:
    return replace(session, emg=_mapped(file, session.shape, offset, samples))


def _has_rows(copy: Path, facts: dict[str, Any]) -> bool:
    size = facts["samples"] * from_json(Shape, facts["shape"], where=str(copy)).row.itemsize
    return copy.is_file() and copy.stat().st_size == size


def _read(path: Path, entry: Entry) -> tuple[dict[str, Any], bytes]:
    """Examine a session file and keep what is found, with its rows if they are converted.

    Only a converted file needs the entry, so only then is a full disk an error.
    """
    with SessionFile(path) as file:
        if file.layout.offset >= 0:
            entry.write(*(found := _examined(file)))
            return found
        with replacing(entry.folder) as folder:
            folder.mkdir()
            file.convert(folder / "rows")
            entry.write_into(folder, *(found := _examined(file)))
            file.close()  # Windows moves no file that is mapped
        return found


def _examined(file: SessionFile) -> tuple[dict[str, Any], bytes]:
    """Facts of a session file without errors, and its labels and onsets as bytes."""
    header, inspection = file.header, Inspection(str(file.path))
    times, content = scan(file, inspection)
    if errors := "; ".join(f"{f.field}: {f.message}" for f in inspection.findings if f.severity == "error"):
        hint = "leave the session out or repair it; emgscribe inspect lists all faults"
        raise EmgscribeError(errors, where=str(file.path), hint=hint)
    typed = header.labelled_keystrokes(times[0], times[-1])
    labels = np.array(labels_of_text("".join(symbol for symbol, _ in typed)), dtype=np.int64)
    onsets = np.searchsorted(times, [start for _, start in typed]).astype(np.int64)
    content.update(keys := labels.tobytes() + onsets.tobytes())
    session = {"name": header.name, "user": header.user, "simulated": bool(header.simulation)}
    session |= {"real_keys": header.real_keys, "content": content.hexdigest()[:16]}
    facts = {"samples": len(times), "offset": file.layout.offset, "shape": to_json(file.shape), "session": session}
    return facts, keys
