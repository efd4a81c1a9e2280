"""The second stage: a generator that restores a tiny face at four times its size, the discriminator that it learns with, and the
judge of candidates.

Paper, sections 3.2-3.4; box head and context in the crop as its authors added in 2019 (Pattern Recognition 94).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyfaces.detection.crops import FACTOR, HIGH_SIDE, LOW_SIDE

_VGG_MEAN = (0.485, 0.456, 0.406)
_VGG_SPREAD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SecondStageShape:
    """The numbers that make a variant.

    Attributes:
        trunk: channels of the up-sampling network (SRN). blocks: its residual blocks.
        raised: its channels after each doubling; none where one deconvolution enlarges fourfold.
        refine: channels of the refinement network (RN). refine_blocks: its residual blocks.
        refine_raised: its channels after those.
        patch: side of the squares of pixels that it takes for one place.
        stages: channels and convolutions of each stage of the discriminator; between two stages sides are halved.
        first_stride: stride of its first convolution.
        shortcuts: whether its convolutions are residual blocks.
        hidden: width of its last shared layer.
    """

    trunk: int
    blocks: int
    raised: tuple[int, ...]
    refine: int
    refine_blocks: int
    refine_raised: tuple[int, ...]
    patch: int
    stages: tuple[tuple[int, int], ...]
    first_stride: int
    shortcuts: bool
    hidden: int


PAPER = SecondStageShape(
    trunk=64, blocks=8, raised=(256, 256), refine=64, refine_blocks=8, refine_raised=(256, 256), patch=1,
    stages=((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), first_stride=1, shortcuts=False, hidden=512,
)  # fmt: skip
SLIM = SecondStageShape(
    trunk=32, blocks=3, raised=(), refine=32, refine_blocks=2, refine_raised=(), patch=4,
    stages=((48, 5), (64, 3), (96, 1)), first_stride=4, shortcuts=True, hidden=96,
)  # fmt: skip
SECOND_STAGE_VARIANTS = {"paper": PAPER, "slim": SLIM}
JUDGE = replace(SLIM, first_stride=2)
"""A discriminator of the low-resolution crop itself, at an eighth of the cost, or a quarter with the mirror image
(docs/second_stage.md)."""
PARTS = ("srn+rn", "srn", "bicubic", "none")
"""What stands before the discriminator: the whole generator, its up-sampling network alone, bicubic enlargement, or nothing (the
judge)."""


def normalised(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution and batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))


def striding(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution that reduces by `stride`, 3x3 or as wide as its stride, and batch normalisation."""
    kernel = max(stride, 3)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - stride + 1) // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class GeneratorBlock(nn.Module):
    """conv, BN, ReLU, conv, BN around a shortcut (SRGAN's): NxCxHxW to NxCxHxW."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = normalised(channels, channels)
        self.second = normalised(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        between = F.relu(self.first(features))  # NxCxHxW
        output: Tensor = features + self.second(between)  # NxCxHxW
        return output


class UpSampling(nn.Module):
    """SRN: Nx3xhxw to Nx3x4hx4w, RGB in 0-1. It adds what it learns to the bilinearly enlarged crop."""

    def __init__(self, shape: SecondStageShape) -> None:
        super().__init__()
        self.head = nn.Sequential(normalised(3, shape.trunk), nn.ReLU())
        self.blocks = nn.Sequential(
            *(GeneratorBlock(shape.trunk) for _ in range(shape.blocks)), normalised(shape.trunk, shape.trunk)
        )
        widths = (shape.trunk, *shape.raised)
        self.raised = nn.Sequential(
            *(
                nn.Sequential(nn.ConvTranspose2d(before, after, 2, 2, bias=False), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in pairwise(widths)
            )
        )
        rest = FACTOR >> len(shape.raised)
        self.to_rgb = nn.ConvTranspose2d(widths[-1], 3, rest, rest)

    def forward(self, low: Tensor) -> Tensor:
        features = self.head(low - 0.5)  # NxCx16x16, C = 32 channels in `slim`, 64 in `paper`
        features = F.relu(features + self.blocks(features))  # NxCx16x16
        enlarged = F.interpolate(low, scale_factor=float(FACTOR), mode="bilinear", align_corners=False)  # Nx3x64x64
        raised = self.raised(features)  # `slim`: as it is; `paper`: Nx256x64x64
        output: Tensor = enlarged + self.to_rgb(raised)  # Nx3x64x64
        return output


class Refinement(nn.Module):
    """RN: Nx3xHxW to the same, sharper. The last layer has neither normalisation nor activation."""

    def __init__(self, shape: SecondStageShape) -> None:
        super().__init__()
        widths = (shape.refine, *shape.refine_raised)
        raised = [part for before, after in pairwise(widths) for part in (normalised(before, after), nn.ReLU())]
        patch = shape.patch
        first = striding(3, shape.refine, patch)
        self.to_rgb: nn.Conv2d | nn.ConvTranspose2d = nn.Conv2d(widths[-1], 3, 3, 1, 1)
        if patch > 1:
            self.to_rgb = nn.ConvTranspose2d(widths[-1], 3, patch, patch)
        blocks = (GeneratorBlock(shape.refine) for _ in range(shape.refine_blocks))
        self.layers = nn.Sequential(first, nn.ReLU(), *blocks, *raised)

    def forward(self, image: Tensor) -> Tensor:
        features = self.layers(image - 0.5)  # `slim`: Nx32x16x16, squares of 4x4 pixels; `paper`: Nx256x64x64
        output: Tensor = image + self.to_rgb(features)  # Nx3x64x64
        return output


class Generator(nn.Module):
    """SRN then RN: a crop Nx3xhxw, RGB in 0-1, to both outputs Nx3x4hx4w (not clipped to 0-1). No noise input.

    parts: "srn+rn", or for the ablation one of the other PARTS, whose two outputs are the same ("none" gives the crop back).
    Weights start from N(0, 0.02), the layers that give RGB from a tenth of it: training begins at bilinear enlargement.
    """

    def __init__(self, shape: SecondStageShape, parts: str = "srn+rn") -> None:
        super().__init__()
        self.parts = parts
        enlarged: nn.Module = nn.Upsample(scale_factor=float(FACTOR), mode="bicubic") if parts == "bicubic" else nn.Identity()
        self.up_sampling = UpSampling(shape) if parts in ("srn", "srn+rn") else enlarged
        self.refinement = Refinement(shape) if parts == "srn+rn" else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, UpSampling | Refinement):
                nn.init.normal_(module.to_rgb.weight, std=0.002)
                nn.init.zeros_(module.to_rgb.bias)  # type: ignore[arg-type]

    def forward(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """Restore crops.

        Args:
            low: Nx3x16x16, RGB in 0-1.

        Returns:
            What SRN made and what RN made of it, both Nx3x64x64, not clipped to 0-1.
        """
        enlarged = self.up_sampling(low)  # Nx3x64x64
        return enlarged, self.refinement(enlarged)  # Nx3x64x64 both


@dataclass(frozen=True)
class Judgement:
    """What the discriminator says of N crops: logits (N,) of being real, logits (N,) of being a face, and box (N, 4), the
    face's centre offset and log size relative to the candidate's box, both in its sides."""

    real: Tensor
    face: Tensor
    box: Tensor


class Discriminator(nn.Module):
    """VGG19's layout without the last pooling, three parallel heads in place of its fully connected layers. `slim` takes squares
    of 4x4 pixels for one place, and most of its layers lie there.

    side: of the crops that it judges, in pixels.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, shape: SecondStageShape, side: int = HIGH_SIDE) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_VGG_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(_VGG_SPREAD).reshape(1, 3, 1, 1), persistent=False)
        layers: list[nn.Module] = []
        before, side = 3, side // shape.first_stride
        for number, (channels, convolutions) in enumerate(shape.stages):
            if number:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers += [striding(before, channels, 1 if number else shape.first_stride), nn.ReLU()]
            for _ in range((convolutions - 1) // 2 if shape.shortcuts else 0):
                layers += [GeneratorBlock(channels), nn.ReLU()]
            for _ in range(0 if shape.shortcuts else convolutions - 1):
                layers += [normalised(channels, channels), nn.ReLU()]
            before = channels
        self.trunk = nn.Sequential(*layers)
        self.shared = nn.Sequential(nn.Flatten(), nn.Linear(before * side * side, shape.hidden), nn.ReLU())
        self.real = nn.Linear(shape.hidden, 1)
        self.face = nn.Linear(shape.hidden, 1)
        self.box = nn.Linear(shape.hidden, 4)
        nn.init.zeros_(self.box.weight)
        nn.init.zeros_(self.box.bias)

    def forward(self, images: Tensor) -> Judgement:
        """Judge crops: Nx3xSxS, RGB in 0-1, S the side that the network is made for."""
        features = self.trunk((images - self.mean) / self.spread)  # `slim`: Nx96x4x4; `paper`: Nx512x4x4
        shared = self.shared(features)  # `slim`: Nx96; `paper`: Nx512
        return Judgement(self.real(shared)[:, 0], self.face(shared)[:, 0], self.box(shared))  # N, N, Nx4


class Mirrored(nn.Module):
    """A discriminator that looks at each crop and at its mirror image, and means both: how the judge ships."""

    signs: Tensor

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator
        signs = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]])
        self.register_buffer("signs", signs[:, None], persistent=False)  # of a box in either image: x is mirrored too

    def forward(self, images: Tensor) -> Judgement:
        """Judge crops Nx3xSxS, RGB in 0-1."""
        judged = self.discriminator(torch.cat([images, images.flip(3)]))  # 2N crops
        real, face = (logits.reshape(2, -1).mean(0) for logits in (judged.real, judged.face))  # N each
        return Judgement(real, face, (judged.box.reshape(2, -1, 4) * self.signs).mean(0))


def make_networks(variant: str, parts: str) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of a variant; the judge where `parts` is "none"; else those of the ablation."""
    if parts == "none":
        return Generator(SECOND_STAGE_VARIANTS[variant], parts), Discriminator(JUDGE, LOW_SIDE)
    return Generator(SECOND_STAGE_VARIANTS[variant], parts), Discriminator(SECOND_STAGE_VARIANTS[variant])
