"""What the service counts, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one application.

    Args:
        taken: Gives the number of requests that are accepted but not yet answered.
        waiting: Gives the number of pictures that wait for the network.
        held: Gives the bytes of all uploads in memory.
    """

    def __init__(self, taken: Callable[[], float], waiting: Callable[[], float], held: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("tinyfaces_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "tinyfaces_request_seconds", "Time from a request's first line to its answer.", ["path"],
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self.faces = Counter("tinyfaces_faces", "Faces found.", registry=self._registry)
        self.pixels = Counter("tinyfaces_pixels", "Pixels searched for faces.", registry=self._registry)
        self.batch_images = Histogram(
            "tinyfaces_batch_images", "Pictures that ran together.", registry=self._registry, buckets=(1, 2, 4, 8)
        )
        for name, text, value in (
            ("tinyfaces_queue_taken", "Requests accepted and not yet answered.", taken),
            ("tinyfaces_queue_waiting", "Pictures that wait for the network.", waiting),
            ("tinyfaces_upload_bytes_held", "Bytes of uploads in memory.", held),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def as_text(self) -> bytes:
        """All counters, in Prometheus' text format."""
        return generate_latest(self._registry)

    def watching(self, app: ASGIApp) -> ASGIApp:
        """The application, with its answers counted."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun = time.perf_counter()
            status = 500

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                path = getattr(scope.get("route"), "path", "other")  # one series for whatever else is asked for
                self._requests.labels(path, str(status)).inc()
                self._seconds.labels(path).observe(time.perf_counter() - begun)

        return watched
