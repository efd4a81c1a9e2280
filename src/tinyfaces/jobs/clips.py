"""What is done with a whole video: faces are found, followed, counted and masked. Memory does not grow with its length."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.files import replacing
from tinyfaces.jobs.bulk import overlapped
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.fields import one_face_each
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.tracking import TrackedFaces, Tracker
from tinyfaces.jobs.video import VideoReader
from tinyfaces.jobs.video_writer import VideoWriter

Advance = Callable[[int], None]


class Clip:
    """The faces of a video, frame by frame.

    Args:
        video: Just opened.
        detector: Shared by the workers.
        workers: How many threads search frames at once.
        advance: Called with the number of frames that are done.
        cover: The score from which a detection begins a track. One with a lower score only continues a track. If None, the
            detector's threshold.
    """

    def __init__(
        self, video: VideoReader, detector: Detector, workers: int, advance: Advance, cover: CoverThreshold | None = None
    ) -> None:
        self.video = video
        self._detector = detector
        self._workers = workers
        self._advance = advance
        self._cover = CoverThreshold.of(detector.threshold) if cover is None else cover
        self._tracker = Tracker(video.rate, self._cover)
        self.frames = self.faces = self.max_faces = 0

    @property
    def tracks(self) -> int:
        """How many faces were told apart up to now."""
        return self._tracker.tracks_so_far

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with its faces, in pixels of the first frame, while threads search the next ones."""
        waiting: deque[av.VideoFrame] = deque()
        found = overlapped(self.video.frames(on_packet), self._detect, self._workers)
        for frame, faces in found:
            waiting.append(frame)
            settled = self._tracker.push(faces, float(frame.time or 0))
            if settled is not None:
                yield waiting.popleft(), self._counted(settled)
        for settled in self._tracker.finish():
            yield waiting.popleft(), self._counted(settled)

    def results(self) -> Iterator[TrackedFaces]:
        """The faces of each frame, in its own pixels."""
        first = self.video.shape
        for frame, settled in self.follow():
            shape = self.video.shape_of(frame)
            faces = Faces(first.boxes_in(shape, settled.faces.boxes), settled.faces.scores)
            masks = first.boxes_in(shape, settled.masks)
            yield replace(settled, faces=faces, masks=masks, size=shape.size)

    def summary(self) -> dict[str, Any]:
        """Numbers for a report: width, height, frames, faces (in all frames together), max_faces (in one frame), tracks (faces
        told apart)."""
        return {
            "width": self.video.shape.width, "height": self.video.shape.height, "frames": self.frames,
            "faces": self.faces, "max_faces": self.max_faces, "tracks": self.tracks,
        }  # fmt: skip

    def _detect(self, frame: av.VideoFrame) -> Faces:
        lowest = self._cover.lowest
        faces = [self._detector.detect(picture, threshold=lowest) for picture in self.video.pictures(frame)]
        found = one_face_each(faces) if len(faces) > 1 else faces[0]
        return Faces(self.video.shape_of(frame).boxes_in(self.video.shape, found.boxes), found.scores)

    def _counted(self, settled: TrackedFaces) -> TrackedFaces:
        self.frames += 1
        self.faces += len(settled.faces)
        self.max_faces = max(self.max_faces, len(settled.faces))
        self._advance(1)
        return settled


@dataclass(frozen=True)
class Written:
    """What a masked video lacks beside the faces.

    Args:
        left_out: Kinds of what was not copied, such as "tags".
        losses: What the encoded picture lacks, such as "transparency".
    """

    left_out: list[str]
    losses: list[str]


def write_masked(clip: Clip, target: Path, style: MaskStyle, *, quality: int, keep_metadata: bool) -> Written:
    """Write a video again with its faces masked. Its `problem` says where only a part of it could be read.

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
    return Written(writer.left_out, writer.losses)
