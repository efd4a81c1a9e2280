"""What a run leaves behind: averaged weights, checkpoints that are never half-written, and its numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one, whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def log(out: Path, writer: SummaryWriter, step: int, seconds: float, numbers: Mapping[str, float]) -> None:
    """Append a line to log.jsonl and the same numbers to TensorBoard."""
    with (out / "log.jsonl").open("a") as file:
        rounded = {name: round(float(value), 5) for name, value in numbers.items()}
        file.write(json.dumps({"step": step, "seconds": round(seconds, 1), **rounded}) + "\n")
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the network's, faster in the first steps; counters and statistics too."""
    pace = 1 - min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    values = [pair for pair in pairs if pair[0].is_floating_point()]
    if values:  # bilinear enlargement has none
        torch._foreach_lerp_([kept for kept, _ in values], [new for _, new in values], pace)
    for kept, new in pairs:
        if not kept.is_floating_point():
            kept.copy_(new)
