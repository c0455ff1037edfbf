"""Processes of this machine that simulate."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array, c_double
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, Protocol, cast

from emgscribe.errors import EmgscribeError
from emgscribe.machine import cores

if TYPE_CHECKING:  # which of the two exists depends on the system
    from multiprocessing.context import ForkServerContext, SpawnContext

Progress = Callable[[float], None]
_POLL = 0.2  # seconds between two polls of what is done
_MAX_PROCESSES = 60  # processes; Windows waits for 63 at most


class Job(Protocol):
    """Part of the work; a process gets a copy, so it can be pickled. `progress` gets the fraction done."""

    def __call__(self, *, progress: Progress) -> None: ...


def processes() -> "ForkServerContext | SpawnContext":
    """How a process that simulates is started: where the system can, as a copy of one that has loaded the simulator."""
    if not hasattr(os, "fork"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["emgscribe.simulation.sessions", "scipy.signal", "wordfreq"])
    return context


@contextmanager
def without_interrupts() -> Iterator[None]:
    """SIGINT is blocked, also in processes that are started here, where the system can block it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_all(jobs: Sequence[Job], count: int, progress: Progress | None) -> None:
    """Do all jobs, `count` at a time; 0 means as many as there are cores. `progress` gets the fraction done of all.

    Where one process is enough, it is this one. Of several, the first that fails ends the others, and so does the end
    of this one. Raises what a job raises, and `EmgscribeError` where a process is killed.
    """
    context, count = processes(), min(count or cores(), len(jobs), _MAX_PROCESSES)
    done = context.Array("d", len(jobs), lock=False)

    def look() -> None:
        if progress is not None and any(done):  # an error at the start stands alone
            progress(sum(done) / len(jobs))

    if count < 2:
        for index, job in enumerate(jobs):
            job(progress=partial(_report_progress, done, index, look))
        return
    errors, failed = context.Pipe(duplex=False)
    taken = context.Value("i", 0)
    given = (jobs, taken, done, failed)
    workers: list[BaseProcess] = []
    try:
        with without_interrupts():  # Ctrl-C ends this process, which ends those
            while len(workers) < count:
                started = context.Process(target=_work, args=given, daemon=True)
                started.start()
                workers.append(started)
        while True:
            running = [worker.sentinel for worker in workers if worker.is_alive()]
            look()
            if any(worker.exitcode for worker in workers):
                raise _why(errors, begun=taken.value > 0)
            if not running:
                return
            wait(running, _POLL)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _report_progress(done: "Array[c_double]", index: int, after: Callable[[], object], fraction: float) -> None:
    done[index] = fraction
    after()


def _work(jobs: Sequence[Job], taken: "Synchronized[int]", done: "Array[c_double]", failed: Connection) -> None:
    """Do jobs that no other process has taken, until none is left or the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    parent = cast(BaseProcess, multiprocessing.parent_process())

    def look() -> None:
        if not parent.is_alive():
            raise SystemExit

    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(jobs):
            return
        try:
            jobs[index](progress=partial(_report_progress, done, index, look))
        except Exception as error:
            if not isinstance(error, EmgscribeError):
                error.add_note(traceback.format_exc())  # a pickled exception loses it
            failed.send(error)
            raise SystemExit(1) from None


def _why(errors: Connection, *, begun: bool) -> Exception:
    """Why a process has ended early: an error of its own, or else it was killed or never began."""
    if errors.poll():
        return cast(Exception, errors.recv())
    if not begun:
        hint = 'in a script, put the call under if __name__ == "__main__":'
        return EmgscribeError("a process that simulates could not start", hint=hint)
    hint = "free some memory, or simulate in Python with fewer processes"
    return EmgscribeError("a process that simulates was killed", hint=hint)
