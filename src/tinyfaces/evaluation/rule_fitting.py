"""What a second stage brings on photos with known faces: its candidates, the fusion rule learnt from them, AP before, after."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import iou_matrix, longer_sides, share_within
from tinyfaces.detection.crops import LOW_SIDE, crop_squares, cut_crops
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import Bounds, FusionRule, fit_rule
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.second_stage import Judgements, fused

Detections = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
Judge = Callable[[Pixels], Judgements]

_FACE_OVERLAP = 0.5
_EXCUSED_SHARE = 0.3


@dataclass(frozen=True)
class KnownCandidates:
    """The proposals for one photo with known faces.

    Attributes:
        image: its annotation.
        proposals: all of them.
        places: (M,) the candidates: which ones the second stage may judge.
        crops: (M, 16, 16, 3) uint8 RGB of these.
        face: (M,) bool, whether they are faces.
        usable: (M,) bool, false where one lies on what is to be ignored.
    """

    image: AnnotatedImage
    proposals: Faces
    places: npt.NDArray[np.intp]
    crops: Pixels
    face: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]


def gather(
    detect: Callable[[Pixels], Faces], photos: Iterable[tuple[Pixels, AnnotatedImage]], bounds: Bounds
) -> list[KnownCandidates]:
    """Search photos with the first stage, and cut out what is small and undecided.

    Args:
        detect: the first stage.
        photos: HxWx3 uint8 RGB, with their known faces.
        bounds: of the candidates.

    Returns:
        What was found in each photo.
    """
    gathered = []
    for pixels, image in photos:
        found = detect(pixels)
        places = np.flatnonzero(bounds.selects(longer_sides(found.boxes), found.scores))
        boxes = found.boxes[places]
        nearest = iou_matrix(boxes, image.boxes[~image.ignore]).max(axis=1, initial=0)
        excused = share_within(boxes, image.boxes[image.ignore]).max(axis=1, initial=0) > _EXCUSED_SHARE
        face = nearest >= _FACE_OVERLAP
        # A box that misses its face by too much is a false one to whoever counts, and the rule has to know.
        usable = face | ~excused
        crops = cut_crops(pixels, crop_squares(boxes), LOW_SIDE)
        gathered.append(KnownCandidates(image, found, places, crops, face, usable))
    return gathered


def judge_all(known: Sequence[KnownCandidates], judge: Judge) -> list[Judgements]:
    """The second stage's judgements of every photo's candidates."""
    return [judge(one.crops) for one in known]


def learn_rule(known: Sequence[KnownCandidates], judged: Sequence[Judgements], bounds: Bounds) -> FusionRule:
    """The fusion rule of these photos, of their candidates within `bounds`; see `tinyfaces.detection.fusion.fit_rule`."""
    columns: list[list[npt.NDArray[Any]]] = []
    for one, judgement in zip(known, judged, strict=True):
        scores, sides = one.proposals.scores[one.places], longer_sides(one.proposals.boxes[one.places])
        use = one.usable & bounds.selects(sides, scores)
        # A crowd is one photo, like a portrait: what a photo shows is what its user sees.
        alike = np.full(int(use.sum()), 1 / max(1, int(use.sum())))
        columns.append([scores[use], judgement.face_logits[use], sides[use], one.face[use], alike])
    scores, face_logits, sides, labels, weights = (np.concatenate(column) for column in zip(*columns, strict=True))
    return fit_rule(scores, face_logits, sides, labels, weights, bounds=bounds)


def fuse(known: Sequence[KnownCandidates], judged: Sequence[Judgements], rule: FusionRule) -> Detections:
    """Every photo's detections after fusion, correction of the boxes and suppression, as the detector gives them."""
    results = []
    for one, judgement in zip(known, judged, strict=True):
        mine = rule.selects(one.proposals.boxes[one.places], one.proposals.scores[one.places])
        chosen = Judgements(judgement.face_logits[mine], judgement.offsets[mine])
        faces = fused(one.proposals, one.places[mine], chosen, rule, one.image.width, one.image.height)
        results.append((faces.boxes, faces.scores))
    return results


def fuse_across(
    known: Sequence[KnownCandidates],
    judged: Sequence[Judgements],
    bounds: Bounds,
    learnt_on: tuple[Sequence[KnownCandidates], Sequence[Judgements]] | None = None,
) -> Detections:
    """As `fuse`, the rule learnt on the odd photos for the even ones and the other way round: nothing is measured where it was
    learnt. learnt_on: candidates of another first stage in the same photos, from which the rule is learnt; if None, these."""
    learnt, learnt_judged = learnt_on or (known, judged)
    results: Detections = [(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))] * len(known)
    for parity in (0, 1):
        rule = learn_rule(learnt[1 - parity :: 2], learnt_judged[1 - parity :: 2], bounds)
        results[parity::2] = fuse(known[parity::2], judged[parity::2], rule)
    return results
