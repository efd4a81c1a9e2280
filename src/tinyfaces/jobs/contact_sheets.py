"""Pictures of faces beside what the second stage makes of them."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.crops import HIGH_SIDE, LOW_SIDE, crop_squares, cut_crops
from tinyfaces.detection.images import Pixels, Regions

_GAP = 4
_MAX_COLUMNS = 12


def low_crops(image: Pixels | Regions, boxes: npt.NDArray[np.float32]) -> Pixels:
    """Boxes (N, 4) of an image HxWx3 with their context, as the second stage sees them: (N, 16, 16, 3) uint8 RGB."""
    return cut_crops(image, crop_squares(boxes), LOW_SIDE)


def pair(low: Pixels, restored: Pixels) -> Image.Image:
    """A low-resolution crop (16, 16, 3), its pixels shown as squares, and beside it the restored one (64, 64, 3)."""
    picture = Image.new("RGB", (2 * HIGH_SIDE + _GAP, HIGH_SIDE), "white")
    picture.paste(Image.fromarray(low).resize((HIGH_SIDE, HIGH_SIDE), Image.Resampling.NEAREST), (0, 0))
    picture.paste(Image.fromarray(restored), (HIGH_SIDE + _GAP, 0))
    return picture


def contact_sheet(low: Pixels, restored: Pixels) -> Image.Image:
    """All pairs of N crops, low (N, 16, 16, 3) and restored (N, 64, 64, 3), in rows of up to 12 pairs."""
    columns = min(_MAX_COLUMNS, max(1, math.ceil(math.sqrt(len(low)))))
    rows = max(1, math.ceil(len(low) / columns))
    width, height = 2 * HIGH_SIDE + _GAP, HIGH_SIDE
    sheet = Image.new("RGB", (columns * (width + 2 * _GAP), rows * (height + 2 * _GAP)), "white")
    for number, (small, large) in enumerate(zip(low, restored, strict=True)):
        row, column = divmod(number, columns)
        sheet.paste(pair(small, large), (column * (width + 2 * _GAP) + _GAP, row * (height + 2 * _GAP) + _GAP))
    return sheet
