"""Speed and memory of the pipeline and the simulator, the first beside a plain textbook version: `make bench`.

Ours and the textbook take turns, so that a machine that slows down for a while slows both; the table shows medians and
their ratio. The EMG is noise: nothing measured here depends on its values. `--quick` only shows that it runs.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import textbook
import torch
from textbook import SAMPLE_RATE
from textbook_networks import network_like
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Compare, Measurement, Timer

from emgscribe.data.charset import BLANK
from emgscribe.data.hdf5 import Keystroke, SessionHeader, writing_session
from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Batch, Store, WindowConfig, Windows
from emgscribe.evaluation import evaluate
from emgscribe.models.augment import Augmentation, MagnitudeWarp
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.simulation.sessions import simulate_session
from emgscribe.training.losses import ctc_loss

KEYS_PER_SECOND = 4.72  # of the course project's user


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are the published baseline's."""

    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    batch: int = 32
    turns: int = 3
    session_seconds: int = 1200
    simulated_seconds: int = 300


QUICK = Sizes(
    model=ModelConfig(encoder=TdsConfig(mlp_features=24, blocks=2, channels=6, kernel=5, lookahead=3)),
    windows=WindowConfig(length=2000, stride=2000, left=200, right=100),
    batch=4,
    turns=1,
    session_seconds=20,
    simulated_seconds=10,
)


def in_turns(label: str, versions: dict[str, Callable[[], object]], turns: int) -> list[Measurement]:
    """Time the versions in turn, after one uncounted turn; prints how much faster the first one is."""
    timers = {
        name: Timer("work()", globals={"work": work}, label="median", sub_label=label, description=name,
                    num_threads=torch.get_num_threads())
        for name, work in versions.items()
    }  # fmt: skip
    rounds = [[timer.timeit(1) for timer in timers.values()] for _ in range(turns + 1)][1:]
    merged = [Measurement.merge(column)[0] for column in zip(*rounds, strict=True)]
    for other in merged[1:]:
        print(f"{label}: {other.median / merged[0].median:.2f} times as fast as {other.task_spec.description}")
    return merged


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    sizes = QUICK if parser.parse_args().quick else Sizes()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {sizes.batch}")
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_session(Path(folder) / "random.hdf5", sizes.session_seconds)
        memory(path, sizes)
        simulation(Path(folder), sizes.simulated_seconds)
        sessions = open_sessions([path], Path(folder) / "cache")
        found += features(path, sessions, sizes)
        found += warping(sessions, sizes)
        found += steps(sessions, sizes)
        found += forward(sessions, sizes)
    comparison = Compare(found)
    comparison.print()


def write_random_session(path: Path, seconds: int) -> Path:
    """A session of noise with keystrokes as dense as real ones."""
    random = np.random.default_rng(0)
    letters = random.choice(list("abcdefghijklmnopqrstuvwxyz"), int(seconds * KEYS_PER_SECOND))
    starts = 1e9 + np.sort(random.uniform(0.1, seconds - 0.1, len(letters)))
    keys = tuple(Keystroke(str(key), start, start + 0.05) for key, start in zip(letters, starts.tolist(), strict=True))
    header = SessionHeader("random", "none", "on_keyboard", seconds / 60, keys, (), '{"noise": true}')
    with writing_session(path, header, seconds * SAMPLE_RATE) as append:
        for second in range(0, seconds, 10):
            samples = min(10, seconds - second) * SAMPLE_RATE
            emg = random.standard_normal((samples, 2, 16), dtype=np.float32)
            append(1e9 + second + np.arange(samples) / SAMPLE_RATE, emg)
    return path


def memory(path: Path, sizes: Sizes) -> None:
    """Peak memory of a separate process that opens the session for the first time and evaluates it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        opened, whole, peak = pool.apply(evaluate_once, (path, sizes.model))
    minutes = sizes.session_seconds / 60
    print(f"{minutes:.3g} min of signal: opened in {opened:.2f} s, evaluated in {whole:.1f} s, peak {peak:.2f} GB")


def simulation(folder: Path, seconds: int) -> None:
    """Speed and peak memory of a separate process that simulates a session."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        took, peak = pool.apply(simulate_once, (folder / "simulated.hdf5", seconds))
    print(f"{seconds / 60:.3g} min simulated: {seconds / took:.1f} times real time a core, peak {peak:.2f} GB")


def simulate_once(path: Path, seconds: int) -> tuple[float, float]:
    """Seconds of a core to simulate a session, and GB of peak memory of this process."""
    begun = time.process_time()
    simulate_session(path, user=0, session=0, minutes=seconds / 60, seed=0)
    return time.process_time() - begun, peak_memory()


def evaluate_once(path: Path, config: ModelConfig) -> tuple[float, float, float]:
    """Seconds to open and to evaluate `path`, and GB of peak memory of this process."""
    begun = time.perf_counter()
    sessions = open_sessions([path], path.parent / "cache")
    opened = time.perf_counter() - begun
    evaluate(Model(config).eval(), sessions)
    return opened, time.perf_counter() - begun - opened, peak_memory()


def peak_memory() -> float:
    """The most memory, in GB, that this process has held so far (Linux, macOS)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts the process that forked this one into ru_maxrss, but not into VmHWM
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def windows_of(sessions: list[Session], windows: WindowConfig, model: Model) -> Windows:
    """Windows with at least the context that the model needs, as training cuts them."""
    left, right = model.context
    context = max(windows.left, left), max(windows.right, right)
    return Windows(Store(sessions), windows.length, windows.stride, *context)


def random_batch(sessions: list[Session], sizes: Sizes, model: Model) -> tuple[Windows, list[tuple[int, int]]]:
    """The windows, and the places of one random batch."""
    windows = windows_of(sessions, sizes.windows, model)
    places = list(windows.shuffled(torch.Generator().manual_seed(0)))
    return windows, (places * sizes.batch)[: sizes.batch]


def features(path: Path, sessions: list[Session], sizes: Sizes) -> list[Measurement]:
    """From the session to augmented features of one batch, on the CPU and in one process."""
    model, augmentation, generator = Model(sizes.model), Augmentation(), torch.Generator().manual_seed(0)
    windows, places = random_batch(sessions, sizes, model)
    dataset = textbook.WindowDataset(
        path, [start for _, start in places], length=windows.length, left=windows.left, right=windows.right,
        augmentation=augmentation,
    )  # fmt: skip

    def ours() -> None:
        batch = augmentation.on_batch(windows.batch(places), generator)
        augmentation.on_features(model.featurize(batch), generator)

    def theirs() -> None:
        textbook.collate([dataset[index] for index in range(len(dataset))])

    return in_turns("features", {"ours": ours, "textbook": theirs}, 3 * sizes.turns)


def warping(sessions: list[Session], sizes: Sizes) -> list[Measurement]:
    """Magnitude warp of a batch that was just cut, as in training, beside a loop over SciPy's splines."""
    warp, generator, random = MagnitudeWarp(4, 0.2), torch.Generator().manual_seed(0), np.random.default_rng(0)
    windows, places = random_batch(sessions, sizes, Model(sizes.model))
    batch = windows.batch(places)
    emg = batch.emg.clone()

    def copied(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: (emg.copy_(batch.emg), work())

    versions = {
        "ours": copied(lambda: warp(emg, generator)),
        "textbook": copied(lambda: textbook.warp_windows(emg.numpy(), 4, 0.2, random)),
    }
    return in_turns("magnitude warp and a copy", versions, 20 * sizes.turns)


def steps(sessions: list[Session], sizes: Sizes) -> list[Measurement]:
    """A training step from features to updated weights, in fp32 and in bf16 autocast."""
    torch.manual_seed(0)
    model = Model(sizes.model)
    network = network_like(model)
    windows, places = random_batch(sessions, sizes, model)
    batch = windows.batch(places)
    frames, lengths = model.featurize(batch), model.frames(batch.lengths)

    def ours() -> Tensor:
        return ctc_loss(model.classify(model.encode(frames, batch.lengths)), lengths, batch)

    def theirs() -> Tensor:
        emissions = network.emit(frames).transpose(0, 1)
        return F.ctc_loss(emissions, batch.labels, lengths, batch.label_lengths, blank=BLANK, zero_infinity=True)

    found = []
    for precision in ("fp32", "bf16"):
        versions = {"ours": stepper(ours, model, precision), "textbook": stepper(theirs, network, precision)}
        found += in_turns(f"training step, {precision}", versions, sizes.turns)
    return found


def stepper(loss: Callable[[], Tensor], network: torch.nn.Module, precision: str) -> Callable[[], None]:
    """One step of Adam on `loss`."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def forward(sessions: list[Session], sizes: Sizes) -> list[Measurement]:
    """EMG to emissions of one window, batch of one."""
    model = Model(sizes.model).eval()
    network = network_like(model)
    batch: Batch = windows_of(sessions, sizes.windows, model).batch([(0, 0)])
    with torch.inference_mode():
        versions = {"ours": lambda: model(batch), "textbook": lambda: network(batch.emg)}
        return in_turns("forward, one window", versions, 5 * sizes.turns)


if __name__ == "__main__":
    main()
