import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from emgscribe.data.hdf5 import SAMPLE_DTYPE, Prompt, open_file
from emgscribe.data.inspect import Inspection, inspect_session

Make = Callable[..., Path]
START = 1_600_000_000.0


def noise(samples: int = 2000) -> np.ndarray:
    """Random EMG (T, 2, 16)."""
    return np.random.default_rng(0).normal(size=(samples, 2, 16)).astype(np.float32)


def clock(samples: int = 2000) -> np.ndarray:
    """The times of a faultless session."""
    return START + np.arange(samples) / 2000


def findings(inspection: Inspection) -> list[tuple[str, str, str]]:
    """All findings as plain tuples."""
    return [(f.severity, f.field, f.message) for f in inspection.findings]


def one(path: Path) -> tuple[str, str, str]:
    """The only finding of a file."""
    found = findings(inspect_session(path))
    assert len(found) == 1, found
    return found[0]


def test_a_faultless_session(make_session: Make) -> None:
    keys = [("Key.shift", 0.1), ("H", 0.2), ("i", 0.3)]
    inspection = inspect_session(make_session("n", keys=keys, prompts=[Prompt("p", 0.0, 1.0, None)]))
    assert inspection.findings == []
    assert inspection.usable
    assert inspection.summary == {
        "samples": 2000,
        "sample_rate": 2000.0,
        "session": "n",
        "user": "user",
        "condition": "on_keyboard",
        "duration_mins": 2000 / 2000 / 60,
        "simulated": False,
        "keystrokes": 3,
        "prompts": 1,
        "unknown_keys": {},
        "text": "⇧Hi",
    }


def test_simulated_sessions_are_called_so(make_session: Make) -> None:
    assert inspect_session(make_session(simulation="{}")).summary["simulated"] is True


def test_as_json(make_session: Make) -> None:
    emg = noise()
    emg[5, 0, 0] = np.nan
    inspection = inspect_session(make_session(emg=emg))
    content = json.loads(json.dumps(inspection.to_json(), allow_nan=False))
    assert content["usable"] is False
    assert content["path"] == inspection.path
    assert content["findings"][0] == {
        "severity": "error",
        "field": "emg_left",
        "message": "1 of 2000 samples are not finite",
    }


def test_missing_file(tmp_path: Path) -> None:
    assert one(tmp_path / "none.hdf5") == ("error", "file", "no such file")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "s.hdf5").write_text("not HDF5")
    severity, field, message = one(tmp_path / "s.hdf5")
    assert (severity, field) == ("error", "file")
    assert "not a readable HDF5 file" in message


def test_file_cut_off_inside_the_samples(make_session: Make) -> None:
    path = make_session()
    with h5py.File(path, "r") as file:
        offset = file["emg2qwerty/timeseries"].id.get_offset()
    path.write_bytes(path.read_bytes()[: offset + 136 * 1000])
    severity, field, message = one(path)
    assert (severity, field) == ("error", "file")
    assert "truncated" in message


def test_samples_that_are_lost_while_the_file_is_open(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_session(samples=20_000)
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs.clear()  # the texts lie behind the samples; only these are meant here

    def opened_then_cut(name: Path) -> h5py.File:
        file = open_file(name)
        offset = file["emg2qwerty/timeseries"].id.get_offset()
        os.truncate(name, offset + 136 * 10_000 + 8)
        return file

    monkeypatch.setattr("emgscribe.data.inspect.open_file", opened_then_cut)
    inspection = inspect_session(path)
    assert ("error", "file", f"truncated: {136 * 10_000 - 8} bytes of samples are missing") in findings(inspection)
    assert not inspection.usable


def test_no_group_and_no_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = 1
    assert one(tmp_path / "a.hdf5") == ("error", "timeseries", "HDF5 group 'emg2qwerty' is missing")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_group("emg2qwerty")
    assert one(tmp_path / "b.hdf5") == ("error", "timeseries", "dataset 'emg2qwerty/timeseries' is missing")


def test_samples_are_checked_though_attributes_are_missing(make_session: Make) -> None:
    emg = noise()
    emg[7, 1, 3] = np.inf
    path = make_session(emg=emg)
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"].attrs["user"]
        del file["emg2qwerty"].attrs["prompts"]
    assert findings(inspect_session(path)) == [
        ("error", "attributes", "attributes user, prompts missing"),
        ("error", "emg_right", "1 of 2000 samples are not finite"),
    ]


def test_broken_json(make_session: Make) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs["keystrokes"] = "[{"
    severity, field, message = one(path)
    assert (severity, field) == ("error", "attributes")
    assert "'keystrokes' is not JSON" in message


def test_empty_session(make_session: Make) -> None:
    inspection = inspect_session(make_session(samples=0, keys=[]))
    assert ("error", "timeseries", "the session is empty: it has no samples") in findings(inspection)
    assert not inspection.usable
    assert inspection.summary["samples"] == 0


@pytest.mark.parametrize(("band", "field"), [(0, "emg_left"), (1, "emg_right")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_emg_that_is_not_finite(make_session: Make, band: int, field: str, value: float) -> None:
    emg = noise()
    emg[[3, 900], band, [0, 15]] = value
    emg[900, band, 4] = value  # twice in one sample counts once
    assert one(make_session(emg=emg)) == ("error", field, "2 of 2000 samples are not finite")


def test_time_that_is_not_finite(make_session: Make) -> None:
    times = clock()
    times[40] = np.nan
    assert one(make_session(times=times, emg=noise())) == ("error", "time", "1 of 2000 samples are not finite")


def test_time_that_runs_backwards(make_session: Make) -> None:
    times = clock()
    times[[100, 500]] -= 0.004
    assert one(make_session(times=times, emg=noise())) == ("error", "time", "time runs backwards 2 times")


def test_faults_on_the_seam_of_two_blocks(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgscribe.data.inspect._BLOCK", 64)
    times = clock()
    times[64] -= 0.001  # the first of the second block lies before the last of the first
    times[128:] += 0.02  # a gap exactly between two blocks
    assert findings(inspect_session(make_session(times=times, emg=noise()))) == [
        ("error", "time", "time runs backwards 1 times"),
        ("warning", "time", "1 gaps, the longest 0.020 s"),
    ]


def test_gaps(make_session: Make) -> None:
    times = clock()
    times[500:] += 0.1
    times[1500:] += 0.2
    inspection = inspect_session(make_session(times=times, emg=noise(), duration_mins=(times[-1] - times[0]) / 60))
    assert inspection.usable
    assert ("warning", "time", "2 gaps, the longest 0.201 s") in findings(inspection)


def test_a_late_sample_is_no_gap(make_session: Make) -> None:
    times = clock()
    times[500:] += 0.004
    assert inspect_session(make_session(times=times, emg=noise())).findings == []


@pytest.mark.parametrize("rate", [1000, 2100])
def test_wrong_rate(make_session: Make, rate: int) -> None:
    times = START + np.arange(2000) / rate
    path = make_session(times=times, emg=noise(), duration_mins=2000 / rate / 60)
    assert one(path) == ("warning", "time", f"{rate:.1f} samples a second, expected 2000")
    assert inspect_session(path).summary["sample_rate"] == rate


def test_constant_channels(make_session: Make) -> None:
    emg = noise()
    emg[:, 0, [2, 9]] = 0.5
    emg[:, 1, 15] = 0
    emg[:-1, 1, 14] = 0  # changes once, at the very end
    assert findings(inspect_session(make_session(emg=emg))) == [
        ("warning", "emg_left", "electrode channels [2, 9] never change"),
        ("warning", "emg_right", "electrode channels [15] never change"),
    ]


def test_a_channel_that_rests_for_a_block_is_not_constant(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgscribe.data.inspect._BLOCK", 500)
    emg = noise()
    emg[500:1000, 0, 3] = emg[0, 0, 3]
    emg[1500:, 0, 4] = emg[0, 0, 4]
    assert inspect_session(make_session(emg=emg)).findings == []


def test_keystrokes_outside_the_recording(make_session: Make) -> None:
    path = make_session(keys=[("a", -0.1), ("b", 0.0), ("c", 0.5), ("d", 1.2), ("e", 7.0)])
    assert one(path) == ("warning", "keystrokes", "3 of 5 lie outside the recording and are ignored")


def test_unknown_keys_are_counted(make_session: Make) -> None:
    path = make_session(keys=[("Key.ctrl", 0.1), ("a", 0.2), ("Key.tab", 0.3), ("Key.ctrl", 0.4)])
    severity, field, message = one(path)
    assert (severity, field) == ("warning", "keystrokes")
    assert "3 keystrokes" in message
    assert "Key.ctrl x2, Key.tab x1" in message
    assert inspect_session(path).summary["unknown_keys"] == {"Key.ctrl": 2, "Key.tab": 1}


def test_no_keystrokes(make_session: Make) -> None:
    assert one(make_session(keys=[])) == ("warning", "keystrokes", "no key was pressed")


def test_keystrokes_out_of_order(make_session: Make) -> None:
    path = make_session(keys=[("b", 0.4), ("a", 0.1)])
    assert one(path) == ("warning", "keystrokes", "not in order of time; they are sorted when read")
    assert inspect_session(path).summary["text"] == "ab"


def keystrokes(path: Path, entries: list[dict[str, object]]) -> Path:
    """Replace the keystrokes of a session file."""
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs["keystrokes"] = json.dumps(entries)
    return path


def test_keystrokes_that_end_before_they_start(make_session: Make) -> None:
    entries = [{"key": "a", "start": START + 0.5, "end": START + 0.4}]
    assert one(keystrokes(make_session(), entries)) == ("warning", "keystrokes", "1 end before they start")


@pytest.mark.parametrize("field", ["start", "end"])
def test_keystrokes_at_no_time(make_session: Make, field: str) -> None:
    entries = [{"key": "a", "start": START + 0.5, "end": START + 0.6, field: float("nan")}]
    inspection = inspect_session(keystrokes(make_session(), entries))
    assert ("error", "keystrokes", "some start or end is not finite") in findings(inspection)
    assert not inspection.usable


@pytest.mark.parametrize("minutes", [0.0, 1.0, -5.0])
def test_wrong_duration(make_session: Make, minutes: float) -> None:
    path = make_session(duration_mins=minutes)
    assert one(path) == ("warning", "duration_mins", f"says {minutes:.3f}, the samples span 0.017")


def test_more_bytes_a_sample_than_usual(make_session: Make) -> None:
    path = make_session()
    dtype = np.dtype([*((name, SAMPLE_DTYPE[name]) for name in SAMPLE_DTYPE.names or ()), ("extra", "<f4")])
    rows = np.zeros(2000, dtype)
    rows["time"], rows["emg_left"], rows["emg_right"] = clock(), noise()[:, 0], noise()[:, 1]
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty/timeseries"]
        file["emg2qwerty"]["timeseries"] = rows
    assert one(path) == ("warning", "timeseries", "140 bytes a sample, expected 136")


def test_a_compressed_session_is_no_fault(make_session: Make) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        rows = file["emg2qwerty/timeseries"][:]
        del file["emg2qwerty/timeseries"]
        file["emg2qwerty"].create_dataset("timeseries", data=rows, compression="gzip")
    assert inspect_session(path).findings == []


def test_all_faults_are_reported_at_once(make_session: Make) -> None:
    emg, times = noise(), clock()
    emg[3, 0, 1] = np.nan
    emg[:, 1, 4] = 0
    times[1000:] += 0.5
    times[1200] -= 1.0
    inspection = inspect_session(
        make_session(times=times, emg=emg, keys=[("Key.tab", 0.2), ("a", 0.1), ("b", 99.0)], duration_mins=3.0)
    )
    assert {(f.severity, f.field) for f in inspection.findings} == {
        ("error", "emg_left"),
        ("error", "time"),
        ("warning", "time"),
        ("warning", "emg_right"),
        ("warning", "keystrokes"),
        ("warning", "duration_mins"),
    }
    assert sum(f.field == "keystrokes" for f in inspection.findings) == 3  # unknown, out of order, outside
    assert not inspection.usable
