"""Muon: momentum whose update is orthogonalised, so that every direction of a filter bank learns at the same pace."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Move all singular values of (..., R, C) towards 1 by a quintic Newton-Schulz iteration (Jordan et al., 2024)."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    update = matrices.mT if tall else matrices
    update = update / (update.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = update @ update.mT
        update = a * update + (b * gram + c * gram @ gram) @ update
    return update.mT if tall else update


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonalised updates, for convolution weights (O, I, kH, kW) seen as O x (I kH kW).

    The update's scale is that of sqrt(max(1, rows / columns)); weight decay is decoupled.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient: to those of one shape together."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                directions = torch.stack([self._direction(weight, group["momentum"]) for weight in weights])
                updates = orthogonalise(directions.flatten(2))
                scale = max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.reshape(shape), alpha=-group["lr"] * scale)

    def _direction(self, weight: Tensor, decay: float) -> Tensor:
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(weight.grad, 1 - decay)
        return weight.grad.lerp(momentum, decay)
