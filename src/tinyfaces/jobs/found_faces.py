"""What was found in the frames of a video that are searched already."""

import threading
from collections.abc import Callable, Mapping

from tinyfaces.detection.faces import Faces


class FoundFaces:
    """The faces of frames by their times, so that none is searched twice. Any thread may use it.

    Args:
        known: Those found before, by the time of their frame in the video's ticks.
    """

    def __init__(self, known: Mapping[int, Faces]) -> None:
        self._known = known
        self._new: dict[int, Faces] = {}
        self._lock = threading.Lock()

    def of(self, time: int, search: Callable[[], Faces]) -> Faces:
        """The faces of a frame, which is searched if it was not yet."""
        known = self._known.get(time)
        if known is None:
            known = search()
            with self._lock:
                self._new[time] = known
        return known

    def take_new(self) -> dict[int, Faces]:
        """Those that were added since this was called last. They are not kept."""
        with self._lock:
            new, self._new = self._new, {}
        return new
