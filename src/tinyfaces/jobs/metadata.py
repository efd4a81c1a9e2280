"""What photos hold beside their pixels: which kinds there are, and what of the EXIF block may be kept."""

from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

_TAGS = ExifTags.Base
# What is kept on request: words, dates, the camera and its settings. Whatever else there is may hold a picture without masks
# (previews, thumbnails, makers' notes, layers, XMP, IPTC) or describes the pixels as they were (orientation, strips).
_KEPT = frozenset(
    (
        _TAGS.ImageDescription, _TAGS.Make, _TAGS.Model, _TAGS.XResolution, _TAGS.YResolution, _TAGS.ResolutionUnit,
        _TAGS.Software, _TAGS.DateTime, _TAGS.Artist, _TAGS.HostComputer, _TAGS.Copyright, _TAGS.Rating, _TAGS.RatingPercent,
        _TAGS.XPTitle, _TAGS.XPComment, _TAGS.XPAuthor, _TAGS.XPKeywords, _TAGS.XPSubject,
    )
)  # fmt: skip
_KEPT_DETAILS = frozenset(
    tag for tag in map(int, _TAGS)
    if (0x829A <= tag <= 0x882F or 0x8830 <= tag <= 0x9292 or 0xA000 <= tag <= 0xA500)
    and tag not in (
        _TAGS.MakerNote, _TAGS.IPTCNAA, _TAGS.ImageResources, _TAGS.ExifOffset, _TAGS.GPSInfo, _TAGS.ExifInteroperabilityOffset,
        _TAGS.InterColorProfile, _TAGS.ExifImageWidth, _TAGS.ExifImageHeight, _TAGS.RelatedSoundFile,
    )
) | {_TAGS.SubsecTime, _TAGS.SubsecTimeOriginal, _TAGS.SubsecTimeDigitized, _TAGS.UserComment}  # fmt: skip
_LAST_PLACE_TAG = 31  # of GPS
_MOST_BYTES, _MOST_NUMBERS = 2000, 64  # of one value: enough for words and settings, too little for a picture
_IN_INFO = {
    "xmp": "XMP", "photoshop": "IPTC", "comment": "comment", "XML:com.adobe.xmp": "XMP", "mp": "second picture",
    "thumbnails": "thumbnail", "depth_images": "depth map", "aux": "auxiliary picture",
}  # fmt: skip


def exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF block of an image; empty where it is broken."""
    try:
        return image.getexif()
    except Exception:  # a broken block, which is not written again
        return Image.Exif()


def kinds_of(image: Image.Image, exif: Image.Exif) -> list[str]:
    """The kinds of metadata that an image file has."""
    found = []
    if (
        len(exif)
        if image.format in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "JXL")
        else set(exif) & _KEPT or _part(exif, ExifTags.IFD.Exif)
    ):
        found.append("EXIF")
    if _part(exif, ExifTags.IFD.GPSInfo):
        found.append("GPS")
    if _part(exif, ExifTags.IFD.IFD1):
        found.append("thumbnail")
    if getattr(image, "text", None):
        found.append("text")
    if getattr(image, "n_frames", 1) > 1:
        found.append("second picture")
    return found + [kind for name, kind in _IN_INFO.items() if image.info.get(name) and kind not in found]


def kept_exif(exif: Image.Exif) -> tuple[bytes, list[str]]:
    """The part of an EXIF block that may be kept: words, date, camera, settings, place.

    Returns:
        The new block, and the names of those tags that should be kept and cannot be: their values are damaged or too large.
    """
    kept, lost = Image.Exif(), []
    for group, tag, value in _entries(exif):
        if _can_be_written(group, tag, value):
            _part_to_fill(kept, group)[tag] = value
        else:
            lost.append(_name(group, tag))
    return kept.tobytes(), lost


def _entries(exif: Image.Exif) -> Iterator[tuple[int | None, int, Any]]:
    """The tags that may be kept, each with its directory (None for the main one) and its value."""
    for tag in exif:
        if tag in _KEPT:
            yield None, tag, _value(exif, tag)
    details, places = _part(exif, ExifTags.IFD.Exif), _part(exif, ExifTags.IFD.GPSInfo)
    yield from ((ExifTags.IFD.Exif, tag, value) for tag, value in details.items() if tag in _KEPT_DETAILS)
    yield from ((ExifTags.IFD.GPSInfo, tag, value) for tag, value in places.items() if tag <= _LAST_PLACE_TAG)


def _value(exif: Image.Exif, tag: int) -> Any:
    try:
        return exif[tag]
    except Exception:  # of a kind that Pillow cannot take apart; nor can it be written
        return None


def _part(exif: Image.Exif, group: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(group))
    except Exception:  # a broken directory, which is not written again
        return {}


def _part_to_fill(exif: Image.Exif, group: int | None) -> Any:
    return exif if group is None else exif.get_ifd(group)


def _can_be_written(group: int | None, tag: int, value: Any) -> bool:
    if value is None or (isinstance(value, bytes) and len(value) > _MOST_BYTES):
        return False
    if isinstance(value, tuple) and len(value) > _MOST_NUMBERS:
        return False
    probe = Image.Exif()
    _part_to_fill(probe, group)[tag] = value
    try:
        again = Image.Exif()
        again.load(probe.tobytes())
        return tag in _part_to_fill(again, group)
    except Exception:  # Pillow raises nearly anything for a value that is not of its tag's type
        return False


def _name(group: int | None, tag: int) -> str:
    names: Any = ExifTags.GPS if group == ExifTags.IFD.GPSInfo else ExifTags.Base
    try:
        return str(names(tag).name)
    except ValueError:
        return f"0x{tag:04X}"
