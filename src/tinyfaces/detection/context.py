"""What the faces around a face say about it: in a photo, people near each other mostly look about as large."""

import math

import numpy as np

from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.decoding import multiply_odds
from tinyfaces.detection.faces import Faces

# Fitted to photos of the training sets.
_SURE = 0.3
_NEIGHBOURS = 8
_DOUBT = 0.3  # added to the neighbours' scores, so that a single unsure one decides little
_MAX_DIFFERENCE = 1.0  # of the sides' logarithms
_WEIGHT_OF_DIFFERENCE = 0.6
_WEIGHT_OF_COMPANY = 0.15

_DISTANCES_AT_ONCE = 1_000_000  # bounds memory


def min_score_needed(threshold: float) -> float:
    """The score from which `rescore_by_neighbours` needs faces, to be right about all that end up at `threshold` or more."""
    return min(threshold / math.pow(1 + _NEIGHBOURS, _WEIGHT_OF_COMPANY), _SURE)


def rescore_by_neighbours(faces: Faces) -> Faces:
    """Rescore the faces of one image by their neighbours.

    The eight nearest other faces that are sure (a score of 0.3 or more) count, however far away, each by its score. A face's odds
    rise with their number, by a factor of up to 1.39. They fall where its longer side differs from theirs (the mean of the
    logarithms), by a factor of up to 1.82: what is much smaller than the people around is more often a pattern than a face.

    Args:
        faces: All faces of an image, see `min_score_needed`.

    Returns:
        The same faces with new scores, highest first.
    """
    sure = np.flatnonzero(faces.scores >= _SURE)
    if len(sure) == 0:
        return faces
    sides = np.log(np.maximum(longer_sides(faces.boxes), 1.0)).astype(np.float64)
    x, y = ((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2).T
    company, difference = np.zeros(len(faces)), np.zeros(len(faces))
    at_once = max(1, _DISTANCES_AT_ONCE // len(sure))
    for start in range(0, len(faces), at_once):
        rows = np.arange(start, min(start + at_once, len(faces)))
        distances = np.square(x[rows, None] - x[None, sure]) + np.square(y[rows, None] - y[None, sure])
        distances[sure[None] == rows[:, None]] = np.inf
        near = sure[np.argpartition(distances, min(_NEIGHBOURS, len(sure)) - 1, axis=1)[:, :_NEIGHBOURS]]
        weights = faces.scores[near] * (near != rows[:, None])
        company[rows] = weights.sum(1)
        difference[rows] = (weights * (sides[near] - sides[rows, None])).sum(1)
    ratio = np.minimum(np.abs(difference) / (company + _DOUBT), _MAX_DIFFERENCE)
    factor = (1 + company) ** _WEIGHT_OF_COMPANY * np.exp(-_WEIGHT_OF_DIFFERENCE * ratio)
    scores = multiply_odds(faces.scores, factor)
    order = np.argsort(-scores, kind="stable")
    return Faces(faces.boxes[order], scores[order])
