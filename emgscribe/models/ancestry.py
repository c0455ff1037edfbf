"""What a model has seen: the sessions that it, and the models it was trained from, learned from.

It is kept in the model's folder, so that no model is scored on what it learned, nor on what an ancestor did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Seen:
    """A session that was learned from, by the hash of its content ("<hash>:<samples>" where only its beginning was)."""

    content: str
    name: str
    user: str


@dataclass(frozen=True)
class Ancestry:
    """Sessions that a model or an ancestor was trained on, and those by which its best weights were chosen.

    `complete` is false where an ancestor's folder did not say: then there may be more.
    """

    trained_on: tuple[Seen, ...] = ()
    validated_on: tuple[Seen, ...] = ()
    complete: bool = True

    def after(self, train: Sequence[Session], val: Sequence[Session]) -> "Ancestry":
        """The ancestry of a model that is now trained on `train` and validated on `val`."""
        return Ancestry(_joined(self.trained_on, train), _joined(self.validated_on, val), self.complete)

    def refuse(self, sessions: Sequence[Session], *, unseen_users: bool = False) -> None:
        """Raise `EmgscribeError` where one of `sessions`, or with `unseen_users` its user, was trained on.

        Sessions are told by what is in them, whatever their name, and a session of which a part was trained on is
        refused as a whole.
        """
        known = {_whole(seen.content): seen for seen in self.trained_on}
        users = {seen.user: seen for seen in self.trained_on} if unseen_users else {}
        for session in sessions:
            if seen := known.get(_whole(session.content)):
                other = f", there called {seen.name}" if seen.name != session.name else ""
                raise EmgscribeError(
                    f"the model, or one that it was trained from, was trained on this session{other}",
                    where=session.name,
                    hint="score it on sessions that it has not seen; config.json of the model lists those it has",
                )
            if seen := users.get(session.user):
                raise EmgscribeError(
                    f"its user {session.user} is to be unseen, but the model, or one that it was trained from, was "
                    f"trained on {seen.name} of theirs",
                    where=session.name,
                    hint="start from a model that has not seen them, or choose other data.test_users",
                )


def _whole(content: str) -> str:
    """The hash of the session that `content` is, or is the beginning of."""
    return content.partition(":")[0]


def _joined(before: tuple[Seen, ...], sessions: Sequence[Session]) -> tuple[Seen, ...]:
    now = (Seen(session.content, session.name, session.user) for session in sessions)
    return tuple(dict.fromkeys((*before, *now)))
