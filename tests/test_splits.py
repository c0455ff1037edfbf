from pathlib import Path

import numpy as np
import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.session import SessionHeader, write_session
from emgscribe.splits import split_latest


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
