"""Measuring a second stage: candidates are labelled rightly, rules are learnt across halves, fused results are the cascade's."""

from pathlib import Path

import numpy as np
import pytest

from tinyfaces import Faces
from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.fusion import Bounds
from tinyfaces.detection.second_stage import Judgements
from tinyfaces.evaluation import coco
from tinyfaces.evaluation.rule_fitting import fuse, fuse_across, gather, judge_all, learn_rule

BOUNDS = Bounds(24.0, (0.05, 0.95))


def _photos(count=30):
    """Photos whose red channel is bright where a face is; a first stage that is right two times of three."""
    rng = np.random.default_rng(0)
    photos, found = [], {}
    for number in range(count):
        pixels = rng.integers(0, 60, (120, 160, 3), np.uint8)
        corners = np.array([(x, y) for x in range(10, 140, 30) for y in range(10, 100, 30)], np.float32)
        boxes = np.concatenate([corners, corners + 12], 1)
        face = rng.random(len(boxes)) < 0.5
        for (x, y, _, _), true in zip(boxes.astype(int), face, strict=True):
            pixels[y : y + 12, x : x + 12, 0] = rng.integers(120, 200) if true else rng.integers(0, 90)
        scores = np.where(face, rng.uniform(0.2, 0.9, len(boxes)), rng.uniform(0.1, 0.7, len(boxes))).astype(np.float32)
        known = boxes[face]
        image = AnnotatedImage(
            Path(f"{number}.png"), 160, 120, known, np.zeros(len(known), bool), np.ones(len(known), np.float32)
        )
        photos.append((pixels, image))
        found[pixels.tobytes()] = Faces(boxes, scores)
    return photos, lambda pixels: found[pixels.tobytes()]


def _judge(crops):
    """Right more often than the first stage: the mean of red in the middle."""
    red = crops[:, 4:12, 4:12, 0].mean((1, 2)) if len(crops) else np.zeros(0)
    return Judgements(((red - 105) / 20).astype(np.float32), np.zeros((len(crops), 4), np.float32))


def test_candidates_and_their_labels():
    face, other, ignored = (10, 10, 20, 20), (50, 10, 60, 20), (100, 10, 112, 22)
    boxes = np.array([face, other, ignored, (14, 10, 24, 20), (10, 60, 60, 110), (70, 70, 80, 80)], np.float32)
    image = AnnotatedImage(
        Path("a"), 160, 120, np.array([face, ignored], np.float32), np.array([False, True]), np.ones(2, np.float32)
    )
    found = Faces(boxes, np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.01], np.float32))
    (known,) = gather(lambda pixels: found, [(np.zeros((120, 160, 3), np.uint8), image)], BOUNDS)
    assert known.places.tolist() == [0, 1, 2, 3], "the large one and the one below the bound stay out"
    assert known.face.tolist() == [True, False, False, False]
    assert known.usable.tolist() == [True, True, False, True], "all but the ignored one"
    assert known.crops.shape == (4, 16, 16, 3)


def test_a_good_second_stage_raises_ap_also_where_its_rule_was_not_learnt():
    photos, detect = _photos()
    known = gather(detect, photos, BOUNDS)
    judged = judge_all(known, _judge)
    images = [image for _, image in photos]
    before = coco.score([(one.proposals.boxes, one.proposals.scores) for one in known], images)["all"].ap
    across = coco.score(fuse_across(known, judged, BOUNDS), images)["all"].ap
    rule = learn_rule(known, judged, BOUNDS)
    same = coco.score(fuse(known, judged, rule), images)["all"].ap
    assert before < 0.93 < across and abs(same - across) < 0.02


def test_a_rule_may_be_learnt_on_the_same_photos_from_another_first_stage():
    photos, detect = _photos()
    known = gather(detect, photos, BOUNDS)
    judged = judge_all(known, _judge)

    def higher(pixels):
        faces = detect(pixels)
        return Faces(faces.boxes, np.sqrt(faces.scores))

    other = gather(higher, photos, BOUNDS)
    other_judged = judge_all(other, _judge)
    across = fuse_across(other, other_judged, BOUNDS, learnt_on=(known, judged))
    for parity in (0, 1):
        rule = learn_rule(known[1 - parity :: 2], judged[1 - parity :: 2], BOUNDS)
        for (boxes, scores), (own_boxes, own_scores) in zip(
            fuse(other[parity::2], other_judged[parity::2], rule), across[parity::2], strict=True
        ):
            assert np.array_equal(boxes, own_boxes) and np.array_equal(scores, own_scores)
    own = fuse_across(other, other_judged, BOUNDS)
    assert any(not np.array_equal(one[1], two[1]) for one, two in zip(own, across, strict=True))


def test_a_rule_is_learnt_from_what_its_bounds_admit_alone():
    photos, detect = _photos()
    narrow = Bounds(24.0, (0.3, 0.7))
    wide, just = gather(detect, photos, BOUNDS), gather(detect, photos, narrow)
    assert sum(len(one.places) for one in wide) > sum(len(one.places) for one in just) > 100
    rules = [learn_rule(known, judge_all(known, _judge), narrow) for known in (wide, just)]
    assert rules[0].bounds == narrow and np.allclose(rules[0].alone, rules[1].alone) and np.allclose(rules[0].both, rules[1].both)


def test_useless_judgements_do_no_harm():
    photos, detect = _photos()
    known = gather(detect, photos, BOUNDS)
    rng = np.random.default_rng(3)
    judged = [
        Judgements(rng.standard_normal(len(one.crops)).astype(np.float32), np.zeros((len(one.crops), 4), np.float32))
        for one in known
    ]
    images = [image for _, image in photos]
    before = coco.score([(one.proposals.boxes, one.proposals.scores) for one in known], images)["all"].ap
    after = coco.score(fuse_across(known, judged, BOUNDS), images)["all"].ap
    assert after == pytest.approx(before, abs=0.03)
