"""The score from which a detection is covered. It depends on size, as a large unsure box may hide much that is no face."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.faces import Faces

BY_HEIGHT = ((24.0, 0.15), (64.0, 0.2), (256.0, 0.4))
"""Heights of a box in pixels, each with the score from which it is covered; chosen with benchmarks/cover_threshold.py."""


@dataclass(frozen=True)
class CoverThreshold:
    """The score from which a detection is covered: lower than for detection, as a missed face is worse than a covered hand.

    Args:
        points: Heights of a box in pixels, rising, each with a score, 0-1. Between two points the score changes evenly with the
            logarithm of the height. Beyond the first and the last it stays. A single point makes it the same for all heights.

    Raises:
        ValueError: There is no point, heights are not positive and rising, or a score is outside 0-1.

    Example:
        ```python
        detector = tinyfaces.Detector()
        cover = CoverThreshold()
        covered = cover.apply(detector.detect("crowd.jpg", threshold=cover.lowest))
        ```
    """

    points: tuple[tuple[float, float], ...] = BY_HEIGHT

    def __post_init__(self) -> None:
        heights, scores = [height for height, _ in self.points], [score for _, score in self.points]
        if not heights or heights[0] <= 0 or not all(low < high for low, high in pairwise(heights)):
            raise ValueError(f"heights must be positive and rising. Received: {heights}")
        if not all(0 <= score <= 1 for score in scores):
            raise ValueError(f"threshold must be within 0-1. Received: {scores[0] if len(scores) == 1 else scores}")

    @classmethod
    def of(cls, score: "CoverThreshold | float | None") -> "CoverThreshold":
        """The same score for all heights; if None, the default, which depends on the height. A threshold is taken as it is."""
        if isinstance(score, CoverThreshold):
            return score
        return cls() if score is None else cls(((1.0, float(score)),))

    @property
    def lowest(self) -> float:
        """The lowest score that is covered at any height: the threshold to detect with."""
        return min(score for _, score in self.points)

    def at(self, heights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """The scores (N,) from which boxes of these heights (N,), in pixels, are covered."""
        logs, scores = np.log([height for height, _ in self.points]), [score for _, score in self.points]
        return np.asarray(np.interp(np.log(np.maximum(heights, 1e-6)), logs, scores), np.float32)

    def reached(self, faces: Faces) -> npt.NDArray[np.bool_]:
        """Which (N,) of the faces score high enough to be covered."""
        return np.asarray(faces.scores >= self.at(faces.heights), np.bool_)

    def apply(self, faces: Faces) -> Faces:
        """The faces that score high enough to be covered."""
        return faces[self.reached(faces)]

    def evened(self, faces: Faces) -> npt.NDArray[np.float32]:
        """Scores (N,) 0-1 that are comparable over all heights: those that just reach the threshold become `lowest`."""
        needed, scores = np.maximum(self.at(faces.heights), 1e-6), faces.scores
        above = self.lowest + (scores - needed) / np.maximum(1 - needed, 1e-6) * (1 - self.lowest)
        return np.where(scores >= needed, above, scores / needed * self.lowest).astype(np.float32)

    def settings(self) -> float | list[list[float]]:
        """The threshold as JSON can hold it: one score, or a list of [height, score]."""
        return self.points[0][1] if len(self.points) == 1 else [list(point) for point in self.points]
