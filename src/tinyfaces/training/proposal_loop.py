"""Training of the proposal network: the loop, to be read from top to bottom.

tinyfaces train proposals --config configs/accurate.toml
torchrun --nproc-per-node 4 -m tinyfaces train proposals --config configs/accurate.toml
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.context import rescore_by_neighbours
from tinyfaces.detection.decoding import find_faces
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.training.batches import StepBatch, as_input, batches_from, large_batch
from tinyfaces.training.cache import ImageCache
from tinyfaces.training.checkpoints import fitting, load_network, read_state, save_atomically
from tinyfaces.training.losses import (
    Points,
    ProposalLoss,
    distillation_loss,
    make_points,
    mirrored_outputs,
    proposal_loss,
)
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork
from tinyfaces.training.optimisers import (
    MovingAverage,
    make_optimisers,
    set_learning_rate,
    set_mode,
    step_all,
    warmup_and_cosine,
)
from tinyfaces.training.processes import Process, join_processes
from tinyfaces.training.resuming import (
    keep_weights,
    photos_of,
    remembers_its_run,
    require_same_run,
    require_steps_left,
    settings_of,
    weights_of,
)
from tinyfaces.training.run_log import REPORT_EVERY, RunLog
from tinyfaces.training.settings import Config
from tinyfaces.training.shared_norm import share_norms
from tinyfaces.training.sources import open_sources

Forward = Callable[[Tensor], list[Tensor]]

_TRIAL_STEPS = 3
_MAY_CHANGE = (
    "steps", "out", "cache", "bfloat16", "channels_last", "compile", "threads", "workers", "save_every", "evaluate_every",
)  # fmt: skip
"""Settings that may be others when a run is resumed: its length, places, and what depends on the machine."""
_COMPARED_BY_CONTENT = ("train", "dev", "relabelled", "start", "teacher")


def train(config: Config, resume: bool = True, tell: Callable[[str], None] | None = None) -> None:
    """Run a training to its last step; go on from `out/last.pt` if it is there and `resume` is set.

    Writes last.pt and best.pt (by dev AP), log.jsonl, config.json and TensorBoard's files under `config.out`.

    best.pt holds the averaged weights that had the highest AP on the same `evaluate_images` photos of the dev split, over the
    whole run.

    Args:
        config: the run.
        resume: False begins anew.
        tell: takes, in the first process, a line about each photo that cannot be read and is left out; None: standard error.

    Raises:
        ValueError: a batch can't be shared by the processes, photos, annotations or weights cannot be used, or last.pt is of a
            run with other settings or photos.
    """
    with join_processes(config.threads) as process:
        process.require_divisible("batch", config.batch)
        if config.large_every:
            process.require_divisible("the number of large crops of a step", large_batch(config))
        torch.manual_seed(config.seed)
        torch.backends.cudnn.benchmark = True  # all crops have one of two sizes
        run = ProposalRun(config, process)
        saved = read_state(run.last, process.device) if resume else None
        require_same_run(saved, settings_that_stay(config), run.last)  # before photos are decoded for nothing
        require_steps_left(saved, config.steps, run.last)
        photos = open_photos(config, process, tell or _tell)
        run.identity = settings_that_stay(config) | photos.identity
        require_same_run(saved, run.identity, run.last)
        if process.leader and not remembers_its_run(saved):
            _tell(f"{run.last}: of an earlier version, so that its settings and photos cannot be compared")
        if saved is None:
            run.clear()
        else:
            run.resume(saved)
        forward = as_run(run.network, config, process.world > 1)
        teacher = open_teacher(config, process)
        batches = batches_from(
            photos.images, photos.cache, photos.weights, config, run.step, process.rank, process.world, process.device
        )
        with RunLog(config, run.out, run.step, run.seconds, process.leader) as log:
            if run.step < config.steps:  # a finished run has nothing to compile
                log.say(estimate(run, forward, len(photos.dev_images)))
            else:
                log.say(f"{run.last}: finished, all {config.steps:,} steps are taken")
            began_at, window = run.step, list[ProposalLoss]()
            while run.step < config.steps:
                set_learning_rate(run.optimisers, learning_rate(run.step, config))
                fetched = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - fetched
                if teacher is not None and batch.taught is None:
                    with torch.no_grad(), run.autocast:
                        batch.taught = teacher(as_input(batch.crops, config))
                window.append(run.learn(batch, forward))
                log.advance(waited)

                finished = run.step == config.steps
                if run.step % REPORT_EVERY == 0 or finished:
                    report(run, window, log)
                    window = []
                measured = run.step % config.evaluate_every == 0 or finished
                if process.leader and measured:
                    measure(run, photos, log)
                if process.leader and (run.step % config.save_every == 0 or measured):
                    run.save(log.seconds)
            if process.leader and began_at < config.steps:
                measure_best(run, photos, log)


def learning_rate(step: int, config: Config) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine down to `final_lr`."""
    return warmup_and_cosine(step, config.steps, config.warmup, config.final_lr)


def settings_that_stay(config: Config) -> dict[str, Any]:
    """What must be the same when a run is resumed, its photos aside."""
    weights = {"start": weights_of(config.start), "teacher": weights_of(config.teacher)}
    return settings_of(config, _MAY_CHANGE + _COMPARED_BY_CONTENT) | weights


@dataclass(frozen=True)
class Photos:
    """Photos to train on, with how often each is drawn (N,), and those to measure on; and the pixels of both."""

    images: list[AnnotatedImage]
    weights: npt.NDArray[np.float64]
    cache: ImageCache
    dev_images: list[AnnotatedImage]
    dev_cache: ImageCache

    @property
    def identity(self) -> dict[str, str]:
        """What must be the same when a run is resumed."""
        none = np.zeros(0)
        return {"training photos": photos_of(self.images, self.weights), "dev photos": photos_of(self.dev_images, none)}


def open_photos(config: Config, process: Process, tell: Callable[[str], None]) -> Photos:
    """Read the annotations and open the caches of decoded photos; the leader makes them where there are none yet.

    Photos that cannot be read are told and left out.
    """
    if not process.leader:
        process.wait_for_all()  # the leader decodes first
    tell = tell if process.leader else _silent
    images, weights, cache = open_sources(config.train, Path(config.cache), tell, config.relabelled)
    dev_images, _, dev_cache = open_sources(config.dev, Path(config.cache), tell)
    if process.leader:
        process.wait_for_all()
    return Photos(images, weights, cache, dev_images, dev_cache)


def _tell(line: str) -> None:
    print(f"tinyfaces: {line}", file=sys.stderr)


def _silent(line: str) -> None:
    pass


class ProposalRun:
    """A run's state: the network, the moving average of its weights, optimisers, and how far it has come.

    Attributes:
        step: steps taken.
        best: the highest AP so far on those dev photos that are measured on the way.
        identity: what the checkpoint remembers of the run (see `require_same_run`).
        seconds: what the run had taken when it was last saved.
    """

    def __init__(self, config: Config, process: Process) -> None:
        self.config, self.process = config, process
        self.out = Path(config.out)
        self.last, self.best_weights = self.out / "last.pt", self.out / "best.pt"
        keep_weights([config.start, config.teacher], [self.last, self.best_weights])
        self.out.mkdir(parents=True, exist_ok=True)
        network = network_to_train(config).to(process.device)
        if config.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if process.world > 1:
            share_norms(network)
        self.network = network
        self.average = MovingAverage(network, config.ema)
        self.optimisers = make_optimisers(network, config.muon_lr, config.adamw_lr, config.weight_decay, config.optimiser)
        sizes = {config.crops.size, config.large_crops.size}
        self.points = {size: make_points(size, size, process.device) for size in sizes}
        self.autocast: AbstractContextManager[Any] = nullcontext()
        if config.bfloat16:
            self.autocast = torch.autocast(process.device.type, torch.bfloat16)
        self.step, self.best, self.seconds = 0, -1.0, 0.0
        self.identity: dict[str, Any] = {}

    @property
    def fixed_norm(self) -> bool:
        """Whether the normalisations keep their statistics at this step."""
        return self.step >= self.config.steps - self.config.fixed_norm_steps

    def learn(self, batch: StepBatch, forward: Forward) -> ProposalLoss:
        """Take one step: forward, losses, backward, update. Gives the loss against the labels."""
        config = self.config
        mirrored = self.step % config.echo % 2 == 1
        crops = batch.crops.mirrored() if mirrored else batch.crops
        inputs = as_input(crops, config)
        points = self.points[inputs.shape[-1]]
        set_mode(self.network, self.fixed_norm)
        with self.autocast:
            outputs = forward(inputs)
        loss = proposal_loss(outputs, points, crops.boxes, crops.owners, crops.ignored)
        (loss.total + self._taught_loss(outputs, batch.taught, mirrored, points)).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        step_all(self.optimisers)
        self.average.update(self.step)
        self.step += 1
        return ProposalLoss(loss.total.detach(), loss.classification.detach(), loss.box.detach(), loss.positives)

    def _taught_loss(self, outputs: list[Tensor], taught: list[Tensor] | None, mirrored: bool, points: Points) -> Tensor | float:
        if taught is None:
            return 0.0
        target = mirrored_outputs(taught) if mirrored else taught
        return self.config.teacher_weight * distillation_loss(outputs, target, points)

    def save(self, seconds: float) -> None:
        """Write last.pt, from which the run can go on."""
        state = {
            "network": self.network.state_dict(), "average": self.average.network.state_dict(), "variant": self.config.variant,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step, "best": self.best, "seconds": seconds, "run": self.identity,
        }  # fmt: skip
        save_atomically(state, self.last)

    def save_best(self) -> None:
        """Write best.pt: the averaged weights alone."""
        state = {"average": self.average.network.state_dict(), "variant": self.config.variant, "step": self.step}
        save_atomically(state, self.best_weights)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what last.pt holds. Raises ValueError where that does not fit."""
        with fitting(self.last):
            self.network.load_state_dict(state["network"])
            self.average.network.load_state_dict(state["average"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        if not self.best_weights.exists():
            self.best = -1.0

    def clear(self) -> None:
        """Begin anew: an earlier run's checkpoints in the folder are not this one's."""
        if self.process.leader:
            for file in (self.last, self.best_weights):
                file.unlink(missing_ok=True)


def network_to_train(config: Config) -> ProposalNetwork:
    """A new network of the variant, or the one that `config.start` holds. Raises ValueError with one line that names the file
    where that cannot be read or is of another variant."""
    if not config.start:
        return ProposalNetwork(VARIANTS[config.variant])
    network, variant = load_network(Path(config.start))
    if variant != config.variant:
        raise ValueError(f"{config.start}: weights of {variant}, not of {config.variant}")
    return network.train()


def as_run(network: nn.Module, config: Config, shared: bool) -> Forward:
    """The network as the loop calls it: averaging gradients over processes where it is `shared`, compiled where asked for."""
    wrapped: nn.Module = DistributedDataParallel(network) if shared else network
    return torch.compile(wrapped, dynamic=False) if config.compile else wrapped


def open_teacher(config: Config, process: Process) -> Forward | None:
    """The network whose outputs are targets too, where there is one."""
    if not config.teacher:
        return None
    teacher = load_network(Path(config.teacher))[0].to(process.device).requires_grad_(False)
    if config.channels_last:
        teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.compile(teacher, dynamic=False) if config.compile else teacher


def report(run: ProposalRun, window: Sequence[ProposalLoss], log: RunLog) -> None:
    """Log the means over the steps since the last report."""
    classification, box, positives = np.mean(
        [[float(loss.classification), float(loss.box), loss.positives] for loss in window], axis=0
    )
    numbers = {"classification": classification, "box": box, "positives": positives}
    numbers |= log.pace(len(window) * run.config.batch)
    numbers["learning_rate"] = learning_rate(run.step - 1, run.config)
    log.write(run.step, numbers, f"{numbers['crops_per_second']:.1f} crops/s, loss {classification:.3f} + {box:.3f}")


def measure(run: ProposalRun, photos: Photos, log: RunLog) -> None:
    """Log AP on `evaluate_images` photos of the dev split, the same ones each time, and keep the weights if they are the best."""
    began = time.monotonic()
    count = len(photos.dev_images)
    chosen = np.unique(np.linspace(0, count - 1, min(count, run.config.evaluate_images)).astype(int)).tolist()
    result = evaluate(run.average.network, photos.dev_images, photos.dev_cache, chosen, run.process.device)
    log.write(run.step, {f"ap {name}": band.ap for name, band in result.items()})
    if not result["all"].ap <= run.best:  # photos without faces give NaN: then the last weights are kept
        run.best = result["all"].ap
        run.save_best()
    log.pause(time.monotonic() - began)


def measure_best(run: ProposalRun, photos: Photos, log: RunLog) -> None:
    """Log AP of best.pt on the whole dev split."""
    network = load_network(run.best_weights)[0].to(run.process.device)
    count = len(photos.dev_images)
    result = evaluate(network, photos.dev_images, photos.dev_cache, range(count), run.process.device)
    log.write(run.step, {f"best ap {name}": band.ap for name, band in result.items()})
    log.say(f"{run.best_weights}: AP {result['all'].ap:.3f} on {count:,} dev photos")


@torch.no_grad()
def evaluate(
    network: nn.Module, images: Sequence[AnnotatedImage], cache: ImageCache, indices: Sequence[int], device: torch.device
) -> dict[str, coco.BandResult]:
    """AP by face height over photos at original size, single scale.

    Args:
        network: a proposal network.
        images, cache: photos with known faces, and their pixels.
        indices: which of them to measure on.
        device: where the network is.

    Returns:
        The result of each band of face heights.
    """
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


def estimate(run: ProposalRun, forward: Forward, dev_photos: int) -> str:
    """A line that says how long the run will take here, from a trial that leaves the network as it was."""
    config, process = run.config, run.process
    blank = torch.zeros(config.batch // process.world, 3, config.crops.size, config.crops.size, device=process.device)
    if config.channels_last:
        blank = blank.contiguous(memory_format=torch.channels_last)
    set_mode(run.network, run.fixed_norm)
    with run.autocast:
        trial = seconds_a_step(forward, run.network, blank)
    left = config.steps - run.step
    return (
        f"{left:,} steps of {config.batch} crops, {config.batch / trial:.1f} crops/s on this machine:"
        f" about {duration(left * trial)}, plus measuring on {dev_photos:,} photos"
    )


def seconds_a_step(forward: Forward, network: nn.Module, inputs: Tensor) -> float:
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
