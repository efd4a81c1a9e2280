"""The second stage at work: candidates that are small and undecided are restored, judged, corrected and ranked anew."""

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

_CROPS_AT_ONCE = 32


@dataclass(frozen=True)
class Judgements:
    """What the discriminator says of N crops: face_logits (N,) float32; offsets (N, 4) float32, the face's centre shift in the
    candidate's sides and the log of the sides' ratios."""

    face_logits: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


class SecondStage:
    """Generator and discriminator, ready to run, and the rule that fuses their judgement with the proposals' scores.

    record: the shipped networks. rule: see `tinyfaces.detection.fusion`. Raises ModelError where a network cannot be loaded.
    """

    def __init__(self, record: SecondStageRecord, rule: FusionRule, options: RuntimeOptions | None = None) -> None:
        options = options or RuntimeOptions()
        if options.precision == "bfloat16":  # small networks gain little from it
            options = replace(options, precision="auto")
        self.rule = rule
        self._generator = load_session(record.generator_path, GENERATOR, options)
        self._discriminator = load_session(record.discriminator_path, DISCRIMINATOR, options)

    def restore(self, crops: Pixels) -> Pixels:
        """Crops (N, 16, 16, 3) uint8 RGB at four times their size: (N, 64, 64, 3)."""
        restored = [self._generator.run(batch)[1] for batch in _batches(crops)]
        side = FACTOR * LOW_SIDE
        pixels = np.concatenate([np.zeros((0, 3, side, side), np.float32), *restored]).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))

    def restore_faces(self, image: Pixels | Regions, boxes: npt.NDArray[np.float32]) -> Pixels:
        """Boxes (N, 4) of an image HxWx3, each with its context, restored: (N, 64, 64, 3) uint8 RGB."""
        return self.restore(cut_crops(image, crop_squares(boxes), LOW_SIDE))

    def judge(self, crops: Pixels) -> Judgements:
        """Restore and judge crops (N, 16, 16, 3) uint8 RGB."""
        face_logits, offsets = [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
        for batch in _batches(crops):
            _, face, box = self._discriminator.run(self._generator.run(batch)[1])
            face_logits.append(face)
            offsets.append(box)
        return Judgements(np.concatenate(face_logits), np.concatenate(offsets))

    def apply(self, images: Sequence[Pixels], proposals: Sequence[Faces]) -> list[Faces]:
        """The proposals of each image after the second stage: sorted by fused score, one box a face.

        images: HxWx3 uint8 RGB. proposals: their faces, in pixels. The crops of all images are judged together.
        """
        chosen = [np.flatnonzero(self.rule.selects(faces.boxes, faces.scores)) for faces in proposals]
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


def fused(proposals: Faces, places: npt.NDArray[np.intp], judged: Judgements, rule: FusionRule, width: int, height: int) -> Faces:
    """An image's proposals after fusion: those at `places` (M,) scored anew and corrected by the M judgements, boxes cut to width
    and height, then one box a face, highest score first."""
    boxes, scores = proposals.boxes.copy(), proposals.scores.copy()
    scores[places] = rule.fuse(scores[places], judged.face_logits, longer_sides(boxes[places]))
    boxes[places] = clip(rule.correct(boxes[places], judged.offsets), width, height)
    return Faces(boxes, scores)[nms(boxes, scores, rule.bounds.overlap)]


def _batches(crops: Pixels) -> list[Batch]:
    parts = [crops[start : start + _CROPS_AT_ONCE] for start in range(0, len(crops), _CROPS_AT_ONCE)]
    return [np.ascontiguousarray(part.transpose(0, 3, 1, 2), np.float32) / np.float32(255) for part in parts]
