"""What a cover threshold costs: area covered without a face, and faces left open, by their height.

    python benchmarks/cover_threshold.py accurate --photos data2/photos --data ../shared/data2
    python benchmarks/cover_threshold.py accurate --data ../shared/data --every 4

With --photos, the photos of `wild_dev`; else those of the dev split. The stages are those that run by default. Thresholds: flat
ones, and the rule of `anonymise` (BY_HEIGHT). Masks are the default ones (ellipses, 1.45).

False area: the share of a photo under masks that no labelled face would get, the mean over photos; and how many photos lose more
than a tenth of their area. Open: labelled faces of which less than half of the box is covered, by the height of the box. Faces
that are labelled as to be ignored are neither open nor false. Prints Markdown.
"""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from tinyfaces import Detector, Faces, read_image
from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.evaluation.dev_split import read_dev_split
from tinyfaces.evaluation.wild_dev import PARTS, read_part
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces

FLAT = (0.15, 0.2, 0.3, 0.4)
BANDS = ((0, 10), (10, 16), (16, 32), (32, 96), (96, np.inf))
MUCH = 0.1  # of a photo's area
OPEN_BELOW = 0.5  # of a box's area
STEP = 2  # pixels of a photo for each cell that is counted
STYLE = MaskStyle("solid")


def covered(boxes: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Which cells of a photo are under the masks of the boxes (N, 4)."""
    cells = np.zeros((-(-height // STEP), -(-width // STEP)), np.uint8)
    mask_faces([Plane(cells, STEP, STEP, 1)], boxes, STYLE)
    return cells > 0


def share_covered(box: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> float:
    """How much of a box is under masks, 0-1."""
    x1, y1, x2, y2 = (box / STEP).tolist()
    left, top = min(max(int(x1), 0), mask.shape[1] - 1), min(max(int(y1), 0), mask.shape[0] - 1)
    return float(mask[top : max(top + 1, int(np.ceil(y2))), left : max(left + 1, int(np.ceil(x2)))].mean())


def figures(
    cover: CoverThreshold, found: Sequence[Faces], images: Sequence[AnnotatedImage]
) -> tuple[float, float, list[tuple[float, int]]]:
    """Mean false area, share of photos that lose much, and, for each band, the share of faces left open and their number."""
    false, heights, opened = [], [], []
    for faces, image in zip(found, images, strict=True):
        mask = covered(cover.apply(faces).boxes, image.width, image.height)
        false.append(float((mask & ~covered(image.boxes, image.width, image.height)).mean()))
        for box in image.boxes[~image.ignore]:
            heights.append(float(box[3] - box[1]))
            opened.append(share_covered(box, mask) < OPEN_BELOW)
    tall, is_open = np.array(heights), np.array(opened)
    bands = [is_open[(tall > low) & (tall <= high)] for low, high in BANDS]
    return (
        float(np.mean(false)),
        float(np.mean(np.array(false) > MUCH)),
        [(float(band.mean()) if len(band) else np.nan, len(band)) for band in bands],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="the folder of wild_dev's photos")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--every", type=int, default=1, help="only every so many photos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    if arguments.photos is None:
        images = read_dev_split(arguments.data)
    else:
        parts = [read_part(part, arguments.data, arguments.photos) for part in arguments.parts.split(",")]
        images = list(chain.from_iterable(parts))
    images = images[:: arguments.every]
    rules = {f"flat {score}": CoverThreshold.of(score) for score in FLAT} | {"by height": CoverThreshold()}
    lowest = min(cover.lowest for cover in rules.values())
    detector = Detector(arguments.model, threshold=lowest, threads=arguments.threads, precision=arguments.precision)
    found = [detector.detect(read_image(image.path)) for image in track(images, arguments.model, transient=True)]
    rows = {name: figures(cover, found, images) for name, cover in rules.items()}
    names = [f"{low}-{high:g}" if np.isfinite(high) else f"above {low}" for low, high in BANDS]
    numbers = [number for _, number in next(iter(rows.values()))[2]]
    heads = [f"open, {name} px ({number})" for name, number in zip(names, numbers, strict=True)]
    print(f"{arguments.model}, {len(images)} photos\n")
    print("| Threshold | False area | Photos that lose a tenth |", " | ".join(heads), "|")
    print("|---" * (3 + len(heads)) + "|")
    for name, (area, much, opened) in rows.items():
        print(f"| {name} | {area:.1%} | {much:.1%} |", " | ".join(f"{share:.1%}" for share, _ in opened), "|")


if __name__ == "__main__":
    main()
