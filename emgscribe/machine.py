"""What differs from one operating system to another: cores, and how processes end."""

import os
import signal
from contextlib import suppress

import psutil

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL; there SIGTERM ends a process as surely


def cores() -> int:
    """The cores that this process may use. A job of a cluster has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_session(pid: int) -> None:
    """Kill the process `pid`, which began a session of its own, with all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(pid, KILL)
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
