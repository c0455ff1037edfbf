"""The web page, and the messages to and from it.

Whoever can open the page can see what is typed and choose among what was given at the start, nothing else: no path and
no command comes from a client. Pages of other origins are refused, and names that were made to point here (DNS
rebinding); beyond this machine, a token is needed.
"""

import asyncio
import hmac
import secrets
import socket
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from emgscribe.config import require
from emgscribe.errors import EmgscribeError
from emgscribe.live.hub import Inbox, Live

_PAGE = {"": "index.html", "app.js": "app.js", "style.css": "style.css"}
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
_MOST_CLIENTS = 32
_LONGEST, _MOST_A_SECOND = 4096, 20  # bytes of a client's message; messages of a client
_REFUSED = 1008  # the code with which a socket is closed


class Site:
    """The ASGI application. `hosts` are the values of Host that are answered; `token` is needed, if there is one."""

    def __init__(self, live: Live, hosts: frozenset[str], token: str = "") -> None:
        self.live, self.hosts, self.token = live, hosts, token
        routes = [Route(f"/{name}", self._shows(file)) for name, file in _PAGE.items()]
        self.app = Starlette(routes=[*routes, WebSocketRoute("/live", self._watch)], lifespan=self._lifespan)

    def refused(self, connection: HTTPConnection) -> str:
        """Why a request or a socket is refused; empty where it is not."""
        if connection.headers.get("host", "") not in self.hosts:
            return "this host name is not served"
        origin = connection.headers.get("origin")
        if origin is not None and origin.removeprefix("https://").removeprefix("http://") not in self.hosts:
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
        if self.refused(connection) or len(self.live.clients) >= _MOST_CLIENTS:
            await connection.close(_REFUSED)
            return
        await connection.accept()
        inbox: Inbox = asyncio.Queue()
        inbox.put_nowait(self.live.ready())
        self.live.clients.add(inbox)
        tasks = [asyncio.create_task(self._send(connection, inbox)), asyncio.create_task(self._hear(connection, inbox))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.live.clients.discard(inbox)
            for task in tasks:
                task.cancel()
            with suppress(RuntimeError, WebSocketDisconnect):
                await connection.close(_REFUSED)

    async def _send(self, connection: WebSocket, inbox: Inbox) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            while (one := await inbox.get()) is not None:
                await (connection.send_text(one) if isinstance(one, str) else connection.send_bytes(one))

    async def _hear(self, connection: WebSocket, inbox: Inbox) -> None:
        """Answer a client until it is gone, sends something else than text, or too much."""
        begun, came = time.monotonic(), 0
        with suppress(WebSocketDisconnect, KeyError):
            while True:
                text = await connection.receive_text()
                if time.monotonic() > begun + 1:
                    begun, came = time.monotonic(), 0
                came += 1
                if len(text) > _LONGEST or came > _MOST_A_SECOND:
                    return
                if answer := await self.live.asked(text):
                    inbox.put_nowait(answer)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self.live.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.to_thread(self.live.end)


def serve(live: Live, *, host: str = "127.0.0.1", port: int = 8765, browser: bool = True) -> None:
    """Begin with the choice of `live`, and serve the page until Ctrl-C.

    Beyond this machine the address that is printed has a token. A port that is in use is an `EmgscribeError`; with
    port 0 any free one is taken.
    """
    address, server, listening = prepare(live, host, port)
    live.begin(live.check(live.choice))
    print(f"{address}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if browser:
        webbrowser.open(address)  # the socket listens already: the page waits for the server
    with suppress(KeyboardInterrupt), listening:
        server.run(sockets=[listening])


def prepare(live: Live, host: str, port: int) -> tuple[str, uvicorn.Server, socket.socket]:
    """The page's address, the server, and the socket that it will answer."""
    require(0 <= port <= 65535, "port", port, "0 to 65535")
    listening, alone = _listening(host, port), host in _THIS_MACHINE
    port, token = listening.getsockname()[1], "" if alone else secrets.token_urlsafe(16)
    names = [host, *_THIS_MACHINE, *([] if alone else _names(host))]
    site = Site(live, frozenset(f"{_in_url(name)}:{port}" for name in names), token)
    shown = next((name for name in names[len(_THIS_MACHINE) + 1 :]), host)
    address = f"http://{_in_url(shown)}:{port}/{f'?token={token}' * bool(token)}"
    settings = uvicorn.Config(
        site.app,
        log_level="error",
        ws="websockets-sansio",
        ws_max_size=4 * _LONGEST,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return address, uvicorn.Server(settings), listening


def _listening(host: str, port: int) -> socket.socket:
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        hint = "choose another --port, or --port 0 for any free one"
        raise EmgscribeError(f"cannot be listened at ({error.strerror})", where=f"{host}:{port}", hint=hint) from error


def _names(host: str) -> list[str]:
    """The names and addresses of this machine under which a server at `host` is reached."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    addresses = [one.address for own in psutil.net_if_addrs().values() for one in own if one.family == socket.AF_INET]
    return [socket.gethostname(), *(address for address in addresses if not address.startswith("127."))]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
