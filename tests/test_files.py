import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.files import alone, read_json, replacing, write_json


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden names too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "room").mkdir()
    return tmp_path / "room"


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_success_leaves_the_file_and_nothing_else(room: Path) -> None:
    with replacing(room / "deep" / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (room / "deep" / "a.txt").exists()
    assert (room / "deep" / "a.txt").read_text() == "new"
    assert names(room / "deep") == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_failure_leaves_nothing(room: Path, error: BaseException) -> None:
    def fail() -> None:
        with replacing(room / "a") as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(room) == []


def test_failure_keeps_the_old_file(room: Path) -> None:
    (room / "a.txt").write_text("old")

    def fail() -> None:
        with replacing(room / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (room / "a.txt").read_text() == "old"
    assert names(room) == ["a.txt"]


def test_a_folder_is_replaced_whole(room: Path) -> None:
    for content in ("one", "two"):
        with replacing(room / "model") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert names(room / "model") == ["two"]
    assert names(room) == ["model"]


@pytest.mark.parametrize("folder", [False, True])
def test_without_overwrite_the_first_to_finish_is_kept(room: Path, folder: bool) -> None:
    def make(path: Path, content: str) -> None:
        if folder:
            path.mkdir()
        (path / "x" if folder else path).write_text(content)

    with replacing(room / "entry", overwrite=False) as temporary:
        make(temporary, "second")
        make(room / "entry", "first")  # another process comes in between
    assert (room / "entry" / "x" if folder else room / "entry").read_text() == "first"
    assert names(room) == ["entry"]


def test_without_overwrite_a_new_name_is_written(room: Path) -> None:
    with replacing(room / "entry", overwrite=False) as temporary:
        temporary.write_text("first")
    assert (room / "entry").read_text() == "first"


def test_without_overwrite_a_race_lost_at_the_last_moment_is_no_error(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "x").write_text("first")
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with replacing(room / "entry", overwrite=False) as temporary:
        temporary.mkdir()
        (temporary / "x").write_text("second")
    assert (room / "entry" / "x").read_text() == "first"
    assert names(room) == ["entry"]


def test_a_file_does_not_replace_a_folder(room: Path) -> None:
    (room / "a").mkdir()
    with pytest.raises(EmgscribeError, match="cannot be written"), replacing(room / "a") as temporary:
        temporary.write_text("file")
    assert names(room) == ["a"]


def test_a_full_disk_names_the_file_and_keeps_the_old_one(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = room / "a.json"
    write_json(path, [1])
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(EmgscribeError, match="No space left on device") as caught:
        write_json(path, [2])
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert read_json(path) == [1]
    assert names(room) == ["a.json"]


def test_a_full_disk_at_the_rename_and_before_the_start(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full_disk)
        with pytest.raises(EmgscribeError, match="No space left"):
            write_json(room / "a.json", [])
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkdtemp", full_disk)
        with pytest.raises(EmgscribeError, match="No space left"):
            write_json(room / "a.json", [])
    assert names(room) == []


def test_a_parent_that_is_a_file_is_an_error_of_ours(room: Path) -> None:
    (room / "file").write_text("")
    with pytest.raises(EmgscribeError, match="cannot be written"):
        write_json(room / "file" / "a.json", [])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_json_has_not(room: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(room / "a.json", {"cer": [number]})
    assert names(room) == []


def test_json_round_trip_keeps_unicode_readable(room: Path) -> None:
    content = {"text": "a⌫⏎ ⇧", "numbers": [1, 2.5, None, True]}
    write_json(room / "a.json", content)
    assert read_json(room / "a.json") == content
    assert "a⌫⏎ ⇧" in (room / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b'{"a": 1,\n "b": }', b"", b"\xff\xfe", b"[1, 2"])
def test_broken_json_is_an_error_of_ours(room: Path, content: bytes) -> None:
    path = room / "a.json"
    path.write_bytes(content)
    with pytest.raises(EmgscribeError, match="not valid JSON") as caught:
        read_json(path)
    assert caught.value.where == str(path)


def test_broken_json_names_the_line(room: Path) -> None:
    (room / "a.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(EmgscribeError, match="line 2"):
        read_json(room / "a.json")


def test_missing_json(room: Path) -> None:
    with pytest.raises(EmgscribeError, match="no such file"):
        read_json(room / "none.json")


def test_a_folder_is_held_by_one_and_free_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    busy = pytest.raises(EmgscribeError, match="another process works here")
    with alone(folder, "works here"), busy as caught, alone(folder, "works here"):
        pytest.fail("held twice")
    assert caught.value.where == str(folder)
    with alone(folder, "works here"):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmgscribeError, match="cannot be used"), alone(tmp_path / "file", "works here"):
        pytest.fail("held what is no folder")
