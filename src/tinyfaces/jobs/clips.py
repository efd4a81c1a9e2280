"""What is done with a whole video: faces are found, followed, counted and masked. Memory does not grow with its length."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import av

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.files import replacing
from tinyfaces.jobs.bulk import overlapped
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.encoders import EncoderChoice
from tinyfaces.jobs.fields import one_face_each
from tinyfaces.jobs.found_faces import FoundFaces
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.searched_frames import Planned, filled, planned
from tinyfaces.jobs.selection import ALL, Selection
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing
from tinyfaces.jobs.tracking import TrackedFaces, Tracker
from tinyfaces.jobs.video import VideoReader
from tinyfaces.jobs.video_writer import VideoWriter
from tinyfaces.jobs.writing_thread import WritingThread

Advance = Callable[[int], None]


class FollowedClip(Protocol):
    """A video whose faces are known frame by frame: a `Clip`, or one whose boxes are given."""

    video: VideoReader

    def follow(self, on_packet: Callable[[Packet], None] = ...) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with its faces, in pixels of the first frame."""
        ...


class Clip:
    """The faces of a video, frame by frame.

    Args:
        video: Just opened.
        detector: Shared by the workers.
        workers: How many threads search frames at once.
        advance: Called with the number of frames that are done.
        cover: The score from which a detection begins a track. One with a lower score only continues a track. If None, the
            detector's threshold.
        selection: Which faces are of interest. The others are followed, and left out.
        spacing: Which frames are searched. In the others faces are followed.
        found: Frames that were searched before, which are not searched again. Those that are searched are added.
    """

    def __init__(
        self,
        video: VideoReader,
        detector: Detector,
        workers: int,
        advance: Advance,
        cover: CoverThreshold | None = None,
        selection: Selection = ALL,
        spacing: Spacing = EVERY_FRAME,
        found: FoundFaces | None = None,
    ) -> None:
        self.video = video
        self._detector = detector
        self._workers = workers
        self._advance = advance
        self._cover = CoverThreshold.of(detector.threshold) if cover is None else cover
        self._tracker = Tracker(video.rate, self._cover)
        self._selection = selection
        self._spacing = spacing
        self._found = found
        self._clear: dict[int, str] = {}
        self.frames = self.searched = self.faces = self.max_faces = 0
        self._followed: dict[int, FollowedFace] = {}
        self._covered: set[int] = set()

    @property
    def tracks(self) -> int:
        """How many of the faces told apart up to now are of interest, in some frames at least."""
        return len(self._covered)

    @property
    def problem(self) -> str | None:
        """What is wrong, in one line, once all frames are done: only a part of the video could be read, or it does not have a
        track that the selection names."""
        missing = self._selection.missing_tracks(self._followed)
        if not missing:
            return self.video.problem
        named = f"has no track{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        return f"{self.video.path}: {named}" if self.video.problem is None else f"{self.video.problem}; {named}"

    @property
    def left_clear(self) -> dict[str, int]:
        """How many of the faces told apart were left out, in all frames or in some, for each reason."""
        return dict(Counter(self._clear.values()))

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with its faces, in pixels of the first frame, while threads search the next ones."""
        waiting: deque[av.VideoFrame] = deque()
        frames = planned(self.video, self.video.frames(on_packet), self._spacing)
        # Every searched frame keeps one thread busy; one more is at hand when one is done.
        found = overlapped(frames, self._search, self._workers, most=(self._workers + 1) * self._spacing.frames)
        for one in filled(found, lambda one: self._detect(one.frame), self._spacing, self._workers):
            waiting.append(one.frame)
            settled = self._tracker.push(one.faces, float(one.frame.time or 0), searched=one.searched, found=one.found)
            if settled is not None:
                yield waiting.popleft(), self._counted(settled)
        for settled in self._tracker.finish():
            yield waiting.popleft(), self._counted(settled)

    def results(
        self,
        on_packet: Callable[[Packet], None] = lambda packet: None,
        on_frame: Callable[[av.VideoFrame, TrackedFaces], None] = lambda frame, settled: None,
    ) -> Iterator[TrackedFaces]:
        """The faces of each frame, in its own pixels. `on_frame` is called with what `follow` gives, and may change it."""
        first = self.video.shape
        for frame, settled in self.follow(on_packet):
            shape = self.video.shape_of(frame)
            on_frame(frame, settled)  # after which nothing of the frame may be read: once it was made writable, PyAV crashes
            faces = Faces(first.boxes_in(shape, settled.faces.boxes), settled.faces.scores)
            masks = first.boxes_in(shape, settled.masks)
            yield replace(settled, faces=faces, masks=masks, size=shape.size)

    def summary(self) -> dict[str, Any]:
        """Numbers for a report: width, height, frames, searched (how many of the frames), faces (in all frames
        together), max_faces (in one frame), tracks (faces told apart)."""
        return {
            "width": self.video.shape.width, "height": self.video.shape.height, "frames": self.frames, "searched": self.searched,
            "faces": self.faces, "max_faces": self.max_faces, "tracks": self.tracks,
        }  # fmt: skip

    def track_list(self) -> list[dict[str, Any]]:
        """The faces told apart, also those left out: track (its number), from and to (seconds), box (in the first frame that
        shows it), and left_clear (why), if it was left out."""
        return [
            {
                "track": number,
                "from": round(face.first, 3),
                "to": round(face.last, 3),
                "box": [round(side, 1) for side in face.box],
            }
            | ({"left_clear": self._clear[number]} if number in self._clear else {})
            for number, face in sorted(self._followed.items())
        ]

    def _search(self, one: Planned) -> Faces:
        return self._detect(one.frame) if one.searched else Faces.empty()

    def _detect(self, frame: av.VideoFrame) -> Faces:
        if self._found is None:
            return self._detect_anew(frame)
        return self._found.of(frame.pts or 0, lambda: self._detect_anew(frame))

    def _detect_anew(self, frame: av.VideoFrame) -> Faces:
        lowest = self._cover.lowest
        faces = [self._detector.detect(picture, threshold=lowest) for picture in self.video.pictures(frame)]
        found = one_face_each(faces) if len(faces) > 1 else faces[0]
        return Faces(self.video.shape_of(frame).boxes_in(self.video.shape, found.boxes), found.scores)

    def _counted(self, settled: TrackedFaces) -> TrackedFaces:
        for track, box in zip(settled.tracks.tolist(), settled.faces.boxes.tolist(), strict=True):
            self._followed.setdefault(track, FollowedFace(settled.time, settled.time, box)).last = settled.time
        settled, clear = self._selection.pick_frame(settled, *self.video.shape.size)
        self._covered.update(settled.tracks.tolist())
        for track, reason in clear.items():
            self._clear.setdefault(track, reason)
        self.frames += 1
        self.searched += settled.searched
        self.faces += len(settled.faces)
        self.max_faces = max(self.max_faces, len(settled.faces))
        self._advance(1)
        return settled


@dataclass
class FollowedFace:
    """A face told apart from others.

    Args:
        first: Time of the first frame that shows it, in seconds.
        last: Time of the last frame that shows it, in seconds.
        box: Where it is in the first one, x1 y1 x2 y2 in pixels.
    """

    first: float
    last: float
    box: list[float]


@dataclass(frozen=True)
class Written:
    """What a masked video lacks beside the faces.

    Args:
        left_out: Kinds of what was not copied, such as "tags".
        losses: What the encoded picture lacks, such as "transparency".
    """

    left_out: list[str]
    losses: list[str]


def write_masked(
    clip: FollowedClip,
    target: Path,
    style: MaskStyle,
    *,
    quality: int,
    keep_metadata: bool,
    picture: CoverPicture | None = None,
    encoder: EncoderChoice | None = None,
) -> Written:
    """Write a video again with its faces masked, and with a picture over each mask if there is one.

    The clip's `problem` says what is wrong with it then.

    Raises:
        VideoError: The video cannot be encoded.
        OSError: The target cannot be written.
    """
    with (
        replacing(target) as unfinished,
        VideoWriter(
            unfinished,
            target.suffix.lower(),
            clip.video,
            quality=quality,
            keep_metadata=keep_metadata,
            picture=picture,
            encoder=encoder,
        ) as writer,
        WritingThread() as thread,
    ):
        for frame, settled in clip.follow(lambda packet: thread.do(partial(writer.copy, packet))):
            thread.do(partial(writer.write, frame, settled.masks, style))
    return Written(writer.left_out, writer.losses)
