"""Sessions that several processes simulate at a time."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.processes import run_all
from emgscribe.simulation.sessions import simulate


def done(folder: Path, *, progress) -> None:
    progress(0.5)
    (folder / f"process-{os.getpid()}").touch()
    progress(1.0)


def refused(*, progress) -> None:
    raise EmgscribeError("refused", where="here", hint="do otherwise")


def killed(*, progress) -> None:
    psutil.Process().kill()


def broken(*, progress) -> None:
    raise ZeroDivisionError


def endless(folder: Path, *, progress) -> None:
    with replacing(folder / "file"):
        (folder / f"process-{os.getpid()}").touch()
        while True:
            progress(0.0)
            time.sleep(0.01)


def after(folder: Path, job, *, progress) -> None:
    """Do a job when the endless one has begun."""
    while not list(folder.glob("process-*")):
        time.sleep(0.01)
    job(progress=progress)


def test_two_processes_write_the_same_files_as_one(tmp_path) -> None:
    seen: list[float] = []
    make = partial(simulate, users=1, sessions=3, minutes=0.2, config=SimulationConfig(units_per_muscle=6))
    one, two = make(tmp_path / "one"), make(tmp_path / "two", processes=2, progress=seen.append)
    first, second = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "one", tmp_path / "two"))
    assert first == second == {"metadata.csv", *(path.name for path in one)}
    assert [path.read_bytes() for path in two] == [path.read_bytes() for path in one]
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_jobs_are_done_by_other_processes_and_progress_ends_at_1(tmp_path) -> None:
    seen: list[float] = []
    run_all([partial(done, tmp_path)] * 5, 3, seen.append)
    assert seen[-1] == 1
    began = {path.name for path in tmp_path.iterdir()}
    assert 1 <= len(began) <= 3
    assert f"process-{os.getpid()}" not in began


def test_an_exception_in_a_job_shows_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_all([broken] * 2, 2, None)
    assert "in broken" in caught.value.__notes__[0]


@pytest.mark.parametrize(("job", "message"), [(refused, "here: refused\n  hint: do otherwise"), (killed, "was killed")])
def test_the_first_job_that_fails_ends_the_others(tmp_path, job, message) -> None:
    with pytest.raises(EmgscribeError, match=message):
        run_all([partial(endless, tmp_path), partial(after, tmp_path, job)], 2, None)
    (began,) = tmp_path.glob("process-*")
    assert not psutil.pid_exists(int(began.name.rpartition("-")[2]))


def test_a_folder_that_cannot_be_made_gives_one_error(tmp_path) -> None:
    with pytest.raises(EmgscribeError, match="cannot be written"):
        simulate(tmp_path / ("x" * 300), users=1, sessions=1, minutes=0.1)


def test_a_script_that_would_begin_again_in_each_process_gets_a_hint(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import emgscribe as es\nes.simulate({str(tmp_path / 'out')!r}, processes=2, minutes=0.1)")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "could not start\n  hint: in a script, put the call under if __name__" in ended.stderr
    assert list((tmp_path / "out").glob("*")) == []


def test_a_number_out_of_range_is_named(tmp_path) -> None:
    with pytest.raises(EmgscribeError, match="processes is -1, allowed: 0 to "):
        simulate(tmp_path / "out", processes=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals to processes are POSIX")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_an_interrupted_program_leaves_neither_processes_nor_files(tmp_path, sent) -> None:
    out = tmp_path / "out"
    line = (  # a background process ignores SIGINT, and so do its children
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"import emgscribe; emgscribe.simulate({str(out)!r}, users=1, sessions=2, minutes=9, processes=2)"
    )
    command = subprocess.Popen([sys.executable, "-c", line], stderr=subprocess.DEVNULL)
    while not list(out.glob(".*")):  # where sessions are being written
        assert command.poll() is None
        time.sleep(0.05)
    started = psutil.Process(command.pid).children(recursive=True)
    assert started
    command.send_signal(signal.Signals[sent])
    command.wait()
    _, stay = psutil.wait_procs(started, timeout=30)
    assert not stay
    assert list(out.iterdir()) == []
