"""From the faces of several views of an image to one list that holds each face once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import areas, nms, share_within
from tinyfaces.detection.decoding import NMS_OVERLAP
from tinyfaces.detection.faces import Faces

# When a face is a fragment of another one, its host. Chosen so that a face in front of a larger one stays.
_MIN_SHARE = 0.7  # of its area that lies within the host
_MIN_RATIO = 1 / 16  # of its area to the host's
_MIN_HOST_SCORE = 0.5  # the host's score in its own


def joined(parts: Sequence[Faces]) -> tuple[Faces, npt.NDArray[np.intp]]:
    """The faces of several views of an image as one list, and for each the number (N,) of the view that it comes from."""
    faces = Faces(np.concatenate([part.boxes for part in parts]), np.concatenate([part.scores for part in parts]))
    return faces, np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def one_box_per_face(faces: Faces, views: npt.NDArray[np.intp]) -> Faces:
    """One box for each face, highest score first. Boxes of the same view (N,) do not suppress each other, as each view gives a
    face one box only."""
    return faces[nms(faces.boxes, faces.scores, NMS_OVERLAP, views)]


def merge(parts: Sequence[Faces], regions: Sequence[npt.NDArray[np.float64]], width: int, height: int) -> Faces:
    """Merge the faces found in several regions of an image.

    Where a region shows only a part of a face, that part may be taken for a smaller face. Such a fragment lies within a face that
    was found in another region and reaches beyond this one; it is left out.

    Args:
        parts: The faces of each region, with boxes in pixels of the image.
        regions: (4,) each, x1 y1 x2 y2 in pixels of the image.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Returns:
        One box for each face, highest score first.
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
        sure = scores[hosts] >= _MIN_HOST_SCORE * scores[mine][:, None]
        within = (share > _MIN_SHARE) & (ratio < 1) & (ratio > _MIN_RATIO) & sure
        fragment[mine] = within.any(axis=1)
    return one_box_per_face(faces[~fragment], source[~fragment])
