"""Pictures made from a detection: faces framed, masked or restored."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces

PictureKind = Literal["annotated", "anonymised"]

Method = Literal["blur", "pixelate", "solid"]

_JPEG_QUALITY = 92


def make_picture(
    kind: PictureKind, pixels: Pixels, faces: Faces, style: MaskStyle, format: str, cover: CoverPicture | None = None
) -> bytes:
    """A picture HxWx3 with its faces framed or masked, with `cover` over each mask, as a PNG or JPEG file without metadata."""
    if kind == "annotated":
        return as_file(faces.draw(pixels), format)
    masked = pixels.copy()
    covers = [None] * 3 if cover is None else cover.in_mode("RGB", 255)
    mask_faces([Plane(masked[..., channel], 1, 1, 0, covers[channel]) for channel in range(3)], faces.boxes, style)
    return as_file(Image.fromarray(masked), format)


def stacked(crops: Pixels) -> bytes:
    """Crops (N, S, S, 3) as a PNG, one below the other; one white pixel where there are none."""
    strip = crops.reshape(-1, *crops.shape[2:]) if len(crops) else np.full((1, 1, 3), 255, np.uint8)
    return as_file(Image.fromarray(strip), "PNG")


def as_file(image: Image.Image, format: str) -> bytes:
    """An RGB image as PNG or JPEG."""
    content = io.BytesIO()
    image.save(content, format, quality=_JPEG_QUALITY)
    return content.getvalue()
