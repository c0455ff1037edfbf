"""Verbs about a trained model: score it, read with it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress
from tyro.conf import Positional

from emgscribe.cli.terminal import known, log, parsed, screen
from emgscribe.errors import EmgscribeError


def decoder_names(chosen: str) -> list[str]:
    """The decoders in a choice such as greedy,beam, each once; an unknown one is an error that names the known ones."""
    from emgscribe.decoding.registry import DECODERS

    return list(dict.fromkeys(known(name.strip(), DECODERS, "decoder") for name in chosen.split(",")))


def evaluate(arguments: list[str]) -> int:
    """Score a model on session files: CER with its interval."""

    def evaluate(
        model: Positional[Path],
        sessions: Positional[tuple[Path, ...]],
        *,
        decoder: str = "greedy",
        lm: Path | None = None,
        windowed: bool = False,
    ) -> int:
        """Score a model on whole sessions, each in one piece, as the paper does at test time.

        A session that the model, or one that it was trained from, was trained on is refused, and so is one that the
        beam's weights were tuned on. The network runs once: what it said is kept in the cache folder.

        Args:
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
            sessions: Session files.
            decoder: greedy, beam, or both as greedy,beam: then their difference is shown, with its interval.
            lm: An ARPA file for the beam; without it the model's tuned one, or the default one.
            windowed: Score windows of 4 s one by one instead: the way the published baseline is validated.
        """
        from emgscribe.data.hdf5 import prompts_of
        from emgscribe.data.session import open_sessions
        from emgscribe.decoding.registry import make_decoder
        from emgscribe.evaluation import evaluate as score
        from emgscribe.evaluation import evaluate_windows
        from emgscribe.experiments.report import print_difference, print_evaluation
        from emgscribe.models.model import best_device, load_model

        if not sessions:
            raise EmgscribeError("no session given", hint="name one or more session files after the model")
        names = decoder_names(decoder)
        loaded, opened = load_model(model, best_device()), open_sessions(sessions)
        if not loaded.ancestry.complete:
            log.print(f"{model} does not say all that it was trained on: nobody can tell whether it has seen these")
        excluded = frozenset(prompts_of(sessions))
        made = {
            name: make_decoder(name, folder=model, lm=lm, scored=opened, exclude=excluded).decoder for name in names
        }
        found = {}
        for name, reader in made.items():
            if windowed:
                found[name] = evaluate_windows(loaded, opened, reader)
            else:
                with reading() as progress:
                    found[name] = score(loaded, opened, reader, progress=progress)
            print_evaluation(found[name], screen, name)
        print_difference(found, screen)
        return 0

    return parsed(evaluate, arguments, "evaluate")


@contextmanager
def reading() -> Iterator[Callable[[float], None]]:
    """A progress bar; gives the function to call with the fraction done."""
    with Progress(console=log) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda done: bar.update(task, completed=done)


def transcribe(arguments: list[str]) -> int:
    """Print what was typed in a session, as the model reads it."""

    def transcribe(
        file: Positional[Path], model: Path, decoder: str = "greedy", lm: Path | None = None, on_screen: bool = False
    ) -> int:
        """Print what was typed in a session, as the model reads it: keystrokes, with ⌫ ⏎ and ⇧ as symbols.

        Args:
            file: A session file.
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
            decoder: greedy or beam.
            lm: An ARPA file for the beam; without it the model's tuned one, or the default one.
            on_screen: Print what a screen would show instead: backspaces applied, shift dropped.
        """
        from emgscribe.data.charset import screen_text
        from emgscribe.data.session import open_sessions
        from emgscribe.decoding.registry import make_decoder
        from emgscribe.evaluation import read
        from emgscribe.models.model import best_device, load_model

        names = decoder_names(decoder)
        if len(names) > 1:
            raise EmgscribeError(f"--decoder is {decoder!r}, and a transcript has one", hint="name one of them")
        loaded, (session,) = load_model(model, best_device()), open_sessions([file])
        hypothesis = read(loaded, session, make_decoder(names[0], folder=model, lm=lm).decoder)
        text = screen_text(hypothesis.labels) if on_screen else hypothesis.text
        sys.stdout.write(text.replace("⏎", "⏎\n") + "\n")
        return 0

    return parsed(transcribe, arguments, "transcribe")
