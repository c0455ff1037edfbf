"""What differs from one operating system to another: cores, memory, and how processes end."""

import ctypes
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL; there SIGTERM ends a process as surely

# mallopt's names: free bytes that are kept, bytes from which a block has pages of its own, and number of such blocks;
# and the values that glibc arrives at by itself in a process with large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}


def cores() -> int:
    """The cores that this process may use. A job of a cluster has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Keep memory that is freed for what is allocated next, and give it back at the end.

    By default glibc returns large blocks at once, so a step of training has its arrays in new pages, each of which the
    kernel clears first (how long that takes: LOG.md, 2026-12-01). Other libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for name, value in _USUAL.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)


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
