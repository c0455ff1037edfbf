"""Files and folders that appear whole or not at all, JSON, tables, and folders that one process holds."""

import csv
import json
import os
import platform
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from io import TextIOWrapper
from pathlib import Path
from stat import S_ISREG
from threading import RLock
from typing import Any, BinaryIO, TextIO

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from emgscribe.errors import EmgscribeError

_HERE = re.sub(r"\W", "_", platform.node())  # with the process's id, part of the name of what it is writing
_LIMITED = RLock()  # the limit on memory is one for the whole process
_JSON_BYTES = 16 << 20  # parsed, a file of empty lists takes 20 times as much memory; results have a few MB at most


@contextmanager
def replacing(path: Path, ours: Sequence[str] = ("*",)) -> Iterator[Path]:
    """Yield a temporary path, where the caller makes a file or a folder. It becomes `path` if the block succeeds.

    After a failure nothing is left, and an earlier `path` stays. What a killed process of this machine left in the same
    folder is removed. A full disk, a folder that cannot be made or written to, or a `path` that is a device or a
    pipe raises an `EmgscribeError` that names `path`; so does a folder that holds anything but `ours` (patterns of
    names), since all of it would be lost.
    """
    workspace = path.parent / f".{path.name[:40]}.{_HERE}-{os.getpid()}.{secrets.token_hex(4)}"
    temporary, aside = workspace / path.name, workspace / ".old"
    try:  # the workspace has its name before it exists, so that an interrupt at any moment finds it
        if path.exists() and not (path.is_file() or path.is_dir()):
            hint = "name a file or a folder"  # as root, the new file would take the device's place
            raise EmgscribeError("is a device or a pipe, which is not overwritten", where=str(path), hint=hint)
        if others := _others(path, ours):
            hint = "choose a new folder, or move them out of it"
            raise EmgscribeError(f"holds other things ({others}), which would be lost", where=str(path), hint=hint)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        workspace.mkdir()
        yield temporary
        if temporary.is_dir() and path.is_file():
            raise EmgscribeError("is a file, and would become a folder", where=str(path), hint="name a new folder")
        if temporary.is_dir() and path.exists():
            os.replace(path, aside)  # a folder cannot be renamed over a full one
        os.replace(temporary, path)
    except OSError as error:
        raise failed("written", path, error) from error
    finally:
        if os.path.exists(aside) and not path.exists():  # the second rename failed, or an interrupt came before it
            os.replace(aside, path)
        shutil.rmtree(workspace, ignore_errors=True)


def _others(folder: Path, ours: Sequence[str]) -> str:
    """What a folder holds beside `ours` and hidden files: some names."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name[0] != "." and not any(fnmatch(name, pattern) for pattern in ours)]
    return ", ".join(others[:3]) + ", ..." * (len(others) > 3)


def remove_leftovers(folder: Path) -> None:
    """Remove from a folder what processes of this machine were writing that have ended."""
    for workspace in folder.glob(f".*.{_HERE}-*.*"):
        process = re.search(r"-(\d{1,9})\.[^.]*$", workspace.name)
        if process and not _runs(int(process[1])):
            with suppress(FileNotFoundError):  # another process removes it too
                for path in workspace.glob("[!.]*"):
                    # Killed between the two renames above: the old folder is aside and the new one is whole.
                    if (workspace / ".old").exists() and not (folder / path.name).exists():
                        os.replace(path, folder / path.name)
            shutil.rmtree(workspace, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON. NaN and infinities, which JSON lacks, raise `ValueError`."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. A missing, broken or huge one raises `EmgscribeError`.

    So does one with NaN, with a name that appears twice, or with control characters, which a terminal may obey.
    """
    with open_file(path) as file:
        try:
            if len(data := file.read(_JSON_BYTES + 1)) > _JSON_BYTES:
                raise ValueError(f"more than {_JSON_BYTES >> 20} MB")
            content = json.loads(data.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
            text = json.dumps(content, ensure_ascii=False, allow_nan=False)  # 1e999 is read as an infinity
            escapes = text.replace(r"\\", "").replace(r"\"", "")
            if not text.isprintable() or "\\" in escapes:
                raise ValueError("a string holds a control character, or half of a surrogate pair")
            return content
        except OSError as error:
            raise failed("read", path, error) from error
        except (ValueError, RecursionError) as error:
            hint = "remove the file and write it again, or restore a copy"
            raise EmgscribeError(f"not valid JSON ({error})", where=str(path), hint=hint) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.40} appears twice")
    return found


@contextmanager
def damage_reported(path: Path, what: str = "is damaged") -> Iterator[None]:
    """Read `path` with a library that trusts its bytes: what it raises becomes one `EmgscribeError`; no warnings.

    On Linux the library may use 1 GB plus 20 times the size of the file, since damaged bytes may ask for any amount.
    One thread at a time.
    """
    try:
        with _LIMITED, warnings.catch_warnings(), _bounded_memory((1 << 30) + 20 * path.stat().st_size):
            warnings.simplefilter("ignore")
            yield
    except EmgscribeError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, MemoryError):
            why = "it asks for far more memory than its size justifies"
        hint = "copy or download it again"
        raise EmgscribeError(f"{what} ({why:.120})", where=str(path), hint=hint) from error


@contextmanager
def _bounded_memory(more: int) -> Iterator[None]:
    """Allow this process `more` bytes beyond what it has; only Linux enforces such a limit."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def open_file(path: Path) -> BinaryIO:
    """Open a file to read bytes. Raises `EmgscribeError` where it is missing, unreadable, or not a regular file.

    A FIFO would block, and a device may never end.
    """
    try:
        if S_ISREG(path.stat().st_mode):
            return path.open("rb")
    except FileNotFoundError as error:
        raise EmgscribeError("no such file", where=str(path), hint="check the path") from error
    except (OSError, ValueError) as error:  # a NUL in its name
        raise failed("read", path, error) from error
    raise EmgscribeError("is not a file", where=str(path), hint="name a file: pipes and devices are not read")


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """Open a file as `open_file` does, to read UTF-8 text with or without a byte order mark. Line endings stay."""
    return TextIOWrapper(open_file(path), encoding="utf-8-sig", errors=errors, newline="")


def separator(start: str) -> str:
    """What separates the columns of a table: `;`, a tab, a comma (last, since it may be decimal), else a space."""
    return next((mark for mark in ";\t," if mark in start), " ")


@contextmanager
def reading_rows(path: Path, hint: str, **form: Any) -> Iterator["csv.DictReader[str]"]:
    """Yield the rows of a table as dictionaries, by the names in its first line; `form` goes to `csv.DictReader`.

    Cells that a row lacks are empty. A missing column, text that is not a table, and a `ValueError` in the block that
    reads a row become an `EmgscribeError` with the line's number and `hint`.
    """
    try:
        with open_text(path) as file:
            start = file.buffer.peek().partition(b"\n")[0]  # type: ignore[attr-defined]  # it is a BufferedReader
            mark = separator(start.decode(errors="replace"))
            rows = csv.DictReader(file, restval="", strict=True, **{"delimiter": mark, **form})
            try:
                yield rows
            except EmgscribeError:
                raise
            except KeyError as error:
                what = f"line {rows.line_num}: no column {error.args[0]}"
                raise EmgscribeError(what, where=str(path), hint=hint) from error
            except (ValueError, csv.Error) as error:
                what = f"line {rows.line_num}: {error!s:.150}"
                raise EmgscribeError(what, where=str(path), hint=hint) from error
    except OSError as error:
        raise failed("read", path, error) from error


@contextmanager
def exclusive(folder: Path, doing: str, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Lock a folder, made if it is missing, against other processes. A thread may lock its own folder again.

    Where another process is `doing` this there, `wait` is called with a line that names it, and the block begins when
    that process is done. Without `wait` this raises `EmgscribeError`, as does a folder that cannot be written to.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock", is_singleton=True)
    first = not lock.is_locked
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            other = f"another process ({holder(folder) or 'unknown'})"
            if wait is None:
                hint = "wait for it, or choose another folder"
                raise EmgscribeError(f"{other} {doing}", where=str(folder), hint=hint) from error
            wait(f"waiting for {other}, which {doing}: {folder}")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        raise failed("used", folder, error) from error
    try:
        _note(lock, f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        if first:
            _note(lock, "")
        lock.release()


def _note(lock: BaseFileLock, holder: str) -> None:
    with suppress(OSError):  # naming the holder is a courtesy, for which a full disk must not end a run
        Path(lock.lock_file).write_text(holder)


def holder(folder: Path) -> str:
    """Who holds a folder now, as "PROCESS on MACHINE"; empty where no process does, or one here that has ended."""
    with suppress(OSError, ValueError):
        noted = (folder / ".lock").read_text(errors="replace")[:80]
        process, _, machine = noted.partition(" on ")
        if machine != platform.node() or _runs(int(process)):
            return noted
    return ""


def _runs(process: int) -> bool:
    """Whether a process of this machine still runs. In containers, killed ones may stay as zombies."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:  # to another user's process, which runs
        return True
    except psutil.Error:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing. Raises `EmgscribeError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failed("used", folder, error) from error


def failed(to_be: str, path: Path, error: Exception) -> EmgscribeError:
    """The error for a file or folder that cannot be read, written or used."""
    hint = "check the path and its permissions, free some disk space, or choose another folder"
    inner = re.search(r"error message = '([^']+)'", str(error))  # of HDF5, whose own text has several lines
    why = inner[1] if inner else getattr(error, "strerror", None) or error
    return EmgscribeError(f"cannot be {to_be} ({why})", where=str(path), hint=hint)
