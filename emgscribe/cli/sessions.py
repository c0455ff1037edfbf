"""Verbs about session files: simulate them, inspect them."""

from pathlib import Path
from typing import Annotated, Any

from rich.table import Column, Table
from tyro.conf import Positional, arg

import emgscribe as es
from emgscribe.cli.terminal import bar, file_column, print_json, refuse, screen
from emgscribe.data.hdf5 import kind_of
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.config import SimulationConfig

_REPORTABLE = 0.2  # minutes
_USERS, _SESSIONS, _MINUTES = 4, 6, 15.0
_DEFAULT = SimulationConfig()


def simulate(
    *,
    out: Annotated[Path, arg(help="Folder to write the sessions and their metadata.csv to.")],
    users: Annotated[int, arg(help="Number of people; they differ in anatomy and habits.")] = _USERS,
    sessions: Annotated[int, arg(help="Sessions of each person; the bands are put on again for each one.")] = _SESSIONS,
    minutes: Annotated[float, arg(help="Length of a session.")] = _MINUTES,
    seed: Annotated[int, arg(help="Random seed; the same seed gives the same bytes.")] = 0,
    key_logs: Annotated[
        Path | None,
        arg(help="Folder of session files or BIDS events: simulate EMG for these keys; each log is a session."),
    ] = None,
    report: Annotated[bool, arg(help="Also write report.md, .png and .json: published and simulated numbers.")] = False,
    simulation: SimulationConfig = _DEFAULT,
) -> None:
    """Results on simulated sessions say nothing about recordings of people.

    Examples:
      emgscribe simulate --out data --users 1 --sessions 10 --minutes 4
      emgscribe simulate --out hard --simulation.difficulty 2 --report
      emgscribe simulate --out typed --key-logs events
    """
    if report and minutes < _REPORTABLE:
        raise EmgscribeError(f"--report needs sessions of {_REPORTABLE} minutes or more", hint="raise --minutes")
    if key_logs is None:
        paths = make_sessions(out, users=users, sessions=sessions, minutes=minutes, seed=seed, config=simulation)
    else:
        chosen = {"--users": users != _USERS, "--sessions": sessions != _SESSIONS, "--minutes": minutes != _MINUTES}
        refuse(chosen, "--key-logs")
        with bar("simulating") as progress:
            paths = es.simulate_key_logs(key_logs, out, seed=seed, config=simulation, processes=0, progress=progress)
        made = f"{len(paths)} session{'s' * (len(paths) != 1)}"
        screen.print(f"{made} of simulated EMG for the keys of {key_logs} in {out}")
    if report:
        from emgscribe.simulation.report import compare_with_recording

        compare_with_recording(paths, out / "report.png")
        screen.print(f"report: {out / 'report.md'}")


def make_sessions(out: Path, **settings: Any) -> list[Path]:
    """`emgscribe.simulate` on all cores, with a progress bar and a summary line."""
    doing = "simulating {users} x {sessions} sessions of {minutes:g} minutes".format(**settings)
    with bar(doing, logged=True) as progress:
        paths = es.simulate(out, processes=0, progress=progress, **settings)
    screen.print(f"{len(paths)} simulated session{'s' * (len(paths) != 1)} in {out}")
    return paths


def inspect(
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILES", help="Session files, or folders of them.")]],
    *,
    json: Annotated[bool, arg(help="Print a JSON list with one entry for each file instead of a table.")] = False,
) -> int:
    """The exit status is 2 if any of them cannot be used.

    Examples:
      emgscribe inspect data
      emgscribe inspect a.hdf5 b.hdf5 --json
    """
    if not files:
        raise EmgscribeError("no session given", hint="name session files or folders of them")
    found = es.inspect(files)
    if json:
        print_json([inspection.to_json() for inspection in found])
    else:
        _print_inspections(found)
    return 0 if all(inspection.usable for inspection in found) else 2


def _print_inspections(found: list[es.Inspection]) -> None:
    table = Table(file_column(), "user", "minutes", "keys", "prompts", "kind", Column("verdict", no_wrap=True))
    for inspection in found:
        held = inspection.summary
        known = {name: held[name] for name in ("simulated", "real_keys") if name in held}
        kind = kind_of(**known) if known else ""
        cells = (held.get(name, "") for name in ("user", "duration_mins", "keystrokes", "prompts"))
        shown = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells)
        table.add_row(Path(inspection.path).name, *shown, kind, "usable" if inspection.usable else "not usable")
    screen.print(table)
    if len(found) == 1 and "text" in found[0].summary:
        screen.print(f"text begins: {found[0].summary['text']}")
    for inspection in found:
        for finding in inspection.findings:
            screen.print(f"{Path(inspection.path).name}: {finding.severity}: {finding.field}: {finding.message}")
