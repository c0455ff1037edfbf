"""The command line: one function a verb, which parses, calls and prints.

Modules that load torch are imported inside the verbs that need them, so that help and `inspect` come at once.
"""

import io
import os
import sys
from collections.abc import Callable

from emgscribe.cli.experiments import demo, report, reproduce, train, tune
from emgscribe.cli.language import lm
from emgscribe.cli.models import evaluate, transcribe
from emgscribe.cli.sessions import inspect, synthesize
from emgscribe.cli.terminal import known, log, screen
from emgscribe.errors import EmgscribeError

VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "synthesize": synthesize,
    "inspect": inspect,
    "train": train,
    "reproduce": reproduce,
    "tune": tune,
    "report": report,
    "evaluate": evaluate,
    "transcribe": transcribe,
    "lm": lm,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 2 a fault of the input, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            _print_help()
            return 0 if arguments else 2
        return VERBS[known(arguments[0], VERBS, "command")](arguments[1:])
    except EmgscribeError as error:
        log.print(f"error: {error}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        log.print("interrupted; nothing half-written was left, and training goes on where it stopped when asked again")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _print_help() -> None:
    screen.print("usage: emgscribe COMMAND [OPTIONS]      (emgscribe COMMAND --help says more)\n")
    for verb, run in VERBS.items():
        screen.print(f"  {verb:<11} {(run.__doc__ or '').splitlines()[0]}", soft_wrap=True)


def run() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # symbols such as ⌫ must not depend on the terminal's encoding
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())
