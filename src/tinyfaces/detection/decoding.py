"""From the network's output maps to boxes and scores, one box per face."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import clip, longer_sides, nms_with_voting
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.runtime import STRIDES

NMS_OVERLAP = 0.45
POINT_LIMIT = 20_000
"""Only the best points of an image, up to this number, are decoded. A crowd of 1,000 faces has some 6,000."""

_MAX_LOG_SIDE = 8.0  # keeps absurd outputs finite
_VOTING_FROM = 0.1  # score; fixed, so that neither boxes nor scores depend on the threshold
_MAX_VOTED_SIDE = 32.0  # pixels; voting makes boxes better up to this size, and worse beyond
_MAX_SUPPORT, _SIDE_OF_SUPPORT = 6.0, 14.0  # of faces in training photos: about 2 at 6 px, 4 at 16 px, 6 from 60 px on


def decode(
    outputs: Sequence[npt.NDArray[Any]], threshold: float, size: tuple[int, int], *, limit: int = POINT_LIMIT
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Decode one view's output maps to boxes, several per face.

    Args:
        outputs: 5xH/sxW/s each, for the strides s of 4, 8, 16 and 32: face logit; offset x, y of the centre, in strides, from the
            point ((x + 0.5) * s, (y + 0.5) * s); log(width / s), log(height / s).
        threshold: Points with a lower score, sigmoid(logit), are left out.
        size: Height and width without the padding, in pixels; boxes are clipped to them.
        limit: How many points are decoded at most, the best ones.

    Returns:
        Boxes (N, 4), x1 y1 x2 y2 in pixels, and scores (N,), unsorted.
    """
    lowest = _logit(threshold)
    found = []
    for maps, stride in zip(outputs, STRIDES, strict=True):
        columns = maps.shape[2]
        values = maps.reshape(5, -1)
        points = np.flatnonzero(values[0] >= lowest)
        y, x = np.divmod(points, columns)
        place = np.stack([(x + 0.5) * stride, (y + 0.5) * stride, np.full(len(points), stride)])
        found.append(np.concatenate([place, values[:, points]]))
    points_found = np.concatenate(found, axis=1)
    if points_found.shape[1] > limit:
        points_found = points_found[:, np.argpartition(points_found[3], -limit)[-limit:]]
    x, y, strides, logits, dx, dy, log_width, log_height = points_found
    x, y = x + dx * strides, y + dy * strides
    half_width = np.exp(np.minimum(log_width, _MAX_LOG_SIDE)) * strides / 2
    half_height = np.exp(np.minimum(log_height, _MAX_LOG_SIDE)) * strides / 2
    corners = np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)
    boxes = clip(corners.astype(np.float32), size[1], size[0])
    scores = (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[visible], scores[visible]


def find_faces(
    outputs: Sequence[npt.NDArray[Any]], threshold: float, size: tuple[int, int], *, overlap: float = NMS_OVERLAP
) -> Faces:
    """Decode one view's output maps and keep one box per face.

    The other boxes of a face change its score (`supported`) and, up to 32 pixels, also its box, which becomes the mean of all
    (`nms_with_voting`). Boxes below the threshold vote too, so a higher threshold leaves out faces and changes no others.

    Args:
        outputs: See `decode`.
        threshold: Faces with a lower score are left out.
        size: See `decode`.
        overlap: IoU above which two boxes are one face.

    Returns:
        The faces, highest score first, with boxes in pixels of the view.
    """
    boxes, scores = decode(outputs, min(threshold, _VOTING_FROM), size)
    voted = nms_with_voting(boxes, scores, overlap, _VOTING_FROM)
    small = longer_sides(voted.boxes) <= _MAX_VOTED_SIDE
    found = np.where(small[:, None], voted.boxes, boxes[voted.kept])
    supported_scores = supported(scores[voted.kept], voted.support, longer_sides(found))
    order = np.argsort(-supported_scores, kind="stable")
    return Faces(found[order], supported_scores[order]).above(threshold)


def supported(
    scores: npt.NDArray[np.float32], support: npt.NDArray[np.floating[Any]], sides: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Rescore faces by how many points of the network's output see them.

    A face is seen at several points; what looks like one at a single point rarely is one. So the odds of a score are multiplied
    by 1 + support, over the square root of what that usually is for a face of this size.

    Args:
        scores: (N,), of each face's best box.
        support: (N,), the sum of the scores of each face's other boxes.
        sides: (N,), longer sides in pixels.

    Returns:
        (N,), the new scores.
    """
    usual = 1 + _MAX_SUPPORT * (1 - np.exp(-sides / _SIDE_OF_SUPPORT))
    factor = (1 + support) / np.sqrt(usual)
    return multiply_odds(scores, factor)


def multiply_odds(scores: npt.NDArray[np.float32], factor: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Scores (N,) whose odds, score / (1 - score), are those of `scores` (N,) times `factor` (N,)."""
    return (scores * factor / (1 - scores + scores * factor)).astype(np.float32)


def _logit(score: float) -> float:
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score))
