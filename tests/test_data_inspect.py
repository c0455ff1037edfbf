"""Every fault that `inspect` knows, that it and `open_session` refuse the same files, and many files at once."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emgscribe.data.hdf5 import Prompt, SessionFile
from emgscribe.data.inspect import Inspection, inspect
from emgscribe.data.session import open_session
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError

Make = Callable[..., Path]
START = 1_600_000_000.0
NAN, INF = float("nan"), float("inf")
TIMES = START + np.arange(2000) / 2000


NO_LABEL = "none has a label: the session can be transcribed, but not trained on or scored"
ERROR, WARNING, OF = "error", "warning", "of 2000 samples are not finite"
EXPECTED = "samples a second, expected 2000 (attribute sample_rate; without it, 2000)"
UNUSABLE = f"{OF}, or too large for EMG in any unit"


def emg(*changes: tuple[Any, float]) -> np.ndarray:
    """Random EMG (2000, 2, 16) with values changed at (index, value)."""
    values = np.random.default_rng(0).normal(size=(2000, 2, 16)).astype(np.float32)
    for index, value in changes:
        values[index] = value
    return values


def times(*changes: tuple[Any, float]) -> np.ndarray:
    """The times of a faultless session, with something added at (index, value)."""
    changed = TIMES.copy()
    for index, value in changes:
        changed[index] += value
    return changed


def inspected(path: Path) -> Inspection:
    """What is found in a file. Files that are not usable are refused when they are opened, and no others."""
    (inspection,) = inspect(path)
    with nullcontext() if inspection.usable else pytest.raises(EmgscribeError):
        open_session(path)
    return inspection


def test_a_faultless_session_has_no_findings(make_session: Make) -> None:
    keys = [("Key.shift", 0.1), ("H", 0.2), ("i", 0.3)]
    inspection = inspected(make_session("n", keys=keys, prompts=[Prompt("p", 0.0, 1.0, None)]))
    assert (inspection.findings, inspection.usable) == ([], True)
    expected = {"samples": 2000, "sample_rate": 2000.0, "duration_mins": 1 / 60, "keystrokes": 3, "prompts": 1}
    expected |= {"session": "n", "user": "user", "condition": "on_keyboard", "simulated": False, "real_keys": False}
    assert inspection.summary == {**expected, "unknown_keys": {}, "text": "⇧Hi", "shape": str(Shape())}


def test_many_files_and_folders_are_inspected_at_once(make_session: Make, tmp_path: Path) -> None:
    paths = [make_session("b", emg=emg((3, NAN)), duration_mins=NAN), make_session("a", simulation="{}")]
    found = inspect([paths[0].parent, str(tmp_path / "none.hdf5"), paths[1]])
    assert [Path(inspection.path).stem for inspection in found] == ["a", "b", "none", "a"]
    assert [inspection.usable for inspection in found] == [True, False, False, True]
    assert [inspection.summary.get("simulated") for inspection in found] == [True, False, None, True]
    assert repr(found[0]) == f"{paths[1]}: usable"
    assert repr(found[2]) == f"{tmp_path / 'none.hdf5'}: not usable\n  error: file: no such file"
    content = json.loads(json.dumps(found[1].to_json(), allow_nan=False))
    assert (content["usable"], content["path"]) == (False, str(paths[0]))
    assert content["findings"][0] == {"severity": "error", "field": "emg_left", "message": f"1 {UNUSABLE}"}
    with pytest.raises(EmgscribeError, match="has no session files"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ({"samples": 0, "keys": []}, [(ERROR, "timeseries", "the session has no samples")]),
        # Twice in one sample counts once.
        ({"emg": emg((np.s_[[3, 9], 0], NAN), ((9, 0, 4), INF))}, [(ERROR, "emg_left", f"2 {UNUSABLE}")]),
        ({"emg": emg(((3, 1, 15), -INF))}, [(ERROR, "emg_right", f"1 {UNUSABLE}")]),
        ({"emg": emg((np.s_[1:, 1, 7], 1e30), ((5, 0), 4e9))}, [(ERROR, "emg_right", f"1999 {UNUSABLE}")]),
        ({"emg": emg((1999, 3e38))}, [(ERROR, name, f"1 {UNUSABLE}") for name in ("emg_left", "emg_right")]),
        ({"emg": np.full((2000, 2, 16), 0.5)}, [(ERROR, "timeseries", "no electrode channel ever changes")]),
        ({"emg": emg()[:1], "keys": [("a", 0.0)]}, []),
        ({"times": times((40, NAN))}, [(ERROR, "time", f"1 {OF}")]),
        ({"times": times(([100, 640], -0.004))}, [(ERROR, "time", "time runs backwards (2x)")]),
        ({"times": times((slice(500, None), 0.004))}, []),
        (
            {"times": times((slice(1000, None), 86400.0)), "duration_mins": 86401 / 60},
            [
                (ERROR, "time", "a gap of more than a minute: these are several recordings"),
                (WARNING, "time", f"0.0231363 {EXPECTED}"),
            ],
        ),
        (
            {"times": times() * 0 + START, "duration_mins": 0.0, "keys": [("a", 0.0)]},
            [(ERROR, "time", f"inf {EXPECTED}")],
        ),
        ({"times": times((1999, 0.0165), (1998, 0.006))}, [(WARNING, "time", "gaps (2x), the longest 0.011 s")]),
        (
            {"times": START + np.arange(2000) / 1000, "duration_mins": 2 / 60},
            [(ERROR, "time", f"1000 {EXPECTED}")],
        ),
        (
            # Electrode 4 changes once, at the very end.
            {"emg": emg((np.s_[:, 0, 2], 0.5), (np.s_[:, 0, 9], 1), (np.s_[:, 1, 15], 0), (np.s_[:-1, :, 4], 0))},
            [
                (WARNING, "emg_left", "electrode channels [2, 9] never change"),
                (WARNING, "emg_right", "electrode channels [15] never change"),
            ],
        ),
        *(
            ({"duration_mins": minutes}, [(WARNING, "duration_mins", f"says {minutes:.4g}, the samples span 0.01666")])
            for minutes in (0.0, 1.0, NAN)
        ),
    ],
)
def test_faults_of_samples_are_found(
    make_session: Make, session: dict[str, Any], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = SessionFile.blocks
    monkeypatch.setattr(SessionFile, "blocks", lambda self: blocks(self, 64))  # faults are on the seams too
    content = {"emg": emg()} if "samples" not in session else {}
    found = inspected(make_session(**content | session)).findings
    assert found == expected or (found[:1] == expected and "samples" in session)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ([("a", -0.1), ("b", 0.0), ("c", 0.5), ("d", 1.2)], "2 of 4 lie outside the recording and are ignored"),
        (
            [("Key.ctrl", 0.1), ("a", 0.2), ("Key.tab", 0.3), ("Key.ctrl", 0.4)],
            "3 of 4 are of keys without a symbol and are ignored: Key.ctrl x2, Key.tab x1",
        ),
        ([], NO_LABEL),
        ([("b", 0.4), ("a", 0.1)], "1 of 2 start before their predecessors; keystrokes are sorted when read"),
    ],
)
def test_faults_of_keystrokes_are_found(make_session: Make, keys: list[tuple[str, float]], fault: str) -> None:
    assert inspected(make_session(keys=keys)).findings == [(WARNING, "keystrokes", fault)]


def test_absurd_times_are_reported_in_short_messages(make_session: Make) -> None:
    found = inspected(make_session(times=np.linspace(-1, 1, 2000) * 1.7e308, emg=emg())).findings
    assert found[0] == (ERROR, "time", "a gap of more than a minute: these are several recordings")
    assert max(len(message) for _, _, message in found) < 100


@pytest.mark.parametrize("end", [START + 0.4, NAN])
def test_keystrokes_that_do_not_end_after_they_start_give_a_warning(make_session: Make, end: float) -> None:
    path = make_session()
    with h5py.File(path, "r+") as file:
        keys = [{"key": "a", "start": START + 0.5, "end": end}, {"key": "b", "start": START + 0.7, "end": START + 0.8}]
        file["emg2qwerty"].attrs["keystrokes"] = json.dumps(keys)
    assert inspected(path).findings == [(WARNING, "keystrokes", "1 of 2 do not end after they start")]
    assert open_session(path).text == "ab"


def test_samples_are_checked_even_where_attributes_are_missing(make_session: Make) -> None:
    path = make_session(emg=emg((7, INF)))
    with h5py.File(path, "r+") as file:
        del file["emg2qwerty"].attrs["user"], file["emg2qwerty"].attrs["prompts"]
    assert inspected(path).findings[-2:] == [
        (ERROR, "emg_right", f"1 {UNUSABLE}"),
        (ERROR, "file", "attributes are missing: user, prompts"),
    ]


def test_samples_that_are_lost_while_the_file_is_open_are_reported(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_session(samples=20_000)
    read = SessionFile.read

    def cut_then_read(self: SessionFile, *place: int) -> tuple[np.ndarray, np.ndarray]:
        os.truncate(path, 136 * 10_000)
        return read(self, *place)

    monkeypatch.setattr(SessionFile, "read", cut_then_read)
    (fault,) = inspected(path).findings
    assert fault[:2] == (ERROR, "file")
    assert "changed while it was read" in fault[2]
