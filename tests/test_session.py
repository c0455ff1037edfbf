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
    SAMPLE_DTYPE,
    Keystroke,
    Prompt,
    SessionFile,
    SessionHeader,
    find_sessions,
    write_session,
    writing_session,
)
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
START = 1_600_000_000.0
FINITE = st.floats(allow_nan=False, allow_infinity=False)
HEADERS = st.builds(
    SessionHeader,
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
    user=st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True),
    condition=st.just("on_keyboard"),
    duration_mins=FINITE,
    keystrokes=st.lists(st.builds(Keystroke, st.text(max_size=12), FINITE, FINITE), max_size=5).map(tuple),
    prompts=st.lists(st.builds(Prompt, st.text(max_size=5), FINITE, FINITE, st.none() | st.text()), max_size=3).map(
        tuple
    ),
    simulation=st.sampled_from(["", '{"seed": 1}']),
)


def third_party(path: Path, samples: int = 300) -> dict[str, np.ndarray]:
    """A session as somebody without this package writes it: h5py, json and the published layout, nothing of ours."""
    rng = np.random.default_rng(3)
    dtype = np.dtype([("time", "<f8"), ("emg_left", "<f4", (16,)), ("emg_right", "<f4", (16,))])
    rows = np.zeros(samples, dtype)
    rows["time"] = START + np.arange(samples) / 2000
    rows["emg_left"], rows["emg_right"] = rng.normal(size=(2, samples, 16))
    keystrokes = [
        {"key": "Key.shift", "start": START + 0.01, "end": START + 0.02, "ascii": None},
        {"key": "H", "start": START + 0.02, "end": START + 0.03, "ascii": 72},
        {"key": "Key.ctrl", "start": START + 0.03, "end": START + 0.04, "ascii": None},
        {"key": "Key.backspace", "start": START + 0.05, "end": START + 0.06, "ascii": None},
    ]
    prompts = [
        {"name": "text_prompt", "start": START, "end": START + 0.1, "payload": {"text": "Hello", "more": 1}},
        {"name": "pause", "start": START + 0.1, "end": START + 0.2, "payload": None},
    ]
    with h5py.File(path, "w") as file:
        group = file.create_group("emg2qwerty")
        group.create_dataset("timeseries", data=rows)
        group.attrs["session_name"] = "2021-06-03-1622765527"
        group.attrs["user"] = "89335547"
        group.attrs["condition"] = "on_keyboard"
        group.attrs["duration_mins"] = samples / 2000 / 60
        group.attrs["keystrokes"] = json.dumps(keystrokes)
        group.attrs["prompts"] = json.dumps(prompts)
    return {name: rows[name] for name in dtype.names}


def test_reads_what_a_third_party_wrote(tmp_path: Path) -> None:
    rows = third_party(tmp_path / "s.hdf5")
    with SessionFile(tmp_path / "s.hdf5") as session:
        assert len(session) == 300
        np.testing.assert_array_equal(session.times(), rows["time"])
        np.testing.assert_array_equal(session.emg()[:, 0], rows["emg_left"])
        np.testing.assert_array_equal(session.emg()[:, 1], rows["emg_right"])
        np.testing.assert_array_equal(session.emg(20, 30)[:, 1], rows["emg_right"][20:30])
        assert session.emg().dtype == np.float32
        assert session.text() == "⇧H⌫"
        header = session.header
    assert (header.name, header.user, header.condition) == ("2021-06-03-1622765527", "89335547", "on_keyboard")
    assert header.keystrokes[1] == Keystroke("H", START + 0.02, START + 0.03)
    assert header.prompts == (
        Prompt("text_prompt", START, START + 0.1, "Hello"),
        Prompt("pause", START + 0.1, START + 0.2, None),
    )
    assert header.simulation == ""


def test_byte_layout_on_disk(make_session: Make) -> None:
    emg = np.random.default_rng(1).normal(size=(20_000, 2, 16)).astype(np.float32)
    times = START + np.arange(20_000) / 2000
    path = make_session(emg=emg, times=times)
    with h5py.File(path, "r") as file:
        rows = file["emg2qwerty/timeseries"]
        assert rows.shape == (20_000,)
        assert rows.dtype.itemsize == 136
        assert {name: offset for name, (_, offset, *_) in rows.dtype.fields.items()} == {
            "time": 0,
            "emg_left": 8,
            "emg_right": 72,
        }
        assert (rows.chunks, rows.compression) == (None, None)
        offset = rows.id.get_offset()
    content = path.read_bytes()
    assert 0 <= len(content) - 136 * 20_000 < 20_000
    for sample in (0, 1, 19_999):
        time, *values = struct.unpack_from("<d32f", content, offset + 136 * sample)
        assert time == times[sample]
        assert values == [*emg[sample, 0].tolist(), *emg[sample, 1].tolist()]


def test_attributes_on_disk(make_session: Make) -> None:
    path = make_session(
        "name", keys=[("Key.space", 0.5)], prompts=[Prompt("p", 1.0, 2.0, "text"), Prompt("q", 2.0, 3.0, None)]
    )
    with h5py.File(path, "r") as file:
        attributes = dict(file["emg2qwerty"].attrs)
    assert set(attributes) == {"session_name", "user", "condition", "duration_mins", "keystrokes", "prompts"}
    assert attributes["session_name"] == "name"
    assert isinstance(attributes["duration_mins"], float)
    assert json.loads(attributes["keystrokes"]) == [{"key": "Key.space", "start": START + 0.5, "end": START + 0.58}]
    assert json.loads(attributes["prompts"]) == [
        {"name": "p", "start": 1.0, "end": 2.0, "payload": {"text": "text"}},
        {"name": "q", "start": 2.0, "end": 3.0, "payload": None},
    ]


def test_only_a_simulated_session_carries_the_mark(make_session: Make) -> None:
    with h5py.File(make_session(simulation='{"seed": 1}'), "r") as file:
        assert file["emg2qwerty"].attrs["simulation"] == '{"seed": 1}'
    with SessionFile(make_session(simulation='{"seed": 1}')) as session:
        assert session.header.simulation == '{"seed": 1}'


@settings(max_examples=25)
@given(HEADERS, st.integers(0, 40), st.data())
def test_round_trip(tmp_path: Path, header: SessionHeader, samples: int, data: st.DataObject) -> None:
    finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
    emg = data.draw(hnp.arrays(np.float32, (samples, 2, 16), elements=finite32, fill=finite32))
    times = data.draw(hnp.arrays(np.float64, samples, elements=FINITE))
    path = tmp_path / "s.hdf5"
    write_session(path, header, times, emg)
    with SessionFile(path) as session:
        assert session.header == header
        np.testing.assert_array_equal(session.times(), times)
        np.testing.assert_array_equal(session.emg(), emg)


def test_keystrokes_past_64_kib_of_json(make_session: Make) -> None:
    keys = [("a", i / 1000) for i in range(3000)]  # real sessions have thousands; a small HDF5 attribute ends at 64 KiB
    with SessionFile(make_session(keys=keys)) as session:
        assert session.text() == "a" * 3000


def test_blocks_cover_all_rows_once(make_session: Make) -> None:
    with SessionFile(make_session(samples=1000)) as session:
        blocks = list(session.blocks(300))
        assert [len(block) for block in blocks] == [300, 300, 300, 100]
        np.testing.assert_array_equal(np.concatenate(blocks)["time"], session.times())


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60).map(sorted),
    st.floats(-2, 60),
    st.floats(-2, 60),
)
def test_slice_time_is_searchsorted(make_session: Make, times: list[int], start: float, end: float) -> None:
    array = np.array(times, dtype=np.float64)
    with SessionFile(make_session(times=array, emg=np.zeros((len(array), 2, 16), np.float32))) as session:
        for low, high in ((start, end), (float(round(start)), float(round(end)))):  # on a sample and between samples
            expected = slice(*np.searchsorted(array, [low, high]).tolist())
            assert session.slice_time(low, high) == expected


def test_text_by_time_in_order_of_key_presses(make_session: Make) -> None:
    keys = [("b", 0.2), ("a", 0.1), ("Key.left", 0.25), ("Key.enter", 0.3), ("c", 0.3)]
    with SessionFile(make_session(keys=keys)) as session:
        assert session.text() == "ab⏎c"
        assert session.text(START + 0.1, START + 0.3) == "ab"
        assert session.text(START + 0.2) == "b⏎c"
        assert session.text(end=START + 0.1) == ""
        assert session.header.labelled_keystrokes()[0] == ("a", START + 0.1)


def test_the_header_outlives_the_file(make_session: Make) -> None:
    session = SessionFile(make_session())
    session.close()
    assert session.header.user == "user"
    assert session.text() == "hi"


def refused(path: Path, *words: str) -> None:
    """Opening `path` fails with an error of ours that names the file, the fault and a mend."""
    with pytest.raises(EmgscribeError) as caught:
        SessionFile(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    for word in words:
        assert word in caught.value.what


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.hdf5", "no such file")


@pytest.mark.parametrize("kept", [0, 7, 100, 1000, 0.1, 0.5, 0.99, -1])
def test_truncated_file(make_session: Make, kept: float) -> None:
    path = make_session()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(path, "not a readable HDF5 file")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "s.hdf5").write_text("time,emg_left\n1,2\n")
    refused(tmp_path / "s.hdf5", "not a readable HDF5 file")


def reshaped(path: Path, rows: Any, name: str = "timeseries") -> Path:
    """Replace the samples of a session file."""
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty/timeseries"]
        if rows is not None:
            file["emg2qwerty"].create_dataset(name, data=rows)
    return path


def rows_of(**fields: Any) -> np.ndarray:
    """Five rows with the given field types."""
    return np.zeros(5, dtype=[(name, *kind) for name, kind in fields.items()])


TIME, BAND = ("<f8",), ("<f4", (16,))


def test_missing_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["other"] = [1, 2]
    refused(tmp_path / "s.hdf5", "group 'emg2qwerty' is missing")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, ["dataset 'emg2qwerty/timeseries' is missing"]),
        (rows_of(time=TIME, emg_left=BAND), ["no field 'emg_right'"]),
        (rows_of(emg_left=BAND, emg_right=BAND), ["no field 'time'"]),
        (np.zeros((5, 33)), ["no field 'time'"]),
        (rows_of(time=("<f4",), emg_left=BAND, emg_right=BAND), ["timeseries.time", "float32", "float64"]),
        (rows_of(time=TIME, emg_left=BAND, emg_right=("<f8", (16,))), ["timeseries.emg_right", "<f8"]),
        (rows_of(time=TIME, emg_left=("<f4", (12,)), emg_right=BAND), ["timeseries.emg_left", "(12,)", "(16,)"]),
        (np.zeros((5, 2), SAMPLE_DTYPE), ["2 dimensions"]),
    ],
)
def test_foreign_samples(make_session: Make, rows: Any, words: list[str]) -> None:
    refused(reshaped(make_session(), rows), *words)


def test_further_fields_are_no_fault(make_session: Make) -> None:
    rows = rows_of(time=TIME, temperature=("<f4",), emg_right=BAND, emg_left=BAND)
    rows["emg_right"] = 1
    with SessionFile(reshaped(make_session(), rows)) as session:
        np.testing.assert_array_equal(session.emg(), np.broadcast_to([[0.0], [1.0]], (5, 2, 16)))


@pytest.mark.parametrize("name", ["session_name", "user", "condition", "duration_mins", "keystrokes", "prompts"])
def test_missing_attribute(make_session: Make, name: str) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"].attrs[name]
    refused(path, "missing", name)


@pytest.mark.parametrize(
    ("field", "content", "words"),
    [
        ("keystrokes", '[{"key": "a", "start"', ["'keystrokes' is not JSON"]),
        ("keystrokes", "", ["'keystrokes' is not JSON"]),
        ("keystrokes", '{"key": "a"}', ["'keystrokes' is no JSON list"]),
        ("keystrokes", '[{"key": "a", "start": 1, "end": 2}, {"key": "b", "start": 1}]', ["entry 1", "end"]),
        ("keystrokes", '[{"start": 1, "end": 2}]', ["entry 0", "key"]),
        ("keystrokes", '[{"key": "a", "start": "x", "end": 2}]', ["entry 0", "'x'"]),
        ("keystrokes", '[{"key": "a", "start": null, "end": 2}]', ["entry 0"]),
        ("keystrokes", "[3]", ["entry 0"]),
        ("prompts", "no JSON", ["'prompts' is not JSON"]),
        ("prompts", '[{"name": "p", "end": 2, "payload": null}]', ["'prompts', entry 0", "start"]),
        ("prompts", "[null]", ["'prompts', entry 0"]),
    ],
)
def test_broken_labels(make_session: Make, field: str, content: str, words: list[str]) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs[field] = content
    refused(path, *words)


@pytest.mark.parametrize("payload", ["null", '{"other": 1}', "{}"])
def test_a_prompt_without_text(make_session: Make, payload: str) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs["prompts"] = f'[{{"name": "p", "start": 1, "end": 2, "payload": {payload}}}]'
    with SessionFile(path) as session:
        assert session.header.prompts == (Prompt("p", 1.0, 2.0, None),)


def test_a_writer_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out" / "s.hdf5"

    def fail() -> None:
        with writing_session(path, 100) as writer:
            writer.append(np.arange(50.0), np.zeros((50, 2, 16), np.float32))
            raise RuntimeError("the simulation failed")

    with pytest.raises(RuntimeError, match="the simulation failed"):
        fail()
    assert list(path.parent.iterdir()) == []


def test_a_writer_that_fails_keeps_the_old_session(make_session: Make) -> None:
    path = make_session()
    before = path.read_bytes()

    def fail() -> None:
        with writing_session(path, 100) as writer:
            writer.append(np.arange(50.0), np.zeros((50, 2, 16), np.float32))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == before


def test_a_writer_appends_blocks_in_order(tmp_path: Path) -> None:
    emg = np.random.default_rng(0).normal(size=(100, 2, 16)).astype(np.float32)
    with writing_session(tmp_path / "s.hdf5", 100) as writer:
        for start in range(0, 100, 30):
            writer.append(np.arange(100.0)[start : start + 30], emg[start : start + 30])
        writer.finish(SessionHeader("n", "u", "on_keyboard", 1.0, (), ()))
    with SessionFile(tmp_path / "s.hdf5") as session:
        np.testing.assert_array_equal(session.emg(), emg)
        np.testing.assert_array_equal(session.times(), np.arange(100.0))


def test_announced_samples_must_arrive(tmp_path: Path) -> None:
    def short() -> None:
        with writing_session(tmp_path / "s.hdf5", 100) as writer:
            writer.append(np.arange(50.0), np.zeros((50, 2, 16), np.float32))
            writer.finish(SessionHeader("n", "u", "on_keyboard", 1.0, (), ()))

    with pytest.raises(AssertionError, match="50 of 100"):
        short()
    assert not (tmp_path / "s.hdf5").exists()


def test_find_sessions_sorts_by_name(make_session: Make, tmp_path: Path) -> None:
    paths = [make_session(name, samples=10) for name in ("2021-02", "2021-01")]
    (paths[0].parent / "notes.txt").write_text("")
    assert list(find_sessions(paths[0].parent)) == sorted(paths)
    with pytest.raises(EmgscribeError, match="no such folder"):
        find_sessions(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmgscribeError, match="holds no session"):
        find_sessions(tmp_path / "empty")


@pytest.mark.skipif(os.name != "posix", reason="file size limits are set through POSIX")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk, in a process of its own."""
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from emgscribe.errors import EmgscribeError\n"
        "from emgscribe.data.hdf5 import SessionHeader, write_session\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "header = SessionHeader('s', 'u', 'on_keyboard', 1.0, (), ())\n"
        "try:\n"
        "    write_session(Path(sys.argv[1]), header, np.arange(9000) / 2000, np.zeros((9000, 2, 16), np.float32))\n"
        "except EmgscribeError as error:\n"
        "    print('told:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.hdf5")], capture_output=True, text=True)
    assert "told:" in done.stdout, done.stderr[-500:]
    assert "cannot be written" in done.stdout
    assert list(tmp_path.iterdir()) == [] or {p.name for p in tmp_path.iterdir()} == {"cache"}
