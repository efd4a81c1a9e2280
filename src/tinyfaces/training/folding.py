"""Networks for looking only: every batch normalisation is part of the convolution before it."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyfaces.training.networks.proposal_network import ProposalNetwork

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """A copy in which every batch normalisation is part of the convolution before it, and the scaling of pixels
    too; for inference only."""
    merged = copy.deepcopy(network).eval()
    for module in merged.modules():
        if isinstance(module, nn.Sequential) and len(module) > 1:
            for place in range(len(module) - 1):
                convolution, norm = module[place], module[place + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[place], module[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    if isinstance(merged, ProposalNetwork):
        merged.take_raw_pixels()
    return merged
