"""What runs, and who watches it: one engine at a time, and the clients that get its messages."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from emgscribe.config import require
from emgscribe.decoding.beam import BeamDecoder
from emgscribe.decoding.greedy import Decoder
from emgscribe.decoding.registry import DECODERS, make_decoder
from emgscribe.errors import EmgscribeError
from emgscribe.live.engine import Came, Ended, Engine
from emgscribe.live.meter import Scored
from emgscribe.live.show import Message, Scope, message, ready, shown, stats
from emgscribe.live.sources import Source
from emgscribe.models.model import Model, best_device, load_model
from emgscribe.streaming import Update

_MOST_WAITING = 500  # messages that a client may leave waiting
_FEW = 100  # of them, from which on it gets no more of those that pass: columns of the scope, tentative text
_PASSING = message("partial")[:-1]
_STATS_SECONDS = 0.5
_KEPT = 2000  # keystrokes that a new client is shown
Inbox = asyncio.Queue[Message | None]
"""The messages to one client; None ends them."""


@dataclass(frozen=True)
class Choice:
    """What runs: names among those that were given at the start."""

    source: str
    model: str
    decoder: str = "greedy"
    lm_weight: float | None = None  # of the beam; None: the tuned one, or the default


class Live:
    """One engine at a time, and the clients that watch it.

    `sources` make a source for a model, `models` are folders, both by the names that clients see.
    """

    def __init__(
        self,
        sources: Mapping[str, Callable[[Model], Source]],
        models: Mapping[str, Path],
        choice: Choice,
        *,
        lm: Path | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.sources, self.models, self.choice, self.lm = sources, models, choice, lm
        self.engine: Engine | None = None
        self.clients: set[Inbox] = set()
        self._on_text, self._switching = on_text, Lock()
        self._text, self._closed = "", False
        self._ended: Message | None = None  # what clients were told when the source ended
        self._loaded: dict[str, Model] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self, choice: Choice) -> Choice:
        """The choice, if all of it was given at the start."""
        for name, known in (("source", self.sources), ("model", self.models), ("decoder", DECODERS)):
            value = getattr(choice, name)
            require(isinstance(value, str) and value in known, name, value, ", ".join(known))
        weight = choice.lm_weight
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        require(weight is None or (number and 0 <= weight <= 10), "lm_weight", weight, "0 to 10")
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
                self.send(*self.first())

    def _start(self, choice: Choice) -> None:
        if choice.model not in self._loaded:
            self._loaded = {choice.model: load_model(self.models[choice.model], best_device())}
        model, decoder = self._loaded[choice.model], self._decoder(choice)
        source = self.sources[choice.source](model)
        scope = Scope(source.shape)

        def publish(event: Came | Update | Scored | Ended) -> None:
            if isinstance(event, Update) and self._on_text and event.committed.labels:
                self._on_text(event.committed.text)
            if isinstance(event, Ended) and event.error and not self.clients:
                print(f"Error: {event.error}", file=sys.stderr)
            self.send(*shown(event, scope), about=event)

        try:
            engine = Engine(source, model, decoder, on_event=publish)
        except BaseException:
            source.close()
            raise
        self.choice, self._text, self._ended = choice, "", None
        engine.start()
        self.engine = engine

    def _decoder(self, choice: Choice) -> Decoder:
        decoder = make_decoder(choice.decoder, folder=self.models[choice.model], lm=self.lm).decoder
        if isinstance(decoder, BeamDecoder) and choice.lm_weight is not None:
            decoder = BeamDecoder(replace(decoder.config, lm_weight=float(choice.lm_weight)), decoder.lm)
        return decoder

    def end(self) -> None:
        """Stop what runs, for good."""
        with self._switching:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()

    def first(self) -> list[Message]:
        """The first messages to a client: what runs, what may be chosen, and the latest text."""
        if (engine := self.engine) is None:
            return [message("ready", source="nothing", choices=self._choices())]
        told = ready(engine, choices=self._choices(), text=self._text)
        return [told] if self._ended is None else [told, self._ended]

    def _choices(self) -> dict[str, Any]:
        now = self.choice
        return {
            "source": {"chosen": now.source, "known": list(self.sources)},
            "model": {"chosen": now.model, "known": list(self.models)},
            "decoder": {"chosen": now.decoder, "known": list(DECODERS)},
            "lm_weight": self._weight(),
        }

    def _weight(self) -> float | None:
        """The language model's weight in use, where it has one."""
        decoder = self.engine.stream.decoder if self.engine else None
        return decoder.config.lm_weight if isinstance(decoder, BeamDecoder) else self.choice.lm_weight

    def send(self, *messages: Message, about: Came | Update | Scored | Ended | None = None) -> None:
        """Send to all clients, from any thread, what an event is `about`."""
        if self._loop is not None and messages:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver, messages, about)

    def _deliver(self, messages: tuple[Message, ...], event: Came | Update | Scored | Ended | None = None) -> None:
        if isinstance(event, Update):  # here and not earlier: a client that comes in between is sent nothing twice
            self._text = (self._text + event.committed.text)[-_KEPT:]
        elif isinstance(event, Ended):
            (self._ended,) = messages
        for inbox in list(self.clients):
            behind = inbox.qsize()
            if behind > _MOST_WAITING:
                self.clients.discard(inbox)  # it is too slow; the others are not
                while not inbox.empty():
                    inbox.get_nowait()
                inbox.put_nowait(None)
                continue
            for one in messages:
                if behind < _FEW or not (isinstance(one, bytes) or one.startswith(_PASSING)):
                    inbox.put_nowait(one)

    async def run(self) -> None:
        """Send figures, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_STATS_SECONDS)
            if (engine := self.engine) is not None:
                self._deliver((stats(engine),))

    async def asked(self, text: str) -> Message | None:
        """Do what a client asks for; returns the answer to it alone."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return message("error", what="the message is not JSON", hint="docs/live.md lists the messages")
        if not isinstance(content, dict) or content.get("type") not in ("choose", "ping"):
            return message("error", what="unknown type of message", hint="docs/live.md lists the messages")
        if content["type"] == "ping":
            return message("pong", sent=str(content.get("sent", ""))[:40], now=time.monotonic())
        fields = {name: content[name] for name in ("source", "model", "decoder", "lm_weight") if name in content}
        try:
            await asyncio.to_thread(self.begin, self.check(replace(self.choice, **fields)))
        except EmgscribeError as error:
            return message("error", what=f"{error.where}: {error.what}".removeprefix(": "), hint=error.hint)
        except Exception as error:  # of a device's library
            return message("error", what=f"{type(error).__name__}: {error}", hint="nothing is running now")
        return None
