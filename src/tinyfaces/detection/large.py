"""Images too large for memory, read region by region with libvips: scans and panoramas of gigapixels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from tinyfaces.detection.images import ImageError, Pixels, refuse_damaged_size

_STRIP_PIXELS = 4_000_000
_READ_FORWARD = "sequential"
_READ_ANYWHERE = "random"


class LargeImage:
    """An image file of any size. Slicing it, `image[y1:y2, x1:x2]`, reads these pixels: hxwx3 uint8 RGB, upright.

    It reads forward: what lies above the last region is forgotten, and going back there reads the file from its start. So memory
    is that of a band as high as the highest region. TIFF, JPEG, PNG and all other formats of libvips can be read; only
    progressive JPEGs need memory for the whole image. Files that must be turned upright are first unpacked to a temporary file.

    Args:
        path: The file.

    Raises:
        ImageError: The file cannot be read, or the extra `large` is not installed.

    Example:
        ```python
        from tinyfaces.detection.large import LargeImage

        faces = detector.detect_regions(LargeImage(Path("panorama.tif")))
        ```
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._vips = _pyvips(path)
        image = self._open()
        self.shape = (image.height, image.width, 3)
        refuse_damaged_size(path, image.width, image.height)
        self._begin(image)

    def __getitem__(self, region: tuple[slice, slice]) -> Pixels:
        (top, bottom, _), (left, right, _) = (part.indices(side) for part, side in zip(region, self.shape[:2], strict=True))
        if top < self._top:
            self._begin(self._open())
        try:
            self._advance(top, bottom)
        except self._vips.Error as error:
            raise ImageError(f"{self.path}: damaged or cut short ({_first_line(error)})") from None
        return self._band[top - self._top : bottom - self._top, left:right]

    def preview(self, side: int) -> Pixels:
        """The whole image, reduced so that its longer side has at most `side` pixels. Raises ImageError."""
        try:
            small = self._vips.Image.thumbnail(str(self.path), side, height=side, size="down")
            return np.ascontiguousarray(_as_rgb(small).numpy())
        except self._vips.Error as error:
            raise ImageError(f"{self.path}: damaged or cut short ({_first_line(error)})") from None

    def _open(self) -> Any:
        try:
            image = self._vips.Image.new_from_file(str(self.path), access=_READ_FORWARD, fail_on="truncated")
            if image.get_typeof("orientation") and image.get("orientation") != 1:
                image = self._vips.Image.new_from_file(str(self.path), access=_READ_ANYWHERE, fail_on="truncated").autorot()
            return _as_rgb(image)
        except self._vips.Error as error:
            raise ImageError(f"{self.path}: cannot be read ({_first_line(error)})") from None

    def _begin(self, image: Any) -> None:
        self._region = self._vips.Region.new(image)
        self._top = 0
        self._band: Pixels = np.empty((0, self.shape[1], 3), np.uint8)

    def _advance(self, top: int, bottom: int) -> None:
        """Move the band so that it holds the rows from `top` to `bottom`."""
        end = self._top + len(self._band)
        if bottom <= end:
            return
        kept = self._band[min(top, end) - self._top :].copy()
        self._band = np.empty((bottom - top, self.shape[1], 3), np.uint8)
        self._band[: len(kept)] = kept
        self._top = top
        # Rows that nobody asked for are read too: libvips only goes forward.
        rows = max(1, _STRIP_PIXELS // self.shape[1])
        for start in range(end, bottom, rows):
            stop = min(start + rows, bottom)
            strip = self._region.fetch(0, start, self.shape[1], stop - start)
            values = np.frombuffer(strip, np.uint8).reshape(stop - start, self.shape[1], 3)
            wanted = values[max(0, top - start) :]
            place = max(start, top) - top
            self._band[place : place + len(wanted)] = wanted


def _as_rgb(image: Any) -> Any:
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=[255, 255, 255])
    return image.cast("uchar")


def _pyvips(path: Path) -> Any:
    try:
        import pyvips
    except (ImportError, OSError):  # OSError where the library itself is missing
        raise ImageError(
            f"{path}: images of more than 250 megapixels are read with pyvips: pip install 'tinyfaces[large]'"
        ) from None
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its warnings are followed by errors that say the same
    # The cache of operations would keep the pixels of files that are done.
    pyvips.cache_set_max(0)
    return pyvips


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
