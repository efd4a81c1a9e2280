"""Decoding against a loop over every point."""

import math

import numpy as np
import pytest

from tinyfaces.detection.decoding import decode, find_faces, supported


def _outputs(rng, height, width):
    maps = []
    for stride in (4, 8, 16, 32):
        output = rng.normal(0, 1, (5, height // stride, width // stride)).astype(np.float32)
        output[0] = rng.normal(-2, 2, output[0].shape)
        maps.append(output)
    return maps


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_decode_is_the_loop(threshold):
    rng = np.random.default_rng(0)
    outputs = _outputs(rng, 96, 128)
    expected = []
    for output, stride in zip(outputs, (4, 8, 16, 32), strict=True):
        for row in range(output.shape[1]):
            for column in range(output.shape[2]):
                logit, dx, dy, log_w, log_h = (float(v) for v in output[:, row, column])
                score = 1 / (1 + math.exp(-logit))
                if score < threshold:
                    continue
                x, y = (column + 0.5 + dx) * stride, (row + 0.5 + dy) * stride
                w, h = math.exp(log_w) * stride, math.exp(log_h) * stride
                box = [max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, 120), min(y + h / 2, 90)]
                if box[2] > box[0] and box[3] > box[1]:
                    expected.append([*box, score])
    boxes, scores = decode(outputs, threshold, (90, 120))
    ours = np.concatenate([boxes, scores[:, None]], 1)
    assert len(ours) == len(expected)
    if expected:
        np.testing.assert_allclose(ours, np.array(expected), atol=1e-4)


def test_the_limit_keeps_the_best():
    outputs = _outputs(np.random.default_rng(1), 64, 64)
    for output in outputs:
        output[1:] = 0
    every = decode(outputs, 0.0, (64, 64))[1]
    some = decode(outputs, 0.0, (64, 64), limit=20)[1]
    assert sorted(some)[::-1] == pytest.approx(sorted(every)[::-1][:20])


def test_absurd_sizes_stay_finite():
    outputs = _outputs(np.random.default_rng(2), 64, 64)
    for output in outputs:
        output[0], output[3:] = 1e4, 1e4
    faces = find_faces(outputs, 0.5, (64, 64))
    assert np.isfinite(faces.boxes).all() and faces.scores.max() <= 1
    assert len(faces) == 1 and faces.boxes[0].tolist() == [0, 0, 64, 64]


@pytest.mark.parametrize("side,voted", [(20.0, True), (31.5, True), (32.5, False), (48.0, False)])
def test_boxes_of_small_faces_are_means_of_their_candidates(side, voted):
    outputs = [np.zeros((5, 64 // stride, 64 // stride), np.float32) for stride in (4, 8, 16, 32)]
    for output in outputs:
        output[0] = -20
    # two points of stride 4 see the same face, two pixels apart
    outputs[0][:, 8, 8] = 1.0, 0, 0, math.log(side / 4), math.log(side / 4)
    outputs[0][:, 8, 9] = 0.0, -0.5, 0, math.log(side / 4), math.log(side / 4)
    faces = find_faces(outputs, 0.3, (64, 64))
    high, low = (1 / (1 + math.exp(-1))) ** 2, 0.25
    shift = 2 * low / (high + low) if voted else 0.0
    assert faces.boxes[:, 0] == pytest.approx([34 + shift - side / 2], abs=1e-4) and len(faces) == 1


@pytest.mark.parametrize("score,votes", [(0.09, False), (0.11, True)])
@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_candidates_vote_from_a_score_of_a_tenth_whatever_the_threshold(score, votes, threshold):
    outputs = [np.zeros((5, 64 // stride, 64 // stride), np.float32) for stride in (4, 8, 16, 32)]
    for output in outputs:
        output[0] = -20
    log_side = math.log(12 / 4)
    outputs[0][:, 8, 8] = 1.0, 0, 0, log_side, log_side
    outputs[0][:, 8, 9] = math.log(score / (1 - score)), -0.5, 0, log_side, log_side
    faces = find_faces(outputs, threshold, (64, 64))
    high = (1 / (1 + math.exp(-1))) ** 2
    assert faces.boxes[0, 0] == pytest.approx(34 - 6 + (2 * score**2 / (high + score**2) if votes else 0), abs=1e-4)


def test_a_threshold_leaves_out_and_changes_nothing_else():
    rng = np.random.default_rng(3)
    outputs = _outputs(rng, 96, 96)
    for output, side in zip(outputs, (8, 16, 24, 24), strict=True):
        output[1:3] *= 0.2
        output[3:] = np.log(side / (96 // output.shape[1])) + 0.1 * output[3:]
    every = find_faces(outputs, 0.1, (96, 96))
    for threshold in (0.3, 0.6):
        some = find_faces(outputs, threshold, (96, 96))
        assert 0 < len(some) < len(every)
        np.testing.assert_array_equal(some.boxes, every.above(threshold).boxes)
        np.testing.assert_array_equal(some.scores, every.above(threshold).scores)


def test_what_several_points_say_counts_for_more_than_what_one_says():
    outputs = [np.zeros((5, 64 // stride, 64 // stride), np.float32) for stride in (4, 8, 16, 32)]
    for output in outputs:
        output[0] = -20
    log_side = math.log(12 / 4)
    outputs[0][:, 3, 3] = 0.4, 0, 0, log_side, log_side  # alone
    for column, logit in ((8, -0.5), (9, 0.2), (10, 0.0), (11, -3.0)):  # four points, of which one says hardly anything
        outputs[0][:, 8, column] = logit, 9 - column, 0, log_side, log_side
    lone, several = 1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(-0.2))
    support = 1 / (1 + math.exp(0.5)) + 0.5
    usual = math.sqrt(1 + 6 * (1 - math.exp(-12 / 14)))
    expected = [several / (1 - several) * (1 + support) / usual, lone / (1 - lone) / usual]
    faces = find_faces(outputs, 0.3, (64, 64))
    np.testing.assert_allclose(faces.scores / (1 - faces.scores), expected, rtol=1e-4)
    assert faces.boxes[:, 0] == pytest.approx([38 - 6, 14 - 6], abs=1e-3)


def test_supported_scores_stay_scores_and_keep_the_order_of_equals():
    scores, sides = np.array([0, 0.2, 0.2, 0.9, 1], np.float32), np.array([8, 8, 300, 8, 1e6], np.float32)
    found = supported(scores, np.array([0, 2.0, 2.0, 8.0, 0]), sides)
    assert found[0] == 0 and found[4] == 1 and 0.2 < found[2] < found[1] < found[3] < 1
    assert (np.diff(supported(np.full(20, 0.4, np.float32), np.linspace(0, 8, 20), np.full(20, 12, np.float32))) > 0).all()
