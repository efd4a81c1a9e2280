"""From the faces of several views of an image to one list in which each face stands once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import areas, nms, share_within
from tinyfaces.detection.decoding import NMS_OVERLAP
from tinyfaces.detection.faces import Faces

_FRAGMENT_SHARE = 0.7
_FRAGMENT_SMALLEST = 1 / 16
_FRAGMENT_HOST_SCORE = 0.5


def joined(parts: Sequence[Faces]) -> tuple[Faces, npt.NDArray[np.intp]]:
    """All faces that several looks at an image, or at parts of it, found, and the number (N,) of the look that found each."""
    faces = Faces(np.concatenate([part.boxes for part in parts]), np.concatenate([part.scores for part in parts]))
    return faces, np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def one_box_per_face(faces: Faces, looks: npt.NDArray[np.intp]) -> Faces:
    """What is left of faces whose look (N,) gave each one box already, highest score first."""
    return faces[nms(faces.boxes, faces.scores, NMS_OVERLAP, looks)]


def merge(parts: Sequence[Faces], regions: Sequence[npt.NDArray[np.float64]], width: int, height: int) -> Faces:
    """One list of faces from those found in several regions of an image, all in pixels of the image.

    Within a region only part of a face may show, and be taken for a smaller face. Such a fragment lies within a face
    found elsewhere that reaches beyond the region.
    """
    faces, source = joined(parts)
    boxes, scores = faces.boxes, faces.scores
    area = areas(boxes)
    fragment = np.zeros(len(boxes), np.bool_)
    for number, (x1, y1, x2, y2) in enumerate(regions):
        mine = np.flatnonzero(source == number)
        shown = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
        beyond = (boxes[:, 0] < x1) | (boxes[:, 2] > x2) | (boxes[:, 1] < y1) | (boxes[:, 3] > y2)
        hosts = np.flatnonzero(shown & beyond)
        share = share_within(boxes[mine], boxes[hosts])
        ratio = area[mine][:, None] / np.maximum(area[hosts], 1e-9)
        sure = scores[hosts] >= _FRAGMENT_HOST_SCORE * scores[mine][:, None]
        within = (share > _FRAGMENT_SHARE) & (ratio < 1) & (ratio > _FRAGMENT_SMALLEST) & sure
        fragment[mine] = within.any(axis=1)
    return one_box_per_face(faces[~fragment], source[~fragment])
