"""Who watches: an inbox of messages for each client."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from emgscribe.live.show import Message, message

_MAX_WAITING = 500  # messages that a client may leave waiting
_FEW = 100  # of them, above which it gets no more of those that soon go stale: scope columns, tentative text
_PASSING = message("partial")[:-1]
Inbox = asyncio.Queue[Message | None]
"""The messages to one client; None ends them."""


class Clients:
    """Those who are sent messages. One that is too slow to take them is let go, and the others are not affected."""

    def __init__(self) -> None:
        self._inboxes = set[Inbox]()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._inboxes)

    def open(self) -> None:
        """Deliver from now on, in the loop that runs."""
        self._loop = asyncio.get_running_loop()

    def join(self, first: Iterable[Message]) -> Inbox:
        """A new client's inbox, with what it is sent first."""
        inbox: Inbox = asyncio.Queue()
        for one in first:
            inbox.put_nowait(one)
        self._inboxes.add(inbox)
        return inbox

    def leave(self, inbox: Inbox) -> None:
        self._inboxes.discard(inbox)

    def send(self, *messages: Message, before: Callable[[], object] = lambda: None) -> None:
        """Send messages to all clients, from any thread. The loop calls `before` first; no client joins in between."""
        if self._loop is not None and messages:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver, messages, before)

    def _deliver(self, messages: tuple[Message, ...], before: Callable[[], object]) -> None:
        before()
        for inbox in list(self._inboxes):
            behind = inbox.qsize()
            if behind > _MAX_WAITING:
                self.leave(inbox)
                while not inbox.empty():
                    inbox.get_nowait()
                inbox.put_nowait(None)
                continue
            for one in messages:
                if behind < _FEW or not (isinstance(one, bytes) or one.startswith(_PASSING)):
                    inbox.put_nowait(one)
