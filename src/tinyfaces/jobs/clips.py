"""What is done with a whole video: its faces found and followed, covered, counted. Memory does not grow with its length."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

from tinyfaces.detection.detector import Detector
from tinyfaces.files import replacing
from tinyfaces.jobs.bulk import Pool, overlapped
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.tracking import TrackedFaces, Tracker
from tinyfaces.jobs.video import Packet, VideoReader, VideoWriter

Advance = Callable[[int], None]


class Clip:
    """The faces of a video, frame by frame.

    frames, faces, tracks: how many there were, once `follow` is through; most: the most faces in one frame.
    """

    def __init__(self, video: VideoReader, detectors: Pool[Detector], threshold: float, advance: Advance) -> None:
        self.video = video
        self._detectors = detectors
        self._advance = advance
        self._tracker = Tracker(video.rate, threshold)
        self.frames = self.faces = self.most = 0

    @property
    def tracks(self) -> int:
        return self._tracker.tracks_so_far

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with its faces; detectors are at work on the next ones meanwhile."""
        waiting: deque[av.VideoFrame] = deque()
        found = overlapped(self.video.frames(on_packet), self._detect, self._detectors.size)
        for frame, faces in found:
            waiting.append(frame)
            settled = self._tracker.push(faces, float(frame.time or 0))
            if settled is not None:
                yield waiting.popleft(), self._counted(settled)
        for settled in self._tracker.finish():
            yield waiting.popleft(), self._counted(settled)

    def summary(self) -> dict[str, Any]:
        """width, height, frames, faces (in all frames together), most (in one frame), tracks (faces told apart)."""
        return {
            "width": self.video.width, "height": self.video.height, "frames": self.frames,
            "faces": self.faces, "most": self.most, "tracks": self.tracks,
        }  # fmt: skip

    def _detect(self, frame: av.VideoFrame) -> Any:
        pixels = self.video.upright(frame)
        return self._detectors.call(lambda detector: detector.detect(pixels))

    def _counted(self, settled: TrackedFaces) -> TrackedFaces:
        self.frames += 1
        self.faces += len(settled.faces)
        self.most = max(self.most, len(settled.faces))
        self._advance(1)
        return settled


def write_masked(clip: Clip, target: Path, covering: MaskStyle, *, quality: int, keep_metadata: bool) -> list[str]:
    """Write a video again with its faces covered; gives what was left out of the file.

    Raises VideoError and OSError; the video's `problem` says where only a part could be read.
    """
    with (
        replacing(target) as partial,
        VideoWriter(partial, target.suffix.lower(), clip.video, quality=quality, keep_metadata=keep_metadata) as writer,
    ):
        for frame, settled in clip.follow(writer.copy):
            writer.write(frame, settled.covers, covering)
    return writer.left_out
