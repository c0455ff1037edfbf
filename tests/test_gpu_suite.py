"""scripts/gpu_suite: what it lacks is said, the time is kept, what was cut goes on, and nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import gone, until

from emgscribe.data.hdf5 import SAMPLE_RATE, SessionFile
from emgscribe.experiments.recipes import EXPERIMENTS
from emgscribe.files import read_json

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_suite"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("gpu_suite", str(SCRIPT))
    spec = spec_from_loader("gpu_suite", loader)
    assert spec
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_suite", module)
    loader.exec_module(module)
    return module


def test_what_is_missing_is_said_by_name(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        if name in ("tyro", "wordfreq"):
            raise ImportError(f"No module named {name!r}")
        return ModuleType(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(suite.importlib, "import_module", absent)
        assert [fault.split(">=")[0] for fault in suite.lacking(quick=True)] == [
            "the package tyro",
            "the package wordfreq",
        ]
    assert suite.lacking(quick=True) == []
    assert suite.lacking(quick=False) == ["a GPU that torch can use (--quick runs without one)"]


def test_full_size_is_that_of_the_seed_papers_user(suite: ModuleType, tmp_path: Path) -> None:
    sessions = list(suite.simulation(tmp_path, quick=False))
    minutes = [float(step.command[2].split("minutes=")[1].split(",")[0]) for step in sessions]
    assert len({step.product for step in sessions}) == 18
    assert min(minutes) >= 15
    assert max(minutes) <= 19
    assert [step.product for step in sessions] == sorted(step.product for step in sessions)  # the last one tests
    trained = [step.name for step in suite.training(tmp_path, tmp_path, tmp_path, quick=False)]
    assert trained == ["train/baseline", *(f"train/{name}" for name in EXPERIMENTS if name.startswith("records/"))]


def test_the_benchmarks_of_this_checkout_are_run(suite: ModuleType, tmp_path: Path) -> None:
    found = {step.name: step.command[1:] for step in suite.benchmarks(tmp_path, quick=True)}
    assert {"benchmarks/bench", "benchmarks/decoding"} <= set(found)
    for name, command in found.items():
        script = SCRIPT.parents[1] / f"{name}.py"
        assert command == (str(script), "--out", str(tmp_path / script.stem), "--quick")
        assert script.exists()


def steps(suite: ModuleType, folder: Path, codes: dict[str, str]) -> list[object]:
    """Steps that run Python code, to which the path of their product is given."""
    products = {name: folder / f"{name}.json" for name in codes}
    return [
        suite.Step(name, (sys.executable, "-c", codes[name], str(products[name])), products[name]) for name in codes
    ]


WRITE = "import sys; open(sys.argv[1], 'w').close()"
LONG = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {LONG}"
PARENT = (  # of a child that outlives whoever waits for its end
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(6000)']);"
    "open(sys.argv[1] + '.child', 'w').write(str(child.pid)); child.wait()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_time_is_kept_by_steps_that_will_not_end_too(suite: ModuleType, tmp_path: Path) -> None:
    codes = {"written": WRITE, "failing": "raise SystemExit(3)", "empty": "pass", "stubborn": STUBBORN, "late": WRITE}
    begun = time.monotonic()
    runner = suite.Suite(begun + 4, tmp_path / "logs", dict(os.environ), grace=0.5)
    runner.run(steps(suite, tmp_path, codes), 1)
    assert time.monotonic() - begun < 30
    assert runner.failed == ["failing", "empty"]  # a step that leaves nothing has failed, whatever it says
    assert runner.left == ["stubborn", "late"]
    assert [path.stem for path in tmp_path.glob("*.json")] == ["written"]

    again = suite.Suite(time.monotonic() + 3, tmp_path / "logs", dict(os.environ), grace=5)
    again.run(
        steps(
            suite, tmp_path, {"written": f"{WRITE}; open(sys.argv[1] + '.again', 'w')", "late": WRITE, "parent": PARENT}
        ),
        2,
    )
    assert (again.failed, again.left) == ([], ["parent"])  # what is done is not done again; what was left, is
    assert not list(tmp_path.glob("*.again"))
    child = int((tmp_path / "parent.json.child").read_text())
    until(lambda: gone(child))  # killed, and gone when the kernel comes to it


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_a_number_of_jobs_that_cannot_be_is_refused(
    suite: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", "x", "--jobs", jobs])
    with pytest.raises(SystemExit) as left:
        suite.main()
    assert left.value.code == 2
    assert f"argument --jobs: {jobs}, allowed: 1 or more" in capsys.readouterr().err


def started(out: Path, work: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(out), "--work", str(work)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_quick_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    out, work = tmp_path / "out" / "quick", tmp_path / "work" / "quick"
    for name in ("bench", "decoding", "encoders"):  # test_benchmarks.py runs the same commands
        (out / "benchmarks" / name).mkdir(parents=True)
        (out / "benchmarks" / name / "earlier.json").touch()
    with started(tmp_path / "out", tmp_path / "work") as process:
        while process.poll() is None and not (out / "logs" / "train" / "demo.log").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        told = process.communicate()[0]
    assert process.returncode == 130, told
    assert "train/demo: cut off" in told
    assert not (out / "results").exists()
    assert [path.name for path in (*out.parent.iterdir(), *work.parent.iterdir())] == ["quick", "quick"]
    with started(tmp_path / "out", tmp_path / "work") as process:
        told = process.communicate()[0]
    assert process.returncode == 0, told
    for done in ("simulate/00", "simulate/01", "simulate/02", "benchmarks/bench"):
        assert f"{done}: done before" in told
    assert "train/demo: done (" in told
    result = read_json(out / "results" / "demo-0.json")
    assert (result["data"]["kind"], len(result["curves"])) == ("simulated", 2)
    for path in sorted((work / "sessions").glob("*.hdf5")):
        with SessionFile(path) as session:
            assert len(session) == 0.1 * 60 * SAMPLE_RATE
