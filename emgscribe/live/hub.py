"""What runs and what is recorded: one engine at a time, what it gives to those who watch, and what they ask for."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from emgscribe.config import is_number, require
from emgscribe.data.shape import Shape
from emgscribe.decoding.beam import BeamDecoder
from emgscribe.decoding.decoder import Decoder
from emgscribe.decoding.registry import DECODERS, make_decoder
from emgscribe.errors import EmgscribeError
from emgscribe.live.adapting import Adapting
from emgscribe.live.clients import Clients
from emgscribe.live.contact import Contact
from emgscribe.live.engine import Ended, Engine, Received
from emgscribe.live.meter import Scored
from emgscribe.live.models import Models
from emgscribe.live.show import Message, Scope, electrodes, message, ready, shown, stats
from emgscribe.live.sources import Source
from emgscribe.live.take import LONGEST, Prompts, Take, made_up_prompts
from emgscribe.models.model import Model, ModelConfig
from emgscribe.streaming import Update

_STATS_SECONDS = 0.5
_KEPT = 2000  # keystrokes that a new client is shown
Event = Received | Update | Scored | Ended


@dataclass(frozen=True)
class Choice:
    """What runs: names among those that were given at the start."""

    source: str
    model: str = ""  # empty: no model
    decoder: str = "greedy"
    lm_weight: float | None = None  # of the beam; None: the tuned one, or the default
    lookahead: float = 0.08  # s, of a model that has several
    window: float | None = None  # s that slide over the signal, for a model that needs the whole recording


@dataclass(frozen=True)
class Recordings:
    """Where and of whom recordings are made."""

    out: Path
    user: str = "me"
    prompts: Prompts = made_up_prompts


class Live:
    """One engine at a time.

    `sources` make a source for a shape, `models` are folders or .onnx files, both under the names that clients see.
    `shape` is that of a source that no model reads. Without `recordings` nothing is recorded. `on_text` gets the text
    as it is committed, and so does `on_keys`, but only while a client has it switched on. `on_end` is called, with the
    error if there was one, when the source ends while there is no client to show it to; `on_notice` with what matters
    at the terminal too: what is recorded, and that samples are left out.
    """

    def __init__(
        self,
        sources: Mapping[str, Callable[[Shape], Source]],
        models: Mapping[str, Path],
        choice: Choice,
        *,
        lm: Path | None = None,
        shape: Shape | None = None,
        recordings: Recordings | None = None,
        on_text: Callable[[str], None] | None = None,
        on_keys: Callable[[str], None] | None = None,
    ) -> None:
        self.sources, self.models, self.choice, self.lm = sources, Models(models), choice, lm
        self.clients = Clients()
        self.recordings, self.recorded = recordings, list[Path]()
        self.on_end: Callable[[EmgscribeError | None], None] = lambda error: None
        self.on_notice: Callable[[str], None] = lambda line: None
        self.engine: Engine | None = None
        self._shape, self._on_text, self._on_keys, self._switching = shape or Shape(), on_text, on_keys, Lock()
        self._types = False
        self._take: Take | None = None
        self._adapting: Adapting | None = None
        self._text, self._closed = "", False
        self._ended: Message | None = None  # what clients were sent when the source ended
        self._before: Source | None = None

    def check(self, choice: Choice) -> Choice:
        """The choice, if all of it was given at the start."""
        known = (("source", self.sources), ("model", list(self.models) or [""]), ("decoder", DECODERS))
        for name, names in known:
            value = getattr(choice, name)
            require(isinstance(value, str) and value in names, name, value, ", ".join(names))
        numbers = {"lookahead": choice.lookahead, "lm_weight": 0 if choice.lm_weight is None else choice.lm_weight}
        for name, number in numbers.items():
            require(is_number(number) and 0 <= number <= 10, name, number, "0 to 10")
        return choice

    def begin(self, choice: Choice) -> None:
        """Stop what runs, and start what is chosen. Where that fails, nothing runs."""
        with self._switching:
            if self._closed:
                return
            self._stop()
            try:
                self._start(choice)
            finally:
                self.clients.send(*self.first())

    def _start(self, choice: Choice) -> None:
        model = self.models.load(choice.model, choice.lookahead) if choice.model else None
        decoder = self._decoder(choice) if model else None
        source = self.sources[choice.source](model.shape if model else self._shape)
        if self._before is not None:
            source.follow(self._before)
        publish = partial(self._publish, Scope(source.shape), Contact(source.shape))
        try:
            window = choice.window if isinstance(model, Model) and not model.streams else None
            engine = Engine(source, model, decoder, on_event=publish, window=window)
        except BaseException:
            source.close()
            raise
        self.choice, self._text, self._ended, self._before = choice, "", None, source
        engine.start()
        self.engine = engine

    def _publish(self, scope: Scope, contact: Contact, event: Event) -> None:
        """What the engine's threads do with an event."""
        if isinstance(event, Received):
            self._record(event)
            if len(event.emg) and contact.feed(event.emg):
                self.clients.send(electrodes(contact))
        elif isinstance(event, Update) and event.committed.labels:
            for take in filter(None, (self._on_text, self._on_keys if self._types else None)):
                take(event.committed.text)
        elif isinstance(event, Ended) and not self.clients:
            self.on_end(event.error)
        messages = list(shown(event, scope))
        self.clients.send(*messages, before=partial(self._remember, event, messages))

    def _decoder(self, choice: Choice) -> Decoder:
        decoder = make_decoder(choice.decoder, folder=self.models.folder(choice.model), lm=self.lm)
        if isinstance(decoder, BeamDecoder) and choice.lm_weight is not None:
            decoder = BeamDecoder(replace(decoder.config, lm_weight=float(choice.lm_weight)), decoder.lm)
        return decoder

    # Recording, and a model of what was recorded ---------------------------------------------------------------------

    def record(self, on: bool) -> None:
        """Begin to record what runs, or stop and make a session of it."""
        with self._switching:
            if on and self._take is None:
                if self.recordings is None or self.engine is None or self._ended is not None:
                    raise EmgscribeError("nothing is running that could be recorded", hint="choose a source")
                source, into = self.engine.source, self.recordings
                require(not source.recorded, "source", self.choice.source, "one that is not a recording already")
                source.stay()
                self._take = Take(source, into.out, user=into.user, prompts=into.prompts())
                if self._take.asks:
                    self.engine.follow(True)
                self.on_notice(f"Recording {into.user}: {self._take.recorder.folder}")
            elif not on:
                self._end_take()
            self.clients.send(self._recording())

    def _end_take(self) -> None:
        if (take := self._let_go()) is not None and (path := take.recorder.finish()):
            self.recorded.append(path)
            self.on_notice(f"Recorded: {path}")

    def _let_go(self) -> Take | None:
        take, self._take = self._take, None
        if take is not None and take.asks and self.engine is not None:
            self.engine.follow(False)
        return take

    def _record(self, came: Received) -> None:
        """Add to what is recorded, by the engine's thread."""
        if (take := self._take) is None:
            return
        try:
            take.add(came)
        except (EmgscribeError, ValueError) as error:  # also of a file that was closed a moment ago
            if self._take is take:
                self._let_go()
                take.recorder.close()
                what = f"the recording has stopped: {error}"
                self.on_notice(f"Error: {what}")
                self.clients.send(message("error", what=what, hint=getattr(error, "hint", "")))
                self.clients.send(self._recording())

    def _recording(self) -> Message:
        """What is recorded now, and has been."""
        take, into = self._take, self.recordings
        now = {}
        if take:
            now = {"prompt": take.prompt, "prompts": take.prompts, "asks": take.asks, "keys": take.recorder.keys}
        seconds = round(take.recorder.seconds, 1) if take else 0.0
        files = [path.name for path in self.recorded]
        adapting = (job := self._adapting) is not None and job.runs  # which its own thread ends
        return message(
            "recording", on=bool(take), seconds=seconds, files=files, possible=into is not None,
            adapting=adapting, adaptable=bool(files and self.models.folder(self.choice.model)), **now,
        )  # fmt: skip

    def type_keys(self, on: bool) -> None:
        """Switch the typing of committed text into the operating system on or off."""
        if self._on_keys is None:
            raise EmgscribeError("typing into other windows is off", hint="start with --type-keys")
        self._types = on
        self.clients.send(message("types", on=on))

    def press(self, keys: Any, error: Any) -> None:
        """Keys that a page saw go down and up."""
        if (take := self._take) is None:
            return
        before = take.prompts
        if (typed := take.press(keys, error)) and self.engine is not None:
            self.engine.pressed(typed)
        if take.prompts > before:
            self.clients.send(self._recording())

    def adapt(self) -> None:
        """Fine-tune the model that is chosen on what was recorded; then it is the one that reads."""
        with self._switching:
            if not (self.recordings and self.recorded and self.choice.model):
                raise EmgscribeError("there is nothing to adapt to", hint="record yourself first")
            if (folder := self.models.origin(self.choice.model)) is None:
                raise EmgscribeError("an exported model cannot be adapted", hint="choose the model it was made from")
            if (job := self._adapting) is not None and job.runs:
                raise EmgscribeError("a model is being adapted already", hint="wait until it is done")
            places = (self.recordings.out / "models" / f"{self.recorded[-1].stem}-{number}" for number in count(1))
            self._adapting = Adapting(
                folder,
                self.recorded,
                next(place for place in places if not place.exists()),
                on_line=lambda line: self.clients.send(message("adapting", line=line)),
                on_end=partial(self._adapted, folder),
            )
            self.clients.send(self._recording(), message("adapting", line="starting"))

    def _adapted(self, origin: Path, folder: Path | None, said: str) -> None:
        if folder is None:
            self.clients.send(message("error", what=f"the model was not adapted: {said}", hint=""))
        else:
            name = self.models.add(folder, origin)
            if self._take is not None:  # which a change of the model would cut off
                self.clients.send(*self.first())
            else:
                with suppress(EmgscribeError):  # which all clients are sent
                    self.begin(replace(self.choice, model=name))
        self._adapting = None
        self.clients.send(self._recording())

    def end(self) -> None:
        """Stop what runs, for good."""
        with self._switching:
            self._closed = True
            if (job := self._adapting) is not None:
                job.stop()
            self._stop()

    def _stop(self) -> None:
        try:
            self._end_take()
        finally:
            engine, self.engine = self.engine, None
            if engine is not None:
                engine.stop()

    def first(self) -> list[Message]:
        """The first messages to a client: what runs, what may be chosen, and the latest text."""
        if (engine := self.engine) is None:
            return [message("ready", source="nothing", choices=self._choices()), self._recording()]
        now = [ready(engine, choices=self._choices(), text=self._text), self._recording()]
        return now if self._ended is None else [*now, self._ended]

    def _choices(self) -> dict[str, Any]:
        now, model = self.choice, self.engine.stream.model if self.engine and self.engine.stream else None
        known, read = dict[float, ModelConfig](), None
        if isinstance(model, Model):
            known = model.lookaheads
            read = next((seconds for seconds, config in known.items() if config == model.config), None)
        return {
            "source": {"chosen": now.source, "known": list(self.sources)},
            "model": {"chosen": now.model, "known": list(self.models)},
            "decoder": {"chosen": now.decoder, "known": list(DECODERS)},
            "lookahead": {"chosen": read, "known": list(known)},
            "lm_weight": self._weight(),
            "types": self._types if self._on_keys else None,
        }

    def _weight(self) -> float | None:
        """The language model's weight in use, where it has one."""
        decoder = self.engine.stream.decoder if self.engine and self.engine.stream else None
        return decoder.config.lm_weight if isinstance(decoder, BeamDecoder) else self.choice.lm_weight

    def _remember(self, event: Event, messages: list[Message]) -> None:
        """Keep what a client that comes later is sent first."""
        if isinstance(event, Update):
            self._text = (self._text + event.committed.text)[-_KEPT:]
        elif isinstance(event, Ended):
            (self._ended,) = messages

    async def run(self) -> None:
        """Send figures, until cancelled."""
        self.clients.open()
        late = 0
        while True:
            await asyncio.sleep(_STATS_SECONDS)
            if (engine := self.engine) is not None:
                self.clients.send(stats(engine))
                if engine.late and not late:
                    self.on_notice("Warning: samples are left out, since reading them takes longer than they last")
                late = engine.late
            if (take := self._take) is not None:
                self.clients.send(self._recording())
                if take.recorder.seconds > LONGEST or self._ended is not None:
                    try:
                        await asyncio.to_thread(self.record, False)
                    except EmgscribeError as error:
                        self.clients.send(message("error", what=error.what, hint=error.hint))

    async def handle(self, text: str) -> Message | None:
        """Do what a client asks for; returns the answer to it alone."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return message("error", what="the message is not JSON", hint="docs/live.md lists the messages")
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "ping":
            return message("pong", sent=str(content.get("sent", ""))[:40], now=time.monotonic())
        work: dict[Any, Callable[[], None]] = {
            "choose": lambda: self._choose(content),
            "record": lambda: self.record(content.get("on") is True),
            "keys": lambda: self.press(content.get("keys"), content.get("error")),
            "adapt": self.adapt,
            "types": lambda: self.type_keys(content.get("on") is True),
        }
        if not isinstance(kind, str) or kind not in work:
            return message("error", what="unknown type of message", hint="docs/live.md lists the messages")
        try:
            await asyncio.to_thread(work[kind])
        except EmgscribeError as error:
            return message("error", what=f"{error.where}: {error.what}".removeprefix(": "), hint=error.hint)
        except Exception as error:  # of a device's library
            return message("error", what=f"{type(error).__name__}: {error}", hint="nothing is running now")
        return None

    def _choose(self, content: Mapping[str, Any]) -> None:
        names = ("source", "model", "decoder", "lm_weight", "lookahead")
        fields = {name: content[name] for name in names if name in content}
        self.begin(self.check(replace(self.choice, **fields)))
