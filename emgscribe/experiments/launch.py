"""Many runs: on this machine, on a Slurm cluster, on a Ray cluster.

Wherever a run is, it is the same command in a process of its own, which ends when whoever waits for it does: nobody has
to look for processes that a killed command left. What a killed run had, its next try goes on from.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Literal

import torch
from rich.console import Console

from emgscribe.config import from_json, require, to_json
from emgscribe.data.splits import split_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.named import Experiment
from emgscribe.experiments.run import recorded, run_experiment, run_name, train_experiment
from emgscribe.files import make_folder

_RETRIES = 2
_LOST = -1  # the status of a run whose worker is gone; that of a killed process is minus the signal, as in subprocess
_LOOK = 0.2  # seconds between two looks at whether all is to stop
_SLURM_MINUTES = 24 * 60


@dataclass(frozen=True)
class Order:
    """One run: an experiment on a folder of sessions, with so many cores. Without `results` it is not tested.

    Paths are as the caller sees them from the folder `cwd`; on a cluster they lie on a disk that all machines share.
    """

    experiment: Experiment
    data: Path
    runs: Path
    results: Path | None = None
    cores: int = 1
    cwd: Path = Path()

    @property
    def name(self) -> str:
        """The run's name."""
        return run_name(self.experiment)

    @property
    def log(self) -> Path:
        """Where what the run prints goes, one try after another."""
        return self.runs / f"{self.name}.log"


@dataclass(frozen=True)
class Workers:
    """Who runs, how many at a time, and what each run may use."""

    on: Literal["local", "slurm", "ray"] = "local"  # this machine, or a cluster
    jobs: int = 1  # how many runs at a time
    cores: int = 0  # cores of each run; 0: a share of this machine's
    gpus: int = 0  # GPUs that each run has to itself; 0: it sees what is there

    def __post_init__(self) -> None:
        require(self.jobs >= 1, "jobs", self.jobs, "1 or more")
        require(self.cores >= 0, "cores", self.cores, "0 or more")
        require(self.gpus >= 0, "gpus", self.gpus, "0 or more")

    @property
    def threads(self) -> int:
        """The cores of a run."""
        return self.cores or max(1, (os.cpu_count() or 1) // self.jobs)


Run = Callable[[Order], int]
"""Runs an order and waits: the exit status, below 0 where the process was killed or its worker was lost."""


def missing(suite: Sequence[Experiment], results: Path, data: Path | None = None) -> list[Experiment]:
    """The experiments of a suite that have no result yet, those that start from another one's model last.

    Raises `EmgscribeError` where a result was made with other settings than the experiment now has, or, with the folder
    `data`, on other sessions than that would test.
    """
    split = cache(partial(split_sessions, data)) if data is not None else lambda _: None
    left = [experiment for experiment in suite if recorded(experiment, results, split(experiment.data)) is None]
    return sorted(left, key=lambda experiment: bool(experiment.start))


def run_suite(
    suite: Sequence[Experiment], data: Path, *, runs: Path, results: Path, workers: Workers, console: Console
) -> list[str]:
    """Run what is missing of a suite; returns the names that failed.

    A failed run does not stop the others; what it printed is in `runs/<name>-<seed>.log`. Ctrl-C stops all, and the
    same call goes on from each run's last checkpoint. Raises `EmgscribeError` where `data` or a result does not do.
    """
    failed: list[str] = []
    left = missing(suite, results, data)  # a folder that will not do is said once, not by every run

    def done(order: Order, status: int) -> None:
        if status:
            failed.append(order.name)
        console.print(f"{order.name}: " + (f"failed, see {order.log}" if status else "done"), soft_wrap=True)

    for chained in (False, True):
        orders = [Order(each, data, runs, results) for each in left if bool(each.start) == chained]
        if orders:
            launch(orders, workers, done)
    return failed


def launch(orders: Iterable[Order], workers: Workers, done: Callable[[Order, int], None]) -> None:
    """Run orders, taken one by one as workers get free; `done` hears of each with its exit status.

    A run that was killed, or whose worker was lost, is tried twice more, each time from its last checkpoint; one that
    ended with an error of its own is not. Neither `orders` nor `done` is called by two threads at once. An exception of
    theirs, or Ctrl-C, stops all runs and is raised.
    """
    turn, stop, source = Lock(), Event(), iter(orders)

    def work(run: Run) -> None:
        while not stop.is_set():
            with turn:
                order = next(source, None)
            if order is None:
                return
            order = replace(order, cores=workers.threads, cwd=Path.cwd())
            make_folder(order.log.parent)  # before a worker that may be lost at once
            status = run(order)
            for _ in range(_RETRIES):
                if status < 0 and not stop.is_set():
                    with (order.cwd / order.log).open("a") as log:
                        log.write("killed, or its worker was lost; again from the last checkpoint\n")
                    status = run(order)
            with turn:
                if not stop.is_set():
                    done(order, status)

    with _BACKENDS[workers.on](workers, stop) as run, ThreadPoolExecutor(workers.jobs) as pool:
        try:
            for ended in wait([pool.submit(work, run) for _ in range(workers.jobs)], None, FIRST_EXCEPTION).done:
                ended.result()
        finally:
            stop.set()


def execute(order: Order, stop: Event | None = None, environment: dict[str, str] | None = None) -> int:
    """Carry out an order in a process of its own, killed when `stop` is set; returns its exit status."""
    text = {"experiment": to_json(order.experiment), "data": str(order.data), "runs": str(order.runs)}
    text["results"] = order.results and str(order.results)
    with (
        (order.cwd / order.log).open("a") as output,
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "emgscribe.experiments.launch",
                order.name,
            ],  # the name is for those who list processes
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=order.cwd,
            env=os.environ | {"OMP_NUM_THREADS": str(order.cores)} | (environment or {}),
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who then stop it
        ) as process,
    ):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has been killed already
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
        while True:
            try:
                return process.wait(_LOOK)
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set():
                    process.kill()


@contextmanager
def _local(workers: Workers, stop: Event) -> Iterator[Run]:
    """Processes on this machine."""
    found, wanted = torch.cuda.device_count(), workers.jobs * workers.gpus
    if wanted > found:
        hint = "ask for fewer with --gpus or --jobs"
        raise EmgscribeError(f"{workers.jobs} jobs of {workers.gpus} GPUs need {wanted}, there are {found}", hint=hint)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(gpu) for gpu in range(found)]  # of those that the caller may use
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for job in range(workers.jobs):
        own = ",".join(names[job * workers.gpus : (job + 1) * workers.gpus])
        free.put({"CUDA_VISIBLE_DEVICES": own} if own else {})

    def run(order: Order) -> int:
        environment = free.get()
        try:
            return execute(order, stop, environment)
        finally:
            free.put(environment)

    yield run


@contextmanager
def _slurm(workers: Workers, stop: Event, cluster: str = "slurm") -> Iterator[Run]:
    """Jobs of a Slurm cluster. What sbatch reads from its environment (`SBATCH_PARTITION`, ...) holds for them too."""
    submitit = optional("submitit", "slurm")

    def run(order: Order) -> int:
        try:
            executor = submitit.AutoExecutor(order.runs / "slurm", cluster=cluster)
            executor.update_parameters(
                name=order.name,
                timeout_min=_SLURM_MINUTES,
                cpus_per_task=workers.threads,
                **({"gpus_per_node": workers.gpus} if workers.gpus else {}),
            )
            job = executor.submit(execute, order)
        except (RuntimeError, OSError, submitit.core.utils.FailedSubmissionError) as error:
            hint = "call from a machine of the cluster"
            raise EmgscribeError(f"Slurm does not take the job ({error})", hint=hint) from error
        while not job.done():
            if stop.wait(_LOOK):
                job.cancel()
                return _LOST
        try:
            return int(job.result())
        except submitit.core.utils.UncompletedJobError:  # its job was killed, cancelled or ran out of time
            return _LOST

    yield run


@contextmanager
def _ray(workers: Workers, stop: Event) -> Iterator[Run]:
    """Tasks of the Ray cluster that `RAY_ADDRESS` names or that runs here, else of one that is started for them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # 0 GPUs: a run sees what is there
    ray = optional("ray", "ray")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "check RAY_ADDRESS, or leave it unset to start Ray here"
        raise EmgscribeError(f"Ray cannot be reached or started ({error})", hint=hint) from error
    task = ray.remote(num_cpus=workers.threads, num_gpus=workers.gpus, max_retries=0)(execute)

    def run(order: Order) -> int:
        waited = task.remote(order)
        while not ray.wait([waited], timeout=_LOOK)[0]:
            if stop.is_set():
                ray.cancel(waited, force=True)
                return _LOST
        try:
            return int(ray.get(waited))
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
            return _LOST

    try:
        yield run
    finally:
        ray.shutdown()


_BACKENDS: dict[str, Callable[[Workers, Event], AbstractContextManager[Run]]] = {
    "local": _local,
    "slurm": _slurm,
    "ray": _ray,
}


def optional(package: str, extra: str) -> Any:
    """A package that comes with an extra; `EmgscribeError` with the extra's name where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EmgscribeError(f"this needs {package} ({error})", hint=f"pip install 'emgscribe[{extra}]'") from error


def _carry_out() -> int:
    """What `execute` starts: reads the order and runs it."""
    text = json.loads(sys.stdin.readline())
    Thread(target=_leave_with_parent, daemon=True).start()
    console = Console(stderr=True, highlight=False, markup=False)
    try:
        experiment = from_json(Experiment, text["experiment"], where="order")
        data, runs = Path(text["data"]), Path(text["runs"])
        if text["results"] is None:
            train_experiment(experiment, split_sessions(data, experiment.data), runs=runs, console=console)
        else:
            run_experiment(experiment, data, runs=runs, results=Path(text["results"]), console=console)
    except EmgscribeError as error:
        console.print(f"error: {error}", soft_wrap=True)
        return 2
    return 0


def _leave_with_parent() -> None:
    """End at once when the other end of standard input is gone: its holder has ended, or was killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(_carry_out())
