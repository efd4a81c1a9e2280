"""Pictures made of a detection: faces framed, faces made unrecognisable, one face restored."""

import io
from typing import Literal

from PIL import Image

from tinyfaces.faces import Faces
from tinyfaces.images import Pixels

PictureKind = Literal["annotated", "anonymised"]

_JPEG_QUALITY = 92


def make_picture(kind: PictureKind, pixels: Pixels, faces: Faces, format: str) -> bytes:
    """A picture HxWx3 with its faces framed or made unrecognisable, as a file of the format PNG or JPEG."""
    if kind == "annotated":
        return as_file(faces.draw(pixels), format)
    from tinyfaces.anonymise import anonymise_image

    return as_file(Image.fromarray(anonymise_image(pixels, faces)), format)


def as_file(image: Image.Image, format: str) -> bytes:
    """An RGB image as PNG or JPEG."""
    content = io.BytesIO()
    image.save(content, format, quality=_JPEG_QUALITY)
    return content.getvalue()
