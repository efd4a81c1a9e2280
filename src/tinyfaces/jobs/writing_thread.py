"""Writing in a thread of its own, while the next frames are decoded, searched and followed."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_MOST = 4  # tasks that may wait, which bounds memory: a frame each, at most


class WritingThread:
    """Does one task after another in a thread. Use it in a `with`, at the end of which all are done.

    What a task raises is raised by a later call of `do`, or at the end of the `with`; the tasks after it are left out. If the
    `with` is left by an exception, tasks that have not begun are left out too.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._over = False

    def __enter__(self) -> "WritingThread":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._over = True
            self._thread.shutdown(cancel_futures=True)

    def do(self, task: Callable[[], None]) -> None:
        """Hand over a task. Waits while too many others wait."""
        self._waiting.append(self._thread.submit(self._attempt, task))
        while len(self._waiting) > _MOST or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _attempt(self, task: Callable[[], None]) -> None:
        if self._over:
            return
        try:
            task()
        except BaseException:
            self._over = True
            raise
