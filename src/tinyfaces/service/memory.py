"""Bounds on what all requests together hold in memory: beyond them, uploads are refused, and pictures wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any


class MemoryFull(Exception):
    """There is no room for more uploads in memory."""


class Uses:
    """What works for one request in threads, also after the request is given up. Until all of it has ended, the request holds its
    share of the memory."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Future[Any]] = set()
        self._afterwards: list[Callable[[], None]] = []

    def add(self, work: asyncio.Future[Any]) -> None:
        """Wait for this work too. Nobody may cancel the future as long as the work goes on."""
        self._under_way.add(work)
        work.add_done_callback(self._end)

    def when_over(self, act: Callable[[], None]) -> None:
        """Act as soon as nothing works for the request any more."""
        if self._under_way:
            self._afterwards.append(act)
        else:
            act()

    def _end(self, work: asyncio.Future[Any]) -> None:
        self._under_way.discard(work)
        if not self._under_way:
            acts, self._afterwards = self._afterwards, []
            for act in acts:
                act()


_of_request: ContextVar[Uses] = ContextVar("uses")


def uses() -> Uses:
    """Those of the request that is being answered."""
    known = _of_request.get(None)
    if known is None:
        known = Uses()
        _of_request.set(known)
    return known


class HeldBytes:
    """Counts the bytes of all uploads in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """One request's share, which is given back once nothing works for the request any more."""
        share, working = Share(self), uses()
        try:
            yield share
        finally:
            working.when_over(lambda: self._give_back(share))

    def _give_back(self, share: "Share") -> None:
        self.held -= share.bytes


class Share:
    """What one request holds of all uploads in memory."""

    def __init__(self, whole: HeldBytes) -> None:
        self._whole = whole
        self.bytes = 0

    def add(self, number: int) -> None:
        """Hold more bytes. Raises MemoryFull if there is no room for them."""
        if self._whole.held + number > self._whole.limit:
            raise MemoryFull
        self._whole.held += number
        self.bytes += number


class Budget:
    """An amount that all share. Who asks for a part waits in line until it is free; who asks for more than all gets all."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def held(self, amount: int) -> AsyncIterator[None]:
        """Hold a part of it, until nothing works for the request any more."""
        amount, working = min(amount, self._total), uses()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                working.when_over(lambda: self._give_back(amount))
            self._grant()

    @property
    def held_now(self) -> int:
        """How much of it is held."""
        return self._total - self._free

    def _give_back(self, amount: int) -> None:
        self._free += amount
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.done():
                if amount > self._free:
                    return
                self._free -= amount
                turn.set_result(None)
            self._waiting.popleft()
