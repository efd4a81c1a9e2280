"""Bounds on what all requests together hold in memory: beyond them, uploads are refused, and pictures wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class MemoryFull(Exception):
    """There is no room for more uploads in memory."""


class HeldBytes:
    """Counts the bytes of all uploads in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """One request's share, which is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
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
        """Hold a part of it."""
        amount = min(amount, self._total)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
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
