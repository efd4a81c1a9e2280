"""The paper's claims on the same data and budget: what each part of the second stage brings, by AP and by restoration.

Each way is trained from several seeds, so that what it brings can be told from what another seed changes.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.crops import FACTOR
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.fusion import Bounds
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.second_stage import Judgements
from tinyfaces.evaluation import LOWEST_SCORE, wider, wild_dev
from tinyfaces.evaluation.rule_fitting import Detections, fuse_across, gather, judge_all
from tinyfaces.training import losses
from tinyfaces.training.candidate_batches import make_batch, make_pools
from tinyfaces.training.candidates import Candidates, read_candidates
from tinyfaces.training.checkpoints import load_second_stage
from tinyfaces.training.folding import folded
from tinyfaces.training.networks.second_stage_networks import SLIM, Discriminator, Generator
from tinyfaces.training.second_stage_loop import train_second_stage
from tinyfaces.training.second_stage_measures import psnr
from tinyfaces.training.settings import SecondStageConfig

WAYS: dict[str, dict[str, Any]] = {
    "judge of the crop itself": {"generator": "none", "start": ""},
    "bicubic crop, discriminator": {"generator": "bicubic", "start": ""},
    "generator that only restores, discriminator": {"generator_every": 0},
    "generator that learns from the discriminator too": {"classification": 1.0, "box": 1.0},
}
"""What is trained, as changes of the configuration, whose generator can restore already. In the last way the classification and
the box loss weigh as much in the generator as the pixel loss."""
ENLARGED = (2.0,)
_BATCH = 64


class TorchStage:
    """Generator and discriminator in torch, as a judge of crops."""

    def __init__(self, generator: Generator, discriminator: Discriminator) -> None:
        self.generator, self.discriminator = folded(generator), folded(discriminator)

    @torch.no_grad()
    def __call__(self, crops: Pixels) -> Judgements:
        logits, offsets = [np.zeros(0, np.float32)], [np.zeros((0, 4), np.float32)]
        for start in range(0, len(crops), _BATCH):
            low = torch.from_numpy(crops[start : start + _BATCH]).permute(0, 3, 1, 2).float() / 255
            judged = self.discriminator(self.generator(low)[1])
            logits.append(judged.face.numpy())
            offsets.append(judged.box.numpy())
        return Judgements(np.concatenate(logits), np.concatenate(offsets))


Photos = Sequence[tuple[Pixels, AnnotatedImage]]


def run_ablation(
    config: SecondStageConfig, model: str, photos: Photos, bounds: Bounds, seeds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train every way from every seed and measure all of them.

    Args:
        config: of the second stage. Each way is trained in a folder under `config.out`; a finished one is taken as it is.
        model: of the proposals.
        photos: HxWx3 uint8 RGB, with their known faces.
        bounds: of the candidates that the second stage judges.
        seeds: so many trainings of each way, the first from `config.seed`, each other from the number after.
        say: takes a line about each thing that begins.

    Returns:
        {"detection": {way: [{band: AP, "ms": milliseconds a photo}, one for each seed]}, "restoration": {picture: [{...}, ...]}},
        where ms is the mean time of a photo, of both stages together. What is not trained has one entry.
    """
    trained: dict[str, list[tuple[Generator, Discriminator]]] = {way: [] for way in WAYS}
    for (number, (way, changes)), seed in product(enumerate(WAYS.items()), range(config.seed, config.seed + seeds)):
        say(f"training: {way}, seed {seed}")
        settings = dataclasses.replace(config, **{**changes, "seed": seed, "out": f"{config.out}/{number}-{seed}"})
        train_second_stage(settings)
        trained[way].append(load_second_stage(Path(settings.out) / "last.pt")[:2])
    torch.set_num_threads(config.threads or torch.get_num_threads())

    detection: dict[str, list[dict[str, float]]] = {}
    images = [image for _, image in photos]
    detector = Detector(model, threshold=LOWEST_SCORE, scale=1, stages="proposals", threads=config.threads or None)
    for factor in (1.0, *ENLARGED):
        name = "detector alone" if factor == 1 else f"image enlarged x{factor:g}, detector alone"
        say(name)
        started = time.perf_counter()
        found = [detector.detect(pixels, scale=factor) for pixels, _ in photos]
        passed = time.perf_counter() - started
        detection[name] = [_bands([(faces.boxes, faces.scores) for faces in found], images, passed)]
    first_stage = detection["detector alone"][0]["ms"] * len(images) / 1000
    known = gather(detector.detect, photos, bounds)
    for way, pairs in trained.items():
        say(way)
        detection[way] = []
        for networks in pairs:
            judge = TorchStage(*networks)
            started = time.perf_counter()
            judged = judge_all(known, judge)
            passed = time.perf_counter() - started
            detection[way].append(_bands(fuse_across(known, judged, bounds), images, first_stage + passed))
    say("restoration")
    return {
        "detection": detection,
        "photos": len(images),
        "candidates a photo": float(np.mean([len(one.places) for one in known])),
        "restoration": measure_restoration({way: [pair[0] for pair in pairs] for way, pairs in trained.items()}, config),
    }


def _bands(found: Detections, images: Sequence[AnnotatedImage], seconds: float) -> dict[str, float]:
    rows = {str(image.path): wider.prediction_rows(boxes, scores) for image, (boxes, scores) in zip(images, found, strict=True)}
    return wild_dev.average_precision(rows, images) | {"ms": 1000 * seconds / len(images)}


@torch.no_grad()
def measure_restoration(
    generators: Mapping[str, Sequence[Generator]], config: SecondStageConfig
) -> dict[str, list[dict[str, float]]]:
    """On held-out sharp faces: PSNR in dB and SSIM against the original, and how often a classifier that was trained apart, on
    originals alone, takes the picture for a face. What only passes the crop on is left out."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    data = read_candidates(Path(config.candidates))
    pools, held = make_pools(data, config)
    classifier = train_classifier(data, pools.sharp, config)
    sharp = held[(data.target[held] >= 0) & data.face[held]]
    batch = make_batch(data, sharp, None)
    bicubic = F.interpolate(batch.low, scale_factor=float(FACTOR), mode="bicubic", align_corners=False)
    pictures: dict[str, list[Tensor]] = {"original": [batch.high], "bicubic": [bicubic]}
    for way, several in generators.items():
        if several[0].parts == "srn+rn":
            pictures[way] = [torch.cat([generator.eval()(low)[1] for low in batch.low.split(_BATCH)]) for generator in several]
    results: dict[str, list[dict[str, float]]] = {}
    for name, of_seeds in pictures.items():
        results[name] = []
        for picture in of_seeds:
            clipped = picture.clamp(0, 1)
            accepted = torch.cat([classifier(part).face > 0 for part in clipped.split(_BATCH)])
            similarity = structural_similarity_index_measure(clipped, batch.high, data_range=1.0)
            assert isinstance(similarity, Tensor)
            figures = {
                "psnr": psnr(clipped, batch.high).mean().item(),
                "ssim": similarity.item(),
                "accepted": accepted.float().mean().item(),
                "faces": float(len(sharp)),
            }
            results[name].append(figures)
    return results


def train_classifier(
    data: Candidates, sharp: npt.NDArray[np.int64], config: SecondStageConfig, steps: int = 300
) -> Discriminator:
    """A face classifier of sharp crops that has never seen a restored one."""
    torch.manual_seed(config.seed)
    network = Discriminator(SLIM).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    faces, others = sharp[data.face[sharp]], sharp[~data.face[sharp]]
    with torch.enable_grad():
        for step in range(steps):
            rng = np.random.default_rng((config.seed, step))
            chosen = np.concatenate([rng.choice(pool, _BATCH // 2) for pool in (faces, others)])
            batch = make_batch(data, chosen, rng)
            loss = losses.face_loss(network(batch.high).face, batch.face)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimiser.step()
    return network.eval()


def as_tables(results: Mapping[str, Any], command: str, machine: str, config: SecondStageConfig) -> str:
    """The numbers in Markdown: means over the seeds, and behind them what a seed changes (the standard deviation)."""
    bands = [name for name in next(iter(results["detection"].values()))[0] if name != "ms"]
    rows = [
        f"| {way} | " + " | ".join(_spread(figures, band, 3) for band in bands) + f" | {_mean(figures, 'ms'):.0f} |"
        for way, figures in results["detection"].items()
    ]
    pictures = [
        f"| {name} | {_spread(figures, 'psnr', 2)} | {_spread(figures, 'ssim', 3)} | {_spread(figures, 'accepted', 3)} |"
        for name, figures in results["restoration"].items()
    ]
    faces = results["restoration"]["original"][0]["faces"]
    seeds = max(map(len, results["detection"].values()))
    return f"""# Ablation: what each part of the second stage brings

Command: `{command}`

Machine: {machine}.

Every way was trained for {config.steps:,} steps of {config.batch} candidates, on the same candidates in the same order, from
{seeds} seeds; after ± stands the standard deviation over the seeds.

## Detection

AP by WIDER FACE's protocol, by face height, on {results["photos"]} photos (none of WIDER FACE's validation) at original size but
for the enlarged images. The fusion rule of each way was learnt on one half of the photos and applied to the other; in the mean
{results["candidates a photo"]:.1f} candidates a photo went through the second stage. ms: mean time of a photo, both stages

| way | {" | ".join(bands)} | ms |
{"|---" * (len(bands) + 2)}|
{chr(10).join(rows)}

## Restoration

On {faces:.0f} sharp faces of photos held out from training, degraded by the model of `tinyfaces.training.degradation`: PSNR and
SSIM (torchmetrics) against the original (of the original itself: its ceiling here), and how often a face classifier trained
apart, on originals alone, takes the picture for a face.

| picture | PSNR, dB | SSIM | taken for a face |
|---|---|---|---|
{chr(10).join(pictures)}
"""


def _mean(figures: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([one[name] for one in figures]))


def _spread(figures: Sequence[Mapping[str, float]], name: str, digits: int) -> str:
    mean = f"{_mean(figures, name):.{digits}f}"
    return mean if len(figures) == 1 else f"{mean} ± {np.std([one[name] for one in figures], ddof=1):.{digits}f}"


def write(results: Mapping[str, Any], tables: str, out: Path) -> None:
    """Write OUT.json and OUT.md, each whole."""
    from tinyfaces.files import write_atomically

    write_atomically(out.with_suffix(".json"), (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(out.with_suffix(".md"), tables.encode())
