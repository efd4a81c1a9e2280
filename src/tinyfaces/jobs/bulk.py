"""Work on many files: several at once in threads, so that decoding, inference and writing overlap; a journal of what is done."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.journal import Entry, Journal

Item = TypeVar("Item")
Result = TypeVar("Result")
Tool = TypeVar("Tool")

_AHEAD = 16  # files a worker may be ahead of the slowest before it


@dataclass(frozen=True)
class Outcome:
    """What came of the work on one file. record: for the journal, anything JSON holds; written: the files made of it; problem:
    what was wrong with it, where a part of it could be used."""

    record: dict[str, Any]
    written: Sequence[Path] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Progress:
    """One file dealt with. entry: what came of it; skipped: it was done in an earlier run."""

    file: InputFile
    entry: Entry
    skipped: bool = False


class Pool(Generic[Tool]):
    """Tools, such as detectors, that threads borrow one each."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._free: SimpleQueue[Tool] = SimpleQueue()
        self.size = len(tools)
        for tool in tools:
            self._free.put(tool)

    def call(self, function: Callable[[Tool], Result]) -> Result:
        """The function of a tool that nobody else uses meanwhile."""
        tool = self._free.get()
        try:
            return function(tool)
        finally:
            self._free.put(tool)


def overlapped(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int, ahead: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of `work`, in order, while threads work on the next ones.

    workers: threads; with 0 the work is done in this thread. ahead: results each may have waiting, which bounds memory. What
    `work` raises is raised here.
    """
    if workers == 0:
        for item in items:
            yield item, work(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= workers * ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def process(
    files: Iterable[InputFile], work: Callable[[InputFile], Outcome], journal: Journal, workers: int
) -> Iterator[Progress]:
    """Do the work on each file that the journal doesn't know as done, and record it there; gives the files in order.

    workers: see `overlapped`; 0 for work that is long and threaded itself, so that an interruption ends it at once.
    A ValueError (ImageError is one) or OSError of the work is that file's problem, and the rest goes on.
    """

    def attempt(item: tuple[InputFile, bool]) -> tuple[Entry, Sequence[Path]]:
        file, done = item
        if done:
            return Entry(None, None), ()
        try:
            outcome = work(file)
        except OSError as error:
            return Entry(None, reason(error, file.path)), ()
        except ValueError as error:
            return Entry(None, str(error)), ()
        return Entry(outcome.record, outcome.problem), outcome.written

    # The journal belongs to this thread: what is done is looked up as files are handed out.
    handed_out = ((file, journal.done(file)) for file in files)
    for (file, done), (entry, written) in overlapped(handed_out, attempt, workers, _AHEAD):
        if not done:
            journal.write(file, entry, written)
        yield Progress(file, entry, done)


def reason(error: OSError, path: Path) -> str:
    """One line that says what could not be written or read; path: named where the error names none."""
    if error.filename is None:
        return str(error) if error.strerror is None else f"{path}: {error.strerror}"
    return f"{error.filename}: cannot be written ({(error.strerror or 'unknown error').lower()})"


class Stopwatch:
    """How many of something, and how many pixels, went through in how long."""

    def __init__(self) -> None:
        self.count = 0
        self.pixels = 0
        self._started = time.monotonic()

    def add(self, count: int, pixels: int) -> None:
        """So many more, of so many pixels each."""
        self.count += count
        self.pixels += count * pixels

    def line(self, what: str) -> str:
        """Such as "120 images in 9.8 s: 12.2 images/s, 9.6 megapixels/s"."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        rates = f"{self.count / seconds:.1f} {what}/s, {self.pixels / 1e6 / seconds:.1f} megapixels/s"
        return f"{self.count} {what} in {seconds:.1f} s: {rates}"
