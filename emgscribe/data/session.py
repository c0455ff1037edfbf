"""One recorded session, mapped into memory: its samples, the keys that were pressed, and when.

A row of a session file is 34 float32 (a time of 8 bytes, then 2 x 16 electrode channels), so a view of the file itself
is an array that torch takes: nothing is copied. A file whose rows are compressed, chunked or have further fields is
converted once. The first time a file is opened, all of it is read, checked and hashed; its labels and hash stay in the
cache.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import labels_of_text, text_of_labels
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_DTYPE, SAMPLE_RATE, Emg, SessionFile, stack_bands
from emgscribe.data.inspect import Inspection, scan
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 4
_HEADER_BYTES = 1 << 16
_ROW = SAMPLE_DTYPE.itemsize // 4  # float32 values in a row, two of which hold its time
_DAY = 86400  # s
_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False)
class Session:
    """A session: `emg` (T, 2 bands, 16 electrode channels) float32 at 2 kHz, left band first.

    `labels` (K,) are the keystrokes' labels in order of time, `onsets` (K,) the index of the first sample at or after
    each key went down. `simulated` is true where no person typed; `content` is a hash of samples, labels and onsets.
    """

    name: str
    user: str
    simulated: bool
    content: str
    emg: Emg
    labels: _Labels
    onsets: _Labels
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.emg)

    def __repr__(self) -> str:
        kind = ", simulated" if self.simulated else ""
        return f"<Session {self.name}: user {self.user}, {self.minutes:.1f} min, {len(self.labels)} keys{kind}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Another process maps the same file; gigabytes of samples need not travel.
        if self.path is None or not isinstance(self.emg, np.memmap):
            return super().__reduce__()
        return _with_samples, (replace(self, emg=np.empty((0, BANDS, CHANNELS), np.float32)), len(self))

    @property
    def minutes(self) -> float:
        """Length in minutes."""
        return len(self) / SAMPLE_RATE / 60

    @property
    def text(self) -> str:
        """All keystrokes, with ⌫ ⏎ and ⇧ as symbols."""
        return text_of_labels(self.labels.tolist())

    def first(self, samples: int) -> "Session":
        """The session as if it had ended after `samples` samples."""
        if samples >= len(self):
            return self
        keys, content = self.typed(0, samples), f"{self.content}:{samples}"
        labels, onsets = self.labels[keys], self.onsets[keys]
        return replace(self, content=content, emg=self.emg[:samples], labels=labels, onsets=onsets)

    def typed(self, start: int, stop: int) -> slice:
        """Which keystrokes went down in samples [start, stop), as a slice of `labels` and `onsets`."""
        first, last = np.searchsorted(self.onsets, (start, stop))
        return slice(int(first), int(last))

    def plot(self, start: float, stop: float, *, read: Any = ()) -> "Figure":
        """Seconds [start, stop): all electrodes and the keys that went down, as a matplotlib figure.

        `read` adds what a model read: a `Transcript`, or a symbol and its second for each key.
        """
        from emgscribe.data.plot import plot_session

        return plot_session(self, start, stop, read)


def open_sessions(paths: Sequence[Path | str], cache: Path | None = None) -> list[Session]:
    """Open session files, as `open_session` does, and remove from the cache what belongs to files that are gone."""
    opened = [open_session(path, cache) for path in paths]
    _sweep(_folder(cache))
    return opened


def open_session(path: Path | str, cache: Path | None = None) -> Session:
    """Open one session file. Its labels and hash are kept in `cache` (default: `default_cache()`).

    Raises `EmgscribeError` where the file is missing or foreign, and where `inspect` finds an error in its samples. A
    cache that cannot be written is no obstacle.
    """
    path = Path(path)
    place, identity = _identity(path)
    entry = _folder(cache) / f"{place}-{identity}.npz"
    kept = _kept(entry, "described", "labels", "onsets")
    if kept is None:
        for stale in entry.parent.glob(f"{place}-*.npz"):
            _remove(stale)
        kept = _read(path, entry)
    described, labels, onsets = kept
    name, user, simulated, content, samples, offset = json.loads(str(described))
    if offset >= 0:
        # Copy-on-write, since torch wants writable memory; no change reaches the file.
        emg = np.memmap(path, "<f4", "c", offset, (samples, _ROW))[:, 2:].reshape(samples, BANDS, CHANNELS)
    else:
        emg = _converted(path, entry.with_suffix(".f4"), samples)
    return Session(name, user, simulated, content, emg, labels, onsets, path)


def default_cache() -> Path:
    """`$EMGSCRIBE_CACHE`, or `emgscribe` in the user's cache folder."""
    chosen = os.environ.get("EMGSCRIBE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emgscribe"


def _folder(cache: Path | None) -> Path:
    return (cache or default_cache()) / "sessions"


def _with_samples(session: Session, samples: int) -> Session:
    assert session.path is not None
    return replace(session, emg=open_session(session.path).emg[:samples])


def _kept(entry: Path, *names: str) -> list[npt.NDArray[Any]] | None:
    """Arrays of a cache entry; None where there is none or it is damaged."""
    try:
        # Raises where a checksum does not match. numpy leaves a file that it opened itself open when it raises.
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception:  # damaged bytes may raise anything; the entry is made again
        return None


def _read(path: Path, entry: Path) -> list[npt.NDArray[Any]]:
    """Read a session file whole: check it, hash it, place its labels; keep the result where the cache allows."""
    with SessionFile(path) as file:
        header, inspection = file.header, Inspection(str(path))
        times, content = scan(file, inspection)
        if not inspection.usable:
            what = "; ".join(f"{f.field}: {f.message}" for f in inspection.findings if f.severity == "error")
            hint = "leave the session out or repair it; emgscribe inspect lists all faults"
            raise EmgscribeError(what, where=str(path), hint=hint)
        offset = file.rows_offset() if sys.byteorder == "little" else -1
    typed = [(symbol, start) for symbol, start in header.labelled_keystrokes() if times[0] <= start <= times[-1]]
    labels = np.array(labels_of_text("".join(symbol for symbol, _ in typed)), dtype=np.int64)
    onsets = np.searchsorted(times, [start for _, start in typed]).astype(np.int64)
    content.update(labels.tobytes() + onsets.tobytes())
    facts = header.name, header.user, bool(header.simulation), content.hexdigest()[:16], len(times), offset
    described = np.array(json.dumps(facts))
    with suppress(EmgscribeError), replacing(entry) as temporary, temporary.open("wb") as output:
        np.savez(output, path=str(path.resolve()), described=described, labels=labels, onsets=onsets)
    return [described, labels, onsets]


def _converted(path: Path, copy: Path, samples: int) -> Emg:
    """Samples that cannot be mapped: from a copy in the cache, or in memory where the cache cannot be written."""
    with SessionFile(path) as file:
        try:
            if not copy.exists() or copy.stat().st_size != samples * BANDS * CHANNELS * 4:
                # Plain writes: on a full disk a memory map would end the process, where a write is an error.
                with replacing(copy) as temporary, temporary.open("wb") as output:
                    for rows in file.blocks():
                        output.write(stack_bands(rows).tobytes())
            return np.memmap(copy, np.float32, "c", shape=(samples, BANDS, CHANNELS))
        except (EmgscribeError, OSError):
            return file.emg()


def _sweep(folder: Path) -> None:
    """Remove the entries of files that are gone, and what killed writers left more than a day ago."""
    for entry in folder.glob("*.npz"):
        source = _kept(entry, "path")
        if source is None or not Path(str(source[0])).exists():
            _remove(entry)
    for left in folder.glob(".*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _DAY:
                shutil.rmtree(left)


def _remove(entry: Path) -> None:
    for part in (entry, entry.with_suffix(".f4")):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[str, str]:
    """Hashes of where the file is, and of what it is: its size, time of change and first 64 KiB."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    identity = hashlib.sha256(start + f"{_VERSION} {status.st_size} {status.st_mtime_ns}".encode())
    return place, identity.hexdigest()[:16]
