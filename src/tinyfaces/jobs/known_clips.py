"""Videos whose boxes are given: masked without a detector, or beside what a detector finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.clips import Advance, Clip
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.known_faces import KnownVideo
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.jobs.video import VideoReader


class KnownClip:
    """A video and the boxes to mask in each of its frames: exactly those, neither smoothed nor held.

    Args:
        video: Just opened.
        known: What files say about it.
        advance: Called with the number of frames that are done.
        found: The faces that a detector finds in the same video; None to mask nothing but what is known.
    """

    def __init__(self, video: VideoReader, known: Sequence[KnownVideo], advance: Advance, found: Clip | None = None) -> None:
        self.video = video
        self._known = known
        self._advance = advance
        self._found = found
        self.frames = self.faces = self.max_faces = 0

    @property
    def problem(self) -> str | None:
        """`Clip.problem`, of the faces that were found."""
        return self._found.problem if self._found else self.video.problem

    @property
    def left_clear(self) -> dict[str, int]:
        """`Clip.left_clear` of the faces that were found."""
        return self._found.left_clear if self._found else {}

    def track_list(self) -> list[dict[str, Any]]:
        """`Clip.track_list` of the faces that were found."""
        return self._found.track_list() if self._found else []

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with what to mask, in pixels of the first frame.

        Raises:
            KnownFacesError: What is known contradicts the video.
        """
        frames = self._undetected(on_packet) if self._found is None else self._found.follow(on_packet)
        for number, (frame, settled) in enumerate(frames):
            shape = self.video.shape_of(frame)
            given = [one.masks(self.video.path, number, shape.size) for one in self._known]
            boxes = shape.boxes_in(self.video.shape, np.concatenate([*given]))
            self.frames += 1
            self.faces += len(boxes) + len(settled.faces)
            self.max_faces = max(self.max_faces, len(boxes) + len(settled.faces))
            yield frame, replace(settled, masks=np.concatenate([settled.masks, boxes]))
        for one in self._known:
            one.check_end(self.video.path, self.frames)

    def _undetected(self, on_packet: Callable[[Packet], None]) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        nothing = Faces.empty()
        for frame in self.video.frames(on_packet):
            self._advance(1)
            yield (
                frame,
                TrackedFaces(float(frame.time or 0), nothing, np.zeros(0, np.int64), np.zeros(0, np.bool_), nothing.boxes),
            )

    def summary(self) -> dict[str, Any]:
        """Numbers for a report, as `Clip.summary` gives them."""
        given = sum(len({track for frame in one.frames.values() for track in frame.tracks.tolist()}) for one in self._known)
        return {
            "width": self.video.shape.width, "height": self.video.shape.height, "frames": self.frames,
            "faces": self.faces, "max_faces": self.max_faces, "tracks": given + (self._found.tracks if self._found else 0),
        } | ({"searched": self._found.searched} if self._found else {})  # fmt: skip
