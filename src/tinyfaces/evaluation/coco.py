"""Average precision by face height with COCO's matching, for annotations with boxes to be ignored.

COCO lets the detections of an image choose in the order of their scores: each takes the free face that it overlaps
most, a face to be found before one to be ignored. That is a stable matching in which all faces rank the detections
alike, and a stable matching can be found in a few rounds of proposals over the whole data set at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage

BANDS: dict[str, tuple[float, float]] = {
    "all": (-math.inf, math.inf),
    "<=10": (-math.inf, 10),
    "10-16": (10, 16),
    "16-32": (16, 32),
    "32-96": (32, 96),
    ">96": (96, math.inf),
}
COCO_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALL_POINTS = np.linspace(0, 1, 101)
_OVERLAPS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class BandResult:
    """What was reached on the faces of one band of heights.

    Attributes:
        ap: 101-point average precision, 0-1; NaN where the band has no faces.
        recall: with all detections, 0-1; NaN likewise.
        faces: how many there are to be found.
    """

    ap: float
    recall: float
    faces: int


@dataclass(frozen=True)
class _Pairs:
    """Detections and faces that overlap enough, sorted by detection, then falling overlap, then falling face."""

    detection: npt.NDArray[np.int64]
    face: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.float64]


def score(
    detections: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
    images: Sequence[AnnotatedImage],
    *,
    overlaps: Sequence[float] = (0.5,),
    bands: dict[str, tuple[float, float]] | None = None,
) -> dict[str, BandResult]:
    """Score detections by face height.

    Ignored annotations are COCO's crowds: they excuse every detection of whose area the overlap lies inside them. Faces
    outside the band excuse the one detection matched to them; unmatched detections outside the band do not count.

    Args:
        detections: for each of `images` boxes (N, 4) xyxy in pixels and scores (N,), in any order and without a limit.
        images: photos with known faces.
        overlaps: IoU thresholds, over which results are averaged (COCO_OVERLAPS for 0.5 to 0.95).
        bands: by name, heights above the first and up to the second number of pixels; BANDS when left out.

    Returns:
        The result of each band.

    Raises:
        ValueError: detections and images differ in number, or an image's boxes and scores in length.
    """
    if len(detections) != len(images):
        raise ValueError(f"detections of {len(detections)} images were given for {len(images)} annotated images")
    boxes, scores = _ordered_detections(detections)
    faces = [image.boxes for image in images]
    crowd = np.concatenate([np.empty(0, dtype=bool), *(image.ignore for image in images)])
    detection_heights, face_heights = _heights(boxes), _heights(faces)
    by_score = np.argsort(-scores, kind="stable")
    pairs = _overlapping_pairs(boxes, faces, [image.ignore for image in images], min(overlaps))

    results = {}
    for name, (above, up_to) in (BANDS if bands is None else bands).items():
        ignored = crowd | (face_heights <= above) | (face_heights > up_to)
        outside = (detection_heights <= above) | (detection_heights > up_to)
        count = int(np.count_nonzero(~ignored))
        if count == 0:
            results[name] = BandResult(math.nan, math.nan, 0)
            continue
        reached = []
        for overlap in overlaps:
            partner = _match(pairs, overlap, ignored, crowd, len(scores))
            matched = partner >= 0
            excused = np.where(matched, ignored[partner], outside)
            counted = by_score[~excused[by_score]]
            reached.append(_average_precision(matched[counted], count))
        ap, recall = np.mean(reached, axis=0)
        results[name] = BandResult(float(ap), float(recall), count)
    return results


def _ordered_detections(
    detections: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.float64]]:
    """Each image's boxes by falling score, and all the scores in that order."""
    ordered_boxes, ordered_scores = [], [np.empty(0)]
    for number, (boxes, scores) in enumerate(detections):
        if len(boxes) != len(scores):
            raise ValueError(f"image {number} has {len(boxes)} detected boxes and {len(scores)} scores")
        order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
        ordered_boxes.append(np.asarray(boxes).reshape(-1, 4)[order])
        ordered_scores.append(np.asarray(scores, dtype=np.float64)[order])
    return ordered_boxes, np.concatenate(ordered_scores)


def _heights(boxes: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    # float32 corners turn a height of 10 into 10.00001, which would change the band
    flat = np.concatenate([np.empty((0, 4)), *boxes])
    heights: npt.NDArray[np.float64] = np.round(flat[:, 3] - flat[:, 1], 2)
    return heights


def _overlapping_pairs(
    detections: Sequence[npt.NDArray[Any]],
    faces: Sequence[npt.NDArray[Any]],
    crowds: Sequence[npt.NDArray[np.bool_]],
    least: float,
) -> _Pairs:
    """All pairs whose IoU (over a crowd: intersection over the detection's area) is at least `least`."""
    detection_parts, face_parts, overlap_parts = [], [], []
    detection_start = face_start = 0
    for found, known, crowd in zip(detections, faces, crowds, strict=True):
        block = max(1, _OVERLAPS_AT_ONCE // max(1, len(known)))
        for start in range(0, len(found), block):
            overlap = _overlap(found[start : start + block], known, crowd)
            row, column = np.nonzero(overlap >= _reachable(least))
            detection_parts.append(row + (detection_start + start))
            face_parts.append(column + face_start)
            overlap_parts.append(overlap[row, column])
        detection_start += len(found)
        face_start += len(known)
    detection = np.concatenate([np.empty(0, dtype=np.int64), *detection_parts])
    face = np.concatenate([np.empty(0, dtype=np.int64), *face_parts])
    overlap = np.concatenate([np.empty(0), *overlap_parts])
    order = np.lexsort((-face, -overlap, detection))
    return _Pairs(detection[order], face[order], overlap[order])


def _overlap(detections: npt.NDArray[Any], faces: npt.NDArray[Any], crowd: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    x1, y1, x2, y2 = detections.astype(np.float64).T[:, :, None]
    left, top, right, bottom = faces.astype(np.float64).T
    across = np.minimum(x2, right)
    across -= np.maximum(x1, left)
    np.maximum(across, 0, out=across)
    down = np.minimum(y2, bottom)
    down -= np.maximum(y1, top)
    np.maximum(down, 0, out=down)
    inside: npt.NDArray[np.float64] = across
    inside *= down
    area = (x2 - x1) * (y2 - y1)
    union = np.add(area, np.where(crowd, 0, (right - left) * (bottom - top)), out=down)
    np.subtract(union, inside, out=union, where=~crowd)
    np.divide(inside, union, out=inside, where=inside > 0)
    return inside


def _reachable(overlap: float) -> float:
    # COCO's threshold never quite asks for 1, which rounding may keep out of reach
    return min(overlap, 1 - 1e-10)


def _match(
    pairs: _Pairs, overlap: float, ignored: npt.NDArray[np.bool_], crowd: npt.NDArray[np.bool_], detections: int
) -> npt.NDArray[np.int64]:
    """The face that each detection takes, -1 for none; a crowd may be taken by any number of detections."""
    enough = np.flatnonzero(pairs.overlap >= _reachable(overlap))
    # faces to be found come first among a detection's wishes
    wish = pairs.detection[enough] * 2 + ignored[pairs.face[enough]]
    wishes = pairs.face[enough[np.argsort(wish, kind="stable")]]
    ends = np.searchsorted(pairs.detection[enough], np.arange(detections + 1))
    current, last = ends[:-1].copy(), ends[1:]

    # within an image a lower number is a higher score, so a face keeps the lowest number that asks for it
    holder = np.full(len(ignored), detections)
    asking = np.flatnonzero(current < last)
    while len(asking):
        wanted = wishes[current[asking]]
        limited = ~crowd[wanted]
        asking, wanted = asking[limited], wanted[limited]
        rivals = np.concatenate([asking, holder[wanted]])
        contested = np.concatenate([wanted, wanted])
        np.minimum.at(holder, wanted, asking)
        refused = np.unique(rivals[(rivals < detections) & (holder[contested] != rivals)])
        current[refused] += 1
        asking = refused[current[refused] < last[refused]]

    partner = np.full(detections, -1)
    taken = current < last
    partner[taken] = wishes[current[taken]]
    return partner


def _average_precision(correct: npt.NDArray[np.bool_], faces: int) -> tuple[float, float]:
    """101-point average precision and the last recall of counted detections in order of score."""
    if not len(correct):
        return 0.0, 0.0
    found = np.cumsum(correct)
    recall = found / faces
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, _RECALL_POINTS, side="left")].mean()), float(recall[-1])
