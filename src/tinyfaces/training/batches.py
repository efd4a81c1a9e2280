"""What each step of a training learns from: batches of crops, some of large ones, each used in several steps."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.training.cache import ImageCache
from tinyfaces.training.photo_crops import Crop, CropBatch, CropDataset
from tinyfaces.training.settings import Config
from tinyfaces.training.worker_pool import START_METHOD, crop_worker

_USUAL, _LARGE, _NATURAL = range(3)
"""Kinds of crops, by their place in the data set of all."""

_SEED_OF_LARGE, _SEED_OF_NATURAL = 1 << 20, 1 << 21
_ECHO_AFTER = 16  # new batches


@dataclass
class StepBatch:
    """What a step learns from: crops, and the teacher's four maps of them once it was asked."""

    crops: CropBatch
    taught: list[torch.Tensor] | None = None


def batches_from(
    images: Sequence[AnnotatedImage],
    cache: ImageCache,
    weights: np.ndarray,
    config: Config,
    first_step: int,
    rank: int,
    world: int,
    device: torch.device,
) -> Iterator[StepBatch]:
    """This process's share of every step's crops, from `first_step` on, on `device`.

    Of `config.echo` steps one has new crops, each other those of some batches before (see `new_batch_of`).
    """
    waiting = [new_batch_of(step, config) for step in range(first_step, config.steps)]
    first, last = min(waiting, default=0), max(waiting, default=-1)
    number = (last + 1 - first) * config.batch
    kinds = (
        (config.crops, config.seed),
        (config.large_crops, config.seed + _SEED_OF_LARGE),
        (config.natural_crops, config.seed + _SEED_OF_NATURAL),
    )
    dataset: torch.utils.data.ConcatDataset[Crop] = torch.utils.data.ConcatDataset(
        [CropDataset(images, cache, weights, settings, seed, first * config.batch, number) for settings, seed in kinds]
    )
    mine = []
    for new in range(first, last + 1):
        is_large = takes_large_crops(new, config)
        kind = _LARGE if is_large else _NATURAL if takes_natural_crops(new, config) else _USUAL
        share = (large_batch(config) if is_large else config.batch) // world
        start = (new - first) * config.batch + rank * share + number * kind
        mine.append(list(range(start, start + share)))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=mine,
        num_workers=config.workers,
        collate_fn=CropBatch.of,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=crop_worker,
        multiprocessing_context=START_METHOD if config.workers else None,
        pin_memory=device.type == "cuda",
    )
    loaded, known = iter(loader), deque[StepBatch](maxlen=_ECHO_AFTER * (config.echo - 1) + 1)
    reached = first
    for wanted in waiting:
        while reached <= wanted:
            known.append(StepBatch(next(loaded).to(device)))
            reached += 1
        yield known[wanted - reached]


def new_batch_of(step: int, config: Config) -> int:
    """Which of the new batches a step takes: with `echo` 3, steps 60, 61, 62 take 20, 4 and 0 (none is taken before 0)."""
    turn, echo = divmod(step, config.echo)
    return max(0, turn - echo * _ECHO_AFTER)


def takes_large_crops(new: int, config: Config) -> bool:
    """Whether the crops of a new batch are `large_crops`."""
    return config.large_every > 0 and new % config.large_every == config.large_every - 1


def takes_natural_crops(new: int, config: Config) -> bool:
    """Whether the crops of a new batch, if they aren't large ones, are `natural_crops`."""
    return new >= new_batch_of(config.steps - config.natural_steps, config)


def large_batch(config: Config) -> int:
    """How many large crops make a step: about as many pixels as the usual ones have."""
    return max(1, round(config.batch * (config.crops.size / config.large_crops.size) ** 2))


def as_input(batch: CropBatch, config: Config) -> torch.Tensor:
    """The crops as the network takes them."""
    pixels = batch.pixels.permute(0, 3, 1, 2)
    return pixels.float() if config.channels_last else pixels.float().contiguous()
