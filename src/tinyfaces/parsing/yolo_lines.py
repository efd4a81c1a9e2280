"""Lines of YOLO label files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfaces.parsing.texts import AnnotationError

_SLACK = 0.01  # of numbers relative to the image, as tools round them
_LANDMARKS = (10, 15)  # numbers of five landmarks: x y, or x y and whether it is seen


@dataclass(frozen=True)
class YoloBox:
    """A box of a YOLO label file.

    Args:
        kind: Number of its class.
        corners: x1 y1 x2 y2, relative to the image.
        score: Where the line has one.
    """

    kind: int
    corners: tuple[float, float, float, float]
    score: float | None


def yolo_boxes(text: str, file: Path) -> Iterator[YoloBox]:
    """The boxes of a label file: a line `class x y width height` each, all but the class relative to the image, and perhaps a
    score or five landmarks. Of a polygon or an oriented box, `class x1 y1 x2 y2 x3 y3 ...`, the upright box around it.

    Raises:
        AnnotationError: A line is malformed, or has numbers outside 0-1.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            kind, values = int(words[0]), [float(word) for word in words[1:]]
            corners = _corners(values)
        except ValueError:
            raise AnnotationError(f"{file}, line {number}: expected 'class x y width height', found '{line[:60]}'") from None
        if not all(map(math.isfinite, values)):
            raise AnnotationError(f"{file}, line {number}: has a number that is not finite")
        if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
            raise AnnotationError(f"{file}, line {number}: must be relative to the image, 0-1, found '{line[:60]}'")
        yield YoloBox(kind, corners, values[4] if len(values) == 5 else None)


def _corners(values: Sequence[float]) -> tuple[float, float, float, float]:
    """The corners of a box, perhaps with a score or five landmarks, or of the box around a polygon. Raises ValueError."""
    if len(values) in (4, 5) or _are_landmarks(values):
        x, y, w, h = values[:4]
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) < 6 or len(values) % 2:
        raise ValueError
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _are_landmarks(values: Sequence[float]) -> bool:
    """Whether a box comes first, and then five points within it."""
    if len(values) - 4 not in _LANDMARKS:
        return False
    (x, y, w, h), points = values[:4], values[4:]
    step = len(points) // 5
    across, down = (
        all(abs(place - middle) <= side / 2 for place in points[first::step]) for first, middle, side in ((0, x, w), (1, y, h))
    )
    return across and down
