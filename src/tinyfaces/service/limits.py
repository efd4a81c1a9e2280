"""What the service allows a request."""

from dataclasses import dataclass

MAX_MEGAPIXELS = 175
"""Pillow itself refuses larger pictures."""


@dataclass(frozen=True)
class Limits:
    """How much a request, and all of them together, may ask of the service.

    megabytes: of an upload. megapixels: of a picture, and of what the network sees of it after scaling.
    queue: requests accepted and not yet answered; the next ones get 429. receive_seconds: until a request must have
    arrived. answer_seconds: from then to the answer. held_megabytes: of all uploads in memory. held_megapixels: of
    all decoded pictures in memory, a single larger one excepted. boxes: in one request.
    """

    megabytes: float = 32
    megapixels: float = 50
    queue: int = 64
    receive_seconds: float = 30
    answer_seconds: float = 60
    held_megabytes: float = 512
    held_megapixels: float = 100
    boxes: int = 20_000

    @property
    def bytes(self) -> int:
        """Of an upload."""
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return int(self.megapixels * 1e6)
