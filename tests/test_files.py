import errno
import math
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.files import damage_reported, exclusive, holder, make_folder, read_json, replacing, write_json


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


def test_an_error_says_what_where_and_hint() -> None:
    error = EmgscribeError("is empty", where="a.hdf5", hint="copy it again")
    assert str(error) == "a.hdf5: is empty\n  hint: copy it again"
    assert str(EmgscribeError("is empty")) == "is empty"
    again = pickle.loads(pickle.dumps(error))
    assert (again.what, again.where, again.hint, str(again)) == ("is empty", "a.hdf5", "copy it again", str(error))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\nlines"), "is damaged (ValueError: two lines)"),
        (RuntimeWarning("bytes"), "is damaged (RuntimeWarning: bytes)"),
        (EmgscribeError("is ours"), "is ours"),
    ],
)
def test_an_exception_of_a_library_becomes_one_error(error: Exception, message: str, room: Path) -> None:
    (room / "a").touch()
    with pytest.raises(EmgscribeError) as caught, damage_reported(room / "a"):
        raise error
    assert caught.value.what == message


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be bounded under Linux")
def test_a_library_cannot_take_any_amount_of_memory(room: Path) -> None:
    import resource

    (room / "a").touch()
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(EmgscribeError, match="far more memory than its size"), damage_reported(room / "a"):
        bytes(3 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with damage_reported(room / "a"):
        assert len(bytes(1 << 29)) == 1 << 29
    with ThreadPoolExecutor(4) as pool:

        def read(number: int) -> None:
            with damage_reported(room / "a"):
                sleep(0.01 * (number % 3))

        list(pool.map(read, range(12)))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def make(path: Path, content: str, error: BaseException | None = None) -> None:
    """Write a folder with one file of this name, and fail before it is complete."""
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / content).write_text(content)
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_failure_leaves_nothing_but_the_old_file(room: Path, error: BaseException) -> None:
    (room / "a").write_text("old")
    for path in (room / "a", room / "b"):
        with pytest.raises(type(error)):
            make(path, "half", error)
    assert (names(room), (room / "a").read_text()) == (["a"], "old")


def test_a_folder_is_replaced_whole(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(room / "model", "one")
    make(room / "model", "two")
    assert (names(room / "model"), names(room)) == (["two"], ["model"])
    rename = os.replace

    def fails_on_the_new_one(source: Path, target: Path) -> None:
        if (source / "three").exists():
            full_disk()
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails_on_the_new_one)
    with pytest.raises(EmgscribeError, match="No space left"):
        make(room / "model", "three")
    assert (names(room / "model"), names(room)) == (["two"], ["model"])


def test_an_interrupt_between_the_renames_keeps_the_old_folder(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(room / "model", "one")
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name == ".old":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(room / "model", "two")
    assert (names(room / "model"), names(room)) == (["one"], ["model"])


def test_a_folder_with_other_things_in_it_is_not_replaced(room: Path) -> None:
    make(room / "model", "config.json")
    (room / "model" / ".DS_Store").touch()
    with replacing(room / "model", ("config.*",)) as temporary:
        temporary.mkdir()
        (temporary / "config.json").write_text("new")
    (room / "model" / "thesis.txt").write_text("mine")
    other = pytest.raises(EmgscribeError, match=r"other things \(thesis\.txt\), which would be lost")
    with other, replacing(room / "model", ("config.*",)) as temporary:
        temporary.mkdir()
    assert (room / "model" / "thesis.txt").read_text() == "mine"
    with pytest.raises(EmgscribeError, match="is a file, and would become a folder"):
        make(room / "model" / "thesis.txt", "one")
    assert (room / "model" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("place", [(Path, "write_text"), (os, "replace"), (Path, "mkdir")])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(
    room: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str]
) -> None:
    path = room / "a.json"
    write_json(path, [1])
    monkeypatch.setattr(*place, full_disk)
    with pytest.raises(EmgscribeError, match="No space left on device") as caught:
        write_json(path, [2])
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert read_json(path) == [1]
    assert names(room) == ["a.json"]


def test_a_device_or_a_pipe_is_not_written_over(room: Path) -> None:
    os.mkfifo(room / "pipe")
    (room / "link").symlink_to("/dev/null")
    for path in (room / "pipe", room / "link"):
        with pytest.raises(EmgscribeError, match="device or a pipe"):
            write_json(path, [])
    assert names(room) == ["link", "pipe"]
    assert (room / "link").is_char_device()


WRITER = """
import os, sys
from pathlib import Path
from emgscribe.files import replacing

if sys.argv[2] == "between renames":
    rename = os.replace
    os.replace = lambda source, target: rename(source, target) if target.name == ".old" else os._exit(9)
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "new").touch()
    if sys.argv[2] == "while writing":
        os._exit(9)
"""


@pytest.mark.parametrize(("killed", "left"), [("while writing", ["old"]), ("between renames", ["new"])])
def test_the_next_writer_removes_what_a_killed_one_left(room: Path, killed: str, left: list[str]) -> None:
    make(room / "model", "old")
    subprocess.run([sys.executable, "-c", WRITER, str(room / "model"), killed], check=False)
    assert len(names(room)) + (killed == "between renames") == 2
    with replacing(room / "other") as temporary:
        temporary.touch()
        write_json(room / "a.json", [])  # what a living process is writing stays
    assert names(room) == ["a.json", "model", "other"]
    assert names(room / "model") == left


def test_an_interrupt_while_the_temporary_name_is_made_leaves_nothing(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def interrupted(path: Path, *args: Any, **kwargs: Any) -> None:
        mkdir(path, *args, **kwargs)
        if path.name.startswith("."):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(room / "a.json", [])
    assert names(room) == []


def test_json_is_readable_and_strict(room: Path) -> None:
    content = {"text": "a⌫⏎ ⇧", "numbers": [1, 2.5, None, True]}
    write_json(room / "deep" / "a.json", content)
    assert read_json(room / "deep" / "a.json") == content
    assert "a⌫⏎ ⇧" in (room / "deep" / "a.json").read_text(encoding="utf-8")
    assert names(room / "deep") == ["a.json"]
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(room / "b.json", {"cer": [number]})
    assert names(room) == ["deep"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1,\n "b": }',
        b"",
        b"\xff\xfe",
        b"[1, 2",
        b"[NaN]",
        b"[1e999]",
        b'{"a": 1, "a": 1}',
        b'["\\ud800"]',
        b'["\\u001b[31m"]',
        b'{"\\n": 1}',
        '["\x9b31m"]'.encode(),
        b"[" * 100_000,
        b"[" + b"1" * 9999 + b"]",
    ],
)
def test_json_that_is_broken_missing_or_too_large_is_refused(room: Path, content: bytes) -> None:
    path = room / "a.json"
    path.write_bytes(content)
    with pytest.raises(EmgscribeError, match="not valid JSON") as caught:
        read_json(path)
    assert caught.value.where == str(path)
    assert b"\n" not in content or "line 2" in caught.value.what
    with pytest.raises(EmgscribeError, match="no such file"):
        read_json(room / "none.json")
    with pytest.raises(EmgscribeError, match="null byte"):
        read_json(room / "a\0b")
    path.write_bytes(b'["\\ud83d\\ude00"]')
    assert read_json(path) == ["\U0001f600"]
    os.truncate(path, 1 << 40)
    with pytest.raises(EmgscribeError, match="more than 16 MB"):
        read_json(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_pipes_devices_and_folders_are_refused_not_read(room: Path) -> None:
    os.mkfifo(room / "fifo")
    (room / "link").symlink_to("fifo")
    (room / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "link", "zero", "."):
        with pytest.raises(EmgscribeError, match="is not a file"):
            read_json(room / name)


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    holding = "from pathlib import Path\nfrom emgscribe.files import exclusive\n"
    holding += f"with exclusive(Path({str(folder)!r}), 'works here'): print('held', flush=True); input()"
    assert not holder(folder)
    with subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert holder(folder).startswith(f"{process.pid} on ")
        named = rf"another process \({process.pid} on .+\)"
        with pytest.raises(EmgscribeError, match=f"{named} works here") as caught, exclusive(folder, "works here"):
            pytest.fail("held twice")
        assert caught.value.where == str(folder)
        lines: list[str] = []

        def wait(line: str) -> None:
            lines.append(line)
            process.kill()  # this frees the folder just as a normal exit does

        with exclusive(folder, "works here", wait), exclusive(folder, "works here"):
            assert re.fullmatch(f"waiting for {named}, which works here: {folder}", *lines)
            assert holder(folder).startswith(f"{os.getpid()} on ")
        assert not holder(folder)


def test_folders_and_files_that_cannot_be_made_give_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(EmgscribeError, match="cannot be used"), exclusive(path, "works here"):
            pytest.fail("held a path that is not a folder")
        with pytest.raises(EmgscribeError, match="cannot be used"):
            make_folder(path)
    for path in (tmp_path / "file" / "a.json", tmp_path):  # below a file, and in the place of a folder
        with pytest.raises(EmgscribeError, match="cannot be written"):
            write_json(path, [])
