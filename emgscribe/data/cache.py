"""Cached facts about files, kept between runs: a folder for each file, rebuilt when the file changes."""

import atexit
import hashlib
import json
import os
import shutil
from contextlib import suppress
from functools import cache as once
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from emgscribe.errors import EmgscribeError
from emgscribe.files import make_folder, open_file, replacing

_VERSION = 7  # of all entries


def default_cache() -> Path:
    """`$EMGSCRIBE_CACHE`, or `emgscribe` in the user's cache folder."""
    chosen = os.environ.get("EMGSCRIBE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emgscribe"


class Entry:
    """The cached facts about the file `path`, in a folder of its own in the folder `kind` of the cache.

    Where the cache cannot be written, the entry lasts as long as this process. Raises `EmgscribeError` where `path` is
    not a file that can be read.
    """

    def __init__(self, path: Path, kind: str, cache: Path | None = None) -> None:
        with open_file(path) as file:
            status, start = os.fstat(file.fileno()), file.read(1 << 16)
        self._source = str(path.resolve())
        self._identity = _digest(start + f"{_VERSION} {status.st_size} {status.st_mtime_ns}".encode())
        self.folder = _writable(cache or default_cache()) / kind / _digest(os.fsencode(self._source))[:16]

    def read(self) -> tuple[Any, bytes] | None:
        """What was written; None where that is missing, damaged, or from an earlier state of the file."""
        with suppress(OSError, ValueError):
            head, _, written = (self.folder / "entry").read_bytes().partition(b"\n")
            if head == self._head(written):
                facts, _, data = written.partition(b"\n")
                return json.loads(facts), data
        return None

    def write(self, facts: Any, data: bytes = b"") -> None:
        """Keep JSON-ready facts and data, where the disk has room."""
        with suppress(EmgscribeError), replacing(self.folder) as folder:
            folder.mkdir()
            self.write_into(folder, facts, data)

    def write_into(self, folder: Path, facts: Any, data: bytes) -> None:
        """Write facts and data into a folder that is to replace the entry's."""
        _remove_orphans(self.folder.parent)
        written = json.dumps(facts).encode() + b"\n" + data
        (folder / "entry").write_bytes(self._head(written) + b"\n" + written)

    def _head(self, written: bytes) -> bytes:
        return json.dumps([self._source, self._identity, _digest(written)]).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _writable(cache: Path) -> Path:
    """The cache, or a folder that is removed when this process ends."""
    with suppress(EmgscribeError):
        make_folder(cache)
        if os.access(cache, os.W_OK):
            return cache
    return _substitute()


@once
def _substitute() -> Path:
    folder = mkdtemp(prefix="emgscribe-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@once  # in a process: a data set has a thousand entries
def _remove_orphans(folder: Path) -> None:
    """Remove the entries whose file is gone, and those that are damaged."""
    for entry in folder.glob("[0-9a-f]" * 16 + "/entry"):
        try:
            with entry.open("rb") as file:
                there = os.path.exists(json.loads(file.readline(1 << 16))[0])
        except OSError:  # it cannot be read now, or another process replaces it
            continue
        except Exception:  # damaged bytes may raise anything
            there = False
        if not there:
            shutil.rmtree(entry.parent, ignore_errors=True)
