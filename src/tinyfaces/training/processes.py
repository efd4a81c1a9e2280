"""The processes of a training, as torchrun begins them: one alone, or several that share each batch."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Process:
    """One of the processes of a training.

    Attributes:
        rank: its number.
        world: how many there are.
        device: what it computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leader(self) -> bool:
        """Whether this is the one that measures, reports and writes."""
        return self.rank == 0

    def require_divisible(self, name: str, count: int) -> None:
        """Raise ValueError where `count` things can't be shared evenly by all processes."""
        if count % self.world:
            raise ValueError(f"{name} is {count}, must be a multiple of the {self.world} processes")

    def wait_for_all(self) -> None:
        """Go on once every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()


@contextmanager
def join_processes(threads: int) -> Iterator[Process]:
    """This process among those of the run (RANK, WORLD_SIZE, LOCAL_RANK of the environment), joined with them until the end.

    threads: of torch, in each process; 0 leaves torch's choice.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if threads:
        torch.set_num_threads(threads)
    if world > 1:
        nccl = device.type == "cuda" and torch.distributed.is_nccl_available()  # which is not on Windows
        torch.distributed.init_process_group("nccl" if nccl else "gloo")
    try:
        yield Process(rank, world, device)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


def share_of_total(value: Tensor, min_total: float = 1.0) -> Tensor:
    """This process's equal share of a total over all processes: what a loss is divided by, so that several processes, whose
    gradients are averaged, learn what one would from all their crops.

    Args:
        value: what this process adds to the total, without gradient.
        min_total: the total is taken as at least this.
    """
    if not several_processes():
        return value.clamp(min=min_total)
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total.clamp(min=min_total) / torch.distributed.get_world_size()


def average_gradients(networks: Sequence[nn.Module]) -> None:
    """Make every process's gradients the mean over all processes."""
    if not several_processes():
        return
    gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def several_processes() -> bool:
    """Whether this process has joined others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
