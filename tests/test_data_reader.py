"""Hostile HDF5: nothing hangs, crashes, or reads another file."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data import reader
from emgscribe.data.inspect import inspect
from emgscribe.data.session import open_session
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError

ATTRIBUTES = {
    "session_name": "x",
    "user": "u",
    "condition": "c",
    "duration_mins": 0.1,
    "keystrokes": "[]",
    "prompts": "[]",
}


ROW = Shape().row


def with_rows(path: Path, make: Callable[[h5py.Group], object]) -> Path:
    """A session file whose samples `make` puts into the group."""
    with h5py.File(path, "w") as file:
        group = file.create_group("emg2qwerty")
        make(group)
        group.attrs.update(ATTRIBUTES)
    return path


def virtual(group: h5py.Group, source: str) -> None:
    layout = h5py.VirtualLayout(shape=(1000,), dtype=ROW)
    layout[:] = h5py.VirtualSource(source, "emg2qwerty/timeseries", shape=(1000,), dtype=ROW)
    group.create_virtual_dataset("timeseries", layout)


def big_chunk(group: h5py.Group) -> None:
    rows = group.create_dataset("timeseries", (600_000,), ROW, chunks=(600_000,), compression="gzip")
    rows[:] = np.zeros(600_000, ROW)


HOSTILE: dict[str, tuple[Callable[[h5py.Group], object], str]] = {
    "refers to itself": (lambda group: virtual(group, "."), "other files"),
    "missing source": (lambda group: virtual(group, "/no/such.hdf5"), "other files"),
    "external link": (lambda g: g.__setitem__("timeseries", h5py.ExternalLink("/etc/hostname", "x")), "is a link"),
    "soft link": (lambda g: g.__setitem__("timeseries", h5py.SoftLink("/emg2qwerty")), "is a link"),
    "external storage": (
        lambda g: g.create_dataset("timeseries", (10,), ROW, external=[("/etc/hostname", 0, 1360)]),
        "other files",
    ),
    "claims rows": (lambda g: g.create_dataset("timeseries", (10**15,), ROW, chunks=(1000,)), "claims"),
    "a chunk of 80 MB": (big_chunk, "chunk"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_links_out_of_a_file_and_absurd_sizes_are_refused(kind: str, tmp_path: Path) -> None:
    make, why = HOSTILE[kind]
    path = with_rows(tmp_path / "hostile.hdf5", make)
    with pytest.raises(EmgscribeError, match=why) as caught:
        open_session(path)
    assert caught.value.where == str(path)
    (found,) = inspect(path)
    assert not found.usable
    assert why in " ".join(finding.message for finding in found.findings)


def test_a_loop_in_libhdf5_ends_and_the_next_file_is_read(
    make_session: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make_session("good", samples=4000, keys=[("a", 0.001 * at) for at in range(400)])
    data = bytearray(good.read_bytes())
    sector = (data.rfind(b"GCOL") // 4096 + 1) * 4096
    data[sector : sector + 4096] = bytes(4096)
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(data)
    begun = time.monotonic()
    with pytest.raises(EmgscribeError, match="damaged"):
        open_session(damaged)
    assert time.monotonic() - begun < 3 * reader.SECONDS
    assert len(open_session(good)) == 4000


def test_a_killed_reader_process_is_replaced(make_session: Callable[..., Path]) -> None:
    path = make_session()
    reader.read_layout(path)
    process = reader._child.process
    assert process is not None
    process.kill()
    process.wait()
    assert reader.read_layout(path).rows == 2000


@pytest.mark.skipif(os.name == "nt", reason="signals to processes are POSIX")
def test_signals_to_the_reader_process_do_not_mark_a_file_as_damaged(
    make_session: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_session()
    reader.read_layout(path)
    process = reader._child.process
    assert process is not None
    for sent in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(sent)
    assert reader.read_layout(path).rows == 2000
    assert reader._child.process is process
    monkeypatch.setattr(reader, "_SERVE", "import os; os.kill(os.getpid(), 9)")
    reader._child.close()
    with pytest.raises(EmgscribeError, match="the process that reads it was killed"):
        reader.read_layout(path)


def test_a_reader_process_that_cannot_start_does_not_mark_a_file_as_damaged(
    make_session: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_session()
    reader._child.close()
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_SERVE", "import no_such_module")
        with pytest.raises(EmgscribeError, match=r"ends at its start, with status 1\n  hint: install h5py again"):
            reader.read_layout(path)
    assert reader.read_layout(path).rows == 2000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.hdf5")
    for path in (tmp_path / "fifo.hdf5", Path("/dev/zero")):
        with pytest.raises(EmgscribeError, match="is not a file"):
            open_session(path)


def test_unknown_attributes_are_not_a_fault(make_session: Callable[..., Path]) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs["device"] = np.zeros(3)
    assert inspect(path)[0].findings == []


MUTATIONS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)


@given(MUTATIONS, st.booleans(), st.floats(0.5, 1.5))
def test_a_damaged_file_opens_or_gives_one_error_and_inspect_agrees(
    make_session: Callable[..., Path], bytes_at: list[tuple[float, int]], chunked: bool, kept: float
) -> None:
    path = make_session(samples=200, keys=[("a", 0.05)])
    if chunked:
        with h5py.File(path, "r+") as file:
            rows = file["emg2qwerty/timeseries"][:]
            del file["emg2qwerty/timeseries"]
            file["emg2qwerty"].create_dataset("timeseries", data=rows, chunks=(50,), compression="gzip")
    content = bytearray(path.read_bytes())
    for place, byte in bytes_at:
        content[int(place**3 * len(content))] = byte  # most of them in the file's own bookkeeping, at its start
    path.write_bytes(content[: int(kept * len(content))])
    with nullcontext() if inspect(path)[0].usable else pytest.raises(EmgscribeError):
        assert np.isfinite(open_session(path).emg).all()


def test_modules_in_the_working_folder_are_not_loaded(
    make_session: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("h5py", "numpy", "json"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = make_session()
    monkeypatch.chdir(tmp_path)
    reader._child.close()
    assert reader.read_layout(path).rows == 2000
    assert not (tmp_path / "ran").exists()
