"""From the network's outputs to boxes: decoding of the four branches, and selection of one box per face."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import clip, longer_sides, nms_with_voting
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.runtime import STRIDES

NMS_OVERLAP = 0.45
CANDIDATE_LIMIT = 20_000
"""At most so many points of an image, the best, are decoded; a crowd of 1,000 faces has some 6,000."""

_LARGEST_LOG_SIDE = 8.0
_VOTING_FROM = 0.1  # score; that neither box nor score depends on the threshold
_LARGEST_VOTED_SIDE = 32.0  # pixels; larger faces' boxes got worse by voting, these better
_LARGEST_SUPPORT, _SIDE_OF_SUPPORT = 6.0, 14.0  # of faces in training photos: some 2 at 6 px, 4 at 16 px, 6 from 60 px on


def decode(
    outputs: Sequence[npt.NDArray[Any]], threshold: float, size: tuple[int, int], *, limit: int = CANDIDATE_LIMIT
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Decode one image's outputs to candidates, several per face: boxes (N, 4) in pixels and scores (N,), unsorted.

    outputs: 5xH/sxW/s for the strides s of 4, 8, 16, 32: face logit; centre offset x, y in strides from the point
    ((x + 0.5) * s, (y + 0.5) * s); log(width / s), log(height / s). size: height and width without the padding, to
    which boxes are cut. Only points with sigmoid(logit) >= threshold are decoded, and of them the best `limit`.
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
    candidates = np.concatenate(found, axis=1)
    if candidates.shape[1] > limit:
        candidates = candidates[:, np.argpartition(candidates[3], -limit)[-limit:]]
    x, y, strides, logits, dx, dy, log_width, log_height = candidates
    x, y = x + dx * strides, y + dy * strides
    half_width = np.exp(np.minimum(log_width, _LARGEST_LOG_SIDE)) * strides / 2
    half_height = np.exp(np.minimum(log_height, _LARGEST_LOG_SIDE)) * strides / 2
    corners = np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)
    boxes = clip(corners.astype(np.float32), size[1], size[0])
    scores = (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[visible], scores[visible]


def find_faces(
    outputs: Sequence[npt.NDArray[Any]], threshold: float, size: tuple[int, int], *, overlap: float = NMS_OVERLAP
) -> Faces:
    """Decode one image's outputs, keep the best candidate of each face, and score it anew; highest score first, see `decode`.

    A face's other candidates change its score (`supported`) and, up to 32 pixels, its box, which is the mean of them all
    (`nms_with_voting`). Candidates below the threshold vote too: a higher threshold leaves faces out and changes nothing about
    the others.
    """
    boxes, scores = decode(outputs, min(threshold, _VOTING_FROM), size)
    voted = nms_with_voting(boxes, scores, overlap, _VOTING_FROM)
    small = longer_sides(voted.boxes) <= _LARGEST_VOTED_SIDE
    found = np.where(small[:, None], voted.boxes, boxes[voted.kept])
    supported_scores = supported(scores[voted.kept], voted.support, longer_sides(found))
    order = np.argsort(-supported_scores, kind="stable")
    return Faces(found[order], supported_scores[order]).above(threshold)


def supported(
    scores: npt.NDArray[np.float32], support: npt.NDArray[np.floating[Any]], sides: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Scores (N,) of faces, given the scores (N,) of their best candidates, the sums (N,) of the other candidates' scores and the
    faces' longer sides (N,) in pixels.

    The network sees a face at several points, and what looks like one at a single point is rarely one. So a score's odds are
    multiplied by 1 + support, over the square root of what that usually is for a face of this size.
    """
    usual = 1 + _LARGEST_SUPPORT * (1 - np.exp(-sides / _SIDE_OF_SUPPORT))
    factor = (1 + support) / np.sqrt(usual)
    return multiply_odds(scores, factor)


def multiply_odds(scores: npt.NDArray[np.float32], factor: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Scores (N,) whose odds, score / (1 - score), are those of `scores` (N,) times `factor` (N,)."""
    return (scores * factor / (1 - scores + scores * factor)).astype(np.float32)


def _logit(score: float) -> float:
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score))
