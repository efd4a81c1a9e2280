"""Work on many photos in several processes, each started afresh: by spawn, which is the same on every system.

A fork would copy locks that other threads hold, such as that of a logger, and wait for them forever.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from tinyfaces.detection.runtime import usable_cpus

START_METHOD = "spawn"
_STANDING_BACK = 10  # levels of niceness

Result = TypeVar("Result")


def map_in_processes(
    function: Callable[..., Result], *arguments: Iterable[Any], workers: int | None = None, chunksize: int = 8
) -> Iterator[Result]:
    """`map`, in several processes and in order.

    Args:
        function: of a module, so that the processes can import it.
        arguments: one iterable for each argument.
        workers: processes; as many as cores if left out. One works in this process.
        chunksize: how many calls a process gets at a time.

    Yields:
        What the function returns.
    """
    workers = usable_cpus() if workers is None else workers
    if workers == 1:
        yield from map(function, *arguments)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(START_METHOD)) as pool:
        yield from pool.map(function, *arguments, chunksize=chunksize)


def crop_worker(worker: int, stand_back: bool = True) -> None:
    """Begin a process that makes crops: one thread, and, with `stand_back`, behind the threads of the network, which all wait
    when one of them is interrupted."""
    import cv2
    import torch

    if stand_back and hasattr(os, "nice"):  # not on Windows
        os.nice(_STANDING_BACK)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
