"""AP on faces of 60 to 650 px: photos of the dev split with few people, resized until the largest face has such a height.

    python benchmarks/large_faces.py accurate fast --data ../shared/data --scrfd scrfd_2.5g_kps.onnx

The dev split has few faces above 200 px. Models are names of shipped ones or ONNX files, of which the first stage is measured.
Enlarged photos are blurred, so what counts is the comparison.
"""

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np

from detectors import Compared, boxes_and_scores, scrfd
from tinyfaces import Detector, read_image
from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import clip
from tinyfaces.detection.images import Pixels
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.evaluation.dev_split import read_dev_sets

SETS = ("wider_train", "groups", "masks_web")
HEIGHTS = (60, 120, 200, 300, 450, 650)
MOST_FACES = 6
LONGEST_SIDE, WINDOW = 1400, 1200
COUNTED = 0.7  # of the largest face's height: smaller faces are ignored
COMPARED = 0.45  # of it: smaller detections are left out


def resized(photo: Pixels, image: AnnotatedImage, height: int) -> tuple[Pixels, AnnotatedImage]:
    """The photo with its largest face at `height` pixels, cut around that face where it gets too long."""
    faces = image.boxes[~image.ignore]
    heights = faces[:, 3] - faces[:, 1]
    scale = height / heights.max()
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    seen = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=kernel), np.uint8)
    boxes, start = image.boxes * scale, np.zeros(2)
    if max(seen.shape) > LONGEST_SIDE:
        largest = faces[heights.argmax()] * scale
        limit = np.maximum([seen.shape[1] - WINDOW, seen.shape[0] - WINDOW], 0)
        start = np.clip((largest[:2] + largest[2:]) / 2 - WINDOW / 2, 0, limit).astype(int)
        seen = np.ascontiguousarray(seen[start[1] :, start[0] :][:WINDOW, :WINDOW])
    boxes = boxes - np.tile(start, 2)
    small = boxes[:, 3] - boxes[:, 1] <= COUNTED * height
    cut = clip(boxes.astype(np.float32), seen.shape[1], seen.shape[0])
    left = ((cut[:, 2:] - cut[:, :2]) > 1).all(axis=1)
    known = dataclasses.replace(
        image, width=seen.shape[1], height=seen.shape[0], boxes=cut[left], ignore=(image.ignore | small)[left],
        scores=image.scores[left],
    )  # fmt: skip
    return seen, known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["accurate", "fast"])
    parser.add_argument("--data", type=Path, required=True, help="folder of annotations/SET_dev.json.gz and images/")
    parser.add_argument("--scrfd", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    sets = read_dev_sets(arguments.data)
    images = [image for name in SETS for image in sets[name] if 0 < (~image.ignore).sum() <= MOST_FACES][::2]
    compared = [scrfd(path, 2) for path in arguments.scrfd]
    for model in arguments.models:
        detector = Detector(model, scale=1, stages="proposals", precision="float32")
        compared.append(Compared(model, boxes_and_scores(detector), None, LOWEST_SCORE))
    print(f"{len(images)} photos\nheight " + " ".join(f"{one.name:>18}" for one in compared))
    for height in HEIGHTS:
        seen = [resized(read_image(image.path), image, height) for image in images]
        row = []
        for one in compared:
            found = []
            for photo, _ in seen:
                boxes, scores = one.detect(photo, LOWEST_SCORE)
                large = boxes[:, 3] - boxes[:, 1] > COMPARED * height
                found.append((boxes[large], scores[large]))
            row.append(coco.score(found, [known for _, known in seen])["all"].ap)
        print(f"{height:6} " + " ".join(f"{ap:18.3f}" for ap in row), flush=True)


if __name__ == "__main__":
    main()
