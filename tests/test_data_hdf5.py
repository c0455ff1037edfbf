"""Session files: the layout byte for byte, what a third party writes, what is refused, and how files are written."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emgscribe.data.hdf5 import (
    ATTRIBUTES,
    Keystroke,
    Prompt,
    SessionFile,
    SessionHeader,
    find_sessions,
    prompts_of,
    read_header,
    writing_session,
)
from emgscribe.data.inspect import inspect
from emgscribe.data.session import open_session
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
START = 1_600_000_000.0
FINITE = st.floats(allow_nan=False, allow_infinity=False)
HEADERS = st.builds(
    SessionHeader,
    name=st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), max_size=20),
    user=st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True),
    condition=st.just("on_keyboard"),
    duration_mins=FINITE,
    keystrokes=st.lists(st.builds(Keystroke, st.text(max_size=12), FINITE, FINITE), max_size=5).map(tuple),
    prompts=st.lists(st.builds(Prompt, st.text(max_size=5), FINITE, FINITE, st.none() | st.text()), max_size=3).map(
        tuple
    ),
    simulation=st.sampled_from(["", '{"seed": 1}']),
)


def test_reads_what_a_third_party_wrote(tmp_path: Path) -> None:
    """h5py, json and the published layout, nothing of this package."""
    rows = np.zeros(300, [("time", "<f8"), ("emg_left", "<f4", (16,)), ("emg_right", "<f4", (16,))])
    rows["time"] = START + np.arange(300) / 2000
    rows["emg_left"], rows["emg_right"] = np.random.default_rng(3).normal(size=(2, 300, 16))
    keys = ["Key.shift", "H", "Key.ctrl", "Key.backspace"]
    starts = [START + n / 100 for n in range(4)]
    keystrokes = [{"key": k, "start": at, "end": at + 0.5, "ascii": 72} for k, at in zip(keys, starts, strict=True)]
    prompts = [
        {"name": "text_prompt", "start": START, "end": START + 0.1, "payload": {"text": "Hello", "more": 1}},
        {"name": "pause", "start": START + 0.1, "end": START + 0.2, "payload": None},
        {"name": "other", "start": 1, "end": 2, "payload": {}},
    ]
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        group = file.create_group("emg2qwerty")
        group.create_dataset("timeseries", data=rows)
        group.attrs["session_name"] = np.bytes_("2021-06-03-1622765527")  # fixed length
        group.attrs["user"], group.attrs["condition"] = "89335547", "on_keyboard"
        group.attrs["duration_mins"] = 300 / 2000 / 60
        group.attrs["keystrokes"], group.attrs["prompts"] = json.dumps(keystrokes), json.dumps(prompts)
    with SessionFile(str(tmp_path / "s.hdf5")) as session:
        assert len(session) == 300
        times, emg = session.read()
        np.testing.assert_array_equal(times, rows["time"])
        np.testing.assert_array_equal(emg, np.stack([rows["emg_left"], rows["emg_right"]], axis=1))
        np.testing.assert_array_equal(session.read(20, 30)[1][:, 1], rows["emg_right"][20:30])
        assert emg.dtype == np.float32
        header = session.header
    assert (header.name, header.user, header.condition) == ("2021-06-03-1622765527", "89335547", "on_keyboard")
    assert header.text == "⇧H⌫"
    assert header.keystrokes[1] == Keystroke("H", START + 0.01, START + 0.51)
    assert header.prompts == (
        Prompt("text_prompt", START, START + 0.1, "Hello"),
        Prompt("pause", START + 0.1, START + 0.2, None),
        Prompt("other", 1.0, 2.0, None),
    )
    assert header.simulation == ""
    assert prompts_of([tmp_path / "s.hdf5"]) == {"Hello"}


def test_byte_layout_on_disk(make_session: Make) -> None:
    emg = np.random.default_rng(1).normal(size=(20_000, 2, 16)).astype(np.float32)
    prompts = [Prompt("p", 1.0, 2.0, "text"), Prompt("q", 2.0, 3.0, None)]
    path = make_session(emg=emg, keys=[("Key.space", 0.5)], prompts=prompts, simulation='{"seed": 1}')
    with h5py.File(path, "r") as file:
        rows, attributes = file["emg2qwerty/timeseries"], dict(file["emg2qwerty"].attrs)
        fields = {name: offset for name, (_, offset, *_) in rows.dtype.fields.items()}
        assert (fields, rows.dtype.itemsize) == ({"time": 0, "emg_left": 8, "emg_right": 72}, 136)
        assert (rows.shape, rows.chunks, rows.compression) == ((20_000,), None, None)
        offset = rows.id.get_offset()
    content = path.read_bytes()
    assert 0 <= len(content) - 136 * 20_000 < 20_000
    for sample in (0, 1, 19_999):
        time, *values = struct.unpack_from("<d32f", content, offset + 136 * sample)
        assert (time, values) == (START + sample / 2000, emg[sample].ravel().tolist())
    assert set(attributes) == {*ATTRIBUTES, "simulation"}
    assert attributes["simulation"] == '{"seed": 1}'
    assert json.loads(attributes["keystrokes"]) == [{"key": "Key.space", "start": START + 0.5, "end": START + 0.58}]
    assert json.loads(attributes["prompts"]) == [
        {"name": "p", "start": 1.0, "end": 2.0, "payload": {"text": "text"}},
        {"name": "q", "start": 2.0, "end": 3.0, "payload": None},
    ]


@settings(max_examples=25)
@given(HEADERS, st.integers(0, 40), st.data())
def test_round_trip(tmp_path: Path, header: SessionHeader, samples: int, data: st.DataObject) -> None:
    finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
    emg = data.draw(hnp.arrays(np.float32, (samples, 2, 16), elements=finite32, fill=finite32))
    times = data.draw(hnp.arrays(np.float64, samples, elements=FINITE))
    with writing_session(tmp_path / "s.hdf5", header, samples) as append:
        for start in range(0, samples, 9):
            append(times[start : start + 9], emg[start : start + 9])
    with SessionFile(tmp_path / "s.hdf5") as session:
        assert session.header == header
        blocks = list(session.blocks(7))
        assert all(len(block) == 7 for block, _ in blocks[:-1])
        for number, whole in enumerate((times, emg)):
            np.testing.assert_array_equal(session.read()[number], whole)
            np.testing.assert_array_equal(np.concatenate([whole[:0], *(block[number] for block in blocks)]), whole)


def test_text_is_in_order_of_key_presses(make_session: Make) -> None:
    keys = [("b", 0.2), ("a", 0.1), ("Key.left", 0.25), ("Key.enter", 0.3), ("c", 0.3)]
    header = read_header(make_session(keys=keys))
    assert (header.text, header.labelled_keystrokes()[0]) == ("ab⏎c", ("a", START + 0.1))
    keys = [("a", i / 1000) for i in range(3000)]  # real sessions have thousands; a small HDF5 attribute ends at 64 KiB
    assert read_header(make_session(keys=keys)).text == "a" * 3000


def refused(path: Path, *words: str) -> None:
    """Reading the header and opening the session give one error with file, fault and hint; `inspect` finds the same."""
    for read in (read_header, open_session):
        with pytest.raises(EmgscribeError) as caught:
            read(path)
        assert caught.value.where == str(path)
        assert caught.value.hint
        assert len(caught.value.what) < 1000
        assert [message for _, _, message in inspect(path)[0].findings] == [caught.value.what]
        for word in words:
            assert word in caught.value.what


def test_files_that_are_not_sessions_are_refused(make_session: Make, tmp_path: Path) -> None:
    refused(tmp_path / "none.hdf5", "no such file")
    (tmp_path / "s.hdf5").write_text("time,emg_left\n1,2\n")
    refused(tmp_path / "s.hdf5", "not a readable HDF5 file")
    path = make_session()
    content = path.read_bytes()
    for kept in (0, 7, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        refused(path, "not a readable HDF5 file")


TIME, LEFT, RIGHT = ("time", "<f8"), ("emg_left", "<f4", (16,)), ("emg_right", "<f4", (16,))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, ["dataset 'emg2qwerty/timeseries' is missing"]),
        (np.zeros(5, [TIME, ("emg", "<f4", (16,))]), ["'timeseries.emg_left' is missing"]),
        (np.zeros(5, [TIME, ("emg_left", "<f4")]), ["'timeseries.emg_left' has 0 axes"]),
        (np.zeros(5, [TIME, ("emg_left", "<f4", (4, 4))]), ["'timeseries.emg_left' has 2 axes"]),
        (np.zeros(5, [TIME, ("emg_left", "<f4", (300,))]), ["shape.electrodes is 300"]),
        (np.zeros((5, 33)), ["'timeseries.time' is missing", "2 dimensions"]),
        (np.zeros(5, [("time", "<f4"), LEFT, RIGHT]), ["timeseries.time", "float32", "float64"]),
        (np.zeros(5, [TIME, LEFT, ("emg_right", "<f8", (16,))]), ["timeseries.emg_right", "<f8"]),
        (np.zeros(5, [TIME, ("emg_left", "<f4", (12,)), RIGHT]), ["timeseries.emg_right", "(12,)", "(16,)"]),
    ],
)
def test_samples_in_another_layout_are_refused(make_session: Make, rows: Any, words: list[str]) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty/timeseries"]
        if rows is not None:
            file["emg2qwerty/timeseries"] = rows
    refused(path, *words)
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"]
    refused(path, "dataset 'emg2qwerty/timeseries' is missing")


@pytest.mark.parametrize(
    ("field", "content", "words"),
    [
        *((name, None, ["missing", name]) for name in ATTRIBUTES),
        ("keystrokes", '[{"key": "a", "start"', ["'keystrokes': JSON"]),
        ("keystrokes", '[{"key": "a"}]', ["'keystrokes', entry 0", "start"]),
        ("keystrokes", '[{"key": "a", "start": 1, "end": 2}, {"key": "b", "start": 1}]', ["entry 1", "end"]),
        ("keystrokes", '[{"key": "a", "start": "x", "end": 2}]', ["entry 0", "'x'"]),
        ("keystrokes", '[{"key": "a", "start": null, "end": 2}]', ["entry 0"]),
        ("keystrokes", "[" * 100_000, ["'keystrokes': RecursionError"]),
        ("keystrokes", " " * (17 << 20) + "[]", ["'keystrokes' has more than 16 MB"]),
        *(("keystrokes", other, ["'keystrokes': TypeError is not a list"]) for other in ("null", "{}", '""', "1")),
        *(("prompts", other, ["'prompts', entry 0"]) for other in ("[1]", "[[]]", "[null]")),
        *(
            ("keystrokes", f'[{{"key": "a", "start": {number}, "end": 1}}]', ["'keystrokes'"])
            for number in ("NaN", "-Infinity", "1e400", "9" * 400, "9" * 10_000, f'"{"x" * 10_000}"')
        ),
        ("keystrokes", '[{"key": "\\ud800", "start": 1, "end": 2}]', ["entry 0: UnicodeEncodeError"]),
        ("session_name", b"\xff\xfe", ["utf-8"]),
        *((field, "a\x1b[31mb", ["control character"]) for field in ("session_name", "user", "condition")),
        ("duration_mins", "long", ["'duration_mins'", "'long'"]),
        ("duration_mins", np.zeros(3), ["'duration_mins'"]),
        *(
            ("prompts", f'[{{"name": "p", "start": 0, "end": 1, "payload": {payload}}}]', ["'prompts', entry 0"])
            for payload in ("[1]", '{"text": ["x"]}', '{"text": "\\ud800"}')
        ),
        ("prompts", '[{"name": "p", "end": 2, "payload": null}]', ["'prompts', entry 0", "start"]),
    ],
)
def test_attributes_that_are_missing_or_broken_are_refused(
    make_session: Make, field: str, content: Any, words: list[str]
) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"].attrs[field]
        if content is not None:
            file["emg2qwerty"].attrs[field] = content
    refused(path, *words)


def half_written(path: Path, error: BaseException | None = None) -> None:
    """Write 50 samples of the 100 that were announced, then fail."""
    with writing_session(path, SessionHeader("n", "u", "on_keyboard", 1.0, (), ()), 100) as append:
        append(np.arange(50.0), np.zeros((50, 2, 16), np.float32))
        if error is not None:
            raise error


def test_a_writer_that_fails_leaves_nothing_and_keeps_the_old_session(make_session: Make, tmp_path: Path) -> None:
    path = make_session()
    before = path.read_bytes()
    for place in (tmp_path / "out" / "s.hdf5", path):
        with pytest.raises(RuntimeError, match="the simulation failed"):
            half_written(place, RuntimeError("the simulation failed"))
        with pytest.raises(EmgscribeError, match="50 of 100"):
            half_written(place)
    assert list((tmp_path / "out").iterdir()) == []
    assert path.read_bytes() == before


def test_find_sessions_sorts_by_name(make_session: Make, tmp_path: Path) -> None:
    paths = [make_session(name, samples=10) for name in ("2021-02", "2021-01")]
    (paths[0].parent / "notes.txt").write_text("")
    assert list(find_sessions(str(paths[0].parent))) == sorted(paths)
    others = [paths[0].rename(paths[0].with_suffix(".HDF5")), paths[1].rename(paths[1].with_suffix(".h5"))]
    assert list(find_sessions(paths[0].parent)) == sorted(others)
    with pytest.raises(EmgscribeError, match="is a file, not a folder"):
        find_sessions(others[0])
    with pytest.raises(EmgscribeError, match="no such folder"):
        find_sessions(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmgscribeError, match="has no session files"):
        find_sessions(tmp_path / "empty")


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from emgscribe.data.hdf5 import SessionHeader, write_session
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
header = SessionHeader("s", "u", "on_keyboard", 1.0, (), ())
write_session(sys.argv[1], header, np.arange(9000) / 2000, np.zeros((9000, 2, 16), np.float32))
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are set through POSIX")
def test_a_full_disk_gives_one_clear_error(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk, in another process."""
    path = tmp_path / "s.hdf5"
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith(
        f"emgscribe.errors.EmgscribeError: {path}: cannot be written (File too large)"
    )
    assert {p.name for p in tmp_path.iterdir()} <= {"cache"}
