"""Which sessions train, which validate, which test: by date, or by a published list of names.

The lists are in `protocols/`: every session of emg2qwerty by user (`sessions.csv`, with size and sha256 where they were
published), and which of them each protocol holds out (`held_out.csv`). Source: Sivakumar et al. 2024 (arXiv 2410.20081)
for `generic` and `user0` to `user7`; `course` is the single user of the seed paper.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from emgscribe.config import Range, Settings, Whole, require
from emgscribe.data.hdf5 import SessionFile, find_sessions
from emgscribe.data.session import default_cache
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing

Protocol = Literal[
    "latest", "course", "generic", "user0", "user1", "user2", "user3", "user4", "user5", "user6", "user7"
]
LATEST: Protocol = "latest"
PROTOCOLS = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which sessions of a folder an experiment uses; by default all of them.

    Users are numbered in the order of their names, from 0; no numbers mean every user.
    """

    section = "data"

    protocol: Protocol = LATEST  # latest: each user's last session tests; the others are published lists of sessions
    train_users: tuple[Whole, ...] = ()  # numbers of the users whose sessions train and validate
    test_users: tuple[Whole, ...] = ()  # numbers of the users whose sessions test
    sessions: Whole = 0  # keep only this many of each user's latest training sessions; 0: all
    minutes: Annotated[float, Range(0, 1e6)] = 0.0  # keep only the first minutes of all training sessions; 0: all

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("train_users", "test_users"):
            chosen = getattr(self, field)
            require(len(set(chosen)) == len(chosen), f"data.{field}", chosen, "numbers of users, each once")
            by_date = self.protocol == LATEST or not chosen
            require(by_date, f"data.{field}", chosen, f"none, since the protocol {self.protocol} names the users")


_ALL = DataConfig()


@dataclass(frozen=True)
class Split:
    """Session files by their part, and the protocol that told them apart; no file is in two."""

    protocol: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]


def split_sessions(folder: Path, data: DataConfig = _ALL) -> Split:
    """Split a folder by the protocol that `data` names; simulated sessions, which no list can name, by date.

    Raises `EmgscribeError` where the folder will not do; for a published protocol it names every session that is
    missing and every file that is not the published one, by size or by sha256.
    """
    if data.protocol == LATEST:
        return split_latest(folder, data)
    listed = {row["session"]: row for row in _rows("sessions")}
    paths = find_sessions(folder)
    if not any(path.stem in listed for path in paths) and all(_is_simulated(path) for path in paths):
        return split_latest(folder, data)
    return _split_as_published(folder, {path.stem: path for path in paths}, listed, data)


def split_latest(folder: Path, data: DataConfig = _ALL) -> Split:
    """For each user of a folder: the latest session tests, the one before validates, all earlier ones train.

    `data` narrows this to some users and sessions; the sessions that validate are of the users who train. Raises
    `EmgscribeError` where a user has fewer than three sessions, or `data` asks for a user whom the folder lacks.
    """
    recorded: list[tuple[str, float, Path]] = []
    for path in find_sessions(folder):
        with SessionFile(path) as session:
            recorded.append((session.header.user, float(session.times(0, 1)[0]) if len(session) else 0.0, path))
    by_user: dict[str, list[Path]] = defaultdict(list)
    for user, _, path in sorted(recorded):
        by_user[user].append(path)
    for user, paths in by_user.items():
        if len(paths) < 3:
            raise EmgscribeError(
                f"user {user} has {len(paths)} of the 3 sessions that train, validate and test need",
                where=str(folder),
                hint="add sessions, or make some: emgscribe synthesize",
            )
    users = list(by_user.values())
    trained = _chosen(users, data.train_users, "data.train_users", folder)
    return Split(
        protocol=LATEST,
        train=tuple(path for paths in trained for path in paths[:-2][-data.sessions :]),
        val=tuple(paths[-2] for paths in trained),
        test=tuple(paths[-1] for paths in _chosen(users, data.test_users, "data.test_users", folder)),
    )


def _chosen(users: list[list[Path]], places: tuple[int, ...], field: str, folder: Path) -> list[list[Path]]:
    """The sessions of the users at `places`; none: of all."""
    if max(places, default=0) >= len(users):
        raise EmgscribeError(
            f"{field} asks for user {max(places)}, counted from 0, and there are {len(users)}",
            where=str(folder),
            hint="add sessions of more people, or name others",
        )
    return [users[place] for place in places] or users


def _rows(name: str) -> list[dict[str, str]]:
    with (PROTOCOLS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _is_simulated(path: Path) -> bool:
    with SessionFile(path) as session:
        return bool(session.header.simulation)


def _split_as_published(
    folder: Path, found: Mapping[str, Path], listed: Mapping[str, Mapping[str, str]], data: DataConfig
) -> Split:
    held_out = [row for row in _rows("held_out") if row["protocol"] == data.protocol]
    val, test = ([row["session"] for row in held_out if row["partition"] == part] for part in ("val", "test"))
    # Whoever validates also trains, with all that is not held out; names begin with the date.
    by_user: dict[str, list[str]] = {row["user"]: [] for row in held_out if row["partition"] == "val"}
    for name in sorted(listed.keys() - {*val, *test}):
        by_user.get(listed[name]["user"], []).append(name)
    train = [name for _, names in sorted(by_user.items()) for name in names[-data.sessions :]]
    faults = list(_faults([*train, *val, *test], found, listed))
    if faults:
        raise EmgscribeError(
            f"{len(faults)} of the {len(train + val + test)} sessions of the protocol {data.protocol} are missing or "
            "are not the published files:\n  " + "\n  ".join(faults),
            where=str(folder),
            hint=f"copy or download them again, or split what is there by date: --data.protocol {LATEST}",
        )
    return Split(data.protocol, *(tuple(found[name] for name in names) for names in (train, val, test)))


def _faults(names: Sequence[str], found: Mapping[str, Path], listed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What is wrong with each session that is not as listed; a file of another size is not read."""
    for name in names:
        expected = listed[name]
        if name not in found:
            yield f"{name}: missing"
        elif expected["bytes"] and (size := found[name].stat().st_size) != int(expected["bytes"]):
            yield f"{name}: {size:,} bytes instead of {int(expected['bytes']):,}"
        elif expected["sha256"] and not _has_sha256(found[name], expected["sha256"]):
            yield f"{name}: another sha256 than {expected['sha256']}"


def _has_sha256(path: Path, expected: str) -> bool:
    """Whether a file has this sha256; where it has, the cache remembers it until the file changes."""
    status = path.stat()
    identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {expected}"
    verified = default_cache() / "verified" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if verified.exists():
        return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            return False
    with replacing(verified) as temporary:
        temporary.touch()
    return True
