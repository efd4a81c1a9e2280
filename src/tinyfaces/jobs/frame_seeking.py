"""Any frame of a video, by way of the keyframe before it."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from tinyfaces.jobs.video import VideoError, VideoReader

KEPT_PIXELS = 40_000_000
"""Of frames in memory."""

_ATTEMPTS = 3  # keyframes that are tried, each before the last one
_READ_ON = 50  # frames that are read rather than sought


class FrameSeeker:
    """Gives frames in any order. Neighbours come faster, as some frames are kept. One thread at a time may use it.

    Frames are told by their times. Where a file has times that do not lead to its frames, it is read from its start.

    Args:
        path: The video.
        times: Of all frames, in the video's ticks, as `VideoReader.frames` gives them.
        keyframes: The numbers of those that are decoded without others.
        kept: So many pixels of frames are kept, and one frame at least.

    Raises:
        VideoError: The video cannot be read.
    """

    def __init__(self, path: Path, times: Sequence[int], keyframes: Sequence[int], kept: int = KEPT_PIXELS) -> None:
        self.video = VideoReader(path)
        self._most_kept = kept
        self._numbers = {time: number for number, time in enumerate(times)}
        self._times = times
        self._keyframes = list(keyframes) or [0]
        self._kept: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._reading: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next = -1  # number of the frame that comes next from it, -1 for none
        self._seekable = True

    def close(self) -> None:
        """Close the file."""
        self.video.container.close()

    def frame(self, number: int) -> av.VideoFrame:
        """A copy of a frame, by its number from 0. Raises VideoError."""
        if number not in self._kept:
            self._read_to(number)
        self._kept.move_to_end(number)
        return copied(self._kept[number])

    def _read_to(self, number: int) -> None:
        place = max(0, bisect_right(self._keyframes, number) - 1)
        near = number - self._next <= _READ_ON or self._keyframes[place] < self._next
        if 0 <= self._next <= number and near and self._read_on(number):
            return
        for attempt in range(_ATTEMPTS if self._seekable else 0):
            self._reading = self._sought(self._keyframes[max(0, place - attempt)])
            if self._read_on(number):
                return
        self._seekable = False
        self._reading = self._from_start()
        if not self._read_on(number):
            raise VideoError(f"{self.video.path}: frame {number} cannot be decoded")

    def _read_on(self, number: int) -> bool:
        """Read up to a frame; whether it came."""
        for found, frame in self._reading:
            self._next = found + 1
            if found > number:
                break
            self._keep(found, frame)
            if found == number:
                return True
        self._next = -1
        return False

    def _keep(self, number: int, frame: av.VideoFrame) -> None:
        self._kept[number] = frame
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and len(self._kept) * frame.width * frame.height > self._most_kept:
            self._kept.popitem(last=False)

    def _sought(self, keyframe: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from a keyframe on, as long as their times are known and they are whole."""
        stream, container = self.video.stream, self.video.container
        try:
            container.seek(self._times[keyframe], stream=stream)
            for frame in container.decode(stream):
                number = -1 if frame.pts is None else self._numbers.get(frame.pts, -1)
                if number < 0 or frame.is_corrupt:
                    return
                if number >= keyframe:  # those shown before it may need frames that were not decoded
                    yield number, frame
        except (FFmpegError, OSError, ValueError):
            return

    def _from_start(self) -> Iterator[tuple[int, av.VideoFrame]]:
        with VideoReader(self.video.path) as reader:
            yield from enumerate(reader.frames())


def copied(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame with pixels of its own, so that they may be changed; with its time and colours, and nothing else. A frame with a
    palette, which is always converted before, is given as it is."""
    if frame.format.has_palette:
        return frame
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for mine, theirs in zip(copy.planes, frame.planes, strict=True):
        rows = [np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in (mine, theirs)]
        height, width = (min(sides) for sides in zip(rows[0].shape, rows[1].shape, strict=True))
        rows[0][:height, :width] = rows[1][:height, :width]
    copy.pts, copy.time_base = frame.pts, frame.time_base
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
