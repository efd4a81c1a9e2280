"""Images and annotations of COCO detection files."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.parsing.texts import AnnotationError


def list_of_objects(content: dict[str, Any], field: str, path: Path) -> list[dict[str, Any]]:
    """A list of objects by its name. Raises AnnotationError."""
    entries = content.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnnotationError(f"{path}: not a COCO detection file (no list of objects '{field}')")
    return entries


def owners(images: list[dict[str, Any]], annotations: list[dict[str, Any]], path: Path) -> npt.NDArray[np.int64]:
    """For each annotation the place of its image among the images. Raises AnnotationError."""
    number_of_image: dict[Any, int] = {}
    for entry in images:
        for name in ("id", "file_name"):
            if name not in entry:
                raise AnnotationError(f"{path}: an image has no '{name}'")
        if not isinstance(entry["id"], int | str):
            raise AnnotationError(f"{path}: an image's id is neither a number nor a text")
        if entry["id"] in number_of_image:
            raise AnnotationError(f"{path}: two images have the id {entry['id']}")
        number_of_image[entry["id"]] = len(number_of_image)
    for entry in annotations:
        image = entry.get("image_id")
        if not isinstance(image, int | str) or image not in number_of_image:
            raise AnnotationError(f"{path}: annotation {entry.get('id')} belongs to no image (image_id {image})")
    return np.array([number_of_image[entry["image_id"]] for entry in annotations], np.int64)


def boxes_of_entries(entries: list[dict[str, Any]], path: Path) -> npt.NDArray[np.float64]:
    """The boxes (N, 4), x y width height in pixels. Raises AnnotationError."""
    boxes = np.empty((len(entries), 4), dtype=np.float64)
    for number, entry in enumerate(entries):
        try:
            x, y, width, height = entry["bbox"]
            boxes[number] = float(x), float(y), float(width), float(height)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(f"{path}: annotation {entry.get('id')} has no 'bbox' of 4 numbers") from error
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(wrong):
        raise AnnotationError(f"{path}: annotation {entries[wrong[0]].get('id')} has a 'bbox' that is not finite")
    return boxes


def column(entries: list[dict[str, Any]], field: str, default: float, path: Path) -> npt.NDArray[np.float64]:
    """A number (N,) of each annotation; `default` where it has none. Raises AnnotationError."""
    try:
        given = (entry.get(field) for entry in entries)
        values = np.array([default if value is None else float(value) for value in given], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{path}: an annotation's '{field}' is not a number") from error
    if not np.isfinite(values).all():
        raise AnnotationError(f"{path}: an annotation's '{field}' is not finite")
    return values
