"""Many runs: the same everywhere, and nothing lost when any of it is killed."""

import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
from conftest import PATIENCE, gone, until
from rich.console import Console
from tiny_suite import SUITE, TINY

from emgscribe import cli
from emgscribe.config import to_json
from emgscribe.data.splits import split_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import launch as launch
from emgscribe.experiments.launch import Order, Workers, execute, missing, run_suite
from emgscribe.experiments.run import run_experiment, run_name
from emgscribe.files import read_json, write_json
from emgscribe.simulation import simulate

QUIET = Console(quiet=True)
COMMAND = [sys.executable, str(Path(__file__).parent / "tiny_suite.py"), "reproduce", "tiny", "--cores", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-user") / "data"
    simulate(folder, users=1, sessions=3, minutes=0.2)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tiny suite, from one function call a run."""
    folder = tmp_path_factory.mktemp("whole")
    for experiment in reversed(SUITE):
        run_experiment(experiment, data, runs=folder / "runs", results=folder / "results", console=QUIET)
    return folder / "results"


def results(folder: Path) -> dict[str, dict]:
    """Result files without what differs each time."""
    records = {path.name: read_json(path) for path in folder.glob("*.json")}
    return {name: {key: value for key, value in r.items() if key != "seconds"} for name, r in records.items()}


def places(folder: Path, data: Path) -> list[str]:
    return ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]


def workers_of(run: str, folder: Path) -> list[int]:
    """The processes that carry out a run now, and print to its log in `folder`: other tests have runs of this name."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, prints_to = (path / "cmdline").read_bytes().split(b"\0"), (path / "fd" / "1").readlink()
        except OSError:
            continue
        if words[1:4] == [b"-m", b"emgscribe.experiments.launch", run.encode()] and prints_to.is_relative_to(folder):
            found.append(int(path.name))
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@linux
def test_interrupted_twice_it_ends_with_the_same_table(
    data: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, *places(tmp_path, data)]
    run, adapted = (run_name(experiment) for experiment in reversed(SUITE))
    for name, stopped_by in ((run, signal.SIGINT), (adapted, signal.SIGKILL)):
        # Whoever starts the tests in the background ignores Ctrl-C, and so would the command, which inherits that.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, start_new_session=True, preexec_fn=heard) as process:
            until((tmp_path / "runs" / name / "last.ckpt").exists, process)
            [worker] = workers_of(name, tmp_path)
            process.send_signal(stopped_by)
            assert process.wait() == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[stopped_by]
        until(lambda worker=worker: gone(worker))
        assert not (tmp_path / "results" / f"{name}.json").exists()
    assert f"{run}: done" in capfd.readouterr().err
    assert cli.main([*command[2:], "--jobs", "2"]) == 0
    table, told = capfd.readouterr()
    assert told == f"{adapted}: done\n"
    assert results(tmp_path / "results") == results(whole)
    assert cli.main(["reproduce", "tiny", "--data", str(data), "--results", str(whole)]) == 0
    assert capfd.readouterr() == (table, "")
    losses = [entry["train_loss"] for record in results(whole).values() for entry in record["curves"]]
    assert len(set(losses)) == len(SUITE) * TINY.train.epochs  # else any two runs could be the same
    left = {path.name for path in (tmp_path / "runs" / adapted).iterdir()}
    assert left == {"best", "curves.csv", "last.ckpt", "settings.json", ".lock"}


RAY = """
import os
from ray.cluster_utils import Cluster
from tiny_suite import main

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
print("started", flush=True)
try:
    status = main()
finally:
    cluster.shutdown()
raise SystemExit(status)
"""


@pytest.fixture
def ray_home(tmp_path: Path) -> dict[str, str]:
    """The environment in which Ray leaves its files and its token in a folder of the test."""
    pytest.importorskip("ray")
    return os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


@linux
def test_ray_gives_what_one_machine_gives_and_a_killed_worker_loses_nothing(
    data: Path, whole: Path, tmp_path: Path, ray_home: dict[str, str]
) -> None:
    command = [sys.executable, "-c", RAY, *COMMAND[2:], *places(tmp_path, data), "--on", "ray"]
    name = run_name(TINY)
    with subprocess.Popen(command, env=ray_home, stdout=subprocess.PIPE, text=True) as process:
        patience = Timer(PATIENCE, process.kill)
        patience.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n", "Ray cannot start a head and a worker here"
        until((tmp_path / "runs" / name / "last.ckpt").exists, process)
        [run] = workers_of(name, tmp_path)
        assert b"ray" in Path(f"/proc/{parent(run)}/cmdline").read_bytes()
        os.kill(parent(run), signal.SIGKILL)
        until(lambda: gone(run))
        process.stdout.read()
        patience.cancel()
    assert process.returncode == 0
    assert (tmp_path / "runs" / f"{name}.log").read_text().count("again from the last checkpoint") == 1
    assert results(tmp_path / "results") == results(whole)


def test_slurm_runs_orders_through_submitit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With submitit's executor for this machine, which starts and watches jobs as the one for Slurm does."""
    pytest.importorskip("submitit")
    short = replace(TINY, train=replace(TINY.train, epochs=2))
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    with pytest.raises(EmgscribeError, match=r"Slurm does not take the job .*srun"):
        run_suite([short], data, **places, workers=Workers("slurm"), console=QUIET)
    monkeypatch.setitem(launch._BACKENDS, "slurm", partial(launch._slurm, cluster="local"))
    assert run_suite([short], data, **places, workers=Workers("slurm", cores=1), console=QUIET) == []
    assert len(read_json(tmp_path / "results" / "tiny-5.json")["curves"]) == 2


def orders(*seeds: int) -> list[Order]:
    suite = [replace(TINY, train=replace(TINY.train, seed=seed)) for seed in seeds]
    return [Order(experiment, Path("data"), Path("runs")) for experiment in suite]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[int]]:
    """What each order's tries are to end with, instead of running; asked once too often, it fails."""
    left = {"tiny-1": [0], "tiny-2": [-9, -9, 0], "tiny-3": [2], "tiny-4": [-9, -9, -9]}

    def execute(order: Order, *_: object) -> int:
        return left[order.name].pop(0)

    monkeypatch.setattr(launch, "execute", execute)
    monkeypatch.chdir(tmp_path)
    return left


def test_a_killed_run_is_tried_again_and_one_that_failed_is_not(tried: dict[str, list[int]]) -> None:
    ended: dict[str, int] = {}
    launch.launch(orders(1, 2, 3, 4), Workers(jobs=2), lambda order, status: ended.update({order.name: status}))
    assert ended == {"tiny-1": 0, "tiny-2": 0, "tiny-3": 2, "tiny-4": -9}
    assert not any(tried.values())


def test_no_more_than_so_many_at_a_time_and_a_fault_of_the_caller_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = [0], [0]

    def execute(order: Order, stop: object, environment: object) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        return 0

    monkeypatch.setattr(launch, "execute", execute)
    ended: list[str] = []
    launch.launch(orders(*range(8)), Workers(jobs=3), lambda order, _: ended.append(order.name))
    assert sorted(ended) == [f"tiny-{seed}" for seed in range(8)]
    assert most == [3]

    def done(order: Order, status: int) -> None:
        raise EmgscribeError("enough")

    with pytest.raises(EmgscribeError, match="enough"):
        launch.launch(orders(*range(8)), Workers(jobs=3), done)


def test_an_order_that_fails_says_why_in_its_log(tmp_path: Path) -> None:
    order = Order(TINY, tmp_path / "absent", tmp_path, tmp_path / "results")
    assert execute(order) == 2
    assert "no such folder" in order.log.read_text()
    assert "Traceback" not in order.log.read_text()


def test_a_folder_for_logs_that_cannot_be_made_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(EmgscribeError, match=r"runs: cannot be used \(File exists\)\n.*--runs"):
        launch.launch(orders(1), Workers(), lambda *_: None)


def test_gpus_are_among_those_that_the_caller_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    given: list[str] = []

    def execute(order: Order, stop: object, environment: dict[str, str]) -> int:
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return 0

    monkeypatch.setattr(launch, "execute", execute)
    for seen, expected in (("2,3,5,GPU-7", {"2,3", "5,GPU-7"}), ("", {"0,1", "2,3"})):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        given.clear()
        launch.launch(orders(*range(8)), Workers(jobs=2, gpus=2), lambda *_: None)
        assert len(given) == 8
        assert set(given) <= expected


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    for on, package in (("slurm", "submitit"), ("ray", "ray")):
        with pytest.raises(EmgscribeError, match=rf"needs {package} \(.*\n.*pip install 'emgscribe\[{on}\]'"):
            launch.launch(orders(1), Workers(on), lambda *_: None)


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(EmgscribeError, match="2 jobs of 500 GPUs need 1000"):
        launch.launch(orders(1), Workers(jobs=2, gpus=500), lambda *_: None)
    with pytest.raises(EmgscribeError, match="jobs is 0"):
        Workers(jobs=0)


def test_only_what_has_no_result_is_missing_and_what_starts_from_another_comes_last(tmp_path: Path) -> None:
    adapted = replace(TINY, name="adapted", start="tiny")
    again = replace(TINY, train=replace(TINY.train, seed=6))
    assert missing([adapted, TINY, again], tmp_path) == [TINY, again, adapted]
    write_json(tmp_path / "tiny-5.json", {"experiment": to_json(TINY)})
    assert missing([adapted, TINY, again], tmp_path) == [again, adapted]
    with pytest.raises(EmgscribeError, match="with other settings"):
        missing([replace(TINY, train=replace(TINY.train, lr=0.5))], tmp_path)


def test_a_result_from_before_there_was_a_setting_counts(tmp_path: Path) -> None:
    stored = to_json(TINY)
    del stored["train"]["ema"]
    write_json(tmp_path / "tiny-5.json", {"experiment": stored})
    assert missing([TINY], tmp_path) == []
    with pytest.raises(EmgscribeError, match="with other settings"):
        missing([replace(TINY, train=replace(TINY.train, ema=0.5))], tmp_path)


def test_results_on_other_sessions_are_not_shown_for_these(data: Path, tmp_path: Path) -> None:
    tested = [{"session": split_sessions(data, TINY.data).test[0].stem}]
    record = {"experiment": to_json(TINY), "test": {"greedy": {"sessions": tested}}}
    write_json(tmp_path / "tiny-5.json", record)
    assert missing([TINY], tmp_path, data) == []
    tested[0]["session"] = "another"
    write_json(tmp_path / "tiny-5.json", record)
    with pytest.raises(EmgscribeError, match=r"tiny-5.json: is of this experiment on other sessions\n.*--results"):
        missing([TINY], tmp_path, data)
    with pytest.raises(EmgscribeError, match="nowhere"):
        run_suite([TINY], tmp_path / "nowhere", runs=tmp_path, results=tmp_path, workers=Workers(), console=QUIET)
    for bad in ([], {}, {"experiment": to_json(TINY)}):
        write_json(tmp_path / "tiny-5.json", bad)
        with pytest.raises(EmgscribeError, match=r"tiny-5.json: is no result"):
            missing([TINY], tmp_path, data)


def test_a_suite_goes_on_when_a_run_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def execute(order: Order, *_: object) -> int:
        calls.append(order.name)
        return 2 if order.name == "tiny-7" else 0

    monkeypatch.setattr(launch, "execute", execute)
    seeds = [replace(TINY, train=replace(TINY.train, seed=seed)) for seed in (5, 7)]
    suite = [replace(TINY, name="adapted", start="tiny"), *seeds]
    failed = run_suite(suite, data, runs=tmp_path / "r", results=tmp_path, workers=Workers(), console=QUIET)
    assert failed == ["tiny-7"]
    assert calls == ["tiny-5", "tiny-7", "adapted-5"]
