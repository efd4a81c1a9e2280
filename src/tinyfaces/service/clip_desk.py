"""The videos of a running review: the search ahead in a thread, the frames shown, the changes, and the writing of each."""

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.bulk import as_text, described
from tinyfaces.jobs.clips import Advance
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.frame_seeking import KEPT_PIXELS
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.review_store import FaceState
from tinyfaces.jobs.reviewed_videos import search_video, write_video
from tinyfaces.jobs.video import VideoReader
from tinyfaces.jobs.video_store import Box, DrawnFace, Key, ReviewedVideo, TrackState, VideoStore
from tinyfaces.service.clip_views import ClipView
from tinyfaces.service.review_lines import queue_line
from tinyfaces.service.review_views import LOSSLESS_FRAME, Region, encoded

_TOLD_EVERY = 0.3  # seconds, of the progress of a search
_CROP_SIDE = 64  # pixels of a track's picture
_CROP_MARGIN = 0.4  # around the face, relative to its sides
_CROPS = 4000  # kept in memory, about 2 KB each
_NONE = np.zeros((0, 4), np.float32)


class Stopped(Exception):
    """The review ends before some work is done."""


@dataclass(frozen=True)
class ClipTask:
    """A video to review.

    Args:
        file: The video.
        target: The file it is written to.
    """

    file: InputFile
    target: Path


class ClipDesk:
    """The videos of a review at work. Any thread may use it, between `start` and `stop`.

    Args:
        videos: What is kept of them.
        detector: Finds faces.
        tasks: The videos, by their numbers in the review.
        masking: How faces are covered, and what else of a video stays.
        quality: See `VideoWriter`.
        noted: Called with the number of a video whose line in the queue changes.
        busy: Whether the detector is needed for something else first.
    """

    def __init__(
        self,
        videos: VideoStore,
        detector: Detector,
        tasks: Mapping[int, ClipTask],
        masking: Masking,
        quality: int,
        noted: Callable[[int], object],
        busy: Callable[[], bool],
    ) -> None:
        self._videos = videos
        self._detector = detector
        self._tasks = tasks
        self._masking = masking
        self._quality = quality
        self._noted = noted
        self._busy = busy
        self._changes = threading.Condition()
        self._ending = False
        self._wanted: list[int] = []
        self._progress: dict[int, tuple[int, int | None]] = {}
        self._shown, self._small = _Place(KEPT_PIXELS), _Place(1)
        self._crops: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._searching = threading.Thread(target=self._search_ahead, name="review videos", daemon=True)

    def __contains__(self, number: int) -> bool:
        return number in self._tasks

    def start(self) -> None:
        """Begin to search the videos."""
        self._searching.start()

    def stop(self) -> None:
        """End what is under way: the search, which goes on from there next time, and the writing of a video."""
        with self._changes:
            self._ending = True
            self._changes.notify_all()
        if self._searching.is_alive():
            self._searching.join()
        for place in (self._shown, self._small):
            place.empty()

    def entry(self, number: int) -> dict[str, Any]:
        """A video's line in the queue. Raises KeyError."""
        task = self._tasks[number]
        entered = self._videos.store.photo(number)
        done, total = self._progress.get(number, (0, None))
        line = {**queue_line(entered, task.file), "kind": "video"}
        if entered.problem is not None or entered.size is None:
            state = "waiting" if entered.problem is None else "problem"
            counts = dict.fromkeys(("found", "added", "taken_away", "moved", "left_clear", "covered"), 0)
            return {**line, "state": state, "done": done, "frames": total, **counts}
        decided, warning = self._videos.decided(number), self._videos.warning(number)
        found, added, clear = len(self._videos.track_numbers(number)), len(decided.added), len(decided.clear)
        return {
            **line, "state": "found", "found": found, "added": added, "taken_away": clear, "moved": 0, "left_clear": 0,
            "covered": found + added - clear, "warning": None if warning is None else as_text(warning),
        }  # fmt: skip

    def want(self, number: int) -> None:
        """Search a video next, without waiting for anything else. Raises KeyError."""
        if number not in self._tasks:
            raise KeyError(number)
        with self._changes:
            if number not in self._wanted:
                self._wanted.insert(0, number)
            self._changes.notify_all()

    def video(self, number: int) -> tuple[ReviewedVideo, list[float]]:
        """A searched video, and the seconds of its frames. Raises KeyError where it is not searched."""
        return self._videos.video(number), [seconds for _, seconds, _ in self._videos.times(number)]

    def faces(self, number: int, first: int, last: int) -> list[list[tuple[float, ...]]]:
        """Of each of the frames what was found there: x1, y1, x2, y2, its track or the two of which it may be either's, and
        whether the face is seen (1) or about to come or just gone (0)."""
        return [
            [
                (*map(_short, box), one, other, int(place < frame.faces))
                for place, (box, (one, other)) in enumerate(zip(frame.masks.tolist(), frame.tracks.tolist(), strict=True))
            ]
            for frame in self._videos.frames(number, first, last)
        ]

    def picture(self, number: int, frame: int, covered: bool, region: Region | None = None) -> tuple[bytes, str]:
        """A frame or a part of it, as it is or as it will be written, and the media type. Raises KeyError, VideoError."""
        found = next(self._videos.frames(number, frame, frame), None)
        if found is None:
            raise KeyError(frame)
        masks = self._videos.decided(number).masks(found) if covered else _NONE
        return encoded(self._picture(self._shown, number, frame, masks), region, LOSSLESS_FRAME)

    def crop(self, number: int, track: int) -> bytes:
        """A small JPEG of the face of a track where it was found best. Raises KeyError, VideoError."""
        known = self._crops.get((number, track))
        if known is None:
            found = self._videos.track(number, track)
            known = _crop(self._picture(self._small, number, found.best, _NONE), found.box)
            with self._changes:
                self._crops[number, track] = known
                while len(self._crops) > _CROPS:
                    self._crops.popitem(last=False)
        return known

    def still(self, number: int) -> Pixels:
        """The frame that stands for a video in the queue. Raises KeyError, VideoError."""
        path = self._tasks[number].file.path
        if self._videos.store.photo(number).size is not None:
            return self._picture(self._small, number, self._videos.frame_count(number) // 3, _NONE)
        with VideoReader(path) as video:
            return video.pictures(next(video.frames()))[0]

    def change(
        self, number: int, edition: int, tracks: Mapping[int, TrackState], drawn: Sequence[tuple[int, FaceState, Sequence[Key]]]
    ) -> None:
        """Change what becomes of tracks, by their numbers, and drawn faces: number, state and key frames of each.

        Raises KeyError, Outdated, and ValueError for a track or frame that the video does not have.
        """
        known, frames = self._videos.track_numbers(number), self._videos.frame_count(number)
        faces = [DrawnFace(face, state, keys) for face, state, keys in drawn]
        if set(tracks) - known or any(face.keys[-1][0] >= frames for face in faces):
            raise ValueError("there is no such track or frame")
        self._videos.change(number, edition, tracks, faces)
        self._noted(number)

    def write(self, number: int, advance: Advance) -> Mapping[str, Any]:
        """Write a video. advance: called with the number of frames that are done. Raises what `write_video` does, and Stopped."""

        def go_on(frames: int) -> None:
            if self._ending:
                raise Stopped
            advance(frames)

        task = self._tasks[number]
        return write_video(self._videos, number, task.target, self._masking, self._quality, go_on)

    def frames(self, number: int) -> int:
        """How many frames a searched video has."""
        return self._videos.frame_count(number)

    def changed_since(self, number: int) -> None:
        """Search a video anew, as its file has changed."""
        self._videos.store.forget(number)
        for place in (self._shown, self._small):
            place.empty()
        with self._changes:
            self._progress.pop(number, None)
            for key in [key for key in self._crops if key[0] == number]:
                del self._crops[key]
        self.want(number)

    def _picture(self, place: "_Place", number: int, frame: int, masks: npt.NDArray[np.float32]) -> Pixels:
        with place.lock:
            if place.view is None or place.number != number:
                place.drop()
                times = self._videos.times(number)
                keyframes = [count for count, (_, _, keyframe) in enumerate(times) if keyframe]
                ticks = [time for time, _, _ in times]
                task = self._tasks[number]
                place.view = ClipView(
                    task.file.path, ticks, keyframes, task.target.suffix.lower(), self._masking, place.kept
                )  # fmt: skip
                place.number = number
            return place.view.picture(frame, masks)

    def _search_ahead(self) -> None:
        """Search all videos that are not searched yet, those first that somebody waits for."""
        waiting = list(self._tasks)
        while True:
            with self._changes:
                self._changes.wait_for(lambda: self._ending or self._wanted or waiting)
                if self._ending:
                    return
                asked = bool(self._wanted)
                number = self._wanted.pop(0) if asked else waiting.pop(0)
            entered = self._videos.store.photo(number)
            if entered.size is not None or entered.problem is not None:
                continue
            try:
                search_video(self._videos, number, self._detector, self._follower(number, asked))
            except Stopped:
                return
            except _Later:
                waiting.insert(0, number)
                continue
            except Exception as error:  # whatever a video raises, it is that video's alone
                self._videos.store.failed(number, as_text(described(error, entered.path)))
            self._noted(number)

    def _follower(self, number: int, asked: bool) -> Callable[[int, int | None], None]:
        """What is told how far the search of a video is; it ends the search where something else comes first. asked: whether
        somebody waits for this video."""
        told = time.monotonic()

        def progress(done: int, expected: int | None) -> None:
            nonlocal told, asked
            self._progress[number] = (done, expected)
            if time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                self._noted(number)
            with self._changes:
                if number in self._wanted:
                    self._wanted.remove(number)
                    asked = True
                while not self._ending and not asked and not self._wanted and self._busy():
                    self._changes.wait(_TOLD_EVERY)
                if self._ending:
                    raise Stopped
                if self._wanted:
                    raise _Later

        return progress


class _Place:
    """Where one video at a time is open. `lock` is held by whoever uses it. kept: see `ClipView`."""

    def __init__(self, kept: int) -> None:
        self.lock = threading.Lock()
        self.kept = kept
        self.number = 0
        self.view: ClipView | None = None

    def drop(self) -> None:
        """Close the video."""
        if self.view is not None:
            self.view.close()
        self.view = None

    def empty(self) -> None:
        """Close the video once nobody uses it."""
        with self.lock:
            self.drop()


class _Later(Exception):
    """Another video is to be searched before this one."""


def _crop(pixels: Pixels, box: Box) -> bytes:
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1) * (0.5 + _CROP_MARGIN)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    image = Image.fromarray(pixels).crop((round(x - side), round(y - side), round(x + side) + 1, round(y + side) + 1))
    content = io.BytesIO()
    image.resize((_CROP_SIDE, _CROP_SIDE), Image.Resampling.BICUBIC).save(content, "JPEG", quality=80)
    return content.getvalue()


def _short(side: float) -> float:
    return round(side, 2)
