"""The command line: one flat function for each verb, parsed by tyro.

This module imports next to nothing, so that Ctrl-C is answered while the others load.
"""

import errno
import gc
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from emgscribe.errors import EmgscribeError

_terminated = False


def run() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # symbols such as ⌫ must not depend on the terminal's encoding
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    status = main()
    gc.freeze()  # at exit Python would search all that is loaded for garbage once more, which takes a second
    sys.exit(status)


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit status.

    0: done. 1: a run failed, or emgscribe has a bug. 2: the input is wrong. 130 or 143: Ctrl-C or SIGTERM. 141: the
    reader of the output is gone.
    """
    try:
        from emgscribe.cli.app import call

        arguments = sys.argv[1:] if argv is None else argv
        if any("\0" in word for word in arguments):
            raise EmgscribeError("an argument holds a NUL character", hint="no file name or setting has one")
        status = call(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as left:  # help, and what the parser refuses
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except EmgscribeError as error:
        where = f"{_printable(error.where)}: " if error.where else ""
        return _fail(2, where + "\n".join(map(_printable, error.what.split("\n"))), error.hint)
    except KeyboardInterrupt:
        with suppress(OSError):
            said = "Finished files are kept. The same command resumes simulating, training or downloading."
            print(f"Interrupted. {said}", file=sys.stderr)
        return 143 if _terminated else 130
    except Exception as error:
        return _unexpected(error)


def _terminate(*_: Any) -> None:
    global _terminated
    _terminated = True
    raise KeyboardInterrupt


def _unexpected(error: Exception) -> int:
    gone = isinstance(error, BrokenPipeError)
    if gone or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        with suppress(OSError, ValueError):  # Python would complain again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if gone else _fail(2, "cannot write the output: the disk is full", "free some disk space")
    if os.environ.get("EMGSCRIBE_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return _fail(2, f"{error.filename}: cannot be used ({error.strerror})", "choose a shorter name")
    hint = "this is a bug in emgscribe: report the command and its traceback, shown with EMGSCRIBE_DEBUG=1"
    return _fail(1, f"unexpected {type(error).__name__}: {' '.join(str(error).split())}", hint)


def _printable(text: str) -> str:
    """Text with escapes for control characters, which names may hold and a terminal may obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fail(status: int, what: str, hint: str = "") -> int:
    with suppress(OSError):
        print(f"Error: {what}" + (f"\nHint: {hint}" if hint else ""), file=sys.stderr, flush=True)
    return status
