"""Views: what the network sees of an image, all of it or a part, at some scale, and the way back to the image's pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.images import Pixels, Regions

Scale: TypeAlias = float | Literal["auto"]

THUMBNAIL_SCALE = 1 / 4
MIN_THUMBNAIL_SIDE = 256
"""Pixels that the longer side of a thumbnail has at least, where the photo has as many."""
MULTIPLE = 32
"""The sides of what the network sees are multiples of its largest stride."""

# Pixels that small images are enlarged to, and the largest factor for that.
_AUTO = (2_000_000, 2.0)
_SMALL = (300_000, 1.5)
_STRIP_PIXELS = 4_000_000
_STRIP_ROWS = 8  # in fewer, the slack around them would outweigh them
_CUT_MARGIN = 0.05  # in longer sides of a face: so close to a border, it counts as cut


@dataclass(frozen=True)
class View:
    """A part of an image, as the network sees it.

    Args:
        pixels: HxWx3 uint8 RGB.
        left: Where it begins in the scaled image, in scaled pixels.
        top: Where it begins in the scaled image, in scaled pixels.
        working: Width and height of the whole scaled image.
        per_pixel: Scaled pixels per pixel of the image, in x and y.
    """

    pixels: Pixels
    left: int
    top: int
    working: tuple[int, int]
    per_pixel: tuple[float, float]

    @classmethod
    def of(cls, image: Pixels | Regions, working: tuple[int, int], rectangle: Sequence[int]) -> "View":
        """The rectangle x1 y1 x2 y2 of the image scaled to `working` (width, height)."""
        height, width = image.shape[:2]
        per_pixel = (working[0] / width, working[1] / height)
        return cls(_resample(image, working, rectangle), rectangle[0], rectangle[1], working, per_pixel)

    def thumbnail(self) -> "View":
        """The view reduced to a quarter, as an image of its own: what the thumbnail pass sees."""
        width, height = self.size
        size = scaled_size(width, height, max(THUMBNAIL_SCALE, MIN_THUMBNAIL_SIDE / max(width, height)))
        # A gap of 1 averages whole squares of pixels first, which takes a sixth of the time of exact resampling.
        small = Image.fromarray(self.pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)
        return View(np.asarray(small), 0, 0, size, (size[0] / width, size[1] / height))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Height and width, made multiples of 32."""
        return _padded(self.pixels.shape[0]), _padded(self.pixels.shape[1])

    def to_image(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) in pixels of the image, given in pixels of the view."""
        offset = np.array([self.left, self.top] * 2, np.float64)
        moved: npt.NDArray[np.float32] = ((boxes + offset) / np.array(self.per_pixel * 2)).astype(np.float32)
        return moved

    def cuts(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which (N,) of the boxes (N, 4), in pixels of the view, touch a border of the view that is not the image's own."""
        width, height = self.size
        margin = np.maximum(2, longer_sides(boxes) * _CUT_MARGIN)
        cut = np.zeros(len(boxes), np.bool_)
        if self.left > 0:
            cut |= boxes[:, 0] < margin
        if self.top > 0:
            cut |= boxes[:, 1] < margin
        if self.left + width < self.working[0]:
            cut |= boxes[:, 2] > width - margin
        if self.top + height < self.working[1]:
            cut |= boxes[:, 3] > height - margin
        return cut


def _resample(image: Pixels | Regions, working: tuple[int, int], rectangle: Sequence[int]) -> Pixels:
    """The rectangle x1 y1 x2 y2 of the image scaled to `working` (width, height), without scaling all of it."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = rectangle
    if working == (width, height):
        return image[y1:y2, x1:x2]
    step_x, step_y = width / working[0], height / working[1]
    resampling = Image.Resampling.BICUBIC if step_x < 1 else Image.Resampling.BILINEAR
    slack_x, slack_y = math.ceil(3 * max(1, step_x)), math.ceil(3 * max(1, step_y))
    left, right = max(0, math.floor(x1 * step_x) - slack_x), min(width, math.ceil(x2 * step_x) + slack_x)
    rows = max(_STRIP_ROWS, int(_STRIP_PIXELS / ((right - left) * step_y)))
    scaled = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
    for first in range(y1, y2, rows):
        last = min(first + rows, y2)
        top, bottom = max(0, math.floor(first * step_y) - slack_y), min(height, math.ceil(last * step_y) + slack_y)
        strip = Image.fromarray(image[top:bottom, left:right])
        box = (
            x1 * step_x - left,
            first * step_y - top,
            min(x2 * step_x - left, right - left),
            min(last * step_y - top, bottom - top),
        )
        scaled[first - y1 : last - y1] = np.asarray(strip.resize((x2 - x1, last - first), resampling, box=box))
    return scaled


def scale_factor(scale: Scale | None, width: int, height: int) -> float:
    """The factor by which an image of width x height pixels is enlarged; see `scale` of `tinyfaces.Detector`."""
    if scale is not None and scale != "auto":
        return scale
    pixels, largest = _AUTO if scale == "auto" else _SMALL
    return min(max(1.0, math.sqrt(pixels / max(1, width * height))), largest)


def factor_to(pixels: int, width: int, height: int) -> float:
    """The factor, at most 1, that leaves about this many pixels of an image of width x height, padding included."""
    # The second bound is for images of a few rows, whose padding outweighs them.
    return min(1.0, math.sqrt(pixels / (width * height)), pixels / (MULTIPLE * max(width, height)))


def scaled_size(width: int, height: int, factor: float) -> tuple[int, int]:
    """Width and height of an image scaled by `factor`, at least 1 each."""
    return max(1, round(width * factor)), max(1, round(height * factor))


def _padded(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE


def padded_pixels(width: int, height: int) -> int:
    """How many pixels the network sees of an image of width x height pixels: both sides are padded to multiples of 32."""
    return _padded(width) * _padded(height)
