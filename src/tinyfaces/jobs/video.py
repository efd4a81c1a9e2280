"""Videos: frames out of a file, upright for the detector, and into a new one that keeps sound, subtitles, timing and colour."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.stream import Disposition

from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.bulk import FULL
from tinyfaces.jobs.inputs import CONTAINERS
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces

if TYPE_CHECKING:
    Packet: TypeAlias = av.Packet[Any]
else:  # not generic at run time
    Packet = av.Packet

DEFAULT_QUALITY = 18
"""Constant rate factor of the encoder: lower is better, and larger. At 18, differences are hardly visible."""

_ENCODERS = {"hevc": "libx265", "vp8": "libvpx-vp9", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_WEBM_ENCODERS = ("libvpx-vp9", "libsvtav1")
_OPTIONS = {
    "libx264": {"preset": "medium"},
    "libx265": {"preset": "medium", "x265-params": "log-level=error"},
    "libvpx-vp9": {"b:v": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    "libsvtav1": {"preset": "8"},
}
_SHORT_BY = 0.5  # seconds that may be missing at the end, compared with the file's header
_INDEX_AT_THE_END = (".mp4", ".m4v", ".mov", ".3gp")
_KEPT_STREAM_TAGS = ("language", "title")


class VideoError(ValueError):
    """A video cannot be read or written. The message is one line that names the file."""


@dataclass(frozen=True)
class Turn:
    """How stored frames are made upright: exchange x and y, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, matrix: npt.NDArray[np.int32] | None) -> "Turn":
        """The turn of a display matrix (9,), to the nearest right angle."""
        if matrix is None:
            return cls()
        a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
        if abs(a) >= abs(b):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, pixels: Pixels) -> Pixels:
        """Turn a stored frame HxWx3 upright."""
        turned = pixels.transpose(1, 0, 2) if self.swap else pixels
        return np.ascontiguousarray(turned[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1])

    def undo(self, boxes: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) in pixels of the stored frame, given in pixels of the upright one of width x height."""
        x1, y1, x2, y2 = boxes.T
        if self.mirror_x:
            x1, x2 = width - x2, width - x1
        if self.mirror_y:
            y1, y2 = height - y2, height - y1
        return np.stack([y1, x1, y2, x2] if self.swap else [x1, y1, x2, y2], axis=1)


class VideoReader:
    """A video file to read once, from its start. Use it in a `with`.

    It has the attributes `width` and `height` (of the upright picture, in pixels), `rate` (average frames per second) and, after
    reading, `problem` (what was wrong with it, or None).

    Args:
        path: The file.

    Raises:
        VideoError: The file is missing or holds no video that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        if not path.exists():
            raise VideoError(f"{path}: no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty")
        try:
            self.container = av.open(str(path), metadata_errors="ignore")
        except (FFmpegError, OSError, ValueError) as error:
            hint = "; if it is an MP4 that was cut short, its index is lost" if path.suffix.lower() in _INDEX_AT_THE_END else ""
            raise VideoError(f"{path}: cannot be read as a video ({_reason(error)}{hint})") from None
        pictures = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures or pictures[0].codec_context is None:
            self.container.close()
            raise VideoError(f"{path}: has no video stream that can be decoded")
        self.stream = pictures[0]
        self.stream.thread_type = "AUTO"
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 25)
        self._damaged = 0
        self._last_time = 0.0
        self._read = 0
        self._frames = self._decoded()
        self._ahead: list[tuple[av.VideoFrame | None, Packet | None]] = []
        try:
            first = self._first_frame()
        except VideoError:
            self.container.close()
            raise
        self.matrix = _display_matrix(first)
        self.turn = Turn.of(self.matrix)
        sides = (first.width, first.height)
        self.width, self.height = sides[::-1] if self.turn.swap else sides

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

    def upright(self, frame: av.VideoFrame) -> Pixels:
        """A frame as HxWx3 RGB, upright."""
        return self.turn.apply(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))

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
            except (FFmpegError, OSError) as error:
                self.problem = f"{self.path}: damaged after {self._last_time:.1f} s ({_reason(error)}); the part before is done"
                packet = None
            if packet is not None and packet.stream is not self.stream:
                if packet.dts is not None or packet.pts is not None:
                    yield None, packet
                continue
            try:
                frames = self.stream.decode(packet)
            except FFmpegError:
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
        end = self._last_time + 1 / self.rate - start
        if self.problem is None and duration is not None and duration - end > max(_SHORT_BY, 2 / self.rate):
            self.problem = f"{self.path}: cut short; the first {end:.1f} s of {duration:.1f} s are done"
        if self.problem is None and self._damaged:
            self.problem = f"{self.path}: damaged in {self._damaged} places; the rest is done"


class VideoWriter:
    """A new video with the container, timing, rotation, colour, sound and subtitles of another one. Use it in a `with`.

    Args:
        path: The file to write.
        suffix: One of `inputs.CONTAINERS`.
        source: The other video, open for reading.
        quality: See `DEFAULT_QUALITY`.
        keep_metadata: Keep data streams and tags such as place, date and camera. Cover art and further video streams are always
            left out, as nothing masks them.

    Raises:
        VideoError: Something cannot be written to this container.
    """

    def __init__(
        self, path: Path, suffix: str, source: VideoReader, *, quality: int = DEFAULT_QUALITY, keep_metadata: bool = False
    ) -> None:
        self._source = source
        kind = CONTAINERS[suffix]
        web = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
        self._container: Any = av.open(str(path), "w", format=kind, options=web)
        self.left_out: list[str] = []
        self._copies: dict[int, Any] = {}
        stream: Any = source.stream
        encoder = _encoder(stream.codec_context.codec.canonical_name, kind)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        options = _OPTIONS[encoder] | {"crf": str(quality)}
        os.environ.setdefault("SVT_LOG", "1")  # the only way to make the AV1 encoder report errors only
        self._stream = cast(Any, self._container.add_stream(encoder, rate=rate, options=options))
        context: Any = self._stream.codec_context
        original: Any = stream.codec_context
        context.width, context.height = original.width, original.height
        context.pix_fmt = self._format = _pixel_format(original.pix_fmt, context.codec)
        context.time_base = self._stream.time_base = stream.time_base  # keeps the times of a variable frame rate
        if original.sample_aspect_ratio:
            context.sample_aspect_ratio = original.sample_aspect_ratio
        for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, name, getattr(original, name))
        if source.matrix is not None:
            self._stream.set_display_matrix(source.matrix.tolist())
        _copy_tags(stream.metadata, self._stream.metadata, keep_metadata)
        for other in source.container.streams:
            if other is not stream:
                self._add_copy(other, keep_metadata)
        if keep_metadata:
            self._container.metadata.update(source.container.metadata)
        elif _personal(source.container.metadata):
            self.left_out.append("tags")
        with suppress(FFmpegError, ValueError, NotImplementedError):
            self._container.set_chapters(source.container.chapters())

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(Exception):  # the first error is the one to report
                self._container.close()
            return
        with _naming(self._source.path):
            for packet in self._stream.encode(None):
                self._container.mux(packet)
            self._container.close()

    def copy(self, packet: Packet) -> None:
        """Copy a packet of another stream, if that stream is kept."""
        stream = self._copies.get(packet.stream.index)
        if stream is not None:
            packet.stream = stream
            with _naming(self._source.path):
                self._container.mux(packet)

    def write(self, frame: av.VideoFrame, boxes: npt.NDArray[np.float32], style: MaskStyle) -> None:
        """Write a frame with faces masked. boxes: (N, 4) in pixels of the upright picture."""
        if frame.format.name != self._format:
            pts, base = frame.pts, frame.time_base
            frame = frame.reformat(format=self._format)
            frame.pts, frame.time_base = pts, base
        if len(boxes):
            frame.make_writable()
            stored = self._source.turn.undo(boxes, self._source.width, self._source.height)
            mask_faces(_planes(frame), stored, style)
        frame.pict_type = 0  # the encoder chooses, whatever the source had
        with _naming(self._source.path):
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    def _add_copy(self, other: Any, keep_metadata: bool) -> None:
        if other.type == "video":
            self.left_out.append("cover picture" if other.disposition & Disposition.attached_pic else "second video stream")
            return
        if other.type not in ("audio", "subtitle", "attachment") and not keep_metadata:
            self.left_out.append(f"{other.type} stream")
            return
        try:
            copy = self._container.add_stream_from_template(other)
        except (FFmpegError, ValueError, TypeError, NotImplementedError):
            self.left_out.append(f"{other.type} stream")
            return
        _copy_tags(other.metadata, copy.metadata, keep_metadata)
        with suppress(AttributeError, FFmpegError):
            copy.disposition = other.disposition
        self._copies[other.index] = copy


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors into a VideoError that names the video."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in FULL:
            raise
        raise VideoError(f"{path}: cannot be encoded ({_reason(error)})") from None


def _encoder(codec: str, container: str) -> str:
    encoder = _ENCODERS.get(codec, "libx264")
    if container == "webm" and encoder not in _WEBM_ENCODERS:
        return _WEBM_ENCODERS[0]
    return "libx264" if container == "mpegts" and encoder in _WEBM_ENCODERS else encoder


def _pixel_format(source: str | None, encoder: av.Codec) -> str:
    """The source's own format if the encoder takes it and its planes can be edited, otherwise the nearest such format."""
    offered = [pixel.name for pixel in encoder.video_formats or ()]
    if source in offered and _editable(av.VideoFormat(source, 16, 16)):
        return source
    wanted = av.VideoFormat(source or "yuv420p", 16, 16)
    deep = any(component.bits > 8 for component in wanted.components)
    chroma = [component for component in wanted.components if component.is_chroma]
    width, height = (chroma[0].width, chroma[0].height) if chroma else (16, 16) if wanted.is_rgb else (8, 8)
    layout = "444" if width == 16 else "422" if height == 16 else "420"
    choices = [f"yuv{layout}p10le", f"yuv{layout}p", "yuv420p10le"] if deep else [f"yuv{layout}p"]
    return next((choice for choice in choices if choice in offered), "yuv420p")


def _editable(pixel: av.VideoFormat) -> bool:
    own_plane = len({component.plane for component in pixel.components}) == len(pixel.components)
    return own_plane and not pixel.is_big_endian and not pixel.has_palette and not pixel.is_bit_stream


def _planes(frame: av.VideoFrame) -> list[Plane]:
    """The frame's planes as arrays; changing them changes the frame."""
    planes = []
    full = frame.format.name.startswith("yuvj") or frame.color_range == 2 or frame.format.is_rgb
    for component in frame.format.components:
        if component.is_alpha:
            continue
        plane = frame.planes[component.plane]
        kind = np.dtype(np.uint8 if component.bits <= 8 else np.uint16)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: component.height]
        values = rows.view(kind)[:, : component.width]
        middle = 1 << (component.bits - 1)
        blank = middle if component.is_chroma else 0 if full else middle // 8
        step_x = 2 ** round(math.log2(frame.width / component.width))
        step_y = 2 ** round(math.log2(frame.height / component.height))
        planes.append(Plane(values, step_x, step_y, blank))
    return planes


def _display_matrix(frame: av.VideoFrame) -> npt.NDArray[np.int32] | None:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32)


def _copy_tags(source: dict[str, str], target: dict[str, str], keep_all: bool) -> None:
    for name, value in source.items():
        if keep_all or name.lower() in _KEPT_STREAM_TAGS:
            target[name] = value


def _personal(tags: dict[str, str]) -> bool:
    technical = ("major_brand", "minor_version", "compatible_brands", "encoder")
    return any(name.lower() not in technical for name in tags)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).lower()
