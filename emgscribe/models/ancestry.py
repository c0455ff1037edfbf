"""The sessions that a model, and the models that it was made from, were trained on.

They are stored in the model's folder, so that no model is scored on a session that it or an ancestor has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Seen:
    """A session by its `content`, which also says what part of the recording was used.

    For the sessions of an imported model the content is unknown, and empty: they are known by name.
    """

    content: str
    name: str
    user: str

    @classmethod
    def of(cls, session: Session) -> "Seen":
        """The entry of a session."""
        return cls(session.content, session.name, session.user)

    def matches(self, session: Session) -> bool:
        """Whether both are of the same recording: by content, or by name where that is unknown."""
        return self.content.partition(":")[0] == session.recording if self.content else self.name == session.name


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
        return self.joined(Ancestry(tuple(map(Seen.of, train)), tuple(map(Seen.of, val))))

    def joined(self, other: "Ancestry") -> "Ancestry":
        """The ancestry of a model that is made of this one and another."""
        trained_on = dict.fromkeys(self.trained_on + other.trained_on)
        validated_on = dict.fromkeys(self.validated_on + other.validated_on)
        return Ancestry(tuple(trained_on), tuple(validated_on), self.complete and other.complete)

    def seen(self, session: Session) -> Seen | None:
        """The entry of the session where any part of it trained the model."""
        return next((seen for seen in self.trained_on if seen.matches(session)), None)

    def refuse(self, sessions: Sequence[Session], *, unseen_users: bool = False) -> None:
        """Raise `EmgscribeError` if the model was trained on one of `sessions` or, with `unseen_users`, on its user.

        A session that was trained on in part is refused as a whole.
        """
        users = {seen.user: seen for seen in self.trained_on} if unseen_users else {}
        for session in sessions:
            if seen := self.seen(session):
                name = f", under the name {seen.name}" if seen.name != session.name else ""
                what = f"the model, or one that it was made from, was trained on this session{name}"
                hint = "choose held-out sessions; the model's config.json lists those that it was trained on"
                raise EmgscribeError(what, where=session.name, hint=hint)
            if seen := users.get(session.user):
                past = f"the model, or one that it was made from, was trained on session {seen.name}"
                what = f"user {session.user} is to be unseen, but {past} of this user"
                hint = "start from a model that was not trained on this user, or choose other data.test_users"
                raise EmgscribeError(what, where=session.name, hint=hint)
