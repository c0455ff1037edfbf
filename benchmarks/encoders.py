"""Every encoder beside a plain textbook version of the same network: part of `make bench`.

One table: parameters, seconds of a training step from EMG to updated weights, the real-time factor of one pass over a
minute, and the peak memory of a process that reads a session of 20 minutes as `evaluate` does. Ours and the textbook's
compute the same function of the same weights. Our step is timed twice, before and after the textbook's; how much the
two differ is the noise that a verdict allows for. The EMG is random, and no figure depends on it.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from math import exp, log
from pathlib import Path
from statistics import fmean, median

import torch
import tyro
from bench import KEYS_PER_SECOND, stepper, write_random_session
from figures import Bar, Measurement, machine, peak_memory, show_bars, write
from rich.console import Console
from rich.table import Table
from textbook_networks import network_like
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from emgscribe.config import to_json
from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE
from emgscribe.data.session import open_sessions
from emgscribe.data.windows import Batch
from emgscribe.experiments.recipes import EXPERIMENTS
from emgscribe.models.encoders import EncoderConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.training.losses import ctc_loss
from emgscribe.training.run import resolve_precision
from emgscribe.transcription import emission_blocks, inference_plan

CHOSEN = (
    *(f"table2/{row}" for row in ("baseline", "bilstm", "excitation", "cnn-gru", "transformer", "cnn-transformer-1")),
    *(f"records/{name}" for name in ("residual-cnn", "bigru-48", "raw-bigru", "mingru-48", "conformer", "hybrid")),
    *(f"records/{name}" for name in ("split-share", "causal-cnn-gru-96", "causal-cnn-transformer-96")),
)  # every kind of encoder and of features, and whatever else ours computes otherwise than a textbook does


@dataclass(frozen=True)
class Sizes:
    """What is measured: training steps of `batch` windows of 4 s and context, a pass over `forward_seconds`."""

    batch: int = 8
    window_seconds: float = 4
    forward_seconds: float = 60
    session_seconds: int = 1200
    repetitions: int = 2


TINY = Sizes(batch=2, window_seconds=0.5, forward_seconds=0.5, session_seconds=10, repetitions=1)


@dataclass
class Row:
    """One line of the table."""

    name: str
    parameters: int
    step: Measurement
    forward: Measurement
    memory: Measurement

    def measurements(self) -> Iterator[Measurement]:
        """Those of the row, each by its full name."""
        for measured in (self.step, self.forward, self.memory):
            yield replace(measured, name=f"{self.name}, {measured.name}")


def main(
    out: Path = Path(__file__).parent / "results", experiments: tuple[str, ...] = CHOSEN, quick: bool = False
) -> None:
    """Measure every encoder, print a table and write a JSON file.

    Args:
        out: folder of the JSON file.
        experiments: names of the experiments whose networks are measured.
        quick: tiny sizes, to see that it runs; its figures mean nothing.
    """
    console, sizes, begun, described = Console(), TINY if quick else Sizes(), time.monotonic(), machine()
    if described["load"] > 0.5:
        console.print(f"Other work runs here (load {described['load']}): trust the ratios more than the figures.")
    console.print("\n".join(f"{name}: {value}" for name, value in described.items()), markup=False, highlight=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = replace(sizes, batch=32) if device.type == "cuda" and not quick else sizes
    precision = "fp32" if device.type == "cpu" else resolve_precision("auto", device)
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_session(Path(folder) / "random.hdf5", sizes.session_seconds)
        memory = reading_memory(path, experiments)
    rows = []
    for name in experiments:
        rows.append(measure(name, memory[name], sizes, device, precision))
        console.print(f"  measured: {name}", markup=False, highlight=False)
    bars = judge(rows, quick=quick)
    show(console, rows, f"batch {sizes.batch} of {sizes.window_seconds:g} s, {precision}, on {device.type}", quick)
    show_bars(console, bars)
    content = {
        "encoders": to_json(sizes),
        "precision": precision,
        "quick": quick,
        "seconds": round(time.monotonic() - begun, 1),
        "parameters": {row.name: row.parameters for row in rows},
        "measurements": [asdict(m) | {"ratio": m.ratio()} for row in rows for m in row.measurements()],
        "noise": noise(rows),
        "bars": [asdict(bar) for bar in bars],
    }
    console.print(f"written: {write(out, described, content, 'encoders')}", soft_wrap=True)


def reading_memory(path: Path, experiments: tuple[str, ...]) -> dict[str, Measurement]:
    """Peak memory of processes that read the session at `path` as `evaluate` does, on the CPU, two at a time."""
    open_sessions([path], path.parent / "cache")
    with multiprocessing.get_context("spawn").Pool(min(2, len(experiments)), maxtasksperchild=1) as pool:
        found = pool.starmap(read_once, [(path, EXPERIMENTS[name].model) for name in experiments], chunksize=1)
    return {
        name: Measurement(
            "peak memory of reading", "GB", {"ours": [peak]}, note=f"{way}; {seconds:.3g} s on one thread"
        )
        for name, (peak, seconds, way) in zip(experiments, found, strict=True)
    }


def read_once(path: Path, config: ModelConfig) -> tuple[float, float, str]:
    """GB of peak memory of this process, seconds, and the inference plan."""
    torch.set_num_threads(1)
    (session,) = open_sessions([path], path.parent / "cache")
    model = Model(config).eval()
    begun = time.perf_counter()
    frames = sum(len(emissions) for emissions in emission_blocks(model, session))
    assert frames == model.frames(len(session))
    return peak_memory(), time.perf_counter() - begun, inference_plan(model, len(session)).name


def measure(name: str, memory: Measurement, sizes: Sizes, device: torch.device, precision: str) -> Row:
    """The row of one experiment's network."""
    torch.manual_seed(0)
    model = Model(EXPERIMENTS[name].model).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step = Measurement("training step", "s", step_seconds(model, sizes, device, precision))
    return Row(name, parameters, step, forward(model.eval(), sizes, device), memory)


def random_batch(model: Model, items: int, seconds: float, device: torch.device) -> Batch:
    """Windows of noise with exactly the context that `model` needs, labels as dense as real ones."""
    generator, hop = torch.Generator().manual_seed(0), model.samples_per_frame
    (left, right), samples = model.context, round(seconds * SAMPLE_RATE / hop) * hop
    count = max(1, round(seconds * KEYS_PER_SECOND))
    return Batch(
        emg=torch.randn(items, left + samples + right, BANDS, CHANNELS, generator=generator),
        left=left,
        right=right,
        lengths=torch.full((items,), samples),
        labels=torch.randint(NUM_CLASSES - 1, (items, count), generator=generator),
        label_lengths=torch.full((items,), count),
        onsets=torch.zeros(items, count, dtype=torch.int64),
    ).to(device)


def step_seconds(model: Model, sizes: Sizes, device: torch.device, precision: str) -> dict[str, list[float]]:
    """Seconds of a training step: features, forward, CTC, backward, Adam."""
    network = network_like(model)
    batch = random_batch(model, sizes.batch, sizes.window_seconds, device)
    frames = model.frames(batch.lengths)

    def ours() -> Tensor:
        return ctc_loss(*model(batch), batch)

    def theirs() -> Tensor:
        emissions = network(batch.emg).transpose(0, 1)
        return F.ctc_loss(emissions, batch.labels, frames, batch.label_lengths, blank=BLANK, zero_infinity=True)

    step, plain = stepper(ours, model, precision, device), stepper(theirs, network, precision, device)
    return timed({"ours": step, "textbook": plain, "ours again": step}, sizes.repetitions)


def forward(model: Model, sizes: Sizes, device: torch.device) -> Measurement:
    """Seconds of computing for a second of signal: one pass in evaluation mode, EMG to emissions, in fp32."""
    network = network_like(model)
    batch = random_batch(model, 1, sizes.forward_seconds, device)
    with torch.inference_mode():
        seconds = timed({"ours": lambda: model(batch), "textbook": lambda: network(batch.emg)}, sizes.repetitions)
    rates = {version: [value / sizes.forward_seconds for value in values] for version, values in seconds.items()}
    return Measurement("forward", "s per s of signal", rates)


def timed(versions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Mean seconds of each version, by PyTorch's own timer, which warms up and waits for a GPU."""
    timers = {
        name: Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
        for name, work in versions.items()
    }
    return {name: [timer.timeit(repetitions).mean] for name, timer in timers.items()}


def noise(rows: list[Row]) -> float:
    """The factor by which our steps differ from themselves within a run, the root mean square over the rows."""
    factors = (row.step.middle() / row.step.middle("ours again") for row in rows)
    return exp(fmean(log(factor) ** 2 for factor in factors) ** 0.5)


def kinds(encoder: EncoderConfig) -> set[type[EncoderConfig]]:
    """The kinds of an encoder and of its base encoders."""
    parts = [getattr(encoder, field.name) for field in fields(encoder)]
    return {type(encoder)}.union(*(kinds(part) for part in parts if isinstance(part, EncoderConfig)))


def judge(rows: list[Row], *, quick: bool) -> list[Bar]:
    """The bars, against this run's figures: a ratio may fall short of 1 by twice the noise."""
    least = noise(rows) ** -2
    steps = {row.name: row.step.ratio() or 0.0 for row in rows}
    peaks = {row.name: row.memory.middle() for row in rows}
    slowest, largest = min(steps, key=lambda name: steps[name]), max(peaks, key=lambda name: peaks[name])
    gains = f"{steps[slowest]:.2f} × ({slowest}), median {median(steps.values()):.2f} ×"
    checks = [
        (
            f"no encoder's step is slower than the textbook's (≥ {least:.2f} ×: 1 within twice the noise)",
            steps[slowest] >= least,
            gains,
        ),
        ("20 minutes are read in < 4 GB", peaks[largest] < 4, f"{peaks[largest]:.2f} GB ({largest})"),
    ]
    why = " (sizes of --quick)" if quick else ""
    return [Bar(n, "not applicable" if quick else "met" if ok else "not met", f + why) for n, ok, f in checks]


def show(console: Console, rows: list[Row], measured: str, quick: bool) -> None:
    """Print the table."""
    title = f"Encoders, median (× faster than the textbook's); step: {measured}"
    table = Table(title=title + (" -- QUICK RUN, MEANS NOTHING" if quick else ""))
    for column in ("experiment", "parameters", "step, s", "forward, s/s", "peak, GB"):
        table.add_column(column, overflow="fold")
    for row in rows:
        timed = (f"{m.middle():.3g} ({m.ratio():.2f} ×)" for m in (row.step, row.forward))
        table.add_row(row.name, f"{row.parameters:,}", *timed, f"{row.memory.middle():.2f}")
    console.print(table)
    for row in rows:
        console.print(f"{row.name}, the whole session: {row.memory.note}", markup=False, highlight=False)
    console.print(f"noise: our steps differ from themselves by {100 * (noise(rows) - 1):.1f} %")


if __name__ == "__main__":
    tyro.cli(main)
