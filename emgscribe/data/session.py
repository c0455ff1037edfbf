"""One recorded session, mapped into memory: its samples, the keys that were pressed, and when.

A row of a session file is 34 float32 (a time of 8 bytes, then 2 x 16 electrode channels), so a view of the file is an
array that torch takes: nothing is copied. Rows that are compressed, chunked or have further fields are converted once.
The first time a file is opened, all of it is read, checked and hashed; its labels and hash stay in the cache.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import labels_of_text, text_of_labels
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_DTYPE, SAMPLE_RATE, Emg, SessionFile
from emgscribe.data.inspect import Inspection, scan
from emgscribe.errors import EmgscribeError
from emgscribe.files import failed, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 5  # of the cache
_ROW = SAMPLE_DTYPE.itemsize // 4  # float32 values in a row, two of which hold its time
_DAY = 86400  # s
_Labels = npt.NDArray[np.int64]
_Kept = tuple[dict[str, Any], _Labels, _Labels]  # what the cache keeps of a file: facts, labels, onsets


@dataclass(frozen=True, repr=False, eq=False)
class Session:
    """A session: `emg` (T, 2 bands, 16 electrode channels) float32 at 2 kHz, left band first.

    `labels` (K,) are the keystrokes' labels in order of time, `onsets` (K,) the sample at or after which each key went
    down, `content` is a hash of all three. `simulated` is true where no person typed.
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
        facts = f"user {self.user}, {self.minutes:.1f} min, {len(self.labels)} keys{', simulated' * self.simulated}"
        return f"<Session {self.name}: {facts}>"

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
        """Seconds [start, stop) as a matplotlib figure: electrodes, keys, and what a model `read` (`plot_session`)."""
        from emgscribe.data.plot import plot_session

        return plot_session(self, start, stop, read)


def open_sessions(paths: Sequence[Path | str], cache: Path | None = None) -> list[Session]:
    """Open session files, as `open_session` does, and remove from the cache what belongs to files that are gone."""
    opened, used = [open_session(path, cache) for path in paths], set[Path]()
    present = list(((cache or default_cache()) / "sessions").glob("*"))  # what others write from now on stays
    for entry in present:
        if entry.suffix == ".npz" and (kept := _kept(entry)) and Path(kept[0]["source"]).exists():
            used |= {entry, entry.with_name(f"{kept[0]['session']['content']}.f4")}
    for path in present:
        with suppress(OSError):
            if path.suffix in (".npz", ".f4") and path not in used:
                path.unlink()
            elif path.name.startswith(".") and path.stat().st_mtime < time.time() - _DAY:  # of a killed writer
                shutil.rmtree(path)
    return opened


def open_session(path: Path | str, cache: Path | None = None) -> Session:
    """Open one session file. Its labels and hash are kept in `cache` (default: `default_cache()`), if it is writable.

    Raises `EmgscribeError` where the file is missing or foreign, and where `inspect` finds an error in its samples.
    """
    path, folder = Path(path), (cache or default_cache()) / "sessions"
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a FIFO or a device would be waited for
            raise EmgscribeError("is not a regular file", where=str(path), hint="check the path")
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise failed("read", path, error) from error
    identity = hashlib.sha256(start + f"{_VERSION} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    entry = folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.npz"
    kept = _kept(entry)
    if kept is None or kept[0]["identity"] != identity:
        kept = _read(path, entry, identity)
    facts, labels, onsets = kept
    offset, samples, described = facts["offset"], facts["samples"], facts["session"]
    if offset >= 0:
        # Copy-on-write, since torch wants writable memory; no change reaches the file.
        emg = np.memmap(path, "<f4", "c", offset, (samples, _ROW))[:, 2:].reshape(samples, BANDS, CHANNELS)
    else:
        emg = _converted(path, folder / f"{described['content']}.f4", samples)
    return Session(**described, emg=emg, labels=labels, onsets=onsets, path=path)


def default_cache() -> Path:
    """`$EMGSCRIBE_CACHE`, or `emgscribe` in the user's cache folder."""
    chosen = os.environ.get("EMGSCRIBE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emgscribe"


def _with_samples(session: Session, samples: int) -> Session:
    assert session.path is not None
    return replace(session, emg=open_session(session.path).emg[:samples])


def _kept(entry: Path) -> _Kept | None:
    """A cache entry; None where there is none or it is damaged."""
    try:
        # Raises where a checksum does not match. numpy leaves a file that it opened itself open when it raises.
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return json.loads(str(arrays["facts"])), arrays["labels"], arrays["onsets"]
    except Exception:  # damaged bytes may raise anything; the entry is made again
        return None


def _read(path: Path, entry: Path, identity: str) -> _Kept:
    """Check and hash a whole session file, place its labels, and keep the result where the cache allows."""
    with SessionFile(path) as file:
        header, inspection = file.header, Inspection(str(path))
        times, content = scan(file, inspection)
        offset = file.rows_offset()
    if errors := "; ".join(f"{f.field}: {f.message}" for f in inspection.findings if f.severity == "error"):
        hint = "leave the session out or repair it; emgscribe inspect lists all faults"
        raise EmgscribeError(errors, where=str(path), hint=hint)
    typed = [(symbol, start) for symbol, start in header.labelled_keystrokes() if times[0] <= start <= times[-1]]
    labels = np.array(labels_of_text("".join(symbol for symbol, _ in typed)), dtype=np.int64)
    onsets = np.searchsorted(times, [start for _, start in typed]).astype(np.int64)
    content.update(labels.tobytes() + onsets.tobytes())
    described = {"name": header.name, "user": header.user, "simulated": bool(header.simulation)}
    session = {**described, "content": content.hexdigest()[:16]}
    source = str(path.resolve())
    facts = {"source": source, "identity": identity, "samples": len(times), "offset": offset, "session": session}
    with suppress(EmgscribeError), replacing(entry) as temporary, temporary.open("wb") as output:
        np.savez(output, facts=np.array(json.dumps(facts)), labels=labels, onsets=onsets)
    return facts, labels, onsets


def _converted(path: Path, copy: Path, samples: int) -> Emg:
    """Samples that cannot be mapped: from a copy in the cache, or in memory where the cache cannot be written."""
    shape = samples, BANDS, CHANNELS
    with suppress(OSError):
        if copy.stat().st_size == samples * BANDS * CHANNELS * 4:
            return np.memmap(copy, np.float32, "c", shape=shape)
    with SessionFile(path) as file:
        try:
            # Plain writes: on a full disk a memory map would end the process, where a write is an error.
            with replacing(copy) as temporary, temporary.open("wb") as output:
                for _, emg in file.blocks():
                    output.write(emg.tobytes())
            return np.memmap(copy, np.float32, "c", shape=shape)
        except (EmgscribeError, OSError):
            return file.read()[1]
