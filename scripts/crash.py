"""Kills and full disks at random moments: the same command, run again, must end as if nothing had happened.

    python scripts/crash.py                                         100 kills and 50 full disks (make crash)
    python scripts/crash.py --verb tune --kills 1 --disks 0 --seed 7

A case kills a command up to three times, or gives it a disk with too little room for what it writes. Then the command
runs to its end. Each file must hold what an undisturbed command leaves, hidden files must be gone, and a full disk must
give one error. Disks are file systems in memory where this machine allows mounting, else a limit on the size of files.
`demo` is left out: it simulates and trains as the other verbs do, and takes minutes.
"""

import argparse
import hashlib
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz import MODEL, TEST, call, leftovers, prepare

TRAIN = "train tiny --data data --results new-results --decoder greedy,beam --lm words.arpa"
VERBS = {
    "simulate": "simulate --out new --users 1 --sessions 1 --minutes 0.2 --report",
    "simulate keys": "simulate --out new --key-logs data",
    "inspect": "inspect data --json",
    "convert": "convert arm.csv --out new --bands left --start 2026-01-31",
    "to bids": "convert data --out new --to bids",
    "import": "import published.ckpt --out new",
    "export": "export published --out new/one.ckpt",
    "data stats": "data stats data --out new/stats.png",
    "train": f"{TRAIN} --runs new",
    "resume": f"{TRAIN} --runs half",  # from a checkpoint
    "reproduce": "reproduce tiny --data data --runs new --results new-results",
    "tune": "tune tiny --data data --runs new --search train.lr=1e-3,1e-2 --trials 2 --cores 1",
    "report": "report --results results --out new",
    "evaluate": f"evaluate {MODEL} {TEST} --decoder greedy,beam",
    "transcribe": f"transcribe {TEST} --model {MODEL}",
    "lm train": "lm train text.txt --out new.arpa.gz --order 3",
    "lm tune": f"lm tune {MODEL} data/b.hdf5 --lm words.arpa --beam-size 2",
}
PRINTED = ("inspect", "evaluate", "transcribe")  # verbs whose output is their result
PATIENCE, ROOM, FULL = 300, 1 << 30, 1  # seconds, bytes of a disk, status of `reproduce` when its runs failed


def start(verb: str, place: Path, output: Path, largest: int = resource.RLIM_INFINITY) -> int:
    """Carry out a command in a process group of its own, forked from this process; returns the group."""
    if (process := os.fork()) == 0:
        os.setpgid(0, 0)
        call(VERBS[verb].split(), place, output, {resource.RLIMIT_FSIZE: largest})
    return process


def end(process: int) -> int:
    """Wait for a command and all that it started; returns its exit status, negative for a signal."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    until = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process, 0)
            time.sleep(0.01)
        os.killpg(process, signal.SIGKILL)
        raise TimeoutError("a process outlives its command")
    return status


def contents(place: Path) -> dict[str, object]:
    """Path -> what must be equal, for each file in a folder."""
    return {str(path.relative_to(place)): _content(path) for path in place.rglob("*") if path.is_file()}


def _content(path: Path) -> object:
    if path.suffix in (".log", ".png") or path.name in (".lock", "entry"):
        return ""  # holds times
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as study:
            asked = ("number, state from trials", "* from trial_params", "trial_id, value from trial_values")
            return [study.execute(f"select {what} order by 1, 2").fetchall() for what in asked]
    if path.suffix == ".ckpt":
        import torch  # after `fuzz` has set one thread: with more, a forked process may wait forever

        return re.sub(r"'seconds': [\d.e-]+", "", str(_plain(torch.load(path, weights_only=True))))
    if path.suffix == ".json":
        return re.sub(r'"seconds": [\d.]+', "", path.read_text())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(state: object) -> object:
    """`state` with tensors as lists."""
    if hasattr(state, "tolist"):
        return state.tolist()
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return [_plain(value) for value in state] if isinstance(state, list | tuple) else state


def size(folder: Path) -> int:
    """Bytes in a folder, in the pages of a file system in memory."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


@dataclass
class Undisturbed:
    """What a command leaves and prints, how many seconds it takes and how many bytes it adds."""

    files: dict[str, object]
    printed: str
    seconds: float
    added: int


class Cases:
    """Carries out cases one after another in one folder, from the same files."""

    def __init__(self, made: Path, mounts: bool) -> None:
        self.made, self.place, self.output, self.mounts = made, made.parent / "case", made.parent / "output", mounts
        self.known: dict[str, Undisturbed] = {}

    @contextmanager
    def disk(self) -> Iterator[Callable[[int], None]]:
        """A disk with the files, or a folder where none can be mounted; yields what changes the disk's size."""
        self.place.mkdir()

        def resize(size: int, how: str = "remount") -> None:
            if self.mounts:
                command = ["mount", "-t", "tmpfs", "-o", f"{how},size={size}", "tmpfs", self.place]
                subprocess.run(command, check=True)

        resize(ROOM, "rw")
        try:
            shutil.copytree(self.made, self.place, dirs_exist_ok=True)
            yield resize
        finally:
            if self.mounts:
                subprocess.run(["umount", "--lazy", self.place], check=True)
            shutil.rmtree(self.place)

    def undisturbed(self, verb: str) -> Undisturbed:
        if verb not in self.known:
            with self.disk():
                before, begun = size(self.place), time.monotonic()
                if end(start(verb, self.place, self.output)):
                    raise RuntimeError(self.output.with_suffix(".err").read_text())
                seconds, added = time.monotonic() - begun, size(self.place) - before
                self.known[verb] = Undisturbed(contents(self.place), self.printed(verb), seconds, added)
        return self.known[verb]

    def printed(self, verb: str) -> str:
        return self.output.with_suffix(".out").read_text() if verb in PRINTED else ""

    def killed(self, verb: str, rng: Random) -> str:
        """Kill a command at random moments; returns what is wrong after it, if anything."""
        seconds = self.undisturbed(verb).seconds
        with self.disk():
            for _ in range(rng.choice((1, 1, 2, 3))):
                process = start(verb, self.place, self.output)
                time.sleep(rng.uniform(0, seconds))
                os.kill(process, signal.SIGKILL)
                if (status := end(process)) not in (-signal.SIGKILL, 0):
                    return f"status {status} before it was killed"
            return self.again(verb)

    def filled(self, verb: str, rng: Random) -> str:
        """Give a command too little room, then enough; returns what is wrong after it, if anything."""
        room = rng.randrange(self.undisturbed(verb).added + 4096)
        with self.disk() as resize:
            resize(size(self.place) + room)
            largest = resource.RLIM_INFINITY if self.mounts else max(room, 1)
            status = end(start(verb, self.place, self.output, largest))
            stderr = self.output.with_suffix(".err").read_text()
            errors = len(re.findall(r"^Error: .*\nHint: ", stderr, re.MULTILINE))
            one_error = status == 2 and errors == 1
            if "Traceback" in stderr or not (one_error or status == 0 or (verb == "reproduce" and status == FULL)):
                return f"status {status} and {errors} errors on a full disk: {stderr}"
            resize(ROOM)
            return self.again(verb)

    def again(self, verb: str) -> str:
        """Run a command again; returns what differs from an undisturbed one, if anything."""
        expected = self.undisturbed(verb)
        if status := end(start(verb, self.place, self.output)):
            return f"status {status} when run again: {self.output.with_suffix('.err').read_text()}"
        if hidden := leftovers(self.place):
            return f"hidden files are left: {', '.join(hidden)}"
        found = contents(self.place)
        names = [name for name in {**expected.files, **found} if expected.files.get(name) != found.get(name)]
        if names:
            return f"files differ: {', '.join(sorted(names))}"
        return "" if self.printed(verb) == expected.printed else "output differs"


def _mounts(folder: Path) -> bool:
    """Whether this machine allows mounting a file system in memory."""
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True, capture_output=True)
        subprocess.run(["umount", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many cases are killed")
    parser.add_argument("--disks", type=int, default=50, help="how many cases have a full disk")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--verb", choices=VERBS, action="append")
    options = parser.parse_args()
    counts, begun = Counter[tuple[str, bool]](), time.monotonic()
    with TemporaryDirectory() as name:
        made = Path(name, "made")
        os.environ["EMGSCRIBE_CACHE"] = f"{made}/cache"
        prepare(made)
        os.chdir("/")
        shutil.rmtree(made / "cache")
        cases = Cases(made, _mounts(made.parent))
        for kind, work, number in (("kill", cases.killed, options.kills), ("disk", cases.filled, options.disks)):
            for seed, verb in zip(range(options.seed, options.seed + number), cycle(options.verb or VERBS)):
                wrong = work(verb, Random(f"{kind} {verb} {seed}"))
                counts[kind, not wrong] += 1
                if wrong:
                    print(f"--verb '{verb}' --seed {seed}, {kind}: {wrong}", flush=True)
    for kind in ("kill", "disk"):
        print(f"{kind}: {counts[kind, True]} of {counts[kind, True] + counts[kind, False]} end as if undisturbed")
    print(
        f"{time.monotonic() - begun:.0f} s; disks were {'mounted' if cases.mounts else 'limits on the size of files'}"
    )
    return int(any(number for (_, good), number in counts.items() if not good))


if __name__ == "__main__":
    sys.exit(main())
