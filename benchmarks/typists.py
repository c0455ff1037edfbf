"""Typing of many simulated people beside published numbers of real typing: the table of docs/simulate.md, and JSON.

    python benchmarks/typists.py docs/simulation/typing.json

By default as many people as in the data set, with 15 minutes each. Their muscles are not simulated, so this takes half
a minute of a core. The exit status is 1 if a number is farther from the published one than `published.json` allows.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emgscribe.data.hdf5 import SessionHeader
from emgscribe.files import write_json
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.published import rows
from emgscribe.simulation.sessions import logged_keys, perform
from emgscribe.simulation.typing_measures import measure_typing

_POINTS = ("5 %", "median", "95 %")
# The rows of the table, and what `published.json` calls the numbers in them.
_SHOWN = {
    "interval between keys, ms, 5 / 25 / 50 / 75 / 95 %": [
        f"interval between keys, {point}" for point in ("5 %", "25 %", "median", "75 %", "95 %")
    ],
    "keys per minute of a session, 5 / 50 / 95 %": [f"keys per minute of a session, {point}" for point in _POINTS],
    "hold of letters, ms, 5 / 50 / 95 %": [f"hold of letters, {point}" for point in _POINTS],
    "after ⏎, ms, 5 / 50 / 95 %": [f"after enter, {point}" for point in _POINTS],
    "backspaces of a user, % of keys, 5 / 50 / 95 %": [
        f"backspaces of a user, share of keys, {point}" for point in _POINTS
    ],
    **{
        f"{pair}: median in ms / held past the next press, %": [f"{pair}, median", f"{pair}, held past the next press"]
        for pair in ("other hand next", "same hand, other finger", "same finger", "same key")
    },
    "runs of backspaces per 100 keys": ["runs of backspaces per 100 keys"],
    "backspaces in a run, mean": ["backspaces in a run, mean"],
    "characters wrong at the end, %": ["characters wrong at the end"],
    "standard deviation of log intervals in a session": ["standard deviation of log intervals in a session"],
    "correlation of neighbouring intervals": ["correlation of neighbouring intervals"],
    "intervals in the last third of a session, relative to the first": [
        "intervals in the last third of a session, relative to the first"
    ],
}


def typists(people: int, minutes: float, seed: int) -> Iterator[SessionHeader]:
    """A session of each person without its EMG; other seeds are other people."""
    for user in range(seed * people, (seed + 1) * people):
        made = perform(user=user, session=0, minutes=minutes, seed=seed, config=SimulationConfig())
        keys = logged_keys(made.presses, 0.0, made.tick)
        yield SessionHeader("typing", f"{user:08d}", "on_keyboard", minutes, keys, tuple(made.prompts))


def measured(people: int = 108, minutes: float = 15.0, seed: int = 0) -> dict[str, Any]:
    """What was measured of whom, ready for JSON."""
    found = rows("typing", measure_typing(typists(people, minutes, seed)))
    about = {"people": people, "minutes": minutes, "seed": seed}
    return about | {"rows": [asdict(row) | {"distance": round(row.distance, 2), "near": row.near} for row in found]}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The main rows as Markdown."""
    lines, named = ["| typing | published | simulated |", "|---|---|---|"], {row["name"]: row for row in found}
    for label, names in _SHOWN.items():
        cells = (" / ".join(f"{named[name][column]:.4g}" for name in names) for column in ("published", "simulated"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="JSON file to write")
    parser.add_argument("--people", type=int, default=108)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measured(options.people, options.minutes, options.seed)
    print(table(found["rows"]))
    if options.out:
        write_json(options.out, found)
    far = [f"{row['name']} {row['simulated']:.4g}" for row in found["rows"] if not row["near"]]
    apart = f"{len(far)} of {len(found['rows'])} numbers are farther from the published ones than allowed"
    print(f"\n{apart}{': ' * bool(far)}{'; '.join(far)}")
    return int(bool(far))


if __name__ == "__main__":
    sys.exit(main())
