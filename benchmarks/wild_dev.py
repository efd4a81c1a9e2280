"""AP of detectors on photos of places that no training set knows, by face height and in the official subsets.

    python benchmarks/wild_dev.py accurate fast:first runs/together/thorough.pt scrfd=scrfd_2.5g_kps.onnx \\
        --photos data2/photos --data ../shared/data2

A detector is a shipped model's name (both stages; NAME:first for the first alone), a checkpoint or an ONNX file of this project
(first stage), or scrfd=FILE, yunet=FILE. Photos at original size, the official protocol of WIDER FACE: bands by the height of the
labelled box, all others ignored, easy above 50 px, medium above 30, hard above 10. Prints Markdown.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from detectors import Found, Photo, scrfd, yunet
from tinyfaces import Detector, read_image
from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.evaluation import wider

PARTS = ("wider_mixed", "wider_more", "masks_street")
EMPTY = "no_people"
BANDS = {
    "<=10": (0, 10), "10-16": (10, 16), "16-32": (16, 32), ">32": (32, np.inf), "all": (0, np.inf),
    "easy": (50, np.inf), "medium": (30, np.inf), "hard": (10, np.inf), "tiny": (0, 16),
}  # fmt: skip
LOWEST = 0.02
FALSE_FROM = (0.25, 0.5)


def detector_of(name: str, threads: int, precision: str) -> tuple[str, object]:
    """Its name in the table, and a function from a photo to boxes and scores."""
    kind, _, path = name.rpartition("=")
    if kind in ("scrfd", "yunet"):
        compared = scrfd(Path(path), threads) if kind == "scrfd" else yunet(Path(path), threads)
        return compared.name, lambda photo: compared.detect(photo, LOWEST)
    first = name.endswith(":first")
    name = name.removesuffix(":first")
    if name.endswith((".pt", ".safetensors")):
        from tinyfaces.training.export import export

        model = Path(tempfile.mkdtemp()) / "model.onnx"
        export(Path(name), model)
        first = True
    else:
        model = Path(name)
    stages = "proposals" if first else None
    detector = Detector(str(model), scale=1.0, threads=threads, precision=precision, stages=stages)

    def detect(photo: Photo) -> Found:
        faces = detector.detect(photo, threshold=LOWEST)
        return faces.boxes, faces.scores

    return name + (", first stage" if first else ""), detect


def ground_truth(images: Sequence[AnnotatedImage]) -> wider.GroundTruth:
    """Labelled boxes as the official evaluation has them; ignored ones are in no band."""
    boxes = [
        np.concatenate([image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]], 1).astype(np.float64) for image in images
    ]
    heights = [np.round(box[:, 3], 2) for box in boxes]
    keep = {
        band: tuple(~image.ignore & (height > low) & (height <= high) for image, height in zip(images, heights, strict=True))
        for band, (low, high) in BANDS.items()
    }
    return wider.GroundTruth(tuple(str(image.path) for image in images), tuple(boxes), keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--every", type=int, default=1, help="only every so many photos")
    parser.add_argument("--parts", default=",".join((*PARTS, EMPTY)))
    parser.add_argument("--out", type=Path, help="a json file for the figures")
    arguments = parser.parse_args()
    wanted = arguments.parts.split(",")
    sets = {
        name: read_coco(arguments.data / "annotations" / f"{name}_dev.json.gz", arguments.photos)[:: arguments.every]
        for name in wanted
    }
    results: dict[str, dict[str, dict[str, float]]] = {}
    for given in arguments.detectors:
        name, detect = detector_of(given, arguments.threads, arguments.precision)
        rows: dict[str, np.ndarray] = {}
        results[name] = {}
        for part, images in sets.items():
            for image in track(images, f"{name} on {part}", transient=True):
                rows[str(image.path)] = wider.prediction_rows(*detect(read_image(image.path)))  # type: ignore[operator]
        for part, images in sets.items():
            if part == EMPTY:
                scores = np.concatenate([rows[str(image.path)][:, 4] for image in images])
                results[name][part] = {
                    f">={score}": round(float((scores >= score).sum() / len(images)), 3) for score in FALSE_FROM
                }
            else:
                scored = wider.score(rows, ground_truth(images))
                results[name][part] = {band: round(result.ap, 4) for band, result in scored.items()}
        people = [part for part in sets if part != EMPTY]
        if len(people) > 1:
            scored = wider.score(rows, ground_truth([image for part in people for image in sets[part]]))
            results[name]["together"] = {band: round(result.ap, 4) for band, result in scored.items()}
        for part, figures in results[name].items():
            print(f"| {name} | {part} |", " | ".join(f"{band} {value:.3f}" for band, value in figures.items()), "|", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
