"""Faces followed from one frame to the next by what they look like, without a detector."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinyfaces.jobs.camera_motion import Boxes, Luma, Motion, Reduced

_LARGEST = 24.0  # sides of boxes are halved until they are no larger than this
_POINTS = 8  # of a patch, in each direction
_AROUND = 1.3  # a patch's side, in sides of the box
_NEAR, _FAR = (np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2) for reach in (np.arange(-1, 2), np.arange(-8, 9, 2)))
"""Pixels, after halving, that a face may be beyond where it was expected: tried step by step, and at once if that is in vain."""
_STEPS = 3
_MAYBE_ALIKE = 0.4
_ALIKE = 0.75  # correlation from which two patches show the same
_PLAIN = 0.92  # the same, from which no place nearby is tried
_NO_BETTER = 0.02  # correlation that a place must gain for each pixel it lies beyond the one that was expected
_FLAT = 2.0  # spread of grey values below which a patch shows nothing
_WITHIN = 0.85  # share of a box that the frame must show to recognise it
_AT_ONCE = 1_000_000  # grey values that are compared at once, which bounds memory


class Grey:
    """The grey picture of a frame, and what is made of it when it is needed."""

    def __init__(self, luma: Luma) -> None:
        self.luma = luma
        self._reduced = Reduced(luma)
        self._halved = [luma]

    def change(self, other: "Grey") -> float:
        """The mean change of grey values, 0-255, to another frame of the same size, of the large parts of the picture only."""
        return float(np.abs(self._thumbnail - other._thumbnail).mean())

    def motion_to(self, other: "Grey") -> Motion:
        """How the picture moves from this frame to another one of the same size."""
        return self._reduced.motion_to(other._reduced)

    @cached_property
    def _thumbnail(self) -> npt.NDArray[np.float32]:
        """Some 24 rows, and columns to match."""
        pixels = self._reduced.pixels
        step = max(1, min(pixels.shape) // 24)
        height, width = (side // step for side in pixels.shape)
        blocks = pixels[: height * step, : width * step].reshape(height, step, width, step)
        return np.asarray(blocks.mean(axis=(1, 3)), np.float32)

    def level(self, number: int) -> Luma:
        """The picture halved so many times."""
        while len(self._halved) <= number:
            self._halved.append(_halved(self._halved[-1]) if min(self._halved[-1].shape) >= 2 else self._halved[-1])
        return self._halved[number]


def followed(greys: Sequence[Grey], boxes: Boxes, camera: Sequence[Motion]) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Where boxes of the first frame are in the frames after it.

    Args:
        greys: The frames, all of one size.
        boxes: (N, 4), x1 y1 x2 y2 in pixels of the first.
        camera: How the picture moves from each frame to the next, one fewer than frames.

    Returns:
        The boxes in each frame (F, N, 4), which grow as the picture does; and whether they were recognised in this frame and all
        before (F, N), or left the picture. Those that were not are where they were expected.
    """
    count = len(boxes)
    places, kept = np.repeat(boxes[None], len(greys), axis=0), np.ones((len(greys), count), np.bool_)
    if not count:
        return places, kept
    sides = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6))
    levels = np.maximum(np.ceil(np.log2(sides / _LARGEST)), 0).astype(np.int64)
    templates = _even(_patches(greys[0], boxes, levels, np.zeros((1, 2), np.int64)))[:, 0]
    own = np.zeros((count, 2))  # motion beside that of the camera
    for number in range(1, len(greys)):
        expected = camera[number - 1].moved(places[number - 1])
        place, likeness = _climbed(greys[number], expected + np.tile(own, 2), levels, templates)
        lost = np.flatnonzero(likeness < _ALIKE)
        if len(lost):
            far = _tried(greys[number], place[lost], levels[lost], templates[lost], _FAR)
            best = (far - _NO_BETTER * np.hypot(*_FAR.T)).argmax(axis=1)
            maybe = far[np.arange(len(lost)), best] >= _MAYBE_ALIKE
            again = lost[maybe]
            start = place[again] + np.tile(_FAR[best[maybe]] * 2.0 ** levels[again, None], 2)
            place[again], likeness[again] = _climbed(greys[number], start, levels[again], templates[again])
        found = likeness >= _ALIKE
        place[~found] = expected[~found]
        places[number] = place
        kept[number] = kept[number - 1] & (found | ~recognisable(place, greys[number]))
        own = np.where(found[:, None], (place - expected)[:, :2], 0)
    return places, kept


def _climbed(
    grey: Grey, boxes: Boxes, levels: npt.NDArray[np.int64], templates: npt.NDArray[np.float32]
) -> tuple[Boxes, npt.NDArray[np.float32]]:
    """Where boxes (N, 4) get by steps to what is more alike, and how alike that is (N,)."""
    boxes, likeness = boxes.copy(), _tried(grey, boxes, levels, templates, np.zeros((1, 2), np.int64))[:, 0]
    rows = np.flatnonzero(likeness < _PLAIN)
    for _ in range(_STEPS if len(rows) else 0):
        near = _tried(grey, boxes[rows], levels[rows], templates[rows], _NEAR)
        best = (near - _NO_BETTER * np.hypot(*_NEAR.T)).argmax(axis=1)
        likeness[rows] = near[np.arange(len(rows)), best]
        boxes[rows] += np.tile(_NEAR[best] * 2.0 ** levels[rows, None], 2)
        rows = rows[_NEAR[best].any(axis=1)]
        if not len(rows):
            break
    return boxes, likeness


def recognisable(boxes: Boxes, grey: Grey) -> npt.NDArray[np.bool_]:
    """Whether so much of each box (N, 4) lies in the picture that what is in it can be recognised."""
    size = np.array(grey.luma.shape[::-1])
    seen = np.maximum(np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0), 0)
    return np.asarray(seen.prod(axis=1) >= _WITHIN * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _halved(luma: Luma) -> Luma:
    height, width = (side // 2 * 2 for side in luma.shape)
    lines = luma[:height:2, :width].astype(np.uint16) + luma[1:height:2, :width]
    return ((lines[:, ::2] + lines[:, 1::2] + 2) >> 2).astype(np.uint8)


def _tried(
    grey: Grey,
    boxes: Boxes,
    levels: npt.NDArray[np.int64],
    templates: npt.NDArray[np.float32],
    shifts: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """How alike (N, S) boxes (N, 4), moved by shifts (S, 2) in pixels of their level, and their templates are, up to 1."""
    likeness = np.empty((len(boxes), len(shifts)), np.float32)
    at_once = max(1, _AT_ONCE // (len(shifts) * _POINTS**2))
    for start in range(0, len(boxes), at_once):
        rows = slice(start, start + at_once)
        patches = _even(_patches(grey, boxes[rows], levels[rows], shifts))
        likeness[rows] = np.matmul(patches, templates[rows, :, None])[..., 0]
    return likeness


def _patches(grey: Grey, boxes: Boxes, levels: npt.NDArray[np.int64], shifts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Grey values (N, S, points) in boxes (N, 4) that are moved by shifts (S, 2), in pixels of their level."""
    patches = np.empty((len(boxes), len(shifts), _POINTS**2), np.float32)
    grid = (np.arange(_POINTS) + 0.5) / _POINTS - 0.5
    for level in np.unique(levels).tolist():
        luma = grey.level(level)
        rows = np.flatnonzero(levels == level)
        here = boxes[rows] / 2**level
        centres, sizes = (here[:, :2] + here[:, 2:]) / 2, (here[:, 2:] - here[:, :2]) * _AROUND
        offsets = grid * sizes[:, :, None]  # (N, 2, points)
        x, y = (np.floor(centres[:, axis, None] + offsets[:, axis]).astype(np.int32) for axis in (0, 1))
        x = np.clip(x[:, None] + shifts[:, 0, None].astype(np.int32), 0, luma.shape[1] - 1)  # (N, S, points)
        y = np.clip(y[:, None] + shifts[:, 1, None].astype(np.int32), 0, luma.shape[0] - 1) * luma.shape[1]
        flat = y[..., :, None] + x[..., None, :]
        patches[rows] = luma.ravel()[flat.reshape(len(rows), len(shifts), -1)]
    return patches


def _even(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Patches (N, S, points) whose values have the mean 0 and the length 1; all 0 where they are flat."""
    patches -= patches.mean(axis=2, keepdims=True)
    length = np.sqrt(np.einsum("nsp,nsp->ns", patches, patches))
    factors = np.where(length < _FLAT * _POINTS, 0, 1 / np.maximum(length, 1e-6))
    patches *= factors[..., None].astype(np.float32)
    return patches
