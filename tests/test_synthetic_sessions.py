import csv
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import SYMBOLS
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE, SessionFile
from emgscribe.data.inspect import inspect
from emgscribe.errors import EmgscribeError
from emgscribe.simulation import SimulationConfig, make_report, synthesize_dataset, synthesize_session
from emgscribe.simulation.measures import correlation_by_distance, measure
from emgscribe.simulation.reference import PERCENTILES
from emgscribe.simulation.report import Excerpt, triggered_averages

SMALL = SimulationConfig(units_per_muscle=6)


def synthesize(
    path: Path, *, user: int = 1, session: int = 0, minutes: float = 0.2, seed: int = 0, config=SMALL
) -> Path:
    synthesize_session(path, user=user, session=session, minutes=minutes, seed=seed, config=config)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Path:
    """A minute at the defaults, long enough to measure."""
    return synthesize(tmp_path_factory.mktemp("typed") / "typed.hdf5", minutes=1.0, config=SimulationConfig())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user=st.integers(0, 99_999_999),
    seed=st.integers(0, 99_999_999),
    minutes=st.floats(0.05, 0.4),
    difficulty=st.floats(0, 4),
    users_differ=st.floats(0, 2),
    fat_thickness=st.floats(0.5, 15),
)
def test_any_session_can_be_read_back(tmp_path, user, seed, minutes, **physics) -> None:
    config = SimulationConfig(units_per_muscle=4, **physics)
    path = synthesize(tmp_path / "any.hdf5", user=user, seed=seed, minutes=minutes, config=config)
    with SessionFile(path) as session:
        times, emg, header = session.times(), session.emg(), session.header
        assert session.header.text == "".join(symbol for symbol, _ in header.labelled_keystrokes())
    assert emg.shape == (len(times), BANDS, CHANNELS)
    assert len(times) == pytest.approx(minutes * 60 * SAMPLE_RATE, abs=10)
    assert np.isfinite(emg).all()
    assert np.abs(emg).max() < 1e5
    np.testing.assert_allclose(np.diff(times), 1 / SAMPLE_RATE, atol=1e-6)
    assert all(times[0] < stroke.start < stroke.end < times[-1] for stroke in header.keystrokes)
    assert all(times[0] < prompt.start < prompt.end <= times[-1] for prompt in header.prompts)
    assert len(header.labelled_keystrokes()) == len(header.keystrokes) > 0
    assert header.user == f"{user:08d}"
    assert json.loads(header.simulation).items() >= {"seed": seed, "difficulty": physics["difficulty"]}.items()
    assert header.duration_mins * 60 * SAMPLE_RATE == pytest.approx(len(times), abs=1e-3)
    assert inspect(path)[0].findings == []


def test_same_arguments_same_bytes_and_every_argument_matters(tmp_path) -> None:
    first = digest(synthesize(tmp_path / "a.hdf5"))
    assert digest(synthesize(tmp_path / "a.hdf5")) == first

    def samples(**arguments) -> bytes:
        with SessionFile(synthesize(tmp_path / "a.hdf5", **arguments)) as session:
            return session.emg().tobytes()

    others = [{"user": 2}, {"session": 1}, {"seed": 1}, {"config": SimulationConfig(units_per_muscle=6, noise=4)}]
    assert len({samples(), *(samples(**other) for other in others)}) == 1 + len(others)


def test_progress_rises_to_one(tmp_path) -> None:
    seen: list[float] = []
    path = tmp_path / "a.hdf5"
    synthesize_session(path, user=1, session=0, minutes=0.5, seed=0, config=SMALL, progress=seen.append)
    assert seen == sorted(set(seen))
    assert len(seen) == 3
    assert seen[-1] == 1.0


def test_a_session_that_is_interrupted_leaves_nothing(tmp_path) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_session(tmp_path / "a.hdf5", user=1, session=0, minutes=0.5, seed=0, config=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_looks_like_the_real_one(tmp_path) -> None:
    seen: list[float] = []
    paths = synthesize_dataset(tmp_path, users=2, sessions=2, minutes=0.1, seed=3, config=SMALL, progress=seen.append)
    assert sorted(tmp_path.glob("*.hdf5")) == sorted(paths)
    assert seen == sorted(set(seen))
    assert len(seen) == 4
    assert seen[-1] == 1.0
    with (tmp_path / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = "user,session,condition,duration_mins,num_keystrokes,num_prompts,quality_check_tags"
    assert ",".join(rows[0]) == columns
    assert [row["session"] for row in rows] == [path.stem for path in paths]
    for row, path in zip(rows, paths, strict=True):
        with SessionFile(path) as session:
            header, start = session.header, session.times(0, 1)[0]
        assert (row["user"], row["condition"]) == (header.user, "on_keyboard")
        assert int(row["num_keystrokes"]) == len(header.keystrokes)
        date, unix = row["session"][:10], int(row["session"].split("-")[3])
        assert unix == int(start)
        assert datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d") == date
    assert paths[:2] == sorted(paths[:2])
    assert len({row["user"] for row in rows}) == 2


def test_a_larger_data_set_holds_the_smaller_one(tmp_path) -> None:
    (small,) = synthesize_dataset(tmp_path / "small", users=1, sessions=1, minutes=0.1, seed=3, config=SMALL)
    larger = synthesize_dataset(tmp_path / "large", users=2, sessions=1, minutes=0.1, seed=3, config=SMALL)
    assert larger[0].name == small.name
    assert digest(larger[0]) == digest(small)


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"minutes": float("nan")}, {"user": -1}, {"seed": -1}])
def test_numbers_out_of_range_are_named(tmp_path, wrong) -> None:
    with pytest.raises(EmgscribeError, match=f"{next(iter(wrong))} is .*, allowed is"):
        synthesize(tmp_path / "a.hdf5", **wrong)
    with pytest.raises(EmgscribeError, match="at least one of each"):
        synthesize_dataset(tmp_path, users=0)
    assert list(tmp_path.iterdir()) == []


def test_redonning_zero_keeps_the_band_in_place(tmp_path) -> None:
    def levels(session: int, redonning: float) -> np.ndarray:
        config = SimulationConfig(units_per_muscle=20, redonning=redonning, slip=0, difficulty=1.0)
        with SessionFile(synthesize(tmp_path / "a.hdf5", session=session, minutes=1, config=config)) as opened:
            return np.log(opened.emg()[:, 0].std(axis=0))

    kept, again = (levels(1, strength) - levels(0, strength) for strength in (0.0, 4.0))
    assert again.std() > 2 * kept.std()


def test_the_signal_is_near_a_real_one(typed) -> None:
    excerpt = Excerpt.of_session(typed)
    found = measure(excerpt.emg.reshape(len(excerpt.emg), -1), SAMPLE_RATE).percentiles()
    for name, (low, _, high) in PERCENTILES.items():
        assert low <= found[name][1] <= high, name


def test_neighbouring_electrodes_correlate_and_far_ones_do_not(typed) -> None:
    emg = Excerpt.of_session(typed).emg
    for band in range(BANDS):
        correlation = correlation_by_distance(emg[:, band])
        assert correlation[0] == pytest.approx(1)
        assert correlation[1] > 0.3 > correlation[3]
        assert abs(correlation[8]) < 0.1


def test_bursts_come_before_key_down(typed) -> None:
    averages = triggered_averages(Excerpt.of_session(typed))
    assert len(averages) >= 8
    for average in averages.values():
        before, long_before = average[20:40].max(axis=0), average[:15].mean(axis=0)
        assert (before / long_before).max() > 1.4


def test_a_report_is_a_picture_and_its_figures(typed, tmp_path) -> None:
    content = make_report([typed], tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "report.json").read_text()) == content
    (figures,) = content["sessions"]
    assert figures["session"] == "typed"
    assert 3.5 < figures["keys_per_second"] < 6
    assert figures["spectrum_distance"] < 0.25
    assert set(content["real recording"]) <= set(figures)


def test_a_report_needs_sessions_long_enough(tmp_path) -> None:
    with pytest.raises(EmgscribeError, match="no sessions"):
        make_report([], tmp_path / "report.png")
    with pytest.raises(EmgscribeError, match="shorter than 10 s"):
        make_report([synthesize(tmp_path / "a.hdf5", minutes=0.1)], tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()


def test_labels_use_the_symbols_of_the_task(typed) -> None:
    with SessionFile(typed) as session:
        text = session.header.text
        asked = "".join(prompt.text or "" for prompt in session.header.prompts)
    assert set(text) <= set(SYMBOLS)
    assert text != asked
    assert asked.count("⏎") - text.count("⏎") in (0, 1)
