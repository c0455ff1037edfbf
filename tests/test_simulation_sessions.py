import csv
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
from emgscribe.simulation import SimulationConfig, compare_with_recording, simulate, simulate_session
from emgscribe.simulation.measures import correlation_by_distance, measure
from emgscribe.simulation.reference import PERCENTILES
from emgscribe.simulation.report import Excerpt, triggered_averages

SMALL = SimulationConfig(units_per_muscle=6)


def simulated(path: Path | str, **changed) -> Path:
    simulate_session(path, **{"user": 1, "session": 0, "minutes": 0.2, "seed": 0, "config": SMALL, **changed})
    return Path(path)


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Path:
    """A minute at the defaults, long enough to measure."""
    return simulated(tmp_path_factory.mktemp("typed") / "typed.hdf5", minutes=1.0, config=SimulationConfig())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with SessionFile(path) as session:
        (times, emg), header = session.read(), session.header
        assert set(header.text) <= set(SYMBOLS)
    assert emg.shape == (len(times), BANDS, CHANNELS)
    assert len(times) == pytest.approx(minutes * 60 * SAMPLE_RATE, abs=10)
    assert np.abs(emg).max() < 1e5  # false for NaN
    np.testing.assert_allclose(np.diff(times), 1 / SAMPLE_RATE, atol=1e-6)
    assert all(times[0] < stroke.start < stroke.end < times[-1] for stroke in header.keystrokes)
    assert all(times[0] < prompt.start < prompt.end <= times[-1] for prompt in header.prompts)
    assert len(header.labelled_keystrokes()) == len(header.keystrokes) > 0
    assert header.user == f"{user:08d}"
    assert json.loads(header.simulation).items() >= {"seed": seed, "difficulty": physics["difficulty"]}.items()
    assert header.duration_mins * 60 * SAMPLE_RATE == pytest.approx(len(times), abs=1e-3)
    assert inspect(path)[0].findings == []


def test_a_seed_gives_the_session_that_it_always_gave(tmp_path) -> None:
    with SessionFile(simulated(tmp_path / "a.hdf5", minutes=0.1, config=SimulationConfig())) as session:
        ((origin, *_), emg), header = session.read(), session.header
        assert session.header.text == "⇧His fra⌫⌫⌫tra"
    times = [round(1000 * (stroke.start - origin)) for stroke in header.keystrokes]
    assert times == [1985, 2125, 2411, 2601, 2663, 2893, 3159, 3427, 3613, 4050, 4358, 4489, 4811, 5030]
    # The last bit of a sample depends on the machine, so not the bytes.
    np.testing.assert_allclose(emg.std(axis=(0, 2)), [11.60649, 44.00386], rtol=1e-4)


def test_same_arguments_same_bytes_and_every_argument_matters(tmp_path) -> None:
    assert simulated(tmp_path / "a.hdf5").read_bytes() == simulated(str(tmp_path / "a.hdf5")).read_bytes()

    def samples(**changed) -> bytes:
        with SessionFile(simulated(tmp_path / "a.hdf5", **changed)) as session:
            return session.read()[1].tobytes()

    others = [{"user": 2}, {"session": 1}, {"seed": 1}, {"config": SimulationConfig(units_per_muscle=6, noise=4)}]
    assert len({samples(), *(samples(**other) for other in others)}) == 1 + len(others)


def test_a_session_that_is_interrupted_leaves_nothing(tmp_path) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated(tmp_path / "a.hdf5", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_looks_like_the_real_one(tmp_path) -> None:
    seen: list[float] = []
    paths = simulate(str(tmp_path), users=2, sessions=2, minutes=0.2, seed=3, config=SMALL, progress=seen.append)
    assert sorted(tmp_path.glob("*.hdf5")) == sorted(paths)
    np.testing.assert_allclose(seen, np.add.outer(np.arange(4), [5 / 6, 1]).ravel() / 4)  # blocks of 10 s and 2 s
    with (tmp_path / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "user,session,condition,duration_mins,num_keystrokes,num_prompts,quality_check_tags"
    assert [row["session"] for row in rows] == [path.stem for path in paths]
    for row, path in zip(rows, paths, strict=True):
        with SessionFile(path) as session:
            header, ((start,), _) = session.header, session.read(0, 1)
        assert (row["user"], row["condition"]) == (header.user, "on_keyboard")
        assert int(row["num_keystrokes"]) == len(header.keystrokes)
        date, unix = row["session"][:10], int(row["session"].split("-")[3])
        assert unix == int(start)
        assert datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d") == date
    assert paths[:2] == sorted(paths[:2])
    assert len({row["user"] for row in rows}) == 2


def test_a_larger_data_set_holds_the_smaller_one(tmp_path) -> None:
    (small,) = simulate(tmp_path / "small", users=1, sessions=1, minutes=0.1, seed=3, config=SMALL)
    larger = simulate(tmp_path / "large", users=2, sessions=1, minutes=0.1, seed=3, config=SMALL)
    assert larger[0].name == small.name
    assert larger[0].read_bytes() == small.read_bytes()


NUMBERS = [("users", 0), ("users", 10**20), ("sessions", 0), ("sessions", 10**20), ("minutes", 601), ("seed", 10**8)]


@pytest.mark.parametrize(("name", "wrong"), [("minutes", 0.0), ("minutes", np.nan), ("user", -1), *NUMBERS])
def test_numbers_out_of_range_are_named(tmp_path, name, wrong) -> None:
    make = simulate if (name, wrong) in NUMBERS else simulated
    with pytest.raises(EmgscribeError, match=f"{name} is .*, allowed: .* to "):
        make(tmp_path / "out", **{name: wrong})
    assert list(tmp_path.iterdir()) == []


def test_redonning_zero_keeps_the_band_in_place(tmp_path) -> None:
    def levels(session: int, redonning: float) -> np.ndarray:
        config = SimulationConfig(units_per_muscle=20, redonning=redonning, slip=0)
        with SessionFile(simulated(tmp_path / "a.hdf5", session=session, minutes=0.5, config=config)) as opened:
            return np.log(opened.read()[1][:, 0].std(axis=0))

    kept, again = (levels(1, strength) - levels(0, strength) for strength in (0.0, 4.0))
    assert again.std() > 2 * kept.std()


def test_the_signal_looks_like_emg(typed) -> None:
    excerpt = Excerpt.of_session(typed)
    emg, averages = excerpt.emg, triggered_averages(excerpt)
    found = measure(emg.reshape(len(emg), -1), SAMPLE_RATE).percentiles()
    for name, (low, _, high) in PERCENTILES.items():
        assert low <= found[name][1] <= high, name
    for band in range(BANDS):
        correlation = correlation_by_distance(emg[:, band])
        assert correlation[0] == pytest.approx(1)
        assert correlation[1] > 0.3 > correlation[3]
        assert abs(correlation[8]) < 0.1
    assert len(averages) >= 8
    for average in averages.values():
        before, long_before = average[20:40].max(axis=0), average[:15].mean(axis=0)  # from 0.2 s, until 0.25 s before
        assert (before / long_before).max() > 1.4


def test_a_comparison_is_a_picture_and_its_numbers(typed, tmp_path) -> None:
    content = compare_with_recording([str(typed)], str(tmp_path / "report.png"))
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "report.json").read_text()) == content
    (numbers,) = content["sessions"]
    assert numbers["session"] == "typed"
    assert 3.5 < numbers["keys_per_second"] < 6
    assert numbers["spectrum_distance"] < 0.25
    assert set(content["real recording"]) <= set(numbers)


def test_a_comparison_needs_sessions_long_enough(tmp_path) -> None:
    with pytest.raises(EmgscribeError, match="no sessions"):
        compare_with_recording([], tmp_path / "report.png")
    with pytest.raises(EmgscribeError, match="shorter than 10 s"):
        compare_with_recording([simulated(tmp_path / "a.hdf5", minutes=0.1)], tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
