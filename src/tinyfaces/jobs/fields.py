"""Interlaced frames: two pictures of two moments, in the even and in the odd lines. A face that moves is a comb in them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.merging import joined

_BLOCK = 8  # pixels
_BAND = 64  # lines that are looked at together
_CONTRAST = 30  # levels between neighbouring lines of a comb, in all three channels together, on average over a block
_RATIO = 1.5  # by how much neighbouring lines differ more than every other line does; below 1 in most photos
_BLOCKS = 2  # a small face that moves makes no more
_SAME_FACE = 0.3  # overlap


def is_combed(pixels: Pixels) -> bool:
    """Whether something in a stored frame HxWx3, or grey HxWx1, looks like two pictures in alternate lines."""
    width, channels = pixels.shape[1] // _BLOCK * _BLOCK, pixels.shape[2]
    end = (len(pixels) - 2) // _BLOCK * _BLOCK if width else 0
    combs = 0
    for top in range(0, end, _BAND):
        bottom = min(top + _BAND, end)
        lines = pixels[top : bottom + 2, :width].reshape(bottom + 2 - top, -1)
        near = _per_block(lines[:-2], lines[1:-1], channels)
        strong = near > _CONTRAST * _BLOCK**2 * channels / 3
        if strong.any():
            combs += int((strong & (near > _RATIO * _per_block(lines[:-2], lines[2:], channels))).sum())
        if combs >= _BLOCKS:
            return True
    return False


def pictures(pixels: Pixels) -> list[Pixels]:
    """The pictures in which to look for the faces of an interlaced frame HxWx3: itself, and both fields in its size."""
    return [pixels, *(_field(pixels, first) for first in (0, 1))] if len(pixels) >= 4 else [pixels]


def one_face_each(parts: Sequence[Faces]) -> Faces:
    """The faces of the pictures of one frame as one list. A face that moved less than its size has one box around all its places;
    one that moved further has a box for each."""
    faces, part_of = joined(parts)
    if not len(faces):
        return faces
    overlaps = iou_matrix(faces.boxes, faces.boxes)
    boxes, scores = [], []
    open_faces = np.ones(len(faces), np.bool_)
    for first in np.argsort(-faces.scores, kind="stable").tolist():
        if not open_faces[first]:
            continue
        same = [first]
        for part in range(len(parts)):
            others = np.flatnonzero(open_faces & (part_of == part) & (overlaps[first] > _SAME_FACE))
            if part != part_of[first] and len(others):
                same.append(int(others[overlaps[first][others].argmax()]))
        open_faces[same] = False
        around = faces.boxes[same]
        boxes.append(np.concatenate([around[:, :2].min(axis=0), around[:, 2:].max(axis=0)]))
        scores.append(faces.scores[first])
    return Faces(np.array(boxes), np.array(scores))


def _field(pixels: Pixels, first: int) -> Pixels:
    """The lines `first`, `first` + 2, ... of a frame, with those between them as their mean."""
    field = pixels.copy()
    lines = pixels[first::2].astype(np.uint16)
    gaps = field[1 - first :: 2]
    above = np.arange(len(gaps)) - first
    last = len(lines) - 1
    gaps[:] = ((lines[np.clip(above, 0, last)] + lines[np.clip(above + 1, 0, last)]) // 2).astype(np.uint8)
    return field


def _per_block(lines: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.int64]:
    """How much lines differ from others, summed over blocks of _BLOCK lines and _BLOCK pixels of all channels."""
    apart = np.maximum(lines, others) - np.minimum(lines, others)
    summed = apart.reshape(-1, _BLOCK, lines.shape[1]).sum(axis=1, dtype=np.uint16)
    return np.asarray(summed.reshape(len(summed), -1, channels * _BLOCK).sum(axis=2, dtype=np.int64))
