"""Sessions as views of their files: the samples bit for bit, labels, the cache, and what is refused."""

import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data import cache as cache_module
from emgscribe.data import hdf5
from emgscribe.data import session as module
from emgscribe.data.cache import default_cache
from emgscribe.data.charset import labels_of_text
from emgscribe.data.hdf5 import SessionFile
from emgscribe.data.inspect import inspect
from emgscribe.data.reader import convert_rows
from emgscribe.data.session import Session, open_session, open_sessions
from emgscribe.data.shape import Shape
from emgscribe.data.windows import Store
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
MakeStored = Callable[..., Session]
START = 1_600_000_000.0


def entries(cache: Path) -> set[str]:
    """Every name in the cache's folder of sessions, hidden ones too."""
    return {path.name for path in (cache / "sessions").glob("*")}


ROW = Shape().row
WIDER = np.dtype([("extra", "<f4"), *((name, ROW[name]) for name in reversed(ROW.names or ()))])
LAYOUTS: list[dict[str, Any]] = [{"chunks": (100,)}, {"compression": "gzip"}, {"dtype": WIDER}]


def lay_out(path: Path, **options: Any) -> None:
    """Store the rows of a session in another way."""
    with h5py.File(path, "r+") as file:
        rows = file["emg2qwerty/timeseries"][:]
        del file["emg2qwerty/timeseries"]
        stored = np.zeros(len(rows), options.get("dtype", ROW))
        for name in ROW.names or ():
            stored[name] = rows[name]
        file["emg2qwerty"].create_dataset("timeseries", data=stored, **options)


def same_as_in_file(session: Session, path: Path) -> None:
    with SessionFile(path) as file:
        _, expected = file.read()
    assert session.emg.dtype == expected.dtype == np.float32
    assert np.asarray(session.emg).tobytes() == expected.tobytes()


def test_samples_are_a_view_of_the_file(make_session: Make, isolated_cache: Path) -> None:
    path = make_session("n", samples=5000, keys=[("Key.shift", 0.1), ("Key.tab", 0.15), ("A", 0.2)])
    session = open_session(str(path))
    same_as_in_file(session, path)
    assert isinstance(session.emg, np.memmap)
    assert Path(session.emg.filename) == path.resolve()
    assert (session.name, session.user, session.simulated, len(session)) == ("n", "user", False, 5000)
    assert session.labels.tolist() == labels_of_text("⇧A")
    assert session.onsets.tolist() == [200, 400]
    assert session.labels.dtype == session.onsets.dtype == np.int64
    assert repr(session) == "<Session n: user user, 0.0 min, 2 keys>"
    (entry,) = (isolated_cache / "sessions").glob("*/*")
    assert entry.stat().st_size < path.stat().st_size / 100
    before = path.read_bytes()
    torch.from_numpy(session.emg).mul_(7)  # a warning, such as of an array that is not writable, is an error here
    assert path.read_bytes() == before
    simulated = open_session(make_session(simulation="{}", keys=[]))
    assert simulated.simulated
    assert repr(simulated).endswith("0 keys, simulated>")


@pytest.mark.parametrize("options", LAYOUTS)
def test_rows_that_cannot_be_mapped_are_converted_once(make_session: Make, isolated_cache: Path, options: Any) -> None:
    path = make_session()
    content = open_session(path).content
    lay_out(path, **options)
    session = open_session(path)
    same_as_in_file(session, path)
    assert session.content == content
    found = [finding.message for finding in inspect(path)[0].findings]
    assert found == ["140 bytes a sample, expected 136"] * ("dtype" in options)
    (copy,) = (isolated_cache / "sessions").glob("*/rows")
    assert copy.stat().st_size == 136 * 2000
    assert Path(session.emg.filename) == copy
    for damage in (lambda: copy.write_bytes(copy.read_bytes()[:-4]), copy.unlink):
        damage()
        same_as_in_file(open_session(path), path)  # written again
    written = copy.stat().st_mtime_ns
    same_as_in_file(open_session(path), path)
    assert copy.stat().st_mtime_ns == written


@pytest.mark.parametrize("samples", [20_000, 0])
def test_rows_are_converted_once_and_a_refused_file_leaves_no_copy(
    make_session: Make, monkeypatch: pytest.MonkeyPatch, isolated_cache: Path, samples: int
) -> None:
    path = make_session(samples=samples, keys=[])
    lay_out(path, dtype=WIDER)
    converted: list[Path] = []
    monkeypatch.setattr(hdf5, "convert_rows", lambda *paths: (converted.append(path), convert_rows(*paths)))
    if samples:
        same_as_in_file(open_session(path), path)
        assert len(converted) == 2  # the second by the comparison
    else:
        refused(path, isolated_cache, "no samples")


@pytest.mark.skipif(os.name != "posix", reason="file size limits are set through POSIX")
def test_a_disk_without_room_for_a_converted_copy_gives_one_error(make_session: Make, isolated_cache: Path) -> None:
    """A limit on the size of files stands in for the full disk, in another process."""
    path = make_session(samples=20_000)
    lay_out(path, chunks=(100,))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    command = f"{limit} from emgscribe import open_session; open_session(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", command, str(path)], capture_output=True, text=True)
    assert "cannot be written (File too large)" in done.stderr
    assert entries(isolated_cache) == set()


def test_rows_at_an_unaligned_byte_are_converted(make_session: Make, isolated_cache: Path) -> None:
    path = make_session()
    with h5py.File(path) as file:
        rows = file["emg2qwerty/timeseries"]
        rows, offset, content = rows[:], rows.id.get_offset(), path.read_bytes()
    place = content.index(struct.pack("<Q", offset))  # the address of the rows, in the file's own bookkeeping
    odd = len(content) + 1 - len(content) % 2
    moved = bytearray(content.ljust(odd, b"\0") + rows.tobytes())
    moved[place : place + 8] = struct.pack("<Q", odd)
    end = content.index(struct.pack("<Q", len(content)))  # where the file ends
    moved[end : end + 8] = struct.pack("<Q", len(moved))
    path.write_bytes(moved)
    session = open_session(path)
    same_as_in_file(session, path)
    assert isolated_cache in Path(session.emg.filename).parents


@pytest.mark.parametrize("options", [{}, LAYOUTS[1]])
def test_a_cache_that_cannot_be_written_is_no_obstacle(make_session: Make, tmp_path: Path, options: Any) -> None:
    path = make_session()
    lay_out(path, **options)
    (tmp_path / "file").write_text("a file where the cache should be")
    session = open_sessions([path], tmp_path / "file")[0]
    same_as_in_file(session, path)
    assert session.content == open_session(path).content


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.lists(st.floats(-3, 160), max_size=12))
def test_onsets_match_brute_force(make_session: Make, steps: list[int], starts: list[float]) -> None:
    times = np.cumsum(steps) / 256  # exact in binary, so that keys fall on samples too
    keys = [("abcdefghijkl"[i], round(start) / 256 if i % 2 else start / 256) for i, start in enumerate(starts)]
    path = make_session(times=START + times, emg=np.arange(32.0 * len(times)).reshape(-1, 2, 16), keys=keys)
    expected = []
    for key, at in sorted(keys, key=lambda pair: START + pair[1]):
        first = next((i for i, time in enumerate(START + times) if time >= START + at), None)
        if first is not None and START + at >= START + times[0]:  # keys outside the recording are dropped
            expected.append((labels_of_text(key)[0], first))
    session = open_session(path)
    assert list(zip(session.labels.tolist(), session.onsets.tolist(), strict=True)) == expected


def test_first_returns_the_beginning_of_a_session(make_session: Make) -> None:
    session = open_session(make_session(samples=1000))
    part = session.first(600)
    assert (len(part), part.text, part.content) == (600, "h", f"{session.content}:600")
    assert np.array_equal(part.emg, session.emg[:600])
    assert session.first(1000) is session


def test_a_session_travels_to_another_process_without_its_samples(
    make_session: Make, make_stored: MakeStored, tmp_path: Path, isolated_cache: Path
) -> None:
    for session in (open_session(make_session(samples=50_000)).first(40_000), make_stored(100, [(3, 5)])):
        sent = pickle.dumps(session)
        received = pickle.loads(sent)
        assert np.array_equal(received.emg, session.emg)
        assert received.labels.tolist() == session.labels.tolist()
        assert (received.content, received.path) == (session.content, session.path)
        assert len(sent) < 20_000
    lay_out(path := make_session("zipped", samples=50_000), compression="gzip")
    zipped, before = open_session(path, tmp_path / "own"), entries(isolated_cache)
    assert np.array_equal(pickle.loads(pickle.dumps(zipped)).emg, zipped.emg)
    assert entries(isolated_cache) == before  # it is not converted again, for another cache


def test_the_cache_is_used_and_its_folder_can_be_chosen(
    make_session: Make, tmp_path: Path, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_session()
    first = open_session(path, tmp_path / "named")
    assert len(entries(tmp_path / "named")) == 1
    assert not isolated_cache.exists()
    monkeypatch.setattr(module, "SessionFile", None)  # reading the file again would fail
    second = open_session(path, tmp_path / "named")
    assert np.array_equal(first.emg, second.emg)
    assert (first.content, first.text) == (second.content, second.text)
    assert default_cache() == isolated_cache
    monkeypatch.delenv("EMGSCRIBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/emgscribe")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "emgscribe"


def test_a_file_changed_in_place_is_read_again_and_an_older_copy_keeps_its_content(
    make_session: Make, isolated_cache: Path
) -> None:
    path = make_session()
    copy = Path(shutil.copy2(path, path.with_name("copy.hdf5")))
    before = open_session(path)
    content = bytearray(path.read_bytes())
    with h5py.File(path, "r") as file:
        offset = file["emg2qwerty/timeseries"].id.get_offset()
    content[offset + 136 * 2000 - 4 : offset + 136 * 2000] = bytes(4)  # the last value; size and start stay
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after, copied = open_session(path), open_session(copy)
    same_as_in_file(after, path)
    assert after.content != before.content == copied.content
    assert len(entries(isolated_cache)) == 2


@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=3))
def test_a_damaged_cache_entry_is_rebuilt(make_session: Make, isolated_cache: Path, place: float, other: bytes) -> None:
    session = open_session(make_session())
    (entry,) = (isolated_cache / "sessions").glob("*/entry")
    content = entry.read_bytes()
    at = int(place * len(content))
    shorter = content.removesuffix(session.onsets[-1:].tobytes())  # well-formed, but not what was written
    assert shorter != content
    for damaged in (content[:at] + other + content[at + len(other) + 1 :], content[:at], shorter, b"[" * 100_000):
        entry.write_bytes(damaged)
        again = open_session(session.path or "")
        assert (again.content, again.text, again.name, len(again)) == (session.content, "hi", "session", 2000)
        assert again.onsets.tolist() == session.onsets.tolist()
    assert entry.read_bytes() == content


def test_the_cache_keeps_nothing_of_files_that_are_gone(make_session: Make, isolated_cache: Path) -> None:
    paths = [make_session(name) for name in "abc"]
    assert [session.path for session in open_sessions(str(paths[0].parent))] == paths
    paths[0].unlink()
    folder, own = isolated_cache / "sessions", "of someone who keeps files there"
    for name in ("0123456789abcdef/entry", "mine/entry"):
        (folder / name).parent.mkdir()
        (folder / name).write_text(own)
    cache_module._remove_orphans.cache_clear()  # it runs once in a process
    open_sessions(paths[1:])
    assert len(entries(isolated_cache)) == 5  # it runs when something new is kept
    open_session(make_session("d"))
    assert len(list(folder.glob("*/entry"))) == 4
    assert (folder / "mine" / "entry").read_text() == own
    assert open_session(paths[2]).text == "hi"


def test_an_entry_that_cannot_be_read_now_is_kept(
    make_session: Make, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_session(make_session("a"))

    def too_many_files(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    cache_module._remove_orphans.cache_clear()
    with monkeypatch.context() as changed:
        changed.setattr(Path, "open", too_many_files)
        cache_module._remove_orphans(isolated_cache / "sessions")
    assert len(entries(isolated_cache)) == 1


def test_a_session_takes_any_array(make_stored: MakeStored) -> None:
    plain = make_stored(3000)
    locked = plain.emg.copy()
    locked.flags.writeable = False
    for emg in (plain.emg[:, :, ::-1], plain.emg[::-1], locked, np.broadcast_to(plain.emg[:1], plain.emg.shape)):
        session = replace(plain, emg=emg)
        assert torch.equal(Store([session]).gather([(0, 0)], 3000)[0], torch.from_numpy(emg.copy()))


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file names that are not text")
def test_a_file_name_that_is_not_utf8_can_be_opened(make_session: Make) -> None:
    path = make_session()
    odd = path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff.hdf5"))
    assert open_session(odd).text == open_session(odd).text == "hi"
    assert [found.usable for found in inspect(path.parent)] == [True]


def refused(path: Path, cache: Path, words: str) -> None:
    """Opening fails with an error that names the file, and leaves nothing in the cache."""
    with pytest.raises(EmgscribeError, match=words) as caught:
        open_sessions([path])
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert entries(cache) == set()


def test_unusable_files_are_refused_and_leave_nothing_in_the_cache(
    make_session: Make, tmp_path: Path, isolated_cache: Path
) -> None:
    refused(tmp_path / "none.hdf5", isolated_cache, "no such file")
    refused(tmp_path / ("n" * 300), isolated_cache, "cannot be read")
    (tmp_path / "text.hdf5").write_text("text")
    refused(tmp_path / "text.hdf5", isolated_cache, "not a readable HDF5 file")
    refused(make_session(samples=0, keys=[]), isolated_cache, "no samples")
