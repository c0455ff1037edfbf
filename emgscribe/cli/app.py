"""The verbs and their parser. Modules that load torch are imported inside the verbs that need them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import tyro

import emgscribe
from emgscribe.cli import experiments, language, models, sessions
from emgscribe.cli.terminal import known, screen

VERBS: dict[str, Callable[..., int]] = {
    "demo": experiments.demo,
    "simulate": sessions.simulate,
    "inspect": sessions.inspect,
    "train": experiments.train,
    "reproduce": experiments.reproduce,
    "tune": experiments.tune,
    "report": experiments.report,
    "evaluate": models.evaluate,
    "transcribe": models.transcribe,
    "lm train": language.train,
    "lm tune": language.tune,
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
    words = 2 if arguments[:1] == ["lm"] else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if len(arguments) < words or arguments[words - 1] in _HELP:
        return _help(
            status=0 if arguments[-1:] and arguments[-1] in _HELP else 2, group=arguments[0] if words == 2 else ""
        )
    return _parsed(VERBS[known(name, VERBS, "command")], name, rest)


def _parsed(verb: Callable[..., int], name: str, arguments: list[str]) -> int:
    """Call a verb with its parameters read from the arguments."""
    about = _doc(verb)
    if name in ("train", "tune"):  # the experiment that is named first holds the defaults of all settings
        if not arguments or arguments[0].startswith("-"):
            return experiments.list_experiments(name, status=0 if arguments[:1] and arguments[0] in _HELP else 2)
        verb = partial(verb, experiment=experiments.named(arguments[0]))
    elif name == "reproduce" and not arguments:
        return experiments.list_suites()
    return tyro.cli(
        verb, prog=f"emgscribe {name}", description=about, args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )


def _doc(verb: Callable[..., int]) -> str:
    """A verb's docstring without its arguments, each of which has its own place in the help."""
    return (inspect.getdoc(verb) or "").partition("\nArgs:")[0].strip()


def _help(*, status: int, group: str) -> int:
    """List the verbs with a line each: all of them, or those of a group such as lm."""
    app: Any = tyro.extras.SubcommandApp()
    for name, verb in VERBS.items():
        if name.startswith(group):
            app.command(verb, name=name, help=_doc(verb).splitlines()[0])
    try:
        app.cli(prog="emgscribe", description=_ABOUT, args=["--help"])
    except SystemExit:
        return status
