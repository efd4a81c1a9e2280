"""What a run leaves behind: checkpoints that are never half-written, and its numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
