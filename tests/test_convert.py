"""Recordings of other formats -> sessions, and sessions as a BIDS data set."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import START
from devices import myo, text_table, typing_day, xdf, xdf_stream
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.cli import main
from emgscribe.data.bids import read_recording, write_bids
from emgscribe.data.convert import Source, convert
from emgscribe.data.hdf5 import Keystroke, SessionFile, find_sessions
from emgscribe.data.inspect import inspect
from emgscribe.data.recordings import Recording, Track, write_recording
from emgscribe.data.session import open_session
from emgscribe.data.shape import Shape
from emgscribe.data.tables import read_keys
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.sessions import simulate

RATE = 200
LEFT = Source(bands=("left",), start="2026-11-28T12:00:00")
KEYS = "key,start,end\nh,1.0,1.1\nEnter,2.5,2.6\n"
WAVES = np.sin(np.arange(4 * RATE)[:, None] / np.arange(2, 10)).astype(np.float32)  # (T, 8)
TIMES = np.arange(len(WAVES)) / RATE


def one(path: Path, out: Path, source: Source = LEFT, **options: object) -> tuple[Path, list[str]]:
    """Convert one file; returns the session and what was noted."""
    (done,) = convert(path, out, source, **options)  # type: ignore[arg-type]
    return done.path, done.notes


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("timed", [True, False])
def test_a_table_becomes_a_session(mark: str, timed: bool, tmp_path: Path) -> None:
    names = [f"e{number}" for number in range(8)]
    columns = ([TIMES], ["time"]) if timed else ([], [])
    path = text_table(tmp_path / "arm.csv", *columns[0], WAVES, names=[*columns[1], *names], mark=mark)
    (tmp_path / "keys.csv").write_text(KEYS)
    source = Source(keys=tmp_path / "keys.csv", bands=("left",), rate=0 if timed else RATE, start="2026-11-28")
    made, notes = one(path, tmp_path / "out", source, user="me")
    session = open_session(made)
    np.testing.assert_allclose(session.emg[:, 0], WAVES, rtol=1e-6)
    assert (session.text, session.onsets.tolist(), session.user) == ("h⏎", [200, 500], "me")
    assert (session.shape, notes) == (Shape(("left",), 8, RATE), [])
    assert inspect(made)[0].findings == []
    with SessionFile(made) as file:
        assert file.layout.start == 1_795_824_000  # 2026-11-28, UTC


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_of_spreadsheets_are_read(mark: str, tmp_path: Path) -> None:
    names = ["time", *(f"e{number}" for number in range(8))]
    table = text_table(tmp_path / "arm.csv", TIMES, WAVES, names=names, mark=mark)
    table.write_text(table.read_text().replace(".", ","))
    (tmp_path / "keys.csv").write_text(KEYS.replace(",", mark).replace(".", ","))
    source = Source(keys=tmp_path / "keys.csv", bands=("left",), start="2026-11-28")
    session = open_session(one(table, tmp_path / "out", source)[0])
    np.testing.assert_allclose(session.emg[:, 0], WAVES, rtol=1e-6)
    assert (session.text, session.onsets.tolist()) == ("h⏎", [200, 500])


@pytest.mark.parametrize("kind", ["npy", "npz", "bands"])
def test_numpy_arrays_become_a_session(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("arm.npz" if kind == "npz" else "arm.npy")
    if kind == "npz":
        np.savez(path, emg=WAVES, times=START + TIMES)
    else:
        np.save(path, WAVES if kind == "npy" else WAVES.reshape(-1, 2, 4))
    bands = ("left", "right") if kind == "bands" else ("left",)
    made, _ = one(path, tmp_path / "out", Source(bands=bands, rate=RATE, columns=() if kind == "bands" else ("7", "0")))
    session = open_session(made)
    expected = WAVES.reshape(-1, 2, 4) if kind == "bands" else WAVES[:, None, [7, 0]]
    np.testing.assert_array_equal(session.emg, expected)
    with SessionFile(made) as file:
        assert (file.layout.start == START) == (kind == "npz")


def test_units_become_microvolts(tmp_path: Path) -> None:
    np.save(path := tmp_path / "arm.npy", WAVES)
    for unit, factor in {"mV": 1e3, "V": 1e6, "uV": 1, "nV": 1e-3, "raw": 1}.items():
        made, notes = one(path, tmp_path / unit, Source(bands=("left",), rate=RATE, unit=unit))
        np.testing.assert_allclose(open_session(made).emg[:, 0], factor * WAVES, rtol=1e-6)
        assert bool(notes) == (unit == "raw")
    with pytest.raises(EmgscribeError, match="unit is 'furlong'"):
        one(path, tmp_path, Source(bands=("left",), rate=RATE, unit="furlong"))


def recorded(times: np.ndarray, emg: np.ndarray = WAVES, rate: float = RATE, late: float = 0.0) -> Recording:
    return Recording(("left", "right"), (Track(times, emg), Track(times + late, emg)), rate, START)


def test_gaps_become_silence(tmp_path: Path) -> None:
    kept = np.r_[0:300, 340:800]
    made = write_recording(recorded(TIMES[kept], WAVES[kept]), tmp_path / "one.hdf5")
    session = open_session(made.path)
    assert len(session) == 800
    assert not session.emg[300:340].any()
    np.testing.assert_array_equal(session.emg[340:, 0], WAVES[340:])
    assert "the left band lacks 0.200 s (gaps: 1), which are now silent" in made.notes


def test_a_single_missing_sample_moves_nothing(tmp_path: Path) -> None:
    kept = np.r_[0:100, 101:800]
    session = open_session(write_recording(recorded(TIMES[kept], WAVES[kept]), tmp_path / "one.hdf5").path)
    np.testing.assert_array_equal(session.emg[101:, 0], WAVES[101:])
    assert not session.emg[100].any()


def test_a_clock_that_runs_slow_is_followed_and_reported(tmp_path: Path) -> None:
    made = write_recording(recorded(TIMES * 1.004), tmp_path / "one.hdf5")
    assert any("199.203 samples a second, not 200" in note for note in made.notes)
    with SessionFile(made.path) as file:
        times, emg = file.read()
    np.testing.assert_allclose(times - START, TIMES * 1.004, atol=1e-4)
    np.testing.assert_array_equal(emg[:, 1], WAVES)
    with pytest.raises(EmgscribeError, match=r"190\.476 samples a second, not 200"):
        write_recording(recorded(TIMES * 1.05), tmp_path / "two.hdf5")


def test_times_that_scatter_get_a_regular_clock(tmp_path: Path) -> None:
    packets = np.repeat(TIMES[7::8], 8)  # a device that sends eight samples at a time
    made = write_recording(recorded(packets, rate=0), tmp_path / "one.hdf5")
    session = open_session(made.path)
    assert len(session) == pytest.approx(800, abs=2)
    with SessionFile(made.path) as file:
        assert np.ptp(np.diff(file.read()[0])) < 1e-5
    assert any("scatter by up to" in note for note in made.notes)


def test_two_bands_with_separate_clocks_are_aligned(tmp_path: Path) -> None:
    right = TIMES * 1.001 + 0.5  # begins later, and drifts
    recording = Recording(("left", "right"), (Track(TIMES, WAVES), Track(right, WAVES)), RATE, START)
    session = open_session(write_recording(recording, tmp_path / "one.hdf5").path)
    assert len(session) == pytest.approx(700, abs=1)
    at = np.searchsorted(right, 2.0)
    assert abs(session.emg[300, 1] - WAVES[at]).max() < 0.5  # a neighbouring sample
    np.testing.assert_array_equal(session.emg[300, 0], WAVES[400])


@settings(max_examples=30, deadline=None)
@given(holes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_kept_samples_stay_where_they_were(
    holes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = np.ones(800, dtype=bool)
    for hole, at in zip(holes, np.random.default_rng(seed).choice(700, len(holes)), strict=True):
        kept[at + 20 : at + 20 + hole] = False
    made = write_recording(recorded(TIMES[kept], WAVES[kept] + 2), tmp_path_factory.mktemp("holes") / "one.hdf5")
    with SessionFile(made.path) as file:
        _, emg = file.read()
    np.testing.assert_allclose(emg[:, 0], np.where(kept[: len(emg), None], WAVES[: len(emg)] + 2, 0), rtol=1e-6)


def test_resampling_filters_first(tmp_path: Path) -> None:
    fast = np.arange(4000) / 2000
    waves = np.column_stack([np.sin(2 * np.pi * 20 * fast), np.sin(2 * np.pi * 170 * fast)]).astype(np.float32)
    recording = Recording(("left",), (Track(fast, waves),), 2000.0, START)
    session = open_session(write_recording(recording, tmp_path / "one.hdf5", resample=200).path)
    assert session.shape == Shape(("left",), 2, 200.0)
    assert len(session) == 400
    kept, gone = session.emg[50:350, 0].std(axis=0)
    assert kept == pytest.approx(0.707, rel=0.05)
    assert gone < 0.03  # unfiltered, it would alias to 30 Hz


@pytest.mark.parametrize("rate", [1999.0, 1999.3, 2000.8, 4000.5])
def test_resampled_signals_stay_with_their_keys(rate: float, tmp_path: Path) -> None:
    """Though the ratio of two rates is rounded to one of small numbers."""
    pulse = np.zeros((int(60 * rate), 1), np.float32)
    pulse[round(50 * rate) - 20 : round(50 * rate) + 20] = 100
    recording = recorded(np.arange(len(pulse)) / rate, pulse, 0.0)
    with SessionFile(write_recording(recording, tmp_path / "one.hdf5", resample=2000).path) as file:
        times, emg = file.read()
        assert file.shape.rate == 2000
    at = np.average(times, weights=np.maximum(emg[:, 0, 0], 0))
    assert at - times[0] == pytest.approx(50, abs=0.001)


def table(folder: Path) -> Path:
    """A table of eight electrodes with a column of times."""
    return text_table(folder / "a.csv", TIMES, WAVES, names=["time", *"abcdefgh"])


def test_a_conversion_does_not_replace_what_it_reads(tmp_path: Path) -> None:
    (made, _) = one(table(tmp_path), tmp_path / "out", LEFT)
    before = made.read_bytes()
    for named in (made, made.parent):
        with pytest.raises(EmgscribeError, match=r"would be lost: the new a\.hdf5 takes its place"):
            convert(named, made.parent, resample=100)
    assert made.read_bytes() == before


@pytest.mark.parametrize("ending", ["h5", "HDF5"])
def test_endings_are_recognized_in_any_case(ending: str, tmp_path: Path) -> None:
    (made, _) = one(table(tmp_path), tmp_path / "out", LEFT)
    (tmp_path / "a.csv").rename(tmp_path / "A.CSV")
    assert one(tmp_path / "A.CSV", tmp_path / "again", LEFT)[0].name == "A.hdf5"
    made = made.rename(made.with_suffix(f".{ending}"))
    assert [done.path.name for done in convert(made.parent, tmp_path / "new")] == ["a.hdf5"]
    (bdf,) = write_bids([made], tmp_path / "bids")
    bdf = bdf.rename(bdf.with_suffix(".BDF"))
    np.testing.assert_allclose(read_recording(bdf).tracks[0].emg, WAVES, atol=1e-6)
    np.save(array := tmp_path / "b.npy", WAVES)
    array = array.rename(tmp_path / "b.NPY")
    assert one(array, tmp_path / "arrays", replace(LEFT, rate=RATE))[0].name == "b.hdf5"


def test_a_recording_without_samples_is_refused(make_session: Callable[..., Path], tmp_path: Path) -> None:
    np.save(array := tmp_path / "a.npy", WAVES[:0])
    for path in (array, make_session(samples=0, keys=[], duration_mins=0.0)):
        with pytest.raises(EmgscribeError, match="holds no samples") as caught:
            convert(path, tmp_path / "out", replace(LEFT, rate=RATE))
        assert caught.value.where == str(path)


def test_resampling_a_session_keeps_its_header_and_puts_its_keys_in_order(tmp_path: Path) -> None:
    recording = recorded(TIMES)
    keys = Keystroke("b", 1.0, 1.3), Keystroke("a", 0.9, 1.4)  # as they were released
    about = {"condition": "on_table", "clock_error": 0.02, "keystrokes": keys}
    made = write_recording(replace(recording, **about), tmp_path / "one.hdf5").path
    slow, _ = one(made, tmp_path / "slow", resample=100)
    with SessionFile(made) as first, SessionFile(slow) as second:
        assert first.header == second.header
        assert (first.header.condition, first.header.clock_error) == ("on_table", 0.02)
        assert [key.key for key in first.header.keystrokes] == ["a", "b"]


BAD_TABLES = {
    "nothing": ("", "it is empty"),
    "keys": ("Key, start, end\na,0.1,0.2\n", "holds keys, not samples"),
    "words": ("a,b\n1,2\nx,3\n", "not a table of numbers"),
    "dates": ("time,e\n2026-11-28T12:00:00,1\n2026-11-28T12:00:01,2\n", "not a table of numbers.*\n.*in seconds"),
    "ragged": ("1,2\n3\n", "not a table of numbers"),
    "names": ("a,b,c\n1,2\n3,4\n", "3 names for 2 columns|not a table"),
    "backwards": ("time,e\n0,1\n1,1\n0.5,1\n", "time runs backwards 1x, first at sample 2"),
    "not finite": ("time,e\n0,1\nnan,1\n", "not finite"),
    "standing": ("time,e\n1,1\n1,1\n1,1\n", "same time"),
    "one sample": ("time,e\n1,1\n", "fewer than two times"),
    "no EMG": ("time,e\n0,1\n.01,nan\n.02,1e30\n", "2 of 3 samples are not finite, or too large"),
    "odd columns": ("time,e,f,g\n0,1,2,3\n1,1,2,3\n", "3 columns cannot be divided"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_gives_one_error(name: str, tmp_path: Path) -> None:
    content, message = BAD_TABLES[name]
    (tmp_path / "bad.csv").write_text(content)
    bands = ("left", "right") if name == "odd columns" else ("left",)
    with pytest.raises(EmgscribeError, match=message) as caught:
        one(tmp_path / "bad.csv", tmp_path / "out", Source(bands=bands, start="2026-01-01"))
    assert "bad.csv" in caught.value.where
    assert caught.value.hint
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"\x80\4cos\nsystem\n(Vtouch x\ntR."])
@pytest.mark.parametrize("suffix", ["npy", "npz", "xdf", "bdf", "edf", "csv", "hdf5", "doc"])
def test_damaged_files_give_one_error(
    suffix: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / f"bad.{suffix}").write_bytes(data)
    with pytest.raises(EmgscribeError) as caught:
        one(path, tmp_path / "out", Source(bands=("left",), rate=200, start="2026-01-01"))
    assert caught.value.hint
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("key,start,end\na,1,1.5\n", [("a", 1, 1.5)]),
        ("Key, onset, duration\n", []),
        ("key,time\nSpace,2\n", [("Space", 2, 2.1)]),
        (",key,start\n7,a,1\n", [("a", 1, 1.1)]),  # pandas numbers rows in a column without a name
        ("start,end,key,prompt\n0,5,,the fox\\n\n1,2,t,\n", [("t", 1, 2)]),
    ],
)
def test_key_logs_have_several_forms(content: str, keys: list[tuple[str, float, float]], tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text(content)
    found, prompts = read_keys(tmp_path / "keys.csv")
    assert [(key.key, key.start, key.end) for key in found] == keys
    assert [prompt.text for prompt in prompts] == (["the fox\n"] if "fox" in content else [])


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "key,start\na,soon\n", "key,start\na,nan\n", "key,start\na\n"])
def test_a_bad_key_log_gives_one_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text(content)
    with pytest.raises(EmgscribeError, match=r"keys\.csv: line"):
        read_keys(tmp_path / "keys.csv")


def test_an_xdf_file_of_two_bands_and_a_keyboard_is_converted(tmp_path: Path) -> None:
    keys = ["t pressed", "t pressed", "t released", "Space pressed", "Space released", "ü"]
    path = xdf(
        tmp_path / "lab.xdf",
        xdf_stream(1, "MyoLeft", "EMG", WAVES, 77 + TIMES),
        xdf_stream(2, "Keyboard", "Markers", keys, 77 + np.array([1.0, 1.02, 1.1, 2.0, 2.1, 3.0])),
        xdf_stream(3, "MyoRight", "EMG", -WAVES, 77 + TIMES),
    )
    made, notes = one(path, tmp_path / "out", Source(start="2026-11-28T12:00:00", streams=("MyoLeft", "MyoRight")))
    session = open_session(made)
    np.testing.assert_allclose(session.emg[:, 0], 1000 * WAVES, rtol=1e-6)
    np.testing.assert_allclose(session.emg[:, 1], -1000 * WAVES, rtol=1e-6)
    assert (session.text, session.onsets.tolist(), notes) == ("t u", [200, 400, 600], [])
    with pytest.raises(EmgscribeError, match="2 streams of EMG"):
        one(path, tmp_path / "out", LEFT)
    with pytest.raises(EmgscribeError, match=r"no stream 'Myo'.*\n.*MyoLeft"):
        one(path, tmp_path / "out", Source(streams=("Myo",)))
    with pytest.raises(EmgscribeError, match="no samples of EMG"):
        one(path, tmp_path / "out", Source(streams=("Keyboard",), bands=("left",)))
    same = [xdf_stream(number, "Myo", "EMG", WAVES, 77 + TIMES) for number in (1, 2)]
    with pytest.raises(EmgscribeError, match="has 2 streams named 'Myo'"):
        one(xdf(tmp_path / "twice.xdf", *same), tmp_path / "out", Source())


def test_a_damaged_part_of_an_xdf_file_is_noted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A recorder that was cut off leaves such files: the intact parts are worth keeping."""
    markers = xdf_stream(2, "Keyboard", "Markers", ["t pressed", "t released"], np.array([1.0, 1.1]))
    xdf(tmp_path / "lab.xdf", xdf_stream(1, "Myo", "EMG", WAVES, TIMES), markers.replace(b"\x01\x09t", b"\x05\x09t"))
    made, notes = one(tmp_path / "lab.xdf", tmp_path / "out", LEFT)
    assert open_session(made).text == ""
    (note,) = notes
    assert note.startswith("pyxdf: found likely XDF file corruption (")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def simulated(tmp_path: Path) -> list[Path]:
    config = SimulationConfig(bands=("left",), electrodes=3, sample_rate=200, text="we were\nsad")
    return simulate(tmp_path / "data", users=2, sessions=1, minutes=0.1, config=config)


def test_a_round_trip_through_bids_loses_nothing(simulated: list[Path], tmp_path: Path) -> None:
    write_bids(simulated, tmp_path / "bids")
    assert main(["convert", str(tmp_path / "bids"), "--out", str(tmp_path / "back")]) == 0
    for before, after in zip(simulated, find_sessions(tmp_path / "back"), strict=True):
        with SessionFile(before) as one, SessionFile(after) as two:
            assert one.header == two.header  # the mark of a simulated session too
            (times, emg), (again, read) = one.read(), two.read()
        np.testing.assert_array_equal(times, again)
        np.testing.assert_allclose(emg, read, rtol=0, atol=2 * np.abs(emg).max() / 2**23)
        assert open_session(before).onsets.tolist() == open_session(after).onsets.tolist()


def test_the_bids_validator_finds_no_error(simulated: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("bids_validator_deno", reason="pip install bids-validator-deno")
    write_bids(simulated, tmp_path / "bids")
    command = [str(Path(sys.executable).with_name("bids-validator-deno")), str(tmp_path / "bids"), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        pytest.skip(f"the validator does not run here: {done.stderr[-200:]}")
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert issues  # it looked


def test_channels_that_are_not_emg_are_left_out(simulated: list[Path], tmp_path: Path) -> None:
    (path, _) = write_bids(simulated, tmp_path / "bids")
    table = next(path.parent.glob("*_channels.tsv"))
    table.write_text(table.read_text().replace("EMG2\tEMG", "EMG2\tMISC"))
    assert read_recording(path).tracks[0].emg.shape[1] == 2
    table.write_text(table.read_text().replace("EMG1\tEMG\tuV\tE1\tbipolar\tleft", "EMG1\tEMG\tuV\tE1\tbipolar\tright"))
    assert read_recording(path).bands == ("left", "right")
    table.unlink()
    assert read_recording(path, ("right",)).bands == ("right",)


def test_what_bids_cannot_hold_is_refused(tmp_path: Path, simulated: list[Path]) -> None:
    with pytest.raises(EmgscribeError, match="is a second session of"):
        write_bids([simulated[0], simulated[0]], tmp_path / "bids")
    recording = Recording(("left",), (Track(np.arange(900) / 200.5, WAVES[:1].repeat(900, 0)),), 200.5, START)
    path = write_recording(recording, tmp_path / "odd.hdf5").path
    with pytest.raises(EmgscribeError, match=r"200.5 samples a second(?s:.*)--resample"):
        write_bids([path], tmp_path / "bids2")


def folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_there(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BESIDE = {"folder": folder_there, "pipe": pipe_there, "bytes": lambda path: path.write_bytes(b"onset\tname\n\xff\t1\n")}


@pytest.mark.parametrize("damage", BESIDE)
@pytest.mark.parametrize("kind", ["channels.tsv", "events.tsv", "emg.json"])
def test_a_bad_file_beside_a_bids_recording_gives_one_error(
    kind: str, damage: str, simulated: list[Path], tmp_path: Path
) -> None:
    (path, _) = write_bids(simulated, tmp_path / "bids")
    (beside,) = path.parent.glob(f"*_{kind}")
    BESIDE[damage](beside)
    with pytest.raises(EmgscribeError) as caught:
        read_recording(path)
    assert caught.value.where == str(beside)
    assert caught.value.hint


def test_an_empty_list_of_bands_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arm.csv").write_text("1,2\n3,4\n")
    assert main(["convert", str(tmp_path / "arm.csv"), "--out", str(tmp_path / "out"), "--rate", "200", "--bands"]) == 2
    assert "bands is" in capsys.readouterr().err


@pytest.mark.parametrize("value", [-1.0, 1e-3, 1e9, float("nan"), float("inf")])
def test_rates_out_of_range_are_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match=r"rate is .*, allowed: 0, or 10 to"):
        Source(rate=value)
    with pytest.raises(EmgscribeError, match=r"resample is .*, allowed: 0, or 10 to"):
        write_recording(recorded(TIMES), tmp_path / "one.hdf5", resample=value)


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = text_table(tmp_path / "arm.csv", TIMES[:400], WAVES[:400], names=["time", *"abcdefgh"])
    (tmp_path / "keys.csv").write_text(KEYS)
    options = ["--bands", "left", "--keys", str(tmp_path / "keys.csv"), "--start", "2026-11-28"]
    assert main(["convert", str(path), "--out", str(tmp_path / "out"), *options]) == 0
    shown = capsys.readouterr().out
    assert "arm.hdf5: a left band of 8 electrodes at 200 Hz, 0.03 min, keys: 1" in shown
    assert "1 of 2 keys lie outside the samples" in shown
    assert main(["convert", str(path), str(path), "--out", str(tmp_path / "out"), *options]) == 2
    assert main(["convert", "--out", str(tmp_path / "out")]) == 2
    assert main(["convert", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none: there is no such file or folder" in capsys.readouterr().err
    assert main(["convert", str(path), "--out", str(tmp_path / "out"), "--to", "bids"]) == 2
    assert main(["convert", str(path), "--out", str(tmp_path / "out"), "--bands", "left", "--start", "soon"]) == 2


def test_all_names_of_a_key_give_the_same_symbol(tmp_path: Path) -> None:
    names = ["a", "Space", "ENTER", "Return", "Backspace", "Key.backspace", "Shift_L", "ShiftRight", " ", "\n", "A"]
    keys = tuple(Keystroke(name, 0.1 * at, 0.1 * at + 0.05) for at, name in enumerate(names))
    recording = Recording(("left",), (Track(TIMES, WAVES),), RATE, START, keystrokes=keys)
    assert open_session(write_recording(recording, tmp_path / "one.hdf5").path).text == "a ⏎⏎⌫⌫⇧⇧ ⏎A"


@pytest.mark.parametrize("arms", [("left", "right"), ("right",)])
def test_recordings_of_myo_keylogging_are_converted(arms: tuple[str, ...], tmp_path: Path) -> None:
    made, notes = one(myo(tmp_path / "train-data", 100 * WAVES, *arms), tmp_path / "out", Source(start="2021-01-01"))
    session = open_session(made)
    assert (session.shape, session.name) == (Shape(arms, 8, 200.0), "P1-0")  # type: ignore[arg-type]
    assert session.text == "t⇧! "
    assert "the unit is unknown: numbers are kept as they are" in notes
    assert 95 < session.emg.max() <= 100


@pytest.mark.parametrize("log", ["time,keysym\n1,a\n", "time,keycode,keysym,event\nsoon,1,a,pressed\n"])
def test_a_bad_log_of_myo_keylogging_gives_one_error(log: str, tmp_path: Path) -> None:
    (myo(tmp_path / "data", WAVES, "left") / "P1-0.key.csv").write_text(log)
    with pytest.raises(EmgscribeError, match=r"P1-0\.key\.csv: line 2"):
        one(tmp_path / "data", tmp_path / "out", Source(start="2021-01-01"))


DAY = 50 * np.sin(np.arange(6000)[:, None] / np.arange(3, 19))  # (T, 16) in µV


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """The folder of a day of sEMG-TypingDatabase, with one recording of 3 s."""
    pytest.importorskip("neo", reason="pip install 'emgscribe[intan]'")
    return typing_day(tmp_path / "CleanData", DAY)


BAD_DAYS = {
    "no number": ("LAG_TIMINGS.csv", b"Filename,Lag\nS_220923_131650,x\n", "line 2: could not convert"),
    "not finite": ("LAG_TIMINGS.csv", b"Filename,Lag\nS_220923_131650,nan\n", "line 2: nan is not a time"),
    "no column": ("LAG_TIMINGS.csv", b"Filename,Late\nS_220923_131650,1\n", "line 2: no column Lag"),
    "no text": ("LAG_TIMINGS.csv", b"Filename,Lag\n\xff,1\n", "decode"),
    "no date": (
        "Keylogs.txt",
        b"2022-13-45 13:16:51,000 - 'a'\n",
        "line 1: 2022-13-45 13:16:51 is not a date and time",
    ),
}


@pytest.mark.parametrize("fault", BAD_DAYS)
def test_a_bad_day_of_the_typing_database_gives_one_error(fault: str, day: Path, tmp_path: Path) -> None:
    name, content, message = BAD_DAYS[fault]
    (day / name).write_bytes(content)
    with pytest.raises(EmgscribeError, match=message) as caught:
        one(day, tmp_path / "out", Source())
    assert caught.value.where == str(day / name)


@pytest.mark.parametrize("damage", [folder_there, pipe_there])
@pytest.mark.parametrize("name", ["Keylogs.txt", "LAG_TIMINGS.csv"])
def test_a_folder_or_pipe_beside_an_intan_file_is_refused_at_once(
    name: str, damage: Callable[[Path], None], day: Path, tmp_path: Path
) -> None:
    damage(day / name)
    with pytest.raises(EmgscribeError, match=f"{name}: is not a file"):
        one(day, tmp_path / "out", Source())


def test_a_recording_whose_name_has_no_date_gets_no_keys(day: Path, tmp_path: Path) -> None:
    named = day / "Data" / "S_220923_131650.rhd"
    named.rename(named.with_name("S_999999_999999.rhd"))
    made, _ = one(day, tmp_path / "out", Source())
    assert open_session(made).text == ""


def test_recordings_of_the_typing_database_are_converted(day: Path, tmp_path: Path) -> None:
    (day / "Keylogs.txt").write_text(
        "Python 3.10.7\n2022-09-23 13:16:43,108 - 's'\n2022-09-23 13:16:51,500 - Key.space\n"
        "2022-09-23 13:16:52,153 - 's'\n2022-09-23 13:17:06,312 - Key.space\n"
    )
    made, _ = one(tmp_path / "CleanData", tmp_path / "out", Source())
    session = open_session(made)
    assert (session.user, session.name, session.text) == ("P1", "P1-T1-S_220923_131650", " s")
    assert session.onsets.tolist() == [2500, 3806]
    assert session.shape == Shape(electrodes=8)
    np.testing.assert_allclose(session.emg[:, 1], DAY[:, 8:], atol=0.2)
    (day / "Data" / "S_220923_131650.rhd").write_bytes(b"\x02\x27\x91\xc6" + bytes(40))
    with pytest.raises(EmgscribeError, match="is damaged, or not an Intan file"):
        one(tmp_path / "CleanData", tmp_path / "out", Source())


def test_a_folder_without_recordings_and_times_in_milliseconds_are_reported(tmp_path: Path) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    path = text_table(tmp_path / "outer/inner/emg.csv", 1000 * TIMES, WAVES, names=["time", *"abcdefgh"])
    with pytest.raises(EmgscribeError, match="holds no recordings") as caught:
        convert(tmp_path / "outer", tmp_path / "out")
    assert caught.value.where == str(tmp_path / "outer")
    with pytest.raises(EmgscribeError, match="its times span"):
        convert([path], tmp_path / "out", Source(bands=("left",)))


def test_a_start_is_refused_for_several_recordings(tmp_path: Path) -> None:
    paths = [
        text_table(tmp_path / f"{name}.csv", TIMES[:400], WAVES[:400], names=["time", *"abcdefgh"]) for name in "ab"
    ]
    with pytest.raises(EmgscribeError, match="--start is for one recording, and there are 2"):
        convert(paths, tmp_path / "out", Source(bands=("left",), start="2026-11-28"))
    assert not (tmp_path / "out").exists()


def test_recordings_of_the_same_name_do_not_replace_each_other(tmp_path: Path) -> None:
    paths = []
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        paths.append(text_table(tmp_path / day / "emg.csv", TIMES[:400], WAVES[:400], names=["time", *"abcdefgh"]))
    with pytest.raises(EmgscribeError, match=r"would become emg.hdf5, as .*monday/emg.csv did") as caught:
        convert(paths, tmp_path / "out", Source(bands=("left",)))
    assert caught.value.where == str(paths[1])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["emg.hdf5"]


@pytest.mark.parametrize("late", [-100.0, 1.7e9])
def test_keys_on_another_clock_are_refused(late: float, tmp_path: Path) -> None:
    path = text_table(tmp_path / "arm.csv", TIMES[:400], WAVES[:400], names=["time", *"abcdefgh"])
    (tmp_path / "arm_keys.csv").write_text(f"key,start,end\na,{late},{late + 0.1}\n")
    with pytest.raises(EmgscribeError, match="the samples run from") as caught:
        convert(path, tmp_path / "out", Source(bands=("left",)))
    assert caught.value.where.endswith("arm_keys.csv")
    assert not (tmp_path / "out").exists()
