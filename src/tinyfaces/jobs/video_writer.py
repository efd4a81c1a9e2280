"""A video written again: new frames, with the sound, subtitles, timing and colour of another video."""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from PIL import Image

from tinyfaces.jobs import other_streams, pixel_formats
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.encoders import EncoderChoice
from tinyfaces.jobs.inputs import CONTAINERS
from tinyfaces.jobs.masked_frames import FrameMasker
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.other_streams import kind_of
from tinyfaces.jobs.video import VideoError, VideoReader, naming

DEFAULT_QUALITY = 18
"""Constant rate factor of the encoder: lower is better, and larger. At 18, differences are hardly visible."""

_INK, _OUTLINE = (0, 255, 0), (0, 0, 0)  # red, green, blue
_ATTACHMENTS = ("matroska",)  # containers that hold fonts


class VideoWriter:
    """A new video with the container, timing, rotation, colour, sound and subtitles of another one. Use it in a `with`.

    Args:
        path: The file to write.
        suffix: One of `inputs.CONTAINERS`.
        source: The other video, open for reading.
        quality: See `DEFAULT_QUALITY`.
        picture: Put over each mask.
        comment: Written into the file's tags.
        encoder: Which encoder; one of software that suits the source if None.
        keep_metadata: Keep what is text: tags such as place, date and camera, names of chapters, telemetry. Cover pictures,
            attachments and further video streams are always left out, as nothing masks them.

    It has the attributes `left_out` (kinds of what was not copied) and `losses` (what the encoded picture lacks).

    Raises:
        VideoError: Something cannot be written to this container.
    """

    def __init__(
        self,
        path: Path,
        suffix: str,
        source: VideoReader,
        *,
        quality: int = DEFAULT_QUALITY,
        keep_metadata: bool = False,
        picture: CoverPicture | None = None,
        comment: str | None = None,
        encoder: EncoderChoice | None = None,
    ) -> None:
        self._source = source
        self._encoder = encoder or EncoderChoice()
        self._comment = comment
        self._inks: list[tuple[float, float]] = []
        self._keep_metadata = keep_metadata
        self._kind = CONTAINERS[suffix]
        with naming(source.path, "cannot be encoded"):
            try:
                self._encoding = pixel_formats.choose(source.stream, self._kind, *source.shape.stored, self._encoder)
            except ValueError as error:
                raise VideoError(f"{source.path}: {error}") from None
            self._masker = FrameMasker(source, self._encoding, picture)
            try:
                self._open(path, source, quality, data=keep_metadata)
            except FFmpegError:
                if not keep_metadata:
                    raise
                self._open(path, source, quality, data=False)  # many a container refuses another one's data streams

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with naming(self._source.path, "cannot be encoded"):
                    self._mux(self._stream.encode(None))
                    self._container.close()
        finally:
            self._close_quietly()

    @property
    def left_out(self) -> list[str]:
        """Kinds of what the file held beside the picture and the new one does not, such as "tags"."""
        return sorted(self._left_out)

    @property
    def losses(self) -> list[str]:
        """What the encoded picture lacks of the original one, such as "transparency"."""
        return list(self._encoding.losses)

    def copy(self, packet: Packet) -> None:
        """Copy a packet of another stream, if that stream is kept."""
        stream = self._copies.get(packet.stream.index)
        if stream is not None and not self._gives_away(packet):
            packet.stream = stream
            with naming(self._source.path, "cannot be encoded"):
                self._container.mux(packet)

    def write(self, frame: av.VideoFrame, boxes: npt.NDArray[np.float32], style: MaskStyle) -> None:
        """Write a frame with faces masked. boxes: (N, 4) in pixels of the first frame, upright; other frames get its size."""
        with naming(self._source.path, "cannot be encoded"):
            self._encode(self._masker.masked(frame, boxes, style))

    def write_drawn(self, frame: av.VideoFrame, drawing: npt.NDArray[np.uint8]) -> None:
        """Write a frame with a drawing in green and black.

        Args:
            frame: Of the source.
            drawing: HxWx2, how much green is put on each pixel of the first frame, upright, and how opaque it is in all, green
                and black together; other frames get its size.
        """
        green, opaque = (Image.fromarray(self._source.shape.turn.unapply(layer)) for layer in (drawing[..., 0], drawing[..., 1]))

        with naming(self._source.path, "cannot be encoded"):
            frame = self._encoding.convert(frame, *self._source.shape.stored)
            if drawing.any():
                frame.make_writable()
                self._draw(frame, green, opaque)
            self._encode(frame)

    def _draw(self, frame: av.VideoFrame, green: Image.Image, opaque: Image.Image) -> None:
        for plane, (ink, black) in zip(pixel_formats.planes(frame), self._colours(), strict=True):
            height, width = plane.values.shape
            layers = [np.asarray(layer.resize((width, height), Image.Resampling.BOX)) for layer in (green, opaque)]
            drawn = layers[1] > 0
            inked, covered = (layer[drawn] / 255 for layer in layers)
            mixed = plane.values[drawn].astype(np.float64) * (1 - covered) + ink * inked + black * (covered - inked)
            plane.values[drawn] = np.rint(mixed).astype(plane.values.dtype)

    def _encode(self, frame: av.VideoFrame) -> None:
        frame = self._encoding.interleaved(frame)
        frame.pict_type = 0  # the encoder chooses, whatever the source had
        self._mux(self._stream.encode(frame))

    def _colours(self) -> list[tuple[float, float]]:
        """The values of green and black in each plane."""
        if not self._inks:
            self._inks = list(zip(self._values(_INK), self._values(_OUTLINE), strict=True))
        return self._inks

    def _values(self, colour: tuple[int, int, int]) -> list[float]:
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), colour, np.uint8), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        return [float(plane.values[0, 0]) for plane in pixel_formats.planes(self._encoding.convert(frame, 16, 16))]

    def _gives_away(self, packet: Packet) -> bool:
        """Whether a packet holds what was not seen when the file was looked through, as that is damaged there."""
        kind = packet.stream.type
        if kind == "subtitle" and not self._keep_metadata and other_streams.is_telemetry(packet):
            self._left_out.add("telemetry subtitles")
            return True
        if kind == "data" and other_streams.is_picture(packet):
            self._left_out.add("data stream with pictures")
            return True
        return False

    def _open(self, path: Path, source: VideoReader, quality: int, *, data: bool) -> None:
        """Open the file and add all streams. data: Whether to copy data streams too."""
        self._left_out: set[str] = set()
        self._copies: dict[int, Any] = {}
        web = {"movflags": "+faststart"} if self._kind in ("mp4", "mov") else {}
        self._container: Any = av.open(str(path.absolute()), "w", format=self._kind, options=web)
        try:
            self._stream = self._add_picture(source, quality)
            self._add_copies(source, data)
            self._copy_words(source)
            if any(source.container.streams[index].type == "data" for index in self._copies):
                self._container.start_encoding()  # which tells whether the container takes them
        except BaseException:
            self._close_quietly()
            raise

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def _close_quietly(self) -> None:
        with suppress(Exception):  # the first error is the one to report
            self._container.close()

    def _add_picture(self, source: VideoReader, quality: int) -> Any:
        original: Any = source.stream
        rate = original.average_rate or original.guessed_rate or Fraction(25)
        options = self._encoder.options(self._encoding.encoder, quality)
        stream = cast(Any, self._container.add_stream(self._encoding.encoder, rate=rate, options=options))
        context: Any = stream.codec_context
        context.width, context.height = source.shape.stored
        context.pix_fmt = self._encoding.encoded
        context.time_base = stream.time_base = original.time_base  # keeps the times of a variable frame rate
        if original.codec_context.sample_aspect_ratio:
            context.sample_aspect_ratio = original.codec_context.sample_aspect_ratio
        for name, value in self._encoding.colour.items():
            setattr(context, name, value)
        if source.matrix is not None:
            stream.set_display_matrix(source.matrix.tolist())
        return stream

    def _add_copies(self, source: VideoReader, data: bool) -> None:
        """Add the streams to copy; all others are listed as left out. data: Whether data streams are copied."""
        streams = [stream for stream in source.container.streams if stream is not source.stream]
        names = {chapter["metadata"].get("title", "") for chapter in source.container.chapters()} - {""}
        found = other_streams.look_through(source.location, streams, names)
        for stream in streams:
            kind = kind_of(stream)
            if kind == "cover":
                self._left_out.add("cover picture")
            elif kind == "video":
                self._left_out.add("second video stream")
            elif kind == "attachment":
                self._add_attachment(stream)
            elif stream.index in found.chapters:
                continue  # written anew with the chapters
            elif stream.index in found.telemetry and not self._keep_metadata:
                self._left_out.add("telemetry subtitles")
            elif stream.index in found.pictures:
                self._left_out.add("data stream with pictures")
            elif kind not in ("audio", "subtitle") and (not data or "timecode" in stream.metadata):  # a timecode is also a tag
                self._left_out.add(f"{kind} stream")
            else:
                self._add_copy(stream)

    def _add_copy(self, stream: Any) -> None:
        try:
            copy = self._container.add_stream_from_template(stream)
        except (FFmpegError, ValueError, TypeError, NotImplementedError, AttributeError):
            self._left_out.add(f"{stream.type} stream")
            return
        copy.metadata.update(other_streams.kept_tags(stream.metadata, self._keep_metadata))
        with suppress(AttributeError, FFmpegError):
            copy.disposition = stream.disposition
        self._copies[stream.index] = copy

    def _add_attachment(self, stream: Any) -> None:
        """Fonts, which subtitles need, are kept where the container can hold them; any other attachment may be a picture."""
        if self._kind in _ATTACHMENTS and other_streams.is_font(stream):
            name = stream.metadata.get("filename", "font")
            self._container.add_attachment(
                name, stream.metadata.get("mimetype", "application/x-truetype-font"), bytes(stream.data)
            )
        else:
            self._left_out.add("font" if other_streams.is_font(stream) else "attachment")

    def _copy_words(self, source: VideoReader) -> None:
        """Tags, and the chapters' times and names."""
        self._stream.metadata.update(other_streams.kept_tags(source.stream.metadata, self._keep_metadata))
        tags = [
            source.container.metadata,
            *(stream.metadata for stream in source.container.streams if stream.type != "attachment"),
        ]
        chapters = source.container.chapters()
        if self._keep_metadata:
            self._container.metadata.update(_texts(source.container.metadata))
            if any(other_streams.holds_picture(name, value) for each in tags for name, value in each.items()):
                self._left_out.add("pictures in tags")
        else:
            if any(map(other_streams.personal, tags)):
                self._left_out.add("tags")
            if any(map(other_streams.titled, tags[1:])):
                self._left_out.add("track titles")
            if any(chapter["metadata"] for chapter in chapters):
                self._left_out.add("chapter names")
        if self._comment is not None:
            self._container.metadata["comment"] = self._comment
        kept = [chapter | {"metadata": _texts(chapter["metadata"]) if self._keep_metadata else {}} for chapter in chapters]
        with suppress(FFmpegError, ValueError, NotImplementedError):
            self._container.set_chapters(kept)


def _texts(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not other_streams.holds_picture(name, value)}
