"""The second stage: candidates are restored by the generator, and judged and corrected by the discriminator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import clip, longer_sides, nms
from tinyfaces.detection.crops import FACTOR, LOW_SIDE, crop_squares, cut_crops
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import Pixels, Regions
from tinyfaces.detection.runtime import DISCRIMINATOR, GENERATOR, Batch, RuntimeOptions, load_session
from tinyfaces.weights import SecondStageRecord

_CROPS_AT_ONCE = 32  # bounds memory
PER_MEGAPIXEL = 32
"""Candidates that are judged of a megapixel where little time may go by: with `fast`, about a third of the first stage's."""
_LEAST_MEGAPIXELS = 0.3
"""A smaller image counts as so large, as shipped models enlarge it."""


@dataclass(frozen=True)
class Judgements:
    """What the discriminator says about N crops.

    Args:
        face_logits: (N,) float32.
        offsets: (N, 4) float32: shift of the centre in x and y, in sides of the candidate; log of the ratio of the sides.
    """

    face_logits: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


class SecondStage:
    """Generator and discriminator, ready to run. Any number of threads may share one.

    Args:
        record: The shipped networks.
        rule: Which candidates are judged, and how both scores become one.
        options: What runs the networks; ONNX Runtime on the CPU if None.

    Raises:
        ModelError: A network cannot be loaded.
    """

    def __init__(self, record: SecondStageRecord, rule: FusionRule, options: RuntimeOptions | None = None) -> None:
        options = options or RuntimeOptions()
        if options.precision == "bfloat16":  # small networks gain little from it
            options = replace(options, precision="auto")
        self.rule = rule
        self._generator = load_session(record.generator_path, GENERATOR, options)
        self._discriminator = load_session(record.discriminator_path, DISCRIMINATOR, options)

    def restore(self, crops: Pixels) -> Pixels:
        """Restore crops (N, 16, 16, 3) uint8 RGB to (N, 64, 64, 3)."""
        restored = [self._generator.run(batch)[1] for batch in _batches(crops)]
        side = FACTOR * LOW_SIDE
        pixels = np.concatenate([np.zeros((0, 3, side, side), np.float32), *restored]).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))

    def restore_faces(self, image: Pixels | Regions, boxes: npt.NDArray[np.float32]) -> Pixels:
        """Restore boxes (N, 4) of an image HxWx3, each with its context, to (N, 64, 64, 3) uint8 RGB."""
        return self.restore(cut_crops(image, crop_squares(boxes), LOW_SIDE))

    def judge(self, crops: Pixels) -> Judgements:
        """Restore and judge crops (N, 16, 16, 3) uint8 RGB."""
        face_logits, offsets = [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
        for batch in _batches(crops):
            _, face, box = self._discriminator.run(self._generator.run(batch)[1])
            face_logits.append(face)
            offsets.append(box)
        return Judgements(np.concatenate(face_logits), np.concatenate(offsets))

    def apply(self, images: Sequence[Pixels], proposals: Sequence[Faces], per_megapixel: int | None = None) -> list[Faces]:
        """Judge the candidates among the proposals of several images, whose crops run together.

        Args:
            images: HxWx3 uint8 RGB each.
            proposals: What the first stage found in each, in pixels.
            per_megapixel: See `candidate_places`.

        Returns:
            For each image its faces, one box each, with fused scores, highest first.
        """
        chosen = [
            candidate_places(faces, self.rule, image.shape[1], image.shape[0], per_megapixel)
            for image, faces in zip(images, proposals, strict=True)
        ]
        crops = [
            cut_crops(image, crop_squares(faces.boxes[places]), LOW_SIDE)
            for image, faces, places in zip(images, proposals, chosen, strict=True)
        ]
        judged = self.judge(np.concatenate([np.zeros((0, LOW_SIDE, LOW_SIDE, 3), np.uint8), *crops]))
        results, start = [], 0
        for image, faces, places in zip(images, proposals, chosen, strict=True):
            part = slice(start, start + len(places))
            start += len(places)
            mine = Judgements(judged.face_logits[part], judged.offsets[part])
            results.append(fused(faces, places, mine, self.rule, image.shape[1], image.shape[0]))
        return results


def candidate_places(
    proposals: Faces, rule: FusionRule, width: int, height: int, per_megapixel: int | None = None
) -> npt.NDArray[np.intp]:
    """Which of an image's proposals are judged.

    Args:
        proposals: All proposals of the image, in pixels.
        rule: Which of them are candidates.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        per_megapixel: At most so many of a megapixel, those with the highest scores; all if None.

    Returns:
        (M,), their places, ascending.
    """
    places = np.flatnonzero(rule.selects(proposals.boxes, proposals.scores))
    if per_megapixel is None:
        return places
    most = math.ceil(per_megapixel * max(width * height / 1e6, _LEAST_MEGAPIXELS))
    return np.sort(places[np.argsort(-proposals.scores[places], kind="stable")[:most]])


def fused(proposals: Faces, places: npt.NDArray[np.intp], judged: Judgements, rule: FusionRule, width: int, height: int) -> Faces:
    """Fuse the judgements into an image's proposals.

    Args:
        proposals: All proposals of the image, in pixels.
        places: (M,), which of them were judged.
        judged: The M judgements.
        rule: How both scores become one.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Returns:
        One box for each face, within the image, highest score first.
    """
    boxes, scores = proposals.boxes.copy(), proposals.scores.copy()
    scores[places] = rule.fuse(scores[places], judged.face_logits, longer_sides(boxes[places]))
    boxes[places] = clip(rule.correct(boxes[places], judged.offsets), width, height)
    return Faces(boxes, scores)[nms(boxes, scores, rule.bounds.overlap)]


def _batches(crops: Pixels) -> list[Batch]:
    parts = [crops[start : start + _CROPS_AT_ONCE] for start in range(0, len(crops), _CROPS_AT_ONCE)]
    return [np.ascontiguousarray(part.transpose(0, 3, 1, 2), np.float32) / np.float32(255) for part in parts]
