"""Which sessions train, which validate, which test."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from emgscribe.config import DataConfig
from emgscribe.errors import EmgscribeError
from emgscribe.session import Session, find_sessions

_ALL = DataConfig()


@dataclass(frozen=True)
class Split:
    """Session files by their part; no file is in two."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]


def split_latest(folder: Path, data: DataConfig = _ALL) -> Split:
    """For each user of a folder: the latest session tests, the one before validates, all earlier ones train.

    `data` narrows this to some users and sessions; the sessions that validate are of the users who train. Raises
    `EmgscribeError` where a user has fewer than three sessions, or `data` asks for a user whom the folder lacks.
    """
    recorded: list[tuple[str, float, Path]] = []
    for path in find_sessions(folder):
        with Session(path) as session:
            recorded.append((session.header.user, float(session.times(0, 1)[0]) if len(session) else 0.0, path))
    by_user: dict[str, list[Path]] = defaultdict(list)
    for user, _, path in sorted(recorded):
        by_user[user].append(path)
    for user, paths in by_user.items():
        if len(paths) < 3:
            raise EmgscribeError(
                f"user {user} has {len(paths)} of the 3 sessions that train, validate and test need",
                where=str(folder),
                mend="add sessions, or make some: emgscribe synthesize",
            )
    users = list(by_user.values())
    trained = _chosen(users, data.train_users, "data.train_users", folder)
    return Split(
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
            mend="add sessions of more people, or name others",
        )
    return [users[place] for place in places] or users
