"""A model on simulated people whom it has not seen, before and after it is adapted to minutes of their typing.

    python benchmarks/strangers.py live --out runs/strangers

Writes a line of JSON for each person and amount into OUT/found.jsonl, and resumes there after an interruption; then
prints a Markdown table and draws CER against lookahead into OUT/strangers.png. Each person has a session to adapt to
and one to test on, for which the bands are put on again. A model with several lookaheads is tested with each.
Processes with different --people can share OUT; the last one to end prints the whole table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import emgscribe as es
from emgscribe.experiments.figures import Bar, draw_curves
from emgscribe.simulation.sessions import simulate_session

SEED, FIRST, MINUTES, TESTED = 777, 90_000_000, (2.0, 5.0, 10.0), 4.0  # the first person's number; minutes
PEOPLE, DRAWS = 10, 2000


def session(out: Path, person: int, number: int, minutes: float) -> es.Session:
    """A session of a person, simulated where it is missing."""
    path = out / f"person-{person}-session-{number}.hdf5"
    if not path.exists():
        simulate_session(path, user=FIRST + person, session=number, minutes=minutes, seed=SEED)
    return es.open_session(path)


def scored(model: es.Model, test: es.Session) -> dict[str, list[int]]:
    """Errors and characters, by the lookahead in s."""
    found = {}
    for seconds in model.lookaheads or [0.0]:
        counts = es.evaluate(model.with_lookahead(seconds) if model.lookaheads else model, [test]).counts
        found[f"{seconds:g}"] = [counts.edits, counts.length]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="*", default=[0.0, *MINUTES])
    parser.add_argument("--people", type=int, nargs="*", default=[*range(PEOPLE)], help="numbers from 0 to 9")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = given.out / "found.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    path.touch()
    known = {(one["person"], one["minutes"]) for one in lines(path)}
    for minutes in given.minutes:
        for person in given.people:
            if (person, minutes) in known:
                continue
            test, folder = session(given.out, person, 1, TESTED), Path(given.model)
            if minutes:
                own = session(given.out, person, 0, max(MINUTES))
                part = own.first(own.shape.samples(60 * minutes))
                run = given.out / f"adapted-{person}-{minutes:g}"
                es.adapt(given.model, [part], run, console=Console(quiet=True))
                folder = run / "best"
            counts = scored(es.load_model(folder), test)
            with path.open("a") as file:
                file.write(json.dumps({"person": person, "minutes": minutes, "counts": counts}) + "\n")
            cers = (f"{100 * errors / length:.1f} % at {at} s" for at, (errors, length) in counts.items())
            print(f"person {person}, {minutes:g} minutes: {', '.join(cers)}", flush=True)
    found = bars(lines(path))
    print(table(found))
    panels = {f"lookahead in ms, adapted to {minutes:g} minutes": one for minutes, one in found.items()}
    draw_curves(panels, f"{PEOPLE} simulated people whom the model has not seen", given.out / "strangers")


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda one: (one["minutes"], one["person"]))


def bars(done: list[dict[str, Any]]) -> dict[float, dict[int, Bar]]:
    """The CER over all people, with its interval over people: minutes -> lookahead in ms -> bar."""
    rng, found = np.random.default_rng(0), dict[float, dict[int, Bar]]()
    for minutes in sorted({one["minutes"] for one in done}):
        for lookahead in done[0]["counts"]:
            errors, characters = np.array([one["counts"][lookahead] for one in done if one["minutes"] == minutes]).T
            drawn = rng.integers(len(errors), size=(DRAWS, len(errors)))
            low, high = np.percentile(100 * errors[drawn].sum(axis=1) / characters[drawn].sum(axis=1), (2.5, 97.5))
            cer = 100 * errors.sum() / characters.sum()
            bar = Bar("", "greedy", cer, (low, high), ())
            found.setdefault(minutes, {})[round(1000 * float(lookahead))] = bar
    return found


def table(found: dict[float, dict[int, Bar]]) -> str:
    """`bars` as Markdown."""
    lookaheads = list(next(iter(found.values())))
    rows = [f"| adapted to, minutes | {' | '.join(f'{one} ms' for one in lookaheads)} |"]
    rows.append("|---" * (1 + len(lookaheads)) + "|")
    for minutes, by_lookahead in found.items():
        cells = [f"{bar.cer:.1f} ({bar.interval[0]:.1f}–{bar.interval[1]:.1f})" for bar in by_lookahead.values()]
        rows.append(f"| {minutes:g} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
