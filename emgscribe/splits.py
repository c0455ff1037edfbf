"""Which sessions train, which validate, which test."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from emgscribe.errors import EmgscribeError
from emgscribe.session import Session, find_sessions


@dataclass(frozen=True)
class Split:
    """Session files by their part; no file is in two."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]


def split_latest(folder: Path) -> Split:
    """For each user of a folder: the latest session tests, the one before validates, all earlier ones train.

    Raises `EmgscribeError` where a user has fewer than three sessions.
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
    users = by_user.values()
    return Split(
        train=tuple(path for paths in users for path in paths[:-2]),
        val=tuple(paths[-2] for paths in users),
        test=tuple(paths[-1] for paths in users),
    )
