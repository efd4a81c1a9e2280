"""The fusion rule: the regression is the optimum, the fused scores are calibrated, the bounds bind."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.fusion import Bounds, FusionRule, fit_rule, logistic_regression, logits

BOUNDS = Bounds(24.0, (0.05, 0.95), 0.5)


def _candidates(count=6000, seed=0):
    """Faces and non-faces whose two logits are noisy views of the truth, the first one biased by size."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    sides = rng.uniform(5, 24, count).astype(np.float32)
    first = (2 * labels - 1) * 1.0 + rng.standard_normal(count) * 1.2 - 0.5
    second = ((2 * labels - 1) * 1.5 + rng.standard_normal(count) * 1.5 + 0.7).astype(np.float32)
    return (1 / (1 + np.exp(-first))).astype(np.float32), second, sides, labels


def _area(scores, labels):
    """Area under the ROC curve, by ranks."""
    ranks = np.argsort(np.argsort(scores)) + 1
    positives = labels.sum()
    return (ranks[labels].sum() - positives * (positives + 1) / 2) / positives / (len(labels) - positives)


def test_regression_is_the_optimum_that_scipy_finds():
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (the extra evaluate)")
    rng = np.random.default_rng(1)
    features = np.concatenate([np.ones((400, 1)), rng.standard_normal((400, 3))], 1)
    labels = rng.random(400) < 1 / (1 + np.exp(-features @ [0.3, 1.0, -2.0, 0.0]))
    counts = rng.uniform(0.2, 3, 400)

    def loss(weights):
        z = features @ weights
        return (counts * np.logaddexp(0, z)).sum() - (counts * z)[labels].sum() + 0.5 * weights @ weights

    found = logistic_regression(features, labels, counts)
    np.testing.assert_allclose(found, optimize.minimize(loss, np.zeros(4), tol=1e-10).x, atol=1e-4)


def test_fused_scores_rank_better_and_stay_on_the_proposals_scale():
    scores, second, sides, labels = _candidates()
    rule = fit_rule(scores, second, sides, labels, bounds=BOUNDS)
    scores, second, sides, labels = _candidates(seed=1)
    fused = rule.fuse(scores, second, sides)
    assert _area(fused, labels) > _area(scores, labels) + 0.05
    # of candidates near a score, as many are faces as among those with that fused score
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        before, after = (scores > low) & (scores < high), (fused > low) & (fused < high)
        assert labels[after].mean() == pytest.approx(labels[before].mean(), abs=0.08)


def test_a_second_stage_that_knows_nothing_changes_little():
    scores, _, sides, labels = _candidates()
    noise = np.random.default_rng(5).standard_normal(len(scores)).astype(np.float32)
    rule = fit_rule(scores, noise, sides, labels, bounds=BOUNDS)
    inside = (scores > 0.05) & (scores < 0.95)
    assert np.abs(rule.fuse(scores, noise, sides) - scores)[inside].max() < 0.1


@pytest.mark.parametrize("slope,slope_by_size", [(0.05, 0.0), (-1.0, 0.0), (0.5, 2.0), (0.5, -2.0)])
def test_a_proposal_score_that_says_less_than_nothing_does_not_turn_the_order_round(slope, slope_by_size):
    """The rule divides by how much a proposal's logit says, which is taken for 0.2 where it is less."""
    rule = FusionRule(BOUNDS, (0, slope, 0, slope_by_size), (0, 0.5, 1, 0, 0, 0))
    face_logits = np.linspace(-2, 2, 13).astype(np.float32)
    for side in (3, 6, 12, 24):
        gain = max(slope + slope_by_size * np.log(side / 12), 0.2)
        fused = rule.fuse(np.full(13, 0.5, np.float32), face_logits, np.full(13, side, np.float32))
        assert (np.diff(fused) > 0).all()
        np.testing.assert_allclose(logits(fused), face_logits / gain, atol=0.01, rtol=0.01)


def test_trust_is_the_share_of_the_change_that_is_applied():
    scores, second, sides, labels = _candidates(500)
    rule = fit_rule(scores, second, sides, labels, bounds=BOUNDS)
    half, none = (replace(rule, bounds=replace(BOUNDS, trust=trust)) for trust in (0.5, 0.0))
    between = (logits(rule.fuse(scores, second, sides)) + logits(scores)) / 2
    np.testing.assert_allclose(logits(half.fuse(scores, second, sides)), between, atol=1e-3)
    np.testing.assert_allclose(none.fuse(scores, second, sides), scores, atol=1e-6)


def test_bounds():
    rule = FusionRule(Bounds(20.0, (0.1, 0.8)), (0, 1, 0, 0), (0, 1, 0.5, 0, 0, 0))
    boxes = np.array([[0, 0, 10, 20], [0, 0, 10, 21], [0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 5, 5]], np.float32)
    assert rule.selects(boxes, np.array([0.5, 0.5, 0.09, 0.1, 0.81], np.float32)).tolist() == [True, False, False, True, False]
    assert longer_sides(boxes).tolist() == [20, 21, 5, 5, 5]
    assert rule.selects(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)).shape == (0,)


def test_nothing_below_the_lowest_useful_score_reaches_the_threshold():
    rule = FusionRule(BOUNDS, (0.1, 1.1, 0.0, 0.1), (0.0, 0.9, 0.3, 0.1, 0.05, -0.1))
    for threshold in (0.5, 0.7, 0.9):
        lowest = rule.min_proposal_score(threshold)
        assert 0.1 < lowest < threshold
        below = np.linspace(0.05, lowest - 0.02, 50, dtype=np.float32)
        for side in (4, 8, 16, 24):
            best = rule.fuse(below, np.full(50, 3, np.float32), np.full(50, side, np.float32))
            assert (best < threshold).all()
    assert rule.min_proposal_score(0.01) == 0.01


def test_corrections_are_the_share_asked_for():
    boxes = np.array([[10, 10, 20, 30]], np.float32)
    offsets = np.array([[0.2, -0.1, np.log(2), 0]], np.float32)
    for share, expected in ((0.0, [10, 10, 20, 30]), (1.0, [7, 8, 27, 28]), (0.5, [16 - 5 * 2**0.5, 9, 16 + 5 * 2**0.5, 29])):
        rule = FusionRule(Bounds(box=share), (0, 1, 0, 0), (0, 1, 1, 0, 0, 0))
        np.testing.assert_allclose(rule.correct(boxes, offsets), [expected], atol=1e-4)


def test_a_rule_is_read_back_and_needs_both_kinds():
    scores, second, sides, labels = _candidates(500)
    rule = fit_rule(scores, second, sides, labels, bounds=BOUNDS)
    assert FusionRule.from_dict(rule.to_dict()) == rule
    assert FusionRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    with pytest.raises(ValueError, match="0 faces"):
        fit_rule(scores, second, sides, labels & False, bounds=BOUNDS)


def test_logits_are_finite_at_the_ends():
    assert np.isfinite(logits(np.array([0.0, 1.0]))).all()
    assert logits(np.array([0.75]))[0] == pytest.approx(np.log(3))
