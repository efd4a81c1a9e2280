"""Faces cut out of photos and videos, each in a file of its own."""

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.images import Pixels
from tinyfaces.files import named_after, write_atomically
from tinyfaces.jobs.finding import AnyImage
from tinyfaces.jobs.image_results import ImageResult, Named
from tinyfaces.jobs.own_results import as_marked_picture, is_marked_picture

MARGIN = 0.25


class CropError(ValueError):
    """A crop cannot be written. The message is one line that names the file."""


@dataclass(frozen=True)
class FaceCrops:
    """Where the faces of photos and videos go, each in a PNG file of its own.

    Args:
        folder: For all of them.
        margin: What is shown around a face, on each side, relative to its width and height.
        is_given: Whether a file is one of those given, which are never overwritten.
    """

    folder: Path
    margin: float = MARGIN
    is_given: Callable[[Path], bool] = lambda path: False

    def first(self, file: Named) -> Path:
        """The file of the best face of a photo, or of a video's first track. It stands for all of them, whose number is not known
        before."""
        return self._place(file, 0)

    def write(self, result: ImageResult, image: AnyImage) -> list[Path]:
        """Write the faces of a photo, highest score first, and give their paths. Crops of the same photo from an earlier run that
        have higher numbers are removed, as they are of other faces.

        Raises:
            CropError: A file of that name is no crop, or was given.
            ImageError: The photo is damaged.
            OSError: A file cannot be written.
        """
        places = [self._place(result, number) for number in range(len(result.faces))]
        for place in places:
            self._check(place)
        for number, pixels in _cut(image, result.faces.boxes, self.margin):
            write_atomically(places[number], as_marked_picture(Image.fromarray(pixels), "PNG"), self.first(result))
        number = len(places)
        while self._remove(self._place(result, number)):
            number += 1
        return places

    def write_track(self, file: Named, track: int, box: npt.NDArray[np.float32], picture: Pixels) -> Path:
        """Write a face of a video, and give its path.

        Args:
            file: The video.
            track: The number of the face's track, which is that of its file.
            box: (4,), x1 y1 x2 y2 in pixels of the picture.
            picture: What it was found in, HxWx3 uint8 RGB.

        Raises:
            CropError: A file of that name is no crop, or was given.
            OSError: The file cannot be written.
        """
        place = self._place(file, track)
        self._check(place)
        for _, pixels in _cut(picture, box[None], self.margin):
            write_atomically(place, as_marked_picture(Image.fromarray(pixels), "PNG"), self.first(file))
        return place

    def remove_other_tracks(self, file: Named, written: Collection[Path]) -> None:
        """Remove the crops of a video that an earlier run wrote and this one did not. Raises OSError."""
        first = self.first(file)
        numbered = re.compile(re.escape(first.name.removesuffix("000.png")) + r"\d{3,}\.png")
        for place in sorted(first.parent.iterdir()) if first.parent.is_dir() else ():
            if numbered.fullmatch(place.name) and place not in written:
                self._remove(place)

    def _remove(self, place: Path) -> bool:
        """Remove a crop; what is none, or was given, stays. Gives whether it is gone."""
        if not place.is_file() or self.is_given(place) or not is_marked_picture(place):
            return False
        place.unlink()
        return True

    def _check(self, place: Path) -> None:
        if self.is_given(place):
            raise CropError(f"{place}: is one of the input files, which are never overwritten")
        if place.exists() and not is_marked_picture(place):
            raise CropError(f"{place}: is no crop of a face, and is not overwritten")

    def _place(self, file: Named, number: int) -> Path:
        return self.folder / named_after(file.name, f"_face_{number:03d}.png")


def _cut(image: AnyImage, boxes: npt.NDArray[np.float32], margin: float) -> Iterator[tuple[int, Pixels]]:
    """The number of each face and its pixels hxwx3, from top to bottom, as huge images are read in this order only."""
    height, width = image.shape[:2]
    for number in np.argsort(boxes[:, 1] - margin * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist():
        x1, y1, x2, y2 = boxes[number].tolist()
        left, right = _span(x1, x2, margin, width)
        top, bottom = _span(y1, y2, margin, height)
        yield number, np.ascontiguousarray(image[top:bottom, left:right])


def _span(start: float, end: float, margin: float, side: int) -> tuple[int, int]:
    """What is shown of a side of the image: at least a pixel."""
    more = margin * (end - start)
    first = min(max(0, math.floor(start - more)), side - 1)
    return first, max(first + 1, min(side, math.ceil(end + more)))
