"""The server around the application: it listens, bounds how long connections may dawdle, and stops gracefully."""

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinyfaces.service.limits import Limits

MOST_CONNECTIONS = 1000
"""At once; further ones get 503."""

_GRACE_SECONDS = 5.0
_SEND_SECONDS = 120.0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def serve(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first."""
    config = uvicorn.Config(
        app,
        http=_impatient(limits.receive_seconds + _GRACE_SECONDS),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.answer_seconds + _GRACE_SECONDS),
    )
    uvicorn.Server(config).run([listening])


def _impatient(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which would wait forever for the rest of a request, or for a client to read an answer."""

    class Impatient(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._receiving = self.loop.call_later(seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            state = self.conn.their_state
            arriving = state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))
            if arriving and self._receiving is None:
                self._receiving = self.loop.call_later(seconds, self.transport.abort)
            elif not arriving:
                self._receiving = _stopped(self._receiving)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending = _stopped(self._sending) or self.loop.call_later(_SEND_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._sending = _stopped(self._sending)

        def connection_lost(self, exc: Exception | None) -> None:
            self._receiving, self._sending = _stopped(self._receiving), _stopped(self._sending)
            super().connection_lost(exc)

    return Impatient


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
