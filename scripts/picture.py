"""The moving picture at the head of the README, from the real page: `emgscribe live` in a headless Chromium.

    python scripts/picture.py docs/live.gif --seed 3        needs chromium, chromedriver and selenium

Options that are not its own go to `emgscribe live`, such as --model runs/demo-0/best.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver

WIDE, TALL, SHOWN = 1280, 1120, 880  # px of the window, and of the picture's width
FRAMES, EVERY = 48, 0.25  # pictures, s from one to the next
COLOURS = 128


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def pictures(address: str, warm_up: float) -> list[Image.Image]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={WIDE},{TALL}"):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(address)
        time.sleep(warm_up)
        found, begun = [], time.monotonic()
        for number in range(FRAMES):
            time.sleep(max(0.0, begun + EVERY * number - time.monotonic()))
            found.append(Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
        print(f"{FRAMES} pictures in {time.monotonic() - begun:.1f} s, {FRAMES * EVERY:.1f} s shown")
        return found
    finally:
        browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="who types")
    parser.add_argument("--warm-up", type=float, default=30.0, help="s before the first picture")
    (given, options), port = parser.parse_known_args(), free_port()
    command = [
        sys.executable,
        "-m",
        "emgscribe",
        "live",
        "--no-browser",
        "--port",
        str(port),
        "--seed",
        str(given.seed),
    ]
    with subprocess.Popen([*command, *options]) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.2)
            found = pictures(f"http://127.0.0.1:{port}/", given.warm_up)
        finally:
            server.terminate()
    size = (SHOWN, round(SHOWN * found[0].height / found[0].width))
    small = [one.resize(size, Image.Resampling.LANCZOS) for one in found]
    palette = small[len(small) // 2].quantize(COLOURS)
    frames = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in small]
    frames[0].save(
        given.out, save_all=True, append_images=frames[1:], duration=round(1000 * EVERY), loop=0, optimize=True
    )
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
