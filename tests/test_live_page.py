"""The page and its server: what it shows in a browser, and what it refuses."""

import io
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, redirect_stderr, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import until

from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.live.hub import Choice, Live
from emgscribe.live.show import message
from emgscribe.live.sources import Pipe, Replay

pytest.importorskip("starlette", reason="pip install 'emgscribe[live]'")
websockets = pytest.importorskip("websockets.sync.client", reason="pip install 'emgscribe[live]'")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from emgscribe.live.server import prepare, serve  # noqa: E402


@contextmanager
def serving(live_folder: Path, host: str = "127.0.0.1", speed: float = 0.1) -> Iterator[tuple[str, Live]]:
    """A server in this process, by its address."""
    makers: dict[str, Callable[[Shape], Any]] = {
        name: lambda _: Replay(live_folder / "s.hdf5", speed=speed) for name in ("replay", "again")
    }
    live = Live(makers, {"m": live_folder / "m"}, Choice("replay", "m"))
    address, server, listening = prepare(live, host, 0)
    live.begin(live.choice)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield address, live
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def served(live_folder: Path) -> Iterator[tuple[str, Live]]:
    with serving(live_folder) as made:
        yield made


def get(address: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=5) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def watch(address: str, **options: Any) -> Any:
    base, _, query = address.partition("/?")
    return websockets.connect(f"{base.replace('http', 'ws').rstrip('/')}/live?{query}", **options)


def receive(client: Any, kind: str, seconds: float = 10) -> dict[str, Any]:
    """The next message of a kind."""
    end = time.monotonic() + seconds
    while True:
        one = client.recv(timeout=end - time.monotonic())
        if isinstance(one, str) and (content := json.loads(one))["type"] == kind:
            return content


def test_the_page_is_served_with_what_it_needs_and_no_more(served: tuple[str, Live]) -> None:
    address, _ = served
    for name, part in (
        ("", "<canvas"),
        ("app.js", "keydown"),
        ("source.js", "WebSocket"),
        ("style.css", "prefers-color-scheme"),
    ):
        status, content, headers = get(address + name)
        assert (status, part in content) == (200, True)
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "http://" not in content.replace("http://www.w3.org/2000/svg", "")  # nothing from outside
        assert "https://" not in content
    for name in ("nothing", "../hub.py", "%2e%2e/hub.py", "app.js/../../server.py", "live"):
        assert get(address + name)[0] in (400, 403, 404, 405)


def test_a_client_receives_what_runs_and_what_is_decoded(served: tuple[str, Live]) -> None:
    address, live = served
    with watch(address) as client:
        ready = receive(client, "ready", 5)
        assert ready["choices"]["source"] == {"chosen": "replay", "known": ["replay", "again"]}
        assert (ready["simulated"], ready["electrodes"], ready["rate"]) == (True, 16, 2000)
        assert receive(client, "partial")["seconds"] >= 0
        assert receive(client, "stats")["late"] == 0
        client.send(json.dumps({"type": "ping", "sent": 17}))
        assert receive(client, "pong")["sent"] == "17"
        client.send(json.dumps({"type": "choose", "source": "again", "decoder": "beam", "lm_weight": 0.3}))
        assert receive(client, "ready", 60)["choices"]["lm_weight"] == 0.3
        assert live.choice == Choice("again", "m", "beam", 0.3)
        for wrong in ({"model": "/etc/passwd"}, {"source": ["x"]}, {"lm_weight": "1"}, {"decoder": None}):
            client.send(json.dumps({"type": "choose", **wrong}))
            assert "is" in receive(client, "error")["what"]
        assert live.choice == Choice("again", "m", "beam", 0.3)


def test_a_failed_choice_is_reported_to_all_clients(served: tuple[str, Live]) -> None:
    address, live = served
    live.sources = dict(live.sources) | {"again": lambda _: Replay(Path("nowhere.hdf5"))}
    with watch(address) as one, watch(address) as other:
        for client in (one, other):
            assert receive(client, "ready")["simulated"]
        one.send(json.dumps({"type": "choose", "source": "again"}))
        assert "nowhere.hdf5" in receive(one, "error")["what"]
        assert receive(other, "ready")["source"] == "nothing"
        other.send(json.dumps({"type": "choose", "source": "replay"}))
        assert receive(one, "ready")["choices"]["source"]["chosen"] == "replay"


def test_a_client_that_connects_late_receives_that_the_source_has_ended(live_folder: Path) -> None:
    with serving(live_folder, speed=0) as (address, _):
        with watch(address) as client:
            receive(client, "ended", 30)
        with watch(address) as client:
            assert receive(client, "ready")["text"]
            assert receive(client, "ended")


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_other_hosts_and_origins_are_refused(header: str, served: tuple[str, Live]) -> None:
    address, live = served
    port = address.rstrip("/").rpartition(":")[2]
    for value in ("evil.example", f"evil.example:{port}", f"http://evil.example:{port}", "null", f"127.0.0.1.:{port}"):
        status, content, _ = get(address, **{header: value})
        assert (status, "<canvas" in content) == (403, False), value
        if header == "Origin":
            with pytest.raises(InvalidStatus), watch(address, origin=value):
                pass
    assert get(address, Origin=f"http://localhost:{port}")[0] == 200
    assert get(address, Host=f"localhost:{port}")[0] == 200
    assert not live.clients


def test_beyond_this_machine_a_token_is_needed(live_folder: Path) -> None:
    with serving(live_folder, "0.0.0.0") as (address, _):
        port = address.partition("/?")[0].rpartition(":")[2]
        here, token = f"http://127.0.0.1:{port}/", address.partition("token=")[2]
        assert len(token) > 20
        assert get(here)[0] == 403
        assert get(f"{here}?token={token[:-1]}")[0] == 403
        with pytest.raises(InvalidStatus), watch(here):
            pass
        status, _, headers = get(f"{here}?token={token}")
        assert status == 200
        cookie = headers["set-cookie"].partition(";")[0]
        assert "HttpOnly" in headers["set-cookie"]
        assert get(f"{here}app.js", Cookie=cookie)[0] == 200
        with watch(f"{here}?token={token}") as client:
            assert receive(client, "ready")


HOSTILE: dict[str, Callable[[Any], None]] = {
    "100 MB": lambda client: client.send("x" * (100 << 20)),
    "5 kB": lambda client: client.send(json.dumps({"type": "ping", "sent": "x" * 5000})),
    "bytes": lambda client: client.send(b"\0" * 100),
    "flood": lambda client: [client.send('{"type": "ping"}') for _ in range(100)] and None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_client_is_disconnected_and_the_page_keeps_running(kind: str, served: tuple[str, Live]) -> None:
    address, live = served
    with watch(address) as page:
        with pytest.raises(ConnectionClosed), watch(address, max_size=None) as client:  # noqa: PT012
            receive(client, "ready")
            HOSTILE[kind](client)
            while True:
                client.recv(timeout=10)
        assert receive(page, "partial")
        until(lambda: len(live.clients) == 1, seconds=10)  # the server notices the end of a connection a moment later


def test_each_meaningless_message_gives_one_error(served: tuple[str, Live]) -> None:
    address, _ = served
    with watch(address) as client:
        asked = ("", "{", "[]", "3", '{"type": "run"}', '{"type": ["choose"]}', "[" * 4000, '{"type": "adapt"}')
        asked += (
            '{"type": "record", "on": true}',
            '{"type": "types", "on": true}',
            '{"type": "choose", "lookahead": null}',
        )
        for text in (*asked, '{"type": "choose", "lm_weight": NaN}'):
            client.send(text)
            assert receive(client, "error")["hint"]


def test_many_clients_and_half_open_sockets_do_not_stop_the_page(served: tuple[str, Live]) -> None:
    address, live = served
    port = int(address.rstrip("/").rpartition(":")[2])
    came: list[float] = []  # when the page received more text

    def read(page: Any) -> None:
        with suppress(ConnectionClosed):
            while receive(page, "partial"):
                came.append(time.monotonic())

    with watch(address) as page:
        reading = threading.Thread(target=read, args=(page,))
        reading.start()
        with ExitStack() as stack:
            half_open = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
            for one in half_open[:100]:
                one.send(b"GET /live HTTP/1.1\r\nHost: ")
            refused = 0
            for _ in range(200):
                try:
                    stack.enter_context(watch(address))
                except InvalidStatus:
                    refused += 1
            assert (len(live.clients), refused) == (32, 169)
            assert get(address)[0] == 200
        until(lambda: len(live.clients) == 1, seconds=10)
        seen = len(came)
        until(lambda: len(came) >= seen + 5, seconds=10)
        assert time.monotonic() - came[-1] < 1
        assert max(later - earlier for earlier, later in pairwise(came)) < 2
    reading.join()


def closed(one: socket.socket, within: float) -> bool:
    one.settimeout(within)
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_connections_that_ask_for_nothing_are_few_and_end(served: tuple[str, Live], monkeypatch: Any) -> None:
    address, _ = served
    here = ("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))
    monkeypatch.setattr("emgscribe.live.server._PATIENCE", 1.5)
    monkeypatch.setattr("emgscribe.live.server._MAX_CONNECTIONS", 20)
    with watch(address) as page, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(here)) for _ in range(19)]
        for one in idle[:10]:
            one.send(b"GET / HTTP/1.1\r\nHost: ")
        too_many = stack.enter_context(socket.create_connection(here))
        assert closed(too_many, 1.0)
        assert not closed(idle[0], 0.3)
        assert all(closed(one, 5.0) for one in idle)
        assert get(address)[0] == 200
        assert receive(page, "stats")  # which has been open for longer


def test_a_client_that_reads_nothing_is_disconnected(live_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgscribe.live.clients._MAX_WAITING", 30)
    with serving(live_folder) as (address, live), watch(address) as page:
        receive(page, "ready")
        port = int(address.rstrip("/").rpartition(":")[2])
        with closing(socket.socket()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            slow.connect(("127.0.0.1", port))
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            head = f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            slow.send(f"{head}{key}\r\n".encode())
            until = time.monotonic() + 20
            while len(live.clients) < 2 and time.monotonic() < until:
                receive(page, "partial")
            while len(live.clients) > 1 and time.monotonic() < until:
                live.clients.send(message("padding", text="x" * 100_000))  # soon more than the system's buffers take
                receive(page, "padding")
        assert len(live.clients) == 1
        assert receive(page, "partial")


def test_without_a_page_the_server_can_end_with_its_source(
    live_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = list[str]()
    (cut_off := tmp_path / "cut off").write_bytes(bytes(100 * 128 + 5))
    with cut_off.open("rb") as cut:
        pipe = Pipe(Shape(), cut, waits=True)
        for source in (Replay(live_folder / "s.hdf5", speed=0), pipe):
            made: dict[str, Callable[[Shape], Any]] = {"it": lambda _, source=source: source}
            live = Live(made, {"m": live_folder / "m"}, Choice("it", "m"), on_text=text.append)
            with pytest.raises(EmgscribeError, match="ends within a row") if source is pipe else nullcontext():
                serve(live, port=0, browser=False, until_end=True)
            assert f"shows {source.about} (Ctrl-C ends it)" in capsys.readouterr().err
    assert len("".join(text)) > 100


def test_a_page_stays_when_its_source_has_ended(live_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Callable[[Shape], Any]] = {"it": lambda _: Replay(live_folder / "s.hdf5", speed=0)}
    live = Live(made, {"m": live_folder / "m"}, Choice("it", "m"))
    printed = io.StringIO()

    def stop_when_printed() -> None:
        until(lambda: "The source has ended; Ctrl-C stops the server." in printed.getvalue(), seconds=60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop_when_printed)
    with redirect_stderr(printed):
        thread.start()
        serve(live, port=0, browser=False)
    thread.join()
    assert live.engine is None


def test_a_port_in_use_gives_one_error(served: tuple[str, Live], live_folder: Path) -> None:
    port = int(served[0].rstrip("/").rpartition(":")[2])
    with pytest.raises(EmgscribeError, match="cannot listen here"):
        prepare(served[1], "127.0.0.1", port)
