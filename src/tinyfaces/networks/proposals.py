"""The proposal network: one pass through a backbone, a feature pyramid and a branch per range of face sizes (paper, 3.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (4, 8, 16, 32)
FACE_SIZES = ((0.0, 16.0), (16.0, 32.0), (32.0, 96.0), (96.0, float("inf")))
"""Face sizes in pixels (square root of the box area) that the branches of STRIDES are made for."""

OUTPUTS = 5
_PRIOR_LOGIT = -4.6


@dataclass(frozen=True)
class ProposalShape:
    """The numbers that make a variant: channels at strides 2, 4, 8, 16, 32; residual blocks at strides 4 to 32; channels of
    each pyramid level."""

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int]
    pyramid: tuple[int, int, int, int]


ACCURATE = ProposalShape(widths=(16, 32, 48, 80, 112), depths=(1, 2, 2, 1), pyramid=(32, 32, 48, 48))
FAST = ProposalShape(widths=(16, 16, 32, 64, 64), depths=(0, 1, 1, 1), pyramid=(16, 32, 32, 32))
VARIANTS = {"accurate": ACCURATE, "fast": FAST}


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution with same padding, then batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs, momentum=0.03)
    )


class ResidualBlock(nn.Module):
    """Two dense 3x3 convolutions around a shortcut: NxCxHxW to NxCxHxW."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.second(F.relu(self.first(features))))


class ProposalNetwork(nn.Module):
    """Multi-branch fully convolutional face detector.

    forward: images Nx3xHxW RGB, 0-255, H and W multiples of 32, to four maps Nx5x(H/s)x(W/s), s in STRIDES. Channel 0 is the
    face logit; 1-2 the centre's offset, in strides, from the point ((x + 0.5) s, (y + 0.5) s); 3-4 log(width / s) and
    log(height / s).
    """

    def __init__(self, shape: ProposalShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        self.stem = convolution(3, widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(before, width, stride=2), nn.ReLU(), *(ResidualBlock(width) for _ in range(depth)))
            for before, width, depth in zip(widths[:-1], widths[1:], shape.depths, strict=True)
        )
        self.laterals = nn.ModuleList(
            convolution(width, channels, kernel=1) for width, channels in zip(widths[1:], shape.pyramid, strict=True)
        )
        self.from_above = nn.ModuleList(
            convolution(above, channels, kernel=1) for channels, above in zip(shape.pyramid[:-1], shape.pyramid[1:], strict=True)
        )
        self.branches = nn.ModuleList(convolution(channels, channels) for channels in shape.pyramid)
        self.heads = nn.ModuleList(nn.Conv2d(channels, OUTPUTS, 1) for channels in shape.pyramid)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                norm = block.second[1]
                assert isinstance(norm, nn.BatchNorm2d)
                nn.init.constant_(norm.weight, 0.5)
        for head, (low, high), stride in zip(self.heads, FACE_SIZES, STRIDES, strict=True):
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            typical = (max(low, 4.0) * min(high, 400.0)) ** 0.5
            log_side = torch.tensor(typical / stride).log().item()
            nn.init.normal_(head.weight, std=0.01)
            with torch.no_grad():
                head.bias.copy_(torch.tensor([_PRIOR_LOGIT, 0.0, 0.0, log_side, log_side]))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = F.relu(self.stem((images - 127.5) / 64.0))
        levels = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            features = stage(features)
            levels.append(lateral(features))
        merged = F.relu(levels[-1])
        pyramid = [merged]
        for level, reduce in zip(reversed(levels[:-1]), reversed(self.from_above), strict=True):
            merged = F.relu(level + F.interpolate(reduce(merged), scale_factor=2.0, mode="nearest"))
            pyramid.insert(0, merged)
        return [head(F.relu(branch(level))) for head, branch, level in zip(self.heads, self.branches, pyramid, strict=True)]
