"""Where boxes lie in the frames of a video that is stored turned, or whose frames change their size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.images import Pixels

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Turn:
    """How stored frames are made upright: exchange x and y, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, matrix: npt.NDArray[np.int32] | None) -> "Turn":
        """The turn of a display matrix (9,), to the nearest right angle."""
        if matrix is None:
            return cls()
        a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
        if abs(a) >= abs(b):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, pixels: Pixels) -> Pixels:
        """Turn a stored frame HxWx3 upright."""
        turned = pixels.transpose(1, 0, 2) if self.swap else pixels
        return np.ascontiguousarray(turned[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])

    def unapply(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn upright pixels HxWx3, or one value for each (H, W), as they are stored: what `apply` turns back."""
        mirrored = values[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        return np.ascontiguousarray(mirrored.swapaxes(0, 1) if self.swap else mirrored)

    def redo(self, boxes: Boxes, width: int, height: int) -> Boxes:
        """Boxes (N, 4) in pixels of the upright frame of width x height, given in pixels of the stored one."""
        return self._mirrored(boxes[:, [1, 0, 3, 2]] if self.swap else boxes, width, height)

    def undo(self, boxes: Boxes, width: int, height: int) -> Boxes:
        """Boxes (N, 4) in pixels of the stored frame, given in pixels of the upright one of width x height."""
        mirrored = self._mirrored(boxes, width, height)
        return mirrored[:, [1, 0, 3, 2]] if self.swap else mirrored

    def _mirrored(self, boxes: Boxes, width: int, height: int) -> Boxes:
        x1, y1, x2, y2 = boxes.T
        if self.mirror_x:
            x1, x2 = width - x2, width - x1
        if self.mirror_y:
            y1, y2 = height - y2, height - y1
        return np.stack([x1, y1, x2, y2], axis=1)


@dataclass(frozen=True)
class Shape:
    """The shape of a frame.

    Args:
        width: Of the upright frame, in pixels.
        height: Of the upright frame, in pixels.
        turn: How the stored frame is made upright.
    """

    width: int
    height: int
    turn: Turn

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the stored frame."""
        return (self.height, self.width) if self.turn.swap else (self.width, self.height)

    def boxes_in(self, other: "Shape", boxes: Boxes) -> Boxes:
        """Boxes (N, 4) in pixels of this frame, upright, in pixels of a frame of another shape that shows the same."""
        if self == other or not len(boxes):
            return boxes
        share = [there / here for here, there in zip(self.stored, other.stored, strict=True)]
        scaled = self.turn.undo(boxes, *self.size) * np.array(share * 2, np.float32)
        return other.turn.redo(scaled, *other.size)
