"""The parts of a session file that only libhdf5 can read, read in a child process.

On damaged bytes libhdf5 may loop, out of reach of Ctrl-C, or crash. A child process therefore reads the header and says
where the samples are. It ends when its time is up, and the next file gets a new one. It refuses everything that makes
HDF5 read other files: links, external storage, virtual datasets.

The child writes a line when it is ready, and answers each line of its input with one line of JSON (`serve`).
"""

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from emgscribe.data.shape import Band
from emgscribe.errors import EmgscribeError
from emgscribe.files import open_file

SECONDS = 4  # for the header of one file, and for each block of a conversion
_MEMORY = 2 << 30  # bytes that the child may take beyond what it starts with
_RATIO = 64  # EMG does not compress further: a dataset that claims more has nothing behind it
_MAX_CHUNK = 64 << 20  # bytes of a chunk, which libhdf5 decompresses as a whole
_MAX_ROWS = 12 * 3600 * 2000  # of 12 hours
_MAX_TEXT = 16 << 20  # characters of an attribute, as many as ten hours of typing have
_BLOCK = 1 << 16  # rows
_KILLED = -9  # the status of a process that SIGKILL ended: for its memory, say, or with all others of a job
_READY = "ready\n"
_SERVE = "import sys; sys.path.append(sys.argv[1]); from emgscribe.data.reader import serve; serve()"
_AGAIN = "the file is truncated, damaged or of another format; copy or download it again and compare its size"
_LAYOUT = "docs/your-data.md shows the layout of a session file"


@dataclass(frozen=True)
class Layout:
    """The attributes of a session file as text, its bands, its number of `rows`, and the byte where the rows begin.

    `offset` is -1 where the rows are not one block of `Shape.row` (chunked, compressed, further fields). `start` is
    the time of the first row in unix seconds, 0 where there is none.
    """

    attributes: dict[str, str]
    bands: tuple[Band, ...]
    electrodes: int
    rows: int
    row_bytes: int
    offset: int
    start: float


def read_layout(path: Path) -> Layout:
    """The layout of a session file.

    Raises `EmgscribeError` where it is missing, damaged or of another format, or refers to other files.
    """
    found = _ask(path, None)
    return Layout(**found | {"bands": tuple(found["bands"])})


def convert_rows(path: Path, out: Path) -> None:
    """Append all rows of a session file to `out` as one block of `Shape.row`; `OSError` where the disk has no room."""
    if unwritten := _ask(path, out).get("unwritten"):
        raise OSError(*unwritten)


class _Child:
    """The child process, started when it is first needed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without a child: a forked process does not own the pipes of the one it came from."""
        self.lock = Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, question: str) -> str | int:
        """The child's answer, or its exit status where it ended instead of answering.

        Raises `EmgscribeError` where it cannot start.
        """
        with self.lock:
            if self.process is not None and self.process.poll() is not None:
                self._end()
            started = self.process is None
            if started:
                # -P: no modules from the working folder, where the sender of the files may have put some.
                command = [sys.executable, "-P", "-c", _SERVE, str(Path(__file__).parents[2])]
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
                self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)
            child = self.process
            assert child is not None
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                if started and child.stdout.readline() != _READY:
                    return self._unstarted()
                child.stdin.write(question + "\n")
                child.stdin.flush()
                answer = child.stdout.readline()
            except BrokenPipeError:
                return self._end()
            except BaseException:  # Ctrl-C: an answer still to come would be taken for that to the next question
                self.close()
                raise
            return answer if answer.endswith("\n") else self._end()

    def _unstarted(self) -> int:
        """The exit status of a process that was killed while it started; any other fault is an error."""
        if (status := self._end()) == _KILLED:
            return status
        what = f"the process that reads session files ends at its start, with status {status}"
        raise EmgscribeError(what, hint="install h5py again")

    def _end(self) -> int:
        """Wait for a process that is ending, and close its pipes; returns its exit status."""
        assert self.process is not None
        with suppress(BrokenPipeError), self.process as ended:
            status = ended.wait()
        self.process = None
        return status

    def close(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()
            self._end()


_child = _Child()
atexit.register(_child.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child.forget)


def _ask(path: Path, out: Path | None) -> dict[str, Any]:
    open_file(path).close()  # refuses what the child would wait for, such as a pipe
    answer = _child.ask(json.dumps([str(path.absolute()), str(out.absolute()) if out else None]))
    if isinstance(answer, int):
        if answer == _KILLED:
            hint = "free some memory, and try again"
            raise EmgscribeError("the process that reads it was killed", where=str(path), hint=hint)
        why = f"reading it takes more than {SECONDS} s" if answer == 1 else f"libhdf5 ends with status {answer}"
        raise EmgscribeError(f"the file is damaged ({why})", where=str(path), hint=_AGAIN)
    found: dict[str, Any] = json.loads(answer)
    if "what" in found:
        raise EmgscribeError(found["what"], where=str(path), hint=found["hint"])
    return found


def serve() -> None:
    """The child: answer until the input ends."""
    import h5py

    import emgscribe.data.hdf5  # noqa: F401  # what is missing is no fault of a file

    for sent in (signal.SIGINT, signal.SIGTERM):  # to all processes of a terminal or of a job: the parent decides
        signal.signal(sent, signal.SIG_IGN)
    _limit_memory()
    sys.stdout.write(_READY)
    sys.stdout.flush()
    for line in sys.stdin:
        name, out = json.loads(line)
        _restart_clock()
        try:
            with h5py.File(name, "r", locking=False) as file:
                rows = _rows(file)
                answer = _describe(rows) if out is None else _convert(rows, out)
        except EmgscribeError as error:
            answer = {"what": error.what, "hint": error.hint}
        except Exception as error:  # damaged bytes may raise anything
            first = (str(error).splitlines() or [type(error).__name__])[0]
            answer = {"what": f"not a readable HDF5 file ({first})", "hint": _AGAIN}
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _restart_clock() -> None:
    """End this process in `SECONDS`, by a thread that needs no interpreter: libhdf5 may never return to it."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux; elsewhere the clock alone limits a file that asks for too much
        import resource

        most = int(statm.read_text().split()[0]) * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _rows(file: Any) -> Any:
    """The dataset of the samples, refused where HDF5 would look into another file for it."""
    import h5py
    import numpy as np

    from emgscribe.data.hdf5 import GROUP, TIMESERIES

    found = file
    for name, kind in ((GROUP, h5py.Group), (TIMESERIES, h5py.Dataset)):
        link = found.get(name, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise EmgscribeError(f"'{name}' is a link, which may lead out of the file", hint="copy what it links to")
        found = found.get(name)
        if not isinstance(found, kind):
            raise EmgscribeError(f"dataset '{GROUP}/{TIMESERIES}' is missing", hint=_LAYOUT)
    if found.is_virtual or found.external:
        raise EmgscribeError("its samples are in other files", hint="copy them into this one")
    fields = {name: kind for name, (kind, *_) in (found.dtype.fields or {}).items()}
    bands = [name for name in ("emg_left", "emg_right") if name in fields] or ["emg_left"]
    electrodes = fields[bands[0]].shape if bands[0] in fields else (16,)
    row = {"time": np.dtype("<f8")} | {name: np.dtype(("<f4", electrodes)) for name in bands}
    pairs = [(name, fields.get(name, "missing"), right) for name, right in row.items()]
    faults = [f"'{TIMESERIES}.{name}' is {kind}, expected {right}" for name, kind, right in pairs if kind != right]
    faults += [f"'{TIMESERIES}.{bands[0]}' has {len(electrodes)} axes, expected 1"] * (len(electrodes) != 1)
    faults += [f"'{TIMESERIES}' has {found.ndim} dimensions, expected 1"] * (found.ndim != 1)
    if faults:
        raise EmgscribeError("; ".join(faults), hint=_LAYOUT)
    stored, row = found.id.get_storage_size(), found.dtype.itemsize
    if found.chunks and found.chunks[0] * row > _MAX_CHUNK:
        raise EmgscribeError(f"a chunk has {found.chunks[0] * row >> 20} MB", hint="store it in smaller chunks")
    offset = found.id.get_offset()
    end = len(found) * row + (offset or 0)
    if len(found) * row > (stored * _RATIO if found.chunks else stored) or (
        offset is not None and end > os.path.getsize(file.filename)
    ):
        raise EmgscribeError(f"truncated: it claims {len(found)} samples, but does not hold them", hint=_AGAIN)
    if len(found) > _MAX_ROWS:
        raise EmgscribeError(f"{len(found)} samples are more than 12 hours", hint="split it into several sessions")
    return found


def _row(rows: Any) -> Any:
    """The fields that we read, packed: `Shape.row`."""
    import numpy as np

    names = [name for name in ("time", "emg_left", "emg_right") if name in rows.dtype.names]
    return np.dtype([(name, rows.dtype[name]) for name in names])


def _describe(rows: Any) -> dict[str, Any]:
    from emgscribe.data.hdf5 import ATTRIBUTES

    attributes, stored = {}, rows.parent.attrs
    for name in filter(stored.__contains__, (*ATTRIBUTES, "simulation", "sample_rate", "clock_error")):
        value = stored[name]
        # Other writers store text with a fixed length, which h5py reads as bytes.
        attributes[name] = value.decode() if isinstance(value, bytes) else str(value)
        if len(attributes[name]) > _MAX_TEXT:
            raise EmgscribeError(f"attribute '{name}' has more than {_MAX_TEXT >> 20} MB", hint=_AGAIN)
    offset = rows.id.get_offset()
    row = _row(rows)
    mapped = offset is not None and offset % 4 == 0 and rows.dtype == row and sys.byteorder == "little"
    sizes = {"rows": len(rows), "row_bytes": rows.dtype.itemsize, "offset": offset if mapped else -1}
    sizes |= {"bands": [name.removeprefix("emg_") for name in row.names[1:]], "electrodes": row[1].shape[0]}
    sizes["start"] = float(rows[:1]["time"].sum())
    return {"attributes": attributes, **sizes}


def _convert(rows: Any, out: str) -> dict[str, Any]:
    import numpy as np

    row = _row(rows)
    for start in range(0, len(rows), _BLOCK):
        _restart_clock()
        block = rows[start : start + _BLOCK]
        plain = np.empty(len(block), row)
        for name in row.names:
            plain[name] = block[name]
        try:
            with Path(out).open("ab") as output:
                output.write(plain.tobytes())
        except OSError as error:  # of the disk; those of damaged bytes come from the block above
            return {"unwritten": [error.errno, error.strerror]}
    return {}
