"""Measure the web page in headless Chromium, and take the screenshots of the docs.

    python benchmarks/page.py

Writes docs/page_benchmark.json, docs/page_benchmark.md and docs/page_{light,dark,phone,anonymised}.jpg. The 12-megapixel photo
is the example photo beside and below itself. Needs Chromium (`--chromium` or the variable CHROMIUM give its path).
"""

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from serve import machine, service
from tinyfaces import Detector, read_image
from tinyfaces.files import write_atomically

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LOWEST_SCORE = 0.15  # what the page asks the service for
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
SHOTS = {
    "light": DESKTOP,
    "dark": {**DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}

_WATCH_OPENING = """() => { window.opening = new Promise((done) => {
    let begun;
    const chosen = () => { begun = performance.now(); };
    document.getElementById("file").addEventListener("change", chosen, { capture: true, once: true });
    new MutationObserver(() => {
        if (begun && document.body.dataset.state === "ready")
            requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
    }).observe(document.body, { attributes: true });
}); }"""
_SLIDE = """async () => {
    const slider = document.getElementById("threshold"), times = [];
    const painted = () => new Promise((done) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }));
    for (let step = 0; step < 120; step++) {
        await painted();
        const begun = performance.now();
        slider.value = 0.15 + (step % 40) / 50;
        slider.dispatchEvent(new Event("input"));
        await painted();
        times.push(performance.now() - begun);
    }
    return times;
}"""


def mosaic(width: int, height: int, step: int | None = None) -> np.ndarray:
    """The example photo, `step` pixels wide, beside and below itself."""
    photo = Image.open(ROOT / "examples/solvay_1927.jpg").convert("RGB")
    if step is not None:
        photo = photo.resize((step, round(photo.height * step / photo.width)), Image.Resampling.LANCZOS)
    part = np.asarray(photo)
    rows, columns = -(-height // part.shape[0]), -(-width // part.shape[1])
    return np.tile(part, (rows, columns, 1))[:height, :width]


def as_jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()


def open_photo(page: Page, content: bytes) -> float:
    """Milliseconds from the choice of a photo to the frame with its boxes."""
    page.evaluate(_WATCH_OPENING)
    page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": content})
    return page.evaluate("window.opening")


def seconds_of_detection(detector: Detector, content: bytes) -> float:
    """The plain Python call on the file's content, in this process."""
    begun = time.perf_counter()
    detector.detect(read_image(Image.open(io.BytesIO(content))), threshold=LOWEST_SCORE)
    return time.perf_counter() - begun


def measure(browser, url: str, rounds: int) -> dict:
    """Both ways take turns, so that whatever else this machine does meets them alike; medians."""
    large = as_jpeg(mosaic(4000, 3000))
    detector = Detector()
    page = browser.new_page(**DESKTOP)
    detection, first = [], []
    for _ in range(rounds + 1):
        detection.append(seconds_of_detection(detector, large))
        page.goto(url)
        first.append(open_photo(page, large) / 1e3)
    extra = [shown - plain for plain, shown in zip(detection[1:], first[1:], strict=True)]
    faces = page.inner_text("#count")
    open_photo(page, as_jpeg(mosaic(2400, 2000, 430)))
    page.locator("#threshold").fill("0.15")
    crowd = page.inner_text("#count")
    sliding = page.evaluate(_SLIDE)[10:]
    page.close()
    return {
        "photo_12_mp": {
            "faces": faces,
            "detection_s": round(statistics.median(detection[1:]), 2),
            "first_boxes_s": round(statistics.median(first[1:]), 2),
            "extra_s": round(statistics.median(extra), 2),
        },
        "sliding": {
            "faces": crowd,
            "median_ms": round(statistics.median(sliding), 1),
            "p95_ms": round(sorted(sliding)[int(0.95 * len(sliding))], 1),
            "longest_ms": round(max(sliding), 1),
        },
    }


def take_screenshots(browser, url: str) -> None:
    for name, options in SHOTS.items():
        page = browser.new_page(**options)
        page.goto(url)
        page.click("#example")
        page.wait_for_selector("body[data-state=ready]")
        page.click("#next")
        if page.evaluate("fetch('v1/models').then((answer) => answer.json())")["restores"]:
            page.wait_for_selector("#restored-caption:has-text('restored')")
        page.screenshot(path=DOCS / f"page_{name}.jpg", type="jpeg", quality=88)
        if name == "light":
            page.check("input[value=anonymised]")
            page.wait_for_selector("#status:has-text('masked')")
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / "page_anonymised.jpg", type="jpeg", quality=88)
        page.close()


def as_table(results: dict) -> str:
    photo, sliding = results["photo_12_mp"], results["sliding"]
    return (
        f"# The page in Chromium\n\n    {results['command']}\n\nMachine: {results['machine']}; Chromium "
        f"{results['chromium']}, headless, without a GPU, on the same cores as the service.\n\n"
        "| | |\n|---|---|\n"
        f"| A photo of 12 megapixels ({photo['faces']}), detected in Python | {photo['detection_s']} s |\n"
        f"| The same photo on the page, from choosing the file to seeing its boxes | {photo['first_boxes_s']} s |\n"
        f"| Difference, measured by turns | {photo['extra_s']} s |\n"
        f"| Time per frame while moving the score slider over {sliding['faces']} | median {sliding['median_ms']} ms, 95% within "
        f"{sliding['p95_ms']} ms, longest {sliding['longest_ms']} ms |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    parser.add_argument("--chromium", default=found, help="path of the browser")
    parser.add_argument("--rounds", type=int, default=5, help="of opening the large photo")
    parser.add_argument("--only", choices=("numbers", "screenshots"))
    arguments = parser.parse_args()
    if arguments.chromium is None:
        sys.exit("page.py: no Chromium found: apt-get install chromium, or give its path with --chromium")
    results = {"command": "python benchmarks/page.py", "machine": machine(os.cpu_count() or 1)}
    with service([]) as (_, port), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=arguments.chromium, args=SWITCHES)
        results["chromium"] = browser.version
        url = f"http://127.0.0.1:{port}"
        if arguments.only != "numbers":
            take_screenshots(browser, url)
        if arguments.only != "screenshots":
            results |= measure(browser, url, arguments.rounds)
            write_atomically(DOCS / "page_benchmark.json", (json.dumps(results, indent=1) + "\n").encode())
            write_atomically(DOCS / "page_benchmark.md", as_table(results).encode())
            print(as_table(results))
        browser.close()


if __name__ == "__main__":
    main()
