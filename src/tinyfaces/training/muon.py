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
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    update = flat.mT if tall else flat
    update = update / (update.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(update, update.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        update = torch.baddbmm(update, polynomial, update, beta=a)
    return (update.mT if tall else update).reshape(matrices.shape)


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
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            alike = defaultdict(list)
            for weight, direction in zip(weights, self._directions(weights, group["momentum"]), strict=True):
                alike[weight.shape].append((weight, direction))
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            for shape, pairs in alike.items():
                updates = orthogonalise(torch.stack([direction for _, direction in pairs]).flatten(2))
                scale = max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
                moves = [update.reshape(shape) for update in updates]
                torch._foreach_add_([weight for weight, _ in pairs], moves, alpha=-group["lr"] * scale)

    def _directions(self, weights: list[Tensor], decay: float) -> tuple[Tensor, ...]:
        """Nesterov's, of weights that all have a gradient; moves their momentum."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        return torch._foreach_lerp(gradients, momenta, decay)
