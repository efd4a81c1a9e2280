"""Which photos a person should look at first: those in which the detector is least sure."""

import numpy as np

from tinyfaces.detection.boxes import areas
from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.cover_threshold import CoverThreshold

_LOWEST_SHARE = 0.5  # of the threshold; still lower, crowds have more false detections than faces
_UNSURE_WITHIN = 0.25  # a score this far from the threshold leaves no doubt
_SIZE_WEIGHT = 10.0  # a face with a tenth of the photo's side counts as two small ones


def offered(cover: CoverThreshold) -> CoverThreshold:
    """The score down to which a review shows what was found: what does not reach `cover` is offered, not covered."""
    return CoverThreshold(tuple((height, score * _LOWEST_SHARE) for height, score in cover.points))


def doubt(faces: Faces, cover: CoverThreshold, width: int, height: int) -> float:
    """How much there is to decide in a photo.

    Args:
        faces: Found, down to scores below the threshold.
        cover: The score from which a face is covered.
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.

    Returns:
        The number of its faces, each counted by how near its score is to the threshold and, as mistakes with large faces cost
        most, by its size; 0 where all scores are far from it.
    """
    near = np.maximum(1 - np.abs(cover.evened(faces).astype(np.float64) - cover.lowest) / _UNSURE_WITHIN, 0)
    sides = np.sqrt(areas(faces.boxes) / max(1, width * height))
    return float((near * (1 + _SIZE_WEIGHT * sides)).sum())
