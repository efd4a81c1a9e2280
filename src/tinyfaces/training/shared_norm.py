"""Batch normalisation by the statistics of all processes' crops, so that several processes learn what one would.

torch's own `SyncBatchNorm` runs on GPUs only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tinyfaces.training.processes import several_processes


class _Summed(torch.autograd.Function):
    """The sum of a tensor over all processes; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose mean and variance in training are those over all processes, each with any number of crops."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise NxCxHxW."""
        if self.training and several_processes():
            shared: Tensor = self._over_processes(input)
            return shared
        return super().forward(input)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_processes(self, values: Tensor) -> Tensor:
        wide = values.float()  # NxCxHxW
        own = torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([wide.numel() / wide.shape[1]])])  # C + 1
        sums: Tensor = _Summed.apply(own)  # type: ignore[no-untyped-call]
        count = sums[-1].detach()
        mean = sums[:-1] / count  # C
        centred = wide - mean[:, None, None]
        summed: Tensor = _Summed.apply(centred.square().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
        variance = summed / count  # C
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            return (centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]).to(values.dtype)
        return (centred * scale[:, None, None]).to(values.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        pace = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, pace)
        self.running_var.lerp_(variance, pace)


def share_norms(network: nn.Module) -> None:
    """Let all normalisations of a network take the statistics of all processes. Its weights keep their names and places."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
