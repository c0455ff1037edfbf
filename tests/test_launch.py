"""Many runs: the same results everywhere, and nothing lost when any process is killed."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from threading import Timer

import pytest
from conftest import PATIENCE, gone, restore_interrupts, until
from rich.console import Console
from tiny_suite import SUITE, TINY, brief

from emgscribe.errors import EmgscribeError
from emgscribe.experiments import launch
from emgscribe.experiments.launch import FAILED, UNWRITABLE, Order, Workers, run_suite
from emgscribe.experiments.run import missing, run_experiment, run_name
from emgscribe.files import exclusive, read_json
from emgscribe.simulation.sessions import simulate

QUIET = Console(quiet=True)
FIRST, ADAPTED = (run_name(experiment) for experiment in reversed(SUITE.experiments))
SCRIPT = str(Path(__file__).parent / "tiny_suite.py")
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def test_runs_share_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert [Workers(jobs=jobs).threads for jobs in (1, 2, 9)] == [5, 2, 1]
    assert Workers(cores=3).threads == 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-user") / "data"
    simulate(folder, users=1, sessions=3, minutes=0.2)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tiny suite, from one function call a run."""
    folder = tmp_path_factory.mktemp("whole")
    for experiment in reversed(SUITE.experiments):
        run_experiment(experiment, data, runs=folder / "runs", results=folder / "results", console=QUIET)
    return folder / "results"


def results(folder: Path) -> dict[str, dict]:
    """Result files without what differs each time."""
    records = {path.name: read_json(path) for path in folder.glob("*.json")}
    return {name: {key: value for key, value in r.items() if key != "seconds"} for name, r in records.items()}


def process_of(log: Path) -> int:
    """The process that writes to a run's log now, as the log names it."""
    return int(log.read_text().rpartition("process ")[2].split()[0])


@linux
def test_a_suite_interrupted_twice_ends_with_the_same_results(data: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "local", str(tmp_path), str(data)]
    for name, stopped_by in ((FIRST, signal.SIGINT), (ADAPTED, signal.SIGKILL)):
        with subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=restore_interrupts,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            until((tmp_path / "runs" / name / "last.ckpt").exists, process)
            worker = process_of(tmp_path / "runs" / f"{name}.log")
            process.send_signal(stopped_by)
            assert process.stdout is not None
            printed = process.stdout.read().decode()
        assert f"{name}: started, log " in printed
        until(lambda worker=worker: gone(worker))
        assert not (tmp_path / "results" / f"{name}.json").exists()
    assert f"{FIRST}: done" in printed
    log = tmp_path / "runs" / f"{ADAPTED}.log"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with exclusive(tmp_path / "runs" / ADAPTED, "works here", print):  # as another command would
            until(lambda: f"waiting for another process ({os.getpid()} on " in log.read_text(), process)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0
    assert f"{ADAPTED}: waiting for process {os.getpid()} on " in printed
    assert printed.splitlines()[-1] == f"{ADAPTED}: done"
    assert results(tmp_path / "results") == results(whole)
    losses = [entry["train_loss"] for record in results(whole).values() for entry in record["curves"]]
    assert len(set(losses)) == 2 * TINY.train.epochs  # else any two runs could be the same
    assert log.read_text().count(" tiny-adapted-5, process ") == 2
    assert "done: <RunResult of tiny-adapted, seed 5" in log.read_text()


RAY = """
import os, sys
from ray.cluster_utils import Cluster
from tiny_suite import main

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
print("started", flush=True)
try:
    status = main("ray", *sys.argv[1:])
finally:
    cluster.shutdown()
raise SystemExit(status)
"""


@linux
def test_ray_gives_what_one_machine_gives_and_a_killed_worker_loses_nothing(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": paths}  # Ray leaves files in the home folder
    command = [sys.executable, "-c", RAY, str(tmp_path), str(data)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        patience = Timer(PATIENCE, process.kill)
        patience.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n", "Ray cannot start a head and a worker here"
        until((tmp_path / "runs" / FIRST / "last.ckpt").exists, process)
        os.kill(process_of(tmp_path / "runs" / f"{FIRST}.log"), signal.SIGKILL)
        process.stdout.read()
        patience.cancel()
    assert process.returncode == 0
    assert (tmp_path / "runs" / f"{FIRST}.log").read_text().count(f"{FIRST}, process ") == 2
    assert results(tmp_path / "results") == results(whole)


def test_slurm_runs_orders_through_submitit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With submitit's executor for this machine, which starts and watches jobs as the one for Slurm does."""
    submitit = pytest.importorskip("submitit")
    short = brief(TINY)
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    with monkeypatch.context() as changed:
        changed.setenv("PATH", "")  # where Slurm is installed, this test leaves it alone
        with pytest.raises(EmgscribeError, match=r"Slurm refused the job .*srun"):
            run_suite([short], data, **places, workers=Workers("slurm"), console=QUIET)
    monkeypatch.setitem(launch._BACKENDS, "slurm", partial(launch._slurm, cluster="local"))
    assert run_suite([short], data, **places, workers=Workers("slurm", cores=1), console=QUIET) == []
    assert len(read_json(tmp_path / "results" / "tiny-5.json")["curves"]) == 2
    assert isinstance(orders(1)[0].checkpoint(), submitit.helpers.DelayedSubmission)  # it resumes when preempted


def orders(*seeds: int, work: object = print) -> list[Order]:
    return [Order(f"tiny-{seed}", Path("runs"), work, 1) for seed in seeds]


@dataclass
class Job:
    """A job that ends when it is looked at for the second time."""

    status: int | Exception
    looks: int = 0
    cancelled: bool = False

    def done(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def result(self) -> int:
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Job]:
    """The jobs that ran; those called tiny-2 fail, and those called tiny-3 are lost."""
    started: dict[str, Job] = {}

    @contextmanager
    def local(workers: Workers) -> Iterator[object]:
        def submit(order: Order) -> Job:
            assert sum(job.looks < 2 for job in started.values()) < workers.jobs
            with order.log.open("a") as log:
                log.write("epoch 10/40  loss 2.871  val CER 71.4 %  00:04:12 left\n")
            return started.setdefault(order.name, Job({"tiny-2": 2, "tiny-3": OSError("lost")}.get(order.name, 0)))

        yield submit

    monkeypatch.setitem(launch._BACKENDS, "local", local)
    monkeypatch.setattr(launch, "_POLL", 0.0)
    monkeypatch.setattr(launch, "_LINES", -1.0)
    monkeypatch.chdir(tmp_path)
    return started


def test_progress_is_shown_and_a_failed_or_lost_run_does_not_stop_the_others(jobs: dict[str, Job]) -> None:
    ended: dict[str, int] = {}
    console = Console(file=StringIO(), highlight=False, width=200)
    launch.launch(
        orders(1, 2, 3, 4, 5), Workers(jobs=2), lambda order, status: ended.update({order.name: status}), console
    )
    assert ended == {"tiny-1": 0, "tiny-2": 2, "tiny-3": 1, "tiny-4": 0, "tiny-5": 0}
    shown = console.file.getvalue().splitlines()
    log = Path("runs", "tiny-2.log")
    own = [f"started, log {log}", "epoch 10/40  loss 2.871  val CER 71.4 %  00:04:12 left", f"failed, see {log}"]
    assert [line for line in shown if line.startswith("tiny-2")] == [f"tiny-2: {line}" for line in own]
    assert "tiny-4: done" in shown


def test_an_epoch_is_shown_once_and_epochs_of_an_earlier_try_are_not_shown(jobs: dict[str, Job]) -> None:
    Path("runs").mkdir()
    Path("runs", "tiny-1.log").write_text("epoch 10/40  loss 2.871  val CER 71.4 %  00:04:12 left\n")
    jobs["tiny-1"], jobs["tiny-4"] = Job(0, looks=-3), Job(0, looks=-3)
    console = Console(file=StringIO(), width=200)
    launch.launch(orders(1, 4), Workers(jobs=9), lambda *_: None, console)
    assert [line[:12] for line in console.file.getvalue().splitlines() if "epoch" in line] == ["tiny-4: epoc"]


def test_an_exception_of_the_caller_cancels_all_jobs(jobs: dict[str, Job]) -> None:
    def done(order: Order, status: int) -> None:
        raise EmgscribeError("enough")

    jobs["tiny-2"] = Job(0, looks=-99)
    with pytest.raises(EmgscribeError, match="enough"):
        launch.launch(orders(1, 2), Workers(jobs=3), done, QUIET)
    assert jobs["tiny-2"].cancelled


@pytest.mark.parametrize(
    ("error", "status"), [(EmgscribeError("no such folder", hint="look"), FAILED), (OSError("disk full"), UNWRITABLE)]
)
def test_an_order_that_fails_says_why_in_its_log(error: Exception, status: int, tmp_path: Path) -> None:
    def fail(console: Console) -> None:
        raise error

    order = Order("tiny-1", tmp_path, fail, 1)
    assert order() == status
    assert str(error) in order.log.read_text()
    assert ("Traceback" in order.log.read_text()) == isinstance(error, OSError)


def test_each_run_sees_gpus_of_its_own_among_those_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Process:
        order: int
        gpus: str
        ended: bool = False

        def done(self) -> bool:
            return self.ended

    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launch, "_Process", Process)
    for seen, shares in (("2,3,5,GPU-7", ["2,3", "5,GPU-7"]), ("", ["0,1", "2,3"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        with launch._local(Workers(jobs=2, gpus=2)) as submit:
            one, other = submit(1), submit(2)
            assert [one.gpus, other.gpus] == shares
            one.ended = True
            assert submit(3).gpus == shares[0]
    with launch._local(Workers(jobs=2)) as submit:
        assert [submit(1).gpus, submit(2).gpus] == ["", ""]
    with pytest.raises(EmgscribeError, match="2 jobs of 500 GPUs need 1000"):
        launch.launch(orders(1), Workers(jobs=2, gpus=500), lambda *_: None, QUIET)


@pytest.mark.parametrize(("on", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(on: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        EmgscribeError, match=rf"a package is missing: .*{package}.*\n.*pip install 'emgscribe\[{on}\]'"
    ):
        launch.launch(orders(1), Workers(on), lambda *_: None, QUIET)


def test_only_experiments_without_a_result_run_and_those_that_start_from_others_run_last(
    data: Path, whole: Path, tmp_path: Path, jobs: dict[str, Job]
) -> None:
    again = replace(TINY, train=replace(TINY.train, seed=2))
    suite = [*SUITE.experiments, again]
    assert missing(suite, tmp_path) == [TINY, again, SUITE.experiments[0]]
    assert missing(suite, whole, data) == [again]
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    places["results"].mkdir()
    shutil.copy(whole / f"{FIRST}.json", places["results"])
    assert run_suite(suite, data, **places, workers=Workers(), console=QUIET) == ["tiny-2"]
    assert list(jobs) == ["tiny-2", ADAPTED]
    with pytest.raises(EmgscribeError, match="with other settings"):
        missing([replace(TINY, train=replace(TINY.train, lr=0.5))], whole)
    with pytest.raises(EmgscribeError, match="nowhere"):
        run_suite([TINY], tmp_path / "nowhere", **places, workers=Workers(), console=QUIET)
