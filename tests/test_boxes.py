"""Boxes against loops over single numbers."""

import numpy as np
import pytest

from tinyfaces.detection.boxes import areas, iou_matrix, nms, nms_with_voting, share_within, tiles


def _iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def _greedy(boxes, scores, overlap, groups=None):
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    groups = range(len(boxes)) if groups is None else groups
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if groups[i] == groups[best] or _iou(boxes[best], boxes[i]) <= overlap]
    return kept


def _random_boxes(rng, count, spread, sizes):
    middle = rng.uniform(0, spread, (count, 2))
    half = np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]), (count, 2))) / 2
    return np.concatenate([middle - half, middle + half], 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.45, 0.7])
def test_nms_is_the_greedy_loop(seed, overlap):
    rng = np.random.default_rng(seed)
    boxes = _random_boxes(rng, 120, [30, 100, 400][seed % 3], [(5, 9), (3, 100)][seed % 2])
    scores = rng.random(120).round(2 if seed % 4 else 1).astype(np.float32)
    assert nms(boxes, scores, overlap).tolist() == _greedy(boxes.tolist(), scores.tolist(), overlap)
    looks = rng.integers(0, 3, 120)
    assert nms(boxes, scores, overlap, looks).tolist() == _greedy(boxes.tolist(), scores.tolist(), overlap, looks)


def test_nms_of_nothing_and_of_copies():
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).tolist() == []
    boxes = np.tile(np.array([[3, 4, 10, 12]], np.float32), (50, 1))
    assert nms(boxes, np.full(50, 0.5, np.float32), 0.5).tolist() == [0]


@pytest.mark.parametrize("overlap,lowest", [(0.3, 0.0), (0.45, 0.4), (0.7, 0.0)])
def test_voted_boxes_are_the_weighted_means_of_those_that_overlap(overlap, lowest):
    rng = np.random.default_rng(3)
    boxes = np.repeat(_random_boxes(rng, 30, 60, (5, 12)), 5, axis=0) + rng.uniform(-0.8, 0.8, (150, 4)).astype(np.float32)
    scores = rng.random(150).astype(np.float32)
    voted = nms_with_voting(boxes, scores, overlap, lowest)
    assert voted.kept.tolist() == nms(boxes, scores, overlap).tolist()
    moved = 0
    for index, result, support in zip(voted.kept, voted.boxes, voted.support, strict=True):
        near = [n for n in range(150) if n != index and _iou(boxes[index].astype(float), boxes[n].astype(float)) > overlap]
        voters = [n for n in near if scores[n] >= lowest]
        weights = scores[[index, *voters]].astype(float) ** 2
        np.testing.assert_allclose(result, (weights[:, None] * boxes[[index, *voters]]).sum(0) / weights.sum(), atol=1e-3)
        assert support == pytest.approx(scores[voters].sum(dtype=float), abs=1e-6)
        moved += len(voters) > 0
    assert moved > 10
    nothing = nms_with_voting(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), overlap)
    assert nothing.kept.shape == (0,) and nothing.boxes.shape == (0, 4) and nothing.support.shape == (0,)


def test_overlaps_are_those_of_the_loop():
    rng = np.random.default_rng(0)
    a, b = _random_boxes(rng, 30, 40, (3, 40)), _random_boxes(rng, 20, 40, (3, 40))
    a[3] = a[3][[2, 1, 0, 3]]  # of negative width
    matrix = iou_matrix(a[4:], b)
    expected = [[_iou(x, y) for y in b.astype(float)] for x in a[4:].astype(float)]
    np.testing.assert_allclose(matrix, expected, atol=1e-9)
    assert areas(a)[3] == 0


def test_share_within_counts_pixels():
    rng = np.random.default_rng(1)
    boxes = rng.integers(0, 20, (15, 2)).repeat(2, 0).reshape(15, 4).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.integers(1, 12, (15, 2))
    for box, row in zip(boxes.astype(int), share_within(boxes, boxes), strict=True):
        for host, share in zip(boxes.astype(int), row, strict=True):
            inside = np.zeros((40, 40), bool)
            inside[host[1] : host[3], host[0] : host[2]] = True
            assert share == pytest.approx(inside[box[1] : box[3], box[0] : box[2]].mean())


@pytest.mark.parametrize("width,height", [(1280, 1280), (1281, 700), (4000, 3000), (9999, 64), (30000, 10), (2431, 5003)])
def test_tiles_hold_whatever_fits_the_overlap(width, height):
    side, overlap = 1280, 128
    found = tiles(width, height, side, overlap)
    assert (found[:, :2] >= 0).all() and (found[:, 2] <= width).all() and (found[:, 3] <= height).all()
    assert ((found[:, 2:] - found[:, :2]) <= side).all()
    assert (found[:, :2] % 32 == 0).all()
    rng = np.random.default_rng(0)
    corner = rng.integers(0, [max(width - overlap, 1), max(height - overlap, 1)], (500, 2))
    ends = np.minimum(corner + overlap, [width, height])
    whole = (found[None, :, :2] <= corner[:, None]).all(2) & (found[None, :, 2:] >= ends[:, None]).all(2)
    assert whole.any(1).all()


def test_tiles_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="overlap"):
        tiles(100, 100, 64, 64)
    with pytest.raises(ValueError, match="multiples"):
        tiles(100, 100, 100, 32)
