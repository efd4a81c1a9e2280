"""Work on many photos in several processes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def map_in_processes(
    function: Callable[..., Result], *arguments: Iterable[Any], workers: int | None = None, chunksize: int = 8
) -> Iterator[Result]:
    """`map`, in several processes and in order.

    The processes are started afresh. A fork would copy locks that other threads hold, such as that of a logger, and wait for them
    forever.

    Args:
        function: of a module, so that the processes can import it.
        arguments: one iterable for each argument.
        workers: processes; as many as cores if left out. One works in this process.
        chunksize: how many calls a process gets at a time.

    Yields:
        What the function returns.
    """
    if workers == 1:
        yield from map(function, *arguments)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, *arguments, chunksize=chunksize)
