"""How the frames of a video are encoded again: the encoder, the pixel format, the colours, and what is lost by it."""

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from tinyfaces.jobs.encoders import ENCODERS, EncoderChoice
from tinyfaces.jobs.masking import Plane

_ENCODERS = {"hevc": "libx265", "vp8": "libvpx-vp9", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_FALLBACKS = {
    "webm": ("libvpx-vp9", "libsvtav1"),
    "mpegts": ("libx264", "libx265"),
}
"""Encoders for a container, beside that of the original codec; the first ones rather."""
_OTHER_FALLBACKS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9")
_CODECS = {"webm": ("vp9", "av1"), "mpegts": ("h264", "hevc"), "mov": ("h264", "hevc", "av1")}
"""What containers take, where that is not all that we write."""
_INTERLEAVED = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""Formats of hardware, and those in which the same frames can be edited."""
_ODD_SIDES = ("libvpx-vp9",)  # encoders that take odd sides with halved colour
_RGB, _BT709, _UNSPECIFIED = 0, 1, 2
_LIMITED, _FULL = 1, 2
_LIKE_BT601 = (_UNSPECIFIED, 5, 6)


@dataclass(frozen=True)
class Encoding:
    """How frames are written.

    Args:
        encoder: FFmpeg's name.
        pixel_format: FFmpeg's name of that in which frames are edited.
        encoded: The same of that which the encoder takes.
        colour: Values of the codec context.
        losses: What the encoded frames lack of the original ones.
    """

    encoder: str
    pixel_format: str
    encoded: str
    colour: dict[str, int]
    losses: tuple[str, ...]

    def convert(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """A frame in the format and size to write, in which nothing of what was transparent shows; with its own time."""
        pts, base = frame.pts, frame.time_base
        if _has_alpha(frame.format):
            frame = _over_black(frame)
        if (frame.format.name, frame.width, frame.height) != (self.pixel_format, width, height):
            written = av.VideoFormat(self.pixel_format, 16, 16)
            full = self.colour["color_range"] == _FULL or written.is_rgb or written.name.startswith("yuvj")
            options: dict[str, Any] = {"dst_color_range": ColorRange.JPEG if full else ColorRange.MPEG}
            if _is_rgb(frame.format):
                frame.colorspace, frame.color_range = _RGB, _FULL
                if not written.is_rgb:
                    matrix = self.colour["colorspace"]
                    options["dst_colorspace"] = Colorspace.ITU601 if matrix in _LIKE_BT601 else matrix
            else:
                options["src_color_range"] = ColorRange.JPEG if is_full(frame) else ColorRange.MPEG
            frame = frame.reformat(width, height, self.pixel_format, **options)
            frame.pts, frame.time_base = pts, base
        frame.colorspace, frame.color_range = self.colour["colorspace"], self.colour["color_range"]
        return frame

    def interleaved(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame that was edited as the encoder takes it."""
        if self.encoded == self.pixel_format:
            return frame
        pts, base = frame.pts, frame.time_base
        frame = frame.reformat(format=self.encoded)
        frame.pts, frame.time_base = pts, base
        frame.colorspace, frame.color_range = self.colour["colorspace"], self.colour["color_range"]
        return frame


def choose(stream: Any, kind: str, width: int, height: int, encoder: EncoderChoice | None = None) -> Encoding:
    """How to write the frames of a video stream, of width x height pixels, to a container, as FFmpeg calls it, with the least
    loss.

    Raises:
        ValueError: The encoder that was asked for cannot write them.
    """
    asked = encoder or EncoderChoice()
    original = stream.codec_context
    source = av.VideoFormat(original.pix_fmt or "yuv420p", 16, 16)
    own = _ENCODERS.get(original.codec.canonical_name, "libx264")
    fallbacks = _FALLBACKS.get(kind, _OTHER_FALLBACKS)
    encoders: list[str] = [own, *fallbacks] if own in fallbacks or kind not in _FALLBACKS else [*fallbacks]
    if asked.only:
        encoders = [*asked.names]
        for name in encoders:
            codec = ENCODERS[name].codec
            if codec not in _CODECS.get(kind, (codec,)):
                raise ValueError(f"{name} writes {codec}, which {kind} does not take")
    else:
        encoders = [*(name for name in asked.names if ENCODERS[name].codec == ENCODERS[own].codec), *encoders]
    choices = []
    for place, name in enumerate(dict.fromkeys(encoders)):
        for offered in av.Codec(name, "w").video_formats or ():
            edited = _INTERLEAVED.get(offered.name, offered.name) if ENCODERS[name].hardware else offered.name
            pixel = av.VideoFormat(edited, 16, 16)
            if _fits(pixel, source, name, width, height):
                choices.append((_rank(pixel, source, place), name, pixel, offered.name))
    if not choices:
        raise ValueError(f"{', '.join(encoders)} cannot write {width}x{height} pixels of {source.name}")
    _, name, pixel, encoded = min(choices, key=lambda choice: choice[0])
    from_rgb = _is_rgb(source) and not pixel.is_rgb
    return Encoding(name, pixel.name, encoded, _colour(original, from_rgb, pixel), tuple(_losses(stream, source, pixel)))


def _fits(pixel: av.VideoFormat, source: av.VideoFormat, encoder: str, width: int, height: int) -> bool:
    """Whether frames of a source can be written in this format by this encoder."""
    if not _editable(pixel) or _has_alpha(pixel) or (pixel.is_rgb and pixel.name != source.name):
        return False
    if pixel.name.startswith("yuvj") and not source.name.startswith("yuvj"):  # an old name for the full range
        return False
    across, down = subsampling(pixel)
    return encoder in _ODD_SIDES or not ((across and width % 2) or (down and height % 2))


def _rank(pixel: av.VideoFormat, source: av.VideoFormat, place: int) -> tuple[float, ...]:
    """Lower is better: first what is lost, then the encoder's place, then what is needless."""
    lost_colour = is_grey(pixel) and not is_grey(source)
    more_chroma = [more - less for more, less in zip(subsampling(source), subsampling(pixel), strict=True)]
    more_bits = depth(pixel) - depth(source)
    lost = (lost_colour, max(0, -more_bits), -sum(min(0, more) for more in more_chroma))
    unlike = (is_grey(pixel) != is_grey(source), pixel.name[:4] != source.name[:4])
    return (*lost, place, pixel.name != source.name, more_bits, sum(more_chroma), *unlike)


def planes(frame: av.VideoFrame) -> list[Plane]:
    """The frame's planes as arrays; changing them changes the frame."""
    found = []
    full = is_full(frame)
    for number, component in enumerate(frame.format.components):
        if component.is_alpha:
            continue
        plane = frame.planes[component.plane]
        kind = np.dtype(np.uint8 if component.bits <= 8 else np.uint16)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: component.height]
        values = rows.view(kind)[:, : component.width]
        middle = 1 << (component.bits - 1)
        blank = middle if _is_chroma(frame.format, number) else 0 if full else middle // 8
        step_x = 2 ** round(math.log2(frame.width / component.width))
        step_y = 2 ** round(math.log2(frame.height / component.height))
        found.append(Plane(values, step_x, step_y, blank))
    return found


def is_full(frame: av.VideoFrame) -> bool:
    """Whether black is 0 in a frame, and not a sixteenth of the range."""
    return bool(frame.format.name.startswith("yuvj") or frame.color_range == _FULL or frame.format.is_rgb)


def depth(pixel: av.VideoFormat) -> int:
    """Bits of a channel."""
    return 8 if pixel.has_palette else max(component.bits for component in pixel.components)


def subsampling(pixel: av.VideoFormat) -> tuple[int, int]:
    """How often the sides of the colour are halved, across and down. `pixel` has 16x16 pixels."""
    if _is_rgb(pixel) or is_grey(pixel):
        return 0, 0
    colour = pixel.components[1]
    return round(math.log2(16 / colour.width)), round(math.log2(16 / colour.height))


def is_grey(pixel: av.VideoFormat) -> bool:
    """Whether it has no colour."""
    return len(pixel.components) < 3 and not pixel.has_palette


def _is_rgb(pixel: av.VideoFormat) -> bool:
    return bool(pixel.is_rgb or pixel.has_palette or pixel.is_bayer or pixel.name.startswith("xyz"))


def _is_chroma(pixel: av.VideoFormat, number: int) -> bool:
    return number in (1, 2) and not pixel.is_rgb and not is_grey(pixel)


def _has_alpha(pixel: av.VideoFormat) -> bool:
    return pixel.has_palette or any(component.is_alpha for component in pixel.components)


def _editable(pixel: av.VideoFormat) -> bool:
    own_plane = len({component.plane for component in pixel.components}) == len(pixel.components)
    on_a_card = not pixel.components
    return own_plane and not on_a_card and not pixel.is_big_endian and not pixel.has_palette and not pixel.is_bit_stream


def _over_black(frame: av.VideoFrame) -> av.VideoFrame:
    values = frame.to_ndarray(format="rgba64le", dst_color_range=ColorRange.JPEG).astype(np.uint32)
    solid = (values[..., :3] * values[..., 3:] // 65535).astype(np.uint16)
    return av.VideoFrame.from_ndarray(solid, format="rgb48le")


def _colour(original: Any, from_rgb: bool, pixel: av.VideoFormat) -> dict[str, int]:
    """The colour tags, which fit the pixel format that is written."""
    colour = {name: getattr(original, name) for name in ("color_range", "colorspace", "color_primaries", "color_trc")}
    if from_rgb:
        colour |= {"colorspace": _BT709, "color_range": _LIMITED}
    elif colour["colorspace"] == _RGB and not pixel.is_rgb:
        colour["colorspace"] = _UNSPECIFIED
    return colour


def _losses(stream: Any, source: av.VideoFormat, written: av.VideoFormat) -> list[str]:
    losses = []
    transparent = any(component.is_alpha for component in source.components) and not source.has_palette
    if transparent or stream.metadata.get("alpha_mode") == "1" or stream.metadata.get("ALPHA_MODE") == "1":
        losses.append("transparency")
    if depth(written) < depth(source):
        losses.append(f"depth above {depth(written)} bits")
    if any(more > less for more, less in zip(subsampling(written), subsampling(source), strict=True)):
        losses.append("full colour resolution")
    return losses
