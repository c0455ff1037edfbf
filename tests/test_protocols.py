"""Published splits by name: what the lists hold, what is picked from a folder, what is refused, what leaks."""

import csv
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from emgscribe import cli
from emgscribe.data import splits as splits
from emgscribe.data.hdf5 import SessionFile, SessionHeader, write_session
from emgscribe.data.splits import DataConfig, Protocol, Split, split_sessions
from emgscribe.data.windows import WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.recipes import BASELINE, GENERIC, Experiment
from emgscribe.experiments.report import published_numbers, tables
from emgscribe.experiments.results import read_results
from emgscribe.experiments.run import run_experiment
from emgscribe.experiments.recipes import EXPERIMENTS, SUITES
from emgscribe.files import read_json
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.simulation import simulate, simulate_session
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.hdf5"
    simulate_session(path, user=1, session=0, minutes=0.05, seed=0)
    return path


Record = Callable[..., list[Path]]


@pytest.fixture
def record(template: Path, tmp_path: Path) -> Record:
    """A function that records the simulated template again under other names, each with EMG of its own."""
    with SessionFile(template) as session:
        header, times, emg = session.header, session.times(), session.emg()

    def make(names: list[str], user: str = COURSE_USER, *, simulated: bool = True) -> list[Path]:
        paths = [tmp_path / "data" / f"{name}.hdf5" for name in names]
        for place, path in enumerate(paths, 1):
            random = np.random.default_rng([place, int(user)]).normal(size=emg.shape)
            own = replace(header, name=path.stem, user=user, simulation=header.simulation if simulated else "")
            write_session(path, own, times, emg + random.astype(np.float32))
        return paths

    return make


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts a listing of the files given, with their sizes and hashes, in place of the shipped one."""

    def write(paths: list[Path], hidden: tuple[str, ...] = ()) -> None:
        folder = tmp_path / "protocols"
        folder.mkdir()
        with (folder / "sessions.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("user", "session", "bytes", "sha256"))
            users = {row["session"]: row["user"] for row in SESSIONS}
            for path in paths:
                known = () if path.stem in hidden else (len(path.read_bytes()), digest(path))
                lines.writerow((users[path.stem], path.stem, *(known or ("", ""))))
        (folder / "held_out.csv").write_bytes((splits.PROTOCOLS / "held_out.csv").read_bytes())
        monkeypatch.setattr(splits, "PROTOCOLS", folder)

    return write


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(split: Split) -> tuple[list[str], list[str], list[str]]:
    train, val, test = ([path.stem for path in part] for part in (split.train, split.val, split.test))
    return train, val, test


def test_the_lists_are_whole() -> None:
    assert len({row["session"] for row in SESSIONS}) == len(SESSIONS) == 1135
    assert len({row["user"] for row in SESSIONS}) == 108
    assert {row["protocol"] for row in HELD_OUT} | {"latest"} == set(get_args(Protocol))
    users = {row["session"]: row["user"] for row in SESSIONS}
    assert all(users[row["session"]] == row["user"] for row in HELD_OUT)


def test_the_seed_papers_user_has_18_sessions_with_size_and_hash() -> None:
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
    # The leak: who learns from `generic` has seen the session by which the seed paper's user is tested.
    assert set(held_out("course", "test")) < set(of_generic) - set(held_out("generic", "val"))


def test_the_named_sessions_are_picked_whatever_their_dates(
    record: Record, publish: Callable[..., None], tmp_path: Path
) -> None:
    publish(record(listed(COURSE_USER), simulated=False))
    split = split_sessions(tmp_path / "data", COURSE)
    train, val, test = names(split)
    assert split.protocol == "course"
    assert (len(train), val, test) == (16, held_out("course", "val"), held_out("course", "test"))
    assert sorted(train + val + test) == listed(COURSE_USER)
    assert train == sorted(train)
    few = split_sessions(tmp_path / "data", replace(COURSE, sessions=3))
    assert names(few) == (train[-3:], val, test)
    by_date = split_sessions(tmp_path / "data")
    assert (by_date.protocol, names(by_date)[2]) == ("latest", [listed(COURSE_USER)[-1]])
    assert names(by_date)[2] != test


def test_all_that_is_not_as_published_is_named_at_once(
    record: Record, publish: Callable[..., None], tmp_path: Path
) -> None:
    paths = record(listed(COURSE_USER), simulated=False)
    publish(paths)
    folder = tmp_path / "data"
    split_sessions(folder, COURSE)  # all is remembered as whole; what changes after must be seen all the same
    for path in paths[2:4]:
        path.unlink()
    size = paths[5].stat().st_size
    with paths[5].open("ab") as file:
        file.write(b"more")
    content = bytearray(paths[7].read_bytes())
    content[-1] ^= 1
    paths[7].write_bytes(content)
    with pytest.raises(EmgscribeError) as caught:
        split_sessions(folder, COURSE)
    found = [line.strip() for line in caught.value.what.splitlines()[1:]]
    assert sorted(found) == sorted(
        [
            *(f"{path.stem}: missing" for path in paths[2:4]),
            f"{paths[5].stem}: {size + 4:,} bytes instead of {size:,}",
            next(line for line in found if line.startswith(f"{paths[7].stem}: another sha256 than")),
        ]
    )
    assert "4 of the 18 sessions of the protocol course" in caught.value.what
    assert caught.value.where == str(folder)
    assert caught.value.hint


def test_a_hash_is_computed_once_until_the_file_changes(
    record: Record, publish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = record(listed(COURSE_USER), simulated=False)
    publish(paths)
    split_sessions(tmp_path / "data", COURSE)
    read: list[str] = []
    real = hashlib.file_digest

    def watched(file: object, kind: str) -> object:
        read.append(Path(file.name).stem)  # type: ignore[attr-defined]
        return real(file, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(splits.hashlib, "file_digest", watched)
    split_sessions(tmp_path / "data", COURSE)
    assert read == []
    os.utime(paths[3], ns=(0, 123))
    split_sessions(tmp_path / "data", COURSE)
    assert read == [paths[3].stem]


def test_the_shipped_list_refuses_what_only_has_the_names(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "split_latest", None)  # or a fault here would begin to train Table 2
    (path, *_) = record(listed(COURSE_USER)[:17])
    size = next(int(row["bytes"]) for row in SESSIONS if row["session"] == path.stem)
    assert cli.main(["reproduce", "table2", "--data", str(path.parent), "--runs", str(tmp_path / "runs")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "18 of the 18 sessions of the protocol course are missing or are not the published files" in told
    assert f"{path.stem}: {path.stat().st_size:,} bytes instead of {size:,}" in told
    assert f"{listed(COURSE_USER)[17]}: missing" in told
    assert not list(tmp_path.rglob("*.log"))  # the suite is not begun


def test_simulated_sessions_are_split_by_date_and_the_result_says_so(tmp_path: Path) -> None:
    simulate(tmp_path / "data", users=1, sessions=3, minutes=0.05)
    experiment = replace(TINY, data=COURSE)
    run_experiment(experiment, tmp_path / "data", runs=tmp_path, results=tmp_path / "results", console=QUIET)
    record = read_json(tmp_path / "results" / "tiny-5.json")
    assert record["experiment"]["data"]["protocol"] == "course"
    assert record["data"]["protocol"] == "latest"
    assert record["data"]["test"] == [sorted((tmp_path / "data").glob("*.hdf5"))[-1].stem]


def test_recordings_of_other_names_are_not_split_by_a_published_protocol(tmp_path: Path) -> None:
    simulate(tmp_path, users=1, sessions=1, minutes=0.05)
    header = SessionHeader("mine", "me", "on_keyboard", 1e-3, (), ())
    write_session(tmp_path / "mine.hdf5", header, np.arange(4) / 2000, np.zeros((4, 2, 16), dtype=np.float32))
    with pytest.raises(EmgscribeError, match="18 of the 18 sessions") as caught:
        split_sessions(tmp_path, COURSE)
    assert "--data.protocol latest" in caught.value.hint


def test_a_protocol_that_names_the_users_leaves_no_choice_of_them() -> None:
    with pytest.raises(EmgscribeError, match=r"data\.test_users"):
        DataConfig(protocol="user0", test_users=(1,))
    with pytest.raises(EmgscribeError, match=r"data\.protocol"):
        DataConfig(protocol="user8")  # type: ignore[arg-type]


def test_published_experiments_name_their_protocol_and_small_ones_none() -> None:
    for name, experiment in EXPERIMENTS.items():
        by_name = name.startswith(("table", "records/", "baseline"))
        if not name.startswith("benchmark/"):
            assert experiment.data.protocol == ("course" if by_name else "latest")
    for n in range(8):
        generic, alone, tuned = SUITES[f"benchmark/user{n}"]
        assert generic == GENERIC
        assert alone.data == tuned.data == DataConfig(protocol=f"user{n}")  # type: ignore[arg-type]
        assert (alone.start, tuned.start) == ("", GENERIC.name)
        assert alone.model == tuned.model == generic.model == BASELINE.model


@pytest.fixture
def benchmark(record: Record, publish: Callable[..., None], tmp_path: Path) -> Path:
    """The benchmark with two of its 96 users, whole: the seed paper's user and one more; and its eight others."""
    eight = sorted({row["user"] for row in HELD_OUT if row["protocol"].startswith("user")})
    other = next(row["user"] for row in HELD_OUT if row["protocol"] == "generic" and row["user"] != COURSE_USER)
    paths = [path for user in (COURSE_USER, other) for path in record(listed(user), user)]
    for user in eight:
        own = [row["session"] for row in HELD_OUT if row["user"] == user and row["protocol"] != "generic"]
        train = [name for name in listed(user) if name not in own][:2]
        paths += record([*own, *train], user)
    publish(paths, hidden=tuple(path.stem for path in paths))
    held = [line.split(",") for line in (splits.PROTOCOLS / "held_out.csv").read_text().splitlines()]
    kept = [line for line in held if line[0] != "generic" or line[1] in (COURSE_USER, other, *eight)]
    (splits.PROTOCOLS / "held_out.csv").write_text("\n".join(",".join(line) for line in kept) + "\n")
    return tmp_path / "data"


def test_the_benchmark_goes_from_many_people_to_one_and_no_leak_passes(benchmark: Path, tmp_path: Path) -> None:
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results", "console": QUIET}
    members = [
        replace(TINY, name=experiment.name, data=experiment.data, start=experiment.start)
        for experiment in SUITES["benchmark/user0"]
    ]
    for experiment in members:
        run_experiment(experiment, benchmark, **places)
    generic, alone, tuned = (read_json(tmp_path / "results" / f"{e.name}-5.json")["data"] for e in members)
    assert sorted(generic["test"]) == sorted(held_out("generic", "test"))
    assert alone == tuned
    assert (tuned["val"], tuned["test"]) == (held_out("user0", "val"), held_out("user0", "test"))
    assert len(tuned["train"]) == 2
    (table,) = tables(read_results(tmp_path / "results"), "benchmark/user0")
    # What the model of many people does on the sessions of this one, beside this one's own models.
    assert [row.first.name for row in table.rows] == [experiment.name for experiment in members]
    assert [{session.session for session in row.first.sessions} for row in table.rows] == [{*tuned["test"]}] * 3

    leaking = replace(TINY, name="leaking", data=COURSE, start=GENERIC.name)
    with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
        run_experiment(leaking, benchmark, **places)
    assert [caught.value.where] == held_out("course", "test")
    seen = replace(TINY, name="seen", data=GENERIC.data, start="benchmark/user0/random-init")
    with pytest.raises(EmgscribeError, match="is to be unseen"):
        run_experiment(seen, benchmark, **places)
    assert not (tmp_path / "runs" / "leaking-5").exists()
