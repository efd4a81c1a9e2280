"""What is measured while the second stage learns: restoration, telling faces from the rest, and signs of a collapse."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyfaces.detection.crops import FACTOR
from tinyfaces.training.candidate_batches import CandidateBatch, make_batch
from tinyfaces.training.candidates import Candidates

_SURE = 0.995
_FLAT = 0.25


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB of images Nx3xHxW in 0-1 (clipped to it)."""
    error = (images.clamp(0, 1) - target).square().mean((1, 2, 3))
    return -10 * error.clamp(min=1e-10).log10()


def average_precision(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_]) -> float:
    """Area under precision over recall, summed at every face."""
    ordered = labels[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return float(precision[ordered].mean()) if ordered.any() else float("nan")


@torch.no_grad()
def evaluate_second_stage(
    generator: nn.Module, discriminator: nn.Module, data: Candidates, held: npt.NDArray[np.int64], device: torch.device
) -> dict[str, float]:
    """On held-out candidates: PSNR of bicubic, SRN and SRN+RN against sharp faces; AP of telling faces from the rest, by the
    discriminator and by the proposal score."""
    generator.eval()
    discriminator.eval()
    ratios: list[Tensor] = []
    logits: list[Tensor] = []
    for start in range(0, len(held), 256):
        batch = make_batch(data, held[start : start + 256], None)
        low = batch.low.to(device)
        enlarged, refined = generator(low)
        logits.append(discriminator(refined).face.float().cpu())
        use = batch.has_target & (batch.face > 0)
        if use.any() and enlarged.shape == batch.high.shape:
            bicubic = F.interpolate(low[use], scale_factor=float(FACTOR), mode="bicubic", align_corners=False)
            target = batch.high[use].to(device)
            ratios.append(torch.stack([psnr(i, target) for i in (bicubic, enlarged[use], refined[use])], 1).cpu())
    mean = torch.cat(ratios).mean(0).tolist() if ratios else [float("nan")] * 3
    labels = data.face[held]
    return {
        "psnr bicubic": mean[0],
        "psnr srn": mean[1],
        "psnr srn+rn": mean[2],
        "ap discriminator": average_precision(torch.cat(logits).numpy(), labels),
        "ap proposals": average_precision(data.score[held], labels),
    }


@torch.no_grad()
def comparison_sheet(generator: nn.Module, batch: CandidateBatch, device: torch.device) -> Tensor:
    """3xHxW in 0-1: a row per crop of low resolution, bicubic, SRN, SRN+RN, target."""
    generator.eval()
    low = batch.low.to(device)
    enlarged, refined = generator(low)
    columns = [
        F.interpolate(low, scale_factor=float(FACTOR), mode="nearest"),
        F.interpolate(low, scale_factor=float(FACTOR), mode="bicubic", align_corners=False),
        enlarged, refined, batch.high.to(device),
    ]  # fmt: skip
    rows = torch.cat([column.clamp(0, 1) for column in columns], 3)
    return torch.cat(list(rows), 1).cpu()


def means(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every number over the steps that have it."""
    names = {name: None for numbers in window for name in numbers}
    return {name: float(np.mean([numbers[name] for numbers in window if name in numbers])) for name in names}


def collapse(window: Sequence[Mapping[str, float]]) -> str:
    """What looks like a collapse over the last steps, or nothing: a discriminator that is never wrong about real and generated
    while the generator gets nowhere, or generated crops that hardly differ from each other."""
    mean = means(window)
    if mean["spread"] < _FLAT:
        return f"generated crops differ {mean['spread']:.2f} times as much as their inputs"
    if mean["real accuracy"] > _SURE and mean["adversarial"] > 5:
        return f"the discriminator tells real from generated in {100 * mean['real accuracy']:.1f}% of crops"
    return ""
