import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data import session as store
from emgscribe.data.charset import labels_of_text
from emgscribe.data.hdf5 import SessionFile
from emgscribe.data.session import Session, default_cache, open_sessions
from emgscribe.data.windows import Store
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
MakeStored = Callable[..., Session]
START = 1_600_000_000.0


def entries(cache: Path) -> list[str]:
    """Every name in the cache, hidden ones too."""
    return sorted(path.name for path in cache.iterdir())


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-120, 150)), min_size=1, max_size=6), st.integers(1, 130))
def test_gather_is_slicing_with_zeros_outside(
    make_stored: MakeStored, places: list[tuple[int, int]], length: int
) -> None:
    sessions = [make_stored(100, seed=1), make_stored(37, seed=2)]
    gathered = Store(sessions).gather([s for s, _ in places], [start for _, start in places], length)
    assert gathered.shape == (len(places), length, 2, 16)
    for window, (session, start) in zip(gathered.numpy(), places, strict=True):
        padded = np.pad(sessions[session].emg, ((300, 300), (0, 0), (0, 0)))
        np.testing.assert_array_equal(window, padded[300 + start : 300 + start + length])


def test_gather_copies(make_stored: MakeStored) -> None:
    session = make_stored(50)
    before = session.emg.copy()
    Store([session]).gather([0], [0], 50).zero_()
    np.testing.assert_array_equal(session.emg, before)


def test_what_is_stored_is_what_is_in_the_file(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = SessionFile.blocks
    monkeypatch.setattr(SessionFile, "blocks", lambda self: blocks(self, 300))  # the last block is a short one
    path = make_session("n", samples=1000, keys=[("Key.shift", 0.1), ("Key.tab", 0.15), ("A", 0.2)])
    (stored,) = open_sessions([path])
    with SessionFile(path) as session:
        np.testing.assert_array_equal(stored.emg, session.emg())
    assert stored.emg.dtype == np.float32
    assert (stored.name, stored.user, stored.simulated, len(stored)) == ("n", "user", False, 1000)
    assert stored.labels.tolist() == labels_of_text("⇧A")
    assert stored.onsets.tolist() == [200, 400]
    assert stored.labels.dtype == stored.onsets.dtype == np.int64


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
    st.lists(st.floats(-3, 160), max_size=12),
)
def test_onsets_against_brute_force(make_session: Make, steps: list[int], starts: list[float]) -> None:
    times = np.cumsum(steps) / 256  # exact in binary, so that keys fall on samples too
    keys = [("abcdefghijkl"[i], round(start) / 256 if i % 2 else start / 256) for i, start in enumerate(starts)]
    path = make_session(times=START + times, emg=np.zeros((len(times), 2, 16), np.float32), keys=keys)
    expected = []
    for key, at in sorted(keys, key=lambda pair: START + pair[1]):
        first = next((i for i, time in enumerate(START + times) if time >= START + at), None)
        if first is not None and START + at >= START + times[0]:
            expected.append((key, first))
    (stored,) = open_sessions([path])
    assert list(zip(stored.labels.tolist(), stored.onsets.tolist(), strict=True)) == [
        (labels_of_text(key)[0], first) for key, first in expected
    ]


@given(st.lists(st.integers(0, 99), max_size=12).map(sorted), st.integers(-10, 110), st.integers(-10, 110))
def test_typed_against_brute_force(make_stored: MakeStored, onsets: list[int], start: int, stop: int) -> None:
    session = make_stored(100, [(0, onset) for onset in onsets])
    expected = [onset for onset in onsets if start <= onset < stop]
    assert session.onsets[session.typed(start, stop)].tolist() == expected


def test_keystrokes_outside_the_recording_are_dropped(make_session: Make) -> None:
    path = make_session(samples=1000, keys=[("a", -0.01), ("b", 0.0), ("c", 0.4995), ("d", 0.49975), ("e", 3.0)])
    (stored,) = open_sessions([path])
    assert stored.labels.tolist() == labels_of_text("bc")
    assert stored.onsets.tolist() == [0, 999]


def test_a_session_without_keystrokes(make_session: Make) -> None:
    (stored,) = open_sessions([make_session(keys=[])])
    assert stored.labels.shape == stored.onsets.shape == (0,)


def test_simulated_sessions_stay_marked(make_session: Make) -> None:
    assert open_sessions([make_session(simulation="{}")])[0].simulated is True


def test_the_cache_is_used(make_session: Make, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_session()
    (first,) = open_sessions([path])
    built = entries(isolated_cache)
    assert len(built) == 1

    def unexpected(*_: object) -> None:
        raise AssertionError("the session was read again")

    monkeypatch.setattr(store, "Session", unexpected)
    (second,) = open_sessions([path])
    np.testing.assert_array_equal(first.emg, second.emg)
    assert first.content == second.content
    assert entries(isolated_cache) == built


def test_a_changed_source_is_built_anew_and_the_stale_entry_goes(make_session: Make, isolated_cache: Path) -> None:
    path = make_session()
    other = make_session("other")
    (first,), _ = open_sessions([path]), open_sessions([other])
    before = entries(isolated_cache)
    content = bytearray(path.read_bytes())
    with h5py.File(path, "r") as file:
        offset = file["emg2qwerty/timeseries"].id.get_offset()
    content[offset + 136 * 1999 + 8 : offset + 136 * 2000] = bytes(128)  # the last sample; size and start stay
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (second,) = open_sessions([path])
    with SessionFile(path) as session:
        np.testing.assert_array_equal(second.emg, session.emg())
    assert (second.emg[-1] == 0).all()
    assert second.content != first.content
    assert len(entries(isolated_cache)) == 2
    assert len(set(entries(isolated_cache)) & set(before)) == 1  # the other session's entry
    assert open_sessions([other])[0].name == "other"


def test_two_files_of_the_same_content_are_two_entries(make_session: Make, isolated_cache: Path) -> None:
    path = make_session()
    copy = path.with_name("copy.hdf5")
    shutil.copy2(path, copy)
    open_sessions([path, copy])
    assert len(entries(isolated_cache)) == 2


def test_the_cache_is_never_written_through_a_session(make_session: Make) -> None:
    path = make_session()
    (first,) = open_sessions([path])
    first.emg[:] = 7
    (second,) = open_sessions([path])
    assert not (second.emg == 7).any()


def test_default_cache(monkeypatch: pytest.MonkeyPatch, isolated_cache: Path) -> None:
    assert default_cache() == isolated_cache
    monkeypatch.delenv("EMGSCRIBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/emgscribe")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "emgscribe"


def test_a_cache_can_be_named(make_session: Make, tmp_path: Path, isolated_cache: Path) -> None:
    open_sessions([make_session()], tmp_path / "named")
    assert len(entries(tmp_path / "named")) == 1
    assert not isolated_cache.exists()


def refused(path: Path, cache: Path, words: str) -> None:
    """Opening fails with an error that names the file, and leaves nothing in the cache."""
    with pytest.raises(EmgscribeError, match=words) as caught:
        open_sessions([path])
    assert caught.value.where == str(path)
    assert not cache.exists() or entries(cache) == []


def test_missing_and_foreign_files(tmp_path: Path, isolated_cache: Path) -> None:
    refused(tmp_path / "none.hdf5", isolated_cache, "cannot be read")
    (tmp_path / "text.hdf5").write_text("text")
    refused(tmp_path / "text.hdf5", isolated_cache, "not a readable HDF5 file")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_emg_that_is_not_finite(
    make_session: Make, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    blocks = SessionFile.blocks
    monkeypatch.setattr(SessionFile, "blocks", lambda self: blocks(self, 300))
    emg = np.zeros((1000, 2, 16), np.float32)
    emg[[777, 800], 1, 3] = value
    refused(make_session(emg=emg), isolated_cache, "sample 777 is not finite")


@pytest.mark.parametrize("broken", [599, 600, 601])
def test_time_that_runs_backwards_even_between_blocks(
    make_session: Make, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    blocks = SessionFile.blocks
    monkeypatch.setattr(SessionFile, "blocks", lambda self: blocks(self, 300))
    times = START + np.arange(1000) / 2000
    times[broken:] -= 0.1
    refused(make_session(times=times, emg=np.zeros((1000, 2, 16), np.float32)), isolated_cache, "not monotonic")


def test_time_that_is_not_finite(make_session: Make, isolated_cache: Path) -> None:
    times = START + np.arange(1000) / 2000
    times[5] = np.nan
    refused(make_session(times=times, emg=np.zeros((1000, 2, 16), np.float32)), isolated_cache, "not monotonic")


def test_empty_session(make_session: Make, isolated_cache: Path) -> None:
    refused(make_session(samples=0, keys=[]), isolated_cache, "no samples")


def test_store_on_no_device_of_its_own_keeps_the_map(make_session: Make) -> None:
    (stored,) = open_sessions([make_session()])
    gathered = Store([stored]).gather([0], [10], 5)
    assert torch.equal(gathered[0], torch.from_numpy(np.array(stored.emg[10:15])))


def _build_beside_another(path: Path, cache: Path, barrier: Barrier) -> None:
    """Build an entry, but rename it only when the other process is about to do the same."""
    write = store.write_json

    def together(*arguments: object) -> None:
        write(*arguments)
        barrier.wait(timeout=60)

    store.write_json = together
    (stored,) = open_sessions([path], cache)
    with SessionFile(path) as session:
        np.testing.assert_array_equal(stored.emg, session.emg())


def test_two_processes_build_the_same_entry(make_session: Make, isolated_cache: Path) -> None:
    path = make_session()
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    workers = [spawn.Process(target=_build_beside_another, args=(path, isolated_cache, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(entries(isolated_cache)) == 1
    (stored,) = open_sessions([path])
    with SessionFile(path) as session:
        np.testing.assert_array_equal(stored.emg, session.emg())


_KILLED = """
import sys, time
from pathlib import Path
from emgscribe.data import session as store

def hang(*_):
    print("half built", flush=True)
    time.sleep(60)

store.write_json = hang
store.open_sessions([Path(sys.argv[1])])
"""


def test_a_build_that_is_killed_in_the_middle(make_session: Make, isolated_cache: Path) -> None:
    path = make_session()
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half built\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not [name for name in entries(isolated_cache) if not name.startswith(".")]
    (stored,) = open_sessions([path])
    with SessionFile(path) as session:
        np.testing.assert_array_equal(stored.emg, session.emg())
    assert stored.labels.tolist() == labels_of_text("hi")


def test_content_tells_other_samples_from_a_copy(make_session: Make) -> None:
    path = make_session()
    copy = path.with_name("copy.hdf5")
    shutil.copy(path, copy)
    louder = path.with_name("louder.hdf5")
    shutil.copy(path, louder)
    with h5py.File(louder, "r+") as file:
        rows = file["emg2qwerty/timeseries"][:]
        rows["emg_right"][7, 3] += 1
        file["emg2qwerty/timeseries"][:] = rows
    first, same, other = open_sessions([path, copy, louder])
    assert first.content == same.content != other.content


@pytest.mark.parametrize("name", ["emg.npy", "labels.npy", "onsets.npy", "info.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_entry_is_built_anew(make_session: Make, isolated_cache: Path, name: str, damage: str) -> None:
    path = make_session()
    (whole,) = open_sessions([path])
    content, emg = whole.content, whole.emg.copy()
    del whole  # its map of the file would end the process when the file is cut
    (entry,) = isolated_cache.iterdir()
    if damage == "gone":
        (entry / name).unlink()
    else:
        (entry / name).write_bytes((entry / name).read_bytes()[:9])
    (again,) = open_sessions([path])
    assert again.content == content
    np.testing.assert_array_equal(again.emg, emg)


def test_what_is_not_ours_stays_in_a_shared_cache_folder(make_session: Make, isolated_cache: Path) -> None:
    ours = isolated_cache / f".{'a' * 12}-{'b' * 16}.k1ll3d"
    for folder in (isolated_cache / ".git", isolated_cache / ".a-hidden-one", ours):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    open_sessions([make_session()])
    assert (isolated_cache / ".git").exists()
    assert (isolated_cache / ".a-hidden-one").exists()
    assert not ours.exists()
