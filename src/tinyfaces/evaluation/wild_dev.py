"""`wild_dev`: development photos of places that no training set has, scored by WIDER FACE's official protocol."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, read_coco, with_places_of_wider
from tinyfaces.evaluation import wider
from tinyfaces.parsing.wider_boxes import to_wider

PARTS = ("wider_mixed", "wider_more", "masks_street")
OF_WIDER_FACE = ("wider_mixed", "wider_more")
"""Parts whose boxes are WIDER FACE's own, places counted as there (see `parsing.wider_boxes`). All faces are marked in them."""
NO_PEOPLE = "no_people"
BANDS = {
    "all": (0.0, np.inf), "<=10": (0.0, 10.0), "10-16": (10.0, 16.0), "16-32": (16.0, 32.0), ">32": (32.0, np.inf),
    "easy": (50.0, np.inf), "medium": (30.0, np.inf), "hard": (10.0, np.inf), "tiny": (0.0, 16.0),
}  # fmt: skip
"""Heights of the labelled boxes, in pixels, above the first and up to the second number; easy, medium and hard as WIDER FACE
has them, tiny as `wider.read_ground_truth` does."""


def read_part(name: str, data: Path, photos: Path) -> list[AnnotatedImage]:
    """The photos of one of PARTS, or of NO_PEOPLE, with boxes as everywhere here: places counted from the edges of pixels.

    Args:
        name: The part.
        data: The folder that holds annotations/NAME_dev.json.gz.
        photos: The folder of the photos.

    Raises:
        AnnotationError: A file is missing or malformed.
    """
    images = read_coco(data / "annotations" / f"{name}_dev.json.gz", photos)
    return [with_places_of_wider(image) for image in images] if name in OF_WIDER_FACE else images


def wholly_marked(images: Sequence[AnnotatedImage]) -> list[int]:
    """Places of the photos in which all faces are marked: those of OF_WIDER_FACE."""
    return [place for place, image in enumerate(images) if image.path.parent.name in OF_WIDER_FACE]


def ground_truth(images: Sequence[AnnotatedImage]) -> wider.GroundTruth:
    """Labelled boxes as the official protocol takes them, an image's path as its key. Ignored boxes are in no band."""
    boxes = [to_wider(image.boxes) for image in images]
    heights = [np.round(box[:, 3], 2) for box in boxes]
    keep = {
        band: tuple(~image.ignore & (height > low) & (height <= high) for image, height in zip(images, heights, strict=True))
        for band, (low, high) in BANDS.items()
    }
    return wider.GroundTruth(tuple(str(image.path) for image in images), tuple(boxes), keep)


def average_precision(rows: Mapping[str, wider.Rows], images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """AP of each band.

    Args:
        rows: The detections of each image, by its path, as `wider.prediction_rows` has them.
        images: The images to score.
    """
    scored = wider.score({str(image.path): rows[str(image.path)] for image in images}, ground_truth(images))
    return {band: result.ap for band, result in scored.items()}


def average_precision_of_parts(
    rows: Mapping[str, wider.Rows], parts: Mapping[str, Sequence[AnnotatedImage]]
) -> dict[str, dict[str, float]]:
    """AP of each band for each part and, as "together", for all of them."""
    figures = {name: average_precision(rows, images) for name, images in parts.items()}
    return figures | {"together": average_precision(rows, list(chain.from_iterable(parts.values())))}
