"""How the second stage's opinion changes a proposal: a calibrated rule, learnt by logistic regression on labelled candidates.

Two regressions on the same candidates say how probable a face is, knowing the proposal's score alone and knowing the second
stage's logit too. The fused score is the one that, alone, would be as probable as both together. So it stays on the proposals'
scale: thresholds keep their meaning, and candidates that never saw the second stage rank rightly among those that did.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import longer_sides

Floats = npt.NDArray[np.floating[Any]]

_TYPICAL_SIDE = 12.0
_MAX_LOGIT = 5.0
_CONVINCING_LOGIT = 3.0
_RIDGE = 1.0
_STEPS = 50
_MIN_SLOPE = 0.2


@dataclass(frozen=True)
class Bounds:
    """Which candidates the second stage judges, and how far it moves them.

    largest_side: longer side in pixels up to which a candidate is small enough. undecided: scores from and up to which it is
    undecided. box: how much of the box head's correction is applied, 0-1. overlap: IoU from which two of the corrected boxes are
    one face; higher for this project's networks, whose boxes, voted on, stand closer than those of others.
    """

    largest_side: float = 24.0
    undecided: tuple[float, float] = (0.2, 0.9)
    box: float = 0.8
    overlap: float = 0.45

    def selects(self, sides: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which (N,) of the proposals, by their longer sides (N,) in pixels and scores (N,), the second stage is to judge."""
        low, high = self.undecided
        return (sides <= self.largest_side) & (scores >= low) & (scores <= high)


@dataclass(frozen=True)
class FusionRule:
    """Which candidates the second stage judges, and what its judgement changes.

    alone: intercept, slope of the proposal's logit, and both times log(side / 12), of a regression on the proposal. both: the
    same of a regression on both, with the second stage's logit after the proposal's.
    """

    bounds: Bounds
    alone: tuple[float, float, float, float]
    both: tuple[float, float, float, float, float, float]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FusionRule":
        """The rule that `to_dict` wrote."""
        bounds: dict[str, Any] = {**values["bounds"], "undecided": tuple(values["bounds"]["undecided"])}
        return cls(Bounds(**bounds), tuple(values["alone"]), tuple(values["both"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def selects(self, boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which (N,) of the proposals, boxes (N, 4) in pixels and scores (N,), the second stage is to judge."""
        return self.bounds.selects(longer_sides(boxes), scores)

    def min_proposal_score(self, threshold: float) -> float:
        """The lowest proposal score that a second stage's logit of 3 (a probability of 0.95) lifts to a fused score of
        `threshold`: what lies below is not worth its time."""
        scores = np.linspace(*self.bounds.undecided, 200, dtype=np.float32)
        sides = np.geomspace(3, self.bounds.largest_side, 12, dtype=np.float32)
        grid_scores, grid_sides = np.repeat(scores, len(sides)), np.tile(sides, len(scores))
        lifted = self.fuse(grid_scores, np.full(len(grid_scores), _CONVINCING_LOGIT, np.float32), grid_sides) >= threshold
        return min(threshold, float(grid_scores[lifted].min(initial=1.0)))

    def fuse(
        self, scores: npt.NDArray[np.float32], face_logits: npt.NDArray[np.float32], sides: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Fused scores (N,) of proposals' scores (N,), the second stage's logits (N,) and longer sides (N,) in pixels."""
        size = _relative(sides)
        together = _features(size, logits(scores), face_logits) @ np.array(self.both)
        intercept, slope, intercept_by_size, slope_by_size = self.alone
        # A proposal's score that says less than nothing would turn the order round.
        gain = np.maximum(slope + slope_by_size * size, _MIN_SLOPE)
        fused = (together - intercept - intercept_by_size * size) / gain
        scores_of_both: npt.NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(fused, -30, 30)))).astype(np.float32)
        return scores_of_both

    def correct(self, boxes: npt.NDArray[np.float32], offsets: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) moved by the rule's share of the offsets (N, 4): centre shift in sides, log of the sides' ratios."""
        sides, middle = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
        middle = middle + self.bounds.box * np.clip(offsets[:, :2], -0.5, 0.5) * sides
        half = np.exp(self.bounds.box * np.clip(offsets[:, 2:], -1, 1)) * sides / 2
        return np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)


def fit_rule(
    scores: npt.NDArray[np.float32],
    face_logits: npt.NDArray[np.float32],
    sides: npt.NDArray[np.float32],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.floating[Any]] | None = None,
    *,
    bounds: Bounds,
) -> FusionRule:
    """Learn the rule from N candidates: proposals' scores, the second stage's logits, longer sides in pixels, which are faces.

    weights: (N,) how much each counts, alike if left out. Candidates that the bounds exclude are left out. Raises ValueError
    where faces or non-faces are missing among the rest.
    """
    use = bounds.selects(sides, scores)
    labels = labels[use]
    if not labels.any() or labels.all():
        raise ValueError(f"a rule needs faces and non-faces, not {int(labels.sum())} faces among {len(labels)} candidates")
    size, proposal = _relative(sides[use]), logits(scores[use])
    counts = np.ones(len(labels)) if weights is None else weights[use] * (len(labels) / weights[use].sum())
    alone = logistic_regression(_features(size, proposal), labels, counts)
    both = logistic_regression(_features(size, proposal, face_logits[use]), labels, counts)
    return FusionRule(bounds, tuple(alone.tolist()), tuple(both.tolist()))


def logistic_regression(features: Floats, labels: npt.NDArray[np.bool_], counts: npt.NDArray[np.floating[Any]]) -> Floats:
    """Weights (F,) that maximise the likelihood of labels (N,) given features (N, F), each counted (N,) so many times, with a
    ridge of 1; by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (counts * (probability - labels)) + _RIDGE * weights
        curvature = (features * (counts * probability * (1 - probability))[:, None]).T @ features + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def logits(scores: npt.NDArray[np.floating[Any]]) -> Floats:
    """log(p / (1 - p)) of scores (N,), finite also at 0 and 1."""
    clipped = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _relative(sides: npt.NDArray[np.floating[Any]]) -> Floats:
    return np.log(np.maximum(sides.astype(np.float64), 1.0) / _TYPICAL_SIDE)


def _features(size: Floats, proposal: Floats, second: npt.NDArray[np.floating[Any]] | None = None) -> Floats:
    columns = [np.ones_like(proposal), proposal]
    if second is not None:
        columns.append(np.clip(second.astype(np.float64), -_MAX_LOGIT, _MAX_LOGIT))
    return np.stack([*columns, *(column * size for column in columns)], axis=1)
