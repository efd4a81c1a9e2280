"""Work on many files: several at once in threads, so that decoding, inference and writing overlap; a journal of what is done."""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tinyfaces.files import too_long
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.journal import Journal, Outcome, Stamp, stamp_of

Item = TypeVar("Item")
Result = TypeVar("Result")

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Codes of errors that say that a disk is full."""

_NO_STAMP: Stamp = (-1, -1)
_AHEAD = 16  # files that each worker may be ahead of the slowest one before it


class DiskFull(ValueError):
    """Nothing more can be written, whichever file it is made of. The message is one line that names what was written."""


def overlapped(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int, ahead: int = 2, most: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Do some work on each item, in threads that are ahead of what is given back.

    Args:
        items: What to work on; taken as needed.
        work: Called with each item, from any of the threads. What it raises is raised here.
        workers: How many threads. With 0 the work is done in this thread.
        ahead: How many results each worker may have waiting, which bounds memory.
        most: How many may wait in all, in place of `ahead`.

    Returns:
        Each item and its result, in order.
    """
    if workers == 0:
        for item in items:
            yield item, work(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                waiting.append((item, threads.submit(work, item)))
                if len(waiting) >= (workers * ahead if most is None else most):
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
) -> Iterator[tuple[InputFile, Outcome]]:
    """Do some work on each file that the journal does not know as done, and record it there.

    A photo that changes meanwhile is done once more. If it changes again, or is a video, the next run with the journal does it.

    Args:
        files: What to work on.
        work: Called with each file, from any of the threads. Whatever it raises is that file's problem, and the others are done
            all the same.
        journal: What is done already, and what is to be recorded. Only this thread uses it.
        workers: See `overlapped`. 0 suits long work that uses threads itself, as an interruption then ends it at once.

    Returns:
        Each file and what came of it, in order.

    Raises:
        DiskFull: There is no space left for results.
        JournalError: The journal cannot be written.
    """

    def attempt(item: tuple[InputFile, bool]) -> tuple[Outcome, Stamp]:
        file, done = item
        if done:
            return Outcome(skipped=True), _NO_STAMP
        stamp = stamp_of(file.path)
        outcome = _attempted(file, work)
        # A photo may still be being copied. A video, which takes long, is left to the next run.
        if outcome.record is not None and not file.is_video and stamp_of(file.path) != stamp:
            stamp = stamp_of(file.path)
            outcome = _attempted(file, work)
        return outcome, stamp

    handed_out = ((file, journal.done(file)) for file in files)
    for (file, done), (outcome, stamp) in overlapped(handed_out, attempt, workers, _AHEAD):
        if not done:
            outcome = _with_what_is_there(outcome)
            if outcome.problem is not None:
                outcome = replace(outcome, problem=as_text(outcome.problem))
            journal.write(file, outcome, stamp)
        yield file, outcome


def _attempted(file: InputFile, work: Callable[[InputFile], Outcome]) -> Outcome:
    """What comes of the work; whatever it raises is the file's problem alone, but for a full disk."""
    try:
        return work(file)
    except Exception as error:
        if getattr(error, "errno", None) in FULL:  # FFmpeg's errors have it too
            what = getattr(error, "strerror", None) or str(error)
            raise DiskFull(f"{file.path}: what is made of it cannot be written ({what.lower()})") from None
        return Outcome(problem=described(error, file.path))


def _with_what_is_there(outcome: Outcome) -> Outcome:
    """The outcome; a problem where something that was made of the file is gone again."""
    for output in outcome.written:
        if not os.path.lexists(output):
            return Outcome(problem=f"{output}: is gone, though it was written")
    return outcome


def described(error: Exception, path: Path) -> str:
    """One line about what went wrong with a file: the file, and the kind of error where its message was not made for people."""
    if isinstance(error, OSError):
        return reason(error, path)
    message = " ".join(str(error).split())
    if isinstance(error, ValueError) and (type(error).__module__.startswith("tinyfaces") or path.name in message):
        return message
    kind = type(error).__name__
    return f"{path}: cannot be done ({kind}: {message})" if message else f"{path}: cannot be done ({kind})"


def as_text(path: object) -> str:
    """A path, or a line that names one, as text, also where its bytes are no UTF-8."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def reason(error: OSError, path: Path) -> str:
    """One line about what could not be read or written; `path` is named where the error names no file."""
    if error.filename is None:
        what = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return what if str(path) in what else f"{path}: {what}"
    why = too_long(Path(os.fsdecode(error.filename))) if isinstance(error, FileNotFoundError) else ""
    return f"{error.filename}: cannot be written ({why or (error.strerror or 'unknown error').lower()})"


def counted(number: int, what: str) -> str:
    """Such as "1 face" and "2 faces"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Stopwatch:
    """Counts items and their pixels, and gives the speed."""

    def __init__(self) -> None:
        self.count = 0
        self.pixels = 0
        self._started = time.monotonic()

    def add(self, count: int, pixels: int) -> None:
        """Count more items, of so many pixels each."""
        self.count += count
        self.pixels += count * pixels

    def line(self, what: str) -> str:
        """The speed, such as "120 images in 9.8 s: 12.2 images/s, 9.6 megapixels/s". what: one of them, such as "image"."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        rates = f"{self.count / seconds:.1f} {what}s/s, {self.pixels / 1e6 / seconds:.1f} megapixels/s"
        return f"{counted(self.count, what)} in {seconds:.1f} s: {rates}"
