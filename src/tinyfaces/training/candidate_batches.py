"""What each step of the second stage's training learns from: candidates as they come, undecided ones more often, and as many with
a sharp target as the configuration asks for."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinyfaces.detection.crops import FACTOR
from tinyfaces.training.candidates import Candidates
from tinyfaces.training.settings import GROUP, SecondStageConfig


@dataclass(frozen=True)
class CandidateBatch:
    """N candidates.

    Attributes:
        low: Nx3x16x16, RGB in 0-1.
        high: Nx3x64x64, RGB in 0-1; black where there is no sharp original.
        has_target: (N,) bool, whether there is one.
        face: (N,) 0 or 1.
        overlap: (N,), IoU with the nearest face.
        box: (N, 4), see `Candidates`.
    """

    low: Tensor
    high: Tensor
    has_target: Tensor
    face: Tensor
    overlap: Tensor
    box: Tensor

    def to(self, device: torch.device) -> "CandidateBatch":
        """The same batch on another device."""
        return CandidateBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(CandidateBatch)})


def make_batch(
    data: Candidates, chosen: npt.NDArray[np.int64], rng: np.random.Generator | None, mine: slice = slice(None)
) -> CandidateBatch:
    """Candidates as tensors.

    Args:
        data: all candidates.
        chosen: which of them make the batch, over all processes.
        rng: with it each is mirrored or not, and lit and tinted alike in both sizes.
        mine: the part of the batch that is wanted; what happens to a candidate does not depend on it.
    """
    count = len(chosen)
    if rng is not None:
        flips = rng.random(count) < 0.5
        lights = rng.uniform(0.7, 1.3, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 3, 1, 1))
    chosen = chosen[mine]
    count = len(chosen)
    target = data.target[chosen]
    low = torch.from_numpy(data.low[chosen]).permute(0, 3, 1, 2).float() / 255
    high = torch.zeros(count, 3, FACTOR * low.shape[2], FACTOR * low.shape[3])
    has = torch.from_numpy(target >= 0)
    if has.any():
        high[has] = torch.from_numpy(data.high[target[target >= 0]]).permute(0, 3, 1, 2).float() / 255
    box = torch.from_numpy(data.box[chosen]).clone()
    if rng is not None:
        mirrored = torch.from_numpy(flips[mine])
        low[mirrored], high[mirrored] = low[mirrored].flip(3), high[mirrored].flip(3)
        box[mirrored, 0] *= -1
        light = torch.from_numpy(lights[mine].astype(np.float32))
        low, high = (low * light).clamp(0, 1), (high * light).clamp(0, 1)
    face = torch.from_numpy(data.face[chosen]).float()
    return CandidateBatch(low, high, has, face, torch.from_numpy(data.overlap[chosen]), box)


_UNDECIDED = (0.15, 0.93)
"""Proposal scores between which the second stage can still turn a decision."""
_UNDECIDED_COUNT = 3.0
"""How often a candidate with such a score is drawn, for once that another is."""


@dataclass(frozen=True)
class Pools:
    """Candidates to draw from.

    Attributes:
        known: (N,), indices of all that may be drawn.
        chance: (N,), the chance that one of the first 1, 2, ... N of these is drawn.
        sharp: (M,), indices of those with a sharp target.
    """

    known: npt.NDArray[np.int64]
    chance: npt.NDArray[np.float64]
    sharp: npt.NDArray[np.int64]


def make_pools(data: Candidates, config: SecondStageConfig) -> tuple[Pools, npt.NDArray[np.int64]]:
    """Pools of the training candidates, and the indices of those held out, by photo. Raises ValueError where the former hold no
    faces, nothing else, or nothing sharp for a generator to restore."""
    held = data.photo % config.held_out == 0
    known, sharp = np.flatnonzero(~held), np.flatnonzero((data.target >= 0) & ~held)
    face = data.face[known]
    some_sharp = len(sharp) or (config.generator == "none" and config.sharp == 0)
    for name, there in (("faces", face.any()), ("others", not face.all()), ("sharp", some_sharp)):
        if not there:
            raise ValueError(f"{config.candidates}: no candidates to train on among the {name}")
    score = data.score[known]
    often = np.where((score > _UNDECIDED[0]) & (score < _UNDECIDED[1]), _UNDECIDED_COUNT, 1.0)
    return Pools(known, np.cumsum(often) / often.sum(), sharp), np.flatnonzero(held)


def draw(pools: Pools, config: SecondStageConfig, step: int) -> npt.NDArray[np.int64]:
    """Indices of batch number `step`, in groups of four of which `config.sharp` have sharp targets; a function of the seed."""
    rng = np.random.default_rng((config.seed, step))
    groups = config.batch // GROUP
    sharp = rng.choice(pools.sharp, (groups, config.sharp)) if config.sharp else np.zeros((groups, 0), np.int64)
    others = np.searchsorted(pools.chance, rng.random((groups, GROUP - config.sharp)), side="right")
    return np.concatenate([sharp, pools.known[others]], axis=1).reshape(-1)
