"""Every fault that `inspect` knows, that it and `open_session` refuse the same files, and many files at once."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from emgscribe.data.hdf5 import SAMPLE_DTYPE, Prompt, SessionFile
from emgscribe.data.inspect import Inspection, inspect
from emgscribe.data.session import open_session
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
START = 1_600_000_000.0


def noise(samples: int = 2000) -> np.ndarray:
    """Random EMG (T, 2, 16)."""
    return np.random.default_rng(0).normal(size=(samples, 2, 16)).astype(np.float32)


def clock(samples: int = 2000) -> np.ndarray:
    """The times of a faultless session."""
    return START + np.arange(samples) / 2000


def read_in_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let files be read in blocks of another size."""
    blocks = SessionFile.blocks
    monkeypatch.setattr(SessionFile, "blocks", lambda self: blocks(self, size))


def inspected(path: Path) -> Inspection:
    """What is found in a file; what is not usable is refused when it is opened, and nothing else is."""
    (inspection,) = inspect(path)
    if inspection.usable:
        open_session(path)
    else:
        with pytest.raises(EmgscribeError):
            open_session(path)
    return inspection


def findings(path: Path) -> list[tuple[str, str, str]]:
    """All findings as plain tuples."""
    return [(f.severity, f.field, f.message) for f in inspected(path).findings]


def one(path: Path) -> tuple[str, str, str]:
    """The only finding of a file."""
    (found,) = findings(path)
    return found


def test_a_faultless_session(make_session: Make) -> None:
    keys = [("Key.shift", 0.1), ("H", 0.2), ("i", 0.3)]
    inspection = inspected(make_session("n", keys=keys, prompts=[Prompt("p", 0.0, 1.0, None)]))
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


def test_many_files_and_folders_at_once(make_session: Make, tmp_path: Path) -> None:
    paths = [make_session("b"), make_session("a", simulation="{}")]
    found = inspect([paths[0].parent, str(tmp_path / "none.hdf5"), paths[0]])
    assert [Path(inspection.path).stem for inspection in found] == ["a", "b", "none", "b"]
    assert [inspection.usable for inspection in found] == [True, True, False, True]
    assert [inspection.summary.get("simulated") for inspection in found] == [True, False, None, False]
    assert repr(found[0]) == f"{paths[1]}: usable"
    assert repr(found[2]) == f"{tmp_path / 'none.hdf5'}: not usable\n  error: file: no such file"
    with pytest.raises(EmgscribeError, match="has no session files"):
        inspect(tmp_path)


def test_as_json(make_session: Make) -> None:
    emg = noise()
    emg[5, 0, 0] = np.nan
    inspection = inspected(make_session(emg=emg, duration_mins=float("nan")))
    content = json.loads(json.dumps(inspection.to_json(), allow_nan=False))
    assert (content["usable"], content["path"]) == (False, inspection.path)
    message = "1 of 2000 samples are not finite"
    assert content["findings"][0] == {"severity": "error", "field": "emg_left", "message": message}


def test_other_files(make_session: Make, tmp_path: Path) -> None:
    (tmp_path / "s.hdf5").write_text("not HDF5")
    assert "not a readable HDF5 file" in one(tmp_path / "s.hdf5")[2]
    path = make_session()
    with h5py.File(path, "r") as file:
        offset = file["emg2qwerty/timeseries"].id.get_offset()
    path.write_bytes(path.read_bytes()[: offset + 136 * 1000])
    severity, field, message = one(path)
    assert (severity, field) == ("error", "file")
    assert "truncated" in message


def test_samples_that_are_lost_while_the_file_is_open(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_session(samples=20_000)
    rows = SessionFile.rows

    def cut_then_read(self: SessionFile, *place: int) -> np.ndarray:
        os.truncate(path, 136 * 10_000)
        return rows(self, *place)

    monkeypatch.setattr(SessionFile, "rows", cut_then_read)
    # HDF5 gives zeros for rows past the end of the file.
    assert ("error", "time", "time runs backwards (1x)") in findings(path)


def test_no_group_and_no_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = 1
    assert one(tmp_path / "a.hdf5") == ("error", "file", "HDF5 group 'emg2qwerty' is missing")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_group("emg2qwerty")
    assert one(tmp_path / "b.hdf5") == ("error", "file", "dataset 'emg2qwerty/timeseries' is missing")


def test_samples_are_checked_though_attributes_are_missing(make_session: Make) -> None:
    emg = noise()
    emg[7, 1, 3] = np.inf
    path = make_session(emg=emg)
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"].attrs["user"]
        del file["emg2qwerty"].attrs["prompts"]
    assert findings(path) == [
        ("error", "emg_right", "1 of 2000 samples are not finite"),
        ("error", "file", "attributes user, prompts missing"),
    ]


def test_empty_session(make_session: Make) -> None:
    path = make_session(samples=0, keys=[])
    assert findings(path)[0] == ("error", "timeseries", "the session has no samples")
    assert inspected(path).summary["samples"] == 0


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
    assert one(make_session(times=times, emg=noise())) == ("error", "time", "time runs backwards (2x)")


def test_faults_on_the_seam_of_two_blocks(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_blocks(monkeypatch, 64)
    times = clock()
    times[64] -= 0.001  # the first of the second block lies before the last of the first
    times[128:] += 0.02  # a gap exactly between two blocks
    assert findings(make_session(times=times, emg=noise())) == [
        ("error", "time", "time runs backwards (1x)"),
        ("warning", "time", "gaps (1x), the longest 0.020 s"),
    ]


def test_gaps(make_session: Make) -> None:
    times = clock()
    times[500:] += 0.1
    times[1500:] += 0.2
    path = make_session(times=times, emg=noise(), duration_mins=(times[-1] - times[0]) / 60)
    assert ("warning", "time", "gaps (2x), the longest 0.201 s") in findings(path)
    times = clock()
    times[500:] += 0.004  # a late sample is no gap
    assert findings(make_session(times=times, emg=noise())) == []


@pytest.mark.parametrize("rate", [1000, 2100])
def test_wrong_rate(make_session: Make, rate: int) -> None:
    times = START + np.arange(2000) / rate
    path = make_session(times=times, emg=noise(), duration_mins=2000 / rate / 60)
    assert one(path) == ("warning", "time", f"{rate:.1f} samples a second, expected 2000")
    assert inspected(path).summary["sample_rate"] == rate


def test_constant_channels(make_session: Make) -> None:
    emg = noise()
    emg[:, 0, [2, 9]] = 0.5
    emg[:, 1, 15] = 0
    emg[:-1, 1, 14] = 0  # changes once, at the very end
    assert findings(make_session(emg=emg)) == [
        ("warning", "emg_left", "electrode channels [2, 9] never change"),
        ("warning", "emg_right", "electrode channels [15] never change"),
    ]


def test_a_channel_that_rests_for_a_block_is_not_constant(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_blocks(monkeypatch, 500)
    emg = noise()
    emg[500:1000, 0, 3] = emg[0, 0, 3]
    emg[1500:, 0, 4] = emg[0, 0, 4]
    assert inspected(make_session(emg=emg)).findings == []


def test_keystrokes(make_session: Make) -> None:
    def warned(keys: list[tuple[str, float]]) -> list[str]:
        found = findings(make_session(keys=keys))
        assert {finding[:2] for finding in found} <= {("warning", "keystrokes")}
        return [message for _, _, message in found]

    outside = "3 of 5 lie outside the recording and are ignored"
    assert warned([("a", -0.1), ("b", 0.0), ("c", 0.5), ("d", 1.2), ("e", 7.0)]) == [outside]
    unknown = "3 of 4 are of keys without a symbol and are ignored: Key.ctrl x2, Key.tab x1"
    assert warned([("Key.ctrl", 0.1), ("a", 0.2), ("Key.tab", 0.3), ("Key.ctrl", 0.4)]) == [unknown]
    assert warned([]) == ["no key was pressed"]
    order = "1 of 2 start before the one before them; keystrokes are sorted when read"
    assert warned([("b", 0.4), ("a", 0.1)]) == [order]


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        ({"end": START + 0.4}, "1 of 2 end before they start"),
        ({"end": float("nan")}, "1 of 2 have a start or end that is not finite"),
        ({"start": float("nan")}, "1 of 2 have a start or end that is not finite"),
        ({"start": float("inf")}, "1 of 2 have a start or end that is not finite"),
    ],
)
def test_keystrokes_at_odd_times(make_session: Make, times: dict[str, float], fault: str) -> None:
    path = make_session()
    keystrokes = [
        {"key": "a", "start": START + 0.5, "end": START + 0.6} | times,
        {"key": "b", "start": START + 0.7, "end": START + 0.8},
    ]
    with h5py.File(path, "r+") as file:
        file["emg2qwerty"].attrs["keystrokes"] = json.dumps(keystrokes)
    assert ("warning", "keystrokes", fault) in findings(path)
    assert open_session(path).text == ("b" if "start" in times else "ab")


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
    assert inspected(path).findings == []


def test_all_faults_are_reported_at_once(make_session: Make) -> None:
    emg, times = noise(), clock()
    emg[3, 0, 1] = np.nan
    emg[:, 1, 4] = 0
    times[1000:] += 0.5
    times[1200] -= 1.0
    keys = [("Key.tab", 0.2), ("a", 0.1), ("b", 99.0)]
    found = findings(make_session(times=times, emg=emg, keys=keys, duration_mins=3.0))
    assert {finding[:2] for finding in found} == {
        ("error", "emg_left"),
        ("error", "time"),
        ("warning", "time"),
        ("warning", "emg_right"),
        ("warning", "keystrokes"),
        ("warning", "duration_mins"),
    }
    assert sum(field == "keystrokes" for _, field, _ in found) == 3  # unknown, out of order, outside
