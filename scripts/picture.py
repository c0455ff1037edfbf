"""The animation at the top of the README, from the real page: `emgscribe live` in a headless Chromium.

    python scripts/picture.py docs/live.gif --seed 3 --model runs/demo-0/best

Options that are not its own go to `emgscribe live`.
"""

import argparse
import time
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from chromium import page
from PIL import Image

WIDE, TALL, SHOWN = 1280, 1120, 880  # px of the window, and of the picture's width
FRAMES, EVERY = 48, 0.25  # pictures, s from one to the next
COLOURS = 128


def pictures(live: list[str], warm_up: float) -> list[tuple[float, Image.Image]]:
    """The page, from `warm_up` seconds after it opens, and when each picture was taken, in seconds."""
    with page(live, f"--window-size={WIDE},{TALL}") as (browser, _):
        time.sleep(warm_up)
        found, begun = [], time.monotonic()
        for number in range(FRAMES):
            time.sleep(max(0.0, begun + EVERY * number - time.monotonic()))
            taken = time.monotonic()
            found.append((taken, Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--warm-up", type=float, default=30.0, help="s before the first picture")
    given, live = parser.parse_known_args()
    times, found = zip(*pictures(live, given.warm_up), strict=True)
    lasting = [round(1000 * (after - before)) for before, after in pairwise(times)]  # ms; a loaded machine takes longer
    size = (SHOWN, round(SHOWN * found[0].height / found[0].width))
    small = [one.resize(size, Image.Resampling.LANCZOS) for one in found]
    palette = small[len(small) // 2].quantize(COLOURS)
    frames = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in small]
    lasting.append(lasting[-1])
    frames[0].save(given.out, save_all=True, append_images=frames[1:], duration=lasting, loop=0, optimize=True)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {sum(lasting) / 1000:.1f} s")


if __name__ == "__main__":
    main()
