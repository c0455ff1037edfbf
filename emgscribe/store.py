"""Sessions as memory-mapped arrays: each file is converted once, then any window is a copy of a row range.

A cache entry is a folder `<hash of the path>-<hash of the content's identity>` with `emg.npy` (T, 2, 16) float32,
`labels.npy` and `onsets.npy` (K,) int64 and `info.json`. It is built under a temporary name and renamed, so an
entry that exists is whole, and two processes that build the same one do no harm.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from emgscribe.charset import labels_of_text
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json, replacing, write_json
from emgscribe.session import BANDS, CHANNELS, Session, stack_bands

_VERSION = 2
_HEADER_BYTES = 1 << 16
_DAY = 86_400
_INFO = ("name", "user", "simulated", "content")


@dataclass(frozen=True)
class StoredSession:
    """One session in memory-mapped form.

    `emg` is (T, 2, 16) float32; `labels` (K,) are the keystrokes' labels in order of time and `onsets` (K,) the
    index of the first sample at or after each key went down. `simulated` tells sessions that nobody typed; `content` is
    a hash of samples, labels and onsets.
    """

    name: str
    user: str
    simulated: bool
    content: str
    emg: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    onsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.emg)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Another process maps the same file; gigabytes of samples need not travel.
        if isinstance(self.emg, np.memmap) and self.emg.filename:
            return _reopened, (Path(self.emg.filename).parent, len(self))
        return super().__reduce__()

    def first(self, samples: int) -> "StoredSession":
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


class Store:
    """Sessions from which windows are gathered, as a batch, on `device`.

    On a CPU the samples stay on disk, mapped into memory. Another device is given a copy of them once, if it has room;
    if not, the store stays on the CPU, and whoever gathers moves the batch.
    """

    def __init__(self, sessions: Sequence[StoredSession], device: torch.device | str = "cpu") -> None:
        self.sessions = tuple(sessions)
        size = sum(session.emg.nbytes for session in self.sessions)
        self.device = torch.device(device) if _has_room(torch.device(device), size) else torch.device("cpu")
        # The maps are copy-on-write (mode "c"): torch wants writable memory, and nothing ever reaches the file.
        self._emg = [torch.from_numpy(session.emg).to(self.device) for session in self.sessions]

    def gather(self, sessions: Sequence[int], starts: Sequence[int], length: int) -> torch.Tensor:
        """EMG (N, length, 2, 16) of windows that begin at sample `starts[n]` of session number `sessions[n]`.

        What lies before a session's first sample or after its last one is zero.
        """
        out = torch.empty(len(starts), length, BANDS, CHANNELS, device=self.device)
        for window, session, start in zip(out, sessions, starts, strict=True):
            emg = self._emg[session]
            low, high = max(start, 0), min(start + length, len(emg))
            if high <= low:
                window.zero_()
                continue
            window[: low - start].zero_()
            window[low - start : high - start] = emg[low:high]
            window[high - start :].zero_()
        return out


def _has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes leave the larger part of the device's memory to the network."""
    return device.type != "cuda" or size < 0.4 * torch.cuda.mem_get_info(device)[0]


def open_sessions(paths: Sequence[Path], cache: Path | None = None) -> list[StoredSession]:
    """Open sessions through the cache folder (default: `default_cache()`), converting those that are new or changed."""
    return [_open(Path(path), cache or default_cache()) for path in paths]


def default_cache() -> Path:
    """`$EMGSCRIBE_CACHE`, or `emgscribe` in the user's cache folder."""
    chosen = os.environ.get("EMGSCRIBE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emgscribe"


def _open(path: Path, cache: Path) -> StoredSession:
    place, identity = _entry(path)
    entry = cache / f"{place}-{identity}"
    if entry.is_dir():
        try:
            return _load(entry)
        except (OSError, ValueError, KeyError, TypeError):  # something else cleaned or damaged it
            shutil.rmtree(entry, ignore_errors=True)
    _build(path, entry)
    _sweep(cache, place, entry)
    return _load(entry)


def _reopened(entry: Path, samples: int) -> StoredSession:
    return _load(entry).first(samples)


def _load(entry: Path) -> StoredSession:
    info = read_json(entry / "info.json")
    emg, labels, onsets = (np.load(entry / f"{name}.npy", mmap_mode="c") for name in ("emg", "labels", "onsets"))
    return StoredSession(**{name: info[name] for name in _INFO}, emg=emg, labels=labels, onsets=onsets)


def _sweep(cache: Path, place: str, entry: Path) -> None:
    """Remove what earlier versions of a file left, and what builds left that were killed more than a day ago."""
    for stale in cache.glob(f"{place}-*"):
        if stale != entry:
            shutil.rmtree(stale, ignore_errors=True)
    # Only names that `replacing` makes for entries: the folder may be shared with anything else that is hidden.
    for unfinished in cache.glob("." + "[0-9a-f]" * 12 + "-" + "[0-9a-f]" * 16 + ".*"):
        with suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > _DAY:
                shutil.rmtree(unfinished, ignore_errors=True)


def _entry(path: Path) -> tuple[str, str]:
    """Hashes of where the file is, and of what it is: its size, time of change and first 64 KiB."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), mend="check the path") from error
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    identity = hashlib.sha256(header + f"{_VERSION} {status.st_size} {status.st_mtime_ns}".encode())
    return place, identity.hexdigest()[:16]


def _build(path: Path, entry: Path) -> None:
    with Session(path) as session, replacing(entry, overwrite=False) as folder:
        if len(session) == 0:
            raise EmgscribeError("the session has no samples", where=str(path), mend="leave it out, or record it anew")
        folder.mkdir()
        content = hashlib.sha256()
        times = _copy_samples(session, folder / "emg.npy", content)
        header = session.header
        typed = [(symbol, start) for symbol, start in header.labelled_keystrokes() if times[0] <= start <= times[-1]]
        labels = np.array(labels_of_text("".join(symbol for symbol, _ in typed)), dtype=np.int64)
        onsets = np.searchsorted(times, [start for _, start in typed]).astype(np.int64)
        content.update(labels.tobytes() + onsets.tobytes())
        np.save(folder / "labels.npy", labels)
        np.save(folder / "onsets.npy", onsets)
        values = (header.name, header.user, bool(header.simulation), content.hexdigest()[:16])
        write_json(folder / "info.json", dict(zip(_INFO, values, strict=True)))


def _copy_samples(session: Session, path: Path, content: "hashlib._Hash") -> npt.NDArray[np.float64]:
    """Write the session's EMG as an .npy file, block by block, and into the hash; returns the times (T,)."""
    times = np.empty(len(session))
    shape = (len(session), BANDS, CHANNELS)
    # Plain writes: on a full disk a memory map would end the process, where a write is an error that can be told.
    with path.open("wb") as file:
        description = np.lib.format.dtype_to_descr(np.dtype(np.float32))
        np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})
        done = 0
        for rows in session.blocks():
            emg, stop = stack_bands(rows), done + len(rows)
            times[done:stop] = rows["time"]
            _refuse_unusable(emg, times[max(done - 1, 0) : stop], session.path, done)
            data = emg.tobytes()
            content.update(data)
            file.write(data)
            done = stop
    return times


def _refuse_unusable(emg: npt.NDArray[np.float32], times: npt.NDArray[np.float64], path: Path, done: int) -> None:
    """A network cannot learn from NaN, and labels cannot be placed where time runs backwards."""
    mend = "emgscribe inspect FILE lists all faults; leave the session out or repair it"
    if not np.isfinite(emg).all():
        sample = done + int(np.argmin(np.isfinite(emg).all(axis=(1, 2))))
        raise EmgscribeError(f"sample {sample} is not finite", where=str(path), mend=mend)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise EmgscribeError(f"time is not monotonic near sample {done}", where=str(path), mend=mend)
