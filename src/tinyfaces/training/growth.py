"""A larger network that begins with all that a smaller one knows (function-preserving growth, after Chen et al., "Net2Net")."""

import torch
from torch import Tensor, nn

from tinyfaces.training.networks.proposal_network import ProposalNetwork, ProposalShape, ResidualBlock, Surroundings


@torch.no_grad()
def grown(network: ProposalNetwork, shape: ProposalShape) -> ProposalNetwork:
    """A larger network with the same outputs as a smaller one in evaluation mode.

    The first channels of each layer are the old ones; they take nothing from the new channels at first, which begin at random
    and see everything. New blocks add nothing at first.

    Args:
        network: the smaller network.
        shape: the larger one's numbers, nowhere below those of `network`.

    Returns:
        A new network of `shape`.

    Raises:
        ValueError: `shape` is smaller somewhere, or has other blocks after the last stage.
    """
    larger = ProposalNetwork(shape)
    for stage, old_stage in zip((*larger.stages, larger.fine), (*network.stages, network.fine), strict=True):
        _silence(list(stage.children())[len(list(old_stage.children())) :])
    blocks = [block for block in larger.context if isinstance(block, ResidualBlock)]
    old_blocks = [block for block in network.context if isinstance(block, ResidualBlock)]
    if len(blocks) != len(old_blocks) or bool(shape.surroundings) != bool(network.shape.surroundings):
        raise ValueError("the blocks at the last stage's end must be as many as before")
    target = larger.state_dict()
    for name, old in network.state_dict().items():
        if name not in target:
            raise ValueError(f"the larger network has no {name}")
        target[name].copy_(_embedded(name, old, target[name]))
    return larger


def _silence(blocks: list[nn.Module]) -> None:
    """Let new blocks add nothing to what passes through them, until they have learnt."""
    for block in blocks:
        if isinstance(block, ResidualBlock):
            norm = block.second[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
        elif isinstance(block, Surroundings):
            raise ValueError("what is seen at stride 64 can't be added")


def _embedded(name: str, old: Tensor, new: Tensor) -> Tensor:
    """`new` with `old` in its first channels, which take nothing from the others."""
    if any(before > after for before, after in zip(old.shape, new.shape, strict=True)):
        raise ValueError(f"{name} would shrink from {tuple(old.shape)} to {tuple(new.shape)}")
    result = new.clone()
    if old.ndim == 4:
        outputs, inputs = old.shape[:2]
        result[:outputs] = 0
        result[:outputs, :inputs] = old
    elif old.ndim == 1:
        result[: len(old)] = old
    else:
        result.copy_(old)
    return result
