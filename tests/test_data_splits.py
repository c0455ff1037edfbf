"""Splits by date and by published lists: what is picked from a folder, what is refused, what is remembered."""

import csv
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emgscribe.data import splits as module
from emgscribe.data.hdf5 import REAL_KEYS, SessionHeader, read_header, write_session
from emgscribe.data.splits import (
    DataConfig,
    Split,
    first_minutes,
    published_names,
    shared_users,
    split,
    split_sessions,
)
from emgscribe.errors import EmgscribeError

COURSE = DataConfig(protocol="course")
COURSE_USER = "89335547"


def record(folder: Path, user: str, name: str, *, samples: int = 4, simulation: str = "") -> Path:
    path = folder / f"{name}.hdf5"
    header = SessionHeader(name, user, "on_keyboard", 1e-3, (), (), simulation)
    random = np.random.default_rng([len(name), *name.encode()])
    write_session(path, header, np.arange(samples) / 2000, random.normal(size=(samples, 2, 16)).astype(np.float32))
    return path


def recorded(folder: Path, **days: int) -> dict[str, list[Path]]:
    """As many sessions of each user as `days`, in order of their dates."""
    return {
        user: [record(folder, user, f"2021-01-{day:02d}-{user}") for day in range(1, 1 + count)]
        for user, count in days.items()
    }


def test_sessions_are_split_by_date(tmp_path: Path) -> None:
    days = recorded(tmp_path, b=4, a=3)
    split = split_sessions(str(tmp_path))
    assert split.protocol == "latest"
    assert split.train == (days["a"][0], *days["b"][:2])
    assert split.val == (days["a"][1], days["b"][2])
    assert split.test == (days["a"][2], days["b"][3])


def test_users_and_sessions_are_chosen_by_number_and_date(tmp_path: Path) -> None:
    days = recorded(tmp_path, a=5, b=5, c=5)
    split = split_sessions(tmp_path, DataConfig(train_users=(0, 2), test_users=(1,), sessions=2))
    assert split.train == (*days["a"][1:3], *days["c"][1:3])
    assert split.val == (days["a"][3], days["c"][3])  # none of the test user's sessions, not even for validation
    assert split.test == (days["b"][4],)
    with pytest.raises(EmgscribeError, match=r"data.sessions is 4, but no user has more than 3 sessions to train on"):
        split_sessions(tmp_path, DataConfig(train_users=(1,), sessions=4))
    with pytest.raises(EmgscribeError, match=r"data.test_users names user 3, counted from 0, .* has 3 users"):
        split_sessions(tmp_path, DataConfig(test_users=(0, 3)))


def test_several_sessions_can_be_held_out_for_testing(tmp_path: Path) -> None:
    days = recorded(tmp_path, a=5, b=2)
    split = split_sessions(tmp_path, DataConfig(train_users=(0,), test_users=(0,), test_sessions=2))
    assert (split.train, split.val, split.test) == (tuple(days["a"][:2]), (days["a"][2],), tuple(days["a"][3:]))
    split = split_sessions(tmp_path, DataConfig(train_users=(0,), test_users=(1,), test_sessions=2))
    assert (split.val, split.test) == ((days["a"][2],), tuple(days["b"]))
    for user, count, needed in (("a", 5, 6), ("b", 2, 4)):
        chosen = DataConfig(train_users=(0,) if user == "a" else (1,), test_users=(1,), test_sessions=needed - 2)
        with pytest.raises(EmgscribeError, match=f"user {user} has {count} sessions; it takes {needed}: 1 to train"):
            split_sessions(tmp_path, chosen)
    with pytest.raises(EmgscribeError, match=r"data.test_sessions is 2, allowed: 1: the protocol course"):
        DataConfig(protocol="course", test_sessions=2)


def test_other_users_can_validate(tmp_path: Path) -> None:
    days = recorded(tmp_path, a=2, b=1, c=3)
    split = split_sessions(tmp_path, DataConfig(train_users=(0,), val_users=(1,), test_users=(2,)))
    assert split.train == tuple(days["a"])  # nobody else needs any of them
    assert (split.val, split.test) == (tuple(days["b"]), (days["c"][2],))
    split = split_sessions(tmp_path, DataConfig(train_users=(2, 0), val_users=(1,), test_users=(2,)))
    assert (split.train, split.val) == ((*days["c"][:2], *days["a"]), tuple(days["b"]))
    with pytest.raises(EmgscribeError, match="user a has 2 sessions; it takes 3: 1 to train, 1 to val"):
        split_sessions(tmp_path, DataConfig(train_users=(0,), val_users=(0,), test_users=(0,)))


def test_only_users_who_are_used_need_sessions(tmp_path: Path) -> None:
    days = recorded(tmp_path, enough=3, few=2)
    with pytest.raises(EmgscribeError, match="user few has 2 sessions; it takes 3: 1 to train, 1 to val"):
        split_sessions(tmp_path)
    split = split_sessions(tmp_path, DataConfig(train_users=(0,)))
    assert (split.train, split.val) == ((days["enough"][0],), (days["enough"][1],))
    assert split.test == (days["enough"][2], days["few"][1])
    with pytest.raises(EmgscribeError, match="user few"):
        split_sessions(tmp_path, DataConfig(train_users=(1,), test_users=(0,)))


def test_split_opens_the_sessions_that_it_picks(tmp_path: Path) -> None:
    for day in range(1, 5):
        record(tmp_path, "me", f"2021-01-0{day}", samples=3000)
    train, val, test = split(str(tmp_path))
    assert [session.name for session in train + val + test] == [f"2021-01-0{day}" for day in range(1, 5)]
    few, _, same = split(tmp_path, sessions=1, minutes=0.02)
    assert [(session.name, len(session)) for session in few] == [("2021-01-02", 2400)]
    assert same[0].content == test[0].content
    assert [len(session) for session in first_minutes(train, 0.03)] == [3000, 600]
    assert list(first_minutes(train, 0)) == train
    with pytest.raises(EmgscribeError, match=r"data\.protocol"):
        split(tmp_path, "user8")


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_users": (-1,)},
        {"test_users": (1, 1)},
        {"val_users": (0, 0)},
        {"sessions": -1},
        {"minutes": -5.0},
        {"minutes": float("nan")},
        {"test_users": (1,), "protocol": "user0"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EmgscribeError, match=f"data.{next(iter(wrong))}"):
        DataConfig(**wrong)


def listed() -> list[str]:
    """The published names of the course project's user."""
    with (module.PROTOCOLS / "sessions.csv").open(newline="") as file:
        return sorted(row["session"] for row in csv.DictReader(file) if row["user"] == COURSE_USER)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Small files under the published names of one user, and a list that has their sizes and hashes."""
    held_out = (module.PROTOCOLS / "held_out.csv").read_bytes()
    paths = [record(tmp_path / "data", COURSE_USER, name) for name in listed()]
    folder = tmp_path / "protocols"
    folder.mkdir()
    with (folder / "sessions.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("user", "session", "bytes", "sha256"))
        for path in paths:
            content = path.read_bytes()
            lines.writerow((COURSE_USER, path.stem, len(content), hashlib.sha256(content).hexdigest()))
    (folder / "held_out.csv").write_bytes(held_out)
    monkeypatch.setattr(module, "PROTOCOLS", folder)
    return paths


def names(split: Split) -> tuple[list[str], list[str], list[str]]:
    train, val, test = ([read_header(path).name for path in part] for part in (split.train, split.val, split.test))
    return train, val, test


def test_published_sessions_are_picked_whatever_their_dates_and_file_names(published: list[Path]) -> None:
    folder = published[0].parent
    record(folder, "another", "of another user")
    split = split_sessions(folder, COURSE)
    train, val, test = names(split)
    assert split.protocol == "course"
    assert (len(train), len(val), len(test)) == (16, 1, 1)
    assert sorted(train + val + test) == listed()
    assert train == sorted(train)
    assert "2021-06-02" in test[0]
    assert "2021-06-04" in val[0]
    assert names(split_sessions(folder, replace(COURSE, sessions=3))) == (train[-3:], val, test)
    renamed = published[3].rename(published[3].with_name("copy (1).hdf5"))
    (folder / "broken.hdf5").write_text("of no concern")
    split = split_sessions(folder, COURSE)
    assert names(split) == (train, val, test)  # a renamed file is known by the name in it
    assert renamed in split.train + split.val + split.test


def test_all_differences_from_the_published_list_are_named_in_one_error(published: list[Path]) -> None:
    folder = published[0].parent
    split_sessions(folder, COURSE)  # all hashes match and are remembered; what changes now must be seen
    for path in published[2:4]:
        path.unlink()
    size = published[5].stat().st_size
    with published[5].open("ab") as file:
        file.write(b"more")
    content = bytearray(published[7].read_bytes())
    content[-1] ^= 1
    published[7].write_bytes(content)
    with pytest.raises(EmgscribeError, match="4 of the 18 sessions of the protocol course") as caught:
        split_sessions(folder, COURSE)
    faults = {line.split(": ")[0].strip(): line.split(": ")[1][:14] for line in caught.value.what.splitlines()[1:]}
    wrong = {2: "missing", 3: "missing", 5: f"{size + 4:,} bytes instead of"[:14], 7: "its SHA-256 is"}
    assert faults == {published[number].stem: fault for number, fault in wrong.items()}
    assert caught.value.where == str(folder)
    assert "--" not in caught.value.hint  # not every command has the same options


def test_a_hash_is_computed_once_until_the_file_changes(published: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    split_sessions(published[0].parent, COURSE)
    read: list[str] = []
    real = hashlib.file_digest

    def watched(file: object, kind: str) -> object:
        read.append(Path(file.name).stem)
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    split_sessions(published[0].parent, COURSE)
    assert read == []
    os.utime(published[3], ns=(0, 123))
    split_sessions(published[0].parent, COURSE)
    assert read == [published[3].stem]


def test_simulated_sessions_are_split_by_date_and_others_are_not(tmp_path: Path) -> None:
    for day in range(1, 4):
        record(tmp_path, "1", f"2021-01-0{day}", simulation="{}")
    assert split_sessions(tmp_path, COURSE) == split_sessions(tmp_path)
    path = record(tmp_path, "1", listed()[0], simulation="{}")  # a published name, but not the published file
    with pytest.raises(EmgscribeError, match="18 of the 18 sessions of the protocol course") as caught:
        split_sessions(tmp_path, COURSE)
    assert f"{path.stem}: {path.stat().st_size:,} bytes instead of" in caught.value.what
    assert f"{listed()[1]}: missing" in caught.value.what
    path.unlink()
    record(tmp_path, "1", "mine")
    with pytest.raises(EmgscribeError, match="18 of the 18"):
        split_sessions(tmp_path, COURSE)


def test_published_protocols_apply_to_simulated_emg_under_real_keys(tmp_path: Path) -> None:
    starts = {name: name.split("-")[3] for name in listed()}

    def under_keys(user: str, start: str) -> Path:
        name = f"2021-01-01-{start}-simulated-emg-{user}"  # as simulate_key_logs names them, apart from the date
        return record(tmp_path, user, name, simulation=json.dumps({"about": REAL_KEYS}))

    made = {name: under_keys(COURSE_USER, start) for name, start in starts.items()}
    for user, start in (("1", starts[listed()[0]]), (COURSE_USER, "1999999999")):
        under_keys(user, start)  # neither user nor start alone is enough
    parts = {part: [made[name] for name, _ in published_names("course", part)] for part in ("train", "val", "test")}
    assert split_sessions(tmp_path, COURSE) == Split("course", *(tuple(paths) for paths in parts.values()))
    (renamed,) = (path.rename(tmp_path / "renamed.hdf5") for path in parts["test"])
    assert split_sessions(tmp_path, COURSE).test == (renamed,)  # known by the name in it
    renamed.unlink()
    with pytest.raises(EmgscribeError, match=r"1 of the 18 sessions of the protocol course(.|\n)*missing") as caught:
        split_sessions(tmp_path, COURSE)
    assert "key logs" in caught.value.hint
    record(tmp_path, COURSE_USER, "recorded")  # among recordings only the published files count
    with pytest.raises(EmgscribeError, match="18 of the 18"):
        split_sessions(tmp_path, COURSE)


def own_split(path: Path, *rows: str) -> DataConfig:
    path.write_text("session,partition\n" + "".join(f"{row}\n" for row in rows))
    return DataConfig(split=str(path))


def test_a_split_file_assigns_the_sessions(tmp_path: Path) -> None:
    folder = [record(tmp_path / "data", "user", name) for name in "abcd"][-1].parent
    chosen = own_split(tmp_path / "own.csv", "c,train", "a.hdf5,val", "d,test")
    found = split_sessions(folder, chosen)
    names = tuple([path.stem for path in part] for part in found[1:])
    assert (found.protocol, names) == ("file", (["c"], ["a"], ["d"]))
    assert shared_users(found) == ["user"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,train", "b,val", "a,test"], "line 4: 'a' is in train already"),
        (["a,train", "x,val"], "line 3: 'x' is not a session of the folder"),
        (["a,teach"], "line 2: 'a' is in 'teach', not train, val or test"),
        (["a"], "not train, val or test"),
        (["a,train", "b,val"], "names no session for test"),
        ([], "names no session for train, val, test"),
        (['a,"train'], "unexpected end of data"),
    ],
)
def test_a_faulty_split_file_gives_one_error(rows: list[str], message: str, tmp_path: Path) -> None:
    folder = [record(tmp_path / "data", "user", name) for name in "abc"][-1].parent
    with pytest.raises(EmgscribeError, match=message) as caught:
        split_sessions(folder, own_split(tmp_path / "own.csv", *rows))
    assert caught.value.where == str(tmp_path / "own.csv")
    with pytest.raises(EmgscribeError, match="no such file"):
        split_sessions(folder, DataConfig(split=str(tmp_path / "missing.csv")))
    with pytest.raises(EmgscribeError, match=r"data\.split"):
        DataConfig(split="own.csv", sessions=3)
