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
from emgscribe.models.model import Model, load_model
from emgscribe.streaming import Update

_MOST_WAITING = 500  # messages that a client may leave waiting
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
        self._text = ""  # the latest
        self._loaded: dict[str, Model] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self, choice: Choice) -> Choice:
        """The choice, if all of it was given at the start."""
        for name, known in (("source", self.sources), ("model", self.models), ("decoder", DECODERS)):
            require(getattr(choice, name) in known, name, getattr(choice, name), ", ".join(known))
        weight = choice.lm_weight
        fits = weight is None or (isinstance(weight, int | float) and 0 <= weight <= 10)
        require(fits, "lm_weight", weight, "0 to 10")
        return choice

    def begin(self, choice: Choice) -> None:
        """Stop what runs, and start what is chosen. Where that fails, nothing runs."""
        with self._switching:
            self.end()
            if choice.model not in self._loaded:
                self._loaded = {choice.model: load_model(self.models[choice.model])}
            model = self._loaded[choice.model]
            decoder = self._decoder(choice)
            source = self.sources[choice.source](model)
            scope = Scope(source.shape)

            def publish(event: Came | Update | Scored | Ended) -> None:
                if isinstance(event, Update) and (text := event.committed.text):
                    self._text = (self._text + text)[-_KEPT:]
                    if self._on_text:
                        self._on_text(text)
                if isinstance(event, Ended) and event.error and not self.clients:
                    print(f"Error: {event.error}", file=sys.stderr)
                self.send(*shown(event, scope))

            try:
                self.engine = Engine(source, model, decoder, on_event=publish)
            except EmgscribeError:
                source.close()
                raise
            self.choice, self._text = choice, ""
            self.send(self.ready())
            self.engine.start()

    def _decoder(self, choice: Choice) -> Decoder:
        decoder = make_decoder(choice.decoder, folder=self.models[choice.model], lm=self.lm).decoder
        if isinstance(decoder, BeamDecoder) and choice.lm_weight is not None:
            decoder = BeamDecoder(replace(decoder.config, lm_weight=float(choice.lm_weight)), decoder.lm)
        return decoder

    def end(self) -> None:
        """Stop what runs."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()

    def ready(self) -> str:
        """The message that says what runs, and what may be chosen."""
        if self.engine is None:
            return message("ready", source="nothing", choices=self._choices())
        return ready(self.engine, choices=self._choices(), text=self._text)

    def _choices(self) -> dict[str, Any]:
        now = self.choice
        return {
            "source": {"chosen": now.source, "known": list(self.sources)},
            "model": {"chosen": now.model, "known": list(self.models)},
            "decoder": {"chosen": now.decoder, "known": list(DECODERS)},
            "lm_weight": now.lm_weight,
        }

    def send(self, *messages: Message) -> None:
        """Send to all clients, from any thread."""
        if self._loop is not None and messages:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver, messages)

    def _deliver(self, messages: tuple[Message, ...]) -> None:
        for queue in list(self.clients):
            if queue.qsize() + len(messages) > _MOST_WAITING:
                self.clients.discard(queue)  # it is too slow; the others are not
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
                continue
            for one in messages:
                queue.put_nowait(one)

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
            if not isinstance(content, dict) or content.get("type") not in ("choose", "ping"):
                raise EmgscribeError("is no message of this protocol", hint="docs/live.md lists them")
            if content["type"] == "ping":
                return message("pong", sent=str(content.get("sent", ""))[:40], now=time.monotonic())
            fields = {name: content[name] for name in ("source", "model", "decoder", "lm_weight") if name in content}
            choice = self.check(replace(self.choice, **fields))
            await asyncio.to_thread(self.begin, choice)
        except EmgscribeError as error:
            return message("error", what=f"{error.where}: {error.what}".removeprefix(": "), hint=error.hint)
        except (ValueError, TypeError, RecursionError):
            return message("error", what="is no JSON", hint="docs/live.md lists the messages")
        return None
