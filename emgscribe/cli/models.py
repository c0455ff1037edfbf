"""Verbs about a trained model: score it, read a session with it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from emgscribe.cli.terminal import bar, known, log, screen
from emgscribe.errors import EmgscribeError


def decoder_names(chosen: str) -> list[str]:
    """The decoders in a choice such as greedy,beam, each once; an unknown one is an error that lists the known ones."""
    from emgscribe.decoding.registry import DECODERS

    return list(dict.fromkeys(known(name.strip(), DECODERS, "decoder") for name in chosen.split(",")))


def evaluate(
    model: Positional[Annotated[Path, arg(metavar="MODEL")]],
    sessions: Positional[Annotated[tuple[Path, ...], arg(metavar="SESSIONS")]],
    *,
    decoder: str = "greedy",
    lm: Path | None = None,
    protocol: Literal["sessions", "published", "windows"] = "sessions",
    allow_seen: bool = False,
) -> int:
    """Score a model on whole sessions: character error rate (CER) with its interval.

    A session is refused if the model, or one that it was fine-tuned from, was trained on it, or if the weights of the
    beam search were tuned on it. The network runs once for all decoders.

    Examples:
      emgscribe evaluate runs/demo-0/best data/SESSION.hdf5
      emgscribe evaluate runs/demo-0/best data/SESSION.hdf5 --decoder greedy,beam

    Args:
        model: A model folder, such as runs/demo-0/best.
        sessions: Session files.
        decoder: greedy, beam, or greedy,beam, which also shows their difference with its interval.
        lm: ARPA file for the beam search; the default is the one it was tuned with, else the built-in one.
        protocol: sessions: whole sessions, padded; published: without padding, as in the published numbers; windows:
            windows of 4 s one by one, as in the published validation.
        allow_seen: Score sessions that the model was trained on, too; the result is marked.
    """
    from emgscribe.data.hdf5 import prompts_of
    from emgscribe.data.session import open_sessions
    from emgscribe.decoding.registry import make_decoder
    from emgscribe.evaluation import evaluate_all, evaluate_windows
    from emgscribe.experiments.report import print_difference, print_result
    from emgscribe.models.model import best_device, load_model

    if not sessions:
        raise EmgscribeError("no session given", hint="name one or more session files after the model")
    names = decoder_names(decoder)
    loaded, opened = load_model(model, best_device()), open_sessions(sessions)
    if not loaded.ancestry.complete:
        log.print(f"Warning: {model} does not list all sessions it was trained on; these may be among them")
    exclude = prompts_of(sessions)
    made = {name: make_decoder(name, folder=model, lm=lm, scored=opened, exclude=exclude).decoder for name in names}
    if protocol == "windows":
        found = {name: evaluate_windows(loaded, opened, reader) for name, reader in made.items()}
    else:
        with bar("reading") as progress:
            found = evaluate_all(loaded, opened, made, protocol=protocol, allow_seen=allow_seen, progress=progress)
    for name, result in found.items():
        print_result(result, screen, name)
    print_difference(found, screen)
    return 0


def transcribe(
    file: Positional[Annotated[Path, arg(metavar="SESSION")]],
    *,
    model: Path,
    decoder: str = "greedy",
    lm: Path | None = None,
    on_screen: bool = False,
) -> int:
    """Print what was typed in a session, as a model reads it: keystrokes, with ⌫ ⏎ and ⇧ as symbols.

    Examples:
      emgscribe transcribe data/SESSION.hdf5 --model runs/demo-0/best
      emgscribe transcribe data/SESSION.hdf5 --model runs/demo-0/best --decoder beam --on-screen

    Args:
        file: A session file.
        model: A model folder, such as runs/demo-0/best.
        decoder: greedy or beam.
        lm: ARPA file for the beam search; the default is the one it was tuned with, else the built-in one.
        on_screen: Print what a screen would show instead: backspaces applied, shift dropped.
    """
    from emgscribe.data.session import open_session
    from emgscribe.decoding.registry import make_decoder
    from emgscribe.models.model import best_device, load_model

    names = decoder_names(decoder)
    if len(names) > 1:
        raise EmgscribeError(f"--decoder is {decoder!r}, and a transcript has one", hint="name one of them")
    loaded = load_model(model, best_device())
    read = loaded.transcribe(open_session(file), make_decoder(names[0], folder=model, lm=lm).decoder)
    sys.stdout.write((read.screen if on_screen else read.text).replace("⏎", "⏎\n") + "\n")
    return 0
