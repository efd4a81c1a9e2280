"""WIDER FACE's boxes and ours: it counts places from the middle of a pixel, we count them from the pixel's edge.

Its box `0 0 8 8` begins in the middle of the first pixel, which is 0.5 0.5 here. Half a pixel is much for faces of 8 pixels:
where it is overlooked, a twentieth of them counts as missed. Mirrored, such boxes would also be off by a whole pixel.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

MIDDLE_OF_PIXEL = 0.5
"""Where it is, from the pixel's edge."""


def from_wider(boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) x1 y1 x2 y2 of ours from x y w h of WIDER FACE, both in pixels."""
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    corner = given[:, :2] + MIDDLE_OF_PIXEL
    return np.concatenate([corner, corner + given[:, 2:]], axis=1)


def to_wider(boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) x y w h of WIDER FACE from x1 y1 x2 y2 of ours, both in pixels."""
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([given[:, :2] - MIDDLE_OF_PIXEL, given[:, 2:] - given[:, :2]], axis=1)
