"""Training of the proposal network: read from top to bottom, it is all here.

tinyfaces train proposals --config configs/accurate.toml
torchrun --nproc-per-node 4 -m tinyfaces train proposals --config configs/accurate.toml
"""

import copy
import dataclasses
import json
import math
import os
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from tinyfaces.data.annotations import AnnotatedImage, dismiss_doubtful, read_coco, read_wider
from tinyfaces.data.cache import ImageCache, open_cache
from tinyfaces.data.crops import Crop, CropBatch, CropDataset, CropSettings
from tinyfaces.data.labels import read_voc, read_yolo
from tinyfaces.evaluation import coco
from tinyfaces.export import load_network
from tinyfaces.losses import distillation_loss, make_points, mirrored_outputs, proposal_loss
from tinyfaces.networks.proposals import VARIANTS, ProposalNetwork
from tinyfaces.proposals import find_faces
from tinyfaces.training.muon import Muon
from tinyfaces.training.records import log, save_atomically, update_average

_LABEL_READERS = {"yolo": read_yolo, "voc": read_voc}
LARGE_CROPS = CropSettings(
    size=896, grids=(1, 2), grid_shares=(0.7, 0.3), small_share=0.0, all_heights=(48.0, 850.0), scales=(0.12, 6.0)
)
_PARTS = ("all", "held out", "rest")
_HELD_OUT = 20  # one photo in so many
_TRIAL_STEPS = 3
_SEED_OF_LARGE = 1 << 20
_ECHO_AFTER = 16  # new batches


@dataclass(frozen=True)
class Source:
    """One set of photos. annotations: a COCO json(.gz), or the folder wider_face_split (then `format` is "wider"); images: its
    folder; share: how often crops are drawn from it, before normalising; format: "coco", "wider", "yolo" or "voc" (of these two
    annotations is a folder of label files); split: WIDER's only; doubt: ignored boxes that score less than this are background
    (see `dismiss_doubtful`); part: "all" photos, or "held out", every 20th, or the "rest"."""

    annotations: str
    images: str
    share: float = 1.0
    format: str = "coco"
    split: str = "train"
    doubt: float = 0.0
    part: str = "all"


@dataclass(frozen=True)
class Config:
    """All there is to a run."""

    variant: str  # "accurate" or "fast"
    train: tuple[Source, ...]
    dev: tuple[Source, ...]
    relabelled: str = ""  # a folder of `train relabel`, whose files are read in place of the training sources' own
    out: str = "runs/proposals"  # checkpoints, log, TensorBoard
    cache: str = "cache"  # decoded photos
    steps: int = 20_000
    batch: int = 16  # crops a step, over all processes
    crops: CropSettings = field(default_factory=CropSettings)
    large_every: int = 0  # every so many batches the crops are large_crops, fewer of them, for faces that fill a photo; 0: never
    large_crops: CropSettings = LARGE_CROPS
    echo: int = 1  # steps that each crop is used in, at every second one mirrored, where making crops takes long
    teacher: str = ""  # weights of a network whose outputs, at every point, are targets too
    teacher_weight: float = 1.0
    optimiser: str = "muon"  # for convolutions; or "adamw". Everything else is AdamW's
    muon_lr: float = 0.02
    adamw_lr: float = 0.002
    weight_decay: float = 0.01
    warmup: int = 300  # steps
    final_lr: float = 0.01  # of the peak, at the end of the cosine
    ema: float = 0.999
    clip: float = 10.0  # norm of the gradient
    bfloat16: bool = False  # autocast; gains where the processor has AVX-512 BF16 or AMX, or on a GPU
    channels_last: bool = True
    compile: bool = False  # torch.compile: a minute at the start, then a quarter faster on a CPU
    threads: int = 2  # of torch, a process; 0 leaves torch's choice
    workers: int = 1  # processes that make crops
    seed: int = 0
    save_every: int = 200  # steps
    evaluate_every: int = 3000  # steps
    evaluate_images: int = 200  # of the dev split, on the way; at the end all
    start: str = ""  # weights to begin from (.safetensors or a checkpoint), for fine-tuning


def load_config(path: Path, overrides: Mapping[str, object]) -> Config:
    """Read a TOML file and put `overrides` (names of Config or "crops.NAME") over it. Paths in it are relative to the working
    directory. Raises ValueError with one line that names the file."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for name, value in overrides.items():
        section, _, key = name.rpartition(".")
        (values.setdefault(section, {}) if section else values)[key] = value
    try:
        crops: dict[str, Any] = {}
        for name, default in (("crops", CropSettings()), ("large_crops", LARGE_CROPS)):
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.pop(name, {}).items()}
            crops[name] = dataclasses.replace(default, **given)
        sources: dict[str, Any] = {name: tuple(Source(**source) for source in values.pop(name)) for name in ("train", "dev")}
        config = Config(**crops, **sources, **values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None
    for source in config.train + config.dev:
        if source.part not in _PARTS:
            raise ValueError(f"{path}: part of a source is {source.part!r}, known are {', '.join(_PARTS)}")
    if config.variant not in VARIANTS:
        raise ValueError(f"{path}: variant is {config.variant!r}, known are {', '.join(VARIANTS)}")
    for name, chosen in (("crops", config.crops), ("large_crops", config.large_crops)):
        if chosen.size % 32 or any(chosen.size % (4 * grid) for grid in chosen.grids):
            raise ValueError(f"{path}: {name}.size is {chosen.size}, must be a multiple of 32 and of 4 x each grid")
    return config


def read_sources(sources: Sequence[Source], relabelled: str = "") -> tuple[list[AnnotatedImage], np.ndarray]:
    """All photos of the sources and how often each is drawn: (N,) float64, each source's share spread over its photos.

    relabelled: a folder of annotation files that take the place of those of the same name. Raises ValueError where it is missing.
    """
    if relabelled and not Path(relabelled).is_dir():
        raise ValueError(f"{relabelled}: no such folder of relabelled annotations")
    images: list[AnnotatedImage] = []
    weights: list[np.ndarray] = []
    for source in sources:
        if source.format == "wider":
            read = read_wider(Path(source.annotations), Path(source.images), source.split)
        elif source.format in _LABEL_READERS:
            read = _LABEL_READERS[source.format](source.annotations, source.images)
        else:
            annotations = Path(source.annotations)
            other = Path(relabelled) / annotations.name
            read = read_coco(other if relabelled and other.exists() else annotations, Path(source.images))
        if source.part != "all":
            read = [image for n, image in enumerate(read) if (n % _HELD_OUT == 0) == (source.part == "held out")]
        images += [dismiss_doubtful(image, source.doubt) for image in read]
        weights.append(np.full(len(read), source.share / max(len(read), 1)))
    return images, np.concatenate(weights)


def sources_of(annotations: Sequence[Path], images: Path) -> dict[str, list[dict[str, object]]]:
    """Settings that train on a user's photos and measure on every 20th of them, which is held out.

    annotations: COCO files, or WIDER FACE's folder wider_face_split; images: the folder of the photos.
    """
    given = [
        {"annotations": str(path), "images": str(images), "format": "wider" if path.is_dir() else "coco"} for path in annotations
    ]
    return {"train": [{**one, "part": "rest"} for one in given], "dev": [{**one, "part": "held out"} for one in given]}


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
        outputs = [output.float().cpu().numpy()[0] for output in network(batch)]
        faces = find_faces(outputs, 0.02, (height, width))
        found.append((faces.boxes, faces.scores))
    return coco.score(found, [images[index] for index in indices])


def seconds_a_step(forward: Callable[[torch.Tensor], list[torch.Tensor]], network: nn.Module, inputs: torch.Tensor) -> float:
    """What the network's part of a step takes here, from a trial that leaves `network` as it was. It compiles what is to be."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    times = []
    for _ in range(_TRIAL_STEPS):
        started = time.monotonic()
        sum(output.float().sum() for output in forward(inputs)).backward()  # type: ignore[union-attr]
        times.append(time.monotonic() - started)
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    return min(times)


def duration(seconds: float) -> str:
    """Such as "2 h 05 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min" if minutes else "less than a minute"


@dataclass
class Lesson:
    """A batch, and what the teacher's four maps say of it once it was asked."""

    batch: CropBatch
    taught: list[torch.Tensor] | None = None


def lessons_from(
    images: Sequence[AnnotatedImage],
    cache: ImageCache,
    weights: np.ndarray,
    config: Config,
    first_step: int,
    rank: int,
    world: int,
) -> Iterator[Lesson]:
    """This process's share of every step's crops, from `first_step` on.

    Of `config.echo` steps one has new crops, each other those of some batches before (see `new_batch_of`).
    """
    waiting = [new_batch_of(step, config) for step in range(first_step, config.steps)]
    first, last = min(waiting, default=0), max(waiting, default=-1)
    number = (last + 1 - first) * config.batch
    usual, large = (
        CropDataset(images, cache, weights, settings, seed, first * config.batch, number)
        for settings, seed in ((config.crops, config.seed), (config.large_crops, config.seed + _SEED_OF_LARGE))
    )
    dataset: torch.utils.data.ConcatDataset[Crop] = torch.utils.data.ConcatDataset([usual, large])
    mine = []
    for new in range(first, last + 1):
        is_large = takes_large_crops(new, config)
        share = (large_batch(config) if is_large else config.batch) // world
        start = (new - first) * config.batch + rank * share + (number if is_large else 0)
        mine.append(list(range(start, start + share)))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=mine,
        num_workers=config.workers,
        collate_fn=CropBatch.of,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
        multiprocessing_context="fork" if config.workers else None,
    )
    batches, known = iter(loader), deque[Lesson](maxlen=_ECHO_AFTER * (config.echo - 1) + 1)
    reached = first
    for wanted in waiting:
        while reached <= wanted:
            known.append(Lesson(next(batches)))
            reached += 1
        yield known[wanted - reached]


def new_batch_of(step: int, config: Config) -> int:
    """Which of the new batches a step takes: with `echo` 3, steps 60, 61, 62 take 20, 4 and 0 (none is taken before 0)."""
    turn, echo = divmod(step, config.echo)
    return max(0, turn - echo * _ECHO_AFTER)


def takes_large_crops(new: int, config: Config) -> bool:
    """Whether the crops of a new batch are `large_crops`."""
    return config.large_every > 0 and new % config.large_every == config.large_every - 1


def large_batch(config: Config) -> int:
    """How many large crops make a step: about as many pixels as the usual ones have."""
    return max(1, round(config.batch * (config.crops.size / config.large_crops.size) ** 2))


def as_input(batch: CropBatch, config: Config, device: torch.device) -> torch.Tensor:
    """The crops as the network takes them."""
    pixels = batch.pixels.to(device).permute(0, 3, 1, 2)
    return pixels.float() if config.channels_last else pixels.float().contiguous()


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


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
    leader = rank == 0
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    images, weights = read_sources(config.train, config.relabelled)
    dev_images, _ = read_sources(config.dev)
    if world > 1 and not leader:
        torch.distributed.barrier()  # the leader decodes first
    cache, dev_cache = open_cache(images, Path(config.cache)), open_cache(dev_images, Path(config.cache))
    if world > 1 and leader:
        torch.distributed.barrier()

    network = ProposalNetwork(VARIANTS[config.variant]).to(device)
    if config.start:
        network.load_state_dict(read_weights(Path(config.start)))
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
    lessons = lessons_from(images, cache, weights, config, step, rank, world)
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
        window: list[tuple[float, float, int]] = []
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
                    lesson.taught = teach(as_input(lesson.batch, config, device))
            mirrored = step % config.echo % 2 == 1
            batch = lesson.batch.mirrored() if mirrored else lesson.batch
            inputs = as_input(batch, config, device)
            wrapped.train()
            with autocast:
                outputs = forward(inputs)
            faces = (batch.boxes.to(device), batch.owners.to(device), batch.ignored.to(device))
            loss = proposal_loss(outputs, points[inputs.shape[-1]], *faces)
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
            window.append((loss.classification.item(), loss.box.item(), loss.positives))
            progress.advance(bar)

            if leader and writer and (step % 50 == 0 or step == config.steps):
                passed = time.monotonic() - window_started
                classification, box, positives = np.mean(window, axis=0)
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


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Network weights of a .safetensors file, or the averaged ones of a checkpoint."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return state
