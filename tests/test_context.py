import math

import numpy as np
import pytest

from tinyfaces.detection.context import min_score_needed, rescore_by_neighbours
from tinyfaces.detection.faces import Faces


def _photo(seed, count, low=0.05):
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 300, (count, 2)), np.exp(rng.uniform(1.5, 5, (count, 1)))
    boxes = np.concatenate([corners, corners + sides * rng.uniform(0.7, 1, (count, 2))], 1)
    return Faces(boxes.astype(np.float32), np.sort(rng.uniform(low, 1, count))[::-1].astype(np.float32))


def _by_hand(faces):
    scores = []
    for one, (x1, y1, x2, y2) in enumerate(faces.boxes.tolist()):
        others = []
        for other, (a1, b1, a2, b2) in enumerate(faces.boxes.tolist()):
            if other != one and faces.scores[other] >= 0.3:
                others.append((math.hypot(a1 + a2 - x1 - x2, b1 + b2 - y1 - y2), float(faces.scores[other])))
        company = sum(score for _, score in sorted(others)[:8])
        odds = faces.scores[one] / (1 - faces.scores[one]) * (1 + company) ** 0.15
        scores.append(odds / (1 + odds))
    return np.array(scores)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 60])
def test_scores_are_those_of_the_loop(count, monkeypatch):
    monkeypatch.setattr("tinyfaces.detection.context._DISTANCES_AT_ONCE", 100)  # so that some faces come in several lots
    faces = _photo(count, count)
    expected, found = _by_hand(faces), rescore_by_neighbours(faces)
    order = np.argsort(-expected, kind="stable")
    np.testing.assert_allclose(found.scores, expected[order], atol=1e-5)
    np.testing.assert_array_equal(found.boxes, faces.boxes[order])


def test_a_face_alone_and_none_stay_as_they_are():
    alone = Faces(np.array([[3, 4, 12, 15]], np.float32), np.array([0.42], np.float32))
    assert rescore_by_neighbours(alone).scores == pytest.approx([0.42]) and len(rescore_by_neighbours(Faces.empty())) == 0
    unsure = _photo(2, 20)
    unsure = unsure[unsure.scores < 0.3]
    np.testing.assert_array_equal(rescore_by_neighbours(unsure).scores, unsure.scores)


@pytest.mark.parametrize("threshold", [0.02, 0.2, 0.3, 0.5, 0.9])
def test_what_is_needed_for_a_threshold_is_enough(threshold):
    kept = 0
    for seed in range(20):
        faces = _photo(seed, 40, low=0.001)
        every = rescore_by_neighbours(faces).above(threshold)
        needed = rescore_by_neighbours(faces.above(min_score_needed(threshold))).above(threshold)
        np.testing.assert_array_equal(needed.boxes, every.boxes)
        np.testing.assert_array_equal(needed.scores, every.scores)
        kept += len(every)
    assert kept
