"""What verbs share: the two streams, progress bars, names that must be known, options that several have."""

import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Column
from tyro.conf import Positional, arg

from emgscribe.errors import EmgscribeError


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the outermost frame knows the exit status; rich would leave with 1


screen = _Screen(highlight=False, markup=False, soft_wrap=True)
log = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

Folder = Annotated[Path, arg(help="Folder of session files.")]
ModelFolder = Positional[
    Annotated[
        Path,
        arg(
            metavar="MODEL",
            help="A model folder, such as runs/demo-0/best, or live: the one that comes with emgscribe.",
        ),
    ]
]
Arpa = Annotated[Path | None, arg(help="ARPA file for the beam search; by default the built-in language model.")]


def known(name: str, names: Iterable[str], kind: str) -> str:
    """`name` if it is one of `names`; else an error with the nearest name and all of its group (what precedes a /)."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    group = (near or [name])[0].rpartition("/")[0]
    listed = [other for other in names if other.rpartition("/")[0] == group] or names
    hint = "".join(f"did you mean {other}? " for other in near) + f"one of: {', '.join(listed)}"
    raise EmgscribeError(f"unknown {kind} {name!r}", hint=hint)


def refuse(given: Mapping[str, object], beside: str) -> None:
    """Refuse options, by name, that were `given` though they do nothing with another one."""
    if names := [name for name, value in given.items() if value]:
        raise EmgscribeError(f"{names[0]} does nothing with {beside}", hint="leave one of the two out")


def file_column() -> Column:
    """A table's column of file names: whole on a wide screen, else their start, which has the date and time."""
    return Column("file", no_wrap=True, max_width=None if screen.width >= 150 else 24)


def print_json(content: Any) -> None:
    """Print JSON to standard output, as it is: not wrapped to the screen."""
    sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def bar(doing: str, *, logged: bool = False) -> Iterator[Callable[[float], None]]:
    """A progress bar that leaves nothing behind; yields the function to call with the fraction done.

    It appears with the first call, so that an error about the arguments stands alone. Where there is no
    terminal it is nothing or, if `logged`, one line.
    """
    shown = Progress(console=log, transient=True)
    task = shown.add_task(doing, total=1.0)
    lines = [f"{doing} ..."] if logged and not log.is_terminal else []

    def advance(done: float) -> None:
        if log.is_terminal:
            shown.start()
        while lines:
            log.print(lines.pop())
        shown.update(task, completed=done)

    try:
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()
