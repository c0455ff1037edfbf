from pathlib import Path

import numpy as np
import pytest

from emgscribe.data.hdf5 import SessionHeader, write_session
from emgscribe.data.splits import DataConfig, split_latest
from emgscribe.errors import EmgscribeError


def record(folder: Path, user: str, day: int) -> Path:
    path = folder / f"2021-01-{day:02d}-{user}.hdf5"
    header = SessionHeader(path.stem, user, "on_keyboard", 1e-3, (), ())
    write_session(path, header, np.arange(4) / 2000, np.zeros((4, 2, 16), dtype=np.float32))
    return path


def test_latest_tests_the_one_before_validates(tmp_path: Path) -> None:
    days = {
        user: [record(tmp_path, user, day) for day in days]
        for user, days in {"b": (4, 1, 3, 2), "a": (9, 5, 7)}.items()
    }
    split = split_latest(tmp_path)
    assert set(split.test) == {days["b"][0], days["a"][0]}
    assert set(split.val) == {days["b"][2], days["a"][2]}
    assert set(split.train) == {days["b"][1], days["b"][3], days["a"][1]}


def test_a_user_with_two_sessions_is_named(tmp_path: Path) -> None:
    for user, days in {"enough": (1, 2, 3), "short": (1, 2)}.items():
        for day in days:
            record(tmp_path, user, day)
    with pytest.raises(EmgscribeError, match="user short has 2 of the 3 sessions"):
        split_latest(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match="holds no session"):
        split_latest(tmp_path)


def recorded(folder: Path) -> dict[str, list[Path]]:
    return {user: [record(folder, user, day) for day in range(1, 6)] for user in ("a", "b", "c")}


def test_users_and_sessions_are_chosen_by_place_and_date(tmp_path: Path) -> None:
    days = recorded(tmp_path)
    split = split_latest(tmp_path, DataConfig(train_users=(0, 2), test_users=(1,), sessions=2))
    assert split.train == (*days["a"][1:3], *days["c"][1:3])
    assert split.val == (days["a"][3], days["c"][3])  # nothing of the user who tests, not even to choose a model by
    assert split.test == (days["b"][4],)


def test_no_session_has_two_parts_whatever_is_chosen(tmp_path: Path) -> None:
    recorded(tmp_path)
    for data in (DataConfig(), DataConfig(train_users=(1,), sessions=1), DataConfig(sessions=9)):
        split = split_latest(tmp_path, data)
        assert len({*split.train, *split.val, *split.test}) == len(split.train + split.val + split.test)


def test_a_user_whom_the_folder_lacks(tmp_path: Path) -> None:
    recorded(tmp_path)
    with pytest.raises(EmgscribeError, match=r"data.test_users asks for user 3, counted from 0, and there are 3"):
        split_latest(tmp_path, DataConfig(test_users=(0, 3)))


@pytest.mark.parametrize(
    "wrong",
    [{"train_users": (-1,)}, {"test_users": (1, 1)}, {"sessions": -1}, {"minutes": -5.0}, {"minutes": float("nan")}],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(EmgscribeError, match=f"data.{next(iter(wrong))}"):
        DataConfig(**wrong)
