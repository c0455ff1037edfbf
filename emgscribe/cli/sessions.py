"""Verbs about session files: simulate them, inspect them."""

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from tyro.conf import Positional, arg

from emgscribe.cli.terminal import bar, screen
from emgscribe.data.inspect import Inspection
from emgscribe.data.inspect import inspect as inspect_files
from emgscribe.errors import EmgscribeError

if TYPE_CHECKING:
    from emgscribe.simulation import SimulationConfig
else:
    SimulationConfig = Any  # its real type is loaded when the verb is used

_REPORTABLE = 0.2  # minutes


def _simulation_config() -> type:
    from emgscribe.simulation import SimulationConfig

    return SimulationConfig


def simulate(
    *,
    out: Path,
    users: int = 4,
    sessions: int = 6,
    minutes: float = 15.0,
    seed: int = 0,
    report: bool = False,
    simulation: Annotated[SimulationConfig, arg(constructor_factory=_simulation_config)],
) -> int:
    """Simulate sessions of EMG typing, in the file layout of the emg2qwerty data set.

    Results on simulated sessions say nothing about recordings of people.

    Examples:
      emgscribe simulate --out data --users 1 --sessions 10 --minutes 4
      emgscribe simulate --out hard --simulation.difficulty 2 --report

    Args:
        out: Folder to write the sessions and their metadata.csv to.
        users: Number of people; they differ in anatomy and habits.
        sessions: Number of sessions of each person; the bands are put on again for each.
        minutes: Length of a session.
        seed: Random seed; the same seed gives the same bytes.
        report: Also write report.png and report.json: traces, spectra and amplitudes beside those of real EMG.
        simulation: Properties of the simulated people and bands.
    """
    if report and minutes < _REPORTABLE:
        raise EmgscribeError(f"--report needs sessions of {_REPORTABLE} minutes or more", hint="raise --minutes")
    paths = make_sessions(out, users=users, sessions=sessions, minutes=minutes, seed=seed, config=simulation)
    if report:
        from emgscribe.simulation import compare_with_recording

        compare_with_recording(paths[::sessions], out / "report.png")
        screen.print(f"report: {out / 'report.png'} (the first session of each user)")
    return 0


def make_sessions(out: Path, **settings: Any) -> list[Path]:
    """`emgscribe.simulate` with a progress bar and a last word."""
    from emgscribe.simulation import simulate

    with bar("simulating") as progress:
        paths = simulate(out, progress=progress, **settings)
    screen.print(f"{len(paths)} simulated sessions in {out}")
    return paths


def inspect(files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILES")]], *, json: bool = False) -> int:
    """Check session files: what they hold, and everything that is wrong with them.

    The exit status is 2 if any of them cannot be used.

    Examples:
      emgscribe inspect data
      emgscribe inspect a.hdf5 b.hdf5 --json

    Args:
        files: Session files in the emg2qwerty layout, or folders of them.
        json: Print a JSON list with one entry for each file instead of a table.
    """
    if not files:
        raise EmgscribeError("no session given", hint="name session files or folders of them")
    found = inspect_files(files)
    if json:
        content = [inspection.to_json() for inspection in found]
        sys.stdout.write(json_format.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        _print_inspections(found)
    return 0 if all(inspection.usable for inspection in found) else 2


def _print_inspections(found: list[Inspection]) -> None:
    table = Table("file", "user", "minutes", "keys", "prompts", "kind", "verdict")
    for inspection in found:
        told = inspection.summary
        kind = {True: "simulated", False: "recorded"}.get(told.get("simulated", ""), "")
        cells = (told.get(name, "") for name in ("user", "duration_mins", "keystrokes", "prompts"))
        verdict = "usable" if inspection.usable else "not usable"
        name = Path(inspection.path).name
        table.add_row(name, *(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells), kind, verdict)
    screen.print(table)
    if len(found) == 1 and "text" in found[0].summary:
        screen.print(f"text begins: {found[0].summary['text']}")
    for inspection in found:
        for finding in inspection.findings:
            screen.print(f"{Path(inspection.path).name}: {finding.severity}: {finding.field}: {finding.message}")
