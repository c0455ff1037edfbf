"""The sessions that a model, and the models that it was made from, were trained on.

They are stored in the model's folder, so that no model is scored on a session that it or an ancestor has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Seen:
    """A session by the hash of its content, or "<hash>:<samples>" where only its beginning was used.

    For the sessions of an imported model the content is unknown, and empty: they are known by name.
    """

    content: str
    name: str
    user: str


@dataclass(frozen=True)
class Ancestry:
    """The sessions that trained a model or an ancestor, and those that chose its best weights.

    `complete` is false for an imported model, or one made from it: there may have been more sessions.
    """

    trained_on: tuple[Seen, ...] = ()
    validated_on: tuple[Seen, ...] = ()
    complete: bool = True

    def after(self, train: Sequence[Session], val: Sequence[Session]) -> "Ancestry":
        """The ancestry of this model once it is trained on `train` and validated on `val`."""
        return self.joined(Ancestry(_seen(train), _seen(val)))

    def joined(self, other: "Ancestry") -> "Ancestry":
        """The ancestry of a model that is made of this one and another."""
        trained_on = dict.fromkeys(self.trained_on + other.trained_on)
        validated_on = dict.fromkeys(self.validated_on + other.validated_on)
        return Ancestry(tuple(trained_on), tuple(validated_on), self.complete and other.complete)

    def refuse(self, sessions: Sequence[Session], *, unseen_users: bool = False) -> None:
        """Raise `EmgscribeError` if the model was trained on one of `sessions` or, with `unseen_users`, on its user.

        Sessions are compared by content where that is known, not by name. A session that was trained on in part is
        refused as a whole.
        """
        known = {_whole(seen.content) or seen.name: seen for seen in self.trained_on}
        users = {seen.user: seen for seen in self.trained_on} if unseen_users else {}
        for session in sessions:
            if seen := known.get(_whole(session.content)) or known.get(session.name):
                name = f", under the name {seen.name}" if seen.name != session.name else ""
                what = f"the model, or one that it was made from, was trained on this session{name}"
                hint = "choose held-out sessions; the model's config.json lists those that it was trained on"
                raise EmgscribeError(what, where=session.name, hint=hint)
            if seen := users.get(session.user):
                past = f"the model, or one that it was made from, was trained on session {seen.name}"
                what = f"user {session.user} is to be unseen, but {past} of this user"
                hint = "start from a model that was not trained on this user, or choose other data.test_users"
                raise EmgscribeError(what, where=session.name, hint=hint)


def _whole(content: str) -> str:
    return content.partition(":")[0]


def _seen(sessions: Sequence[Session]) -> tuple[Seen, ...]:
    return tuple(Seen(session.content, session.name, session.user) for session in sessions)
