"""One recorded session, mapped into memory: its samples, the keys that were pressed, and when.

The rows of a session file are 34 float32 each (a time of 8 bytes, then 2 x 16 electrode channels), so a view of the
file itself is an array that torch takes: nothing is copied. A file whose rows are compressed or chunked is converted
once. The first look at a file reads it whole, to check and to hash it; labels and hash are then kept in the cache.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import labels_of_text, text_of_labels
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_DTYPE, SAMPLE_RATE, SessionFile, stack_bands
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 3
_HEADER_BYTES = 1 << 16
_ROW = SAMPLE_DTYPE.itemsize // 4  # float32 values in a row, two of which hold its time


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
    emg: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    onsets: npt.NDArray[np.int64]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.emg)

    def __repr__(self) -> str:
        kind = ", simulated" if self.simulated else ""
        return f"<Session {self.name}: user {self.user}, {self.minutes:.1f} min, {len(self.labels)} keys{kind}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Another process maps the same file; gigabytes of samples need not travel.
        return (_reopened, (self.path, len(self))) if self.path is not None else super().__reduce__()

    @property
    def minutes(self) -> float:
        """Length in minutes."""
        return len(self) / SAMPLE_RATE / 60

    @property
    def text(self) -> str:
        """Everything that was typed, keystroke by keystroke, with ⌫ ⏎ and ⇧ as symbols."""
        return text_of_labels(self.labels.tolist())

    def first(self, samples: int) -> "Session":
        """The session as if it had ended after `samples` samples."""
        if samples >= len(self):
            return self
        keys = self.typed(0, samples)
        return replace(
            self,
            content=f"{self.content}:{samples}",
            emg=self.emg[:samples],
            labels=self.labels[keys],
            onsets=self.onsets[keys],
        )

    def typed(self, start: int, stop: int) -> slice:
        """Which keystrokes went down in samples [start, stop), as a slice of `labels` and `onsets`."""
        first, last = np.searchsorted(self.onsets, (start, stop))
        return slice(int(first), int(last))

    def plot(self, start: float, stop: float, *, read: Sequence[tuple[str, float]] = ()) -> "Figure":
        """Seconds `start` to `stop`: both bands' electrodes and the keys that went down, as a matplotlib figure.

        `read` adds what a model has read, each a symbol and its second, as in `Transcript.keys`.
        """
        from emgscribe.data.plot import plot_session

        return plot_session(self, start, stop, read)


def open_sessions(paths: Sequence[Path | str], cache: Path | None = None) -> list[Session]:
    """Open session files; raises `EmgscribeError` for one that cannot be used (see `inspect`)."""
    return [open_session(path, cache) for path in paths]


def open_session(path: Path | str, cache: Path | None = None) -> Session:
    """Open one session file. Its labels and hash are kept in `cache` (default: `default_cache()`).

    Raises `EmgscribeError` where the file is missing, foreign or truncated, and where samples are not finite or time
    runs backwards. A cache that cannot be written is no obstacle.
    """
    path = Path(path)
    place, identity = _identity(path)
    folder = (cache or default_cache()) / "sessions"
    entry = folder / f"{place}-{identity}.npz"
    found = _kept(entry)
    if found is None:
        _sweep(folder, place)
        found = _read(path, entry)
    emg = _mapped(path, found) if found.offset >= 0 else _converted(path, entry.with_suffix(".npy"), found.samples)
    return Session(found.name, found.user, found.simulated, found.content, emg, found.labels, found.onsets, path)


def default_cache() -> Path:
    """`$EMGSCRIBE_CACHE`, or `emgscribe` in the user's cache folder."""
    chosen = os.environ.get("EMGSCRIBE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emgscribe"


@dataclass(frozen=True)
class _Entry:
    """What the cache keeps of a file; `offset` is where its rows begin, -1 where they cannot be mapped."""

    path: str
    name: str
    user: str
    simulated: bool
    content: str
    samples: int
    offset: int
    labels: npt.NDArray[np.int64]
    onsets: npt.NDArray[np.int64]

    def described(self) -> str:
        """All but the arrays, as JSON."""
        return json.dumps({name: value for name, value in vars(self).items() if name not in ("labels", "onsets")})

    def check(self) -> str:
        """A hash by which a damaged entry is noticed."""
        return hashlib.sha256(self.described().encode() + self.labels.tobytes() + self.onsets.tobytes()).hexdigest()


def _kept(entry: Path) -> _Entry | None:
    """The cache's entry; None where there is none or it is damaged."""
    try:
        with np.load(entry, allow_pickle=False) as arrays:
            labels, onsets = (arrays[name].astype(np.int64, casting="safe") for name in ("labels", "onsets"))
            found = _Entry(**json.loads(str(arrays["described"])), labels=labels, onsets=onsets)
            return found if str(arrays["check"]) == found.check() else None
    except Exception:  # damaged bytes may raise anything; the entry is made again
        return None


def _read(path: Path, entry: Path) -> _Entry:
    """Read a session file whole: check it, hash it, place its labels; keep the result where the cache allows."""
    with SessionFile(path) as file:
        if len(file) == 0:
            raise EmgscribeError("the session has no samples", where=str(path), hint="leave it out, or record it again")
        content, times = hashlib.sha256(), np.empty(len(file))
        for start, rows in _checked_blocks(file, times):
            content.update(stack_bands(rows).tobytes())
        header = file.header
        typed = [(symbol, start) for symbol, start in header.labelled_keystrokes() if times[0] <= start <= times[-1]]
        labels = np.array(labels_of_text("".join(symbol for symbol, _ in typed)), dtype=np.int64)
        onsets = np.searchsorted(times, [start for _, start in typed]).astype(np.int64)
        content.update(labels.tobytes() + onsets.tobytes())
        found = _Entry(
            path=str(path.resolve()),
            name=header.name,
            user=header.user,
            simulated=bool(header.simulation),
            content=content.hexdigest()[:16],
            samples=len(file),
            offset=file.rows_offset() if sys.byteorder == "little" else -1,
            labels=labels,
            onsets=onsets,
        )
    with suppress(EmgscribeError), replacing(entry) as temporary, temporary.open("wb") as output:
        np.savez(output, labels=labels, onsets=onsets, described=found.described(), check=found.check())
    return found


def _checked_blocks(file: SessionFile, times: npt.NDArray[np.float64]) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """(first row, rows) of a file, block by block; fills `times` (T,) and refuses rows that cannot be used."""
    done = 0
    for rows in file.blocks():
        stop = done + len(rows)
        times[done:stop] = rows["time"]
        _refuse_unusable(stack_bands(rows), times[max(done - 1, 0) : stop], file.path, done)
        yield done, rows
        done = stop


def _refuse_unusable(emg: npt.NDArray[np.float32], times: npt.NDArray[np.float64], path: Path, done: int) -> None:
    """A network cannot learn from NaN, and labels cannot be placed where time runs backwards."""
    hint = "emgscribe inspect FILE lists all faults; leave the session out or repair it"
    if not np.isfinite(emg).all():
        sample = done + int(np.argmin(np.isfinite(emg).all(axis=(1, 2))))
        raise EmgscribeError(f"sample {sample} is not finite", where=str(path), hint=hint)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise EmgscribeError(f"time is not monotonic near sample {done}", where=str(path), hint=hint)


def _mapped(path: Path, found: _Entry) -> npt.NDArray[np.float32]:
    """The file's own samples. Copy-on-write, since torch wants writable memory; nothing ever reaches the file."""
    rows = np.memmap(path, "<f4", "c", found.offset, (found.samples, _ROW))
    return rows[:, 2:].reshape(found.samples, BANDS, CHANNELS)


def _converted(path: Path, copy: Path, samples: int) -> npt.NDArray[np.float32]:
    """Samples that cannot be mapped, from a copy in the cache, or in memory where the cache cannot be written."""
    with suppress(OSError, ValueError, EOFError):
        emg: npt.NDArray[np.float32] = np.load(copy, mmap_mode="c", allow_pickle=False)
        if emg.shape == (samples, BANDS, CHANNELS) and emg.dtype == np.float32:
            return emg
    with SessionFile(path) as file:
        try:
            with replacing(copy) as temporary, temporary.open("wb") as output:
                description = np.lib.format.dtype_to_descr(np.dtype(np.float32))
                shape = {"descr": description, "fortran_order": False, "shape": (samples, BANDS, CHANNELS)}
                np.lib.format.write_array_header_1_0(output, shape)
                # Plain writes: on a full disk a memory map would end the process, where a write is an error.
                for rows in file.blocks():
                    output.write(stack_bands(rows).tobytes())
        except EmgscribeError:
            return file.emg()
    copied: npt.NDArray[np.float32] = np.load(copy, mmap_mode="c", allow_pickle=False)
    return copied


def _sweep(folder: Path, place: str) -> None:
    """Remove what earlier versions of a file left, and the entries of files that are gone."""
    for entry in folder.glob("*.npz"):
        kept = _kept(entry)
        if entry.name.startswith(f"{place}-") or kept is None or not Path(kept.path).exists():
            for stale in (entry, entry.with_suffix(".npy")):
                with suppress(OSError):
                    stale.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[str, str]:
    """Hashes of where the file is, and of what it is: its size, time of change and first 64 KiB."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    identity = hashlib.sha256(header + f"{_VERSION} {status.st_size} {status.st_mtime_ns}".encode())
    return place, identity.hexdigest()[:16]


def _reopened(path: Path, samples: int) -> Session:
    return open_session(path).first(samples)
