"""Precision, recall and F1 at a score threshold, on photos in which all faces are marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import iou_matrix, share_within
from tinyfaces.evaluation.rule_fitting import Detections

_OVERLAP = 0.5
_EXCUSED_SHARE = 0.5


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives: shares from 0 to 1; where nothing is found or there is nothing to find, 0."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class MatchedDetections:
    """The detections of several photos, each right or wrong.

    Args:
        scores: (N,).
        correct: (N,) bool, whether a face of its own has an IoU of 0.5 or more with it. Of several detections of a face the
            first is right. Those that are not, and lie half or more in an ignored box, are left out.
        faces: How many there are to find.
    """

    scores: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    faces: int

    @classmethod
    def of(cls, found: Detections, images: Sequence[AnnotatedImage]) -> "MatchedDetections":
        """Match each photo's detections, highest score first, to its faces."""
        scores, correct, faces = [], [], 0
        for (boxes, found_scores), image in zip(found, images, strict=True):
            known, ignored = image.boxes[~image.ignore], image.boxes[image.ignore]
            faces += len(known)
            overlap = iou_matrix(boxes, known)
            free = np.ones(len(known), np.bool_)
            excused = np.asarray(share_within(boxes, ignored).max(axis=1, initial=0) >= _EXCUSED_SHARE)
            for row, score, excuse in zip(overlap, found_scores, excused, strict=True):
                best = int(np.argmax(row * free)) if len(row) else -1
                hit = best >= 0 and bool(free[best]) and row[best] >= _OVERLAP
                if hit:
                    free[best] = False
                if hit or not excuse:
                    scores.append(score)
                    correct.append(hit)
        return cls(np.array(scores, np.float32), np.array(correct, np.bool_), faces)

    def at(self, threshold: float) -> OperatingPoint:
        """What the detections from `threshold` on give."""
        kept = self.correct[self.scores >= np.float32(threshold)]
        right = int(kept.sum())
        return OperatingPoint(right / max(1, len(kept)), right / max(1, self.faces), 2 * right / max(1, self.faces + len(kept)))
