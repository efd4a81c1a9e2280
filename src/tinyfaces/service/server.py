"""The server around the application: it listens, cuts off connections that stall, and stops gracefully."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinyfaces.service.limits import Limits

MAX_CONNECTIONS = 1000
"""Connections at once; further ones get 503."""

_BACKLOG = 2048
_GRACE_SECONDS = 5.0  # more than the application itself allows, which answers with the right code
_SEND_SECONDS = 120.0  # for a client to read its answer


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # On Windows, the usual option would let two services listen on one port.
        alone = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if alone is None else alone, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.listen(_BACKLOG)
    return listening


def run(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests under way and stop."""
    config = uvicorn.Config(
        app,
        http=_deadline_protocol(limits.receive_seconds + _GRACE_SECONDS),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.answer_seconds + _GRACE_SECONDS),
    )
    uvicorn.Server(config).run([listening])


def _deadline_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with deadlines: by itself, it waits forever for a request's end or for a client to read its answer."""

    class DeadlineProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Head and body of an answer are sent one after the other; otherwise the body waits until the head is acknowledged.
            with suppress(OSError):
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._receiving = _Deadline(self.loop, seconds, transport.abort)
            self._sending = _Deadline(self.loop, _SEND_SECONDS, transport.abort)
            self._receiving.start()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            state = self.conn.their_state
            if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
                self._receiving.start()
            else:
                self._receiving.stop()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending.start()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._sending.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._receiving.stop()
            self._sending.stop()
            super().connection_lost(exc)

    return DeadlineProtocol


class _Deadline:
    """Acts unless it is stopped in time. Starting it again while it runs changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]) -> None:
        self._start: Callable[[], asyncio.TimerHandle] = lambda: loop.call_later(seconds, act)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._timer or self._start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
