"""Faces in an image file of any size."""

from typing import TypeAlias

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import ImageTooLarge, Pixels, read_image
from tinyfaces.detection.large import LargeImage
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile

AnyImage: TypeAlias = Pixels | LargeImage
"""An image in memory, HxWx3 uint8 RGB, or one that is read region by region."""

_PREVIEW_SIDE = 2000  # pixels: enough for a screen


def find_faces(file: InputFile, detector: Detector) -> tuple[ImageResult, AnyImage]:
    """Find the faces in an image file; one that is too large for memory is read region by region.

    Returns:
        The faces, and the image they were found in.

    Raises:
        ImageError: The file cannot be read.
    """
    image: AnyImage
    try:
        image = read_image(file.path)
        faces = detector.detect(image)
    except ImageTooLarge:
        image = LargeImage(file.path)
        faces = detector.detect_regions(image)
    height, width = image.shape[:2]
    return ImageResult(file.path, file.name, width, height, faces), image


def preview(image: AnyImage) -> Pixels:
    """The image, reduced to 2,000 pixels if it is too large for memory. Raises ImageError."""
    return image.preview(_PREVIEW_SIDE) if isinstance(image, LargeImage) else image
