"""Self-training: what a trained detector, over several views of a photo, says of the boxes that nobody was sure of.

Annotations that detectors made leave many boxes ignored: in crowds most lie on backs of heads, some on faces. Where a better
detector's views agree, such a box becomes a face or background; where they do not, it stays ignored.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import iou_matrix, mirror, nms
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import read_image
from tinyfaces.files import write_atomically


@dataclass(frozen=True)
class RelabelSettings:
    """When an ignored box changes.

    Attributes:
        scales: by which the photo is enlarged for each view; every second view is mirrored.
        threshold: lowest score looked at.
        overlap: IoU from which a detection speaks for a box.
        face: mean score over the views from which a box is a face.
        background: mean score below which it is background, if the annotation's own score is below `certain` too.
        certain: annotations of at least this score never become background.
    """

    scales: tuple[float, ...] = (1.0, 1.5)
    threshold: float = 0.05
    overlap: float = 0.4
    face: float = 0.8
    background: float = 0.12
    certain: float = 0.3


def views_of(photo: npt.NDArray[np.uint8], detector: Detector, settings: RelabelSettings) -> list[Faces]:
    """What the detector finds in each view of a photo (H, W, 3) RGB, in the pixels of the photo."""
    width = photo.shape[1]
    found = []
    for number, scale in enumerate(settings.scales):
        seen = photo
        if scale != 1:
            seen = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
        if mirrored := number % 2 == 1:
            seen = np.ascontiguousarray(seen[:, ::-1])
        faces = detector.detect(seen, threshold=settings.threshold)
        enlarged = np.array([seen.shape[1] / width, seen.shape[0] / photo.shape[0]] * 2, np.float32)
        boxes: npt.NDArray[np.float32] = faces.boxes / enlarged
        found.append(Faces(mirror(boxes, width) if mirrored else boxes, faces.scores))
    return found


def settled(image: AnnotatedImage, detector: Detector, settings: RelabelSettings) -> AnnotatedImage:
    """The image, read from its file if it has ignored boxes, after `relabel`."""
    return relabel(image, views_of(read_image(image.path), detector, settings), settings) if image.ignore.any() else image


def relabel(image: AnnotatedImage, views: Sequence[Faces], settings: RelabelSettings) -> AnnotatedImage:
    """Change those ignored boxes that the views agree on.

    A box that becomes a face takes the place of the first view's detection, where there is one, and the views' mean score;
    one that becomes background goes.

    Args:
        image: a photo and its boxes.
        views: what a detector found in each view, in the pixels of the photo.
        settings: when a box changes.

    Returns:
        The image with its new boxes.
    """
    best, places = [], image.boxes.copy()
    for number, view in enumerate(views):
        overlap = iou_matrix(image.boxes, view.boxes)
        speaking = np.where(overlap >= settings.overlap, view.scores[None], 0.0)
        best.append(speaking.max(axis=1, initial=0.0))
        if number == 0 and len(view):
            heard = best[0] > 0
            places[heard] = view.boxes[speaking.argmax(axis=1)[heard]]
    agreement = np.mean(best, axis=0)
    face = image.ignore & (agreement >= settings.face)
    new = np.flatnonzero(face)
    face[:] = False
    face[new[nms(places[new], np.zeros(len(new), np.float32), settings.overlap)]] = True  # of several at one place the first
    face &= iou_matrix(places, image.boxes[~image.ignore]).max(axis=1, initial=0.0) < settings.overlap
    gone = image.ignore & ~face & (agreement < settings.background) & (image.scores < settings.certain)
    return replace(
        image,
        boxes=np.where(face[:, None], places, image.boxes)[~gone],
        ignore=(image.ignore & ~face)[~gone],
        scores=np.where(face, agreement, image.scores)[~gone].astype(np.float32),
    )


def write_annotations(images: Sequence[AnnotatedImage], folder: Path, out: Path) -> None:
    """Write photos of `folder` and their boxes as a COCO json or json.gz, by the name of `out`."""
    entries: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for number, image in enumerate(images):
        name = image.path.relative_to(folder).as_posix()
        entries.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for (left, top, right, bottom), ignore, score in zip(
            image.boxes.tolist(), image.ignore.tolist(), image.scores.tolist(), strict=True
        ):
            sides = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            boxes.append(
                {
                    "id": len(boxes), "image_id": number, "category_id": 1, "bbox": sides, "area": round(sides[2] * sides[3], 2),
                    "iscrowd": 0, "ignore": int(ignore), "score": round(score, 3),
                }
            )  # fmt: skip
    content = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "face"}]}
    text = json.dumps(content).encode()
    write_atomically(out, gzip.compress(text, mtime=0) if out.suffix == ".gz" else text)
