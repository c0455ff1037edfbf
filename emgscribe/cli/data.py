"""Verbs about folders of sessions: download, check, summarise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.table import Column, Table
from tyro.conf import Positional, arg

from emgscribe.cli.terminal import bar, file_column, print_json, screen
from emgscribe.data import download
from emgscribe.data.survey import Checked, check_all, draw_stats, stats_of
from emgscribe.errors import EmgscribeError

Files = Positional[Annotated[tuple[Path, ...], arg(metavar="FILES", help="Session files, or folders of them.")]]


def get(
    *,
    out: Annotated[Path, arg(help="Folder to write to.")],
    course: Annotated[bool, arg(help="The 18 sessions of Borthakur et al., 4.7 GB.")] = False,
    users: Annotated[tuple[str, ...], arg(help="Ids of users, or a number N: the first N users of the list.")] = (),
    sessions: Annotated[tuple[str, ...], arg(help="Names of sessions, or unique parts of their names.")] = (),
    source: Annotated[str, arg(help="Archive (.tar.gz), URL prefix or folder of the files; empty: official.")] = "",
    labels_only: Annotated[bool, arg(help="Key logs of all sessions, without EMG, through git: 60 MB.")] = False,
    bids: Annotated[bool, arg(help="The BIDS copy: all key logs, and the EMG of --users, through git-annex.")] = False,
    dry_run: Annotated[bool, arg(help="Only list what it would fetch, and its size, offline.")] = False,
) -> None:
    """The official archive is 239 GB and can only be read from its start: the wanted sessions are kept, and reading
    stops when all of them are found. A mirror of single files is far cheaper. After an interruption the same command
    resumes.

    Examples:
      emgscribe data get --course --out emg2qwerty
      emgscribe data get --users 89335547 --out emg2qwerty --source https://mirror.example/emg2qwerty
      emgscribe data get --users 108 --out emg2qwerty --dry-run   (lists all users and sessions)
      emgscribe data get --labels-only --out events
      emgscribe data get --bids --users 89335547 --out nemar
    """
    if labels_only or bids:
        alone = {"--labels-only": labels_only, "--bids": bids, "--course": course, "--sessions": sessions}
        alone["--users"] = users and labels_only
        if len(given := [name for name, value in alone.items() if value]) > 1:
            hint = "leave one out; with --bids, all key logs are fetched, and the EMG of --users"
            raise EmgscribeError(f"{given[0]} and {given[1]} do not go together", hint=hint)
        copy, chosen = source or download.KEY_LOGS, download.choose(users=users) if users else []
        if dry_run:
            more = f", and {download.size_of(chosen)} of EMG" * bool(chosen)
            screen.print(f"would clone {copy} into {out}: about 60 MB{more}")
            return
        people = list(dict.fromkeys(one.user for one in chosen))
        screen.print(f"BIDS data set: {download.fetch_bids(out, copy, users=people)}")
        return
    wanted = download.choose(course=course, users=users, sessions=sessions)
    here, source = download.present(wanted, out), source or download.ARCHIVE
    if dry_run:
        for one in wanted:
            size = f"{one.bytes / 1e6:.0f} MB" if one.bytes else ""
            screen.print(f"{one.user}  {size:>6}  {one.session}{'  here' * (one in here)}", soft_wrap=True)
    screen.print(download.cost(wanted, here, source))
    if dry_run:
        return
    with bar("downloading") as progress:
        paths = download.fetch(wanted, out, source, progress=progress)
    screen.print(f"{len(paths)} sessions in {out}")


def check(
    files: Files,
    *,
    json: Annotated[bool, arg(help="Print a JSON list with one entry for each file instead of a table.")] = False,
    jobs: Annotated[int, arg(help="Files at a time; 0: one for each core.")] = 0,
) -> int:
    """Files of the data set are compared with their published size and SHA-256, where these are known. The exit status
    is 2 if any file cannot be used or is not the published one.

    Examples:
      emgscribe data check emg2qwerty
      emgscribe data check a.hdf5 more --json
    """
    if not files:
        raise EmgscribeError("no session given", hint="name session files or folders of them")
    with bar("checking") as progress:
        found = check_all(files, jobs, progress)
    if json:
        print_json([each.to_json() for each in found])
    else:
        _print_checked(found)
    return 0 if all(each.good for each in found) else 2


def _print_checked(found: Sequence[Checked]) -> None:
    table = Table(file_column(), "user", "minutes", "keys", "published", Column("verdict", no_wrap=True))
    for each in found:
        held = each.inspection.summary
        minutes = held.get("duration_mins")
        cells = str(held.get("user", "")), f"{minutes:.2f}" if isinstance(minutes, float) else ""
        verdict = "good" if each.good else "differs" if each.inspection.usable else "not usable"
        table.add_row(Path(each.inspection.path).name, *cells, str(held.get("keystrokes", "")), each.published, verdict)
    screen.print(table)
    for each in found:
        for finding in each.inspection.findings:
            screen.print(f"{Path(each.inspection.path).name}: {': '.join(finding)}")
    screen.print(f"{sum(each.good for each in found)} of {len(found)} are good")


def stats(
    files: Files,
    *,
    out: Annotated[Path | None, arg(help="PNG file for a plot of the numbers.")] = None,
    json: Annotated[bool, arg(help="Print JSON instead of a table.")] = False,
) -> None:
    """Key logs count as they are in the files: corrected typos and backspaces are part of the text.

    Examples:
      emgscribe data stats emg2qwerty
      emgscribe data stats data --out stats.png
    """
    if not files:
        raise EmgscribeError("no session given", hint="name session files or folders of them")
    found = stats_of(files)
    if json:
        print_json([each.to_json() for each in found])
    else:
        table = Table("user", "kind", "sessions", "hours", "keys", "keys/s", "⌫ %", "commonest")
        for each in found:
            table.add_row(*each.cells())
        screen.print(table)
    if out is not None:
        draw_stats(found, out)
        screen.print(f"plot: {out}")
