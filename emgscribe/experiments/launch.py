"""Many runs: processes on this machine, jobs of a Slurm cluster (submitit) or tasks of a Ray cluster.

A run ends with the command that waits for it, and the same command resumes from the run's last checkpoint. Only jobs in
a Slurm queue outlive a command that was killed.
"""

import gc
import os
import pickle
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from rich.console import Console

from emgscribe.config import Count, Settings, Whole
from emgscribe.errors import EmgscribeError, optional
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.run import missing, run_experiment, run_name
from emgscribe.files import holder, make_folder
from emgscribe.machine import cores, end_session

_POLL = 0.2  # seconds between two polls of the runs
_LINES = 20  # seconds between two lines about a run
FAILED, UNWRITABLE = 1, 2  # statuses of an order: an error, and one that the disk or the machine is to blame for


@dataclass(frozen=True)
class Order:
    """One run: `work(console=...)` in a process with `cores` cores. What it prints goes to its log in `runs`."""

    name: str
    runs: Path
    work: Callable[..., object]
    cores: int

    @property
    def log(self) -> Path:
        return self.runs / f"{self.name}.log"

    def news(self, begin: str) -> str:
        """The log's last line that begins with these words; empty where there is none."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line for line in reversed(lines) if line.startswith(begin)), "")

    def __call__(self) -> int:
        """Do the work in this process; returns its status: 0, `FAILED` or `UNWRITABLE`."""
        os.environ["OMP_NUM_THREADS"] = str(self.cores)  # for processes that the training starts
        torch.set_num_threads(self.cores)
        try:
            with self.log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
                console = Console(file=file, width=120, highlight=False, markup=False, soft_wrap=True)
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                console.print(f"{now} {self.name}, process {os.getpid()} on {platform.node()}")
                try:
                    console.print(f"done: {self.work(console=console)!r}")
                except Exception as error:
                    console.print(f"Error: {error}" if isinstance(error, EmgscribeError) else traceback.format_exc())
                    return UNWRITABLE if isinstance(error.__cause__ or error, OSError) else FAILED
        except OSError:  # of the log itself
            return UNWRITABLE
        return 0

    def checkpoint(self) -> Any:
        """What Slurm runs after a job that it preempted or that ran out of time (submitit's protocol)."""
        return optional("submitit", "slurm").helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Workers(Settings):
    """Where runs go, how many at a time, and what each of them uses."""

    on: Literal["local", "slurm", "ray"] = "local"  # this machine, a Slurm cluster or a Ray cluster
    jobs: Count = 1  # how many runs at a time
    cores: Whole = 0  # cores of each run; 0: this machine's cores, divided by the runs
    gpus: Whole = 0  # GPUs of each run; 0: all that it can see

    @property
    def threads(self) -> int:
        return self.cores or max(1, cores() // self.jobs)


Submit = Callable[[Order], Any]  # returns a job with `done()`, `result()` and `cancel()`, as submitit's are


def run_suite(
    suite: Sequence[Experiment],
    data: Path,
    *,
    runs: Path,
    results: Path,
    decoders: Sequence[str] = ("greedy",),
    lm: Path | None = None,
    workers: Workers,
    console: Console,
) -> list[str]:
    """Run what is missing of a suite; returns the names of the runs that failed, which do not stop the others.

    When all others are done, it waits for the runs that another command works on. Raises `EmgscribeError` where `data`
    or a result is not the suite's.
    """
    data, runs, results, lm = data.absolute(), runs.absolute(), results.absolute(), lm and lm.absolute()
    work = partial(run_experiment, data=data, runs=runs, results=results, decoders=decoders, lm=lm)
    ended: dict[str, int] = {}

    def orders(left: list[Experiment]) -> Iterator[Order]:
        while left := missing(left, results, decoders=decoders):  # another command may have made some meanwhile
            one = next((one for one in left if not holder(runs / run_name(one))), left[0])
            if other := holder(runs / run_name(one)):
                console.print(f"{run_name(one)}: waiting for process {other}, which works on it", soft_wrap=True)
            left.remove(one)
            yield Order(run_name(one), runs, partial(work, one), workers.threads)

    left = missing(suite, results, data, decoders)  # an unsuitable folder is reported once, not by every run
    for chained in (False, True):  # experiments that build on another one's model come last
        chosen = [one for one in left if one.depends == chained]
        launch(orders(chosen), workers, lambda order, status: ended.update({order.name: status}), console)
    return [name for name, status in ended.items() if status]


def launch(orders: Iterable[Order], workers: Workers, done: Callable[[Order, int], None], console: Console) -> None:
    """Carry out orders, each when a worker becomes free; `done` is called with each order and its status.

    Prints what starts, the latest epoch of each run now and then, and what ends. An exception, or Ctrl-C, ends all.
    """
    source, jobs, shown, look = iter(orders), dict[Order, Any](), dict[Order, str](), time.monotonic()
    with _BACKENDS[workers.on](workers) as submit:
        try:
            while True:
                while len(jobs) < workers.jobs and (order := next(source, None)):
                    make_folder(order.log.parent)
                    console.print(f"{order.name}: started, log {os.path.relpath(order.log)}", soft_wrap=True)
                    shown[order], jobs[order] = order.news("epoch "), submit(order)
                if not jobs:
                    return
                for order in [order for order, job in jobs.items() if job.done()]:
                    status = FAILED  # also of a worker that was lost, for which each library has its own errors
                    with suppress(Exception):
                        status = int(jobs.pop(order).result())
                    end = f"failed, see {os.path.relpath(order.log)}" if status else "done"
                    console.print(f"{order.name}: {end}", soft_wrap=True)
                    done(order, status)
                if time.monotonic() > look + _LINES:
                    look = time.monotonic()
                    for order in jobs:
                        if (news := order.news("epoch ")) != shown[order]:
                            console.print(f"{order.name}: {news}", soft_wrap=True)
                            shown[order] = news
                time.sleep(_POLL)
        finally:
            for job in jobs.values():
                job.cancel()


class _Process(subprocess.Popen[bytes]):
    """A run in a process of its own on this machine, which ends when this process does, even by SIGKILL."""

    def __init__(self, order: Order, gpus: str) -> None:
        with order.log.open("a") as log:
            super().__init__(
                [sys.executable, "-m", __name__, order.name],  # the run's name, for lists of processes
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the run
            )
        assert self.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            pickle.dump(order, self.stdin)
            self.stdin.flush()

    def done(self) -> bool:
        return self.poll() is not None

    def result(self) -> int:
        self.communicate()  # closes the pipe too
        return self.returncode

    def cancel(self) -> None:
        end_session(self.pid)
        self.result()


@contextmanager
def _local(workers: Workers) -> Iterator[Submit]:
    """Processes on this machine. Each sees only GPUs that this process may use and that no other run has."""
    found, wanted = torch.cuda.device_count(), workers.jobs * workers.gpus
    if wanted > found:
        hint = "ask for fewer with --gpus or --jobs"
        what = f"{workers.jobs} jobs of {workers.gpus} GPUs need {wanted}, but there are {found}"
        raise EmgscribeError(what, hint=hint)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(gpu) for gpu in range(found)]
    latest: dict[int, _Process] = {}

    def submit(order: Order) -> _Process:
        free = next(job for job in range(workers.jobs) if job not in latest or latest[job].done())
        latest[free] = _Process(order, ",".join(names[free * workers.gpus :][: workers.gpus]))
        return latest[free]

    yield submit


def require_package(on: str) -> None:
    """Raise `EmgscribeError` if the package that starts runs there is missing. It is not imported."""
    package = {"slurm": "submitit", "ray": "ray"}.get(on)
    if package and find_spec(package) is None:
        optional(package, on)


@contextmanager
def _slurm(workers: Workers, cluster: str = "slurm") -> Iterator[Submit]:
    """Jobs of a Slurm cluster. What sbatch reads from its environment (`SBATCH_PARTITION`, ...) applies to them too."""
    submitit = optional("submitit", "slurm")
    resources = {"timeout_min": 24 * 60, "cpus_per_task": workers.threads, "gpus_per_node": workers.gpus or None}

    def submit(order: Order) -> Any:
        try:
            executor = submitit.AutoExecutor(order.runs / "slurm", cluster=cluster)
            executor.update_parameters(name=order.name, **resources)
            return executor.submit(order)
        except (RuntimeError, OSError, submitit.core.utils.FailedSubmissionError) as error:
            hint = "run it on a machine of the cluster"
            raise EmgscribeError(f"Slurm refused the job ({error})", hint=hint) from error

    yield submit


@contextmanager
def _ray(workers: Workers) -> Iterator[Submit]:
    """Tasks of the Ray cluster that `RAY_ADDRESS` names or that runs here, else of one that is started for them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # 0 GPUs: a run sees what is there
    ray = optional("ray", "ray")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "check RAY_ADDRESS, or leave it unset to start Ray here"
        raise EmgscribeError(f"Ray cannot be reached or started ({error})", hint=hint) from error
    # After the loss of its worker a task starts again, up to twice, from the last checkpoint.
    task = ray.remote(num_cpus=workers.threads, num_gpus=workers.gpus, max_retries=2)(Order.__call__)
    try:
        yield lambda order: task.remote(order).future()
    finally:
        ray.shutdown()  # ends the tasks too, which cancelling their futures does not


_BACKENDS = {"local": _local, "slurm": _slurm, "ray": _ray}


def _end_with_parent() -> None:
    """End this process, and what it started, when standard input closes: the process that waits for us was killed."""
    while os.read(0, 1):
        pass
    end_session(os.getpid())


if __name__ == "__main__":
    received: Order = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what is loaded stays until the end: looking through it at exit takes a second
    sys.exit(received())
