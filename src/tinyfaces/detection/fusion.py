"""The fusion rule: how the scores of both stages become one. It is learnt by logistic regression on labelled candidates.

Two regressions on the same candidates say how probable a face is: one knows only the proposal's score, the other also the second
stage's logit. The fused score is the proposal score that would, by itself, be as probable as both together. So it stays on the
proposals' scale: thresholds keep their meaning, and proposals that the second stage never saw rank correctly among the others.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import longer_sides

Floats = npt.NDArray[np.floating[Any]]

_TYPICAL_SIDE = 12.0  # pixels, the middle of what the second stage judges: only a unit, which the regressions absorb
_MAX_LOGIT = 5.0  # a probability of 0.993: beyond, logits say no more about how sure a network is
_CONVINCING_LOGIT = 3.0  # a probability of 0.95
_RIDGE = 1.0  # next to thousands of candidates it only keeps the solution unique
_STEPS = 50  # Newton's method needs fewer than ten
_MIN_SLOPE = 0.2  # so that a fused score does not jump where a proposal's score says next to nothing


@dataclass(frozen=True)
class Bounds:
    """Which proposals are candidates for the second stage, and how much it changes them.

    Args:
        largest_side: Candidates have longer sides up to this, in pixels.
        undecided: Candidates have scores from the first to the second of these.
        box: How much of the judge's correction of the box is applied, 0-1.
        overlap: IoU above which two corrected boxes are one face. Boxes of the shipped models, which are voted on, may stand
            closer than those of other detectors.
        trust: How much of the change of a score's logit is applied, 0-1. The regression makes scores as probable as they say;
            what ranks best over all sizes changes them less.
    """

    largest_side: float = 24.0
    undecided: tuple[float, float] = (0.2, 0.9)
    box: float = 0.5
    overlap: float = 0.45
    trust: float = 1.0

    def selects(self, sides: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which (N,) of the proposals, by their longer sides (N,) in pixels and scores (N,), are candidates."""
        low, high = self.undecided
        return (sides <= self.largest_side) & (scores >= low) & (scores <= high)


@dataclass(frozen=True)
class FusionRule:
    """Which candidates the second stage judges, and how both scores become one.

    Args:
        bounds: Which candidates.
        alone: The regression on the proposal's score: intercept, slope of its logit, and both once more for log(side / 12).
        both: The regression on both scores: intercept, slope of the proposal's logit, slope of the second stage's, and all once
            more for log(side / 12).
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
        """Which (N,) of the proposals, boxes (N, 4) in pixels and scores (N,), are candidates."""
        return self.bounds.selects(longer_sides(boxes), scores)

    def min_proposal_score(self, threshold: float) -> float:
        """The lowest proposal score from which a convinced second stage (a probability of 0.95) reaches a fused score of
        `threshold`. Proposals below that are not worth its time."""
        scores = np.linspace(*self.bounds.undecided, 200, dtype=np.float32)
        sides = np.geomspace(3, self.bounds.largest_side, 12, dtype=np.float32)
        grid_scores, grid_sides = np.repeat(scores, len(sides)), np.tile(sides, len(scores))
        lifted = self.fuse(grid_scores, np.full(len(grid_scores), _CONVINCING_LOGIT, np.float32), grid_sides) >= threshold
        return min(threshold, float(grid_scores[lifted].min(initial=1.0)))

    def fuse(
        self, scores: npt.NDArray[np.float32], face_logits: npt.NDArray[np.float32], sides: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Fused scores (N,) of proposals' scores (N,), the second stage's logits (N,) and longer sides (N,) in pixels."""
        size, proposal = _relative(sides), logits(scores)
        together = _features(size, proposal, face_logits) @ np.array(self.both)
        intercept, slope, intercept_by_size, slope_by_size = self.alone
        # A negative slope would turn the order round.
        gain = np.maximum(slope + slope_by_size * size, _MIN_SLOPE)
        fused = proposal + self.bounds.trust * ((together - intercept - intercept_by_size * size) / gain - proposal)
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
    """Learn the rule from N candidates.

    Args:
        scores: (N,), the proposals' scores.
        face_logits: (N,), the second stage's logits.
        sides: (N,), longer sides in pixels.
        labels: (N,) bool, which of them are faces.
        weights: (N,), how much each counts; all the same if None.
        bounds: Candidates that these exclude are left out.

    Raises:
        ValueError: There are no faces, or no others, among the rest.
    """
    use = bounds.selects(sides, scores)
    labels = labels[use]
    if not labels.any() or labels.all():
        raise ValueError(f"a rule needs faces and others. Received: {int(labels.sum())} faces among {len(labels)} candidates")
    size, proposal = _relative(sides[use]), logits(scores[use])
    counts = np.ones(len(labels)) if weights is None else weights[use] * (len(labels) / weights[use].sum())
    alone = logistic_regression(_features(size, proposal), labels, counts)
    both = logistic_regression(_features(size, proposal, face_logits[use]), labels, counts)
    return FusionRule(bounds, tuple(alone.tolist()), tuple(both.tolist()))


def logistic_regression(features: Floats, labels: npt.NDArray[np.bool_], counts: npt.NDArray[np.floating[Any]]) -> Floats:
    """Logistic regression by Newton's method, with a ridge of 1: weights (F,) that make the labels (N,) most likely, given
    features (N, F) and how much each row counts (N,)."""
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
