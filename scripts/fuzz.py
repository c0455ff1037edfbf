"""Damaged files and odd command lines: a command must end well, or with one error and exit status 2.

    python scripts/fuzz.py                                   10,000 cases of all kinds, on all cores (make fuzz)
    python scripts/fuzz.py --kind hdf5 --seed 7 --cases 1    one case again

A case is a kind and a seed. Its process is forked from one that has loaded everything, works in a folder of its own,
and may take 2 GB and 5 s of processor time; a case that takes longer gets a second try. If a case ends in another way,
its damaged file, its command and its output are kept.
"""

import argparse
import gc
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import count, cycle, islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NoReturn

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg", "COLUMNS": "100"}

import devices
import numpy as np
import tiny
from mutators import MUTATORS, change_command

import emgscribe as es
from emgscribe import cli
from emgscribe.data import reader
from emgscribe.data.hdf5 import Keystroke, Prompt, prompts_of
from emgscribe.decoding.language_model import default_language_model
from emgscribe.experiments import launch
from emgscribe.live.recorder import Recorder
from emgscribe.machine import cores
from emgscribe.models.encoders import TdsConfig
from emgscribe.training.callbacks import AtomicCheckpointIO

CPU, WALL, MEMORY = 5, 60, 2 << 30  # seconds, seconds (the machine may be busy), bytes beyond what a case starts with
MODEL, TEST = "runs/tiny-0/best", "data/c.hdf5"
TRAIN = "train tiny --data data"
HALF = f"{TRAIN} --runs half"  # one epoch of two is done
TUNE = "tune tiny --data data --search train.lr=1e-3,1e-2 --trials 1 --cores 1"
READ, SCORE = f"transcribe {TEST} --model {MODEL}", f"evaluate {MODEL} {TEST}"
CONVERT = "convert FILE --out new --bands left --rate 200 --start 2026-01-31"
FOREIGN, PUBLISHED = "convert FOLDER --out new --start 2026-01-31", "published"
FINISH = "record --out cut-off --finish-only"
BEAM, PLAN = f"{READ} --decoder beam", "reproduce tiny --data data --dry-run"


@dataclass(frozen=True)
class Kind:
    """Files, one of which is damaged; the ways to damage it; and the commands that then get it as FILE.

    `share` is the weight of this kind among all cases.
    """

    files: tuple[str, ...]
    mutators: tuple[str, ...]
    commands: tuple[str, ...]
    share: int = 1


_JSON, _BINARY = ("json", "json", "bytes"), ("structure", "bytes")
KINDS = {
    "hdf5": Kind(
        (TEST,),
        ("structure", "hdf5", *_BINARY, "hdf5"),
        ("inspect FILE", "inspect data --json", READ, SCORE, TRAIN, "lm train text.txt --out new.arpa --exclude FILE"),
        share=6,
    ),
    "config.json": Kind((f"{MODEL}/config.json",), _JSON, (READ, SCORE, TRAIN), share=3),
    "beam.json": Kind((f"{MODEL}/beam.json",), _JSON, (BEAM, f"{TRAIN} --decoder beam --lm words.arpa")),
    "safetensors": Kind((f"{MODEL}/model.safetensors",), ("safetensors", *_BINARY), (READ, SCORE), share=2),
    "arpa": Kind(("words.arpa", "words.arpa.gz"), ("text", "text", *_BINARY), (f"{BEAM} --lm FILE",), share=2),
    "stored arpa": Kind((f"{MODEL}/*.arpa.gz",), ("bytes",), (BEAM,)),
    "text": Kind(("text.txt",), ("text", "bytes"), ("lm train FILE --out new.arpa --order 3",)),
    "result": Kind(("results/tiny-0.json",), _JSON, ("report", TRAIN, PLAN), share=2),
    "settings.json": Kind(("half/tiny-0/settings.json",), _JSON, (HALF,)),
    "last.ckpt": Kind(("half/tiny-0/last.ckpt",), ("checkpoint", "checkpoint", *_BINARY), (HALF,), share=2),
    "ended ckpt": Kind(("runs/tiny-0/last.ckpt",), ("checkpoint", "checkpoint", *_BINARY), (TRAIN,)),
    "curves.csv": Kind(("half/tiny-0/curves.csv",), ("text", "bytes"), (HALF, f"{PLAN} --runs half --results new")),
    "cache": Kind(("cache/sessions/*/*",), _BINARY, (READ, "inspect data")),
    "study.db": Kind(("runs/tune/tiny/study.db",), ("sqlite", "sqlite", *_BINARY), (TUNE,)),
    "table": Kind(("arm.csv", "arm_keys.csv"), ("text", "bytes"), (CONVERT.replace("FILE", "arm.csv"),)),
    "numpy": Kind(("arm.npy", "arm.npz"), _BINARY, (CONVERT,)),
    "bids": Kind(("bids/sub-*/ses-*/emg/*",), ("text", "bytes"), ("convert bids --out new",)),
    "bdf": Kind(("bids/sub-*/ses-*/emg/*.bdf",), _BINARY, ("convert bids --out new",)),
    "xdf": Kind(("lab.xdf",), ("text", *_BINARY), (f"{CONVERT.replace(' --rate 200', '')} --streams Myo",)),
    "myo": Kind(("myo/*",), ("text", "bytes"), (FOREIGN.replace("FOLDER", "myo"),)),
    "intan": Kind(("days/P1/T1/Data/*.rhd",), _BINARY, (FOREIGN.replace("FOLDER", "days"),)),
    "day": Kind(("days/P1/T1/*.*",), ("text", "bytes"), (FOREIGN.replace("FOLDER", "days"),)),
    "published": Kind(("published.ckpt",), _BINARY, ("import FILE --out new", "import FILE --out new --hop 8")),
    "recording": Kind(("cut-off/*.recording/*",), ("text", "bytes"), (FINISH,)),
    "split": Kind(("own.csv",), ("text", "bytes"), ("train tiny --data data --data.split FILE --name own",)),
    "arguments": Kind(
        (),
        (),
        (
            f"inspect {TEST} --json", "inspect data", READ, f"{READ} --decoder greedy --on-screen", SCORE, TRAIN, TUNE,
            f"evaluate {MODEL} {TEST} --decoder greedy,beam --protocol windows --lm words.arpa",
            "report --results results --out out", "report --compare tiny:greedy tiny:greedy --decoder greedy",
            "lm train text.txt --out new.arpa.gz --order 3 --min-count 1", "demo --out demo --seed 0 --help",
            f"lm tune {MODEL} data/b.hdf5 --lm words.arpa --beam-size 2", f"{PLAN} --jobs 1 --cores 1 --gpus 0",
            CONVERT.replace("FILE", "arm.csv"), "convert data --out new --resample 500 --to sessions",
            "import published.ckpt --out new --trained-on course --hop 16", f"export {PUBLISHED} --out new.ckpt",
            "data check data --jobs 1", "data stats data --json", "data get --course --out new --source data",
            "simulate --out new --users 1 --sessions 1 --minutes 0.05 --seed 0 --simulation.difficulty 1",
        ),
        share=5,
    ),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Make every kind of file in `folder` as a user does, in this process, which is then warm."""
    tiny.add()
    folder.mkdir(parents=True)
    os.chdir(folder)
    Path("text.txt").write_text("It is the end of the day, and I am at home.\n" * 20)
    _command("simulate --out data --users 1 --sessions 3 --minutes 0.1")
    Path("data/metadata.csv").unlink()
    for name, path in zip("abc", sorted(Path("data").iterdir()), strict=True):
        path.rename(path.with_stem(name))
    save, launch._BACKENDS["local"] = AtomicCheckpointIO.save_checkpoint, _in_this_process

    def save_once(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        raise KeyboardInterrupt

    AtomicCheckpointIO.save_checkpoint = save_once
    _command(HALF, 130)
    AtomicCheckpointIO.save_checkpoint = save
    for out in ("words.arpa", "words.arpa.gz"):
        _command(f"lm train text.txt --out {out} --order 3")
    for command in (TRAIN, f"lm tune {MODEL} data/b.hdf5 --lm words.arpa --beam-size 2", f"{BEAM} --lm words.arpa"):
        _command(command)
    times, emg = np.arange(400) / 200, np.sin(np.arange(3200.0)).reshape(400, 8)
    np.save("arm.npy", emg)
    np.savez("arm.npz", emg=emg, times=times)
    np.savetxt("arm.csv", np.column_stack([times, emg]), "%.4f", ",", header="time,a,b,c,d,e,f,g,h", comments="")
    Path("arm_keys.csv").write_text("key,start,end\nh,0.5,0.6\nSpace,1.0,1.1\n")
    devices.myo(Path("myo"), emg, "left", "right")
    devices.typing_day(Path("days"), np.sin(np.arange(96_000.0)).reshape(6000, 16))
    streams = (
        ("Myo", "EMG", emg, times),
        ("Keyboard", "Markers", ["t pressed", "t released", "Space"], times[9:99:30]),
    )
    devices.xdf(Path("lab.xdf"), *(devices.xdf_stream(at, *stream) for at, stream in enumerate(streams, 1)))
    for sessions in ([], ["data/b.hdf5"], ["data/c.hdf5"]):  # fills the cache, which takes seconds
        default_language_model(exclude=prompts_of(sessions))
    Path("own.csv").write_text("session,partition\na,train\nb,val\nc,test\n")
    es.save_model(es.Model(es.ModelConfig(encoder=TdsConfig(8, 1, 4, 3, 1))), PUBLISHED)
    for command in ("convert data --out bids --to bids", f"export {PUBLISHED} --out published.ckpt"):
        _command(command)
    for command in (FOREIGN.replace("FOLDER", "myo"), FOREIGN.replace("FOLDER", "days"), f"{CONVERT} --streams Myo"):
        _command(command.replace("FILE", "lab.xdf").replace("--out new", "--out warm").replace(" --rate 200", ""))
    for command in (SCORE, PLAN, TUNE, "report", "inspect data"):
        _command(command)
    _record(Path("cut-off"), emg, times)
    _command(FINISH)
    _record(Path("cut-off"), emg, times)
    reader._child.close()


def _record(out: Path, emg: Any, times: Any) -> None:
    """A recording that was cut off."""
    recorder = Recorder(out, es.Shape(("left",), 8, 200.0), user="me", origin=1.7e9)
    recorder.add(emg[:, None].astype(np.float32), times)
    recorder.add_key(Keystroke("h", 0.5, 0.6))
    recorder.add_prompt(Prompt("prompt", 0.4, 0.9, "h"))
    recorder.note_clock(0.001)
    recorder.close()


def _command(line: str, status: int = 0) -> None:
    assert cli.main(shlex.split(line)) == status, line


def _in_this_process(_: launch.Workers) -> Any:
    def run(order: launch.Order) -> Any:
        status = order()
        return SimpleNamespace(done=lambda: True, result=lambda: status, cancel=lambda: None)

    return nullcontext(run)


class Forked:
    """The reader's child process, forked from one that has loaded h5py: starting it takes most of a case's time."""

    def __init__(self, *_: object, **__: object) -> None:
        (question, self._ask), (self._answer, answer) = os.pipe(), os.pipe()
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            for mine, theirs in ((question, 0), (answer, 1), (os.open(os.devnull, os.O_WRONLY), 2)):
                os.dup2(mine, theirs)
            os.closerange(3, 64)
            sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
            reader.serve()
            os._exit(0)
        os.close(question)
        os.close(answer)
        self.stdin, self.stdout = os.fdopen(self._ask, "w"), os.fdopen(self._answer)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stdin.close()

    def poll(self) -> int | None:
        return None

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def case(name: str, seed: int, place: Path) -> tuple[list[str], Path | None]:
    """The command of a case and the file that it damages in the folder `place`."""
    kind, rng = KINDS[name], Random(f"{name} {seed}")
    words = shlex.split(rng.choice(kind.commands))
    if not kind.files:
        words = change_command(words, rng)
        return [*words, "--help"] if words[:1] == ["demo"] else words, None  # a demo takes minutes
    found = sorted(path for pattern in kind.files for path in place.glob(pattern))
    path = rng.choice(found)
    mutate = MUTATORS[rng.choice(kind.mutators)]
    if path.suffix == ".gz" and mutate is MUTATORS["text"]:
        mutate = MUTATORS["gzipped text"]
    data = mutate(path.read_bytes(), rng)
    path.unlink()  # it is a link
    path.write_bytes(data)
    return [word.replace("FILE", str(path.relative_to(place))) for word in words], path


def carry_out(words: list[str], place: Path, output: Path) -> int:
    """Call the command in a process of its own; returns its wait status, that of SIGXCPU where time was up."""
    if (process := os.fork()) == 0:
        os.setpgid(0, 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = {resource.RLIMIT_AS: used + MEMORY, resource.RLIMIT_CPU: CPU, resource.RLIMIT_CORE: 0}
        call(words, place, output, limits)
    until = time.monotonic() + WALL
    while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.killpg(process, signal.SIGXCPU)
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # its reader
    return ended[1]


def call(words: list[str], place: Path, output: Path, limits: dict[int, int]) -> NoReturn:
    """Become the command: in the folder `place`, with its output in files, under resource limits."""
    status = 70
    try:
        os.chdir(place)
        for stream, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(output.with_suffix(f".{suffix}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["EMGSCRIBE_CACHE"] = str(place / "cache")
        reader.subprocess = SimpleNamespace(Popen=Forked, PIPE=None, DEVNULL=None)
        for limit, most in limits.items():
            resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
        sys.argv = ["emgscribe", *words]
        cli.run()
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def leftovers(place: Path) -> list[str]:
    """Hidden files and folders but locks, which no command may leave."""
    return [str(path.relative_to(place)) for path in place.rglob(".*") if path.name != ".lock"]


def judge(status: int, words: list[str], place: Path, output: Path) -> str:
    """The outcome: ok, error, or the kind of failure."""
    stderr = output.with_suffix(".err").read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return "hang" if os.WTERMSIG(status) == signal.SIGXCPU else "crash"
    code = os.waitstatus_to_exitcode(status)
    if "MemoryError" in stderr or "allocate" in stderr:
        return "memory"
    if code not in (0, 2) or "Traceback" in stderr:
        return "fault"
    if re.search(r"^\S*\w+Warning: ", stderr, re.MULTILINE) or ".py:" in stderr:
        return "warning"
    if leftovers(place):
        return "leftover"
    errors = len(re.findall("^Error: .*\nHint: ", stderr, re.MULTILINE)) + stderr.count("╭─ ")
    verdicts = words[0] == "inspect" or words[:2] == ["data", "check"]  # a table of files, with what is wrong with each
    return "ok" if code == 0 else "error" if errors == 1 or (verdicts and not errors) else "mute"


GOOD = ("ok", "error")


class Worker:
    """Carries out cases one after another in one folder: its files are always the same, so the cache holds them."""

    def __init__(self, made: Path, keep: Path) -> None:
        self.keep, self.folder = keep, made.parent / f"worker-{os.getpid()}"
        self.pristine, self.place = self.folder / "pristine", self.folder / "case"
        shutil.copytree(made, self.place)
        os.environ["EMGSCRIBE_CACHE"] = str(self.place / "cache")
        os.chdir(self.place)
        with open(os.devnull, "w") as nowhere:
            sys.stdout = nowhere
            _command(TRAIN)  # opens every session
            sys.stdout = sys.__stdout__
        reader._child.close()
        shutil.copytree(self.place, self.pristine, copy_function=shutil.copy2)
        gc.collect()
        gc.freeze()  # in a case's process, the collector skips all inherited objects, so their pages are not copied

    def __call__(self, name: str, seed: int) -> str:
        outcome = self.try_once(name, seed)
        return self.try_once(name, seed) if outcome == "hang" else outcome  # the machine may have been busy

    def try_once(self, name: str, seed: int) -> str:
        os.chdir(self.folder)
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.pristine, self.place, copy_function=_link)
        words, path = case(name, seed, self.place)
        output = self.folder / "output"
        outcome = judge(carry_out(words, self.place, output), words, self.place, output)
        if outcome not in GOOD:
            kept = self.keep / f"{name.replace(' ', '-')}-{seed}"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "command").write_text(f"{outcome}: {words!r}\n", errors="backslashreplace")
            for file in (path, output.with_suffix(".out"), output.with_suffix(".err")):
                if file is not None and file.exists():
                    shutil.copy(file, kept)
        return outcome


def _link(source: str, target: str) -> None:
    (shutil.copy2 if source.endswith((".db", ".lock")) else os.link)(source, target)


_worker: Worker | None = None


def _begin(made: Path, keep: Path) -> None:
    global _worker
    _worker = Worker(made, keep)


def _one(job: tuple[str, int]) -> tuple[str, int, str]:
    assert _worker is not None
    return (*job, _worker(*job))


def jobs(cases: int, seed: int, kinds: list[str]) -> Iterator[tuple[str, int]]:
    """`cases` pairs of kind and seed, by the kinds' shares, mixed."""
    seeds = {name: count(seed) for name in kinds}
    row = [name for name in kinds for _ in range(KINDS[name].share)]
    return ((name, next(seeds[name])) for name in islice(cycle(row), cases))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--keep", type=Path, default=Path("fuzz"))
    options = parser.parse_args()
    keep, begun, counts = options.keep.absolute(), time.monotonic(), Counter[tuple[str, str]]()
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=shm) as folder:
        os.environ["EMGSCRIBE_CACHE"] = f"{folder}/made/cache"
        prepare(Path(folder, "made"))
        with ProcessPoolExecutor(options.jobs, get_context("fork"), _begin, (Path(folder, "made"), keep)) as pool:
            chosen = jobs(options.cases, options.seed, options.kind or [*KINDS])
            for name, seed, outcome in pool.map(_one, chosen):
                counts[name, outcome] += 1
                if outcome not in GOOD:
                    print(f"{outcome}: --kind '{name}' --seed {seed}", flush=True)
        os.chdir("/")
    outcomes = [*GOOD, *sorted({outcome for _, outcome in counts} - {*GOOD})]
    print(f"{'':14}" + "".join(f"{outcome:>9}" for outcome in outcomes))
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"{name:14}" + "".join(f"{counts[name, outcome]:9}" for outcome in outcomes))
    print(f"{counts.total()} cases in {time.monotonic() - begun:.0f} s")
    return int(any(outcome not in GOOD for _, outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
