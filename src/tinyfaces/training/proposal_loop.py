"""Training of the proposal network: the loop, to be read from top to bottom.

tinyfaces train proposals --config configs/accurate.toml
torchrun --nproc-per-node 4 -m tinyfaces train proposals --config configs/accurate.toml
"""

import copy
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.context import rescore_by_neighbours
from tinyfaces.detection.decoding import find_faces
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.training.batches import as_input, large_batch, lessons_from
from tinyfaces.training.cache import ImageCache
from tinyfaces.training.checkpoints import load_network, log, save_atomically, update_average
from tinyfaces.training.losses import distillation_loss, make_points, mirrored_outputs, proposal_loss
from tinyfaces.training.muon import Muon
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork
from tinyfaces.training.settings import Config
from tinyfaces.training.sources import open_sources

_TRIAL_STEPS = 3


def learning_rate(step: int, config: Config) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine down to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def make_optimisers(network: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions but the stem and heads, AdamW for the rest (or for all)."""
    special = {
        id(parameter)
        for name, parameter in network.named_parameters()
        if config.optimiser == "muon" and parameter.ndim == 4 and not name.startswith(("stem", "heads"))
    }
    muon = [p for p in network.parameters() if id(p) in special]
    decayed = [p for p in network.parameters() if id(p) not in special and p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, config.adamw_lr, betas=(0.9, 0.99))]
    if muon:
        optimisers.append(Muon(muon, config.muon_lr, weight_decay=config.weight_decay))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers


@torch.no_grad()
def evaluate(
    network: nn.Module, images: Sequence[AnnotatedImage], cache: ImageCache, indices: Sequence[int], device: torch.device
) -> dict[str, coco.BandResult]:
    """AP by face height over photos at original size, single scale."""
    network.eval()
    found = []
    for index in indices:
        photo = cache[index]
        height, width = photo.shape[:2]
        padded = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
        padded[0, :, :height, :width] = photo.transpose(2, 0, 1)
        batch = torch.from_numpy(padded).to(device).contiguous(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(benchmark=False):  # nearly every photo has a size of its own
            outputs = [output.float().cpu().numpy()[0] for output in network(batch)]
        faces = rescore_by_neighbours(find_faces(outputs, LOWEST_SCORE, (height, width)))
        found.append((faces.boxes, faces.scores))
    return coco.score(found, [images[index] for index in indices])


def set_mode(network: nn.Module, step: int, config: Config) -> None:
    """Training mode for a step; in the last `fixed_norm_steps` but for the normalisations, which keep their statistics then."""
    network.train()
    if step >= config.steps - config.fixed_norm_steps:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def seconds_a_step(forward: Callable[[torch.Tensor], list[torch.Tensor]], network: nn.Module, inputs: torch.Tensor) -> float:
    """What the network's part of a step takes here, from a trial that leaves `network` as it was. It compiles what is to be."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    times = []
    for _ in range(_TRIAL_STEPS):
        started = time.monotonic()
        sum(output.float().sum() for output in forward(inputs)).backward()  # type: ignore[union-attr]
        if inputs.is_cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic() - started)
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    return min(times)


def duration(seconds: float) -> str:
    """Such as "2 h 05 min", a minute at least."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def train(config: Config, resume: bool = True) -> None:
    """Run a training to its last step; go on from `out/last.pt` if it is there and `resume` is set.

    Writes last.pt and best.pt (by dev AP), log.jsonl, config.json and TensorBoard's files under `config.out`.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if config.batch % world:
        raise ValueError(f"batch is {config.batch}, must be a multiple of the {world} processes")
    if config.large_every and large_batch(config) % world:
        raise ValueError(f"{large_batch(config)} large crops make a step, must be a multiple of the {world} processes")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if config.threads:
        torch.set_num_threads(config.threads)
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True  # all crops have one of two sizes
    network = network_to_train(config).to(device)
    leader = rank == 0
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    if world > 1 and not leader:
        torch.distributed.barrier()  # the leader decodes first
    images, weights, cache = open_sources(config.train, Path(config.cache), _told(leader), config.relabelled)
    dev_images, _, dev_cache = open_sources(config.dev, Path(config.cache), _told(leader))
    if world > 1 and leader:
        torch.distributed.barrier()

    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    optimisers = make_optimisers(network, config)
    step, best, seconds = 0, -1.0, 0.0
    last = out / "last.pt"
    if resume and last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, best, seconds = state["step"], state["best"], state["seconds"]
    wrapped: nn.Module = DistributedDataParallel(network) if world > 1 else network
    forward = torch.compile(wrapped, dynamic=False) if config.compile else wrapped

    teach = None
    if config.teacher:
        teacher = load_network(Path(config.teacher))[0].to(device).requires_grad_(False)
        if config.channels_last:
            teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teach = torch.compile(teacher, dynamic=False) if config.compile else teacher
    points = {size: make_points(size, size, device) for size in {config.crops.size, config.large_crops.size}}
    autocast = torch.autocast(device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
    lessons = lessons_from(images, cache, weights, config, step, rank, world, device)
    writer = SummaryWriter(str(out)) if leader else None
    if leader:
        (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    estimate = ""
    if step < config.steps:  # a finished run has nothing to compile
        blank = torch.zeros(config.batch // world, 3, config.crops.size, config.crops.size, device=device)
        if config.channels_last:
            blank = blank.contiguous(memory_format=torch.channels_last)
        set_mode(network, step, config)
        with autocast:
            trial = seconds_a_step(forward, network, blank)
        estimate = (
            f"{config.steps - step:,} steps of {config.batch} crops, {config.batch / trial:.1f} crops/s on this machine:"
            f" about {duration((config.steps - step) * trial)}, and the measuring on {len(dev_images):,} photos"
        )
    started, waited = time.monotonic() - seconds, 0.0
    with Progress(*columns, disable=not leader) as progress:
        if leader and estimate:
            progress.console.print(estimate, highlight=False)
        bar = progress.add_task(config.variant, total=config.steps, completed=step, note="")
        window: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        window_started = time.monotonic()
        while step < config.steps:
            factor = learning_rate(step, config)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * factor

            fetch = time.monotonic()
            lesson = next(lessons)
            waited += time.monotonic() - fetch
            if teach is not None and lesson.taught is None:
                with torch.no_grad(), autocast:
                    lesson.taught = teach(as_input(lesson.batch, config))
            mirrored = step % config.echo % 2 == 1
            batch = lesson.batch.mirrored() if mirrored else lesson.batch
            inputs = as_input(batch, config)
            set_mode(network, step, config)
            with autocast:
                outputs = forward(inputs)
            loss = proposal_loss(outputs, points[inputs.shape[-1]], batch.boxes, batch.owners, batch.ignored)
            total = loss.total
            if lesson.taught is not None:
                taught = mirrored_outputs(lesson.taught) if mirrored else lesson.taught
                total = total + config.teacher_weight * distillation_loss(outputs, taught, points[inputs.shape[-1]])
            total.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            update_average(average, network, step, config.ema)
            step += 1
            window.append((loss.classification.detach(), loss.box.detach(), loss.positives))
            progress.advance(bar)

            if leader and writer and (step % 50 == 0 or step == config.steps):
                classification, box, positives = np.mean([[float(value) for value in values] for values in window], axis=0)
                passed = time.monotonic() - window_started
                rate = len(window) * config.batch / passed
                numbers = {
                    "classification": classification, "box": box, "positives": positives, "crops_per_second": rate,
                    "waiting": waited / passed, "learning_rate": factor,
                }  # fmt: skip
                log(out, writer, step, time.monotonic() - started, numbers)
                progress.update(bar, note=f"{rate:.1f} crops/s, loss {classification:.3f} + {box:.3f}")
                window, window_started, waited = [], time.monotonic(), 0.0

            finished = step == config.steps
            if leader and writer and (step % config.evaluate_every == 0 or finished):
                paused = time.monotonic()
                chosen = np.linspace(0, len(dev_images) - 1, len(dev_images) if finished else config.evaluate_images)
                result = evaluate(average, dev_images, dev_cache, np.unique(chosen.astype(int)).tolist(), device)
                log(out, writer, step, time.monotonic() - started, {f"ap {name}": r.ap for name, r in result.items()})
                window_started += time.monotonic() - paused
                if result["all"].ap > best or finished:
                    best = max(best, result["all"].ap)
                    save_atomically({"average": average.state_dict(), "variant": config.variant, "step": step}, out / "best.pt")
            if leader and (step % config.save_every == 0 or finished):
                state = {
                    "network": network.state_dict(), "average": average.state_dict(), "variant": config.variant,
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step, "best": best, "seconds": time.monotonic() - started,
                }  # fmt: skip
                save_atomically(state, last)
    if world > 1:
        torch.distributed.destroy_process_group()


def _told(leader: bool) -> Callable[[str], None]:
    """Prints a line about a photo that is left out, from one of the processes."""
    return lambda line: print(f"tinyfaces: {line}", file=sys.stderr) if leader else None


def network_to_train(config: Config) -> ProposalNetwork:
    """A new network of the variant, or the one that `config.start` holds. Raises ValueError with one line that names the file
    where that cannot be read or is of another variant."""
    if not config.start:
        return ProposalNetwork(VARIANTS[config.variant])
    network, variant = load_network(Path(config.start))
    if variant != config.variant:
        raise ValueError(f"{config.start}: weights of {variant}, not of {config.variant}")
    return network.train()
