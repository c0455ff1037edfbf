"""The verbs that take EMG as it comes: read it, record it."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from emgscribe.config import require
from emgscribe.data.shape import Band, Shape
from emgscribe.errors import EmgscribeError, optional
from emgscribe.live.devices import Board, Lsl
from emgscribe.live.sources import Pipe, Replay, Simulated, Source, prepare_typist
from emgscribe.simulation.config import like

if TYPE_CHECKING:  # torch takes seconds, in which a simulated typist gets ready
    from emgscribe.live.hub import Live, Recordings


@dataclass(frozen=True)
class PageOptions:
    """Where the page is served."""

    host: str = "127.0.0.1"  # address to serve the page at; any but this machine's own needs a token
    port: int = 8765  # port to serve the page at; 0: any free one
    known_as: tuple[str, ...] = ()  # more names (HOST:PORT) that the page may be opened under, as behind a proxy
    no_browser: bool = False  # do not open the page in the browser


_OPTIONS = {
    "file": ("replay",), "speed": ("replay", "stdin"), "streams": ("lsl",), "board": ("brainflow",),
    "board_settings": ("brainflow",),
}  # fmt: skip


@dataclass(frozen=True)
class SourceOptions:
    """Where the EMG comes from."""

    source: Literal["simulated", "replay", "lsl", "brainflow", "stdin"] = "simulated"  # where the EMG comes from
    file: Path | None = None  # session file to replay
    speed: float = 1.0  # speed of a replay; 1: real time, 0: as fast as it can be read, also from stdin
    streams: tuple[str, ...] = ()  # LSL streams by name, left band first; none: the only one of type EMG
    board: int = -1  # BrainFlow's id of the board; -1: its synthetic board
    board_settings: tuple[str, ...] = ()  # BrainFlow's settings of the board, as in serial_port=/dev/ttyUSB0
    seed: int | None = None  # who types in a simulation; by default another person every time

    def makers(self) -> dict[str, Callable[[Shape], Source]]:
        """A factory for each source to choose from: the requested one, a simulated typist, and LSL if it is installed.

        A simulated typist that was requested begins to load.
        """
        if self.source == "replay" and self.file is None:
            raise EmgscribeError("replay needs a session", hint="name one: --file SESSION.hdf5")
        if self.source == "stdin" and sys.stdin is None:
            raise EmgscribeError("standard input is closed", hint="write samples to it, as in PROGRAM | emgscribe live")
        for name, sources in _OPTIONS.items():
            if getattr(self, name) != getattr(SourceOptions, name) and self.source not in sources:
                what = f"--{name.replace('_', '-')} is for --source {' or '.join(sources)}, not {self.source}"
                raise EmgscribeError(what, hint=f"add --source {sources[0]}, or leave the option out")
        if self.source == "stdin":
            require(self.speed in (0, 1), "--speed", self.speed, "0 (from a file) or 1 (as it is recorded) for stdin")
        if self.source == "simulated":
            prepare_typist()
        pipes: dict[Shape, Pipe] = {}  # kept from choice to choice: the next resumes in the row where the last stopped
        made: dict[str, Callable[[Shape], Source]] = {
            "replay": lambda _: Replay(self.file or "", speed=self.speed),
            "lsl": lambda shape: Lsl(shape.bands, self.streams),
            "brainflow": lambda shape: Board(self.board, shape.bands, dict(map(_pair, self.board_settings))),
            "stdin": lambda shape: pipes.setdefault(shape, Pipe(shape, sys.stdin.buffer, waits=self.speed == 0)),
            "simulated": lambda shape: Simulated(like(shape), seed=self.seed),
        }
        lsl = ["lsl"] if find_spec("pylsl") else []
        return {name: made[name] for name in dict.fromkeys((self.source, "simulated", *lsl))}


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise EmgscribeError(f"{setting!r} is not a setting", where="--board-settings", hint="write name=value")
    return name, value


@dataclass(frozen=True)
class DecodingOptions:
    """How text is read."""

    decoder: Literal["greedy", "beam"] = "greedy"  # decoder of the model's output
    lookahead: float = 0.08  # seconds that the model waits for, where it has several lookaheads
    window: float | None = None  # seconds of windows that slide over the signal, for a model that cannot stream
    lm: Path | None = None  # ARPA file for the beam search; by default the built-in language model


@dataclass(frozen=True)
class RecordingOptions:
    """What is recorded, and where it goes."""

    user: str = "me"  # who is recorded
    prompts: Path | None = None  # text file whose lines are to be typed; by default words like the data set's

    def recordings(self, out: Path) -> "Recordings":
        """How the page records into the folder `out`. Recordings there that were cut off become sessions now."""
        from emgscribe.live.hub import Recordings
        from emgscribe.live.recorder import finish
        from emgscribe.live.take import from_file, made_up_prompts

        if not self.user.isprintable() or not self.user or set(self.user) & set("/\\"):
            raise EmgscribeError(f"--user is {self.user!r}", hint="choose letters and digits")
        for path in finish(out):
            print(f"A recording that was cut off is kept: {path}", file=sys.stderr)
        return Recordings(out, self.user, from_file(self.prompts) if self.prompts else made_up_prompts)


def live(
    *,
    model: Annotated[
        tuple[Path, ...],
        arg(help="Model folders or .onnx files for the page to choose from; live: the one in emgscribe."),
    ] = (Path("live"),),
    print_text: Annotated[
        bool, arg(help="Print the text as it is committed; with --no-browser, exit when the source ends.")
    ] = False,
    type_keys: Annotated[bool, arg(help="Let the page switch on typing into other windows.")] = False,
    record_to: Annotated[Path, arg(help="Folder for recordings, and for adapted models.")] = Path("recordings"),
    origin: Annotated[SourceOptions, arg(name="")],
    reading: Annotated[DecodingOptions, arg(name="")],
    into: Annotated[RecordingOptions, arg(name="")],
    page: Annotated[PageOptions, arg(name="")],
) -> None:
    """Opens a page that shows electrodes, keys, the text as it is typed, and its latency.

    On the page you can also record yourself and adapt the model to you.

    Examples:
      emgscribe live
      emgscribe live --source replay --file data/SESSION.hdf5
      emgscribe live --source lsl --streams left right
      emgscribe live --model runs/anna/best live
      emgscribe live --model MODEL --source brainflow --board 2 --board-settings serial_port=/dev/ttyUSB0
    """
    makers = origin.makers()
    from emgscribe.live.hub import Choice, Live
    from emgscribe.live.keys import key_typer
    from emgscribe.live.models import adapted_name
    from emgscribe.models.model import model_folder

    if not model:
        raise EmgscribeError("--model names no model", hint="leave it out for the one in emgscribe")
    names = [path.resolve().name for path in model]
    models = {name if names.count(name) == 1 else str(path): path for name, path in zip(names, model, strict=True)}
    models = {name: model_folder(path) for name, path in models.items()}
    first = next(iter(models))
    models |= {adapted_name(folder): folder for folder in sorted(record_to.glob("models/*/best"))}
    live = Live(
        makers,
        models,
        Choice(origin.source, first, reading.decoder, lookahead=reading.lookahead, window=reading.window),
        lm=reading.lm,
        recordings=into.recordings(record_to),
        on_text=_print if print_text else None,
        on_keys=key_typer() if type_keys else None,
    )
    _serve(live, page, until_end=print_text and page.no_browser)


def record(
    *,
    out: Annotated[Path, arg(help="Folder to write the session to.")],
    bands: Annotated[tuple[Band, ...], arg(help="Bands that are worn.")] = ("left", "right"),
    electrodes: Annotated[int, arg(help="Electrodes of a band, where the source does not say.")] = 16,
    rate: Annotated[float, arg(help="Samples a second, where the source does not say.")] = 2000.0,
    finish_only: Annotated[bool, arg(help="Only turn recordings that were cut off into sessions.")] = False,
    origin: Annotated[SourceOptions, arg(name="")],
    into: Annotated[RecordingOptions, arg(name="")],
    page: Annotated[PageOptions, arg(name="")],
) -> None:
    """Opens a page that shows prompts to type, and checks the electrodes. Each recording becomes a session file.

    Samples and keys are written to disk as they come. A recording that a crash cuts off becomes a session next time.

    Examples:
      emgscribe record --out data --source lsl --streams left right
      emgscribe record --out data --source brainflow --board 2 --bands left --user anna
      emgscribe record --out data --finish-only
    """
    makers = {} if finish_only else origin.makers()
    recordings = into.recordings(out)
    if finish_only:
        print(f"{out} holds no other recordings that were cut off", file=sys.stderr)
    else:
        from emgscribe.live.hub import Choice, Live

        shape = Shape(bands, electrodes, rate)
        _serve(Live(makers, {}, Choice(origin.source), shape=shape, recordings=recordings), page)


def _serve(live: "Live", page: PageOptions, *, until_end: bool = False) -> None:
    serve = optional("emgscribe.live.server", "live").serve
    serve(live, host=page.host, port=page.port, names=page.known_as, browser=not page.no_browser, until_end=until_end)


def _print(text: str) -> None:
    try:
        sys.stdout.write(text.replace("⏎", "⏎\n"))
        sys.stdout.flush()
    except BrokenPipeError:  # end as on Ctrl-C
        signal.raise_signal(signal.SIGINT)
