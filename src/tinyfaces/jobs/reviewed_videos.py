"""Videos of a review: how their faces are found, and how they are written with what was decided."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import av
import numpy as np

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.bulk import as_text
from tinyfaces.jobs.clips import Advance, Clip, write_masked
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.doubts import doubt
from tinyfaces.jobs.found_faces import FoundFaces
from tinyfaces.jobs.journal import stamp_of
from tinyfaces.jobs.reviewed_photos import ChangedSince
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.jobs.video import VideoReader
from tinyfaces.jobs.video_store import Box, FoundFrame, FoundTrack, ReviewedVideo, VideoStore

_SAVED_EVERY = 1.0  # seconds, which a kill may cost of the search


def search_video(videos: VideoStore, number: int, detector: Detector, progress: Callable[[int, int | None], None]) -> None:
    """Find and follow the faces of a video of a review, and record them. What was found before a kill is not searched again.

    Args:
        videos: The review's.
        number: Of the video.
        detector: Finds faces.
        progress: Called with the number of frames that are done and of those expected. If it raises something, the search ends;
            it goes on from there when it is called again.

    Raises:
        VideoError: The video cannot be read.
    """
    path = videos.store.photo(number).path
    stamp = stamp_of(path)
    if stamp != videos.store.photo(number).stamp:
        videos.store.forget(number)
    found = FoundFaces(videos.searched(number))
    tracks = _Tracks()
    done = 0

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        progress(done, video.frames_expected)

    with VideoReader(path) as video:
        clip = Clip(video, detector, 1, advance, videos.store.cover, videos.store.selection, found=found)
        waiting: list[FoundFrame] = []
        saved = time.monotonic()
        try:
            for frame_number, (frame, settled) in enumerate(clip.follow()):
                waiting.append(_found_frame(frame_number, frame, settled))
                tracks.add(frame_number, settled)
                if time.monotonic() - saved >= _SAVED_EVERY:
                    videos.add(number, found.take_new(), waiting)
                    waiting, saved = [], time.monotonic()
        finally:
            videos.add(number, found.take_new(), waiting)
        best = tracks.found()
        faces = Faces(np.array([one.box for one in best]), np.array([one.score for one in best]))
        videos.finish(
            number, stamp, video.shape.size, video.rate, best, doubt(faces, videos.store.cover, *video.shape.size), video.problem
        )


def write_video(
    videos: VideoStore, number: int, target: Path, masking: Masking, quality: int, advance: Advance
) -> Mapping[str, Any]:
    """Write a video with exactly what was decided covered, unless that is done already.

    Args:
        videos: The review's.
        number: Of the video.
        target: Where it is written.
        masking: How faces are covered, and what else of the video stays.
        quality: See `VideoWriter`.
        advance: Called with the number of frames that are done. If it raises something, nothing is written.

    Returns:
        What the report says of it, as JSON can hold it.

    Raises:
        ChangedSince: Its file has changed since its faces were found.
        VideoError: It cannot be read or written.
        OSError: The target cannot be written.
    """
    video = videos.video(number)
    _check_unchanged(video)
    settings = {**masking.settings(), "quality": quality}
    known = video.written
    now = {"edition": video.edition, "settings": settings, "stamp": stamp_of(target)}
    if known is not None and json.loads(json.dumps(now)) == {name: known[name] for name in now}:
        return _report(videos, video, known["facts"])
    with VideoReader(video.path) as reader:
        clip = ReviewedClip(reader, videos, video, advance)
        written = write_masked(
            clip, target, masking.style, quality=quality, keep_metadata=masking.keep_metadata, picture=masking.picture
        )
        facts = {"frames": clip.frames, "removed": written.left_out, "lost": written.losses}
    videos.written(number, video.edition, {**now, "stamp": stamp_of(target), "facts": facts})
    return _report(videos, video, facts)


class ReviewedClip:
    """A video with what was decided about it: a `FollowedClip`.

    Args:
        reader: The video, just opened.
        videos: The review's.
        video: What was decided.
        advance: Called with the number of frames that are done.
    """

    def __init__(self, reader: VideoReader, videos: VideoStore, video: ReviewedVideo, advance: Advance) -> None:
        self.video = reader
        self.frames = 0
        self._videos = videos
        self._reviewed = video
        self._advance = advance

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        """Each frame with what to mask. Raises ChangedSince where the frames are not those that were searched."""
        nothing = Faces.empty()
        known = self._videos.frames(self._reviewed.number)
        for frame, found in zip_longest(self.video.frames(on_packet), known):
            if frame is None or found is None or frame.pts != found.time:
                raise ChangedSince(self._reviewed.path)
            masks = self._reviewed.masks(found)
            yield frame, TrackedFaces(found.seconds, nothing, np.zeros(0, np.int64), np.zeros(0, np.bool_), masks)
            self.frames += 1
            self._advance(1)
        _check_unchanged(self._reviewed)


def _found_frame(number: int, frame: av.VideoFrame, settled: TrackedFaces) -> FoundFrame:
    tracks = np.stack([settled.tracks] * 2, axis=1) if settled.mask_tracks is None else settled.mask_tracks
    return FoundFrame(number, frame.pts or 0, settled.time, frame.key_frame, settled.masks, tracks, len(settled.faces))


class _Tracks:
    """The tracks of the frames that come one after another."""

    def __init__(self) -> None:
        self._tracks: dict[int, FoundTrack] = {}

    def add(self, number: int, settled: TrackedFaces) -> None:
        """Take the next frame."""
        rows = zip(settled.tracks.tolist(), settled.faces.boxes.tolist(), settled.faces.scores.tolist(), strict=True)
        for track, box, score in rows:
            before = self._tracks.get(track)
            if before is None:
                self._tracks[track] = FoundTrack(track, [(number, number)], number, score, box)
                continue
            *earlier, (first, last) = before.spans
            spans = [*earlier, (first, number)] if last == number - 1 else [*before.spans, (number, number)]
            best = (number, score, box) if score > before.score else (before.best, before.score, before.box)
            self._tracks[track] = FoundTrack(track, spans, *best)

    def found(self) -> list[FoundTrack]:
        """All of them, in the order in which they begin."""
        return sorted(self._tracks.values(), key=lambda one: (one.spans[0][0], one.number))


def _report(videos: VideoStore, video: ReviewedVideo, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, added and taken away: tracks with their first and last time in seconds, and drawn faces by key frames."""
    seconds = [seconds for _, seconds, _ in videos.times(video.number)]

    def track(one: FoundTrack) -> dict[str, Any]:
        first, last = one.spans[0][0], one.spans[-1][1]
        times = {"from": round(seconds[first], 3), "to": round(seconds[last], 3)}
        return {"track": one.number, **times, "frame": one.best, "box": _rounded(one.box)}

    added = [
        [{"frame": frame, "time": round(seconds[frame], 3), "box": _rounded(box)} for frame, box in face.keys]
        for face in video.added
    ]
    return {
        "width": video.size[0], "height": video.size[1], "found": len(video.tracks), "added": added,
        "taken_away": [track(one) for one in video.tracks if one.number in video.clear], "moved": [],
        "covered": [track(one) for one in video.tracks if one.number not in video.clear],
        **({"problem": as_text(video.warning)} if video.warning is not None else {}), **facts,
    }  # fmt: skip


def _rounded(box: Box) -> list[float]:
    return [round(side, 3) for side in box]


def _check_unchanged(video: ReviewedVideo) -> None:
    if stamp_of(video.path) != video.stamp:
        raise ChangedSince(video.path)
