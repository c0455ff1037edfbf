"""Speed and memory of the beam search, beside a plain-Python one with the same settings: part of `make bench`.

The emissions are made up: text of the simulated typist at 4.7 keys a second, mostly blank, keys peaked, some of them
doubtful or wrong. Error rates on them compare decoders with each other and mean nothing else.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from plain_beam import plain_beam_search
from torch.utils.benchmark import Timer

from emgscribe.data.charset import BACKSPACE, BLANK, NUM_CLASSES, SHIFT, labels_of_text
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Emissions
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import default_language_model
from emgscribe.decoding.prefix_search import NODE
from emgscribe.scoring import count
from emgscribe.simulation.text import PromptWriter

FRAMES_PER_SECOND, KEYS_PER_SECOND = 125, 4.7
CHUNK = 12  # frames, 96 ms of signal


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=1200, help="seconds of signal; the plain search gets 1/60 of it")
    seconds = parser.parse_args().seconds
    words = default_language_model(across=False)
    emissions, labels = typed(seconds, seed=0)
    decoder = BeamDecoder(lm=words)
    begun = time.perf_counter()
    decoder.decode(emissions[:FRAMES_PER_SECOND])
    print(f"first call (compiles, or loads the cached code): {time.perf_counter() - begun:.1f} s")

    few = emissions[: max(1, seconds // 60) * FRAMES_PER_SECOND]
    assert decoder.decode(few).labels == plain_beam_search(few.tolist(), decoder.config, words.tables)[0][0]
    plain = timed(lambda: plain_beam_search(few.tolist(), decoder.config, words.tables), 1)
    ratio = plain / timed(lambda: decoder.decode(few), 20)
    print(f"beam 50 with a 6-gram: {ratio:.0f} times as fast as plain Python, with the same text (aim: 100)")
    whole = timed(lambda: decoder.decode(emissions), 3)
    print(f"{seconds / 60:.3g} min of signal, one thread: {whole:.2f} s")
    print(f"real-time factor {whole / seconds:.5f} (aim: 0.005)")

    decoder.reset()
    sizes = []
    for _ in range(3):
        decoder.feed(emissions)
        sizes.append(decoder.nodes * NODE.itemsize / 1e6)
    print(f"memory of the search: {sizes[0]:.3g} MB after the session, {sizes[-1]:.3g} MB after three in a row")
    decoder.reset()
    taken = []
    for first in range(0, len(emissions), CHUNK):
        begun = time.perf_counter()
        decoder.feed(emissions[first : first + CHUNK])
        taken.append(1e3 * (time.perf_counter() - begun))
    median, late = np.quantile(taken, [0.5, 0.99])
    print(f"feeding {1e3 * CHUNK / FRAMES_PER_SECOND:.0f} ms of signal: {median:.2f} ms, 99th percentile {late:.2f} ms")

    halves = np.array_split(emissions, 2)
    with ThreadPoolExecutor(2) as pool:
        both = timed(lambda: list(pool.map(lambda half: BeamDecoder(lm=words).decode(half), halves)), 3)
    print(f"its two halves on two threads: {both:.2f} s")

    some = emissions[: len(emissions) // 4]
    text = labels[: len(labels) // 4]
    print(f"greedy: CER {count(text, GreedyDecoder().decode(some).labels).cer:.1f} % on made-up emissions")
    for size in (1, 5, 10, 25, 50, 100, 200):
        each = BeamDecoder(BeamConfig(beam_size=size), words)
        cer = count(text, each.decode(some).labels).cer
        print(f"beam {size}: CER {cer:.1f} %, {timed(lambda each=each: each.decode(some), 1):.3f} s")


def timed(work: object, times: int) -> float:
    """Seconds of one call on one thread, the mean over `times` calls."""
    return float(Timer("work()", globals={"work": work}).timeit(times).mean)


def typed(seconds: int, seed: int) -> tuple[Emissions, list[int]]:
    """Made-up emissions (F, 99) of that many seconds, and the keys typed in them."""
    random = np.random.default_rng(seed)
    writer, keys = PromptWriter(random), ""
    while len(keys) < seconds * KEYS_PER_SECOND:
        for symbol in writer.next_prompt():
            slip = chr(random.integers(97, 123)) + BACKSPACE if random.random() < 0.03 else ""
            keys += slip + (SHIFT if symbol.isupper() else "") + symbol
    labels = np.array(labels_of_text(keys[: int(seconds * KEYS_PER_SECOND)]))
    gaps = random.gamma(4.0, size=len(labels) + 1)
    frames = (np.cumsum(gaps)[:-1] / gaps.sum() * (seconds * FRAMES_PER_SECOND - 4)).astype(np.int64)
    # As sharp as a small network on simulated sessions: some 5 % of the frames in doubt; in most frames the second
    # class is nine nats below the first, the tenth class twelve.
    scores = random.normal(scale=2.2, size=(seconds * FRAMES_PER_SECOND, NUM_CLASSES))
    scores[:, BLANK] += 15
    like = random.permutation(NUM_CLASSES - 1)  # every key is mistaken for one other
    for offset, height in ((0, 14.0), (1, 20.0), (2, 14.0)):
        scores[frames + offset, labels] += height + 3 * random.normal(size=len(labels))
        scores[frames + offset, like[labels]] += height - 8 + 3 * random.normal(size=len(labels))
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores.astype(np.float32), labels.tolist()


if __name__ == "__main__":
    main()
