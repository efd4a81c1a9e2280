"""What is done with a whole video: faces are found, followed, counted and masked. Memory does not grow with its length."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.files import replacing
from tinyfaces.jobs.bulk import overlapped
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.tracking import TrackedFaces, Tracker
from tinyfaces.jobs.video import Packet, VideoReader, VideoWriter

Advance = Callable[[int], None]


class Clip:
    """The faces of a video, frame by frame.

    Args:
        video: Just opened.
        detector: Shared by the workers.
        workers: How many threads search frames at once.
        advance: Called with the number of frames that are done.
    """

    def __init__(self, video: VideoReader, detector: Detector, workers: int, advance: Advance) -> None:
        self.video = video
        self._detector = detector
        self._workers = workers
        self._advance = advance
        self._tracker = Tracker(video.rate, detector.threshold)
        self.frames = self.faces = self.max_faces = 0

    @property
    def tracks(self) -> int:
        """How many faces were told apart up to now."""
        return self._tracker.tracks_so_far

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with its faces, while threads search the next ones."""
        waiting: deque[av.VideoFrame] = deque()
        found = overlapped(self.video.frames(on_packet), self._detect, self._workers)
        for frame, faces in found:
            waiting.append(frame)
            settled = self._tracker.push(faces, float(frame.time or 0))
            if settled is not None:
                yield waiting.popleft(), self._counted(settled)
        for settled in self._tracker.finish():
            yield waiting.popleft(), self._counted(settled)

    def summary(self) -> dict[str, Any]:
        """Numbers for a report: width, height, frames, faces (in all frames together), max_faces (in one frame), tracks (faces
        told apart)."""
        return {
            "width": self.video.width, "height": self.video.height, "frames": self.frames,
            "faces": self.faces, "max_faces": self.max_faces, "tracks": self.tracks,
        }  # fmt: skip

    def _detect(self, frame: av.VideoFrame) -> Faces:
        return self._detector.detect(self.video.upright(frame))

    def _counted(self, settled: TrackedFaces) -> TrackedFaces:
        self.frames += 1
        self.faces += len(settled.faces)
        self.max_faces = max(self.max_faces, len(settled.faces))
        self._advance(1)
        return settled


def write_masked(clip: Clip, target: Path, style: MaskStyle, *, quality: int, keep_metadata: bool) -> list[str]:
    """Write a video again with its faces masked. Its `problem` says where only a part of it could be read.

    Returns:
        What was left out of the new file, such as "tags".

    Raises:
        VideoError: The video cannot be encoded.
        OSError: The target cannot be written.
    """
    with (
        replacing(target) as partial,
        VideoWriter(partial, target.suffix.lower(), clip.video, quality=quality, keep_metadata=keep_metadata) as writer,
    ):
        for frame, settled in clip.follow(writer.copy):
            writer.write(frame, settled.masks, style)
    return writer.left_out
