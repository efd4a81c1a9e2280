"""Faces followed from one frame to the next by what they look like, without a detector."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]
Motions = npt.NDArray[np.float64]

_LARGEST = 20.0  # sides of boxes are halved until they are no larger than this
_POINTS = 10  # of a patch, in each direction
_AROUND = 1.3  # a patch's side, in sides of the box
_COARSE, _FINE = (
    np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2) for reach in (np.arange(-8, 9, 2), np.arange(-1, 2))
)
"""Pixels, after halving, that a face may move beyond what was expected: first tried, and then around the best of them."""
_MAYBE_ALIKE = 0.4
_ALIKE = 0.75  # correlation from which two patches show the same
_FLAT = 2.0  # spread of grey values below which a patch shows nothing
_WIDEST = 160  # pixels of the pictures in which the camera's motion is measured


def followed(lumas: Sequence[Luma], boxes: Boxes, camera: Motions) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Where boxes of the first frame are in the frames after it.

    Args:
        lumas: Grey pictures HxW of the frames, all of one size.
        boxes: (N, 4), x1 y1 x2 y2 in pixels of the first.
        camera: (F - 1, 2), what `camera_motions` says of the frames.

    Returns:
        The boxes in each frame (F, N, 4), of the same size as at the start; and whether they were recognised in this frame and
        all before (F, N). Those that were not stay where they were expected.
    """
    count = len(boxes)
    places, kept = np.repeat(boxes[None], len(lumas), axis=0), np.ones((len(lumas), count), np.bool_)
    if not count:
        return places, kept
    sides = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6))
    levels = np.maximum(np.ceil(np.log2(np.maximum(sides, 1e-6) / _LARGEST)), 0).astype(np.int64)
    templates = _patches(_pyramid(lumas[0], int(levels.max())), boxes, levels, np.zeros((1, 2), np.int64))[:, 0]
    own = np.zeros((count, 2))  # motion beside that of the camera
    scales = (2.0**levels)[:, None]
    for number in range(1, len(lumas)):
        place = places[number - 1] + np.tile(own + camera[number - 1], 2)
        pyramid = _pyramid(lumas[number], int(levels.max()))
        for shifts in (_COARSE, _FINE):
            likeness = _correlation(_patches(pyramid, place, levels, shifts), templates)
            best = (likeness - 1e-3 * np.hypot(*shifts.T)).argmax(axis=1)  # of equally good places the nearest
            reached = likeness[np.arange(count), best]
            found = reached >= (_MAYBE_ALIKE if shifts is _COARSE else _ALIKE)
            place = place + np.where(found[:, None], np.tile(shifts[best] * scales, 2), 0)
        places[number] = place
        kept[number] = kept[number - 1] & found
        own = np.where(found[:, None], place[:, :2] - places[number - 1, :, :2] - camera[number - 1], 0)
    return places, kept


def camera_motions(lumas: Sequence[Luma]) -> Motions:
    """How far (F - 1, 2) the picture as a whole moves from each of F frames to the next, in pixels to the right and down."""
    return np.array([_camera_motion(*pair) for pair in pairwise(lumas)]).reshape(-1, 2)


def thumbnail(luma: Luma) -> npt.NDArray[np.float32]:
    """A small grey picture of a frame HxW, to tell how much changes between two."""
    step = max(1, min(luma.shape) // 24)
    height, width = (side // step * step for side in luma.shape)
    blocks = luma[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _pyramid(luma: Luma, levels: int) -> list[Luma]:
    """The picture, and so many halved ones."""
    pyramid = [luma]
    for _ in range(levels):
        pyramid.append(_halved(pyramid[-1]) if min(pyramid[-1].shape) >= 2 else pyramid[-1])
    return pyramid


def _halved(luma: Luma) -> Luma:
    height, width = (side // 2 * 2 for side in luma.shape)
    quarters = luma[:height, :width].astype(np.uint16)
    return ((quarters[::2, ::2] + quarters[1::2, ::2] + quarters[::2, 1::2] + quarters[1::2, 1::2] + 2) // 4).astype(np.uint8)


def _patches(
    pyramid: list[Luma], boxes: Boxes, levels: npt.NDArray[np.int64], shifts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Grey values (N, S, points) in boxes (N, 4) that are moved by shifts (S, 2), in pixels of their level."""
    patches = np.empty((len(boxes), len(shifts), _POINTS**2), np.float32)
    grid = (np.arange(_POINTS) + 0.5) / _POINTS - 0.5
    for level in range(int(levels.max()) + 1):
        luma = pyramid[level]
        rows = np.flatnonzero(levels == level)
        if not len(rows):
            continue
        here = boxes[rows] / 2**level
        centres, sizes = (here[:, :2] + here[:, 2:]) / 2, (here[:, 2:] - here[:, :2]) * _AROUND
        offsets = grid * sizes[:, :, None]  # (N, 2, points)
        x, y = (np.floor(centres[:, axis, None] + offsets[:, axis]).astype(np.int64) for axis in (0, 1))
        x = np.clip(x[:, None] + shifts[:, 0, None], 0, luma.shape[1] - 1)  # (N, S, points)
        y = np.clip(y[:, None] + shifts[:, 1, None], 0, luma.shape[0] - 1)
        flat = y[..., :, None] * luma.shape[1] + x[..., None, :]
        patches[rows] = np.take(luma, flat.reshape(len(rows), len(shifts), -1))
    return patches


def _correlation(patches: npt.NDArray[np.float32], templates: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How alike (N, S) patches (N, S, points) and their templates (N, points) are, up to 1; 0 where one of both is flat."""
    wanted = templates - templates.mean(axis=1, keepdims=True)
    means = patches.mean(axis=2)
    spread = np.sqrt(np.maximum((patches**2).mean(axis=2) - means**2, 0))
    wanted_spread = np.sqrt((wanted**2).mean(axis=1))
    together = np.einsum("nsp,np->ns", patches, wanted) / templates.shape[1]
    product = spread * wanted_spread[:, None]
    flat = (spread < _FLAT) | (wanted_spread < _FLAT)[:, None]
    return np.asarray(np.where(flat, 0, together / np.maximum(product, 1e-6)), np.float32)


def _camera_motion(luma: Luma, other: Luma) -> npt.NDArray[np.float64]:
    """How far (2,) the picture as a whole moves from one frame to another, in pixels: the peak of their phase correlation."""
    step = max(1, -(-max(luma.shape) // _WIDEST))
    height, width = (max(1, side // step // 8 * 8) for side in luma.shape)
    windows = (np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]).astype(np.float32)
    small = [
        picture[: height * step, : width * step].reshape(height, step, width, step).mean(axis=(1, 3), dtype=np.float32)
        for picture in (luma, other)
    ]
    first, second = (np.fft.rfft2((picture - picture.mean()) * windows) for picture in small)
    cross = second * first.conj()
    peaks = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(height, width))
    y, x = np.unravel_index(int(peaks.argmax()), peaks.shape)
    moved = [(x + width // 2) % width - width // 2, (y + height // 2) % height - height // 2]
    return np.asarray(np.array(moved, np.float64) * step)
