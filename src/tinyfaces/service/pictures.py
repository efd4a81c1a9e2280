"""Pictures made of a detection: faces framed, faces covered, faces restored."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.masking import MaskStyle, Plane, cover

PictureKind = Literal["annotated", "anonymised"]

Method = Literal["blur", "pixelate", "solid"]

ANONYMISE_THRESHOLD = 0.2
"""Lower than the models' own, as for `tinyfaces anonymise`: a face that is missed costs more than a hand that is covered."""

_JPEG_QUALITY = 92


def make_picture(kind: PictureKind, pixels: Pixels, faces: Faces, covering: MaskStyle, format: str) -> bytes:
    """A picture HxWx3 with its faces framed or covered, as a file of the format PNG or JPEG, without metadata."""
    if kind == "annotated":
        return as_file(faces.draw(pixels), format)
    covered = pixels.copy()
    cover([Plane(covered[..., channel], 1, 1, 0) for channel in range(3)], faces.boxes, covering)
    return as_file(Image.fromarray(covered), format)


def stacked(crops: Pixels) -> bytes:
    """Crops (N, S, S, 3) as a PNG, one below the other; one white pixel where there are none."""
    strip = crops.reshape(-1, *crops.shape[2:]) if len(crops) else np.full((1, 1, 3), 255, np.uint8)
    return as_file(Image.fromarray(strip), "PNG")


def as_file(image: Image.Image, format: str) -> bytes:
    """An RGB image as PNG or JPEG."""
    content = io.BytesIO()
    image.save(content, format, quality=_JPEG_QUALITY)
    return content.getvalue()
