"""AP of detectors on photos of places that no training set knows, by face height and in the official subsets.

    python benchmarks/wild_dev.py accurate fast:first runs/together/thorough.pt scrfd=scrfd_2.5g_kps.onnx \\
        --photos data2/photos --data ../shared/data2

A detector is a shipped model's name (both stages; NAME:first for the first alone), a checkpoint or an ONNX file of this project
(first stage), or scrfd=FILE, yunet=FILE. Photos at original size, the protocol of WIDER FACE: bands by the height of the labelled
box, all others ignored, easy above 50 px, medium above 30, hard above 10. On no_people: false detections a photo from scores of
0.25 and 0.5 and, of a shipped model, from its default threshold, by the height of their boxes. Prints Markdown.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.progress import track

from detectors import Found, Photo, scrfd, yunet
from tinyfaces import Detector, read_image
from tinyfaces.evaluation import wider
from tinyfaces.evaluation.wild_dev import NO_PEOPLE, PARTS, average_precision_of_parts, read_part
from tinyfaces.weights import models

LOWEST = 0.02
FALSE_FROM = (0.25, 0.5)
HEIGHTS = (0, 16, 32, 96, np.inf)
FIRST = ":first"


def detector_of(name: str, threads: int, precision: str, scale: float | str) -> tuple[str, Callable[[Photo], Found]]:
    """Its name in the table, and a function from a photo to boxes and scores."""
    kind, _, path = name.rpartition("=")
    if kind in ("scrfd", "yunet"):
        compared = scrfd(Path(path), threads) if kind == "scrfd" else yunet(Path(path), threads)
        return compared.name, lambda photo: compared.detect(photo, LOWEST)
    first = name.endswith(FIRST)
    name = name.removesuffix(FIRST)
    if name.endswith((".pt", ".safetensors")):
        from tinyfaces.training.export import export

        model = Path(tempfile.mkdtemp()) / "model.onnx"
        export(Path(name), model)
        first = True
    else:
        model = Path(name)
    detector = Detector(str(model), scale=scale, threads=threads, precision=precision, stages="proposals" if first else "both")

    def detect(photo: Photo) -> Found:
        faces = detector.detect(photo, threshold=LOWEST)
        return faces.boxes, faces.scores

    return name + (", first stage" if first else ""), detect


def false_detections(rows: list[wider.Rows], default: float | None) -> dict[str, float]:
    """False detections a photo, from several scores on, of photos without faces."""
    every = np.concatenate(rows)
    counts = {f">={score}": float((every[:, 4] >= score).sum() / len(rows)) for score in FALSE_FROM}
    if default is None:
        return counts
    heights = every[every[:, 4] >= default, 3]
    counts[f"default >={default}"] = len(heights) / len(rows)
    for low, high in pairwise(HEIGHTS):
        counts[f"default, {low}-{high:g} px"] = float(((heights > low) & (heights <= high)).sum() / len(rows))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--scale", default="1", help="as Detector takes it: a number or auto")
    parser.add_argument("--every", type=int, default=1, help="only every so many photos")
    parser.add_argument("--parts", default=",".join((*PARTS, NO_PEOPLE)))
    parser.add_argument("--out", type=Path, help="a json file for the figures")
    arguments = parser.parse_args()
    wanted = arguments.parts.split(",")
    sets = {name: read_part(name, arguments.data, arguments.photos)[:: arguments.every] for name in wanted}
    people = {name: images for name, images in sets.items() if name != NO_PEOPLE}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for given in arguments.detectors:
        scale = arguments.scale if arguments.scale == "auto" else float(arguments.scale)
        name, detect = detector_of(given, arguments.threads, arguments.precision, scale)
        rows = {
            str(image.path): wider.prediction_rows(*detect(read_image(image.path)))
            for part, images in sets.items()
            for image in track(images, f"{name} on {part}", transient=True)
        }
        figures = average_precision_of_parts(rows, people) if people else {}
        if NO_PEOPLE in sets:
            shipped = models().get(given.removesuffix(FIRST))
            default = shipped.threshold if shipped else None
            figures[NO_PEOPLE] = false_detections([rows[str(image.path)] for image in sets[NO_PEOPLE]], default)
        for part, values in figures.items():
            print(f"| {name} | {part} |", " | ".join(f"{band} {value:.3f}" for band, value in values.items()), "|", flush=True)
        results[name] = {part: {band: round(value, 4) for band, value in values.items()} for part, values in figures.items()}
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
