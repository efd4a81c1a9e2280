"""Measure the review page with a scripted session of real clicks in headless Chromium, and take the screenshots of the docs.

    python benchmarks/review.py

Writes docs/review_benchmark.json, docs/review_benchmark.md and docs/review_{light,dark,phone}.jpg; with `--parts session large`,
only those parts of them. The photos are parts of the example photo, enlarged and beside each other. Needs Chromium (`--chromium`
or the variable CHROMIUM give its path).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from page import DESKTOP, DOCS, ROOT, SHOTS, SWITCHES, as_jpeg, mosaic
from serve import machine
from tinyfaces.files import write_atomically

RESULTS = DOCS / "review_benchmark.json"
PHOTOS, LARGE_PHOTOS = 100, 10
PARTS = ("shots", "session", "large", "many")
LOOK = 1.0  # seconds that the script takes for each photo, in which the next ones are searched and loaded

_WATCH = """() => { window.shown = []; window.begun = 0; window.inputs = 0; window.late = 0;
performance.setResourceTimingBufferSize(5000);
const there = (number) => performance.getEntriesByType("resource").some((entry) =>
    entry.name.includes(`/photos/${number}/picture`) && entry.responseEnd > 0 && entry.responseEnd < window.begun);
for (const kind of ["keydown", "pointerdown"])
    addEventListener(kind, (event) => { window.begun = performance.now(); window.inputs++; }, true);
const note = () => window.shown.push(performance.now() - window.begun);
new MutationObserver(() => {
    if (!there(document.body.dataset.photo)) window.late++;
    requestAnimationFrame(() => requestAnimationFrame(note));
})
    .observe(document.body, { attributes: true, attributeFilter: ["data-photo"] }); }"""
_FRAMES = """async (moves) => {
    const stage = document.getElementById("stage"), place = stage.getBoundingClientRect(), times = [];
    const painted = () => new Promise((done) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }));
    for (const move of moves) {
        await painted();
        const begun = performance.now();
        const point = { clientX: place.left + move.x, clientY: place.top + move.y };
        if (move.zoom) stage.dispatchEvent(new WheelEvent("wheel", { deltaY: move.zoom, cancelable: true, ...point }));
        else document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: move.key, bubbles: true }));
        await painted();
        times.push(performance.now() - begun);
    }
    return times;
}"""


@contextmanager
def review(folder: Path, *options: str) -> Iterator[str]:
    """A review of all photos in a folder, with the address of its page."""
    command = [sys.executable, "-m", "tinyfaces", "review", ".", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+/review", line)))
        yield address
    finally:
        process.terminate()
        process.wait(30)


def queue(address: str) -> list[dict]:
    with urllib.request.urlopen(address.replace("/review", "/v1/review")) as answer:
        return json.load(answer)["photos"]


def wait_for_all(address: str) -> None:
    while any(photo["state"] == "waiting" for photo in queue(address)):
        time.sleep(0.2)


def told(times: list[float]) -> dict:
    """Milliseconds in short."""
    late = float(np.percentile(times, 95))
    return {"median": round(statistics.median(times), 1), "95%": round(late, 1), "longest": round(max(times), 1)}


def session(page: Page, address: str, photos: int) -> dict:
    """Accept all photos; on every fourth, click a face, or draw one, before."""
    page.goto(address)
    page.wait_for_selector("body[data-photo]")
    page.evaluate(_WATCH)
    stage = page.locator("#stage").bounding_box()
    begun = time.perf_counter()
    for number in range(photos):
        if number % 4 == 0:
            page.mouse.click(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
        page.wait_for_timeout(LOOK * 1000)
        before = page.evaluate("document.body.dataset.photo")
        page.keyboard.press("Enter")
        if number < photos - 1:
            page.wait_for_selector(f"body:not([data-photo='{before}'])")
    page.wait_for_selector(f"#progress:has-text('{photos} of {photos} accepted')")
    seconds = time.perf_counter() - begun
    page.wait_for_timeout(200)
    times = page.evaluate("window.shown")
    inputs = page.evaluate("window.inputs") / photos
    late = page.evaluate("window.late")
    return {"late": late, "photos": photos, "seconds": round(seconds, 1), "inputs_per_photo": inputs, "next_ms": told(times)}


def fluidity(page: Page, address: str) -> dict:
    """Frames while faces are chosen and the photo is zoomed, with thousands of boxes on it."""
    page.goto(address)
    page.wait_for_selector("body[data-photo]")
    page.focus("#stage")
    faces = int(re.search(r"(\d+) covered", page.inner_text("#counts"))[1])
    page.wait_for_timeout(1500)
    keys = page.evaluate(_FRAMES, [{"key": "ArrowRight"}] * 60)
    zooms = page.evaluate(_FRAMES, [{"zoom": -40 if step < 30 else 40, "x": 400, "y": 300} for step in range(60)])

    return {"faces": faces, "choosing_ms": told(keys), "zooming_ms": told(zooms)}


def photos_for(folder: Path, photos: int, width: int, height: int) -> None:
    """Photos, each another part of a mosaic."""
    whole = mosaic(6000, 4200, 1400)
    for number in range(photos):
        left, top = 37 * number % (6000 - width), 29 * number % (4200 - height)
        (folder / f"photo_{number:03}.jpg").write_bytes(as_jpeg(whole[top : top + height, left : left + width]))


def take_shots(browser: Browser, address: str) -> None:
    """The screenshots of the docs."""
    for name, shot in SHOTS.items():
        page = browser.new_context(**shot).new_page()
        page.goto(address)
        page.wait_for_selector("body[data-photo]")
        page.focus("#stage")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(800)
        page.screenshot(path=DOCS / f"review_{name}.jpg", type="jpeg", quality=80)
        page.context.close()


def as_table(results: dict) -> str:
    session, large, many, video = results["session"], results.get("large"), results["many"], results.get("video")

    def shown(times: dict) -> str:
        return f"median {times['median']} ms, 95% within {times['95%']} ms, longest {times['longest']} ms"

    return "\n".join(
        [
            "# The review page in Chromium", "", f"    {results['command']}", "", f"Machine: {results['machine']}", "",
            "A script reviews photos of 2 megapixels, parts of the example photo, with real keys and clicks.",
            f"It looks at each for {LOOK:g} s. All other photos are searched meanwhile, with the model `fast`.",
            "Those of 12 megapixels were searched before, as two cores take longer for one.", "",
            "| | |", "|---|---|",
            f"| {session['photos']} photos, from the first to the last accepted | {session['seconds']} s |",
            f"| Keys and clicks per accepted photo, every fourth with a correction | {session['inputs_per_photo']:.2f} |",
            f"| From the key that accepts to the next photo on the screen | {shown(session['next_ms'])} |",
            f"| Photos whose picture was not there when the key was pressed | {session['late']} |",
            *(
                [f"| The same two, {large['photos']} photos of 12 megapixels | {shown(large['next_ms'])}; {large['late']} |"]
                if large
                else []
            ),
            f"| Frame while choosing faces, {many['faces']} on one photo | {shown(many['choosing_ms'])} |",
            f"| Frame while zooming, the same photo | {shown(many['zooming_ms'])} |", "",
            *(
                [
                    "## Frames of videos", "", f"    {video['command']}", "",
                    f"Machine: {video['machine']}", "",
                    f"The clip is a view of {video['size']} that moves over the example photo, {video['frames']} frames with one"
                    " keyframe.", "",
                    "| | |", "|---|---|",
                    f"| From the key to the next frame on the screen, covered | {shown(video['next_ms'])} |",
                    f"| From the slider to any frame on the screen, covered | {shown(video['any_ms'])} |", "",
                ]
                if video
                else []
            ),
        ]
    )  # fmt: skip


def keep(results: dict) -> None:
    """Write the figures into the docs, and print them."""
    write_atomically(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(RESULTS.with_suffix(".md"), as_table(results).encode())
    print(as_table(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM") or shutil.which("chromium"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    results: dict = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["command"] = shlex.join(["python", "benchmarks/review.py", *sys.argv[1:]])
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as place:
        browser = driver.chromium.launch(executable_path=options.chromium, args=SWITCHES)
        cores = os.cpu_count() or 1
        results["machine"] = f"{machine(cores)}; Chromium {browser.version}, headless, without a GPU, on the same cores."
        for part in options.parts:
            folder = Path(place) / part
            folder.mkdir()
            photos, width, height = (LARGE_PHOTOS, 4000, 3000) if part == "large" else (PHOTOS, 1700, 1200)
            if part == "shots":
                shutil.copy(ROOT / "examples/solvay_1927.jpg", folder)
            elif part == "many":
                Image.fromarray(mosaic(7200, 5000, 700)).save(folder / "many.jpg", quality=90)
            else:
                photos_for(folder, photos, width, height)
            with review(folder, *(() if part == "shots" else ("--model", "fast"))) as address:
                if part != "session":
                    wait_for_all(address)
                if part == "shots":
                    take_shots(browser, address)
                    continue
                page = browser.new_context(**DESKTOP).new_page()
                results[part] = fluidity(page, address) if part == "many" else session(page, address, photos)
        browser.close()
    keep(results)


if __name__ == "__main__":
    main()
