"""The published lists, experiments that use them, and leaks from one to the other."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from emgscribe.data import splits
from emgscribe.data.hdf5 import SessionFile, write_session
from emgscribe.data.splits import DataConfig, Protocol
from emgscribe.data.windows import WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.recipes import BASELINE, EXPERIMENTS, GENERIC, SUITES, Experiment
from emgscribe.experiments.results import read_results
from emgscribe.experiments.run import run_experiment
from emgscribe.experiments.tables import published_numbers, tables
from emgscribe.files import read_json
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.simulation.sessions import simulate, simulate_session
from emgscribe.training.config import TrainConfig

QUIET = Console(quiet=True)
COURSE = DataConfig(protocol="course")
COURSE_USER = "89335547"
TINY = Experiment(
    name="tiny",
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2)),
    windows=WindowConfig(length=2000, stride=2000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 3, 1, 4)),
    train=TrainConfig(epochs=1, batch_size=4, warmup_epochs=1, seed=5),
)


def rows(name: str) -> list[dict[str, str]]:
    with (splits.PROTOCOLS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


SESSIONS, HELD_OUT = rows("sessions"), rows("held_out")


def listed(user: str) -> list[str]:
    return sorted(row["session"] for row in SESSIONS if row["user"] == user)


def held_out(protocol: str, part: str) -> list[str]:
    return [row["session"] for row in HELD_OUT if (row["protocol"], row["partition"]) == (protocol, part)]


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., list[Path]]:
    """A function that writes one simulated session under other names, each with different EMG."""
    simulate_session(tmp_path / "template.hdf5", user=1, session=0, minutes=0.05, seed=0)
    with SessionFile(tmp_path / "template.hdf5") as session:
        header, (times, emg) = session.header, session.read()

    def make(names: list[str], user: str = COURSE_USER) -> list[Path]:
        paths = [tmp_path / "data" / f"{name}.hdf5" for name in names]
        for place, path in enumerate(paths, 1):
            random = np.random.default_rng([place, int(user)]).normal(size=emg.shape)
            write_session(path, replace(header, name=path.stem, user=user), times, emg + random.astype(np.float32))
        return paths

    return make


def test_the_published_lists_are_complete() -> None:
    assert len({row["session"] for row in SESSIONS}) == len(SESSIONS) == 1135
    assert len({row["user"] for row in SESSIONS}) == 108
    assert {row["protocol"] for row in HELD_OUT} | {"latest"} == set(get_args(Protocol))
    users = {row["session"]: row["user"] for row in SESSIONS}
    assert all(users[row["session"]] == row["user"] for row in HELD_OUT)
    # Size and hash of the 18 sessions of the course project's user were published.
    hashed = [row for row in SESSIONS if row["bytes"] or row["sha256"]]
    assert sorted(row["session"] for row in hashed) == listed(COURSE_USER)
    assert len(hashed) == len({row["sha256"] for row in hashed}) == 18
    assert all(len(row["sha256"]) == 64 and 200e6 < int(row["bytes"]) < 400e6 for row in hashed)
    ours = published_numbers()["splits"]["one-user"]
    assert (held_out("course", "val"), held_out("course", "test")) == (ours["val"], ours["test"])


def test_the_benchmark_is_the_published_one() -> None:
    generic = {row["user"] for row in HELD_OUT if (row["protocol"], row["partition"]) == ("generic", "val")}
    eight = {row["user"] for row in HELD_OUT if row["protocol"].startswith("user")}
    of_generic = [row["session"] for row in SESSIONS if row["user"] in generic]
    assert (len(generic), len(eight), generic & eight) == (96, 8, set())
    sizes = (len(of_generic) - 192, len(held_out("generic", "val")), len(held_out("generic", "test")))
    assert sizes == (837, 192, 16)
    assert set(held_out("generic", "test")) == {s for n in range(8) for s in held_out(f"user{n}", "test")}
    # The leak: a model trained on `generic` has seen the session on which the course project's user is tested.
    assert set(held_out("course", "test")) < set(of_generic) - set(held_out("generic", "val"))


def test_simulated_sessions_are_split_by_date_and_the_result_says_so(tmp_path: Path) -> None:
    simulate(tmp_path / "data", users=1, sessions=3, minutes=0.05)
    experiment = replace(TINY, data=COURSE)
    run_experiment(experiment, tmp_path / "data", runs=tmp_path, results=tmp_path / "results", console=QUIET)
    record = read_json(tmp_path / "results" / "tiny-5.json")
    assert record["experiment"]["data"]["protocol"] == "course"
    assert record["data"]["protocol"] == "latest"
    assert record["data"]["test"] == [sorted((tmp_path / "data").glob("*.hdf5"))[-1].stem]


def test_published_experiments_name_their_protocol_and_small_ones_none() -> None:
    for name, experiment in EXPERIMENTS.items():
        by_name = name.startswith(("table", "records/", "baseline", "best"))
        if not name.startswith("benchmark/"):
            assert experiment.data.protocol == ("course" if by_name else "latest")
    for n in range(8):
        generic, alone, tuned = SUITES[f"benchmark/user{n}"].experiments
        assert generic == GENERIC
        assert alone.data == tuned.data == DataConfig(protocol=f"user{n}")
        assert (alone.start, tuned.start) == ("", GENERIC.name)
        assert alone.model == tuned.model == generic.model == BASELINE.model


@pytest.fixture
def benchmark(record: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark with two of its 96 users, the course project's user and another one, and its eight test users."""
    eight = sorted({row["user"] for row in HELD_OUT if row["protocol"].startswith("user")})
    other = next(row["user"] for row in HELD_OUT if row["protocol"] == "generic" and row["user"] != COURSE_USER)
    paths = [path for user in (COURSE_USER, other) for path in record(listed(user), user)]
    for user in eight:
        own = [row["session"] for row in HELD_OUT if row["user"] == user and row["protocol"] != "generic"]
        train = [name for name in listed(user) if name not in own][:2]
        paths += record([*own, *train], user)
    names, users = {path.stem for path in paths}, (COURSE_USER, other, *eight)
    kept = {
        "sessions": [{**row, "bytes": "", "sha256": ""} for row in SESSIONS if row["session"] in names],
        "held_out": [row for row in HELD_OUT if row["protocol"] != "generic" or row["user"] in users],
    }
    monkeypatch.setattr(splits, "_rows", kept.get)
    return tmp_path / "data"


def test_the_benchmark_personalizes_a_generic_model_and_refuses_leaks(benchmark: Path, tmp_path: Path) -> None:
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results", "console": QUIET}
    members = [
        replace(TINY, name=experiment.name, data=experiment.data, start=experiment.start)
        for experiment in SUITES["benchmark/user0"].experiments
    ]
    for experiment in members:
        run_experiment(experiment, benchmark, **places)
    generic, alone, tuned = (read_json(tmp_path / "results" / f"{e.name}-5.json")["data"] for e in members)
    assert sorted(generic["test"]) == sorted(held_out("generic", "test"))
    assert alone == tuned
    assert (tuned["val"], tuned["test"]) == (held_out("user0", "val"), held_out("user0", "test"))
    assert len(tuned["train"]) == 2
    (table,) = tables(read_results(tmp_path / "results"), "benchmark/user0")
    # The generic model on this user's sessions, beside the user's own models.
    assert [row.name for row in table.rows] == [experiment.name for experiment in members]
    tested = [{session.session for session in row.scores[0].sessions} for row in table.rows]
    assert tested == [{*tuned["test"]}] * 3

    leaking = replace(TINY, name="leaking", data=COURSE, start=GENERIC.name)
    with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
        run_experiment(leaking, benchmark, **places)
    assert [caught.value.where] == held_out("course", "test")
    seen = replace(TINY, name="seen", data=GENERIC.data, start="benchmark/user0/random-init")
    with pytest.raises(EmgscribeError, match="is to be unseen"):
        run_experiment(seen, benchmark, **places)
    assert not list((tmp_path / "runs" / "leaking-5").glob("[!.]*"))
