"""Verbs about session files: make them, look into them."""

import json as json_format
import sys
from pathlib import Path

from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from emgscribe.cli.terminal import log, parsed, screen
from emgscribe.data.inspect import Inspection
from emgscribe.data.inspect import inspect as inspect_sessions
from emgscribe.errors import EmgscribeError
from emgscribe.simulation import SimulationConfig, simulate

_REPORTABLE = 0.2  # minutes
DEFAULT_SIMULATION = SimulationConfig()


def synthesize(arguments: list[str]) -> int:
    """Make a folder of simulated sessions in the layout of the emg2qwerty data set."""

    def synthesize(
        *,
        out: Path,
        users: int = 4,
        sessions: int = 6,
        minutes: float = 15.0,
        seed: int = 0,
        report: bool = False,
        simulation: SimulationConfig = DEFAULT_SIMULATION,
    ) -> int:
        """Make a folder of simulated sessions in the layout of the emg2qwerty data set, with its metadata.csv.

        Nobody typed them: results on them are simulated, and not comparable with results on recordings.

        Args:
            out: The folder to write to.
            users: How many people; each differs in anatomy and habits.
            sessions: How many sessions each of them records, the bands put on anew for each.
            minutes: Length of a session.
            seed: The same seed gives the same bytes.
            report: Also write report.png and report.json: traces, spectra, amplitudes beside those of real EMG.
            simulation: What is simulated.
        """
        if report and minutes < _REPORTABLE:
            raise EmgscribeError(f"--report needs sessions of {_REPORTABLE} minutes or more", hint="raise --minutes")
        paths = make_sessions(out, users=users, sessions=sessions, minutes=minutes, seed=seed, simulation=simulation)
        if report:
            from emgscribe.simulation import compare_with_recording

            compare_with_recording(
                [path for first, path in enumerate(paths) if first % sessions == 0], out / "report.png"
            )
            screen.print(f"report: {out / 'report.png'} (the first session of each user)", soft_wrap=True)
        return 0

    return parsed(synthesize, arguments, "synthesize")


def make_sessions(
    out: Path, *, users: int, sessions: int, minutes: float, seed: int, simulation: SimulationConfig
) -> list[Path]:
    """Simulate sessions into the folder `out`, with a progress bar; returns their files."""
    with Progress(console=log) as bar:
        task = bar.add_task("simulating", total=1.0)
        paths = simulate(
            out,
            users=users,
            sessions=sessions,
            minutes=minutes,
            seed=seed,
            config=simulation,
            progress=lambda done: bar.update(task, completed=done),
        )
    screen.print(f"{len(paths)} simulated sessions in {out}", soft_wrap=True)
    return paths


def inspect(arguments: list[str]) -> int:
    """Say what a session file holds and what is wrong with it."""

    def inspect(file: Positional[Path], json: bool = False) -> int:
        """Say what a session file holds and all that is wrong with it. Status 2 where it cannot be used.

        Args:
            file: A session in the emg2qwerty HDF5 layout.
            json: Print JSON instead of a table.
        """
        (found,) = inspect_sessions(file)
        if json:
            sys.stdout.write(json_format.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            _print_inspection(found)
        return 0 if found.usable else 2

    return parsed(inspect, arguments, "inspect")


def _print_inspection(found: Inspection) -> None:
    screen.print(found.path, soft_wrap=True)
    table = Table(show_header=False)
    for name, value in found.summary.items():
        table.add_row(name, Text(str(value)))
    if found.summary:
        screen.print(table)
    for finding in found.findings:
        screen.print(f"{finding.severity}: {finding.field}: {finding.message}")
    screen.print("usable" if found.usable else "not usable")
