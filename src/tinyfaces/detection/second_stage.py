"""The second stage: a small network looks at each candidate again, judges how well its box fits a face, and corrects it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import clip, longer_sides, nms
from tinyfaces.detection.crops import LOW_SIDE, crop_batches, crop_squares, cut_crops
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.runtime import JUDGE, RuntimeOptions, load_session
from tinyfaces.weights import SecondStageRecord


@dataclass(frozen=True)
class Judgements:
    """What the judge says about N crops.

    Args:
        face_logits: (N,) float32, how well the corrected box fits a face.
        offsets: (N, 4) float32: shift of the centre in x and y, in sides of the candidate; log of the ratio of the sides.
    """

    face_logits: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


class SecondStage:
    """The judge, ready to run. Any number of threads may share one.

    Args:
        record: The shipped networks.
        rule: Which candidates are judged, and how both scores become one.
        options: What runs the networks; ONNX Runtime on the CPU if None.

    Raises:
        ModelError: It cannot be loaded.
    """

    def __init__(self, record: SecondStageRecord, rule: FusionRule, options: RuntimeOptions | None = None) -> None:
        self.rule = rule
        self._judge = load_session(record.judge_path, JUDGE, (options or RuntimeOptions()).for_small_networks())

    def judge(self, crops: Pixels) -> Judgements:
        """Judge crops (N, 16, 16, 3) uint8 RGB."""
        face_logits, offsets = [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
        for batch in crop_batches(crops):
            face, box = self._judge.run(batch)
            face_logits.append(face)
            offsets.append(box)
        return Judgements(np.concatenate(face_logits), np.concatenate(offsets))

    def apply(self, images: Sequence[Pixels], proposals: Sequence[Faces]) -> list[Faces]:
        """Judge the candidates among the proposals of several images, whose crops run together.

        Args:
            images: HxWx3 uint8 RGB each.
            proposals: What the first stage found in each, in pixels.

        Returns:
            For each image its faces, one box each, with fused scores, highest first.
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
