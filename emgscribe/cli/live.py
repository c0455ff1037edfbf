"""The verb that reads EMG as it comes."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from emgscribe.cli.terminal import Arpa
from emgscribe.errors import EmgscribeError, optional
from emgscribe.live.devices import Board, Lsl
from emgscribe.live.hub import Choice, Live
from emgscribe.live.sources import Pipe, Replay, Simulated, Source
from emgscribe.models.model import Model
from emgscribe.simulation.config import SimulationConfig


@dataclass(frozen=True)
class Page:
    """Where the page is served."""

    host: str = "127.0.0.1"  # address to serve the page at; others than this machine need a token
    port: int = 8765  # port to serve the page at; 0: any free one
    known_as: tuple[str, ...] = ()  # more names, HOST:PORT, to open it under, as behind a proxy
    browser: bool = True  # open the page in the browser


_OPTIONS = {"file speed": "replay", "streams": "lsl", "board board_settings": "brainflow"}


@dataclass(frozen=True)
class From:
    """Where the EMG comes from."""

    source: Literal["simulated", "replay", "lsl", "brainflow", "stdin"] = "simulated"  # where the EMG comes from
    file: Path | None = None  # session file to replay
    speed: float = 1.0  # how many times as fast as in reality a file is replayed
    streams: tuple[str, ...] = ()  # LSL streams by name, left band first; none: the only one of type EMG
    board: int = -1  # BrainFlow's id of the board; -1: its synthetic board
    board_settings: tuple[str, ...] = ()  # BrainFlow's settings of the board, as in serial_port=/dev/ttyUSB0
    seed: int | None = None  # who types in a simulation; by default another person every time

    def makers(self) -> dict[str, Callable[[Model], Source]]:
        """What makes each source that can be chosen: the one that was asked for, and simulated typists."""
        if self.source == "replay" and self.file is None:
            raise EmgscribeError("replay needs a session", hint="name one: --file SESSION.hdf5")
        if self.source == "stdin" and sys.stdin is None:
            raise EmgscribeError("standard input is closed", hint="write samples to it, as in PROGRAM | emgscribe live")
        for names, source in _OPTIONS.items():
            for name in names.split():
                if getattr(self, name) != getattr(From, name) and source != self.source:
                    what = f"--{name.replace('_', '-')} is for --source {source}, not {self.source}"
                    raise EmgscribeError(what, hint=f"add --source {source}, or leave it out")
        pipes: dict[Model, Pipe] = {}  # one for all: what was read of a row goes on where another choice stopped
        made: dict[str, Callable[[Model], Source]] = {
            "replay": lambda _: Replay(self.file or "", speed=self.speed),
            "lsl": lambda model: Lsl(model.shape.bands, self.streams),
            "brainflow": lambda model: Board(self.board, model.shape.bands, dict(map(_pair, self.board_settings))),
            "stdin": lambda model: pipes.setdefault(model, Pipe(model.shape, sys.stdin.buffer)),
            "simulated": lambda model: Simulated(_like(model), seed=self.seed),
        }
        return {name: made[name] for name in dict.fromkeys((self.source, "simulated"))}


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise EmgscribeError(f"{setting!r} is no setting", where="--board-settings", hint="write name=value")
    return name, value


def _like(model: Model) -> SimulationConfig:
    shape = model.shape
    try:
        # The settings check the rate themselves.
        return SimulationConfig(bands=shape.bands, electrodes=shape.electrodes, sample_rate=int(shape.rate))  # type: ignore[arg-type]
    except EmgscribeError as error:
        hint = "choose a model of a shape that can be simulated, or another source"
        raise EmgscribeError(f"{shape} cannot be simulated ({error.what})", hint=hint) from error


def live(
    *,
    model: Annotated[Path, arg(help="A model folder, such as runs/demo-0/best.")],
    decoder: Annotated[Literal["greedy", "beam"], arg(help="How text is read from the model's output.")] = "greedy",
    lm: Arpa = None,
    print_text: Annotated[bool, arg(help="Print the text as it is committed.")] = False,
    origin: Annotated[From, arg(name="")],
    page: Annotated[Page, arg(name="")],
) -> None:
    """Opens a page that shows electrodes, keys, the text as it is typed, and how late it is.

    Examples:
      emgscribe live --model runs/demo-0/best
      emgscribe live --model runs/demo-0/best --source replay --file data/SESSION.hdf5
      emgscribe live --model runs/demo-0/best --source lsl --streams left right
      emgscribe live --model MODEL --source brainflow --board 2 --board-settings serial_port=/dev/ttyUSB0
    """
    serve = optional("emgscribe.live.server", "live").serve
    sources = origin.makers()
    name = model.resolve().name
    live = Live(
        sources, {name: model}, Choice(origin.source, name, decoder), lm=lm, on_text=_print if print_text else None
    )
    serve(live, host=page.host, port=page.port, names=page.known_as, browser=page.browser)


def _print(text: str) -> None:
    try:
        sys.stdout.write(text.replace("⏎", "⏎\n"))
        sys.stdout.flush()
    except BrokenPipeError:  # as Ctrl-C
        os.kill(os.getpid(), signal.SIGINT)
