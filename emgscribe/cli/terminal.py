"""What every verb shares: the two streams, settings from arguments, names that must be known."""

import difflib
from collections.abc import Callable, Mapping

import tyro
from rich.console import Console

from emgscribe.errors import EmgscribeError

screen = Console(highlight=False, markup=False)
log = Console(stderr=True, highlight=False, markup=False)


def known(name: str, names: Mapping[str, object], kind: str) -> str:
    """`name` if it is one of `names`; else an error with the nearest."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
        raise EmgscribeError(f"unknown {kind} {name!r}", hint=hint)
    return name


def parsed(verb: Callable[..., int], arguments: list[str], name: str) -> int:
    """Call `verb` with its parameters read from `arguments`; `emgscribe <name>` is how usage and errors call it."""
    return tyro.cli(verb, prog=f"emgscribe {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
