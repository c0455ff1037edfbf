"""Figures of a benchmark: measured in turns, with what they depend on, and shown as a table."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Measurement:
    """One row of the table: `values` of each version, one per repetition."""

    name: str
    unit: str
    values: dict[str, list[float]]
    higher_is_better: bool = False
    note: str = ""

    def middle(self, version: str = "ours") -> float:
        """The median over the repetitions."""
        return median(self.values[version])

    def cell(self, version: str) -> str:
        """Median (best), or nothing for a version that was not measured."""
        if version not in self.values:
            return ""
        best = max(self.values[version]) if self.higher_is_better else min(self.values[version])
        return f"{self.middle(version):.3g} ({best:.3g})"

    def ratio(self) -> float | None:
        """How many times better ours is than the textbook's, by the medians."""
        if "textbook" not in self.values:
            return None
        ours, theirs = self.middle("ours"), self.middle("textbook")
        return ours / theirs if self.higher_is_better else theirs / ours


@dataclass
class Bar:
    """A figure that the project promises, and whether this run keeps it."""

    name: str
    verdict: str
    figure: str


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(fields.get("flags", "").split())
    told = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in told if flag in flags],
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip(),
    }


def write(out: Path, described: dict[str, Any], content: dict[str, Any], kind: str = "") -> Path:
    """Write one run's JSON file, named by time, commit and kind; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}-{described['commit'] or 'uncommitted'}"
    target = out / f"{name}-{kind}.json" if kind else out / f"{name}.json"
    target.write_text(json.dumps({"machine": described} | content, indent=1) + "\n")
    return target


def alternate(
    versions: dict[str, Callable[[], object]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each version, in turns: an unmeasured one, then `repetitions`. `before` runs first, unmeasured."""
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for repetition in range(repetitions + 1):
        for name, work in versions.items():
            before()
            begun = clock()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repetition > 0:
                seconds[name].append(clock() - begun)
    return seconds


def peak_memory() -> float:
    """The most memory, in GB, that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts the process that forked this one into ru_maxrss, but not into VmHWM
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def show(console: Console, rows: list[Measurement], bars: list[Bar], *, quick: bool) -> None:
    """Print the table, and that of the bars."""
    title = "Speed and memory: median (best)" + (" -- QUICK RUN, MEANS NOTHING" if quick else "")
    table = Table("what", "unit", "ours", "textbook", "ratio", title=title)
    for row in rows:
        ratio = row.ratio()
        factor = "" if ratio is None else f"{ratio:.2f} ×"
        table.add_row(row.name, row.unit, row.cell("ours"), row.cell("textbook"), factor)
    console.print(table)
    for row in rows:
        console.print(f"{row.name}: {row.note}", markup=False, highlight=False)
    show_bars(console, bars)


def show_bars(console: Console, bars: list[Bar]) -> None:
    """The bars and their verdicts."""
    verdicts = Table("bar", "verdict", "figure")
    for bar in bars:
        verdicts.add_row(bar.name, bar.verdict, bar.figure)
    console.print(verdicts)
