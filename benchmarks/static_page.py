"""Measure the static page in headless Chromium beside Python: seconds from a photo's file to its faces.

    npm install onnxruntime-web@1.30.0
    python benchmarks/static_page.py

Python and the tab take turns on the same photo, with the same model and precision. Writes docs/static_page_benchmark.{json,md}.
`--models` measures some models only, and keeps the earlier figures of the others. Needs Chromium (`--chromium` or CHROMIUM).
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from page import SWITCHES, as_jpeg, mosaic
from serve import machine
from tinyfaces import Detector, Faces
from tinyfaces.files import write_atomically
from tinyfaces.service.site_folder import write_site
from tinyfaces.service.static_page import RUNTIME_FOLDER, static_page, tab_model

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/static_page_benchmark"
PRECISIONS = ("float32", "int8")
LOWEST_SCORE = 0.15  # what the page asks for
_SEARCH = """async ([model, lowest]) => {
    const { detect } = await import("/tab/engine.js");
    const file = document.getElementById("file").files[0];
    const begun = performance.now();
    const { boxes, scores } = await detect(new Blob([await file.arrayBuffer()]), { model, threshold: lowest });
    return [(performance.now() - begun) / 1e3, boxes, scores];
}"""


class Isolated(SimpleHTTPRequestHandler):
    """Sends the headers with which a page may use threads, where the address asks for them."""

    isolated = False

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def served(folder: Path, isolated: bool) -> Iterator[str]:
    handler = type("Handler", (Isolated,), {"isolated": isolated})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def opened(browser: Browser, address: str, content: bytes) -> Page:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.evaluate("document.getElementById('file').onchange = null")  # the page itself shall not search it
    page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": content})
    return page


def farthest(ours: Faces, boxes: list, scores: list, threshold: float) -> float:
    """Pixels between the sides of the tab's boxes and ours, the largest; infinite where there are others."""
    wanted = ours.above(threshold).boxes
    found = np.array(boxes).reshape(-1, 4)[np.array(scores) >= threshold]
    if len(found) != len(wanted):
        return float("inf")
    return float(np.abs(found[:, None] - wanted[None]).max(2).min(1).max(initial=0))


def measure(browser: Browser, sites: dict[str, Path], model: str, precision: str, photo: bytes, rounds: int) -> dict:
    """Medians in seconds, after one round that is not counted: it loads the model."""
    one, all_of = (Detector(model, precision=precision, device="cpu", threads=threads) for threads in (1, None))
    times: dict[str, list[float]] = {"python_1": [], "python_all": [], "tab_1": [], "tab_all": []}
    apart = 0.0
    with served(sites[precision], False) as plain, served(sites[precision], True) as isolated:
        pages = {"tab_1": opened(browser, plain, photo), "tab_all": opened(browser, isolated, photo)}
        assert pages["tab_all"].evaluate("crossOriginIsolated")
        for _ in range(rounds + 1):
            for name, detector in (("python_1", one), ("python_all", all_of)):
                begun = time.perf_counter()
                faces = detector.detect(photo, threshold=LOWEST_SCORE)
                times[name].append(time.perf_counter() - begun)
            for name, page in pages.items():
                seconds, boxes, scores = page.evaluate(_SEARCH, [model, LOWEST_SCORE])
                times[name].append(seconds)
                apart = max(apart, farthest(faces, boxes, scores, one.threshold))
        for page in pages.values():
            page.close()
    medians = {name: round(statistics.median(values[1:]), 2) for name, values in times.items()}
    shown = faces.above(one.threshold)
    return {**medians, "stages": one.stages, "rounds": rounds, "faces": len(shown), "apart_px": round(apart, 3)}


def sizes(files: dict[str, bytes]) -> dict[str, list[float]]:
    """Megabytes of what a browser loads, as they are and compressed by gzip."""
    groups = {"page": ("index", "page/", "tab/", "site"), "runtime": ("runtime/",)}
    groups |= {name.split("/")[1]: (name,) for name in files if name.endswith(".onnx")}
    return {
        group: [
            round(sum(len(pack(content)) for name, content in files.items() if name.startswith(begin)) / 1e6, 2)
            for pack in (bytes, gzip.compress)
        ]
        for group, begin in groups.items()
    }


def as_markdown(results: dict) -> str:
    lines = [
        "# The static page in Chromium", "", f"    {results['command']}", "",
        f"Machine: {results['machine']}; Chromium {results['chromium']}, headless, without a GPU. Photos: the example photo, and "
        "12 megapixels of it beside and below itself. Seconds from the file to its faces, medians of "
        "rounds in which Python and the tab took turns, after one that loaded the models. *Threads*: with the two headers. "
        "*Stages*: `both`, or `proposals`, the first stage alone, where measured before the tab had the second one.", "",
        "| Model | Stages | Photo | Python, 1 thread | Python, all threads | Tab | Tab, threads | Rounds | Boxes apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in results["rows"]:
        figures = " | ".join(f"{row[name]:.2f} s" for name in ("python_1", "python_all", "tab_1", "tab_all"))
        what = f"`{row['model']}`, {row['precision']} | `{row['stages']}` | {row['photo']}, {row['faces']} faces"
        lines.append(f"| {what} | {figures} | {row['rounds']} | {row['apart_px']:.3f} px |")
    lines += ["", "| What the browser loads | MB | with gzip |", "|---|---|---|"]
    lines += [f"| {name} | {plain:.2f} | {packed:.2f} |" for name, (plain, packed) in results["sizes"].items()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    parser.add_argument("--chromium", default=found, help="path of the browser")
    parser.add_argument("--runtime", type=Path, default=ROOT / RUNTIME_FOLDER, help="folder of onnxruntime-web")
    parser.add_argument("--models", nargs="+", default=["accurate", "fast"])
    parser.add_argument("--photos", nargs="+", choices=("2", "12"), default=["2", "12"], help="megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.chromium is None:
        sys.exit("static_page.py: no Chromium found: apt-get install chromium, or give its path with --chromium")
    photos = {"2": (ROOT / "examples/solvay_1927.jpg").read_bytes(), "12": as_jpeg(mosaic(4000, 3000))}
    json_file = RESULTS.with_suffix(".json")
    earlier = json.loads(json_file.read_text()) if json_file.is_file() else {"rows": []}
    results = {"command": "python benchmarks/static_page.py", "machine": machine(os.cpu_count() or 1)}
    rows = {(row["model"], row["precision"], row["photo"]): row for row in earlier["rows"]}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        sites = {precision: Path(place) / precision for precision in PRECISIONS}
        for precision, folder in sites.items():
            files = static_page([tab_model(name, precision) for name in ("accurate", "fast")], arguments.runtime, precision)
            write_site(folder, files)
            if precision == "float32":
                results["sizes"] = sizes(files)
        browser = driver.chromium.launch(executable_path=arguments.chromium, args=SWITCHES)
        results["chromium"] = browser.version
        for model in arguments.models:
            for precision in PRECISIONS:
                for pixels in arguments.photos:
                    facts = {"model": model, "precision": precision, "photo": f"{pixels} MP"}
                    row = facts | measure(browser, sites, model, precision, photos[pixels], arguments.rounds)
                    rows[model, precision, row["photo"]] = row
                    print(row, flush=True)
                    results["rows"] = [rows[key] for key in sorted(rows, key=lambda key: (key[2] != "2 MP", key))]
                    write_atomically(json_file, (json.dumps(results, indent=1) + "\n").encode())
                    write_atomically(RESULTS.with_suffix(".md"), as_markdown(results).encode())
        browser.close()


if __name__ == "__main__":
    main()
