"""The verbs and their parser. The module of a verb is imported when the verb is used: most load torch."""

import gc
import inspect
import os
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from keyword import iskeyword
from typing import Any

import tyro

import emgscribe
from emgscribe.cli.terminal import known, screen
from emgscribe.errors import EmgscribeError

VERBS = {  # verb -> its module here, and what it does; its function is named after its last word
    "demo": ("experiments", "Simulate a typist, train, and read a session that was held out: minutes on two cores."),
    "simulate": ("sessions", "Simulate sessions of EMG typing, in the file layout of the emg2qwerty data set."),
    "inspect": ("sessions", "Check session files: what they hold, and everything that is wrong with them."),
    "train": ("experiments", "Train a named experiment on a folder of sessions, test it and write its result."),
    "reproduce": ("experiments", "Run every experiment of a suite that has no result yet, and print its table."),
    "tune": ("experiments", "Search settings of an experiment for the lowest validation CER."),
    "report": ("experiments", "Make a report from result files: tables beside published numbers, CSV, figures."),
    "evaluate": ("models", "Score a model on whole sessions: character error rate (CER) with its interval."),
    "transcribe": ("models", "Print what was typed in a session, as a model reads it."),
    "live": ("live", "Read EMG as it comes, from a device or a simulated typist, and show the text in a web page."),
    "record": ("live", "Record yourself typing prompts, with a device, into session files."),
    "ensemble": ("models", "Make one model from several by averaging their log-probabilities."),
    "adapt": ("models", "Fine-tune a model on a few minutes of one person's typing."),
    "data get": ("data", "Download sessions of the emg2qwerty data set, or its key logs alone."),
    "data check": ("data", "Check many session files, also against the published sizes and hashes."),
    "data stats": ("data", "Summarise sessions: hours, keys a second, backspaces and symbols of each user."),
    "convert": ("recordings", "Convert recordings of other formats into session files, or sessions into BIDS."),
    "import": ("models", "Turn a published emg2qwerty checkpoint into a model; no code in it is executed."),
    "export": ("models", "Write a model for other programs: a published checkpoint, or a streaming step as ONNX."),
    "lm train": ("language", "Make a character n-gram model from text and write it as an ARPA file."),
    "lm mix": ("language", "Mix language models, such as a general one and one of your own text."),
    "lm tune": ("language", "Tune the beam search on the sessions that validated a model, and store its weights."),
}
_ABOUT = """Text from the surface EMG of two wristbands.

Examples:
  emgscribe demo
  emgscribe train             (lists the experiments)
  emgscribe evaluate --help   (each command has help of its own)
  emgscribe --version"""
_HELP = ("-h", "--help")


def call(arguments: list[str]) -> int:
    """Run the verb that the arguments name."""
    if arguments[:1] == ["--version"]:
        screen.print(emgscribe.__version__)
        return 0
    words = 2 if arguments[:1] in (["lm"], ["data"]) else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    _import_own()
    status = 0 if any(word in _HELP for word in arguments) else 2
    if 0 < len(arguments) < words:
        members = [verb.split()[1] for verb in VERBS if verb.startswith(f"{name} ")]
        hint = f"one of: {', '.join(members)}; emgscribe {name} --help lists them"
        raise EmgscribeError(f"{name}: no command given", hint=hint)
    if len(arguments) < words or arguments[words - 1] in _HELP:
        return _list_verbs(arguments[: words - 1], status)
    place = VERBS[known(name, VERBS, "command")][0]
    gc.disable()  # what is loaded now stays until the end, and is not garbage
    try:
        module = import_module(f"emgscribe.cli.{place}")
    finally:
        gc.enable()
    word = name.split()[-1]
    verb: Any = getattr(module, f"{word}_" if iskeyword(word) else word)
    about = f"{VERBS[name][1]}\n\n{inspect.getdoc(verb)}"
    if name in ("train", "tune"):  # the experiment that is named first holds the defaults of all settings
        if not rest or rest[0] in _HELP:
            module.list_experiments(name)
            return status
        if rest[0].startswith("-"):
            hint = f"name it first: emgscribe {name} EXPERIMENT ...; emgscribe {name} lists them"
            raise EmgscribeError("no experiment given", hint=hint)
        verb, name = partial(verb, rest[0], experiment=module.named(rest[0])), f"{name} {rest[0]}"
        rest = rest[1:]
    elif name == "reproduce" and (not rest or (rest[0].startswith("-") and not set(rest) & set(_HELP))):
        module.list_suites()
        if rest:
            raise EmgscribeError("no suite given", hint="name it first: emgscribe reproduce SUITE ...")
        return status
    config = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(verb, prog=f"emgscribe {name}", description=about, args=rest, config=config) or 0


def _import_own() -> None:
    """Import the modules that EMGSCRIBE_MODULES names, which register encoders and the like of the user's own."""
    names = [name for name in os.environ.get("EMGSCRIBE_MODULES", "").split(",") if name]
    if names:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            hint = f"EMGSCRIBE_MODULES is {', '.join(names)}: modules in this folder, or installed ones"
            raise EmgscribeError(f"{name} cannot be imported ({error})", hint=hint) from error


def _list_verbs(group: list[str], status: int) -> int:
    """Print the verbs with a line each: all of them, or those of a group such as lm."""
    app: Any = tyro.extras.SubcommandApp()
    for name, (_, about) in VERBS.items():
        if name.split()[: len(group)] == group:
            app.command(call, name=name, help=about)
    with suppress(SystemExit):
        app.cli(prog="emgscribe", description=_ABOUT, args=["--help"])
    return status
