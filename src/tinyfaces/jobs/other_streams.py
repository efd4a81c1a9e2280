"""What lies in a video's container beside the picture, and whether a copy without faces may hold it."""

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

from tinyfaces.jobs.clocks import Packet

_KEPT_TAG = "language"
_TECHNICAL_TAGS = frozenset(
    "language major_brand minor_version compatible_brands encoder vendor_id duration mimetype filename alpha_mode bps "
    "number_of_frames number_of_bytes rotate variant_bitrate".split()
)
_TITLES = ("title", "name", "handler_name")
_USUAL_HANDLERS = re.compile(r"\W*(video|sound|audio|subtitle|data|text|core media|mainconcept|iso media|gpac|apple)", re.I)

_FONTS = (b"\0\1\0\0", b"OTTO", b"true\0", b"ttcf", b"wOFF", b"wOF2")
_PICTURES = re.compile(
    rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|ftyp(heic|heix|mif1|avif)|\0\0\0\x0cjP  |JXL \r\n|<svg|"
    rb"\A(II\*\0|MM\0\*|\xff\x0a|BM.{4}\0{4})",
    re.S,
)
_PICTURE_TAGS = re.compile(r"picture|cover|thumb|artwork|image|preview", re.I)
_SHORT_TEXT = 64  # letters, too few for a picture
_LONGEST_WORD = 400  # letters without a space, which no text has

_TELEMETRY_NAMES = re.compile(r"\b(dji|gopro|gpmd|gps|camm|nmea|telemetr|insta360|parrot|autel|skydio|flight ?log)", re.I)
_TELEMETRY = re.compile(
    r"\bGPS\W{0,3}\d|\bGPS\s*\(|\bHOME\s*\(|\b(lat(itude)?|lon(g|gt?itude)?)\b\W{0,3}\d|"
    r"\b(rel_alt|abs_alt|altitude|gb_yaw|BAROMETER|SrtCnt|FrameCnt|DiffTime)\b\W{0,3}\d|"
    r"\$G[PNLAB](RMC|GGA|GSA|GSV|VTG|GLL)|"
    r"[-+]?\d{1,3}\.\d{3,}\W{1,3}[-+]?\d{1,3}\.\d{3,}|[-+]\d{2}\.\d{2,}[-+]\d{3}\.\d{2,}|"
    r"\d{1,3}\s*[°º]\s*\d{1,2}\s*['\u2019\u2032]|\d{1,3}\.\d{3,}\s*[°º]?\s*[NSEW]\b|\b[NSEW]\s*\d{1,3}\.\d{3,}|"
    r"\bISO\W{0,2}\d+.*\b(shutter|SS|fnum|EV)\W{0,2}[\d-]",
    re.I | re.S,
)
_TEXT_START = 200_000  # bytes of a packet that are searched


def kind_of(stream: Any) -> str:
    """What kind of stream it is: FFmpeg's word, or "cover" for pictures that are shown beside the video."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return "cover" if stream.type == "video" and stream.disposition & still else str(stream.type)


@dataclass(frozen=True)
class Findings:
    """What packets were found to hold.

    Args:
        telemetry: The indices of subtitle streams that tell where and how the camera moved, as drones write it.
        pictures: The indices of data streams with a picture in them.
        chapters: The indices of streams that hold the names of the chapters, as MP4 and MOV have them beside the chapters.
    """

    telemetry: set[int]
    pictures: set[int]
    chapters: set[int]


def look_through(path: str, streams: Sequence[Any], chapters: Collection[str]) -> Findings:
    """Look through all packets of a file's subtitle and data streams; no frames are decoded. chapters: their names."""
    named = {stream.index for stream in streams if stream.type == "subtitle" and _named_telemetry(stream.metadata)}
    suspects = {stream.index for stream in streams if stream.type in ("subtitle", "data")}
    found = Findings(named, set(), set())
    if not suspects:
        return found
    other_words: set[int] = set()
    with suppress(FFmpegError, OSError), open_video(path) as container:  # where it is damaged, each packet is judged again
        for stream in container.streams:
            stream.discard = Discard.default if stream.index in suspects else Discard.all
        for packet in container.demux([stream for stream in container.streams if stream.index in suspects]):
            index = packet.stream.index
            if packet.size > 2:
                (found.chapters if _sample_text(bytes(packet)) in chapters else other_words).add(index)
            if index not in found.telemetry and packet.stream.type == "subtitle" and is_telemetry(packet):
                found.telemetry.add(index)
            elif index not in found.pictures and packet.stream.type == "data" and is_picture(packet):
                found.pictures.add(index)
    found.chapters.difference_update(other_words)
    return found


def is_telemetry(packet: Packet) -> bool:
    """Whether a packet of subtitles tells where or how the camera moved."""
    return packet.size > 0 and _tells_places(bytes(packet))


def is_picture(packet: Packet) -> bool:
    """Whether there is a picture in a packet of a data stream."""
    return packet.size > 0 and _PICTURES.search(bytes(packet)) is not None


def open_video(path: str) -> Any:
    """Open a file of this machine and no other; tags need not be UTF-8. Raises FFmpegError, OSError and ValueError."""
    options: dict[str, Any] = {"container_options": {"protocol_whitelist": "file"}}
    if int(av.__version__.split(".")[0]) < 19:  # later ones always do so
        options["metadata_errors"] = "ignore"
    return av.open(path, **options)


def is_font(attachment: Any) -> bool:
    """Whether an attachment is a font, by its content."""
    return bytes(getattr(attachment, "data", None) or b"")[:5].startswith(_FONTS)


def kept_tags(tags: Mapping[str, str], keep_all: bool) -> dict[str, str]:
    """The tags of a stream that a copy has."""
    return {
        name: value for name, value in tags.items() if name.lower() == _KEPT_TAG or (keep_all and not holds_picture(name, value))
    }


def holds_picture(name: str, value: str) -> bool:
    """Whether a tag may hold a picture."""
    if len(value) <= _SHORT_TEXT:
        return False
    longest_word = max(map(len, value.split()), default=0)
    return bool(_PICTURE_TAGS.search(name)) or longest_word > _LONGEST_WORD or _is_coded_picture(value)


def personal(tags: Mapping[str, str]) -> bool:
    """Whether tags say more than the technical ones."""
    return any(not _is_technical(name, value) for name, value in tags.items())


def titled(tags: Mapping[str, str]) -> bool:
    """Whether a stream has a title."""
    return any(name.lower() in _TITLES and not _is_technical(name, value) for name, value in tags.items())


def _is_technical(name: str, value: str) -> bool:
    name = name.lower()
    if name == "handler_name":
        return not value.strip() or bool(_USUAL_HANDLERS.match(value))
    return name in _TECHNICAL_TAGS or name.partition("-")[0] in _TECHNICAL_TAGS or name.startswith("_statistics")


def _is_coded_picture(value: str) -> bool:
    with suppress(binascii.Error, ValueError):
        return bool(_PICTURES.search(base64.b64decode("".join(value.split()), validate=True)))
    return False


def _named_telemetry(tags: Mapping[str, str]) -> bool:
    return any(_TELEMETRY_NAMES.search(value) for name, value in tags.items() if name.lower() in _TITLES)


def _sample_text(packet: bytes) -> str:
    """The text of a packet as MP4 and MOV store it, after its length."""
    return packet[2 : 2 + int.from_bytes(packet[:2], "big")].decode("utf-8", "ignore")


def _tells_places(packet: bytes) -> bool:
    packet = packet[:_TEXT_START]
    texts = [packet.decode("utf-8", "ignore"), *(packet[start:].decode("utf-16", "ignore") for start in (0, 2))]
    return any(_TELEMETRY.search(re.sub(r"<[^>]*>|\{[^}]*\}", " ", text)) or _TELEMETRY.search(text) for text in texts)
