"""Photos of a review as the page shows them: as they are, and covered as they will be written."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.masking import Plane, mask_faces

THUMBNAIL_SIDE = 176
LARGEST_SHOWN = 6_000_000
"""Pixels of a picture that is sent. Larger photos are reduced, and sent part by part where the page zooms in."""

_LOSSLESS = 1_000_000  # pixels up to which a picture is sent without loss
LOSSLESS_FRAME = 310_000
"""The same of a frame of a video: without loss a larger one takes most of the time until it is shown."""
_QUALITY = 92
_KEPT_PIXELS = 60_000_000
_KEPT_PHOTOS = 6  # the one that is looked at, its neighbours, two that come next, and one more
_REACH = 3.0  # pixels that a mask is larger than its enlarged box, rounded up

Region: TypeAlias = tuple[int, int, int, int]
"""Left, top, width and height, in pixels of the photo."""


class View:
    """A photo in memory, as it is and covered. One thread at a time may use it.

    Args:
        pixels: HxWx3 uint8 RGB.
        masking: How faces are covered.
    """

    def __init__(self, pixels: Pixels, masking: Masking) -> None:
        self.lock = threading.Lock()
        self._pixels = pixels
        self._style = masking.style
        self._covers = [None] * 3 if masking.picture is None else masking.picture.in_mode("RGB", 255)
        self._masked = pixels
        self._boxes: npt.NDArray[np.float32] = np.zeros((0, 4), np.float32)

    @property
    def held(self) -> int:
        """Its pixels."""
        return int(self._pixels.shape[0] * self._pixels.shape[1])

    def cover(self, boxes: npt.NDArray[np.float32]) -> Region | None:
        """Cover exactly these boxes (N, 4), in this order. Gives the part of the picture that this changes; None for nothing."""
        if np.array_equal(boxes, self._boxes):
            return None
        if self._masked is self._pixels:
            self._masked = self._pixels.copy()
            self._mask(boxes)
            self._boxes = boxes
            return (0, 0, self._pixels.shape[1], self._pixels.shape[0])
        left, top, right, bottom = area = self._affected(boxes)
        before = self._masked[top:bottom, left:right].copy()
        self._masked[top:bottom, left:right] = self._pixels[top:bottom, left:right]
        self._mask(boxes[_overlapping(self._reach(boxes), np.array([area], np.float64))])
        self._boxes = boxes
        different = (before != self._masked[top:bottom, left:right]).any(axis=2)
        if not different.any():
            return None
        rows, columns = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
        x, y = left + int(columns[0]), top + int(rows[0])
        return (x, y, int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)

    def picture(self, covered: bool, region: Region | None = None) -> tuple[bytes, str]:
        """The picture or a part of it as a file, and its media type. A part beyond the picture is cut."""
        return encoded(self._masked if covered else self._pixels, region)

    def _mask(self, boxes: npt.NDArray[np.float32]) -> None:
        planes = [Plane(self._masked[..., channel], 1, 1, 0, cover) for channel, cover in enumerate(self._covers)]
        mask_faces(planes, boxes, self._style)

    def _reach(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What masks of boxes (N, 4) may change, a little more than less: (N, 4)."""
        sides = boxes.astype(np.float64)
        centres = (sides[:, :2] + sides[:, 2:]) / 2
        half = np.abs(sides[:, 2:] - sides[:, :2]) / 2 * self._style.enlarge + _REACH
        return np.concatenate([centres - half, centres + half], axis=1)

    def _affected(self, boxes: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 around all that can differ once these boxes are covered. Masks average what lies under them, so that a
        change goes on to all masks that overlap, and to those that overlap these."""
        old, new = map(_rows, (self._boxes, boxes))
        changed = np.array([box for box in {*old} ^ {*new}], np.float32).reshape(-1, 4)
        if not len(changed):  # only their order
            changed = boxes
        others = self._reach(np.concatenate([self._boxes, boxes]))
        height, width = self._pixels.shape[:2]
        area = _around(self._reach(changed))
        while True:
            wider = _around(np.concatenate([area[None], others[_overlapping(others, area[None])]]))
            if np.array_equal(wider, area):
                break
            area = wider
        left, top = np.clip(np.floor(area[:2]), 0, [width, height]).astype(int)
        right, bottom = np.clip(np.ceil(area[2:]), 0, [width, height]).astype(int)
        return int(left), int(top), int(right), int(bottom)


def encoded(pixels: Pixels, region: Region | None = None, lossless: int = _LOSSLESS) -> tuple[bytes, str]:
    """A picture HxWx3 or a part of it as a file, and its media type. A part beyond the picture is cut, a large one reduced.

    lossless: Pixels up to which it is a PNG.
    """
    if region is not None:
        left, top, width, height = region
        pixels = pixels[max(0, top) : top + height, max(0, left) : left + width]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    area = image.width * image.height
    if area > LARGEST_SHOWN:
        share = (LARGEST_SHOWN / area) ** 0.5
        image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BOX)
    content = io.BytesIO()
    if area <= lossless:
        image.save(content, "PNG", compress_level=1)
        return content.getvalue(), "image/png"
    image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue(), "image/jpeg"


def thumbnail(pixels: Pixels) -> bytes:
    """A photo HxWx3 as a small JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


@dataclass
class _Slot:
    """A place for a view, which one thread fills while others wait."""

    lock: threading.Lock
    view: View | None = None


class ViewCache:
    """The views used last.

    Args:
        load: Gives the view of a photo by its number.
    """

    def __init__(self, load: Callable[[int], View]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def get(self, number: int) -> View:
        """The view of a photo, which is loaded where it is not kept. Raises what `load` raises."""
        with self._lock:
            slot = self._slots.setdefault(number, _Slot(threading.Lock()))
            self._slots.move_to_end(number)
        with slot.lock:
            if slot.view is None:
                slot.view = self._load(number)
            view = slot.view
        self._drop()
        return view

    def forget(self, number: int) -> None:
        """Load a photo anew when it is asked for again."""
        with self._lock:
            self._slots.pop(number, None)

    def _drop(self) -> None:
        with self._lock:
            while len(self._slots) > 1:
                held = sum(slot.view.held for slot in self._slots.values() if slot.view is not None)
                if len(self._slots) <= _KEPT_PHOTOS and held <= _KEPT_PIXELS:
                    return
                self._slots.popitem(last=False)


def _rows(boxes: npt.NDArray[np.float32]) -> list[tuple[float, ...]]:
    return [tuple(box) for box in boxes.tolist()]


def _around(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _overlapping(boxes: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which (N,) of the boxes (N, 4) overlap the only one of the areas (1, 4)."""
    return np.asarray(((boxes[:, :2] < areas[0, 2:]) & (boxes[:, 2:] > areas[0, :2])).all(axis=1))
