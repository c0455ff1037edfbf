"""The page in a headless Chromium over minutes of replay: memory of page and server, frames, how far the text lags.

    python scripts/page.py --minutes 20 [options of emgscribe live]

Prints how long the first text took, a line a minute, and the growth from the second minute to the last.
"""

import argparse
import time

import psutil
from chromium import page
from selenium import webdriver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    given, live = parser.parse_known_args()
    begun = time.monotonic()
    with page(live, "--enable-precise-memory-info") as (browser, server):
        while not browser.execute_script("return document.getElementById('committed').textContent"):
            time.sleep(0.1)
        print(f"first text after {time.monotonic() - begun:.1f} s", flush=True)
        watch(browser, psutil.Process(server.pid), given.minutes)


_COUNT = "window.drawn = 0; const tick = () => { drawn += 1; requestAnimationFrame(tick); }; tick();"


def watch(browser: webdriver.Chrome, server: psutil.Process, minutes: float) -> None:
    """Look once a minute."""
    browser.execute_script(_COUNT)
    begun, seen = time.monotonic(), list[tuple[float, float]]()
    while time.monotonic() < begun + 60 * minutes:
        time.sleep(min(60.0, 60 * minutes))
        passed = time.monotonic() - begun
        frames = browser.execute_script("return drawn") / passed
        heap = browser.execute_script("return performance.memory.usedJSHeapSize") / 1e6
        elements = browser.execute_script("return document.getElementsByTagName('*').length")
        figures = {
            name: browser.find_element("id", name).text for name in ("state", "cer", "shown", "waiting", "faults")
        }
        memory = server.memory_info()
        own = memory.rss - getattr(memory, "shared", 0)  # under Linux without the mapped session
        seen.append((heap, own / 1e6))
        shown = ", ".join(f"{name} {value}" for name, value in figures.items())
        page = f"page {heap:.0f} MB, {elements} elements, {frames:.0f} frames/s"
        print(f"{passed / 60:5.1f} min: {page}; server {seen[-1][1]:.0f} MB; {shown}", flush=True)
    first = seen[min(1, len(seen) - 1)]
    page, server_growth = (last - before for last, before in zip(seen[-1], first, strict=True))
    print(f"growth: page {page:+.1f} MB, server {server_growth:+.1f} MB")


if __name__ == "__main__":
    main()
