"""Whole sessions, data sets, and their comparison with a recording."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import SYMBOLS
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE, SessionFile, SessionHeader
from emgscribe.data.inspect import inspect
from emgscribe.errors import EmgscribeError
from emgscribe.simulation import SimulationConfig, compare_with_recording, simulate, simulate_session
from emgscribe.simulation.measures import RECORDING
from emgscribe.simulation.report import Excerpt

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
    assert emg.shape == (len(times), BANDS, CHANNELS)
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
    header, times, emg = content(simulated(tmp_path / "a.hdf5", minutes=0.1, config=SimulationConfig()))
    assert (header.text, header.keystrokes[0].key) == ("⇧His fra⌫⌫⌫tra", "Key.shift")
    starts = [round(1000 * (stroke.start - times[0])) for stroke in header.keystrokes]
    assert starts == [1985, 2125, 2411, 2601, 2663, 2893, 3159, 3427, 3613, 4050, 4358, 4489, 4811, 5030]
    # The last bit of a sample depends on the machine, so not the bytes.
    np.testing.assert_allclose(emg.std(axis=(0, 2)), [3.735551, 6.900279], rtol=1e-4)


def test_same_arguments_same_bytes_and_every_argument_matters(tmp_path) -> None:
    path = tmp_path / "a.hdf5"
    assert simulated(path).read_bytes() == simulated(str(path)).read_bytes()
    louder = SimulationConfig(units_per_muscle=6, noise=4)
    changes = ({}, {"user": 2}, {"session": 1}, {"seed": 1}, {"config": louder})
    assert len({content(simulated(path, **changed))[2].tobytes() for changed in changes}) == len(changes)


def test_a_session_that_is_interrupted_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        simulated(tmp_path / "a.hdf5", progress=Mock(side_effect=KeyboardInterrupt))
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_looks_like_the_real_one_and_holds_the_smaller_one(tmp_path) -> None:
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
    for name in ("kurtosis", "contrast"):
        low, _, high = RECORDING.percentiles[name]
        assert low <= excerpt.measures.percentiles[name][1] <= high, name
    for correlation in excerpt.correlations:
        assert correlation[0] == pytest.approx(1)
        assert correlation[1] > 0.5 > correlation[3]
        assert abs(correlation[8]) < 0.25
    assert len(excerpt.averages) >= 8
    for average in excerpt.averages.values():
        around, long_before = (
            average[20:50].max(axis=0),
            average[:15].mean(axis=0),
        )  # 0.2 s to 0.1 s after, until 0.25 s before
        assert (around / long_before).max() > 1.4


def test_a_comparison_is_a_picture_and_its_numbers(typed, make_session, tmp_path) -> None:
    silent = make_session(samples=20_000, keys=[])
    compare_with_recording([silent], tmp_path / "silent.png")
    written = compare_with_recording([str(typed), silent], str(tmp_path / "report.png"))
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "report.json").read_text()) == written
    numbers, others = written["sessions"]
    assert numbers["session"] == "typed"
    assert 3.5 < numbers["keys_per_second"] < 6
    assert numbers["spectrum_distance"] < 0.4 < others["spectrum_distance"]
    assert others["median_interval"] is None
    assert set(written["real recording"]) <= set(numbers)


def test_a_comparison_needs_sessions_long_enough(make_session, tmp_path) -> None:
    for sessions, named in (([], "no sessions"), ([make_session()], "shorter than 10 s")):
        with pytest.raises(EmgscribeError, match=named):
            compare_with_recording(sessions, tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
