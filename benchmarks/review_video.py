"""Measure how fast the review page shows frames of a video in headless Chromium, and take the screenshot of the docs.

    python benchmarks/review_video.py

Writes docs/review_video.jpg, and the times into docs/review_benchmark.json and .md. The clip is a view that moves over the
example photo. Needs Chromium (`--chromium` or the variable CHROMIUM give its path).
"""

import argparse
import io
import json
import math
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import av
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from page import DOCS, ROOT, SWITCHES
from review import RESULTS, keep, review, told, wait_for_all
from serve import machine

WIDTH, HEIGHT, FRAMES, RATE = 1280, 720, 100, 25
DRAWN_FROM, SHOWN, DRAWN_TO = 30, 55, 80
_PAGE = {"viewport": {"width": 1280, "height": 900}}
_SHOT_SIZE, _SHOT_QUALITY = (1024, 720), 50


def clip(path: Path) -> None:
    """A view of the example photo that moves from left to right and up and down."""
    whole = Image.open(ROOT / "examples/solvay_1927.jpg").convert("RGB")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            left = round((whole.width - WIDTH) * number / (FRAMES - 1))
            top = round((whole.height - HEIGHT) * (0.4 + 0.15 * math.sin(number / 16)))
            container.mux(stream.encode(av.VideoFrame.from_image(whole.crop((left, top, left + WIDTH, top + HEIGHT)))))
        container.mux(stream.encode(None))


def decide(address: str) -> None:
    """Keep a track clear and draw a face, as the screenshot shows."""
    place = address.replace("/review", "/v1/review/videos/1")
    with urllib.request.urlopen(place) as answer:
        tracks = json.load(answer)["tracks"]
    keys = [{"frame": DRAWN_FROM, "box": [600, 520, 650, 580]}, {"frame": DRAWN_TO, "box": [500, 540, 550, 600]}]
    change = {
        "edition": 0,
        "tracks": [{"track": tracks[2]["track"], "state": "clear"}],
        "drawn": [{"face": 0, "state": "covered", "keys": keys}],
    }
    content = json.dumps(change).encode()
    urllib.request.urlopen(urllib.request.Request(f"{place}/changes", content, {"Content-Type": "application/json"})).close()


def shown(page: Page, frame: int, key: str | None = None) -> float:
    """Milliseconds until a frame is on the page, by a key or by the slider."""
    begun = time.perf_counter()
    if key is None:
        page.fill("#seek", str(frame))
    else:
        page.keyboard.press(key)
    page.wait_for_selector(f"body[data-frame='{frame}']")
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM") or shutil.which("chromium"))
    options = parser.parse_args()
    busy = machine(os.cpu_count() or 1)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as place:
        browser = driver.chromium.launch(executable_path=options.chromium, args=SWITCHES)
        clip(Path(place) / "clip.mp4")
        with review(Path(place), "--model", "fast") as address:
            wait_for_all(address)
            decide(address)
            page = browser.new_context(**_PAGE).new_page()
            page.goto(address)
            page.wait_for_selector("body.filmed[data-frame='0']")
            page.focus("#stage")
            for _ in range(4):
                page.keyboard.press("ArrowDown")
            shown(page, 0)
            page.focus("#stage")
            steps = [shown(page, number, "ArrowRight") for number in range(1, 31)]
            jumps = [shown(page, number) for number in random.Random(0).sample(range(FRAMES), 30)]
            shown(page, SHOWN)
            page.focus("#stage")
            page.wait_for_timeout(2000)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(_SHOT_SIZE, Image.Resampling.LANCZOS)
            picture.save(DOCS / "review_video.jpg", quality=_SHOT_QUALITY, optimize=True)
        browser.close()
    video = {
        "command": shlex.join(["python", "benchmarks/review_video.py", *sys.argv[1:]]), "machine": busy,
        "size": f"{WIDTH}x{HEIGHT}", "frames": FRAMES, "next_ms": told(steps), "any_ms": told(jumps),
    }  # fmt: skip
    keep({**json.loads(RESULTS.read_text()), "video": video})


if __name__ == "__main__":
    main()
