"""Beam size against CER and time: a Markdown table over a suite's models with tuned beams, on their test sessions.

    python benchmarks/beam_sizes.py small/table1 --data DIR --runs runs

The weights are those tuned for each model, at every size. Time is processor time of one thread.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from emgscribe.data.session import open_sessions
from emgscribe.data.splits import split_sessions
from emgscribe.decoding.beam import BeamDecoder
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.tuning import load_tuned, load_tuned_language_model
from emgscribe.experiments.recipes import SUITES
from emgscribe.experiments.run import run_name
from emgscribe.models.model import load_model
from emgscribe.scoring import count, total


def main() -> None:
    """Decode and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    found = []
    for experiment in SUITES[options.suite].experiments:
        folder = options.runs / run_name(experiment) / "best"
        if tuned := load_tuned(folder):
            model, words = load_model(folder), load_tuned_language_model(folder, tuned)
            sessions = open_sessions(split_sessions(options.data, experiment.data).test)
            found += [(model.log_probs(session), session, tuned.config, words) for session in sessions]
    signal = 60 * sum(session.minutes for _, session, _, _ in found)
    print(f"{len(found)} test sessions, {signal / 60:.0f} minutes of signal\n")
    BeamDecoder().decode(found[0][0][:2])  # loads the compiled search
    print("| beam size | CER, % | seconds per minute of signal | real-time factor |\n|---|---|---|---|")
    for size in (0, 1, 2, 5, 10, 20, 50, 100, 200):
        counts, taken = [], 0.0
        for log_probs, session, config, words in found:
            decoder = BeamDecoder(replace(config, beam_size=size), words) if size else GreedyDecoder()
            before = time.process_time()
            hypothesis = decoder.decode(log_probs)
            taken += time.process_time() - before
            counts.append(count(session.labels.tolist(), hypothesis.labels))
        name = size or "greedy"
        print(f"| {name} | {total(counts).cer:.2f} | {60 * taken / signal:.3f} | {taken / signal:.5f} |", flush=True)


if __name__ == "__main__":
    main()
