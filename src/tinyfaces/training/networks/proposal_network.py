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
_CONTEXT_DILATION = 3
_SURROUNDINGS_DILATION = 2
_MIDDLE, _CONTRAST = 127.5, 64.0  # of pixels


@dataclass(frozen=True)
class ProposalShape:
    """The numbers that make a variant.

    Attributes:
        widths: channels at strides 2, 4, 8, 16 and 32.
        depths: residual blocks at strides 4, 8, 16 and 32.
        pyramid: channels of each pyramid level, at strides 4, 8, 16 and 32.
        context: dilated residual blocks after the last stage, without which the network sees some 460 pixels at once.
        surroundings: channels of what is seen at stride 64 after those (see `Surroundings`), 0 for none.
        fine: residual blocks at stride 2.
        inner: channels between the two convolutions of each block at strides 4, 8, 16 and 32; those around it if left out.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int]
    pyramid: tuple[int, int, int, int]
    context: int = 1
    surroundings: int = 0
    fine: int = 0
    inner: tuple[int, int, int, int] | None = None


ACCURATE = ProposalShape(
    widths=(16, 32, 48, 80, 112),
    depths=(2, 3, 2, 1),
    pyramid=(32, 32, 48, 48),
    surroundings=64,
    fine=1,
    inner=(32, 32, 32, 64),
)
FAST = ProposalShape(widths=(16, 16, 32, 48, 64), depths=(1, 1, 1, 0), pyramid=(16, 32, 32, 32))
THOROUGH = ProposalShape(
    widths=(32, 64, 96, 160, 224),
    depths=(2, 4, 3, 2),
    pyramid=(48, 64, 80, 80),
    surroundings=128,
    fine=1,
    inner=(48, 64, 96, 128),
)
VARIANTS = {"fast": FAST, "accurate": ACCURATE, "thorough": THOROUGH}


def convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Convolution, with same padding if left out, then batch normalisation."""
    padding = kernel // 2 * dilation if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs, momentum=0.03)
    )


class ResidualBlock(nn.Module):
    """Two dense 3x3 convolutions, `inner` channels between them, around a shortcut: NxCxHxW to NxCxHxW."""

    def __init__(self, channels: int, inner: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = convolution(channels, inner, dilation=dilation)
        self.second = convolution(inner, channels, dilation=dilation)

    def forward(self, features: Tensor) -> Tensor:
        between = F.relu(self.first(features))  # NxIxHxW, I the inner channels
        return F.relu(features + self.second(between))  # NxCxHxW


class Surroundings(nn.Module):
    """What lies far around each point, seen at twice the stride and added to the features: NxCxHxW to NxCxHxW, all sides."""

    def __init__(self, channels: int, between: int) -> None:
        super().__init__()
        self.down = convolution(channels, between, stride=2)
        self.block = ResidualBlock(between, between, _SURROUNDINGS_DILATION)
        self.back = convolution(between, channels, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        around = self.block(F.relu(self.down(features)))  # NxBxH/2xW/2, rounded up
        around = F.interpolate(self.back(around), scale_factor=2.0, mode="nearest")  # NxCxHxW, or a row or column more
        return F.relu(features + around[:, :, :height, :width])  # NxCxHxW


class ProposalNetwork(nn.Module):
    """Multi-branch fully convolutional face detector."""

    def __init__(self, shape: ProposalShape) -> None:
        super().__init__()
        self.shape = shape
        self.takes_raw_pixels = False
        widths, inner = shape.widths, shape.inner or shape.widths[1:]
        self.stem = convolution(3, widths[0], stride=2, padding=0)
        self.fine = nn.Sequential(*(ResidualBlock(widths[0], widths[0]) for _ in range(shape.fine)))
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(before, width, stride=2), nn.ReLU(), *(ResidualBlock(width, between) for _ in range(depth)))
            for before, width, between, depth in zip(widths[:-1], widths[1:], inner, shape.depths, strict=True)
        )
        self.context = nn.Sequential(*(ResidualBlock(widths[-1], inner[-1], _CONTEXT_DILATION) for _ in range(shape.context)))
        if shape.surroundings:
            self.context.append(Surroundings(widths[-1], shape.surroundings))
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

    def freeze_trunk(self) -> None:
        """Let everything before the pyramid stay as it is in training."""
        for part in (self.stem, self.fine, self.stages, self.context):
            part.requires_grad_(False)

    @torch.no_grad()
    def take_raw_pixels(self) -> None:
        """Let the stem's convolution, once its normalisation is part of it, do the scaling of pixels: the same outputs, two
        passes over the image less. For inference only."""
        first = self.stem[0]
        assert isinstance(first, nn.Conv2d) and first.bias is not None
        first.weight.div_(_CONTRAST)
        first.bias.sub_(first.weight.sum((1, 2, 3)) * _MIDDLE)
        first.padding = (1, 1)
        self.takes_raw_pixels = True

    def forward(self, images: Tensor) -> list[Tensor]:
        """Look at images.

        Args:
            images: Nx3xHxW RGB, 0-255, H and W multiples of 32.

        Returns:
            Four maps Nx5xH/sxW/s, s in STRIDES. Channel 0 is the face logit; 1-2 the centre's offset, in strides, from the point
            ((x + 0.5) s, (y + 0.5) s); 3-4 log(width / s) and log(height / s).
        """
        return self.answers(self.trunk(images))

    def trunk(self, images: Tensor) -> list[Tensor]:
        """What is seen at each of STRIDES, before the pyramid: maps NxCxH/sxW/s of images Nx3xHxW as `forward` takes them."""
        # Comments give the shapes of `accurate`.
        if not self.takes_raw_pixels:  # what lies around an image is black, as zeros would be around raw pixels
            images = F.pad((images - _MIDDLE) / _CONTRAST, (1, 1, 1, 1), value=-_MIDDLE / _CONTRAST)  # Nx3xH+2xW+2
        features = self.fine(F.relu(self.stem(images)))  # Nx16xH/2xW/2
        seen = []
        for stage in self.stages:
            features = stage(features)  # Nx32xH/4xW/4, Nx48xH/8xW/8, Nx80xH/16xW/16, Nx112xH/32xW/32
            seen.append(self.context(features) if stage is self.stages[-1] else features)
        return seen

    def answers(self, seen: list[Tensor]) -> list[Tensor]:
        """The four maps that `forward` gives, of what `trunk` saw."""
        levels = [lateral(features) for lateral, features in zip(self.laterals, seen, strict=True)]
        # Nx32xH/4xW/4, Nx32xH/8xW/8, Nx48xH/16xW/16, Nx48xH/32xW/32
        merged = F.relu(levels[-1])  # Nx48xH/32xW/32
        pyramid = [merged]
        for level, reduce in zip(reversed(levels[:-1]), reversed(self.from_above), strict=True):
            above = F.interpolate(reduce(merged), scale_factor=2.0, mode="nearest")  # as `level`
            merged = F.relu(level + above)  # Nx48xH/16xW/16, Nx32xH/8xW/8, Nx32xH/4xW/4
            pyramid.insert(0, merged)
        # Nx5xH/4xW/4, Nx5xH/8xW/8, Nx5xH/16xW/16, Nx5xH/32xW/32
        return [head(F.relu(branch(level))) for head, branch, level in zip(self.heads, self.branches, pyramid, strict=True)]
