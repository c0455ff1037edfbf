"""The page in a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import conftest
import numpy as np
import pytest

from emgscribe.data.charset import labels_of_text, screen_text
from emgscribe.data.hdf5 import read_header
from emgscribe.data.inspect import inspect
from emgscribe.data.session import open_session

DRIVER = shutil.which("chromedriver")
if DRIVER is None:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1000"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


until = partial(conftest.until, seconds=30)

HOLD = """
const held = new KeyboardEvent("keydown", { key: arguments[0], code: "Held" });
document.getElementById("typing").dispatchEvent(held);
"""
CATCH_SOCKETS = """
const sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    sockets.push(this);
  }
};
"""


class Server:
    """`emgscribe live` in a process of its own."""

    def __init__(self, live_folder: Path, *options: str, verb: tuple[str, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.printed, self.options = live_folder / f"printed-{self.port}", options
        self.folder = live_folder
        self.verb = verb or ("live", "--model", str(live_folder / "m"), "--print-text")

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "emgscribe",
            *self.verb,
            "--no-browser",
            "--port",
            str(self.port),
            *self.options,
        ]
        with self.printed.open("w") as out, (self.folder / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=errors, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        until(self.listens, self.process, seconds=60)

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(live_folder: Path) -> Iterator[Server]:
    made = Server(live_folder, "--source", "replay", "--file", str(live_folder / "s.hdf5"), "--seed", "1")
    made.start()
    yield made
    made.kill()


def text(browser: Any, name: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).textContent", name))


def picture(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('scope').toDataURL()"))


def test_the_page_shows_the_decoded_text(browser: Any, server: Server) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    until(lambda: len(text(browser, "committed")) > 30)
    assert text(browser, "simulated") == "simulated"
    before = picture(browser)
    until(lambda: picture(browser) != before)
    until(lambda: "%" in text(browser, "cer") and "/" in text(browser, "computing"))
    until(lambda: text(browser, "scored"))
    lit = "return [...document.querySelectorAll('.key')].some((key) => key.style.getPropertyValue('--p') > 0.02)"
    until(lambda: browser.execute_script(lit))

    def same() -> bool:  # as what the server printed, up to what came between the two looks
        keys = server.printed.read_text().replace("⏎\n", "⏎")
        lines = screen_text(labels_of_text(keys)).replace("⏎", "\n").split("\n")
        return text(browser, "committed") in "\n".join(lines[-3:]) and len(text(browser, "committed")) > 30

    until(same)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_source_and_decoder_can_be_changed_while_it_runs(browser: Any, server: Server) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    assert "recorded" not in text(browser, "about")
    Select(browser.find_element("id", "source")).select_by_value("simulated")
    until(lambda: "a simulated typist" in text(browser, "about"), seconds=60)
    until(lambda: text(browser, "committed"), seconds=60)
    if find_spec("pylsl"):
        Select(browser.find_element("id", "source")).select_by_value("lsl")  # there is no stream
        until(lambda: "nothing is running" in text(browser, "state") or "0 streams" in text(browser, "state"))
        Select(browser.find_element("id", "source")).select_by_value("simulated")  # as before
        until(lambda: text(browser, "state") == "running", seconds=60)
    assert not browser.find_element("id", "weight").is_displayed()
    Select(browser.find_element("id", "decoder")).select_by_value("beam")
    until(lambda: browser.find_element("id", "weight").is_displayed(), seconds=90)


def test_another_model_can_be_chosen(browser: Any, live_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "recordings"
    shutil.copytree(live_folder / "m", out / "models" / "anna-1" / "best")
    source = ("--source", "replay", "--file", str(live_folder / "s.hdf5"), "--record-to", str(out))
    server = Server(live_folder, *source, verb=("live", "--model", str(live_folder / "m"), "live"))
    server.start()
    try:
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(lambda: text(browser, "state") == "running")
        models = Select(browser.find_element("id", "model"))
        assert [option.text for option in models.options] == ["m", "live", "adapted anna-1"]  # made on another day
        before = text(browser, "about")
        models.select_by_value("live")
        until(lambda: text(browser, "state") == "running" and text(browser, "about") != before, seconds=60)
        assert browser.find_element("id", "ahead").is_displayed()  # which only this one has
        Select(browser.find_element("id", "lookahead")).select_by_visible_text("240 ms")
        until(lambda: "reads 2" in text(browser, "about"), seconds=60)
    finally:
        server.kill()


def test_the_page_reconnects_to_a_server_that_was_killed_and_restarted(browser: Any, server: Server) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    server.kill()
    until(lambda: "trying again" in text(browser, "state"))
    server.start()
    until(lambda: text(browser, "state") == "running")
    until(lambda: text(browser, "committed"))


@pytest.mark.parametrize("width", [360, 820, 1360])
def test_the_page_fits_its_window(width: int, browser: Any, server: Server) -> None:
    browser.set_window_size(width, 900)
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) == 0
    assert not browser.find_element("id", "model").is_displayed()  # there is only one
    for name in ("source", "decoder", "record"):  # labelled, and reached with the keyboard
        element = browser.find_element("id", name)
        browser.execute_script("arguments[0].focus()", element)
        assert browser.switch_to.active_element == element
        assert element.accessible_name


CONTRAST = """
const lightness = (colour) => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255);
  const [red, green, blue] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const paper = lightness(getComputedStyle(document.body).backgroundColor);
const ratios = [...document.querySelectorAll("h1, h2, dt, dd, label, button, #about, #text, #contact")].map((one) => {
  const ink = lightness(getComputedStyle(one).color);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
});
return [paper, Math.min(...ratios)];
"""


def test_the_page_is_legible_in_light_and_dark(browser: Any, server: Server) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    papers = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        paper, contrast = browser.execute_script(CONTRAST)
        papers.append(paper)
        assert contrast >= 4.5, scheme  # WCAG 2, level AA
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert papers[0] > 0.8
    assert papers[1] < 0.1


def test_a_screen_reader_hears_each_word(browser: Any, live_folder: Path) -> None:
    server = Server(live_folder, "--source", "replay", "--file", str(live_folder / "s.hdf5"), verb=("live",))
    server.start()
    try:
        browser.get(f"http://127.0.0.1:{server.port}/")
        assert browser.find_element("id", "spoken").get_attribute("aria-live") == "polite"
        until(lambda: text(browser, "spoken"))
        heard = text(browser, "spoken")
        assert not set(heard) & set(" \n⌫⏎⇧")
        until(lambda: text(browser, "spoken") != heard)
    finally:
        server.kill()


def test_what_is_typed_in_the_page_is_recorded(browser: Any, live_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    (tmp_path / "prompts.txt").write_text("Ab c\nde\n")
    options = ("--source", "brainflow", "--bands", "left", "--user", "anna", "--prompts", str(tmp_path / "prompts.txt"))
    server = Server(live_folder, *options, verb=("record", "--out", str(tmp_path / "out")))
    server.start()
    try:
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(lambda: text(browser, "state") == "running")
        assert not browser.find_element("id", "text").is_displayed()  # without a model nothing is read
        browser.find_element("id", "record").click()
        until(lambda: text(browser, "prompt") == "Ab c")
        typing = browser.find_element("id", "typing")
        until(lambda: browser.switch_to.active_element == typing)
        typing.send_keys("Ax")
        assert browser.execute_script("return document.querySelectorAll('#typing mark').length") == 1
        typing.send_keys(Keys.BACKSPACE, "b c", Keys.TAB)
        typing.send_keys(Keys.ENTER)
        until(lambda: text(browser, "prompt") == "de")
        until(lambda: "keys: 8" in text(browser, "recorded"))
        assert text(browser, "contact")
        typing.send_keys("d")
        browser.execute_script(HOLD, "e")
        browser.find_element("id", "record").click()  # where the focus goes, and the key is released
        until(lambda: "saved: " in text(browser, "recorded"))
    finally:
        server.kill()
    (path,) = (tmp_path / "out").glob("*.hdf5")
    header = read_header(path)
    assert (header.text, header.user) == ("⇧Ax⌫b c⏎de", "anna")
    assert [prompt.text for prompt in header.prompts] == ["Ab c"]
    assert 0 < header.clock_error < 1
    assert [found.severity for found in inspect(path)[0].findings if found.severity == "error"] == []


def test_keys_are_kept_while_the_connection_is_lost(browser: Any, live_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    server = Server(live_folder, "--source", "brainflow", verb=("record", "--out", str(tmp_path / "out")))
    server.start()
    try:
        browser.get("about:blank")
        catch = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CATCH_SOCKETS})
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(lambda: text(browser, "state") == "running")
        browser.find_element("id", "record").click()
        until(lambda: text(browser, "prompt"))
        typing = browser.find_element("id", "typing")
        typing.send_keys("ab")
        browser.execute_script("sockets.at(-1).close()")
        until(lambda: "trying again" in text(browser, "state"))
        typing.send_keys("cd")
        until(lambda: text(browser, "state") == "running")
        typing.send_keys("ef")
        until(lambda: "keys: 6" in text(browser, "recorded"))
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", catch)
        browser.find_element("id", "record").click()
        until(lambda: "saved: " in text(browser, "recorded"))
    finally:
        server.kill()
    (path,) = (tmp_path / "out").glob("*.hdf5")
    header = read_header(path)
    assert header.text == "abcdef"
    assert header.clock_error < 1


def test_a_recording_that_was_killed_can_be_finished(browser: Any, live_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    out = tmp_path / "out"
    server = Server(live_folder, "--source", "brainflow", verb=("record", "--out", str(out)))
    server.start()
    browser.get(f"http://127.0.0.1:{server.port}/")
    until(lambda: text(browser, "state") == "running")
    browser.find_element("id", "record").click()
    until(lambda: text(browser, "prompt"))
    browser.find_element("id", "typing").send_keys("abc")
    until(lambda: "keys: 3" in text(browser, "recorded"))
    server.kill()
    command = [sys.executable, "-m", "emgscribe", "record", "--out", str(out), "--finish-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (path,) = out.iterdir()
    assert str(path) in done.stderr
    assert read_header(path).text == "abc"


def test_an_exported_site_decodes_in_the_browser_alone(browser: Any, live_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'emgscribe[export]'")
    from emgscribe.decoding.greedy import GreedyDecoder
    from emgscribe.live.web import write_site
    from emgscribe.models.model import load_model
    from emgscribe.models.onnx import OnnxModel

    session = open_session(live_folder / "s.hdf5")
    write_site(load_model(live_folder / "m"), tmp_path / "site", session)
    about = json.loads((tmp_path / "site" / "about.json").read_text(encoding="utf-8"))
    emg = np.fromfile(tmp_path / "site" / "emg.bin", "<i2").reshape(session.emg.shape) * np.float32(about["unit"])
    np.testing.assert_allclose(emg, session.emg, atol=about["unit"])
    expected = GreedyDecoder().decode(OnnxModel(tmp_path / "site" / "model.onnx").log_probs(emg))
    whole = screen_text(expected.labels).replace("⏎", "\n")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site"))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser.get("about:blank")  # another test's page looks for a server that is gone
        browser.get_log("browser")
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        until(lambda: text(browser, "state") == "running")
        until(lambda: len(text(browser, "committed")) > 30)
        assert text(browser, "committed") in whole
        before = picture(browser)
        until(lambda: picture(browser) != before)
        until(lambda: "%" in text(browser, "cer") and "/" in text(browser, "computing"))
        assert text(browser, "simulated") == "simulated"
        shown = browser.find_element("tag name", "body").text
        assert "undefined" not in shown
        assert "NaN" not in shown
        assert not browser.find_element("id", "recording").is_displayed()
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        server.shutdown()


def test_ctrl_c_ends_the_server_without_a_traceback(live_folder: Path) -> None:
    server = Server(live_folder, "--source", "replay", "--file", str(live_folder / "s.hdf5"))
    server.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=30) as answer:
        assert answer.status == 200
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(15) == 0
    assert "Traceback" not in (live_folder / "errors").read_text()
