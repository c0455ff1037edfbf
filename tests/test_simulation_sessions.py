"""Whole sessions, data sets, and their comparison with a recording."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import SYMBOLS
from emgscribe.data.hdf5 import SessionFile, SessionHeader
from emgscribe.data.inspect import inspect
from emgscribe.data.session import open_session
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.arrays import SAMPLE_RATE
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.published import Row
from emgscribe.simulation.report import Excerpt, compare_with_recording
from emgscribe.simulation.sessions import simulate, simulate_key_logs, simulate_session
from emgscribe.simulation.typing_measures import measure_typing

SMALL = SimulationConfig(units_per_muscle=6)


def simulated(path: Path | str, **changed) -> Path:
    simulate_session(path, **{"user": 1, "session": 0, "minutes": 0.2, "seed": 0, "config": SMALL, **changed})
    return Path(path)


def content(path: Path) -> tuple[SessionHeader, np.ndarray, np.ndarray]:
    with SessionFile(path) as session:
        return session.header, *session.read()


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Path:  # long enough to measure
    return simulated(tmp_path_factory.mktemp("typed") / "typed.hdf5", minutes=1.0, config=SimulationConfig())


@settings(max_examples=8)
@given(
    user=st.integers(0, 99_999_999),
    seed=st.integers(0, 99_999_999),
    minutes=st.floats(0.1, 0.4),  # in less, some people press no key
    difficulty=st.floats(0, 4),
    users_differ=st.floats(0, 2),
    fat_thickness=st.floats(0.5, 15),
)
def test_any_session_can_be_read_back(tmp_path, user, seed, minutes, **physics) -> None:
    config = SimulationConfig(units_per_muscle=4, **physics)
    path = simulated(tmp_path / "any.hdf5", user=user, seed=seed, minutes=minutes, config=config)
    header, times, emg = content(path)
    assert set(header.text) <= set(SYMBOLS)
    assert emg.shape == (len(times), 2, 16)
    assert len(times) == pytest.approx(minutes * 60 * SAMPLE_RATE, abs=10)
    assert np.abs(emg).max() < 1e5  # false for NaN
    np.testing.assert_allclose(np.diff(times), 1 / SAMPLE_RATE, atol=1e-6)
    assert all(times[0] < each.start < each.end <= times[-1] for each in (*header.keystrokes, *header.prompts))
    assert len(header.labelled_keystrokes()) == len(header.keystrokes) > 0
    assert header.user == f"{user:08d}"
    assert json.loads(header.simulation).items() >= {"seed": seed, "difficulty": physics["difficulty"]}.items()
    assert header.duration_mins * 60 * SAMPLE_RATE == pytest.approx(len(times), abs=1e-3)
    assert inspect(path)[0].findings == []


def test_a_seed_gives_the_session_that_it_always_gave(tmp_path) -> None:
    header, times, emg = content(simulated(tmp_path / "a.hdf5", minutes=0.1))
    starts = [round(1000 * (stroke.start - times[0])) for stroke in header.keystrokes]
    assert (header.text, starts) == ("the qukc", [1800, 2250, 2640, 2730, 3255, 3390, 3525, 3885])
    # The last bit of a sample depends on the machine, so not the bytes.
    np.testing.assert_allclose(emg.std(axis=(0, 2)), [7.047251, 4.399686], rtol=1e-4)


def test_the_same_arguments_give_the_same_bytes_and_every_argument_matters(tmp_path) -> None:
    path = tmp_path / "a.hdf5"
    assert simulated(path).read_bytes() == simulated(str(path)).read_bytes()
    louder = SimulationConfig(units_per_muscle=6, noise=4)
    changes = ({}, {"user": 2}, {"session": 1}, {"seed": 1}, {"config": louder})
    assert len({content(simulated(path, **changed))[2].tobytes() for changed in changes}) == len(changes)


def test_a_session_that_is_interrupted_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        simulated(tmp_path / "a.hdf5", progress=Mock(side_effect=KeyboardInterrupt))
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_has_the_real_layout_and_contains_smaller_ones(tmp_path) -> None:
    seen: list[float] = []
    paths = simulate(str(tmp_path), users=2, sessions=2, minutes=0.2, seed=3, config=SMALL, progress=seen.append)
    assert sorted(tmp_path.glob("*.hdf5")) == sorted(paths)
    np.testing.assert_allclose(seen, np.add.outer(np.arange(4), [5 / 6, 1]).ravel() / 4)  # blocks of 10 s and 2 s
    with (tmp_path / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "user,session,condition,duration_mins,num_keystrokes,num_prompts,quality_check_tags"
    assert [row["session"] for row in rows] == [path.stem for path in paths]
    for row, path in zip(rows, paths, strict=True):
        header, times, _ = content(path)
        assert [row["user"], row["condition"]] == [header.user, "on_keyboard"]
        assert int(row["num_keystrokes"]) == len(header.keystrokes)
        unix = int(row["session"].split("-")[3])
        assert unix == int(times[0])
        assert datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d") == row["session"][:10]
    assert paths[:2] == sorted(paths[:2])
    assert len({row["user"] for row in rows}) == 2
    (smaller,) = simulate(tmp_path / "smaller", users=1, sessions=1, minutes=0.2, seed=3, config=SMALL)
    assert (smaller.name, smaller.read_bytes()) == (paths[0].name, paths[0].read_bytes())


def test_an_interrupted_data_set_is_completed(tmp_path) -> None:
    make = {"users": 1, "sessions": 4, "minutes": 0.2, "config": SMALL}
    whole = [path.read_bytes() for path in simulate(tmp_path / "whole", **make)]
    out = tmp_path / "out"
    simulate(out, seed=1, **make)  # the same names, other sessions
    paths = simulate(out, **make)
    with h5py.File(paths[1], "r+") as file:  # as another version of the simulator would make it
        rows = file["emg2qwerty/timeseries"][:1]
        rows["emg_left"] += 1
        file["emg2qwerty/timeseries"][:1] = rows
    paths[2].write_bytes(whole[2][:5000])
    paths[3].unlink()
    before = paths[0].stat()
    simulate(out, progress=(seen := []).append, **make)
    assert seen[-1] == 1
    assert [path.read_bytes() for path in paths] == whole
    assert (paths[0].stat().st_ino, paths[0].stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("make", [simulate, simulated])
def test_numbers_out_of_range_are_named(tmp_path, make) -> None:
    own = {"users": [0, 10**20], "sessions": [0, 10**20]} if make == simulate else {"user": [-1], "session": [-1]}
    for name, values in {"minutes": [0.0, np.nan, 601], "seed": [10**8], **own}.items():
        for wrong in values:
            with pytest.raises(EmgscribeError, match=f"{name} is .*, allowed: .* to "):
                make(tmp_path / "out", **{name: wrong})
    assert list(tmp_path.iterdir()) == []


def test_the_signal_looks_like_emg(typed) -> None:
    excerpt = Excerpt.of_session(typed)
    ring = np.arange(16)
    for band in range(2):
        correlation = np.corrcoef(excerpt.emg[:, band], rowvar=False)
        near, further, opposite = (correlation[ring, np.roll(ring, -step)].mean() for step in (1, 3, 8))
        assert near > 0.5 > further
        assert abs(opposite) < 0.25
    assert len(excerpt.averages) >= 8
    for average in excerpt.averages.values():
        around, long_before = (
            average[20:50].max(axis=0),
            average[:15].mean(axis=0),
        )  # 0.2 s to 0.1 s after, until 0.25 s before
        assert (around / long_before).max() > 1.4


def test_a_comparison_writes_a_page_a_picture_and_its_numbers(typed, make_session, tmp_path) -> None:
    silent = make_session(samples=20_000, keys=[])
    assert measure_typing([content(silent)[0]]) == {}
    written = compare_with_recording([str(typed), silent], str(tmp_path / "report.png"))
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "report.json").read_text()) == written
    assert written["measured"] == ["typed", "session"]
    assert len(written["rows"]) > 40
    page = (tmp_path / "report.md").read_text()
    for row in written["rows"]:
        line = next(line for line in page.splitlines() if line.startswith(f"| {row['name']} | {row['unit']} |"))
        assert (line.split("|")[-2].strip() == "✓") == row["near"]


def test_a_distance_is_in_points_or_in_per_cent() -> None:
    share, time = Row("a", "%", 10.0, 5.0, 14.0), Row("b", "ms", 200.0, 10.0, 250.0)
    assert (share.distance, share.near, time.distance, time.near) == (4.0, True, 25.0, False)


def write_events(folder: Path, *rows: str, name: str = "sub-00000007_ses-1600000000_task-typing_events.tsv") -> Path:
    path = folder / "sub-00000007" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["onset\tduration\tsample\tvalue\tkey\tprompt_text", *rows]) + "\n", encoding="utf-8")
    return path


KEYS = ("0.5", "Key.enter"), ("1.0", "d"), ("1.05", "e"), ("1.1", "c"), ("2.0", "Key.left")
EVENTS = "0.4\t3\t800\tprompt\tn/a\tdec\\n", *(f"{at}\t0.09\t0\tkeystroke_{key}\t{key}\tn/a" for at, key in KEYS)


def test_simulated_muscles_move_under_real_keys(tmp_path) -> None:
    write_events(tmp_path / "logs", *EVENTS)
    (path,) = simulate_key_logs(tmp_path / "logs", tmp_path / "out", config=SMALL)
    header, times, emg = content(path)
    assert path.stem == header.name == "2020-09-13-1600000000-simulated-emg-00000007"
    assert (header.user, header.prompts[0].text, header.real_keys) == ("00000007", "dec\n", True)
    assert [(stroke.key, round(stroke.start - 1.6e9, 3)) for stroke in header.keystrokes] == [
        (key, float(at)) for at, key in KEYS
    ]
    assert (times[0], len(times)) == (1.6e9, pytest.approx(4.4 * SAMPLE_RATE, abs=20))
    left = np.abs(emg[:, 0]).mean(axis=1)
    assert left[int(0.8 * SAMPLE_RATE) : int(1.2 * SAMPLE_RATE)].mean() > 2 * left[3 * SAMPLE_RATE :].mean()
    assert (tmp_path / "out" / "metadata.csv").read_text().count("\n") == 2
    session = open_session(path)
    assert (session.simulated, session.real_keys, "real keys" in repr(session)) == (True, True, True)
    path = path.rename(path.with_suffix(".H5"))
    (again,) = simulate_key_logs(tmp_path / "out", tmp_path / "again", config=SMALL)  # from a session file
    assert again.stem == path.stem
    assert content(again)[0].keystrokes == header.keystrokes
    made = simulated(tmp_path / "made" / "a.hdf5")
    (under_made,) = simulate_key_logs(made.parent, tmp_path / "third", config=SMALL)
    assert not content(under_made)[0].real_keys  # no person pressed them


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "has no keystrokes"),
        (("1.0\t0.1\t0\tkeystroke_a\ta\tn/a", "x\t0.1\t0\tkeystroke_a\ta\tn/a"), "line 3: could not convert"),
        (("1.0",), "line 2: "),
        (("-1\t0.1\t0\tkeystroke_a\ta\tn/a",), "lasts from -1 to -0.9 s"),
        (("nan\t0.1\t0\tkeystroke_a\ta\tn/a",), "nan for 0.1 s is not a time"),
        (("5\t-0.1\t0\tkeystroke_a\ta\tn/a",), "lasts from 5 to 4.9 s"),
        (("1e9\t0.1\t0\tkeystroke_a\ta\tn/a",), "lasts from 1e"),
        (("1.0\t0.1\t0\tkeystroke_\xff\ta\tn/a",), "can't decode"),
    ],
)
def test_a_key_log_that_cannot_be_used_gives_one_error(tmp_path, rows, message) -> None:
    path = write_events(tmp_path / "logs", *rows)
    path.write_bytes(path.read_bytes().replace("\xff".encode(), b"\xff"))
    with pytest.raises(EmgscribeError, match=message):
        simulate_key_logs(tmp_path / "logs", tmp_path / "out", config=SMALL)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_usable_key_logs_and_a_duplicate_log_give_errors(tmp_path) -> None:
    write_events(tmp_path / "wrong", *EVENTS, name="a_events.tsv")
    write_events(tmp_path / "header" / "deep", *EVENTS).write_text("onset\tduration\n")
    for place in ("twice/a", "twice/b"):
        write_events(tmp_path / place, *EVENTS)
    (tmp_path / "empty").mkdir()
    for folder, message in {
        "nowhere": "no such folder",
        "empty": "has no key logs",
        "wrong": "is not named sub-USER",
        "header": "line 1: no column value",
        "twice": "second log of user 00000007",
    }.items():
        with pytest.raises(EmgscribeError, match=message):
            simulate_key_logs(tmp_path / folder, tmp_path / "out", config=SMALL)


def test_a_comparison_needs_sessions_long_enough(make_session, tmp_path) -> None:
    for sessions, named in (([], "no sessions"), ([make_session()], "shorter than 10 s")):
        with pytest.raises(EmgscribeError, match=named):
            compare_with_recording(sessions, tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
