"""Videos: frames out of a file, upright for the detector, whatever state the file is in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from tinyfaces.detection.images import Pixels
from tinyfaces.files import missing
from tinyfaces.jobs import fields
from tinyfaces.jobs.bulk import FULL, counted
from tinyfaces.jobs.clocks import Clock, Packet
from tinyfaces.jobs.other_streams import kind_of, open_video
from tinyfaces.jobs.turns import Shape, Turn

_SHORT_BY = 0.5  # seconds that may be missing at the end, compared with the file's header
_INDEX_AT_THE_END = (".mp4", ".m4v", ".mov", ".3gp")
_LUMA_FIRST = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray")
"""Pixel formats whose first plane is the brightness, a byte each."""
_CLOCK_MAY_JUMP = 0x0200  # of a container's flags


class VideoError(ValueError):
    """A video cannot be read or written. The message is one line that names the file."""


class VideoReader:
    """A video file to read once, from its start. Use it in a `with`.

    It has the attributes `shape` (of the first frame), `rate` (average frames per second) and, after reading, `problem` (what was
    wrong with it, or None).

    Args:
        path: The file.

    Raises:
        VideoError: The file is missing or holds no video that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path.absolute())  # as a colon in a relative path would make it a protocol
        self.problem: str | None = None
        if not path.exists():
            raise VideoError(f"{path}: {missing(path)}")
        if path.is_file() and path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty")
        try:
            self.container = open_video(self.location)
        except Exception as error:  # FFmpeg's and whatever else a damaged file leads to
            hint = "; if it is an MP4 that was cut short, its index is lost" if path.suffix.lower() in _INDEX_AT_THE_END else ""
            raise VideoError(f"{path}: cannot be read as a video ({_reason(error)}{hint})") from None
        pictures = [s for s in self.container.streams.video if kind_of(s) == "video" and s.codec_context is not None]
        if not pictures:
            self.container.close()
            raise VideoError(f"{path}: has no video stream that can be decoded")
        self.stream = max(pictures, key=lambda s: s.codec_context.width * s.codec_context.height)  # not the preview of another
        self.stream.thread_type = "AUTO"
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 25)
        self._damaged = 0
        self._last_time = 0.0
        self._read = 0
        self._clock = Clock(bool(self.container.format.flags & _CLOCK_MAY_JUMP))
        self._frames = self._decoded()
        self._ahead: list[tuple[av.VideoFrame | None, Packet | None]] = []
        try:
            first = self._first_frame()
        except VideoError:
            self.container.close()
            raise
        self.matrix = _display_matrix(first)
        self.shape = self.shape_of(first)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def frames_expected(self) -> int | None:
        duration = self._duration()
        return self.stream.frames or (round(duration * self.rate) if duration else None)

    def frames(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[av.VideoFrame]:
        """The frames, in the order they are shown. `on_packet` is called with the packets of the other streams as they come."""
        for frame, packet in self._all():
            if packet is not None:
                on_packet(packet)
            if frame is not None:
                self._read += 1
                yield frame
        self._check_end()

    def shape_of(self, frame: av.VideoFrame) -> Shape:
        """The shape of a frame, which may be another one than that of the first."""
        turn = Turn.of(_display_matrix(frame))
        return Shape(*((frame.height, frame.width) if turn.swap else (frame.width, frame.height)), turn)

    def luma(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8] | None:
        """The grey picture HxW of a frame, upright; None for a frame that faces cannot be followed into: an interlaced one, or
        one of another shape than the first.

        Raises:
            VideoError: The frame cannot be converted.
        """
        shape = self.shape_of(frame)
        if shape != self.shape or frame.interlaced_frame:
            return None
        with naming(self.path, "cannot be converted"):
            grey = _luma(frame)[..., None]
            return None if fields.is_combed(grey) else shape.turn.apply(grey)[..., 0].copy()

    def pictures(self, frame: av.VideoFrame) -> list[Pixels]:
        """What to search for the faces of a frame: HxWx3 RGB, upright. Interlaced frames give three: themselves and their fields.

        Raises:
            VideoError: The frame cannot be converted.
        """
        with naming(self.path, "cannot be converted"):
            pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            turn = Turn.of(_display_matrix(frame))
            found = fields.pictures(pixels) if frame.interlaced_frame or fields.is_combed(pixels) else [pixels]
            return [turn.apply(picture) for picture in found]

    def _first_frame(self) -> av.VideoFrame:
        for frame, packet in self._frames:
            self._ahead.append((frame, packet))
            if frame is not None:
                return frame
        raise VideoError(f"{self.path}: no frame of the video can be decoded")

    def _all(self) -> Iterator[tuple[av.VideoFrame | None, Packet | None]]:
        yield from self._ahead
        self._ahead = []
        yield from self._frames

    def _decoded(self) -> Iterator[tuple[av.VideoFrame | None, Packet | None]]:
        """Frames and other streams' packets, in the file's order; damaged parts are left out."""
        packets = self.container.demux()
        last: int | None = None
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception as error:
                self.problem = f"{self.path}: damaged after {self._last_time:.1f} s ({_reason(error)}); the part before is done"
                packet = None
            if packet is not None:
                self._clock.set(packet)
            if packet is not None and packet.stream is not self.stream:
                if packet.dts is not None or packet.pts is not None:
                    yield None, packet
                continue
            try:
                frames = self.stream.decode(packet)
            except Exception:
                self._damaged += 1
                frames = []
            for frame in frames:
                base = frame.time_base or Fraction(1, 1000)
                step = max(1, round(1 / (self.rate * base)))
                if frame.pts is None or (last is not None and frame.pts <= last):
                    frame.pts = 0 if last is None else last + step
                last = frame.pts
                self._last_time = float(frame.pts * base)
                yield frame, None
            if packet is None:
                return

    def _duration(self) -> float | None:
        """The duration in seconds, as the file's header says."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None

    def _check_end(self) -> None:
        duration = self._duration()
        start = float((self.stream.start_time or 0) * (self.stream.time_base or 0))
        end = self._last_time - self._clock.shift(self.stream.index) + 1 / self.rate - start
        if self.problem is None and duration is not None and duration - end > max(_SHORT_BY, 2 / self.rate):
            self.problem = f"{self.path}: cut short; the first {end:.1f} s of {duration:.1f} s are done"
        if self.problem is None and self._damaged:
            self.problem = f"{self.path}: damaged in {counted(self._damaged, 'place')}; the rest is done"


def _luma(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Brightness HxW of a frame as it is stored: a view of its own plane where that is 8 bits deep, which masks change."""
    if frame.format.name in _LUMA_FIRST:
        plane = frame.planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
    return np.asarray(frame.to_ndarray(format="gray"), np.uint8)


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Turn whatever FFmpeg and its wrapper raise into a VideoError that names the video."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            raise
        raise VideoError(f"{path}: {what} ({_reason(error)})") from None


def _display_matrix(frame: av.VideoFrame) -> npt.NDArray[np.int32] | None:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32)


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split()).lower()
    return text if isinstance(error, FFmpegError | OSError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
