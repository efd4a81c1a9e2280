"""Images too large for memory, read region by region with libvips: scans and panoramas of gigapixels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from tinyfaces.detection.images import ImageError, Pixels

_STRIP_PIXELS = 4_000_000
_READ_FORWARD = "sequential"
_READ_ANYWHERE = "random"


class LargeImage:
    """An image file of any size; slicing it, `image[y1:y2, x1:x2]`, reads these pixels, HxWx3 uint8 RGB, upright.

    Reads forward: what lies above the last region is forgotten, and going back there begins the file anew. So memory is
    that of a band of the image as high as the highest region. TIFF, JPEG, PNG and whatever else libvips knows; a progressive
    JPEG is the exception that needs memory as a whole. Files to be turned upright are unpacked to a temporary file first.

    Raises ImageError where the file cannot be read, or the extra `large` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._vips = _pyvips(path)
        image = self._open()
        self.shape = (image.height, image.width, 3)
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
        """The image as a whole, reduced so that its longer side is at most `side`. Raises ImageError."""
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
        """Let the band go from row `top` to row `bottom`, or further."""
        end = self._top + len(self._band)
        if bottom <= end:
            return
        kept = self._band[min(top, end) - self._top :].copy()
        self._band = np.empty((bottom - top, self.shape[1], 3), np.uint8)
        self._band[: len(kept)] = kept
        self._top = top
        # Rows that nobody asked for are read over: libvips goes forward only.
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
            f"{path}: has more than 250 megapixels, for which pyvips is needed: pip install 'tinyfaces[large]'"
        ) from None
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # what libvips warns of, its errors say too
    # A cache of operations would keep pixels of files that are done.
    pyvips.cache_set_max(0)
    return pyvips


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
