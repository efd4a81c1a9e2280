"""Precision, recall and F1 at a threshold, against counting by hand and a brute force."""

from pathlib import Path

import numpy as np
import pytest

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.evaluation.operating_point import MatchedDetections


def _image(boxes, ignored=()):
    every = np.array([*boxes, *ignored], np.float32).reshape(-1, 4)
    flags = np.arange(len(every)) >= len(boxes)
    return AnnotatedImage(Path("p.png"), 100, 100, every, flags, np.ones(len(every), np.float32))


def _found(*boxes_and_scores):
    boxes = np.array([box for box, _ in boxes_and_scores], np.float32).reshape(-1, 4)
    return boxes, np.array([score for _, score in boxes_and_scores], np.float32)


def test_each_face_counts_once_and_ignored_ones_not_at_all():
    image = _image([(0, 0, 10, 10), (50, 50, 60, 60)], ignored=[(70, 70, 90, 90)])
    right, double, elsewhere = (0, 0, 10, 9), (0, 1, 10, 10), (30, 0, 40, 10)
    matched = MatchedDetections.of([_found((right, 0.9), (double, 0.8), ((72, 72, 80, 80), 0.7), (elsewhere, 0.4))], [image])
    at = matched.at(0.5)
    assert (at.precision, at.recall, at.f1) == pytest.approx((1 / 2, 1 / 2, 1 / 2)), "one right, one double, one ignored"
    assert matched.at(0.4).precision == pytest.approx(1 / 3), "from the threshold on"
    assert matched.at(0.95) == MatchedDetections.of([_found()], [image]).at(0.1), "nothing found"
    assert MatchedDetections.of([_found((right, 0.9))], [_image([])]).at(0.1).recall == 0


def test_it_is_what_a_brute_force_counts():
    rng = np.random.default_rng(0)
    images, found = [], []
    for _ in range(30):
        corner = rng.uniform(0, 80, (8, 2))
        faces = np.concatenate([corner, corner + rng.uniform(6, 14, (8, 2))], 1)
        near = faces[rng.integers(0, 8, 12)] + rng.normal(0, 1.5, (12, 4))
        images.append(_image(faces))
        found.append(_found(*zip(near, -np.sort(-rng.random(12)), strict=True)))
    for threshold in (0.2, 0.5, 0.8):
        right = count = 0
        for image, (boxes, scores) in zip(images, found, strict=True):
            left = list(image.boxes)
            for box in boxes[scores >= threshold]:
                count += 1
                overlaps = iou_matrix(box[None], np.array(left, np.float32).reshape(-1, 4))[0]
                if len(overlaps) and overlaps.max() >= 0.5:
                    left.pop(int(overlaps.argmax()))
                    right += 1
        at = MatchedDetections.of(found, images).at(threshold)
        assert (at.precision, at.recall) == pytest.approx((right / count, right / 240))
        assert at.f1 == pytest.approx(2 * at.precision * at.recall / (at.precision + at.recall))
