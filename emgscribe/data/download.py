"""The emg2qwerty data set, session by session: from its archive, from a mirror of its files, or the key logs alone.

The archive (239 GB, all or nothing) is read as a stream: what is wanted goes to disk, the rest is skipped, and reading
stops when all is found. A connection that breaks is resumed where it broke. A file gets its name when it is complete
and has been opened. A partial download from a mirror is kept beside it and resumed.
"""

import os
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any

from emgscribe.data.hdf5 import SessionFile
from emgscribe.data.splits import Listed, file_fault, listed_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.files import exclusive, failed, make_folder

ARCHIVE = "https://fb-ctrl-oss.s3.amazonaws.com/emg2qwerty/emg2qwerty-data-2021-08.tar.gz"
KEY_LOGS = "https://github.com/nemarDatasets/nm000104"
COURSE_USER = "89335547"
_TRIES, _TIMEOUT = 6, 60  # connections in a row without a byte, and seconds that one may be silent
_BLOCK = 1 << 20
_USUAL = 300 << 20  # bytes of a session whose size is not published: the mean over the data set
_LARGEST = 12 * 3600 * 2000 * 136  # bytes of a session of 12 hours
_RATIO = 64  # EMG does not compress that far: a stream that does is not the data set
Progress = Callable[[float], None]


def choose(*, course: bool = False, users: Sequence[str] = (), sessions: Sequence[str] = ()) -> list[Listed]:
    """Sessions of the data set: the 18 of Borthakur et al., those of users, or single ones; each once.

    A user is an id, or a number N for the first N users. A session is its name, or a unique part of it.
    Raises `EmgscribeError` for what the data set does not have.
    """
    rows = listed_sessions().values()
    known = list(dict.fromkeys(row.user for row in rows))
    chosen = [COURSE_USER] * course
    for user in users:
        if user not in known and not (user.isdecimal() and 0 < int(user) <= len(known)):
            hint = f"name an id of eight digits, or a number up to {len(known)}"
            raise EmgscribeError(f"the data set has no user {user!r}", where="--users", hint=hint)
        chosen += [user] if user in known else known[: int(user)]
    found = {row for row in rows if row.user in chosen}
    for part in sessions:
        match [row for row in rows if part and part in row.session]:
            case [one]:
                found.add(one)
            case several:
                what = f"{part!r} is part of the names of {len(several)} sessions"
                raise EmgscribeError(what, where="--sessions", hint="name one session, such as 1622682789")
    if not found:
        hint = f"use --course, --users or --sessions; --users {len(known)} --dry-run lists all of them"
        raise EmgscribeError("no session is chosen", hint=hint)
    return sorted(found)


def present(wanted: Sequence[Listed], out: Path) -> list[Listed]:
    """The wanted sessions that are in the folder `out`, with the published size and hash where these are known."""
    return [one for one in wanted if (path := out / f"{one.session}.hdf5").is_file() and not _fault(path, one)]


def fetch(
    wanted: Sequence[Listed], out: Path, source: str = ARCHIVE, *, progress: Progress | None = None
) -> list[Path]:
    """Fetch the wanted sessions into the folder `out`; returns their paths.

    `source` is the URL or path of the archive (.tar.gz, .tgz, .tar), or the URL prefix or folder that holds the files
    under their names. What is there already is kept. Raises `EmgscribeError` where a file is missing at the source, is
    not what was published, or cannot be written, and where the network does not answer.
    """
    with exclusive(out, "downloads sessions here"):
        done = present(wanted, out)
        left = [one for one in wanted if one not in done]
        _require_room(left, out)
        if source.endswith((".tar.gz", ".tgz", ".tar")):
            _from_archive(left, out, source, progress)
        else:
            _from_mirror(left, out, source, progress)
    return [out / f"{one.session}.hdf5" for one in wanted]


def _part(progress: Progress | None, number: int, count: int, fraction: float) -> None:
    """Progress of one file of `count`."""
    if progress:
        progress((number + fraction) / count)


def size_of(sessions: Sequence[Listed]) -> str:
    """The size of sessions in GB; "about" where not all of them are published."""
    about = "" if all(one.bytes for one in sessions) else "about "
    return f"{about}{sum(one.bytes or _USUAL for one in sessions) / 1e9:.1f} GB"


def cost(wanted: Sequence[Listed], here: Sequence[Listed], source: str) -> str:
    """What fetching costs, in one line."""
    left = [one for one in wanted if one not in here]
    line = f"{len(wanted)} sessions, {len(here)} of them here; {size_of(left)} to write"
    if left and source == ARCHIVE:
        line += ". Up to 239 GB are read on the way: the archive can only be read from its start"
    return line


def _require_room(left: Sequence[Listed], out: Path) -> None:
    needed, free = sum(one.bytes or _USUAL for one in left), shutil.disk_usage(out).free
    if needed > free:
        what = f"{len(left)} sessions take about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        raise EmgscribeError(what, where=str(out), hint="free some disk space, or choose fewer sessions")


def _fault(path: Path, one: Listed) -> str:
    """How a file differs from the published one or, where that is not known, why it cannot be opened; else empty."""
    fault = file_fault(path, one)
    if fault or one.sha256:
        return fault
    try:
        with SessionFile(path) as session:
            return "" if session.header.name else "it has no name"
    except EmgscribeError as error:
        return error.what


def _finish(part: Path, one: Listed) -> None:
    """Give a complete file its name. One that is not what was published is removed, and raises `EmgscribeError`."""
    if fault := _fault(part, one):
        part.unlink()
        what = f"{one.session}: what was fetched is not the published session ({fault})"
        raise EmgscribeError(what, hint="try again; if that does not help, the source holds another or a damaged file")
    os.replace(part, part.with_name(f"{one.session}.hdf5"))


class Remote(RawIOBase):
    """The bytes of a URL or a file from `start` on, in order; a broken connection is resumed where it broke."""

    def __init__(self, source: str, start: int = 0) -> None:
        self.source, self.at, self.size = source, start, -1
        self._tag, self._open = "", None
        self._file: BufferedReader | None = None
        if "://" not in source:
            self._open_file()

    def _open_file(self) -> None:
        try:
            self._file = open(self.source, "rb")  # noqa: SIM115  # closed with this one
            self._file.seek(self.at)
            self.size = Path(self.source).stat().st_size
        except OSError as error:
            raise failed("read", Path(self.source), error) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._file is not None:
            count = self._file.readinto(buffer)
            self.at += count
            return count
        for attempt in range(_TRIES):
            if 0 <= self.size <= self.at:
                return 0
            try:
                if self._open is None:
                    self._connect()
                    if 0 <= self.size <= self.at:
                        return 0
                assert self._open is not None
                if count := self._open.readinto(buffer):
                    self.at += count
                    return int(count)
                if self.size < 0:  # the server did not say how much there is
                    return 0
                raise ConnectionError("the connection ended early")
            except (OSError, HTTPException) as error:
                self._hang_up()
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                    self._raise_if_permanent(error)
                last = error
                time.sleep(_pause(error, attempt))
        what = f"cannot be fetched: {_TRIES} connections in a row failed ({last})"
        hint = "check the network and try again: what was fetched is kept"
        raise EmgscribeError(what, where=self.source, hint=hint) from last

    def _connect(self) -> None:
        request = urllib.request.Request(
            self.source, headers={"User-Agent": "emgscribe", "Accept-Encoding": "identity"}
        )
        if self.at:
            request.add_header("Range", f"bytes={self.at}-")
            if self._tag:
                request.add_header("If-Range", self._tag)
        self._open = answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
        tag, length = answer.headers.get("ETag") or "", answer.headers.get("Content-Length")
        if self._tag and tag and tag != self._tag:
            raise EmgscribeError("changed while it was fetched", where=self.source, hint="give the same command again")
        self._tag = self._tag or tag
        if answer.status == 206:
            part, _, whole = (answer.headers.get("Content-Range") or "").partition("/")
            if part != f"bytes {self.at}-{part.rpartition('-')[2]}":
                raise ConnectionError(f"the server sends {part or 'another part'}, not the bytes from {self.at} on")
            self.size = int(whole) if whole.isdecimal() else self.at + int(length or 0)
            return
        self.size, skipped = int(length) if length and length.isdecimal() else -1, 0
        while skipped < self.at:  # the server sends all of it again
            if not (block := answer.read(min(_BLOCK, self.at - skipped))):
                raise ConnectionError("the connection ended early")
            skipped += len(block)

    def _raise_if_permanent(self, error: urllib.error.HTTPError) -> None:
        """Raise a permanent error, which another try would not help."""
        if error.code == 416:  # nothing is left after this byte
            whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            self.size = int(whole) if whole.isdecimal() and int(whole) == self.at else -1
            if self.size < 0:
                hint = "delete the unfinished file (.part) and give the same command again"
                raise EmgscribeError("is shorter than the part on disk", where=self.source, hint=hint) from error
        elif error.code not in (408, 425, 429) and error.code < 500:
            hint = "the server refuses this file" if error.code == 403 else "check the address"
            raise EmgscribeError(f"cannot be fetched ({error})", where=self.source, hint=hint) from error

    def _hang_up(self) -> None:
        if self._open is not None:
            with suppress(Exception):
                self._open.close()
            self._open = None

    def close(self) -> None:
        self._hang_up()
        if self._file is not None:
            self._file.close()
        super().close()


def _pause(error: Exception, attempt: int) -> float:
    """Seconds to wait before the next try: the server's Retry-After, else longer each time."""
    said = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return min(float(said), 300.0) if said.isdecimal() else min(0.5 * 2**attempt, 30.0)


def _from_mirror(left: Sequence[Listed], out: Path, source: str, progress: Progress | None) -> None:
    """Fetch every file that the mirror holds, before an error names those that it lacks."""
    missing = []
    for number, one in enumerate(left):
        try:
            _fetch_file(one, out, source, partial(_part, progress, number, len(left)))
        except EmgscribeError as error:
            cause = error.__cause__
            if not isinstance(cause, FileNotFoundError) and getattr(cause, "code", 0) != 404:
                raise
            missing.append(one.session)
    if missing:
        raise _lacks(missing, source)


def _lacks(missing: Sequence[str], source: str) -> EmgscribeError:
    named = ", ".join([*sorted(missing)[:3], *["..."] * (len(missing) > 3)])
    hint = "check the address, or name another source or other sessions"
    return EmgscribeError(f"does not hold {len(missing)} of the sessions: {named}", where=source, hint=hint)


def _fetch_file(one: Listed, out: Path, source: str, progress: Callable[[float], object]) -> None:
    part = out / f"{one.session}.hdf5.part"
    place = f"{source.rstrip('/')}/{one.session}.hdf5"
    start = part.stat().st_size if part.exists() else 0
    try:
        with Remote(place, start) as remote, part.open("ab") as file:
            while block := remote.read(_BLOCK):
                file.write(block)
                if remote.at > (one.bytes or _LARGEST):
                    raise EmgscribeError("is larger than the session", where=place, hint="name another source")
                progress(remote.at / max(remote.size, one.bytes, 1))
    except OSError as error:
        raise failed("written", part, error) from error
    _finish(part, one)


def _from_archive(left: Sequence[Listed], out: Path, source: str, progress: Progress | None) -> None:
    """Read the archive until every wanted session is found."""
    missing = {one.session: one for one in left}
    if not missing:
        return
    with Remote(source) as remote:
        try:
            for name, member, file in _members(remote, source):
                if (one := missing.pop(name, None)) is None:
                    continue
                _require_plain(member, source)
                _unpack(file, out / f"{name}.hdf5.part", lambda: progress and progress(remote.at / max(remote.size, 1)))
                _finish(out / f"{name}.hdf5.part", one)
                if not missing:
                    return
        except (tarfile.TarError, EOFError, OSError) as error:
            what = f"ends early or is damaged ({error})"
            hint = "give the same command again; sessions that are complete are kept"
            raise EmgscribeError(what, where=source, hint=hint) from error
    raise _lacks(list(missing), source)


def _unpack(member: Any, part: Path, each: Callable[[], object]) -> None:
    """Copy a member of an archive. Where it ends early nothing of it is left, since it cannot be resumed."""
    try:
        with part.open("wb") as target:
            while block := member.read(_BLOCK):
                try:
                    target.write(block)
                except OSError as error:
                    raise failed("written", part, error) from error
                each()
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _members(remote: Remote, source: str) -> Iterator[tuple[str, tarfile.TarInfo, Any]]:
    """(session, member, its bytes) of each entry of the archive, in the order of reading."""
    kind: Any = "r|" if source.endswith(".tar") else "r|gz"
    unpacked = 0
    with tarfile.open(fileobj=remote, mode=kind, bufsize=_BLOCK) as archive:
        for member in archive:
            unpacked += member.size
            if unpacked > (_RATIO * remote.at) + (1 << 30):
                hint = "name another source: EMG does not compress like this"
                raise EmgscribeError(f"claims {unpacked >> 30} GB in {remote.at >> 20} MB", where=source, hint=hint)
            name = PurePosixPath(member.name).name
            if name.endswith(".hdf5"):
                yield name.removesuffix(".hdf5"), member, archive.extractfile(member) if member.isreg() else None


def _require_plain(member: tarfile.TarInfo, source: str) -> None:
    place = PurePosixPath(member.name)
    fault = ""
    if not member.isreg() or member.issparse():
        fault = "is a link, a device or a folder"
    elif place.is_absolute() or ".." in place.parts:
        fault = "has a path that leads out of the archive"
    elif member.size > _LARGEST:
        fault = f"is {member.size / 1e9:.0f} GB long"
    if fault:
        raise EmgscribeError(f"{member.name!r:.100} {fault}", where=source, hint="name the official archive")


def fetch_bids(out: Path, source: str = KEY_LOGS, *, users: Sequence[str] = ()) -> Path:
    """Clone the repository of the BIDS copy into `out`: the key logs of all sessions, and the EMG of `users`.

    An existing clone is continued. The EMG comes through git-annex, the copy's own client, which compares
    each file with its SHA-256. Raises `EmgscribeError` where git or git-annex is missing or fails, where the copy has
    no such user, and where `out` holds something else.
    """
    if not (out / ".git").is_dir():
        if out.is_dir() and any(out.iterdir()):
            raise EmgscribeError("exists and is not empty", where=str(out), hint="choose another folder")
        make_folder(out.parent)
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            _git("clone", "--quiet", "--depth", "1", "--no-recurse-submodules", "--", source, str(part), where=source)
        except EmgscribeError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    for user in users:
        if not (out / f"sub-{user}").is_dir():
            hint = "name ids of eight digits, such as 89335547"
            raise EmgscribeError(f"the BIDS copy has no user {user!r}", where="--users", hint=hint)
    if users:
        if shutil.which("git-annex") is None:
            raise EmgscribeError("the EMG of the BIDS copy needs git-annex", hint="install git-annex (or datalad)")
        branch = "git-annex:refs/remotes/origin/git-annex"
        _git("-C", str(out), "fetch", "--quiet", "--depth", "1", "origin", branch, where=source)
        _git("-C", str(out), "annex", "init", "--quiet", where=source)
        _git("-C", str(out), "annex", "get", "--quiet", "--", *(f"sub-{user}" for user in users), where=source)
    return out


def _git(*arguments: str, where: str) -> None:
    """Call git so that it asks nothing and runs no hooks."""
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments], capture_output=True, text=True, env=environment
        )
    except OSError as error:
        raise EmgscribeError("this needs git", hint="install git") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        hint = "check the network and the address, and give the same command again"
        raise EmgscribeError(f"git failed ({lines[-1]:.200})", where=where, hint=hint)
