"""What a request may ask of the service."""

from dataclasses import dataclass

MAX_MEGAPIXELS = 175
"""Pillow refuses larger pictures."""


@dataclass(frozen=True)
class Limits:
    """How much a request, and all of them together, may ask of the service.

    Args:
        megabytes: Size of an upload.
        megapixels: Size of a picture, also after scaling.
        queue: Requests that are accepted but not yet answered; further ones get 429.
        receive_seconds: Time in which a request must arrive.
        answer_seconds: Time from then to the answer.
        held_megabytes: Size of all uploads in memory.
        held_megapixels: Size of all decoded pictures in memory; a single picture may be larger.
        boxes: Number of boxes in a request.
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
        """Bytes of an upload."""
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Pixels of a picture."""
        return int(self.megapixels * 1e6)
