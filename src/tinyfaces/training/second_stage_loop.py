"""Training of the second stage, generator and discriminator or a judge alone: the loop, to be read from top to bottom.

    tinyfaces train second-stage --config configs/second_stage.toml

First the generator alone learns to restore (pixel loss), then all play together (paper, section 3.4). A judge is a discriminator
that sees the crop itself (`generator = "none"`).
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tinyfaces.training import losses
from tinyfaces.training.candidate_batches import CandidateBatch, draw, make_batch, make_pools
from tinyfaces.training.candidates import Candidates, read_candidates
from tinyfaces.training.checkpoints import fitting, load_second_stage, read_state, save_atomically
from tinyfaces.training.networks.second_stage_networks import Judgement, make_networks
from tinyfaces.training.optimisers import MovingAverage, set_learning_rate, step_all, warmup_and_cosine
from tinyfaces.training.processes import Process, average_gradients, join_processes
from tinyfaces.training.resuming import (
    arrays_of,
    keep_weights,
    remembers_its_run,
    require_same_run,
    require_steps_left,
    settings_of,
    weights_of,
)
from tinyfaces.training.run_log import REPORT_EVERY, RunLog
from tinyfaces.training.second_stage_measures import collapse, comparison_sheet, evaluate_second_stage, means
from tinyfaces.training.settings import GROUP, SecondStageConfig
from tinyfaces.training.shared_norm import share_norms

_SHOWN = 8  # crops
_FINAL_RATE = 0.01  # of the peak
_MAY_CHANGE = ("steps", "out", "bfloat16", "channels_last", "threads", "save_every", "evaluate_every", "start", "candidates")
"""Settings that may be others when a run is resumed: its length, places, and what depends on the machine; the last two are
compared by their content."""


def train_second_stage(config: SecondStageConfig, resume: bool = True) -> None:
    """Run a training to its last step; go on from `out/last.pt` if it is there and `resume` is set.

    Writes last.pt, log.jsonl, config.json and TensorBoard's files under `config.out`.

    Args:
        config: the run.
        resume: False begins anew.

    Raises:
        ValueError: candidates or weights cannot be used, or last.pt is of a run with other settings or candidates.
    """
    with join_processes(config.threads) as process:
        process.require_divisible(f"a quarter of batch ({config.batch})", config.batch // GROUP)
        torch.manual_seed(config.seed)
        data = read_candidates(Path(config.candidates))
        pools, held = make_pools(data, config)
        shown = make_batch(data, pools.sharp[:: max(1, len(pools.sharp) // _SHOWN)][:_SHOWN], None)
        run = SecondStageRun(config, process)
        run.identity = identity_of(config, data)
        saved = read_state(run.last, process.device) if resume else None
        require_same_run(saved, run.identity, run.last)
        require_steps_left(saved, config.steps, run.last)
        process.wait_for_all()  # nobody looks for last.pt any more
        if saved is not None:
            run.resume(saved)
        elif process.leader:
            run.last.unlink(missing_ok=True)
        mine = share_of_batch(config.batch, process)
        with RunLog(config, run.out, run.step, run.seconds, process.leader) as log:
            if process.leader and not remembers_its_run(saved):
                log.say(f"{run.last}: of an earlier version, so that its settings and candidates cannot be compared")
            if run.step == config.steps:
                log.say(f"{run.last}: finished, all {config.steps:,} steps are taken")
            window: list[dict[str, float]] = []
            while run.step < config.steps:
                set_learning_rate(run.optimisers, learning_rate(run.step, config))
                rng = np.random.default_rng((config.seed, run.step, 1))
                batch = make_batch(data, draw(pools, config, run.step), rng, mine).to(process.device)
                window.append(run.learn(batch))
                log.advance()

                finished = run.step == config.steps
                if run.step % REPORT_EVERY == 0 or finished:
                    report(run, window, log)
                    window = []
                if process.leader and (run.step % config.evaluate_every == 0 or finished):
                    measure(run, data, held, shown, log)
                if process.leader and (run.step % config.save_every == 0 or finished):
                    run.save(log.seconds)


def identity_of(config: SecondStageConfig, data: Candidates) -> dict[str, Any]:
    """What must be the same when a run is resumed."""
    candidates = arrays_of([data.low, data.high, data.target, data.face, data.box, data.photo])
    return settings_of(config, _MAY_CHANGE) | {"start": weights_of(config.start), "candidates": candidates}


def share_of_batch(batch: int, process: Process) -> slice:
    """This process's candidates of a batch: whole groups of four, each with its sharp targets (see `draw`)."""
    share = batch // process.world
    return slice(process.rank * share, (process.rank + 1) * share)


def learning_rate(step: int, config: SecondStageConfig) -> float:
    """Factor of the peak rate."""
    return warmup_and_cosine(step, config.steps, config.warmup, _FINAL_RATE)


class SecondStageRun:
    """A run's state: both networks, the moving averages of their weights, optimisers, and how far it has come.

    Attributes:
        step: steps taken.
        identity: what the checkpoint remembers of the run (see `require_same_run`).
        seconds: what the run had taken when it was last saved.
        restores: whether the generator has anything to learn, and is to learn it.
    """

    def __init__(self, config: SecondStageConfig, process: Process) -> None:
        self.config, self.process = config, process
        self.out = Path(config.out)
        self.last = self.out / "last.pt"
        keep_weights([config.start], [self.last])
        self.out.mkdir(parents=True, exist_ok=True)
        generator, discriminator = make_networks(config.variant, config.generator)
        if config.start:
            started_from = load_second_stage(Path(config.start))
            generator.load_state_dict(started_from[0].state_dict())
            if config.start_discriminator:
                discriminator.load_state_dict(started_from[1].state_dict())
        if process.world > 1:
            share_norms(generator)
            share_norms(discriminator)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.generator = generator.to(process.device, memory_format=layout)  # type: ignore[call-overload]
        self.discriminator = discriminator.to(process.device, memory_format=layout)  # type: ignore[call-overload]
        self.average_generator = MovingAverage(self.generator, config.ema)
        self.average_discriminator = MovingAverage(self.discriminator, config.ema)
        learns = any(parameter.requires_grad for parameter in generator.parameters())
        self.restores = learns and config.generator_every > 0
        self.discriminator_optimiser = _adam(self.discriminator, config.lr)
        self.generator_optimiser = _adam(self.generator, config.lr) if self.restores else None
        self.autocast: AbstractContextManager[Any] = nullcontext()
        if config.bfloat16:
            self.autocast = torch.autocast(process.device.type, torch.bfloat16)
        self.step, self.seconds = 0, 0.0
        self.identity: dict[str, Any] = {}

    @property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """The generator's, where it learns, and the discriminator's."""
        return [*([self.generator_optimiser] if self.generator_optimiser else []), self.discriminator_optimiser]

    @property
    def joint_from(self) -> int:
        """The step from which the discriminator learns: at once where the generator does not."""
        return self.config.pretrain_steps if self.restores else 0

    def learn(self, batch: CandidateBatch) -> dict[str, float]:
        """Take one step: of the generator alone, or of the discriminator and then, now and then, the generator. Gives losses
        and how often the discriminator is right."""
        config = self.config
        joint = self.step >= self.joint_from
        restoring = self.restores and (not joint or self.step % config.generator_every == 0)
        self.generator.train(self.restores)
        self.discriminator.train()
        with self.autocast, torch.set_grad_enabled(restoring):
            enlarged, refined = self.generator(batch.low)
        enlarged, refined = enlarged.float(), refined.float()
        pixel = torch.zeros(())
        if config.generator != "none":
            pixel = losses.pixel_loss(enlarged, refined, batch.high, batch.has_target)
        numbers = {"pixel": pixel.item()}
        if joint:
            numbers |= self._teach_discriminator(batch, refined.detach())
        if restoring:
            numbers |= self._teach_generator(batch, pixel, refined, joint)
        self.average_generator.update(self.step)
        if joint:
            self.average_discriminator.update(self.step - self.joint_from)
        self.step += 1
        with torch.no_grad():
            spread = refined.std(0).mean() / batch.low.std(0).mean().clamp(min=1e-6)
        return {**numbers, "spread": spread.item()}

    def _teach_discriminator(self, batch: CandidateBatch, refined: Tensor) -> dict[str, float]:
        """Faces from the rest, and where the face is; behind a generator also real from generated."""
        config, sharp = self.config, batch.has_target
        with self.autocast:
            judged: Judgement = self.discriminator(refined)
        logits, offsets, wanted, overlap = judged.face.float(), judged.box.float(), batch.box, batch.overlap
        total, numbers = torch.zeros((), device=logits.device), {}
        if config.generator != "none":
            with self.autocast:
                true: Judgement = self.discriminator(batch.high[sharp])
            logits, offsets = torch.cat([logits, true.face.float()]), torch.cat([offsets, true.box.float()])
            wanted, overlap = torch.cat([wanted, batch.box[sharp]]), torch.cat([overlap, batch.overlap[sharp]])
            adversarial = losses.adversarial_loss_of_discriminator(true.real.float(), judged.real.float())
            if config.adversarial:
                total = config.real_fake_weight * adversarial
            with torch.no_grad():
                right = torch.cat([judged.real < 0, true.real > 0]).float().mean().item()
            numbers = {"discriminator": adversarial.item(), "real accuracy": right}
        quality = losses.box_quality(offsets, wanted, overlap)
        face, box = losses.face_loss(logits, quality), losses.refinement_loss(offsets, wanted, overlap)
        (total + face + box).backward()
        average_gradients([self.discriminator])
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), config.clip)
        step_all([self.discriminator_optimiser])
        with torch.no_grad():
            face_right = ((judged.face > 0) == (batch.face > 0)).float().mean().item()
        return {**numbers, "face": face.item(), "box": box.item(), "face accuracy": face_right}

    def _teach_generator(self, batch: CandidateBatch, pixel: Tensor, refined: Tensor, joint: bool) -> dict[str, float]:
        """To restore and, where both learn, to fool the discriminator and to show it faces as faces."""
        config, total, numbers = self.config, pixel, {}
        self.discriminator.requires_grad_(False)
        if joint:
            with self.autocast:
                judged: Judgement = self.discriminator(refined)
            fooling = losses.adversarial_loss_of_generator(judged.real.float())
            offsets = judged.box.float()
            quality = losses.box_quality(offsets, batch.box, batch.overlap)
            total = (
                pixel
                + config.adversarial * fooling
                + config.classification * losses.face_loss(judged.face.float(), quality)
                + config.box * losses.refinement_loss(offsets, batch.box, batch.overlap)
            )
            numbers["adversarial"] = fooling.item()
        total.backward()
        self.discriminator.requires_grad_(True)
        average_gradients([self.generator])
        nn.utils.clip_grad_norm_(self.generator.parameters(), config.clip)
        assert self.generator_optimiser is not None
        step_all([self.generator_optimiser])
        return numbers

    def save(self, seconds: float) -> None:
        """Write last.pt, from which the run can go on and which `export` reads."""
        averages = {"generator": self.average_generator.network, "discriminator": self.average_discriminator.network}
        state = {
            "generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict(),
            "average": nn.ModuleDict(averages).state_dict(),
            "variant": self.config.variant, "parts": self.config.generator,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step, "seconds": seconds, "run": self.identity,
        }  # fmt: skip
        save_atomically(state, self.last)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what last.pt holds. Raises ValueError where that does not fit."""
        averages = {"generator": self.average_generator.network, "discriminator": self.average_discriminator.network}
        with fitting(self.last):
            self.generator.load_state_dict(state["generator"])
            self.discriminator.load_state_dict(state["discriminator"])
            nn.ModuleDict(averages).load_state_dict(state["average"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]


def _adam(network: nn.Module, rate: float) -> torch.optim.Optimizer:
    optimiser = torch.optim.Adam(network.parameters(), rate, (0.9, 0.999))
    for group in optimiser.param_groups:
        group["peak"] = rate
    return optimiser


def report(run: SecondStageRun, window: Sequence[Mapping[str, float]], log: RunLog) -> None:
    """Log the means over the steps since the last report, and whether they look like a collapse."""
    mean = means(window)
    mean["crops_per_second"] = log.pace(len(window) * run.config.batch)["crops_per_second"]
    log.write(run.step, mean, f"{mean['crops_per_second']:.0f} crops/s, pixel {mean['pixel']:.4f}")
    if trouble := collapse(window) if "adversarial" in mean else "":
        log.say(f"step {run.step}: this looks like a collapse: {trouble}")
        log.write(run.step, {"collapse": 1.0})


def measure(run: SecondStageRun, data: Candidates, held: npt.NDArray[np.int64], shown: CandidateBatch, log: RunLog) -> None:
    """Log what both networks do on held-out candidates, and show some restored crops."""
    began = time.monotonic()
    generator, discriminator = run.average_generator.network, run.average_discriminator.network
    log.write(run.step, evaluate_second_stage(generator, discriminator, data, held, run.process.device))
    if run.config.generator != "none":
        sheet = comparison_sheet(generator, shown, run.process.device)
        log.show_image("low, bicubic, SRN, SRN+RN, target", sheet, run.step)
    log.pause(time.monotonic() - began)
