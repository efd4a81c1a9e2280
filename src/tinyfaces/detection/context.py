"""What the faces around a face say about it: where there are people, there are mostly more."""

import math

import numpy as np

from tinyfaces.detection.decoding import multiply_odds
from tinyfaces.detection.faces import Faces

# Fitted to photos of the training sets.
_SURE = 0.3
_NEIGHBOURS = 8
_WEIGHT_OF_COMPANY = 0.15

_DISTANCES_AT_ONCE = 1_000_000  # bounds memory


def min_score_needed(threshold: float) -> float:
    """The score from which `rescore_by_neighbours` needs faces, to be right about all that end up at `threshold` or more."""
    return min(threshold / math.pow(1 + _NEIGHBOURS, _WEIGHT_OF_COMPANY), _SURE)


def rescore_by_neighbours(faces: Faces) -> Faces:
    """Rescore the faces of one image by their neighbours.

    The eight nearest other faces that are sure (a score of 0.3 or more) count, however far away, each by its score. A face's odds
    rise with their number, by a factor of up to 1.39.

    Args:
        faces: All faces of an image, see `min_score_needed`.

    Returns:
        The same faces with new scores, highest first.
    """
    sure = np.flatnonzero(faces.scores >= _SURE)
    if len(sure) == 0:
        return faces
    x, y = ((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2).T
    company = np.zeros(len(faces))
    at_once = max(1, _DISTANCES_AT_ONCE // len(sure))
    for start in range(0, len(faces), at_once):
        rows = np.arange(start, min(start + at_once, len(faces)))
        distances = np.square(x[rows, None] - x[None, sure]) + np.square(y[rows, None] - y[None, sure])
        distances[sure[None] == rows[:, None]] = np.inf
        near = sure[np.argpartition(distances, min(_NEIGHBOURS, len(sure)) - 1, axis=1)[:, :_NEIGHBOURS]]
        company[rows] = (faces.scores[near] * (near != rows[:, None])).sum(1)
    factor = (1 + company) ** _WEIGHT_OF_COMPANY
    scores = multiply_odds(faces.scores, factor)
    order = np.argsort(-scores, kind="stable")
    return Faces(faces.boxes[order], scores[order])
