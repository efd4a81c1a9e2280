"""Candidates cut out of an image: squares that keep the aspect ratio and carry context around the box."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.images import Pixels

CONTEXT = 1.6
"""Side of a crop in longer sides of its box."""


def crop_squares(boxes: npt.NDArray[np.float32], context: float = CONTEXT) -> npt.NDArray[np.float64]:
    """The squares (N, 4), x1 y1 x2 y2 and not rounded, that crops of boxes (N, 4) show; they may reach beyond the image."""
    corners = boxes.astype(np.float64)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    half = np.maximum((corners[:, 2:] - corners[:, :2]).max(axis=1, keepdims=True), 1.0) * context / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def cut_crops(image: Pixels, squares: npt.NDArray[np.float64], side: int) -> Pixels:
    """Cut squares (N, 4) out of an image HxWx3 and scale each to (N, side, side, 3) uint8, RGB.

    Beyond the image its border is repeated. Reduced crops are averaged, enlarged ones bicubic.
    """
    height, width = image.shape[:2]
    crops = np.empty((len(squares), side, side, 3), np.uint8)
    whole = Image.fromarray(image)
    inside = (squares[:, :2] >= 0).all(axis=1) & (squares[:, 2] <= width) & (squares[:, 3] <= height)
    for number, (square, fits) in enumerate(zip(squares.tolist(), inside.tolist(), strict=True)):
        source, (x1, y1, x2, y2) = (whole, square) if fits else _with_border(image, square)
        kernel = Image.Resampling.BILINEAR if square[2] - square[0] > side else Image.Resampling.BICUBIC
        crops[number] = np.asarray(source.resize((side, side), kernel, box=(x1, y1, x2, y2)))
    return crops


def _with_border(image: Pixels, square: list[float]) -> tuple[Image.Image, list[float]]:
    """A piece of the image that holds the square, its border repeated, and the square's place in it."""
    height, width = image.shape[:2]
    left, top = int(np.floor(square[0])), int(np.floor(square[1]))
    columns = np.clip(np.arange(left, int(np.ceil(square[2])) + 1), 0, width - 1)
    rows = np.clip(np.arange(top, int(np.ceil(square[3])) + 1), 0, height - 1)
    piece = Image.fromarray(np.ascontiguousarray(image[rows[:, None], columns]))
    return piece, [square[0] - left, square[1] - top, square[2] - left, square[3] - top]
