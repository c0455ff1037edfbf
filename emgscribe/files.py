"""Writing so that a final name only ever holds a whole file or folder, and folders that one process has to itself."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from emgscribe.errors import EmgscribeError

_ANOTHER = "choose another folder with --runs"


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is renamed to `path`, on any failure it is removed.

    The caller makes a file or a folder under the temporary name. With `overwrite=False` a `path` that another
    process finished first is kept and ours is dropped. A full disk, a missing folder or a lack of permission
    becomes an `EmgscribeError` that names `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        temporary = room / path.name
        yield temporary
        _move_into_place(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _move_into_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    aside = temporary.parent / ".old"
    if temporary.is_dir() and path.exists():
        if not overwrite:
            return
        # A folder cannot be renamed over a full one, so the old one steps aside into the doomed temporary folder.
        os.replace(path, aside)
    elif path.exists() and not overwrite:
        return
    try:
        os.replace(temporary, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        # Two processes that build the same folder: the first to arrive has won, and what it built is as good.
        if overwrite or not path.is_dir():
            raise


def _unwritable(path: Path, error: OSError) -> EmgscribeError:
    return EmgscribeError(
        f"cannot be written ({error.strerror or error})",
        where=str(path),
        hint="free some disk space or choose another folder; nothing was left under this name",
    )


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON; NaN and infinities are refused, since JSON has neither."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is an `EmgscribeError` with the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EmgscribeError("no such file", where=str(path), hint="check the path") from error
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EmgscribeError(f"not valid JSON ({error})", where=str(path), hint="make the file anew") from error


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder, made if it is missing, against other processes.

    Raises `EmgscribeError` where one holds it, which then says what it is `doing`, and where it cannot be written to.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        hint = f"wait for it, or {_ANOTHER}"
        raise EmgscribeError(f"another process {doing}", where=str(folder), hint=hint) from error
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def make_folder(folder: Path) -> None:
    """Make a folder for what runs leave, where it is missing; `EmgscribeError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> EmgscribeError:
    return EmgscribeError(f"cannot be used ({error.strerror or error})", where=str(folder), hint=_ANOTHER)
