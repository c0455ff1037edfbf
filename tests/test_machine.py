"""What differs from one operating system to another."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import gone, until

from emgscribe import machine

SLEEPER = "import time; time.sleep(600)"
PARENT = (
    f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).pid, flush=True); {SLEEPER}"
)


def test_cores_are_those_that_this_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from emgscribe.machine import cores"
    done = subprocess.run([sys.executable, "-c", f"{code}; print(cores())"], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


# In a process of its own: in a worker that had run other tests, memory was not reused (LOG.md, 2026-12-01).
MEMORY = """
import resource
import numpy as np
import psutil
from emgscribe.machine import reusing_memory

def clear():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.full(8 * 2**20, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults = [clear()]
with reusing_memory():
    clear()
    faults.append(clear())
    held = psutil.Process().memory_info().rss
print(*faults, clear(), held, psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns large blocks at once")
def test_memory_is_reused_while_that_is_asked_for_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    usual, reusing, after, held, left = map(int, done.stdout.split())
    assert reusing < usual / 10
    assert after > usual / 2
    assert left < held - 50e6


@pytest.mark.parametrize("groups", [True, False], ids=["process groups", "without"])
def test_a_session_ends_with_all_that_it_started(groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not groups:
        monkeypatch.delattr(os, "killpg")  # as under Windows
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        machine.end_session(parent.pid)
        assert parent.wait() == -9
        until(lambda: gone(child), seconds=10)
    machine.end_session(parent.pid)  # again: there is nothing left


def test_only_one_module_knows_what_windows_lacks() -> None:
    package = Path(machine.__file__).parent
    posix = ("killpg", "SIGKILL", "os.kill(", "os.fork(", "import fcntl")
    found = {
        f"{path.relative_to(package)}: {word}"
        for path in package.rglob("*.py")
        for word in posix
        for line in path.read_text().splitlines()
        if word in line.partition("#")[0] and '"""' not in line
    }
    assert found <= {f"machine.py: {word}" for word in posix}
