"""Many runs: processes on this machine, jobs of a Slurm cluster (submitit) or tasks of a Ray cluster.

A run ends with the command that waits for it, and the same command goes on from the run's last checkpoint. Only jobs in
a Slurm queue outlive a command that was killed.
"""

import importlib
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from rich.console import Console

from emgscribe.config import Count, Settings, Whole
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.run import missing, progress, run_experiment, run_name
from emgscribe.files import make_folder

_LOOK = 0.2  # seconds between two looks at the runs
_LINE = 20  # seconds between two lines about a run
_SLURM_MINUTES = 24 * 60


@dataclass(frozen=True)
class Order:
    """One run: `work(console=...)` in a process with `cores` cores. Its log is in the folder `runs`."""

    experiment: Experiment
    runs: Path
    work: Callable[..., object]
    cores: int

    @property
    def name(self) -> str:
        return run_name(self.experiment)

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def log(self) -> Path:
        """Where the run's output goes, one try after another."""
        return self.runs / f"{self.name}.log"

    def __call__(self) -> int:
        """Carry out the order in this process; returns 0, 2 after an `EmgscribeError`, 1 after any other error."""
        os.environ["OMP_NUM_THREADS"] = str(self.cores)  # for processes that the training starts
        torch.set_num_threads(self.cores)
        with self.log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            console = Console(file=file, width=120, highlight=False, markup=False, soft_wrap=True)
            console.print(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.name}, process {os.getpid()} on {platform.node()}"
            )
            try:
                console.print(f"done: {self.work(console=console)!r}")
            except EmgscribeError as error:
                console.print(f"Error: {error}")
                return 2
            except Exception:
                traceback.print_exc()
                return 1
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
        """The cores of a run."""
        return self.cores or max(1, (os.cpu_count() or 1) // self.jobs)


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

    Raises `EmgscribeError` where `data` or a result is not the suite's.
    """
    lm = lm and lm.absolute()
    left = missing(suite, results, data, decoders)  # an unsuitable folder is reported once, not by every run
    runs, failed = runs.absolute(), list[str]()
    work = partial(
        run_experiment, data=data.absolute(), runs=runs, results=results.absolute(), decoders=decoders, lm=lm
    )

    def done(order: Order, status: int) -> None:
        failed.extend([order.name] * bool(status))

    for chained in (False, True):  # experiments that start from another one's model come last
        chosen = (one for one in left if bool(one.start) == chained)
        launch((Order(one, runs, partial(work, one), workers.threads) for one in chosen), workers, done, console)
    return failed


@dataclass
class _Running:
    """A run under way, since `begun` (seconds) and `epochs`; a line about it was last printed at `shown`."""

    order: Order
    job: Any
    begun: float
    epochs: int
    shown: float

    def show(self, console: Console) -> None:
        """Print how far the run is, if it has advanced and some time has passed."""
        (done, cer), epochs, now = progress(self.order.folder), self.order.experiment.train.epochs, time.monotonic()
        if now < self.shown + _LINE or done <= self.epochs:
            return
        left = duration((now - self.begun) * (epochs - done) / (done - self.epochs))
        read = f", validation CER {cer:.1f} %" if cer is not None else ""
        self.shown = now
        console.print(f"{self.order.name}: epoch {done} of {epochs}{read}, about {left} left", soft_wrap=True)


def launch(orders: Iterable[Order], workers: Workers, done: Callable[[Order, int], None], console: Console) -> None:
    """Carry out orders, each taken as a worker gets free; `done` is called with each order and its status.

    Prints what starts, how far it is, and what ends. An exception, or Ctrl-C, ends all.
    """
    source, running = iter(orders), list[_Running]()
    with _BACKENDS[workers.on](workers) as submit:
        try:
            while True:
                while len(running) < workers.jobs and (order := next(source, None)) is not None:
                    make_folder(order.log.parent)
                    console.print(f"{order.name}: started, log {os.path.relpath(order.log)}", soft_wrap=True)
                    begun = time.monotonic()
                    running.append(_Running(order, submit(order), begun, progress(order.folder)[0], begun))
                if not running:
                    return
                for run in [run for run in running if run.job.done()]:
                    running.remove(run)
                    status = _status(run.job)
                    end = f"failed, see {os.path.relpath(run.order.log)}" if status else "done"
                    console.print(f"{run.order.name}: {end}", soft_wrap=True)
                    done(run.order, status)
                for run in running:
                    run.show(console)
                time.sleep(_LOOK)
        finally:
            for run in running:
                run.job.cancel()


def _status(job: Any) -> int:
    try:
        return int(job.result())
    except Exception:  # its worker was killed or lost, for which each library has errors of its own
        return 1


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds, for people."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes else f"{seconds:.0f} s"


class _Process:
    """A run in a process of its own on this machine, which ends when this process does, even by SIGKILL."""

    def __init__(self, order: Order, gpus: str) -> None:
        self.gpus = gpus
        with order.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "emgscribe.experiments.launch", order.name],  # the name, for lists of processes
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the run
            )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            pickle.dump(order, self._process.stdin)
            self._process.stdin.flush()

    def done(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> int:
        self._process.communicate()  # closes the pipe too
        return self._process.returncode

    def cancel(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
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
    shares = [",".join(names[job * workers.gpus : (job + 1) * workers.gpus]) for job in range(workers.jobs)]
    started: list[_Process] = []

    def submit(order: Order) -> _Process:
        used = {process.gpus for process in started if not process.done()}
        started.append(_Process(order, next((share for share in shares if share not in used), "")))
        return started[-1]

    yield submit


@contextmanager
def _slurm(workers: Workers, cluster: str = "slurm") -> Iterator[Submit]:
    """Jobs of a Slurm cluster. What sbatch reads from its environment (`SBATCH_PARTITION`, ...) holds for them too."""
    submitit = optional("submitit", "slurm")
    resources = {"cpus_per_task": workers.threads, **({"gpus_per_node": workers.gpus} if workers.gpus else {})}

    def submit(order: Order) -> Any:
        try:
            executor = submitit.AutoExecutor(order.runs / "slurm", cluster=cluster)
            executor.update_parameters(name=order.name, timeout_min=_SLURM_MINUTES, **resources)
            return executor.submit(order)
        except (RuntimeError, OSError, submitit.core.utils.FailedSubmissionError) as error:
            hint = "call from a machine of the cluster"
            raise EmgscribeError(f"Slurm refused the job ({error})", hint=hint) from error

    yield submit


@dataclass
class _Task:
    ray: Any
    reference: Any

    def done(self) -> bool:
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self) -> int:
        return int(self.ray.get(self.reference))

    def cancel(self) -> None:
        self.ray.cancel(self.reference, force=True)


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
        yield lambda order: _Task(ray, task.remote(order))
    finally:
        ray.shutdown()


_BACKENDS = {"local": _local, "slurm": _slurm, "ray": _ray}


def optional(package: str, extra: str) -> Any:
    """A package that comes with an extra; `EmgscribeError` with the extra's name where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EmgscribeError(f"this needs {package} ({error})", hint=f"pip install 'emgscribe[{extra}]'") from error


def _end_with_parent() -> None:
    """End this process group when standard input closes: the process that waits for us was killed.

    Needs a thread, since a parent that SIGKILL ended cannot end its children.
    """
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    received: Order = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(received())
