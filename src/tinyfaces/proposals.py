"""From the network's outputs to boxes: decoding of the four branches, and selection of one box per face."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.faces import Faces
from tinyfaces.geometry import clip, longer_sides, nms_with_voting
from tinyfaces.runtime import STRIDES

NMS_OVERLAP = 0.45
CANDIDATE_LIMIT = 20_000
"""At most so many points of an image, the best, are decoded; a crowd of 1,000 faces has some 6,000."""

_LARGEST_LOG_SIDE = 8.0
_VOTING_FROM = 0.1  # score; that a box does not depend on the threshold
_LARGEST_VOTED_SIDE = 32.0  # pixels; larger faces' boxes got worse by voting, these better


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
    """Decode one image's outputs and keep the best candidate of each face, highest score first; see `decode`.

    The box of a face up to 32 pixels is the mean of all its candidates (`nms_with_voting`), those below the threshold too: a
    higher threshold leaves faces out and changes nothing about the others.
    """
    boxes, scores = decode(outputs, min(threshold, _VOTING_FROM), size)
    kept, voted = nms_with_voting(boxes, scores, overlap)
    small = longer_sides(voted) <= _LARGEST_VOTED_SIDE
    return Faces(np.where(small[:, None], voted, boxes[kept]), scores[kept]).above(threshold)


def _logit(score: float) -> float:
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score))
