"""The page of `emgscribe live` in a headless Chromium. Needs chromium, chromedriver and selenium."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from selenium import webdriver


@contextmanager
def page(live: Sequence[str], *chromium: str) -> Iterator[tuple[webdriver.Chrome, subprocess.Popen[bytes]]]:
    """The page, and the process that serves it, with options of `emgscribe live` and of Chromium."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = found.getsockname()
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *chromium):
        options.add_argument(option)
    command = [sys.executable, "-m", "emgscribe", "live", "--no-browser", "--port", str(address[1]), *live]
    with subprocess.Popen(command) as server:
        try:
            browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
            try:
                while not _listens(address):
                    time.sleep(0.2)
                browser.get(f"http://127.0.0.1:{address[1]}/")
                yield browser, server
            finally:
                browser.quit()
        finally:
            server.terminate()


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) == 0
