"""What is published about recordings, as numbers. The simulator takes its typing from them, and is compared with them.

`published.json` holds aggregates only. `rows` are the rows of the comparison: name, unit, published number, and the
largest distance that is allowed (`Row.distance`). `intervals` has the 5, 25, 50, 75 and 95 % points of the time from
one key to the next in ms, by the fingers that touch typing gives them or by what the keys do, and the share of first
keys that are held past the second press; `holds` has the points of the time that a key is held, `shares` the share of
each key in %.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@cache
def published() -> dict[str, Any]:
    """The content of `published.json`."""
    content: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True)
class Row:
    """One number of recordings beside the same number of simulated sessions."""

    name: str
    unit: str
    published: float
    allowed: float  # the largest distance
    simulated: float

    @property
    def distance(self) -> float:
        """The difference where the unit is % or dB, else in % of the published number."""
        apart = self.simulated - self.published
        return apart if self.unit in ("%", "dB") else 100 * apart / self.published

    @property
    def near(self) -> bool:
        return abs(self.distance) <= self.allowed


def spectrum(channel: str) -> dict[int, float]:
    """Hz -> density in dB (µV²/Hz) of the `median` or the `strongest` channel of a recorded session."""
    begin = f"spectrum of the {channel} channel, "
    named = {name.removesuffix(" Hz"): number for name, _, number, _ in published()["rows"]["emg"]}
    return {int(name.removeprefix(begin)): number for name, number in named.items() if name.startswith(begin)}


def rows(part: str, simulated: Mapping[str, float]) -> list[Row]:
    """The rows of a part (`typing` or `emg`) that `simulated` has a number for."""
    known = [(*row, float(simulated[row[0]])) for row in published()["rows"][part] if row[0] in simulated]
    return [Row(*row) for row in known]
