"""Verbs about a trained model: score it, read with it."""

import sys
from pathlib import Path

from rich.progress import Progress
from tyro.conf import Positional

from emgscribe.cli.terminal import log, parsed, screen
from emgscribe.errors import EmgscribeError


def evaluate(arguments: list[str]) -> int:
    """Score a model on session files: CER with its interval."""

    def evaluate(model: Positional[Path], sessions: Positional[tuple[Path, ...]], *, windowed: bool = False) -> int:
        """Score a model on whole sessions, each in one piece, as the paper does at test time.

        A session that the model, or one that it was trained from, was trained on is refused.

        Args:
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
            sessions: Session files.
            windowed: Score windows of 4 s instead, as in validation.
        """
        from emgscribe.decode import GreedyDecoder
        from emgscribe.evaluate import evaluate as score
        from emgscribe.evaluate import evaluate_windows
        from emgscribe.model import best_device, load_model
        from emgscribe.report import print_result
        from emgscribe.store import open_sessions

        if not sessions:
            raise EmgscribeError("no session given", mend="name one or more session files after the model")
        loaded, opened = load_model(model, best_device()), open_sessions(sessions)
        if not loaded.ancestry.complete:
            log.print(f"{model} does not say all that it was trained on: nobody can tell whether it has seen these")
        if windowed:
            print_result(evaluate_windows(loaded, opened, GreedyDecoder()), screen)
            return 0
        with Progress(console=log) as bar:
            task = bar.add_task("reading", total=1.0)
            result = score(loaded, opened, GreedyDecoder(), progress=lambda done: bar.update(task, completed=done))
        print_result(result, screen)
        return 0

    return parsed(evaluate, arguments, "evaluate")


def transcribe(arguments: list[str]) -> int:
    """Print what was typed in a session, as the model reads it."""

    def transcribe(file: Positional[Path], model: Path) -> int:
        """Print what was typed in a session, as the model reads it: keystrokes, with ⌫ ⏎ and ⇧ as symbols.

        Args:
            file: A session file.
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
        """
        from emgscribe.decode import GreedyDecoder
        from emgscribe.evaluate import session_emissions
        from emgscribe.model import best_device, load_model
        from emgscribe.store import open_sessions

        decoder = GreedyDecoder()
        loaded, (session,) = load_model(model, best_device()), open_sessions([file])
        for emissions in session_emissions(loaded, session):
            decoder.feed(emissions)
        sys.stdout.write(decoder.flush().text.replace("⏎", "⏎\n") + "\n")
        return 0

    return parsed(transcribe, arguments, "transcribe")
