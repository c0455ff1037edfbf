"""What live reading costs: latency, processor time, memory and lag, in real time, with one thread.

    python benchmarks/live.py live --minutes 2                  latencies of a trained model on a simulated typist
    python benchmarks/live.py live.onnx --minutes 2             the same with an exported step
    python benchmarks/live.py                                   costs of networks without training

Nothing else may run meanwhile: on a busy machine, the figures mean nothing.
"""

import argparse
import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import psutil
import torch

from emgscribe.live.engine import Ended, Engine, Received
from emgscribe.live.meter import Scored
from emgscribe.live.sources import Simulated
from emgscribe.models.encoders import RecurrentConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, load_model
from emgscribe.models.onnx import OnnxModel
from emgscribe.streaming import Update

NETWORKS = {
    "the baseline, causal": ModelConfig(encoder=TdsConfig(lookahead=0)),
    "the baseline, causal, rolling norm of 5 s": ModelConfig(encoder=TdsConfig(lookahead=0, rolling=625)),
    "small TDS, 42 frames/s": ModelConfig(SpectrogramConfig(hop=48), TdsConfig(96, 3, 24, 11, 4)),
    "raw EMG and GRU": ModelConfig(StridedConvConfig(), RecurrentConfig(bidirectional=False)),
}


def measure(name: str, model: Model | OnnxModel, minutes: float, *, trained: bool = False) -> None:
    """Read a simulated typist for some minutes, and print what it took."""
    process, ended = psutil.Process(), list[Ended]()
    memory, waiting = list[int](), list[float]()

    def note(event: Received | Update | Scored | Ended) -> None:
        if isinstance(event, Ended):
            ended.append(event)
        if isinstance(event, Update):
            waiting.append(event.lag + engine.waiting)

    engine = Engine(Simulated(seed=7), model, on_event=note)
    engine.start()
    while not waiting:
        time.sleep(0.01)
    begun, used = time.monotonic(), process.cpu_times()
    while time.monotonic() < begun + 60 * minutes:
        memory.append(process.memory_info().rss)
        time.sleep(1)
    after, seconds = process.cpu_times(), time.monotonic() - begun
    engine.stop()
    measured = engine.meter.measured()
    share = (after.user + after.system - used.user - used.system) / seconds
    third = len(waiting) // 3
    print(f"{name}: {seconds:.0f} s, delay {1000 * engine.stream.delay:.0f} ms, {100 * share:.1f} % of a core")
    for what, times in (
        ("shown", measured.shown),
        ("committed", measured.committed),
        ("computing", measured.computing),
    ):
        if times and (what == "computing" or trained):
            print(f"  {what}: p50, p95, p99 {' / '.join(f'{1000 * value:.1f}' for value in times)} ms")
    if trained:
        print(f"  CER {measured.counts.cer:.1f} % of {measured.counts.length} keys, simulated")
    early, late = (1000 * max(part) for part in (waiting[:third], waiting[-third:]))
    print(f"  waiting at most {early:.0f} ms in the first third, {late:.0f} in the last")
    print(f"  samples left out: {engine.late}")
    print(f"  memory {memory[min(10, len(memory) - 1)] / 1e6:.0f} MB after 10 s, {memory[-1] / 1e6:.0f} at the end")
    print(f"  {engine.grid.faults}, errors {[one.error for one in ended]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder of a trained model, or an .onnx file")
    parser.add_argument("--lookahead", type=float, default=0.08, help="s, of a model that has several")
    parser.add_argument("--minutes", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.model and options.model.endswith(".onnx"):
        measure(options.model, OnnxModel(options.model), options.minutes, trained=True)
    elif options.model:
        model = load_model(options.model)
        model = model.with_lookahead(options.lookahead) if model.lookaheads else model
        measure(options.model, model, options.minutes, trained=True)
    else:
        for name, config in NETWORKS.items():
            measure(name, Model(config), options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
