"""Which sessions train, which validate, which test: by date, or by a published list.

The lists are in `protocols/`: every session of emg2qwerty by user (`sessions.csv`, with size and SHA-256 where they
were published), and which of them each protocol holds out (`held_out.csv`). Sources: Sivakumar et al. 2024 (arXiv
2410.20081) for `generic` and `user0` to `user7`; Borthakur et al. for `course`.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from emgscribe.config import Count, Range, Settings, Whole, require
from emgscribe.data.cache import Entry
from emgscribe.data.hdf5 import SessionFile, find_sessions, is_session_name, read_header
from emgscribe.data.session import Session, open_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.files import reading_rows

Users = Literal["user0", "user1", "user2", "user3", "user4", "user5", "user6", "user7"]
Protocol = Literal["latest", "course", "generic", Users]
LATEST: Protocol = "latest"
PROTOCOLS = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which sessions of a folder an experiment uses; by default all of them.

    Users are numbered in the order of their names, from 0; no numbers mean every user.
    """

    section = "data"
    protocol: Protocol = LATEST  # latest: each user's last sessions test; the others are published lists of sessions
    train_users: tuple[Whole, ...] = ()  # numbers of the users whose sessions train
    val_users: tuple[Whole, ...] = ()  # numbers of the users whose last sessions validate; none: the training users
    test_users: tuple[Whole, ...] = ()  # numbers of the users whose sessions test
    sessions: Whole = 0  # number of each user's latest sessions to train on; 0: all
    minutes: Annotated[float, Range(0, 1e6)] = 0.0  # minutes to train on, from the first session on; 0: all
    test_sessions: Count = 1  # number of each user's last sessions to test on
    split: str = ""  # CSV file of your own, with the columns session and partition (train, val, test)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("train_users", "val_users", "test_users"):
            chosen = getattr(self, field)
            require(len(set(chosen)) == len(chosen), f"data.{field}", chosen, "different numbers")
            by_date = self.protocol == LATEST or not chosen
            require(by_date, f"data.{field}", chosen, f"none: the protocol {self.protocol} names the users")
        chosen = self.train_users or self.val_users or self.test_users or self.sessions or self.test_sessions > 1
        alone = not self.split or (self.protocol == LATEST and not chosen)
        require(alone, "data.split", self.split, "empty, or no other choice of sessions beside it")
        named = self.protocol == LATEST or self.test_sessions == 1
        require(named, "data.test_sessions", self.test_sessions, f"1: the protocol {self.protocol} names the sessions")


class Split(NamedTuple):
    """Session files by part, and the protocol that was used; no file is in two parts."""

    protocol: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]


def split(  # noqa: PLR0913  # the fields of DataConfig
    folder: Path | str,
    protocol: Protocol = LATEST,
    *,
    train_users: tuple[int, ...] = (),
    val_users: tuple[int, ...] = (),
    test_users: tuple[int, ...] = (),
    sessions: int = 0,
    minutes: float = 0.0,
    test_sessions: int = 1,
    file: Path | str = "",
) -> tuple[list[Session], list[Session], list[Session]]:
    """Training, validation and test sessions of a folder, opened. The arguments are the fields of `DataConfig`.

    `file` is a CSV file of your own that names the part of each session (`DataConfig.split`).

    Raises `EmgscribeError` where users or sessions are missing, or a session cannot be used.
    """
    chosen = DataConfig(protocol, train_users, val_users, test_users, sessions, minutes, test_sessions, str(file))
    _, *parts = split_sessions(folder, chosen)
    train, val, test = map(open_sessions, parts)
    return list(first_minutes(train, minutes)), val, test


def first_minutes(sessions: Sequence[Session], minutes: float) -> Iterator[Session]:
    """The first `minutes` of a series of sessions, the last one cut; 0: all of them."""
    left = minutes or sum(session.minutes for session in sessions)
    for session in sessions:
        if samples := max(0, session.shape.samples(60 * left)):
            yield session.first(samples)
        left -= session.minutes


def split_sessions(folder: Path | str, data: DataConfig | None = None) -> Split:
    """Split a folder by the protocol that `data` names.

    A folder of simulated sessions is split by date, except where published protocols apply: to simulated EMG under the
    real keys of published sessions, which are known by user and start.

    By date, each user's latest sessions test (`test_sessions`, by default one), the one before validates, all earlier
    ones train. Only training users validate, unless `val_users` names others: then all sessions of a training user
    train but those that validate or test. A file of your own (`data.split`) names the part of each session. Raises
    `EmgscribeError` where sessions or users are missing, and, naming all of them, where files differ from the published
    ones in size or SHA-256.
    """
    paths = find_sessions(folder)
    data = data or DataConfig()
    if data.split:
        return _split_by_file(paths, Path(data.split))
    if data.protocol == LATEST:
        return _split_by_date(paths, str(folder), data)
    listed = listed_sessions()
    if any(path.stem in listed or not read_header(path).simulation for path in paths):
        return _split_as_published(paths, str(folder), listed, data)
    if under_keys := _under_keys(paths, listed):
        listed = {name: row._replace(bytes=0, sha256="") for name, row in listed.items()}  # those are of recordings
        return _split_as_published(paths, str(folder), listed, data, under_keys)
    return _split_by_date(paths, str(folder), data)


def _split_by_file(paths: Sequence[Path], table: Path) -> Split:
    """Split by a CSV file with the columns session and partition; sessions that it does not name are left out."""
    files = {path.stem: path for path in paths}
    parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    placed: dict[str, str] = {}
    with reading_rows(table, "write a header session,partition and a row per session: train, val or test") as rows:
        for row in rows:
            name, part = row["session"], row["partition"]
            name = Path(name).stem if is_session_name(name) else name
            if name in placed:
                raise ValueError(f"{name!r:.80} is in {placed[name]} already")
            if part not in parts or name not in files:
                fault = "not a session of the folder" if part in parts else f"in {part!r:.40}, not train, val or test"
                raise ValueError(f"{name!r:.80} is {fault}")
            placed[name] = part
            parts[part].append(files[name])
    if empty := [part for part, own in parts.items() if not own]:
        raise EmgscribeError(f"names no session for {', '.join(empty)}", where=str(table), hint="name one for each")
    return Split("file", tuple(parts["train"]), tuple(parts["val"]), tuple(parts["test"]))


def shared_users(split: Split) -> list[str]:
    """The users in both training and test: then the test says nothing about unseen people."""
    trained, tested = ({read_header(path).user for path in part} for part in (split.train, split.test))
    return sorted(trained & tested)


def _split_by_date(paths: Sequence[Path], folder: str, data: DataConfig) -> Split:
    recorded = []
    for path in paths:
        with SessionFile(path) as file:
            recorded.append((file.header.user, file.layout.start, path))
    by_user: dict[str, list[Path]] = defaultdict(list)
    for user, _, path in sorted(recorded):
        by_user[user].append(path)

    def chosen(places: tuple[int, ...], field: str) -> list[str]:
        if max(places, default=0) >= len(by_user):
            what = f"data.{field} names user {max(places)}, counted from 0, but the folder has {len(by_user)} users"
            raise EmgscribeError(what, where=folder, hint="add sessions of more users, or choose other users")
        return [list(by_user)[place] for place in places] or list(by_user)

    trained, tested = chosen(data.train_users, "train_users"), chosen(data.test_users, "test_users")
    validated = chosen(data.val_users, "val_users") if data.val_users else trained
    parts: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    most = 0  # sessions of one user to train on
    for user in dict.fromkeys([*trained, *validated, *tested]):
        own, val = by_user[user], int(user in validated)
        # A user's training sessions do not depend on whether the user tests, unless others validate.
        test = data.test_sessions if user in tested or not data.val_users else 0
        needed = (user in trained) + val + test
        if len(own) < needed:
            uses = {"to train": int(user in trained), "to validate": val, "to test (data.test_sessions)": test}
            shares = ", ".join(f"{count} {use}" for use, count in uses.items() if count)
            what = f"user {user} has {len(own)} sessions; it takes {needed}: {shares}"
            fewer = " lower --data.test-sessions," * (test > 1)
            hint = f"add sessions,{fewer} or choose users with --data.train-users"
            raise EmgscribeError(what, where=folder, hint=hint)
        first = len(own) - test  # place of the first session that tests
        most = max(most, first - val) if user in trained else most
        parts["train"] += own[: first - val][-data.sessions :] if user in trained else []
        parts["val"] += own[first - val : first]
        parts["test"] += own[first:] if user in tested else []
    if data.sessions > most:
        what = f"data.sessions is {data.sessions}, but no user has more than {most} sessions to train on"
        raise EmgscribeError(what, where=folder, hint="lower --data.sessions, or leave it out to train on all")
    return Split(LATEST, tuple(parts["train"]), tuple(parts["val"]), tuple(parts["test"]))


class Listed(NamedTuple):
    """A session of the data set; its size and SHA-256 where they are published, else 0 and empty."""

    session: str
    user: str
    bytes: int
    sha256: str


def listed_sessions() -> dict[str, Listed]:
    """Every session of the data set by name."""
    rows = (Listed(row["session"], row["user"], int(row["bytes"] or 0), row["sha256"]) for row in _rows("sessions"))
    return {row.session: row for row in rows}


def published_names(protocol: Protocol, part: Literal["train", "val", "test"]) -> list[tuple[str, str]]:
    """(session, user) of a part of a published split."""
    listed = listed_sessions()
    return [(name, listed[name].user) for name in _published_parts(protocol, listed, 0)[part]]


def _rows(name: str) -> list[dict[str, str]]:
    with (PROTOCOLS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _under_keys(paths: Sequence[Path], listed: Mapping[str, Listed]) -> dict[str, Path]:
    """Sessions of simulated EMG under the keys of a listed session, by the listed name: same user, same start."""
    starts = {(row.user, _start(name)): name for name, row in listed.items()}
    headers = {path: header for path in paths if (header := read_header(path)).real_keys}
    named = {starts.get((header.user, _start(header.name))): path for path, header in headers.items()}
    return {name: path for name, path in named.items() if name is not None}


def _start(name: str) -> str:
    """Unix seconds in the name of a session: year-month-day-seconds-..."""
    return name.split("-", 4)[3] if name.count("-") > 3 else ""


def _split_as_published(
    paths: Sequence[Path],
    folder: str,
    listed: Mapping[str, Listed],
    data: DataConfig,
    under_keys: Mapping[str, Path] | None = None,
) -> Split:
    parts = _published_parts(data.protocol, listed, data.sessions)
    names = [name for part in parts.values() for name in part]
    found = {path.stem: path for path in paths} | dict(under_keys or {})
    if not found.keys() >= set(names):  # a renamed file is known by the name in its header
        for path in paths:
            if path.stem not in names:
                with suppress(EmgscribeError):  # a broken file that no list names may stay
                    found.setdefault(read_header(path).name, path)
    faults = [f"{name}: {fault}" for name in names if (fault := file_fault(found.get(name), listed[name]))]
    if faults:
        what = f"{len(faults)} of the {len(names)} sessions of the protocol {data.protocol} are missing or are not the "
        hint = "copy them from the data set's official archive (see docs/your-data.md)"
        hint = "simulate EMG under their key logs too (see docs/simulate.md)" if under_keys else hint
        what = f"{what}published files:\n  " + "\n  ".join(faults)
        hint = f"{hint}; the protocol {LATEST} splits any folder by date"
        raise EmgscribeError(what, where=folder, hint=hint)
    return Split(data.protocol, *(tuple(found[name] for name in part) for part in parts.values()))


def _published_parts(protocol: Protocol, listed: Mapping[str, Listed], latest: int) -> dict[str, list[str]]:
    """Names of the sessions that train (each user's `latest`; 0: all), validate and test."""
    held_out = [row for row in _rows("held_out") if row["protocol"] == protocol]
    val, test = ([row["session"] for row in held_out if row["partition"] == part] for part in ("val", "test"))
    # The users who validate also train, with all that is not held out; names begin with the date.
    by_user: dict[str, list[str]] = {row["user"]: [] for row in held_out if row["partition"] == "val"}
    for name in sorted(listed.keys() - {*val, *test}):
        by_user.get(listed[name].user, []).append(name)
    return {
        "train": [name for _, names in sorted(by_user.items()) for name in names[-latest:]],
        "val": val,
        "test": test,
    }


def file_fault(path: Path | None, expected: Listed) -> str:
    """How a session differs from its listing, empty where it does not. Its hash is kept until the file changes."""
    if path is None:
        return "missing"
    if expected.bytes and (size := path.stat().st_size) != expected.bytes:
        return f"{size:,} bytes instead of {expected.bytes:,}"
    if not expected.sha256:
        return ""
    entry = Entry(path, "hashes")
    found, _ = entry.read() or ("", b"")
    if not found:
        with path.open("rb") as file:
            entry.write(found := hashlib.file_digest(file, "sha256").hexdigest())
    return "" if found == expected.sha256 else f"its SHA-256 is not {expected.sha256}"
