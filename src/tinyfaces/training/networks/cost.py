"""What a network costs."""

import torch
from torch import Tensor, nn

_COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def count_macs(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds of all convolutions and linear layers for a batch of images NxCxHxW."""
    macs = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, _COUNTED)
        # A transposed convolution spreads each place of its input; the others gather at each place of their output.
        place = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        macs += len(place) * place[0, 0].numel() * layer.weight.numel()

    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, _COUNTED)]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    return macs
