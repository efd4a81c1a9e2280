"""Encoders of videos: those of software, and those of graphics cards, which may be missing."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np

_SIDE = 256  # of the frame that is encoded to try an encoder; graphics cards refuse much smaller ones

_Options = Callable[[int], dict[str, str]]


@dataclass(frozen=True)
class Encoder:
    """An encoder.

    Args:
        name: FFmpeg's.
        codec: What it writes: "h264", "hevc", "vp9" or "av1".
        options: Its options for a quality, 0-51; lower is better.
        hardware: Whether it needs a graphics card, or another chip.
        preset: The name of its option that trades speed for size.
    """

    name: str
    codec: str
    options: _Options
    hardware: bool = False
    preset: str = "preset"


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder writes a video.

    Args:
        names: Encoders that may, the first ones rather. Without any, one of software that suits the original.
        only: Whether no other encoder may.
        preset: Of the encoder, in place of ours.
    """

    names: tuple[str, ...] = ()
    only: bool = False
    preset: str | None = None

    @classmethod
    def of(cls, text: str | None) -> "EncoderChoice":
        """What a user asks for: the name of an encoder, NAME:PRESET, or "auto" for the first of a graphics card that works.

        Raises:
            ValueError: There is no such encoder, or it cannot be used here. The message names those that can.
        """
        if text is None:
            return cls()
        if text == "auto":
            working = [one.name for one in ENCODERS.values() if one.hardware and _trouble(one.name, None) is None]
            return cls(tuple(working))
        name, _, preset = text.partition(":")
        trouble = _trouble(name, preset or None) if name in ENCODERS else "unknown"
        if trouble is not None:
            usable = ", ".join(one for one in ENCODERS if _trouble(one, None) is None)
            raise ValueError(f"encoder {text} cannot be used ({trouble}): choose from {usable}")
        return cls((name,), True, preset or None)

    def options(self, encoder: str, quality: int) -> dict[str, str]:
        """The options of one of the encoders."""
        return _options(encoder, quality, self.preset if encoder in self.names else None)


def _crf(**others: str) -> _Options:
    return lambda quality: {"crf": str(quality), **others}


def _x264(quality: int) -> dict[str, str]:
    """At this preset, 16.5 looks like 18 at "medium" and is as large, in less than half the time; 0 loses nothing."""
    return {"crf": f"{quality * 11 / 12:.2f}", "preset": "veryfast"}


def _nvenc(quality: int) -> dict[str, str]:
    return {"rc": "vbr", "cq": str(quality), "b": "0", "preset": "p5"}


def _qsv(quality: int) -> dict[str, str]:
    return {"global_quality": str(max(1, quality)), "preset": "medium"}


def _amf(quality: int) -> dict[str, str]:
    return {"rc": "cqp", "qp_i": str(quality), "qp_p": str(quality)}


def _videotoolbox(quality: int) -> dict[str, str]:
    return {"flags": "+qscale", "global_quality": str(118 * round(100 - 1.9 * quality))}  # 1-100 in FFmpeg's lambdas, 100 is best


def _media_foundation(quality: int) -> dict[str, str]:
    return {"rate_control": "quality", "quality": str(round(100 - 1.9 * quality))}


ENCODERS = {
    one.name: one
    for one in (
        Encoder("libx264", "h264", _x264),
        Encoder("libx265", "hevc", _crf(preset="medium", **{"x265-params": "log-level=error"})),
        Encoder("libvpx-vp9", "vp9", _crf(**{"b:v": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}), preset="cpu-used"),
        Encoder("libsvtav1", "av1", _crf(preset="8")),
        Encoder("h264_videotoolbox", "h264", _videotoolbox, True),
        Encoder("hevc_videotoolbox", "hevc", _videotoolbox, True),
        Encoder("h264_nvenc", "h264", _nvenc, True),
        Encoder("hevc_nvenc", "hevc", _nvenc, True),
        Encoder("av1_nvenc", "av1", _nvenc, True),
        Encoder("h264_qsv", "h264", _qsv, True),
        Encoder("hevc_qsv", "hevc", _qsv, True),
        Encoder("av1_qsv", "av1", _qsv, True),
        Encoder("h264_amf", "h264", _amf, True),
        Encoder("hevc_amf", "hevc", _amf, True),
        Encoder("h264_mf", "h264", _media_foundation, True),
        Encoder("hevc_mf", "hevc", _media_foundation, True),
    )
}
"""All that may be asked for, by name; those of software first."""


def _options(name: str, quality: int, preset: str | None) -> dict[str, str]:
    encoder = ENCODERS[name]
    os.environ.setdefault("SVT_LOG", "1")  # the only way to make the AV1 encoder report errors only
    options = encoder.options(quality)
    if preset is None:
        return options
    return options | ({"crf": str(quality)} if "crf" in options else {}) | {encoder.preset: preset}


@cache
def _trouble(name: str, preset: str | None) -> str | None:
    """Why an encoder cannot be used here; None if a frame could be encoded."""
    try:
        codec = av.Codec(name, "w")
    except Exception:
        return "FFmpeg was built without it"
    try:
        offered = [one.name for one in codec.video_formats or ()]
        context: Any = av.CodecContext.create(codec, "w")
        context.width = context.height = _SIDE
        context.pix_fmt = "yuv420p" if "yuv420p" in offered else "nv12"
        context.time_base = Fraction(1, 25)
        context.options = _options(name, 23, preset)
        frame = av.VideoFrame.from_ndarray(np.zeros((_SIDE, _SIDE, 3), np.uint8), format="rgb24").reformat(format=context.pix_fmt)
        frame.pts = 0
        context.encode(frame)
        context.encode(None)
    except Exception:  # FFmpeg's and the driver's
        why = "no device or driver for it" if ENCODERS[name].hardware else "it cannot be opened"
        return why if preset is None else f"{why} with this preset"
    return None
