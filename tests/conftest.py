"""What all tests share: small sessions made with plain numpy, an isolated cache, repeatable property tests."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

# Tests run beside each other on small tensors: more threads would only wait for one another. Set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from emgscribe.data.hdf5 import Keystroke, Prompt, SessionHeader, write_session
from emgscribe.data.session import Session

# Derandomized, so that a passing run passes again; no deadline, since shared machines are slow at times.
settings.register_profile(
    "emgscribe",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("emgscribe")

START = 1_600_000_000.0  # unix seconds of the first sample of every session made here
RATE = 2000
DATA = Path(__file__).parent / "data"
PATIENCE = 600  # seconds; enough for a busy machine, and a Ray that cannot start does not hang the tests


def until(
    happened: Callable[[], object], process: subprocess.Popen | None = None, *, seconds: float = PATIENCE
) -> None:
    """Wait until a condition holds; fail if the process that should bring it about ends first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return
        assert process is None or process.poll() is None, "the process ended before the condition held"
        time.sleep(0.05)
    pytest.fail("the condition did not hold in time")


def restore_interrupts() -> None:
    """For a new process: tests that run in the background ignore Ctrl-C, and so would the processes that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def gone(process: int) -> bool:
    """Whether a process has ended; a zombie, whose status nobody has read yet, has too."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the cache of the person who runs it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("EMGSCRIBE_CACHE", str(cache))
    return cache


@pytest.fixture
def make_session(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a session of random EMG; `keys` are (pynput name, seconds after the first sample)."""

    def make(
        name: str = "session",
        *,
        samples: int = 2000,
        keys: Sequence[tuple[str, float]] = (("h", 0.25), ("i", 0.5)),
        prompts: Sequence[Prompt] = (),
        times: np.ndarray | None = None,
        emg: np.ndarray | None = None,
        duration_mins: float | None = None,
        simulation: str = "",
    ) -> Path:
        if emg is None:
            emg = np.random.default_rng(0).normal(size=(samples, 2, 16)).astype(np.float32)
        if times is None:
            times = START + np.arange(len(emg)) / RATE
        header = SessionHeader(
            name=name,
            user="user",
            condition="on_keyboard",
            duration_mins=len(emg) / RATE / 60 if duration_mins is None else duration_mins,
            keystrokes=tuple(Keystroke(key, START + at, START + at + 0.08) for key, at in keys),
            prompts=tuple(prompts),
            simulation=simulation,
        )
        path = tmp_path / "sessions" / f"{name}.hdf5"
        write_session(path, header, times, emg)
        return path

    return make


@pytest.fixture(scope="session")
def live_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `m` of random weights and a simulated minute `s.hdf5`, of which it reads some 200 keys."""
    import torch  # which few tests need from here
    from networks import FEATURES, TDS, scrambled

    from emgscribe.data.charset import BLANK
    from emgscribe.data.session import open_session
    from emgscribe.models.model import Model, ModelConfig, save_model
    from emgscribe.simulation.sessions import simulate

    folder = tmp_path_factory.mktemp("live")
    (path,) = simulate(folder / "data", users=1, sessions=1, minutes=1)
    path.rename(folder / "s.hdf5")
    model = Model(ModelConfig(FEATURES, TDS))
    scrambled(model)
    # No class is favoured but the blank, a little: else it would read nothing, or a key a frame.
    usual = model.log_probs(open_session(folder / "s.hdf5", folder / "cache")).mean(axis=0)
    model.head.bias.data -= torch.from_numpy(usual)
    model.head.bias.data[BLANK] += 0.3
    for value in model.head.parameters():
        value.data *= 10  # the same keys, and surer of them
    save_model(model, folder / "m")
    return folder


@pytest.fixture
def make_stored() -> Callable[..., Session]:
    """A function that makes a stored session in memory; `keys` are (label, onset in samples), in order of time."""

    def make(
        samples: int = 2000, keys: Sequence[tuple[int, int]] = (), *, seed: int = 0, name: str = "session"
    ) -> Session:
        return Session(
            name=name,
            user="user",
            simulated=False,
            content=f"{name}-{samples}-{seed}",
            emg=np.random.default_rng(seed).normal(size=(samples, 2, 16)).astype(np.float32),
            labels=np.array([label for label, _ in keys], dtype=np.int64),
            onsets=np.array([onset for _, onset in keys], dtype=np.int64),
        )

    return make


@pytest.fixture
def write_result(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a result file of `texts`, (session, reference, hypothesis), each session of a user.

    A unit is two characters of the reference, as if each were a segment of 10 s. `changes` are settings by path.
    """
    from emgscribe.config import to_json
    from emgscribe.evaluation import Evaluation, SessionScore
    from emgscribe.experiments.recipes import BASELINE, EXPERIMENTS
    from emgscribe.experiments.results import DataUsed, RunResult
    from emgscribe.experiments.search import changed
    from emgscribe.scoring import count_units

    def evaluation(texts: Sequence[tuple[str, str, str]], users: dict[str, str], kind: str) -> Evaluation:
        sessions = []
        for session, reference, hypothesis in texts:
            units = count_units(reference, hypothesis, np.arange(len(reference)) // 2, -(-len(reference) // 2))
            sessions.append(SessionScore(session, users.get(session, "user"), reference, hypothesis, tuple(units)))
        about, made = ("whole session", "blocks", "segments of 10 s"), kind != "real"
        return Evaluation(*about, made, tuple(sessions), real_keys=kind == "real-keys")

    def make(
        name: str = "demo",
        seed: int = 0,
        texts: Sequence[tuple[str, str, str]] = (("one", "abcdefgh", "abXdefg"),),
        *,
        kind: str = "simulated",
        beam: bool = False,
        users: dict[str, str] | None = None,
        folder: Path = tmp_path / "results",
        changes: dict[str, object] | None = None,
    ) -> Path:
        experiment = replace(EXPERIMENTS.get(name, BASELINE), name=name)
        experiment = changed(experiment, {**(changes or {}), "train.seed": seed})
        test = {"greedy": evaluation(texts, users or {}, kind)}
        if beam:  # which makes no errors
            test["beam"] = evaluation([(s, text, text) for s, text, _ in texts], users or {}, kind)
        curve = {"step": 1.0, "lr": 1e-3, "train_loss": 2.0}
        result = RunResult(
            experiment=to_json(experiment),
            seed=seed,
            data=DataUsed(kind, "0123456789abcdef", experiment.data.protocol, test=tuple(s for s, _, _ in texts)),
            commit="0" * 40,
            versions={},
            device="cpu",
            machine="x86_64",
            precision="fp32",
            seconds=1.0,
            curves=[{"epoch": 0.0, **curve}, {"epoch": 1.0, **curve, "val_loss": 1.5, "val_cer": 50.0}],
            test=test,
        )
        result.write(folder / f"{name}-{seed}.json")
        return folder / f"{name}-{seed}.json"

    return make
