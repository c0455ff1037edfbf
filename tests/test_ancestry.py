"""What a model has seen: what is recorded, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.config import from_json, to_json
from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry, Seen

MakeStored = Callable[..., Session]
NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(NAMES, NAMES, NAMES, NAMES)
def test_ancestries_accumulate_and_refuse_exactly_the_training_sessions(
    make_stored: MakeStored, first: list[str], second: list[str], val: list[str], test: list[str]
) -> None:
    def sessions(names: list[str]) -> list[Session]:
        return [make_stored(10, name=name) for name in names]

    parent = Ancestry().after(sessions(first), sessions(val))
    child = parent.after(sessions(second), [])
    assert [seen.name for seen in child.trained_on] == list(dict.fromkeys(first + second))
    assert [seen.name for seen in child.validated_on] == val
    assert from_json(Ancestry, to_json(child), where="test") == child
    leaked = [name for name in test if name in first + second]
    if not leaked:
        child.refuse(sessions(test))
        return
    with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
        child.refuse(sessions(test))
    assert caught.value.where == leaked[0]
    assert caught.value.hint


def test_a_session_is_recognized_by_its_content_or_a_part_of_it(make_stored: MakeStored) -> None:
    session = make_stored(2000, name="monday")
    renamed = replace(session, name="tuesday")
    for trained, scored in ((session, renamed), (session.first(500), renamed), (session, renamed.first(500))):
        with pytest.raises(EmgscribeError, match="under the name monday") as caught:
            Ancestry().after([trained], []).refuse([scored])
        assert caught.value.where == "tuesday"
    other = replace(session, content="other")
    Ancestry().after([other], [session]).refuse([session])  # another one of that name; and validation is not training
    imported = Ancestry((Seen("", "monday", "user"),))  # its content is unknown
    assert imported.seen(session.first(500)) == imported.trained_on[0]
    assert imported.seen(renamed) is None
    child = Ancestry(complete=False).after([session.first(500)], [])
    assert child == Ancestry((Seen(f"{session.content}:500", "monday", "user"),), complete=False)


def test_users_seen_in_training_are_refused_where_users_must_be_unseen(make_stored: MakeStored) -> None:
    trained = replace(make_stored(name="monday"), user="ann")
    later, stranger = (replace(make_stored(name="friday"), content=user, user=user) for user in ("ann", "bob"))
    ancestry = Ancestry().after([trained], [replace(stranger, content="validation")])
    ancestry.refuse([later, stranger])
    ancestry.refuse([stranger], unseen_users=True)
    with pytest.raises(EmgscribeError, match=r"user ann is to be unseen.*session monday") as caught:
        ancestry.refuse([stranger, later], unseen_users=True)
    assert caught.value.where == "friday"
