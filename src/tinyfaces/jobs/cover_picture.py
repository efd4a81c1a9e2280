"""A picture of the user's own, such as an emoji, that is put over masked faces."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.images import ImageError, Pixels, open_image, upright
from tinyfaces.jobs.emoji_cover import emoji_picture, is_emoji

Cover: TypeAlias = npt.NDArray[np.float32]
"""(h, w, 2): the values of a picture in one plane, and its opacity, 0-1."""

_SIDE = 256  # pixels: as large as covers need to be; a multiple of what video formats ask for
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


@dataclass(frozen=True, eq=False)
class CoverPicture:
    """A picture to put over masked faces.

    Args:
        pixels: (256, 256, 3) uint8 RGB; the picture's sides are stretched to this, and to each mask's.
        opacity: (256, 256) float32, 0-1.
    """

    pixels: Pixels
    opacity: npt.NDArray[np.float32]

    @property
    def digest(self) -> str:
        """What tells it from other pictures."""
        return hashlib.sha256(self.pixels.tobytes() + self.opacity.tobytes()).hexdigest()[:16]

    def in_planes(self, planes: Sequence[npt.NDArray[np.generic]]) -> list[Cover]:
        """Planes that show the picture, each with its opacity."""
        opaque = Image.fromarray(self.opacity)
        return [
            np.stack([plane, np.asarray(opaque.resize(plane.shape[::-1], Image.Resampling.BOX))], axis=-1).astype(np.float32)
            for plane in planes
        ]

    def in_mode(self, mode: str, brightest: float) -> list[Cover]:
        """The picture in the channels of a photo but for its transparency.

        Args:
            mode: Of the photo, as Pillow calls it.
            brightest: What is white in a photo with more than 8 bits.
        """
        deep = mode in _DEEP
        image = Image.fromarray(self.pixels).convert("L" if deep or mode == "LA" else "RGB" if mode == "RGBA" else mode)
        values = np.asarray(image, np.float32).reshape(_SIDE, _SIDE, -1)
        return self.in_planes([values[..., n] * (brightest / 255 if deep else 1) for n in range(values.shape[2])])


def read_cover_picture(path: Path) -> CoverPicture:
    """Read a picture to cover faces with, or draw an emoji, if the path is one and there is no such file. Raises ImageError."""
    if is_emoji(str(path)) and not path.exists():
        return cover_picture(emoji_picture(str(path)), str(path))
    with open_image(path) as image:
        return cover_picture(image, str(path))


def cover_picture(image: Image.Image, name: str) -> CoverPicture:
    """A picture to cover faces with. `name` stands in messages. Raises ImageError."""
    try:
        values = np.asarray(upright(image).convert("RGBA").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    except Exception as error:  # Pillow's plugins raise nearly anything for a damaged file
        raise ImageError(f"{name}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from None
    return CoverPicture(np.ascontiguousarray(values[..., :3]), np.asarray(values[..., 3] / 255, np.float32))
