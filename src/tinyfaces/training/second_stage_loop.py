"""Training of the generator and the discriminator: read from top to bottom, it is all here.

    tinyfaces train second-stage --config configs/gan.toml

First the generator alone learns to restore (pixel loss), then all play together (paper, section 3.4).
"""

import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from tinyfaces.detection.crops import FACTOR
from tinyfaces.training import losses
from tinyfaces.training.candidates import Candidates, read_candidates
from tinyfaces.training.checkpoints import load_second_stage, log, save_atomically, update_average
from tinyfaces.training.networks.second_stage_networks import GAN_VARIANTS, PARTS, make_networks
from tinyfaces.training.settings import read_toml

_SHOWN = 8
_SURE = 0.995
_FLAT = 0.25


@dataclass(frozen=True)
class GanConfig:
    """All there is to a run."""

    candidates: str  # folder that `tinyfaces train candidates` wrote
    variant: str = "slim"  # "slim" or "paper"
    generator: str = "srn+rn"  # or, for the ablation, "srn", "bilinear", "none"
    out: str = "runs/gan"
    pretrain_steps: int = 2000  # of the generator on the pixel loss alone
    steps: int = 10_000  # in all
    batch: int = 64  # over all processes
    generator_every: int = 1  # once all learn together, the generator learns at one step in so many: a discriminator's is cheaper
    start: str = ""  # weights to begin from (.safetensors or a checkpoint)
    lr: float = 1e-3  # Adam's peak: linear warm-up, then a cosine down to a hundredth
    warmup: int = 100  # steps
    adversarial: float = 0.001  # weights in the generator's loss, beside the pixel loss
    classification: float = 0.01
    box: float = 0.01
    telling: float = 1.0  # weight of telling real from generated in the discriminator's loss, beside faces from the rest
    clip: float = 10.0  # norm of each network's gradient
    ema: float = 0.998  # of both networks' weights; the averages are what is measured and shipped
    held_out: int = 20  # one photo in so many is for measuring
    bfloat16: bool = False  # autocast; gains where the processor has AVX-512 BF16 or AMX, or on a GPU
    channels_last: bool = True
    threads: int = 2
    seed: int = 0
    save_every: int = 500
    evaluate_every: int = 1000


def load_gan_config(path: Path, overrides: Mapping[str, object]) -> GanConfig:
    """Read a TOML file and put `overrides` over it. Raises ValueError with one line that names the file."""
    values = {**read_toml(path), **overrides}
    try:
        config = GanConfig(**values)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
    if config.variant not in GAN_VARIANTS:
        raise ValueError(f"{path}: variant is {config.variant!r}, known are {', '.join(GAN_VARIANTS)}")
    if config.generator not in PARTS:
        raise ValueError(f"{path}: generator is {config.generator!r}, known are {', '.join(PARTS)}")
    if config.batch < 8 or config.batch % 4:
        raise ValueError(f"{path}: batch is {config.batch}, must be a multiple of 4 and at least 8")
    return config


@dataclass(frozen=True)
class GanBatch:
    """low Nx3x16x16 and high Nx3x64x64, RGB in 0-1; has_target (N,) bool: `high` means something; face (N,) 0 or 1; box
    (N, 4)."""

    low: Tensor
    high: Tensor
    has_target: Tensor
    face: Tensor
    box: Tensor


def make_batch(data: Candidates, chosen: npt.NDArray[np.int64], rng: np.random.Generator | None) -> GanBatch:
    """The chosen candidates as tensors; with `rng` each mirrored or not, and lit and tinted alike in both sizes."""
    count = len(chosen)
    target = data.target[chosen]
    low = torch.from_numpy(data.low[chosen]).permute(0, 3, 1, 2).float() / 255
    high = torch.zeros(count, 3, FACTOR * low.shape[2], FACTOR * low.shape[3])
    has = torch.from_numpy(target >= 0)
    if has.any():
        high[has] = torch.from_numpy(data.high[target[target >= 0]]).permute(0, 3, 1, 2).float() / 255
    box = torch.from_numpy(data.box[chosen]).clone()
    if rng is not None:
        mirrored = torch.from_numpy(rng.random(count) < 0.5)
        low[mirrored], high[mirrored] = low[mirrored].flip(3), high[mirrored].flip(3)
        box[mirrored, 0] *= -1
        light = torch.from_numpy(
            (rng.uniform(0.7, 1.3, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 3, 1, 1))).astype(np.float32)
        )
        low, high = (low * light).clamp(0, 1), (high * light).clamp(0, 1)
    face = torch.from_numpy(data.face[chosen]).float()
    return GanBatch(low, high, has, face, box)


@dataclass(frozen=True)
class Pools:
    """Indices of candidates to draw from: faces and non-faces, and of both those with a sharp target."""

    faces: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    sharp: npt.NDArray[np.int64]


def make_pools(data: Candidates, config: GanConfig) -> tuple[Pools, npt.NDArray[np.int64]]:
    """Pools of the training candidates, and the indices of those held out, by photo. Raises ValueError where a pool is empty."""
    held = data.photo % config.held_out == 0
    pools = Pools(
        np.flatnonzero(data.face & ~held), np.flatnonzero(~data.face & ~held), np.flatnonzero((data.target >= 0) & ~held)
    )
    for name in ("faces", "others", "sharp"):
        if not len(getattr(pools, name)):
            raise ValueError(f"{config.candidates}: no candidates to train on among the {name}")
    return pools, np.flatnonzero(held)


def draw(pools: Pools, config: GanConfig, step: int) -> npt.NDArray[np.int64]:
    """Indices of batch number `step`: a quarter with sharp targets, a quarter faces, half non-faces; a function of the seed."""
    rng = np.random.default_rng((config.seed, step))
    quarter = config.batch // 4
    parts = [rng.choice(pools.sharp, quarter), rng.choice(pools.faces, quarter), rng.choice(pools.others, 2 * quarter)]
    return np.stack([np.concatenate(parts)[i::quarter] for i in range(quarter)]).reshape(-1)


def learning_rate(step: int, config: GanConfig) -> float:
    """Factor of the peak rate."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def average_gradients(networks: Sequence[nn.Module], world: int) -> None:
    """Make every process's gradients the mean over all."""
    if world == 1:
        return
    gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / world).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


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
def evaluate_gan(
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
def comparison_sheet(generator: nn.Module, batch: GanBatch, device: torch.device) -> Tensor:
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


def train_gan(config: GanConfig, resume: bool = True) -> None:
    """Run a training to its last step; go on from `out/last.pt` if it is there and `resume` is set.

    Writes last.pt, log.jsonl, config.json and TensorBoard's files under `config.out`. Raises ValueError for unusable candidates.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if config.threads:
        torch.set_num_threads(config.threads)
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(config.seed)
    leader = rank == 0
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    data = read_candidates(Path(config.candidates))
    pools, held = make_pools(data, config)
    fixed = make_batch(data, pools.sharp[np.linspace(0, len(pools.sharp) - 1, _SHOWN).astype(int)], None)

    generator, discriminator = (network.to(device) for network in make_networks(config.variant, config.generator))
    if config.start:
        started_from = load_second_stage(Path(config.start))
        generator.load_state_dict(started_from[0].state_dict())
        discriminator.load_state_dict(started_from[1].state_dict())
    learns = any(parameter.requires_grad for parameter in generator.parameters())
    if config.channels_last:
        generator, discriminator = (n.to(memory_format=torch.channels_last) for n in (generator, discriminator))  # type: ignore[call-overload]
    average = copy.deepcopy(nn.ModuleDict({"generator": generator, "discriminator": discriminator})).requires_grad_(False)
    optimisers = [
        torch.optim.Adam(network.parameters(), config.lr, (0.9, 0.999))
        for network in ([generator, discriminator] if learns else [discriminator])
    ]
    step, seconds = 0, 0.0
    last = out / "last.pt"
    if resume and last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        generator.load_state_dict(state["generator"])
        discriminator.load_state_dict(state["discriminator"])
        average.load_state_dict(state["average"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, seconds = state["step"], state["seconds"]

    autocast = torch.autocast(device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
    writer = SummaryWriter(str(out)) if leader else None
    if leader:
        (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    started = time.monotonic() - seconds
    with Progress(*columns, disable=not leader) as progress:
        bar = progress.add_task(config.variant, total=config.steps, completed=step, note="")
        window: list[dict[str, float]] = []
        window_started = time.monotonic()
        while step < config.steps:
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = config.lr * learning_rate(step, config)

            chosen = draw(pools, config, step)[rank::world]
            batch = make_batch(data, chosen, np.random.default_rng((config.seed, step, rank)))
            batch = GanBatch(**{f.name: getattr(batch, f.name).to(device) for f in dataclasses.fields(GanBatch)})
            joint = step >= config.pretrain_steps or not learns
            restoring = learns and (not joint or step % config.generator_every == 0)
            generator.train()
            discriminator.train()
            numbers: dict[str, float] = {}

            with autocast, torch.set_grad_enabled(restoring):
                enlarged, refined = generator(batch.low)
            enlarged, refined = enlarged.float(), refined.float()
            originals = batch.high if enlarged.shape == batch.high.shape else batch.low
            pixel = losses.pixel_loss(enlarged, refined, originals, batch.has_target)
            total = pixel
            numbers["pixel"] = pixel.item()
            if joint:
                with autocast:
                    judged, true = discriminator(refined.detach()), discriminator(originals[batch.has_target])
                labels = torch.cat([batch.face, batch.face[batch.has_target]])
                adversarial = losses.adversarial_loss_of_discriminator(true.real.float(), judged.real.float())
                face = losses.face_loss(torch.cat([judged.face, true.face]).float(), labels)
                box = losses.refinement_loss(judged.box.float(), batch.box, batch.face > 0)
                (face + box + (config.telling * adversarial if config.adversarial else 0)).backward()
                average_gradients([discriminator], world)
                nn.utils.clip_grad_norm_(discriminator.parameters(), config.clip)
                optimisers[-1].step()
                optimisers[-1].zero_grad(set_to_none=True)
                with torch.no_grad():
                    right = torch.cat([judged.real < 0, true.real > 0]).float().mean().item()
                    face_right = ((judged.face > 0) == (batch.face > 0)).float().mean().item()
                numbers |= {
                    "discriminator": adversarial.item(), "face": face.item(), "box": box.item(),
                    "real accuracy": right, "face accuracy": face_right,
                }  # fmt: skip

            if joint and restoring:
                discriminator.requires_grad_(False)
                with autocast:
                    again = discriminator(refined)
                fooling = losses.adversarial_loss_of_generator(again.real.float())
                total = (
                    pixel
                    + config.adversarial * fooling
                    + config.classification * losses.face_loss(again.face.float(), batch.face)
                    + config.box * losses.refinement_loss(again.box.float(), batch.box, batch.face > 0)
                )
                numbers["adversarial"] = fooling.item()
            if restoring:
                total.backward()
                discriminator.requires_grad_(True)
                average_gradients([generator], world)
                nn.utils.clip_grad_norm_(generator.parameters(), config.clip)
                optimisers[0].step()
                optimisers[0].zero_grad(set_to_none=True)
            update_average(average["generator"], generator, step, config.ema)
            if joint:
                update_average(average["discriminator"], discriminator, step - config.pretrain_steps, config.ema)
            with torch.no_grad():
                low_spread = batch.low.std(0).mean()
                numbers["spread"] = (refined.std(0).mean() / low_spread.clamp(min=1e-6)).item()
            step += 1
            window.append(numbers)
            progress.advance(bar)

            finished = step == config.steps
            if leader and writer and (step % 50 == 0 or finished):
                mean = means(window)
                mean["crops_per_second"] = len(window) * config.batch / (time.monotonic() - window_started)
                log(out, writer, step, time.monotonic() - started, mean)
                progress.update(bar, note=f"{mean['crops_per_second']:.0f} crops/s, pixel {mean['pixel']:.4f}")
                trouble = collapse(window) if "adversarial" in mean else ""
                if trouble:
                    progress.console.print(f"step {step}: this looks like a collapse: {trouble}")
                    log(out, writer, step, time.monotonic() - started, {"collapse": 1.0})
                window, window_started = [], time.monotonic()
            if leader and writer and (step % config.evaluate_every == 0 or finished):
                paused = time.monotonic()
                log(
                    out,
                    writer,
                    step,
                    time.monotonic() - started,
                    evaluate_gan(average["generator"], average["discriminator"], data, held, device),
                )
                if config.generator != "none":
                    writer.add_image(
                        "low, bicubic, SRN, SRN+RN, target", comparison_sheet(average["generator"], fixed, device), step
                    )
                window_started += time.monotonic() - paused
            if leader and (step % config.save_every == 0 or finished):
                state = {
                    "generator": generator.state_dict(), "discriminator": discriminator.state_dict(),
                    "average": average.state_dict(), "variant": config.variant, "parts": config.generator,
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step, "seconds": time.monotonic() - started,
                }  # fmt: skip
                save_atomically(state, last)
    if world > 1:
        torch.distributed.destroy_process_group()
