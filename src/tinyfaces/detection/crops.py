"""Crops for the second stage: squares around boxes, with some context."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.images import Pixels, Regions
from tinyfaces.detection.runtime import Batch

CONTEXT = 1.6
"""Side of a crop, in longer sides of its box."""
LOW_SIDE = 16
"""Side of the crop that the second stage takes, in pixels."""
FACTOR = 4
"""How much larger the generator's output is, in each direction."""
HIGH_SIDE = FACTOR * LOW_SIDE
"""Side of a restored crop, in pixels."""
_CROPS_AT_ONCE = 32  # bounds memory
_MOST_AT_ONCE = 4_000_000  # pixels that Pillow may copy at once
_WORTH_A_CROP = 50_000  # pixels whose copy takes as long as one more piece to cut out


def crop_squares(boxes: npt.NDArray[np.float32], context: float = CONTEXT) -> npt.NDArray[np.float64]:
    """The squares that crops of boxes show.

    Args:
        boxes: (N, 4), x1 y1 x2 y2 in pixels.
        context: Side of a square, in longer sides of its box.

    Returns:
        (N, 4), x1 y1 x2 y2 in pixels, not rounded; they may reach beyond the image.
    """
    corners = boxes.astype(np.float64)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    half = np.maximum((corners[:, 2:] - corners[:, :2]).max(axis=1, keepdims=True), 1.0) * context / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def cut_crops(image: Pixels | Regions, squares: npt.NDArray[np.float64], side: int) -> Pixels:
    """Cut squares out of an image and scale each to the same size.

    Reduced crops are averaged, enlarged ones bicubic. Beyond the image its border is repeated.

    Args:
        image: HxWx3 uint8 RGB, in memory or read region by region, from top to bottom.
        squares: (N, 4), x1 y1 x2 y2 in pixels.
        side: Side of the crops, in pixels.

    Returns:
        (N, side, side, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    crops = np.empty((len(squares), side, side, 3), np.uint8)
    pays = isinstance(image, np.ndarray) and height * width <= min(_MOST_AT_ONCE, len(squares) * _WORTH_A_CROP)
    whole = Image.fromarray(np.ascontiguousarray(image)) if pays else None
    for number in np.argsort(squares[:, 1], kind="stable").tolist():
        x1, y1, x2, y2 = squares[number].tolist()
        slack = math.ceil(2 * max(1.0, (x2 - x1) / side))  # the kernels' reach
        left, top, right, bottom = math.floor(x1) - slack, math.floor(y1) - slack, math.ceil(x2) + slack, math.ceil(y2) + slack
        kernel = Image.Resampling.BILINEAR if x2 - x1 > side else Image.Resampling.BICUBIC
        box = (x1 - left, y1 - top, x2 - left, y2 - top)
        if whole is not None and left >= 0 and top >= 0 and right <= width and bottom <= height:
            crops[number] = np.asarray(whole.crop((left, top, right, bottom)).resize((side, side), kernel, box=box))
            continue
        columns, rows = np.clip(np.arange(left, right), 0, width - 1), np.clip(np.arange(top, bottom), 0, height - 1)
        piece = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if piece.shape[:2] != (len(rows), len(columns)):
            piece = piece[(rows - rows[0])[:, None], columns - columns[0]]
        crops[number] = np.asarray(Image.fromarray(np.ascontiguousarray(piece)).resize((side, side), kernel, box=box))
    return crops


def crop_batches(crops: Pixels) -> list[Batch]:
    """Crops (N, S, S, 3) uint8 RGB as networks take them: Nx3xSxS, RGB in 0-1, some at a time."""
    parts = [crops[start : start + _CROPS_AT_ONCE] for start in range(0, len(crops), _CROPS_AT_ONCE)]
    return [np.ascontiguousarray(part.transpose(0, 3, 1, 2), np.float32) / np.float32(255) for part in parts]
