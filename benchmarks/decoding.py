"""Speed and memory of the beam search, beside a plain-Python one of the same settings: part of `make bench`.

The emissions are made up: a text of the simulated typist's, its keys at the rate of the seed user, mostly blank, keys
peaked, some in doubt or wrong. Error rates on them compare decoders with each other and say nothing else.

What runs on one thread is measured in seconds of processor time, which on an idle machine are seconds of the clock, and
on a busy one do not count the waiting.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from figures import Bar, Measurement, alternate, machine, show, write
from plain_beam import plain_beam_search
from rich.console import Console

from emgscribe.config import to_json
from emgscribe.data.charset import BACKSPACE, BLANK, NUM_CLASSES, SHIFT, labels_of_text, text_of_labels
from emgscribe.decoding.beam import BeamConfig, BeamDecoder, decode_all
from emgscribe.decoding.greedy import Emissions, GreedyDecoder, decode
from emgscribe.decoding.language_model import Automaton, default_language_model
from emgscribe.decoding.prefix_search import NODE
from emgscribe.scoring import count
from emgscribe.simulation.text import PromptWriter

FRAMES_PER_SECOND = 125
KEYS_PER_SECOND = 4.7  # of the seed user
BEAMS = (1, 5, 10, 25, 50, 100, 200)


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    session_seconds: int = 1200
    plain_seconds: int = 20
    repetitions: int = 3
    chunk_frames: int = 12


TINY = Sizes(session_seconds=20, plain_seconds=2, repetitions=1)


def main(out: Path = Path(__file__).parent / "results", quick: bool = False) -> None:
    """Measure the beam search, print a table and write a JSON file.

    Args:
        out: folder of the JSON file.
        quick: tiny sizes, to see that it runs; its figures mean nothing.
    """
    console, sizes, begun = Console(), TINY if quick else Sizes(), time.monotonic()
    described, config = machine(), BeamConfig()
    console.print("\n".join(f"{name}: {value}" for name, value in described.items()), markup=False, highlight=False)
    model = default_language_model(across=False).automaton()
    emissions, labels = typed(sizes.session_seconds, seed=0)
    first = time.perf_counter()
    decode(BeamDecoder(config, model), emissions[:FRAMES_PER_SECOND])
    console.print(f"first call (compiles, or reads what was compiled): {time.perf_counter() - first:.1f} s")
    rows = []
    for row in measure(emissions, labels, model, sizes):
        console.print(f"  measured: {row.name}", markup=False, highlight=False)
        rows.append(row)
    bars = judge(rows, quick=quick)
    show(console, rows, bars, quick=quick)
    content = {"decoding": to_json(sizes), "config": to_json(config), "quick": quick}
    content["seconds"] = round(time.monotonic() - begun, 1)
    content["measurements"] = [asdict(row) | {"ratio": row.ratio()} for row in rows]
    content["bars"] = [asdict(bar) for bar in bars]
    console.print(f"written: {write(out, described, content, 'decoding')}", soft_wrap=True)


def typed(seconds: int, seed: int) -> tuple[Emissions, list[int]]:
    """Made-up emissions (F, 99) of so many seconds, and the keys that were typed in them."""
    random = np.random.default_rng(seed)
    writer, keys = PromptWriter(random), ""
    while len(keys) < seconds * KEYS_PER_SECOND:
        for symbol in writer.next_prompt():
            slip = chr(random.integers(97, 123)) + BACKSPACE if random.random() < 0.03 else ""
            keys += slip + (SHIFT if symbol.isupper() else "") + symbol
    labels = np.array(labels_of_text(keys[: int(seconds * KEYS_PER_SECOND)]))
    gaps = random.gamma(4.0, size=len(labels) + 1)
    frames = (np.cumsum(gaps)[:-1] / gaps.sum() * (seconds * FRAMES_PER_SECOND - 4)).astype(np.int64)
    # As sharp as what a network made of simulated sessions: of all frames some 5 % in doubt, the second class of most
    # nine, the tenth twelve below the first.
    scores = random.normal(scale=2.2, size=(seconds * FRAMES_PER_SECOND, NUM_CLASSES))
    scores[:, BLANK] += 15
    like = random.permutation(NUM_CLASSES - 1)  # every key has one that it is mistaken for
    for offset, height in ((0, 14.0), (1, 20.0), (2, 14.0)):
        scores[frames + offset, labels] += height + 3 * random.normal(size=len(labels))
        scores[frames + offset, like[labels]] += height - 8 + 3 * random.normal(size=len(labels))
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores.astype(np.float32), labels.tolist()


def measure(emissions: Emissions, labels: list[int], model: Automaton, sizes: Sizes) -> Iterator[Measurement]:
    """All measurements, in order."""
    config = BeamConfig()
    decoder = BeamDecoder(config, model)
    yield against_plain(emissions[: sizes.plain_seconds * FRAMES_PER_SECOND], config, model, sizes)
    seconds = alternate({"ours": lambda: decode(decoder, emissions)}, sizes.repetitions, time.process_time)
    signal, size = sizes.session_seconds, config.beam_size
    note = f"beam {size}, one thread, {len(labels)} keys"
    yield Measurement(f"{signal / 60:.3g} min of signal", "s", seconds, note=note)
    rates = {"ours": [value / signal for value in seconds["ours"]]}
    yield Measurement("real-time factor", "s per s of signal", rates, note=note)
    yield tree(decoder, emissions)
    yield in_chunks(decoder, emissions, sizes)
    halves = [emissions[: len(emissions) // 2], emissions[len(emissions) // 2 :]]
    threads = {
        "ours": lambda: decode_all(halves, config, model, threads=2),
        "textbook": lambda: decode_all(halves, config, model, threads=1),
    }
    seconds = alternate(threads, sizes.repetitions)
    yield Measurement("a batch of two on two threads", "s", seconds, note="the textbook is ours on one thread")
    yield from beam_sizes(model, sizes)


def beam_sizes(model: Automaton, sizes: Sizes) -> Iterator[Measurement]:
    """Seconds and CER by beam size."""
    emissions, labels = typed(sizes.session_seconds // 4, seed=1)
    greedy = count(labels, decode(GreedyDecoder(), emissions).labels).cer
    for beam in BEAMS:
        decoder = BeamDecoder(BeamConfig(beam_size=beam), model)
        begun = time.process_time()
        cer = count(labels, decode(decoder, emissions).labels).cer
        seconds = time.process_time() - begun
        note = f"CER {cer:.2f} %, greedy {greedy:.2f} % (made-up emissions, {sizes.session_seconds // 4} s)"
        yield Measurement(f"beam {beam}", "s", {"ours": [seconds]}, note=note)


def against_plain(emissions: Emissions, config: BeamConfig, model: Automaton, sizes: Sizes) -> Measurement:
    """Seconds of both searches on the same emissions; they must read the same."""
    decoder, rows = BeamDecoder(config, model), emissions.tolist()
    (best, _), *_ = plain_beam_search(rows, config, model)
    assert text_of_labels(best) == decode(decoder, emissions).text, "the plain search reads something else"
    versions = {
        "ours": lambda: decode(decoder, emissions),
        "textbook": lambda: plain_beam_search(rows, config, model),
    }
    seconds = alternate(versions, sizes.repetitions, time.process_time)
    note = f"{sizes.plain_seconds} s of signal, beam {config.beam_size}, one thread, same text: {best_of(best)}"
    return Measurement("beam search", "s", seconds, note=note)


def best_of(labels: tuple[int, ...]) -> str:
    """The beginning of what was read."""
    return repr(text_of_labels(labels[:40]))


def tree(decoder: BeamDecoder, emissions: Emissions) -> Measurement:
    """Megabytes of the tree after the session once and three times over."""
    decoder.reset()
    sizes = []
    for _ in range(3):
        decoder.feed(emissions)
        sizes.append(decoder.nodes * NODE.itemsize / 1e6)
    note = f"after the session {sizes[0]:.3g} MB, after three in a row {sizes[-1]:.3g} MB"
    return Measurement("memory of the search", "MB", {"ours": sizes}, note=note)


def in_chunks(decoder: BeamDecoder, emissions: Emissions, sizes: Sizes) -> Measurement:
    """Milliseconds of feeding one chunk, the whole hypothesis returned each time."""
    decoder.reset()
    times = []
    for first in range(0, len(emissions), sizes.chunk_frames):
        begun = time.process_time()
        decoder.feed(emissions[first : first + sizes.chunk_frames])
        times.append(1e3 * (time.process_time() - begun))
    quantiles = np.quantile(times, [0.5, 0.99]).tolist()
    signal = 1e3 * sizes.chunk_frames / FRAMES_PER_SECOND
    note = f"{signal:.0f} ms of signal a chunk; 99th percentile {quantiles[1]:.2f} ms"
    return Measurement("feeding a chunk", "ms", {"ours": quantiles[:1]}, note=note)


def judge(rows: list[Measurement], *, quick: bool) -> list[Bar]:
    """The bars, against this run's figures."""
    found = {row.name: row for row in rows}
    ratio, factor = found["beam search"].ratio() or 0.0, found["real-time factor"].middle()
    session = 1200 * factor
    checks = [
        ("beam 50 with the 6-gram ≥ 100 × plain Python", ratio >= 100, f"{ratio:.0f} ×"),
        ("real-time factor ≤ 0.005", factor <= 0.005, f"{factor:.5f}"),
        ("20 minutes of signal in ≤ 6 s", session <= 6, f"{session:.2f} s"),
    ]
    why = " (sizes of --quick)" if quick else ""
    return [Bar(n, "not applicable" if quick else "met" if ok else "not met", f + why) for n, ok, f in checks]


if __name__ == "__main__":
    tyro.cli(main)
