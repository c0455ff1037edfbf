"""The web page, and the messages to and from it.

Anyone who opens the page can see what is typed and choose among what was given at the start, nothing else: no path and
no command comes from a client. Pages of other origins are refused, and so are names that were made to point here (DNS
rebinding); beyond this machine, a token is needed.
"""

import asyncio
import hmac
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.resources import files

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from emgscribe.config import require
from emgscribe.errors import EmgscribeError
from emgscribe.live.clients import Inbox
from emgscribe.live.hub import Live

_PAGE = {"": "index.html", "app.js": "app.js", "source.js": "source.js", "style.css": "style.css"}
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_MAX_CLIENTS, _MAX_CONNECTIONS = 32, 256  # that watch; in all, with those that load the page or ask for nothing
_LONGEST, _MAX_PER_SECOND = 4096, 20  # bytes of a client's message; messages of a client
_REFUSED = 1008  # the code with which a socket is closed
_PATIENCE = 10.0  # s in which a client must take a message, or ask for what it wants


class Site:
    """The ASGI application. `hosts` are the values of Host that are answered; `token` is needed, if there is one."""

    def __init__(self, live: Live, hosts: frozenset[str], token: str = "") -> None:
        self.live, self.hosts, self.token, self._connected = live, hosts, token, 0
        routes = [Route(f"/{name}", self._shows(file)) for name, file in _PAGE.items()]
        self.app = Starlette(routes=[*routes, WebSocketRoute("/live", self._watch)], lifespan=self._lifespan)

    def refused(self, connection: HTTPConnection) -> str:
        """Why a request or a socket is refused; empty where it is not."""
        if connection.headers.get("host", "").lower() not in self.hosts:
            return "this host name is not served"
        origin = connection.headers.get("origin")
        if origin is not None and origin.lower().removeprefix("https://").removeprefix("http://") not in self.hosts:
            return "pages of other origins are not served"
        given = connection.query_params.get("token") or connection.cookies.get("emgscribe") or ""
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong: open the address that the command printed"
        return ""

    def _shows(self, file: str) -> Callable[[Request], Awaitable[Response]]:
        content = (files("emgscribe.live") / "page" / file).read_bytes()
        kind = _KINDS[file[file.index(".") :]]

        async def show(request: Request) -> Response:
            if why := self.refused(request):
                return PlainTextResponse(why, 403, headers=_HEADERS)
            response = Response(content, headers=_HEADERS, media_type=kind)
            if self.token:
                response.set_cookie("emgscribe", self.token, httponly=True, samesite="strict")
            return response

        return show

    async def _watch(self, connection: WebSocket) -> None:
        if self.refused(connection) or self._connected >= _MAX_CLIENTS:
            await connection.close(_REFUSED)
            return
        self._connected += 1
        try:
            await connection.accept()
            await self._serve(connection)
        finally:
            self._connected -= 1

    async def _serve(self, connection: WebSocket) -> None:
        inbox = self.live.clients.join(self.live.first())
        tasks = [asyncio.create_task(self._send(connection, inbox)), asyncio.create_task(self._hear(connection, inbox))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.live.clients.leave(inbox)
            for task in tasks:
                task.cancel()
            with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                await asyncio.wait_for(connection.close(_REFUSED), _PATIENCE)

    async def _send(self, connection: WebSocket, inbox: Inbox) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            while (one := await inbox.get()) is not None:
                sending = connection.send_text(one) if isinstance(one, str) else connection.send_bytes(one)
                await asyncio.wait_for(sending, _PATIENCE)

    async def _hear(self, connection: WebSocket, inbox: Inbox) -> None:
        """Answer a client until it is gone, sends something other than text, or sends too often."""
        begun, came = time.monotonic(), 0
        with suppress(WebSocketDisconnect, KeyError):
            while True:
                text = await connection.receive_text()
                if time.monotonic() > begun + 1:
                    begun, came = time.monotonic(), 0
                came += 1
                if came > _MAX_PER_SECOND:
                    return
                if answer := await self.live.handle(text):
                    inbox.put_nowait(answer)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self.live.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.to_thread(self.live.end)


class _Request(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # uvicorn chooses the class at run time
    """A connection until it is a WebSocket. It is refused where there are too many, and ends after a while."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._timer = self.loop.call_later(_PATIENCE, self._end)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(error)

    def _end(self) -> None:
        if self.transport.get_protocol() is self:
            self.transport.close()


def serve(
    live: Live,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Sequence[str] = (),
    browser: bool = True,
    until_end: bool = False,
) -> None:
    """Begin with the choice of `live`, and serve the page until Ctrl-C.

    With `until_end` it also stops when the source ends while no page is open, and raises the error that ended it.

    Beyond this machine the address that is printed has a token. `names` are further hosts, with their port, under which
    the page is opened, as behind a proxy. Port 0 is any free one; one that is in use raises `EmgscribeError`.
    """
    address, server, listening = prepare(live, host, port, names)
    errors = list[EmgscribeError]()

    def end(error: EmgscribeError | None) -> None:
        if until_end:
            errors.extend([error] if error else ())
            server.should_exit = True
        else:
            print(f"Error: {error}" if error else "The source has ended; Ctrl-C stops the server.", file=sys.stderr)

    live.on_end, live.on_notice = end, partial(print, file=sys.stderr, flush=True)
    with listening:
        live.begin(live.check(live.choice))
        about = live.engine.source.about if live.engine else "nothing"
        print(f"{address}  shows {about} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if browser:  # the socket listens already: the page waits for the server
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    if errors:
        raise errors[0]


def prepare(live: Live, host: str, port: int, names: Sequence[str] = ()) -> tuple[str, uvicorn.Server, socket.socket]:
    """The page's address, the server, and the socket that it will answer."""
    require(0 <= port <= 65535, "port", port, "0 to 65535")
    listening, alone = _listening(host, port), host in _THIS_MACHINE
    port, token = listening.getsockname()[1], "" if alone else secrets.token_urlsafe(16)
    own = [] if alone else _names(host)
    answered = {f"{_in_url(name)}:{port}" for name in (host, *_THIS_MACHINE, *own)} | set(names)
    if port == 80:  # which browsers leave out
        answered |= {name.removesuffix(":80") for name in answered}
    site = Site(live, frozenset(name.lower() for name in answered), token)
    shown = next(iter(own), host)
    address = f"http://{_in_url(shown)}:{port}/{f'?token={token}' * bool(token)}"
    settings = uvicorn.Config(
        site.app,
        log_level="error",
        ws="websockets-sansio",
        http=_Request,
        ws_max_size=_LONGEST,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return address, uvicorn.Server(settings), listening


def _listening(host: str, port: int) -> socket.socket:
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        made = socket.create_server(address[:2], family=family, backlog=128, dualstack_ipv6=host == "::")
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        hint = "choose another --port (0: any free one), or a --host of this machine"
        raise EmgscribeError(f"cannot listen here ({why})", where=f"{host}:{port}", hint=hint) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # the system ends connections that take nothing
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * _PATIENCE))
    return made


def _names(host: str) -> list[str]:
    """The names and addresses of this machine under which a server at `host` is reached."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    found = [one for own in psutil.net_if_addrs().values() for one in own]
    addresses = [one.address for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]
    own = [address for address in addresses if not address.startswith(("127.", "::1")) and "%" not in address]
    return [socket.gethostname(), *own]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
