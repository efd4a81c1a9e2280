"""What the header of an image file says of it, without its pixels."""

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_ORIENTATION_TAG = 0x0112
_ROTATED = (5, 6, 7, 8)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image that is not decoded, 1-8."""
    try:
        stated = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return stated if 1 <= stated <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that an image has when its orientation is applied; it is not decoded."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # of which Pillow gives the upright size, in some of its versions
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    return (height, width) if orientation(image) in _ROTATED else (width, height)
