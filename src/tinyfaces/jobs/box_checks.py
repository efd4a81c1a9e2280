"""Checks of what files say about boxes, which people and other programs write."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.parsing.texts import AnnotationError

_LARGEST = 1e9  # of any number; larger ones are no places in a picture


def stated_size(record: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Width and height, where both are given. Raises AnnotationError."""
    given = [record.get(side) for side in ("width", "height")]
    if any(value is None or value == "" for value in given):
        return None
    try:
        width, height = (float(value) for value in given)  # type: ignore[arg-type]
        if not (width >= 1 and height >= 1 and width.is_integer() and height.is_integer()):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(f"{where}: its width and height must be whole numbers") from None
    return int(width), int(height)


def checked_boxes(values: Any, where: str) -> npt.NDArray[np.float64]:
    """Boxes (N, 4), x1 y1 x2 y2, each with an area. Raises AnnotationError."""
    if values is None:
        raise AnnotationError(f"{where}: has no boxes; for a photo without faces, an empty list is expected")
    try:
        boxes = np.array(values, np.float64)
        boxes = boxes.reshape(0, 4) if isinstance(values, list) and not values else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(f"{where}: its boxes must be lists of x1 y1 x2 y2") from None
    wrong = ~((np.abs(boxes) < _LARGEST).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    if wrong.any():
        box = " ".join(f"{side:g}" for side in boxes[wrong][0].tolist())
        raise AnnotationError(f"{where}: has a box without an area ({box})")
    return boxes


def checked_numbers(values: Any, where: str, what: str) -> npt.NDArray[np.float64]:
    """Numbers (N,). what: their name, for messages. Raises AnnotationError."""
    try:
        numbers = np.array(values, np.float64)
        if numbers.ndim != 1 or not (np.abs(numbers) < _LARGEST).all():
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(f"{where}: its {what} must be numbers") from None
    return numbers


def checked_scores(values: Any, where: str) -> npt.NDArray[np.float32]:
    """Scores (N,). Raises AnnotationError."""
    return checked_numbers(values, where, "scores").astype(np.float32)
