"""How many frames of a video are searched."""

from dataclasses import dataclass

LONGEST = 10
"""Of so many frames one at least is searched."""

_AUTO = 5


@dataclass(frozen=True)
class Spacing:
    """Which frames are searched.

    Args:
        frames: Every how many frames, 1 to `LONGEST`. Frames beside a cut, interlaced ones, and those of another shape than the
            first one are searched too.
        closer: Whether to search frames between two searched ones until each face can be followed from one to the other.

    Raises:
        ValueError: There is no such spacing.
    """

    frames: int = 1
    closer: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= LONGEST:
            raise ValueError(f"every must be within 1-{LONGEST}. Received: {self.frames}")

    @classmethod
    def of(cls, text: str) -> "Spacing":
        """A number of frames, or "auto". Raises ValueError if it is neither."""
        if text == "auto":
            return cls(_AUTO, True)
        if not (text.isascii() and text.isdecimal() and len(text) < 5):
            raise ValueError(f"every must be a number of frames or auto. Received: {text}")
        return cls(int(text))

    def settings(self) -> dict[str, str]:
        """What a report and a journal say of it: nothing where every frame is searched."""
        return {} if self == EVERY_FRAME else {"every": "auto" if self.closer else str(self.frames)}


EVERY_FRAME = Spacing()
"""The default."""
