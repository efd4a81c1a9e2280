"""Training of several proposal networks on the same crops within a fixed time, larger ones teaching smaller ones as they learn.

    tinyfaces train together configs/together.toml --packs packs --out runs/together --seconds 600 --workers 15

For a machine with a GPU that is lent for minutes; it runs on a CPU too. It reads packs (see `packs`), decodes them once with all
cores, and takes in those that become ready meanwhile (`--prepare PACK` in another process). Each crop goes to every network, so
that making crops, decoding and the teacher's look are paid for once. The rate falls with the time left, not with the steps. A
checkpoint is written every minute; the same command goes on from the last one, with the time that is left.

It needs torch, NumPy, Pillow, opencv-python-headless, safetensors, ONNX Runtime, rich, typer, and nothing else. With
msgspec too, the types of settings are checked: carry its wheel along.
"""

import faulthandler
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyfaces.training.checkpoints import fitting, load_network, read_state, save_atomically
from tinyfaces.training.folding import folded
from tinyfaces.training.growth import grown
from tinyfaces.training.losses import Points, distillation_loss, make_points, proposal_loss
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork
from tinyfaces.training.optimisers import MovingAverage, cosine, make_optimisers, set_learning_rate, set_mode, step_all
from tinyfaces.training.packs import PACK, PackLibrary, prepare_pack
from tinyfaces.training.photo_crops import Crop, CropBatch, CropDataset, CropSettings
from tinyfaces.training.resuming import keep_weights, remembers_its_run, require_same_run, settings_of, weights_of
from tinyfaces.training.run_log import drop_later_lines
from tinyfaces.training.typed_toml import load_settings
from tinyfaces.training.worker_pool import START_METHOD, crop_worker

_ENDLESS = 1 << 40
_SAVE_EVERY = 60.0  # seconds
_REPORT_EVERY = 50  # steps
_MAY_CHANGE = ("packs", "out", "cache", "seconds", "bfloat16")
"""Settings that may be others when a run is resumed: its length, places, and what depends on the machine."""


@dataclass(frozen=True)
class Learner:
    """What one of the networks begins from and whom it learns from beside the labels.

    Attributes:
        start: weights of its variant, or of a smaller one that it grows from; none if left out.
        frozen_trunk: true lets only the pyramid, branches and heads learn, some five times as many crops in the same time.
        teacher: another of the networks, whose averaged weights look at the same crops.
        teacher_weight: of what the teacher says, in the loss.
        teacher_from: share of the time at which that weight is reached; it rises from 0.
    """

    start: str = ""
    frozen_trunk: bool = False
    teacher: str = ""
    teacher_weight: float = 1.0
    teacher_from: float = 0.3


@dataclass(frozen=True)
class TogetherConfig:
    """All there is to a run."""

    packs: str  # folder of the packs
    out: str  # checkpoints and log
    networks: dict[str, Learner]  # by variant
    shares: dict[str, float]  # of the crops, by set
    doubt: dict[str, float] = field(default_factory=dict)  # of a set: its ignored boxes of a lower score are background
    doubt_from: float = 12.0  # pixels of height; smaller ones stay ignored
    cache: str = "cache"  # decoded photos
    seconds: float = 600.0  # in all
    batch: int = 192  # crops a step
    large_every: int = 4  # one batch in so many has large_crops, fewer of them; 0: never
    mosaics_until: float = 0.15  # of the time; then natural crops
    fixed_norm_from: float = 0.92  # of the time; from there on the normalisations keep their statistics
    warmup: int = 150  # steps
    final_lr: float = 0.01  # of the peak, at the end of the cosine
    muon_lr: float = 0.02
    adamw_lr: float = 0.002
    weight_decay: float = 0.01
    ema: float = 0.998
    clip: float = 10.0  # norm of the gradient
    bfloat16: bool = True  # autocast
    seed: int = 0
    crops: CropSettings = field(default_factory=CropSettings)
    natural_crops: CropSettings = field(default_factory=CropSettings)
    large_crops: CropSettings = field(default_factory=CropSettings)


def load_together_config(path: Path, overrides: Mapping[str, object]) -> TogetherConfig:
    """Read a TOML file and put `overrides` over it (see `load_settings`). Raises ValueError with one line that names the file."""
    config = load_settings(TogetherConfig, path, overrides)
    for variant, learner in config.networks.items():
        if variant not in VARIANTS:
            raise ValueError(f"{path}: there is no network {variant}, known are {', '.join(VARIANTS)}")
        if learner.teacher and learner.teacher not in config.networks:
            raise ValueError(f"{path}: networks.{variant}.teacher is {learner.teacher!r}, which is not among the networks")
    for name, crops in (("crops", config.crops), ("natural_crops", config.natural_crops), ("large_crops", config.large_crops)):
        crops.check(f"{path}: {name}")
    if config.crops.size != config.natural_crops.size:
        raise ValueError(f"{path}: natural_crops.size is {config.natural_crops.size}, must be crops.size, {config.crops.size}")
    return config


class Clock:
    """How much of a run's time, or of its steps where `steps` is given, is gone; what earlier parts of the run took counts."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        self.seconds, self.steps, self.step = seconds, steps, 0
        self._began = time.monotonic()

    def go_on(self, step: int, seconds: float) -> None:
        """Begin at the step and time that an earlier part of the run had reached."""
        self.step, self._began = step, time.monotonic() - seconds

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self._began

    def progress(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.step / self.steps if self.steps else self.elapsed() / self.seconds)


class Pupil:
    """One of the networks while it learns: the network, the moving average of its weights, and its optimisers."""

    def __init__(self, variant: str, config: TogetherConfig, device: torch.device) -> None:
        self.learner = config.networks[variant]
        self.network = first_network(variant, self.learner).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.learner.frozen_trunk:
            self.network.freeze_trunk()
        self.average = MovingAverage(self.network, config.ema)
        self._looking = folded(self.network) if self.learner.frozen_trunk else None
        self.optimisers = make_optimisers(self.network, config.muon_lr, config.adamw_lr, config.weight_decay)
        self.parameters = list(self.network.parameters())
        self.clip, self.fixed_norm = config.clip, False
        set_mode(self.network, False)

    def fix_norm(self) -> None:
        """Let the normalisations keep their statistics from now on."""
        if not self.fixed_norm:
            self.fixed_norm = True
            set_mode(self.network, True)

    def learn(
        self, batch: CropBatch, inputs: Tensor, points: Points, taught: list[Tensor] | None, step: int, now: "Moment"
    ) -> Tensor:
        """Take one step. Gives the losses that make it up: classification, boxes and, with a teacher, what it taught."""
        with now.autocast:
            outputs = self._look(inputs)
        loss = proposal_loss(outputs, points, batch.boxes, batch.owners, batch.ignored)
        total, parts = loss.total, [loss.classification.detach(), loss.box.detach()]
        if taught is not None:
            distilled = distillation_loss(outputs, taught, points)
            share = min(1.0, now.progress / max(self.learner.teacher_from, 1e-6))
            total = total + self.learner.teacher_weight * share * distilled
            parts.append(distilled.detach())
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        set_learning_rate(self.optimisers, now.rate)
        step_all(self.optimisers)
        self.average.update(step)
        return torch.stack(parts)

    def _look(self, inputs: Tensor) -> list[Tensor]:
        maps: list[Tensor]
        if self._looking is None:
            maps = self.network(inputs)
        else:
            with torch.no_grad():
                seen = self._looking.trunk(inputs)
            maps = self.network.answers(seen)
        return maps

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self._looking = folded(self.network) if self.learner.frozen_trunk else None


@dataclass(frozen=True)
class Moment:
    """What holds for all networks at a step: progress of the run and factor of the peak rate, both 0 to 1, and the precision."""

    progress: float
    rate: float
    autocast: AbstractContextManager[Any]


class EndlessCrops(torch.utils.data.Dataset[Crop]):
    """Crops of one kind without end, of the photos that are there when each is made."""

    def __init__(self, library: PackLibrary, kind: CropSettings, seed: int) -> None:
        self.library, self.kind, self.seed = library, kind, seed
        self._crops: CropDataset | None = None
        self._packs = 0

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Crop:
        library = self.library
        library.take_in_new()
        if self._crops is None or self._packs != len(library.known):
            self._crops = CropDataset(library.images, library, library.weights, self.kind, self.seed, 0, _ENDLESS)
            self._packs = len(library.known)
        return self._crops[index]


def endless_batches(library: PackLibrary, config: TogetherConfig, clock: Clock, workers: int) -> Iterator[CropBatch]:
    """Batches without end from the clock's step on, their kind chosen as the clock says when their making begins."""
    kinds = (config.crops, config.natural_crops, config.large_crops)
    datasets = [EndlessCrops(library, kind, config.seed + (n << 20)) for n, kind in enumerate(kinds)]
    dataset: torch.utils.data.ConcatDataset[Crop] = torch.utils.data.ConcatDataset(datasets)
    first = clock.step

    def numbers() -> Iterator[list[int]]:
        for batch in itertools.count(first):
            if config.large_every and batch % config.large_every == config.large_every - 1:
                kind, size = 2, max(1, round(config.batch * (config.crops.size / config.large_crops.size) ** 2))
            else:
                kind, size = int(clock.progress() >= config.mosaics_until), config.batch
            start = kind * _ENDLESS + batch * config.batch
            yield list(range(start, start + size))

    class Endless(torch.utils.data.Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            return numbers()

    return iter(
        torch.utils.data.DataLoader(
            dataset, batch_sampler=Endless(), num_workers=workers, collate_fn=CropBatch.of,
            prefetch_factor=3 if workers else None, worker_init_fn=partial(crop_worker, stand_back=False),
            multiprocessing_context=START_METHOD if workers else None, pin_memory=torch.cuda.is_available(),
        )
    )  # fmt: skip


def first_network(variant: str, learner: Learner) -> ProposalNetwork:
    """A network of the variant from its start: of the same variant, or grown from a smaller one."""
    if not learner.start:
        return ProposalNetwork(VARIANTS[variant])
    network, known = load_network(Path(learner.start))
    return network if known == variant else grown(network, VARIANTS[variant])


def learning_rate(step: int, progress: float, config: TogetherConfig) -> float:
    """Factor of the peak rate: a linear warm-up of steps, a cosine of the time."""
    return min(1.0, (step + 1) / config.warmup) * cosine(progress, config.final_lr)


class TogetherLog:
    """The numbers of the steps since the last report, and where they are reported: a line each in OUT/log.jsonl and to `say`."""

    def __init__(self, out: Path, say: Callable[[str], None]) -> None:
        self.out, self.say = out, say
        self._losses: dict[str, list[Tensor]] = {}
        self._began, self._crops, self._waited = time.monotonic(), 0, 0.0

    def add(self, crops: int, waited: float, losses: Mapping[str, Tensor]) -> None:
        """Take in a step: how many crops it had, how long it waited for them, and each network's losses."""
        self._crops, self._waited = self._crops + crops, self._waited + waited
        for name, values in losses.items():
            self._losses.setdefault(name, []).append(values)

    def report(self, clock: Clock, rate: float) -> None:
        """Write the means, and begin anew."""
        passed = time.monotonic() - self._began
        numbers: dict[str, Any] = {"step": clock.step, "seconds": round(clock.elapsed(), 1), "rate": round(rate, 4)}
        numbers |= {"crops_per_second": round(self._crops / passed, 1), "waiting": round(self._waited / passed, 3)}
        for name, losses in self._losses.items():
            numbers[name] = [round(value, 4) for value in torch.stack(losses).mean(0).tolist()]
        line = json.dumps(numbers)
        self.say(line)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        self._losses, self._began, self._crops, self._waited = {}, time.monotonic(), 0, 0.0


def save_run(pupils: Mapping[str, Pupil], clock: Clock, out: Path, identity: Mapping[str, Any]) -> None:
    """Write last.pt, to go on from, and VARIANT.pt of each network, its averaged weights in half precision, to take away."""
    states = {variant: pupil.state() for variant, pupil in pupils.items()}
    save_atomically({**states, "step": clock.step, "seconds": clock.elapsed(), "run": dict(identity)}, out / "last.pt")
    for variant, state in states.items():
        half = {name: value.half() if value.is_floating_point() else value for name, value in state["average"].items()}
        save_atomically({"average": half, "variant": variant, "step": clock.step}, out / f"{variant}.pt")


def settings_that_stay(config: TogetherConfig) -> dict[str, Any]:
    """What must be the same when a run is resumed, its photos aside."""
    starts = {f"networks.{variant}.start": weights_of(learner.start) for variant, learner in config.networks.items()}
    return settings_of(config, _MAY_CHANGE) | starts


def require_known_packs(state: Mapping[str, Any] | None, library: PackLibrary, last: Path) -> None:
    """Check that the packs that a checkpoint has learnt from are all there, as they were; others may have come.

    Raises:
        ValueError: a pack is gone, or is another.
    """
    known = {} if state is None else state.get("run", {})
    there = library.identity()
    require_same_run(state, {name: there.get(name, "gone") for name in known if name.startswith(PACK)}, last)


def resume_run(pupils: Mapping[str, Pupil], clock: Clock, state: Mapping[str, Any], last: Path) -> None:
    """Go on from what last.pt holds. Raises ValueError where that does not fit."""
    with fitting(last):
        for variant, pupil in pupils.items():
            pupil.load_state(state[variant])
        clock.go_on(state["step"], state["seconds"])


def train_together(
    config: TogetherConfig,
    workers: int,
    steps: int | None = None,
    say: Callable[[str], None] = print,
    resume: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Run a training to the end of its time; goes on from OUT/last.pt if that is there and `resume` is set.

    Args:
        config: the run.
        workers: processes that make crops; 0 makes them in this one.
        steps: end after so many steps, in place of the time.
        say: takes each line of the report.
        resume: False begins anew.
        tell: takes a line about each pack or photo that cannot be read, and is left out.

    Raises:
        ValueError: no pack can be read, weights cannot be used, or last.pt is of a run with other settings or packs.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if hasattr(faulthandler, "register"):  # not on Windows
        faulthandler.register(signal.SIGUSR1, sys.__stderr__ or sys.stderr)  # where a run that hangs is
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4  # each plan tried takes a while
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    keep_weights((one.start for one in config.networks.values()), [last, *(out / f"{name}.pt" for name in config.networks)])
    saved, identity = read_state(last, device) if resume else None, settings_that_stay(config)
    require_same_run(saved, identity, last)  # before packs are decoded for nothing
    library = open_library(config, say, tell)
    require_known_packs(saved, library, last)

    pupils = {variant: Pupil(variant, config, device) for variant in config.networks}
    teachers = {learner.teacher for learner in config.networks.values() if learner.teacher}
    clock = Clock(config.seconds, steps)
    if saved is not None:
        if not remembers_its_run(saved):
            say(f"{last}: of an earlier version, so that its settings and packs cannot be compared")
        resume_run(pupils, clock, saved, last)
        say(f"going on from step {clock.step}, {clock.elapsed():.0f} s")
    drop_later_lines(out / "log.jsonl", clock.step)
    points = {crops.size: make_points(crops.size, crops.size, device) for crops in (config.crops, config.large_crops)}
    autocast = torch.autocast(device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
    batches = endless_batches(library, config, clock, workers)

    log, saved_at, rate = TogetherLog(out, say), clock.elapsed(), 0.0
    while (progress := clock.progress()) < 1.0:
        rate = learning_rate(clock.step, progress, config)
        now = Moment(progress, rate, autocast)
        fetched = time.monotonic()
        batch = next(batches).to(device)
        waited = time.monotonic() - fetched
        inputs = batch.pixels.permute(0, 3, 1, 2).float()
        with torch.no_grad(), autocast:
            taught = {variant: pupils[variant].average.network(inputs) for variant in teachers}
        losses = {}
        for variant, pupil in pupils.items():
            if progress >= config.fixed_norm_from:
                pupil.fix_norm()
            grid = points[inputs.shape[-1]]
            losses[variant] = pupil.learn(batch, inputs, grid, taught.get(pupil.learner.teacher), clock.step, now)
        clock.step += 1
        log.add(len(inputs) * (inputs.shape[-1] // config.crops.size) ** 2, waited, losses)
        if clock.step % _REPORT_EVERY == 0 or clock.step == steps:
            log.report(clock, rate)
        if clock.elapsed() - saved_at > _SAVE_EVERY:
            save_run(pupils, clock, out, identity | library.identity())
            saved_at = clock.elapsed()
    save_run(pupils, clock, out, identity | library.identity())
    say(f"done: {clock.step} steps in {clock.elapsed():.0f} s")


def open_library(config: TogetherConfig, say: Callable[[str], None], tell: Callable[[str], None]) -> PackLibrary:
    """Prepare the packs that are there, and open them. Raises ValueError where none can be read."""
    began = time.monotonic()
    packs, cache = Path(config.packs), Path(config.cache)
    for pack in sorted(packs.glob("*.zip")):
        try:
            prepare_pack(pack, cache, tell)
        except ValueError as error:
            tell(f"{error}; left out")
    library = PackLibrary(packs, cache, config.shares, config.doubt, config.doubt_from)
    library.take_in_new(at_once=True)
    if not len(library):
        raise ValueError(f"{packs}: no packs there")
    say(f"{len(library):,} photos ready after {time.monotonic() - began:.0f} s")
    return library
