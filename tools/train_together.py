"""Train several proposal networks on the same crops within a fixed time, larger ones teaching smaller ones as they learn.

    python tools/train_together.py configs/together.toml --seconds 600 --workers 15

For a machine with a GPU that is lent for minutes. It reads packs (tools/pack.py), decodes them once with all cores, and takes
in those that are made ready meanwhile (`--prepare PACK`). Each crop goes to every network, so that making crops, decoding and
the teacher's look are paid for once. The rate falls with the time left, not with the steps. A checkpoint is written every
minute; the same command goes on from the last one, with the time that is left. `--steps N` ends after N steps, for a trial.
Runs on a CPU too.
"""

import argparse
import collections
import copy
import dataclasses
import faulthandler
import itertools
import json
import math
import os
import shutil
import signal
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.training.cache import ImageCache, open_cache
from tinyfaces.training.checkpoints import load_network, save_atomically, update_average
from tinyfaces.training.growth import grown
from tinyfaces.training.losses import distillation_loss, make_points, proposal_loss
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork
from tinyfaces.training.photo_crops import Crop, CropBatch, CropDataset, CropSettings
from tinyfaces.training.proposal_loop import make_optimisers
from tinyfaces.training.settings import Config

_ENDLESS = 1 << 40
_SAVE_EVERY = 60.0  # seconds
_REPORT_EVERY = 50  # steps
_LOOK_EVERY = 5.0  # seconds
_READY = "ready"


@dataclass(frozen=True)
class Learner:
    """What one of the networks begins from and whom it learns from beside the labels.

    start: weights of its variant, or of a smaller one that it grows from. teacher: another of the networks, whose averaged
    weights look at the same crops. teacher_weight: of that loss, reached at `teacher_from` of the time.
    """

    start: str = ""
    teacher: str = ""
    teacher_weight: float = 1.0
    teacher_from: float = 0.3


@dataclass(frozen=True)
class Together:
    """All there is to a run."""

    packs: str
    out: str
    networks: dict[str, Learner]
    shares: dict[str, float]
    doubt: dict[str, float] = field(default_factory=dict)  # of a set: its ignored boxes of a lower score are background
    doubt_from: float = 12.0  # pixels of height; smaller ones stay ignored
    cache: str = "cache"
    seconds: float = 600.0
    batch: int = 128
    large_every: int = 4
    mosaics_until: float = 0.15  # of the time; then natural crops
    fixed_norm_from: float = 0.92  # of the time; from there on the normalisations keep their statistics
    warmup: int = 150  # steps
    final_lr: float = 0.01
    muon_lr: float = 0.02
    adamw_lr: float = 0.002
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 10.0
    bfloat16: bool = True
    seed: int = 0
    crops: CropSettings = field(default_factory=CropSettings)
    natural_crops: CropSettings = field(default_factory=CropSettings)
    large_crops: CropSettings = field(default_factory=CropSettings)


def load_settings(path: Path) -> Together:
    values: dict[str, Any] = tomllib.loads(path.read_text())
    for name in ("crops", "natural_crops", "large_crops"):
        values[name] = CropSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.get(name, {}).items()})
    values["networks"] = {name: Learner(**learner) for name, learner in values["networks"].items()}
    return Together(**values)


def prepare(pack: Path, cache: Path) -> Path:
    """Unpack a pack beside itself and decode it into `cache`, unless that was done; gives its folder."""
    folder = pack.with_suffix("")
    if not folder.exists():
        partial = folder.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(pack) as archive:
            archive.extractall(partial)
        try:
            partial.replace(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(partial)
    open_cache(read_coco(folder / "annotations.json.gz", folder), cache)
    (folder / _READY).touch()
    return folder


class Library:
    """The photos of all packs that are ready so far: `images`, their `weights` (how often each is drawn: each set's share, spread
    over its photos) and, by number, their pixels. `look` takes in packs that have become ready since."""

    def __init__(self, settings: Together) -> None:
        self.settings = settings
        self.known: set[Path] = set()
        self.images: list[AnnotatedImage] = []
        self.places: list[tuple[ImageCache, int]] = []
        self.weights = np.empty(0)
        self.look_again = 0.0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        cache, n = self.places[index]
        return cache[n]

    def look(self) -> None:
        if time.monotonic() < self.look_again:
            return
        self.look_again = time.monotonic() + _LOOK_EVERY
        new = sorted(set(Path(self.settings.packs).glob(f"*/{_READY}")) - self.known)
        for ready in new:
            listed = read_coco(ready.parent / "annotations.json.gz", ready.parent)
            cache = open_cache(listed, Path(self.settings.cache))
            doubt, height = self.settings.doubt, self.settings.doubt_from
            self.images += [without_doubtful(image, doubt.get(image.path.parent.name, 0.0), height) for image in listed]
            self.places += [(cache, n) for n in range(len(cache))]
            self.known.add(ready)
        if new:
            names = [image.path.parent.name for image in self.images]
            counts = collections.Counter(names)
            unknown = counts.keys() - self.settings.shares.keys()
            if unknown:
                raise ValueError(f"no share is given for {', '.join(sorted(unknown))}")
            self.weights = np.array([self.settings.shares[name] / counts[name] for name in names])


class Crops(torch.utils.data.Dataset[Crop]):
    """Crops of one kind without end, of the photos that are there when each is made."""

    def __init__(self, library: Library, kind: CropSettings, seed: int) -> None:
        self.library, self.kind, self.seed = library, kind, seed

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Crop:
        library = self.library
        library.look()
        return CropDataset(library.images, library, library.weights, self.kind, self.seed, 0, _ENDLESS)[index]  # type: ignore[arg-type]


def without_doubtful(image: AnnotatedImage, below: float, height: float) -> AnnotatedImage:
    """The image without its ignored boxes of a score less than `below`, if they are `height` pixels high: background then."""
    dismissed = image.ignore & (image.scores < below) & (image.boxes[:, 3] - image.boxes[:, 1] >= height)
    kept = ~dismissed
    return dataclasses.replace(image, boxes=image.boxes[kept], ignore=image.ignore[kept], scores=image.scores[kept])


class Clock:
    """How much of the time is gone, 0 to 1; what earlier parts of the run took counts."""

    def __init__(self, seconds: float, before: float, steps: int | None) -> None:
        self.seconds, self.began, self.steps, self.step = seconds, time.monotonic() - before, steps, 0

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def progress(self) -> float:
        return min(1.0, self.step / self.steps if self.steps else self.elapsed() / self.seconds)


def batches(library: Library, settings: Together, clock: Clock, workers: int, first: int) -> Iterator[CropBatch]:
    """Batches without end, their kind chosen as the clock says when their making begins."""
    kinds = (settings.crops, settings.natural_crops, settings.large_crops)
    datasets = [Crops(library, kind, settings.seed + (n << 20)) for n, kind in enumerate(kinds)]
    dataset: torch.utils.data.ConcatDataset[Crop] = torch.utils.data.ConcatDataset(datasets)

    def numbers() -> Iterator[list[int]]:
        for batch in itertools.count(first):
            if settings.large_every and batch % settings.large_every == settings.large_every - 1:
                kind, size = 2, max(1, round(settings.batch * (settings.crops.size / settings.large_crops.size) ** 2))
            else:
                kind, size = int(clock.progress() >= settings.mosaics_until), settings.batch
            start = kind * _ENDLESS + batch * settings.batch
            yield list(range(start, start + size))

    class Endless(torch.utils.data.Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            return numbers()

    cuda = torch.cuda.is_available()
    return iter(
        torch.utils.data.DataLoader(
            dataset, batch_sampler=Endless(), num_workers=workers, collate_fn=CropBatch.of,
            prefetch_factor=3 if workers else None, worker_init_fn=_one_thread, multiprocessing_context="fork" if workers else None, pin_memory=cuda,
        )
    )  # fmt: skip


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def network_of(variant: str, learner: Learner) -> ProposalNetwork:
    """A network of the variant from its start: of the same variant, or grown from a smaller one."""
    if not learner.start:
        return ProposalNetwork(VARIANTS[variant])
    network, known = load_network(Path(learner.start))
    return network if known == variant else grown(network, VARIANTS[variant])


def set_mode(network: nn.Module, keep_statistics: bool) -> None:
    network.train()
    if keep_statistics:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def rate(step: int, progress: float, settings: Together) -> float:
    """Factor of the peak rate: a linear warm-up of steps, a cosine of the time."""
    cosine = settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / settings.warmup) * cosine


def train(settings: Together, workers: int, steps: int | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faulthandler.register(signal.SIGUSR1)
    torch.manual_seed(settings.seed)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4  # each plan tried takes a while
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for pack in sorted(Path(settings.packs).glob("*.zip")):
        prepare(pack, Path(settings.cache))
    library = Library(settings)
    library.look()
    print(f"{len(library):,} photos ready after {time.monotonic() - began:.0f} s", flush=True)

    networks = {
        name: network_of(name, learner).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, learner in settings.networks.items()
    }
    averages = {name: copy.deepcopy(network).requires_grad_(False).eval() for name, network in networks.items()}
    config = Config(
        variant="accurate",
        train=(),
        dev=(),
        muon_lr=settings.muon_lr,
        adamw_lr=settings.adamw_lr,
        weight_decay=settings.weight_decay,
    )
    optimisers = {name: make_optimisers(network, config) for name, network in networks.items()}
    step, before = 0, 0.0
    last = out / "last.pt"
    if last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        for name in networks:
            networks[name].load_state_dict(state[name]["network"])
            averages[name].load_state_dict(state[name]["average"])
            for optimiser, saved in zip(optimisers[name], state[name]["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        step, before = state["step"], state["seconds"]
        print(f"going on from step {step}, {before:.0f} s", flush=True)
    clock = Clock(settings.seconds, before, steps)
    clock.step = step
    points = {crops.size: make_points(crops.size, crops.size, device) for crops in (settings.natural_crops, settings.large_crops)}
    autocast = torch.autocast(device.type, torch.bfloat16) if settings.bfloat16 else nullcontext()
    source = batches(library, settings, clock, workers, step)
    teachers = {learner.teacher for learner in settings.networks.values() if learner.teacher}

    def save() -> None:
        states = {
            name: {
                "network": networks[name].state_dict(),
                "average": averages[name].state_dict(),
                "optimisers": [o.state_dict() for o in optimisers[name]],
            }
            for name in networks
        }
        save_atomically({**states, "step": step, "seconds": clock.elapsed()}, last)
        for name in networks:
            half = {k: v.half() if v.is_floating_point() else v for k, v in averages[name].state_dict().items()}
            save_atomically({"average": half, "variant": name, "step": step}, out / f"{name}.pt")

    saved_at, crops, waited, window_began = clock.elapsed(), 0, 0.0, time.monotonic()
    window: dict[str, list[torch.Tensor]] = {name: [] for name in networks}
    while clock.progress() < 1.0:
        progress = clock.progress()
        factor = rate(step, progress, settings)
        fetch = time.monotonic()
        batch = next(source).to(device)
        waited += time.monotonic() - fetch
        inputs = batch.pixels.permute(0, 3, 1, 2).float()
        with torch.no_grad(), autocast:
            taught = {name: averages[name](inputs) for name in teachers}
        for name, network in networks.items():
            learner = settings.networks[name]
            set_mode(network, progress >= settings.fixed_norm_from)
            with autocast:
                outputs = network(inputs)
            grid = points[inputs.shape[-1]]
            loss = proposal_loss(outputs, grid, batch.boxes, batch.owners, batch.ignored)
            total = loss.total
            parts = [loss.classification.detach(), loss.box.detach()]
            if learner.teacher:
                distilled = distillation_loss(outputs, taught[learner.teacher], grid)
                total = total + learner.teacher_weight * min(1.0, progress / max(learner.teacher_from, 1e-6)) * distilled
                parts.append(distilled.detach())
            total.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            for optimiser in optimisers[name]:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * factor
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            update_average(averages[name], network, step, settings.ema)
            window[name].append(torch.stack(parts))
        step += 1
        clock.step = step
        crops += len(inputs) * (inputs.shape[-1] // settings.crops.size) ** 2
        if step % _REPORT_EVERY == 0 or (steps and step == steps):
            passed = time.monotonic() - window_began
            numbers: dict[str, Any] = {"step": step, "seconds": round(clock.elapsed(), 1), "rate": round(factor, 4)}
            numbers["crops_per_second"], numbers["waiting"] = round(crops / passed, 1), round(waited / passed, 3)
            for name, values in window.items():
                numbers[name] = [round(value, 4) for value in torch.stack(values).mean(0).tolist()]
                values.clear()
            print(json.dumps(numbers), flush=True)
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps(numbers) + "\n")
            crops, waited, window_began = 0, 0.0, time.monotonic()
        if clock.elapsed() - saved_at > _SAVE_EVERY:
            save()
            saved_at = clock.elapsed()
    save()
    print(f"done: {step} steps in {clock.elapsed():.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seconds", type=float, help="in place of the configuration's")
    parser.add_argument("--steps", type=int, help="end after so many steps, for a trial")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--out")
    parser.add_argument("--packs")
    parser.add_argument("--cache")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--prepare", type=Path, help="only unpack and decode this pack")
    arguments = parser.parse_args()
    settings = load_settings(arguments.config)
    names = ("seconds", "batch", "out", "packs", "cache")
    settings = dataclasses.replace(
        settings, **{name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    )
    if arguments.prepare:
        prepare(arguments.prepare, Path(settings.cache))
        return
    train(settings, arguments.workers, arguments.steps)


if __name__ == "__main__":
    main()
