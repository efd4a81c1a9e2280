"""Dynamic batching: pictures that arrive while the network is busy run together once it is free."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.views import Scale
from tinyfaces.service.memory import uses

BATCH_IMAGES = 8
BATCH_PIXELS = 2_000_000
"""Larger batches are no faster on a CPU, and keep the small pictures in them waiting."""


@dataclass(frozen=True)
class Engine:
    """A model, ready to run.

    Args:
        alone: Uses all processor threads for one batch, which answers soonest while nothing else runs.
        shared: Uses one processor thread for each batch. Batches that run side by side get more done that way, as their threads
            never wait for each other.
    """

    alone: Detector
    shared: Detector

    @property
    def threshold(self) -> float:
        """The score from which a detection counts as a face by default."""
        return self.alone.threshold


class QueueFull(Exception):
    """No more requests may wait for their answer."""


@dataclass(eq=False)
class _Job:
    engine: Engine
    pixels: Pixels
    threshold: float
    scale: Scale | None
    result: asyncio.Future[Faces]
    over: asyncio.Future[None]  # done once no thread has the pixels

    def fits(self, other: "_Job") -> bool:
        return (self.engine, self.threshold, self.scale) == (other.engine, other.threshold, other.scale)


@dataclass
class DetectionQueue:
    """Pictures wait here for the network. Use it within `async with queue.running()`.

    Args:
        capacity: How many requests may have a place at once.
        lanes: How many batches run at once, each in a thread.
        observe_batch: Called with the size of each batch.
    """

    capacity: int
    lanes: int
    observe_batch: Callable[[int], Any] = lambda size: None
    taken: int = field(default=0, init=False)
    _busy: int = field(default=0, init=False)
    _waiting: deque[_Job] = field(default_factory=deque, init=False)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)

    @property
    def waiting(self) -> int:
        """How many pictures no thread has started with yet."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raises QueueFull if no place is free."""
        if self.taken >= self.capacity:
            raise QueueFull

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, from arrival to answer. Raises QueueFull."""
        self.check_room()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def detect(self, engine: Engine, pixels: Pixels, threshold: float, scale: Scale | None) -> Faces:
        """The faces in a picture HxWx3. A cancelled call gives up its place in the next batch."""
        loop = asyncio.get_running_loop()
        job = _Job(engine, pixels, threshold, scale, loop.create_future(), loop.create_future())
        uses().add(job.over)
        job.result.add_done_callback(lambda result: self._drop(job))
        self._waiting.append(job)
        async with self._arrived:
            self._arrived.notify()
        return await job.result

    def _drop(self, job: _Job) -> None:
        """A job is answered or given up; if it still waits, nothing is done for it."""
        if job in self._waiting:
            self._waiting.remove(job)
            job.over.set_result(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the threads at work; at the end, batches under way are finished."""
        with ThreadPoolExecutor(self.lanes, "network") as threads:
            workers = [asyncio.create_task(self._work(threads)) for _ in range(self.lanes)]
            try:
                yield
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, threads: ThreadPoolExecutor) -> None:
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._waiting)
                batch = self._next_batch()
            if not batch:
                continue
            self.observe_batch(len(batch))
            alone = not self._busy and not self._waiting
            self._busy += 1
            try:
                found = await asyncio.get_running_loop().run_in_executor(threads, _detect_each, batch, alone)
            finally:
                self._busy -= 1
                for job in batch:
                    job.over.set_result(None)
            for job, faces in zip(batch, found, strict=True):
                if job.result.done():
                    continue
                if isinstance(faces, Exception):
                    job.result.set_exception(faces)
                else:
                    job.result.set_result(faces)

    def _next_batch(self) -> list[_Job]:
        """The job that has waited longest, and others like it: as many as fit a batch and leave work for the other threads.
        Cancelled jobs are dropped."""
        batch: list[_Job] = []
        left: deque[_Job] = deque()
        pixels = 0
        waiting = [job for job in self._waiting if not job.result.done()]
        for job in self._waiting:
            if job.result.done():
                job.over.set_result(None)
        limit = min(BATCH_IMAGES, -(-len(waiting) // self.lanes))
        for job in waiting:
            size = job.pixels.shape[0] * job.pixels.shape[1]
            room = not batch or (len(batch) < limit and pixels + size <= BATCH_PIXELS and job.fits(batch[0]))
            (batch if room else left).append(job)
            pixels += size if room else 0
        self._waiting = left
        return batch


def _detect_each(batch: list[_Job], alone: bool) -> list[Faces | Exception]:
    """The faces of each picture, or why it failed: one picture is no reason for others to fail."""
    try:
        return [*_detect(batch, alone)]
    except Exception as error:  # whatever it is, the service continues
        if len(batch) == 1:
            return [error]
    return [one for job in batch for one in _detect_each([job], alone)]


def _detect(batch: list[_Job], alone: bool) -> list[Faces]:
    first = batch[0]
    detector = first.engine.alone if alone else first.engine.shared
    return detector.detect([job.pixels for job in batch], threshold=first.threshold, scale=first.scale)
