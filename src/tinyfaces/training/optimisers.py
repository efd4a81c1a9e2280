"""What moves the weights: the optimisers of a proposal network, their learning rate, and the moving average of the weights."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from tinyfaces.training.muon import Muon


def make_optimisers(
    network: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float, optimiser: str = "muon"
) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions but the stem and heads, AdamW for the rest; for all where `optimiser` is "adamw".

    Args:
        network: a proposal network, whose parameters without gradients are left as they are.
        muon_lr: Muon's peak rate. adamw_lr: AdamW's.
        weight_decay: of whatever has more than one dimension.
        optimiser: "muon" or "adamw".

    Returns:
        One or two optimisers, whose groups know their `peak` rate (see `set_learning_rate`).
    """
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    special = {
        id(parameter)
        for name, parameter in learning.items()
        if optimiser == "muon" and parameter.ndim == 4 and not name.startswith(("stem", "heads"))
    }
    muon = [p for p in learning.values() if id(p) in special]
    decayed = [p for p in learning.values() if id(p) not in special and p.ndim > 1]
    plain = [p for p in learning.values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, adamw_lr, betas=(0.9, 0.99))]
    if muon:
        optimisers.append(Muon(muon, muon_lr, weight_decay=weight_decay))
    for one in optimisers:
        for group in one.param_groups:
            group["peak"] = group["lr"]
    return optimisers


def set_learning_rate(optimisers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Let every group learn at `factor` of its peak rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor


def step_all(optimisers: Iterable[torch.optim.Optimizer]) -> None:
    """Apply the gradients, and clear them."""
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def warmup_and_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """Factor of the peak rate: a linear warm-up of `warmup` steps, then a cosine down to `final` at step `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return cosine((step - warmup) / max(1, steps - warmup), final)


def cosine(progress: float, final: float) -> float:
    """From 1 at a progress of 0 down to `final` at 1."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_mode(network: nn.Module, fixed_norm: bool) -> None:
    """Training mode; with `fixed_norm` but for the normalisations, which keep their statistics then."""
    network.train()
    if fixed_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


class MovingAverage:
    """The moving average of a network's weights: what is measured and shipped.

    Attributes:
        network: the averaged network, in evaluation mode, its parameters without gradients.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        """Begin from the weights of `source`, which must stay on its device and in its memory format from now on."""
        self.network = copy.deepcopy(source).requires_grad_(False).eval()
        self.decay = decay
        pairs = list(zip(self.network.state_dict().values(), source.state_dict().values(), strict=True))
        values = [pair for pair in pairs if pair[0].is_floating_point()]
        # Listed once: walking through all modules at each step takes as long as a small network's own step on a GPU.
        self._kept, self._new = [kept for kept, _ in values], [new for _, new in values]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network, faster in the first steps; counters and statistics too."""
        pace = 1 - min(self.decay, (1 + step) / (10 + step))
        if self._kept:  # bicubic enlargement has none
            torch._foreach_lerp_(self._kept, self._new, pace)
        for kept, new in self._counters:
            kept.copy_(new)
