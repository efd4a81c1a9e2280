"""The public function `anonymise`: the faces of an image masked, in memory."""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.boxes import outside
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import ImageSource, open_source, read_image, upright
from tinyfaces.jobs.cover_picture import CoverPicture, cover_picture, read_cover_picture
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.covered_faces import Masking, covered_faces
from tinyfaces.jobs.emoji_cover import is_emoji
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import masked_picture, photo_of
from tinyfaces.jobs.selection import ALL, Selection

Boxes: TypeAlias = Faces | npt.NDArray[Any] | list[Any]
"""Faces, or boxes (N, 4), x1 y1 x2 y2 in pixels."""

_KEPT = ("icc_profile", "dpi", "transparency")  # what an image looks like, not what it is of


def anonymise(
    image: ImageSource,
    faces: Boxes | None = None,
    *,
    detector: Detector | None = None,
    threshold: CoverThreshold | float | None = None,
    selection: Selection = ALL,
    method: str | None = None,
    style: MaskStyle | None = None,
    cover: ImageSource | None = None,
) -> Image.Image:
    """Mask the faces of an image, as `tinyfaces anonymise` does.

    The image is searched in all ways in which a viewer may show it: with and without its transparency, the transparency alone,
    and greys of 16 bits stretched. What is fully transparent loses its colour. Of an animation, only the first frame is taken.

    Args:
        image: Whatever `read_image` takes. It is not changed.
        faces: What to mask, in pixels of the upright image: `Faces`, or boxes (N, 4), x1 y1 x2 y2. Nothing is detected then, and
            exactly these are masked. If None, faces are detected.
        detector: Finds the faces. If None, `Detector()`, which is opened once for all calls.
        threshold: The score from which a face is masked, or a `CoverThreshold`. If None, a low one that depends on the face's
            height: 0.15 up to 24 pixels, 0.4 from 256 on. The detector's own has no effect.
        selection: Which of the faces found are masked.
        method: "blur", the default, "pixelate" or "solid".
        style: How faces are masked in every respect, in place of `method`.
        cover: A picture to put over each mask: whatever `read_image` takes, or an emoji such as "😀", which a colour font of the
            system must have. What shows through it is masked.

    Returns:
        A new upright image of the same size without metadata; only its colour profile and resolution are in `info`. Its mode is
        that of the original, but palettes and rare modes become RGB or RGBA. Colours have 8 bits, also where a file has more.

    Raises:
        ImageError: The image or the cover cannot be read.
        TypeError: `style` is no `MaskStyle`.
        ValueError: Both `method` and `style` were given;
            `faces` has another shape, a box without an area or one outside the image; the threshold is outside 0-1;
            options that choose among faces found were given beside `faces`; or the selection says something about tracks or
            times, which images do not have.

    Example:
        ```python
        masked = tinyfaces.anonymise("crowd.jpg", method="solid")
        masked.save("masked.jpg")
        ```
    """
    style = MaskStyle.of(method, style)
    if selection.needs_video:
        raise ValueError("an image has no tracks and no times to select")
    if faces is not None and (detector is not None or threshold is not None or selection != ALL):
        raise ValueError("exactly the faces given are masked: detector, threshold and selection do not go with them")
    given = None if faces is None else as_faces(faces)
    picture = None if cover is None else read_cover(cover)
    masking = Masking(CoverThreshold.of(threshold), style, selection=selection, picture=picture)
    with open_source(image) as opened:
        pixels = read_image(opened)
        kept: dict[str | tuple[int, int], Any] = {name: opened.info[name] for name in _KEPT if name in opened.info}
        whole = upright(opened).copy()
    if given is not None:
        _check_inside(given, whole.width, whole.height)
    photo = photo_of(Path(), whole, pixels, "", {}, Image.Exif(), [])
    if given is None:
        covered = covered_faces(photo, detector or _shared_detector(), masking)
    else:
        covered = covered_faces(photo, None, masking, [given])
    masked = masked_picture(photo, covered.faces, masking.style, covered.in_alpha, picture)
    if not photo.image.mode.startswith(("I", "F")):  # whose transparency is one grey, while that of others is a channel now
        kept.pop("transparency", None)
    masked.info = kept
    return masked


def read_cover(cover: ImageSource) -> CoverPicture:
    """A picture to put over masks, or an emoji. Raises ImageError."""
    if isinstance(cover, str) and is_emoji(cover):
        return read_cover_picture(Path(cover))
    with open_source(cover) as opened:
        return cover_picture(opened, getattr(opened, "filename", "") or "cover")


def as_faces(faces: Boxes) -> Faces:
    """The same as `Faces`; boxes score 1. Raises ValueError for other shapes and for a box without an area."""
    if not isinstance(faces, Faces):
        boxes = np.asarray(faces, np.float32)
        faces = Faces(boxes, np.ones(len(boxes), np.float32))
    flat = ~(np.isfinite(faces.boxes).all(axis=1) & (faces.boxes[:, 2:] > faces.boxes[:, :2]).all(axis=1))
    if flat.any():
        raise ValueError(f"faces has a box without an area ({_told(faces.boxes[flat][0])})")
    return faces


def _check_inside(faces: Faces, width: int, height: int) -> None:
    """Raises ValueError for boxes outside an image of this size, as they were meant for another one."""
    beyond = outside(faces.boxes, width, height)
    if beyond.any():
        raise ValueError(f"faces has a box outside the image of {width}x{height} pixels ({_told(faces.boxes[beyond][0])})")


def _told(box: npt.NDArray[np.float32]) -> str:
    return " ".join(f"{side:g}" for side in box.tolist())


@lru_cache(maxsize=1)
def _shared_detector() -> Detector:
    return Detector()
