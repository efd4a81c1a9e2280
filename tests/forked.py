"""Processes for tests of trainings, forked from one that has imported torch: each would take some seconds to import it."""

import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import torch

START_METHOD, FORK = ("forkserver", "fork") if sys.platform == "linux" else ("spawn", "spawn")
multiprocessing.set_forkserver_preload(
    ["cv2", "onnx", "pytest", "torch", "torch._dynamo", "torch.distributed.run", "torch.utils.tensorboard", "typer.testing",
     "tinyfaces.cli", "tinyfaces.training.proposal_loop", "tinyfaces.training.second_stage_loop"]
)  # fmt: skip


def start_processes(count: int, function: Callable[..., None], *arguments: Any) -> torch.multiprocessing.ProcessContext:
    """Start processes that call `function(rank, *arguments)`."""
    return torch.multiprocessing.start_processes(function, arguments, nprocs=count, join=False, start_method=START_METHOD)


def wait_for(running: torch.multiprocessing.ProcessContext) -> None:
    """Wait until all have ended; raises what the first that failed has raised, or says by which signal it was ended."""
    while not running.join():
        pass
