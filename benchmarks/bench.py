"""Speed and memory of the package, beside a plain textbook version of the same baseline: `make bench`.

One run prints a table and writes a JSON file. Ours and the textbook take turns (A B A B ...) after one unmeasured turn
each, so that a machine that slows down for a while slows both; the table shows medians with the best in brackets. The
EMG is random noise: nothing measured here depends on its values.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import textbook
import torch
import tyro
from figures import Bar, Measurement, alternate, machine, peak_memory, show, write
from rich.console import Console
from textbook_networks import network_like
from torch import Tensor
from torch.nn import functional as F

from emgscribe.config import to_json
from emgscribe.data.charset import BLANK
from emgscribe.data.hdf5 import SAMPLE_RATE, Keystroke, SessionHeader, writing_session
from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Batch, WindowConfig
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.evaluation import evaluate
from emgscribe.models.augment import Augmentation, MagnitudeWarp
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.training import cut, resolve_precision
from emgscribe.training.losses import ctc_loss

KEYS_PER_SECOND = 4.72  # of the seed user
EPOCH_WINDOWS = 3840  # of the seed user's 16 training sessions


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are the published baseline's."""

    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    batch: int = 32
    repetitions: int = 3
    session_seconds: int = 1200
    block_seconds: int = 60
    device_steps: int = 30


TINY = Sizes(
    model=ModelConfig(encoder=TdsConfig(mlp_features=24, blocks=2, channels=6, kernel=5, lookahead=3)),
    windows=WindowConfig(length=2000, stride=2000, left=200, right=100),
    batch=4,
    repetitions=1,
    session_seconds=20,
    block_seconds=5,
    device_steps=3,
)


def main(out: Path = Path(__file__).parent / "results", quick: bool = False) -> None:
    """Measure speed and memory, print a table and write a JSON file.

    Args:
        out: folder of the JSON file.
        quick: tiny sizes, to see that it runs; its figures mean nothing.
    """
    console, sizes, begun = Console(), TINY if quick else Sizes(), time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = machine()
    if described["load"] > 0.5:
        console.print(f"Other work runs here (load {described['load']}): trust the ratios more than the figures.")
    console.print("\n".join(f"{name}: {value}" for name, value in described.items()), markup=False, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_session(Path(folder) / "random.hdf5", sizes.session_seconds)
        rows = []
        for row in measure(path, sizes, device):
            console.print(f"  measured: {row.name}", markup=False, highlight=False)
            rows.append(row)
    bars = judge(rows, sizes, device)
    show(console, rows, bars, quick=quick)
    if device.type != "cuda":
        console.print("On the device (store, steps/s, waiting): skipped, this machine has no CUDA GPU.")
    content = {
        "sizes": to_json(sizes),
        "quick": quick,
        "seconds": round(time.monotonic() - begun, 1),
        "measurements": [asdict(row) | {"ratio": row.ratio()} for row in rows],
        "bars": [asdict(bar) for bar in bars],
    }
    console.print(f"written: {write(out, described, content)}", soft_wrap=True)


def write_random_session(path: Path, seconds: int) -> Path:
    """A session of noise with keystrokes as dense as real ones."""
    random = np.random.default_rng(0)
    letters = random.choice(list("abcdefghijklmnopqrstuvwxyz"), int(seconds * KEYS_PER_SECOND))
    starts = 1e9 + np.sort(random.uniform(0.1, seconds - 0.1, len(letters)))
    keys = tuple(Keystroke(str(key), start, start + 0.05) for key, start in zip(letters, starts.tolist(), strict=True))
    header = SessionHeader("random", "nobody", "on_keyboard", seconds / 60, keys, (), '{"noise": true}')
    with writing_session(path, header, seconds * SAMPLE_RATE) as append:
        for second in range(0, seconds, 10):
            samples = min(10, seconds - second) * SAMPLE_RATE
            emg = random.standard_normal((samples, 2, 16), dtype=np.float32)
            append(1e9 + second + np.arange(samples) / SAMPLE_RATE, emg)
    return path


def measure(path: Path, sizes: Sizes, device: torch.device) -> Iterator[Measurement]:
    """All measurements, in order."""
    yield memory(path, sizes)  # first, so that the child's figure cannot hold anything of a large parent
    cache = path.parent / "cache"
    sessions = open_sessions([path], cache)
    yield loading(path, sessions, sizes)
    yield from augmenting(sessions, sizes)
    yield from steps(sessions, sizes, device)
    yield from forward(sessions, sizes, device)
    if device.type == "cuda":
        yield from on_device(sessions, sizes, device)


def memory(path: Path, sizes: Sizes) -> Measurement:
    """Peak memory of a process that opens the session for the first time and evaluates it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, seconds = pool.apply(evaluate_once, (path, sizes))
    note = f"{sizes.session_seconds / 60:.3g} min of signal, converted and evaluated in {seconds:.0f} s"
    return Measurement("peak memory of evaluation", "GB", {"ours": [peak]}, note=note)


def evaluate_once(path: Path, sizes: Sizes) -> tuple[float, float]:
    """(GB of peak memory, seconds) of this process after evaluating `path`."""
    begun = time.perf_counter()
    sessions = open_sessions([path], path.parent / "cache")
    evaluate(Model(sizes.model).eval(), sessions, GreedyDecoder())
    return peak_memory(), time.perf_counter() - begun


def places_of(sessions: list[Session], sizes: Sizes, count: int) -> list[tuple[int, int]]:
    """The same `count` random windows for every version."""
    windows = cut(sessions, sizes.windows, Model(sizes.model).context, torch.device("cpu"))
    places = windows.shuffled(torch.Generator().manual_seed(0))
    return (places * -(-count // len(places)))[:count]


def loading(path: Path, sessions: list[Session], sizes: Sizes) -> Measurement:
    """Windows a second, from the session to augmented features, on the CPU and in one process."""
    model, augmentation, generator = Model(sizes.model), Augmentation(), torch.Generator().manual_seed(0)
    windows = cut(sessions, sizes.windows, model.context, torch.device("cpu"))
    places = places_of(sessions, sizes, sizes.batch)
    starts = [start for _, start in places]
    dataset = textbook.WindowDataset(
        path, starts, length=windows.length, left=windows.left, right=windows.right, augmentation=augmentation
    )

    def ours() -> None:
        batch = windows.batch(places)
        batch = augmentation.on_batch(batch, generator)
        augmentation.on_features(model.featurize(batch), generator)

    def theirs() -> None:
        textbook.collate([dataset[index] for index in range(len(dataset))])

    seconds = alternate({"ours": ours, "textbook": theirs}, 3 * sizes.repetitions)
    rates = {name: [len(places) / value for value in values] for name, values in seconds.items()}
    note = "read, augment, log-spectrogram; one process"
    return Measurement("features", "windows/s", rates, higher_is_better=True, note=note)


def augmenting(sessions: list[Session], sizes: Sizes) -> Iterator[Measurement]:
    """Seconds of augmenting one batch on the CPU: the published changes together, and the magnitude warp alone."""
    model, published, warp = Model(sizes.model), Augmentation(), MagnitudeWarp(knots=4, sigma=0.2)
    batch = cut(sessions, sizes.windows, model.context, torch.device("cpu")).batch(
        places_of(sessions, sizes, sizes.batch)
    )
    features, generator, random = model.featurize(batch), torch.Generator().manual_seed(0), np.random.default_rng(0)
    items, samples = batch.emg.shape[:2]

    def changes() -> Tensor:
        published.on_batch(batch, generator)
        return published.on_features(features, generator)

    yield Measurement("augmentation", "s", alternate({"ours": changes}, sizes.repetitions), note=f"batch {items}")
    curves = {
        "ours": lambda: warp.curves(items, samples, generator),
        "textbook": lambda: [textbook.warp_curve(samples, 4, 0.2, random) for _ in range(items)],
    }
    seconds = alternate(curves, 5 * sizes.repetitions)
    yield Measurement("warp: curves", "s", seconds, note=f"of {items} windows; the textbook's is a loop over SciPy's")
    emg = batch.emg.clone()
    applied = {
        "ours": lambda: warp(emg, generator),
        "textbook": lambda: textbook.warp_windows(emg.numpy(), 4, 0.2, random),
    }
    # A training batch has just been cut when it is warped: the same values, and in the cache, for both.
    seconds = alternate(applied, 20 * sizes.repetitions, before=lambda: emg.copy_(batch.emg))
    note = f"{batch.emg.nbytes / 1e6:.0f} MB of EMG just copied, ours in place"
    yield Measurement("warp: curves and product", "s", seconds, note=note)


def steps(sessions: list[Session], sizes: Sizes, device: torch.device) -> Iterator[Measurement]:
    """Seconds of a training step from features to updated weights, in fp32 and in bf16 autocast."""
    torch.manual_seed(0)
    model = Model(sizes.model).to(device)
    network = network_like(model)
    batch = cut(sessions, sizes.windows, model.context, device).batch(places_of(sessions, sizes, sizes.batch))
    features = model.featurize(batch)
    frames = model.frames(batch.lengths)

    def ours() -> Tensor:
        return ctc_loss(model.classify(model.encode(features, batch.lengths)), model.frames(batch.lengths), batch)

    def theirs() -> Tensor:
        emissions = network.emit(features).transpose(0, 1)
        return F.ctc_loss(emissions, batch.labels, frames, batch.label_lengths, blank=BLANK, zero_infinity=True)

    auto = resolve_precision("auto", device)
    for precision in ("fp32", "bf16"):
        versions = {
            "ours": stepper(ours, model, precision, device),
            "textbook": stepper(theirs, network, precision, device),
        }
        seconds = alternate(versions, sizes.repetitions)
        chosen = ", what auto takes here" if precision == auto else ""
        note = f"batch {len(batch)}, on {device.type}{chosen}"
        yield Measurement(f"training step, {precision}", "s", seconds, note=note)


def stepper(
    loss: Callable[[], Tensor], network: torch.nn.Module, precision: str, device: torch.device
) -> Callable[[], None]:
    """One step of Adam on `loss`."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def forward(sessions: list[Session], sizes: Sizes, device: torch.device) -> Iterator[Measurement]:
    """Seconds of computing for a second of signal, EMG to emissions, for a window and for a block of evaluation."""
    model = Model(sizes.model).to(device).eval()
    network = network_like(model)
    block = WindowConfig(length=sizes.block_seconds * SAMPLE_RATE, stride=sizes.block_seconds * SAMPLE_RATE)
    for name, cutting in (("one window", sizes.windows), ("one block", block)):
        batch = cut(sessions, cutting, model.context, device).batch([(0, 0)])

        def theirs(batch: Batch = batch) -> Tensor:
            return network(batch.emg)

        def ours(batch: Batch = batch) -> Tensor:
            return model(batch)

        with torch.inference_mode():
            seconds = alternate({"ours": ours, "textbook": theirs}, sizes.repetitions)
        signal = cutting.length / SAMPLE_RATE
        rates = {version: [value / signal for value in values] for version, values in seconds.items()}
        note = f"{signal:.3g} s with context, batch of one, fp32, on {device.type}"
        yield Measurement(f"forward, {name}", "s per s of signal", rates, note=note)


def on_device(sessions: list[Session], sizes: Sizes, device: torch.device) -> Iterator[Measurement]:
    """Training with the sessions on the GPU: whole steps from the store to updated weights, as in `train.fit`."""
    precision = resolve_precision("auto", device)
    step = training_loop(sessions, sizes, device, precision)
    seconds = []
    for _ in range(sizes.repetitions + 1):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(sizes.device_steps):
            step()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begun) / sizes.device_steps)
    seconds = seconds[1:]  # the first round warms up
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(sizes.device_steps):
            step()
        torch.cuda.synchronize()
    on_gpu = (event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA)
    kernels = [event for event in on_gpu if not event.is_user_annotation]  # annotations span kernels
    busy = sum(event.self_device_time_total for event in kernels) / 1e6 / sizes.device_steps
    note = f"{precision}, batch {sizes.batch}, store on the GPU"
    rates = [1 / value for value in seconds]
    yield Measurement("whole steps on the GPU", "steps/s", {"ours": rates}, higher_is_better=True, note=note)
    waits = [100 * (1 - busy / value) for value in seconds]
    yield Measurement("GPU waits", "% of the time", {"ours": waits}, note=f"kernels take {1e3 * busy:.3g} ms of a step")
    epochs = [value * EPOCH_WINDOWS / sizes.batch for value in seconds]
    yield Measurement("epoch on the GPU", "s", {"ours": epochs}, note=f"{EPOCH_WINDOWS} windows, extrapolated")


def training_loop(sessions: list[Session], sizes: Sizes, device: torch.device, precision: str) -> Callable[[], None]:
    """A function that takes the next whole training step: gather, augment, transform, forward, backward, Adam."""
    model, augmentation, generator = Model(sizes.model).to(device), Augmentation(), torch.Generator().manual_seed(0)
    windows = cut(sessions, sizes.windows, model.context, device)

    def batches() -> Iterator[Batch]:
        while True:
            yield from windows.batches(windows.shuffled(generator), sizes.batch)

    stream = batches()

    def loss() -> Tensor:
        batch = next(stream)
        batch = augmentation.on_batch(batch, generator)
        features = augmentation.on_features(model.featurize(batch), generator)
        return ctc_loss(model.classify(model.encode(features, batch.lengths)), model.frames(batch.lengths), batch)

    return stepper(loss, model, precision, device)


def judge(rows: list[Measurement], sizes: Sizes, device: torch.device) -> list[Bar]:
    """The bars, against this run's figures. A bar that names other hardware or sizes is not applicable."""
    found = {row.name: row for row in rows}
    published, threads = sizes == Sizes(), torch.get_num_threads()
    fp32, bf16 = found["training step, fp32"], found["training step, bf16"]
    gain = fp32.middle() / bf16.middle()
    tensor_hardware = resolve_precision("auto", device) == "bf16"
    rate, peak = found["features"].middle(), found["peak memory of evaluation"].middle()

    def bar(name: str, holds: bool, figure: str, why_not: str = "") -> Bar:
        reason = why_not or ("" if published else "sizes of --quick")
        verdict = "not applicable" if reason else "met" if holds else "not met"
        return Bar(name, verdict, f"{figure} ({reason})" if reason else figure)

    no_tiles = "" if tensor_hardware else "neither AMX nor a GPU with bf16 here: auto is fp32"
    more = "" if threads <= 2 else f"{threads} threads here"
    ratio = fp32.ratio() or 0.0
    share = 100 * found["augmentation"].middle() / fp32.middle()
    warp, whole = (found[name].ratio() or 0.0 for name in ("warp: curves", "warp: curves and product"))
    elsewhere = "the step was measured on a GPU" if device.type == "cuda" else ""
    return [
        bar("training step in auto ≥ 8 × our fp32 (AMX or GPU)", gain >= 8, f"bf16 is {gain:.2f} × fp32", no_tiles),
        bar("our fp32 training step ≥ 1.5 × the textbook's", ratio >= 1.5, f"{ratio:.2f} ×"),
        bar("features ≥ 200 windows/s on 2 cores", rate >= 200, f"{rate:.0f} windows/s", more),
        bar("augmentation ≤ 15 % of an fp32 step", share <= 15, f"{share:.1f} %", elsewhere),
        bar("magnitude warp of 32 windows ≥ 20 × SciPy's loop", whole >= 20, f"{whole:.1f} ×, its curves {warp:.0f} ×"),
        bar("20-minute evaluation < 3 GB", peak < 3, f"{peak:.2f} GB"),
    ]


if __name__ == "__main__":
    tyro.cli(main)
