"""Raw files of cameras: most hold, beside what the sensor saw, the finished picture as a JPEG. rawpy takes it out."""

import io
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin

RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 "
    ".srf .srw .x3f".split()
)
"""Endings of cameras' raw files."""
_WHOLE = 0.9  # of the sides of what the sensor saw: cameras cut some pixels off
_SIDEWAYS = (5, 6)  # of LibRaw's turns
_JPEG_HEAD = b"\xff\xd8"
_EXIF_MARKER = b"\xff\xe1"
_MARKS = (
    (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"FOVb"), (0, b"\0MRM"),
    (4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\2"),
)  # fmt: skip
"""What raw files begin with, from which byte on: RAF, ORF, RW2, X3F, MRW, CR3, CRW, CR2."""
_TIFF_HEADS = (b"II*\0", b"MM\0*")
_DNG_VERSION, _COLOURS, _SUB_DIRECTORIES = 50706, 262, 330  # tags of TIFF
_OF_A_SENSOR = (32803, 34892)  # colours of a picture that is not finished


class RawPhotoError(ValueError):
    """No picture of full size can be taken out of a raw file. The message does not name it."""


def is_raw(file: BinaryIO, name: str) -> bool:
    """Whether a file is to be read as a raw one: by its name, unless a JPEG has got it. Leaves the file at its start."""
    head = file.read(len(_JPEG_HEAD))
    file.seek(0)
    return Path(name).suffix.lower() in RAW_SUFFIXES and head != _JPEG_HEAD


def holds_raw(file: BinaryIO) -> bool:
    """Whether the content is that of a camera's raw file. Leaves the file at its start."""
    head = file.read(32)
    try:
        if any(head[at : at + len(mark)] == mark for at, mark in _MARKS):
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return head[:4] in _TIFF_HEADS and any(_is_of_a_sensor(tags) for tags in _directories(file, head[:8]))
    except Exception:  # a broken directory: whoever reads the file says so
        return False
    finally:
        file.seek(0)


def _directories(file: BinaryIO, head: bytes) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """The first directory of a TIFF and those below it."""
    first = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(first.next)
    first.load(file)
    yield first
    offsets = first.get(_SUB_DIRECTORIES, ())
    for offset in offsets if isinstance(offsets, tuple) else (offsets,):
        part = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(offset)
        part.load(file)
        yield part


def _is_of_a_sensor(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    return _DNG_VERSION in tags or tags.get(_COLOURS) in _OF_A_SENSOR


def finished_picture(file: BinaryIO) -> Image.Image:
    """The JPEG of full size in a raw file, not decoded, with its orientation as EXIF. Raises RawPhotoError."""
    try:
        rawpy: Any = import_module("rawpy")
    except (ImportError, OSError):  # OSError where a library of the package is missing
        raise RawPhotoError("raw files of cameras need rawpy: pip install 'tinyfaces[raw]'") from None
    content = file.read()
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            width, height, turn = raw.sizes.width, raw.sizes.height, raw.sizes.flip
            held = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise RawPhotoError("is a raw file without a picture in it; convert it to TIFF or JPEG first") from None
    except rawpy.LibRawError as error:
        what = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise RawPhotoError(f"cannot be read as a raw file ({what})") from None
    if held.format != rawpy.ThumbFormat.JPEG:
        raise RawPhotoError("is a raw file whose picture is no JPEG; convert it to TIFF or JPEG first")
    if _behind_exif(held.data) not in content:  # LibRaw fills up what is missing with whatever lay in memory
        raise RawPhotoError("cannot be read as a raw file (cut off within its picture)")
    picture = Image.open(io.BytesIO(held.data), formats=["JPEG"])
    if max(picture.size) < _WHOLE * max(width, height) or min(picture.size) < _WHOLE * min(width, height):
        sizes = f"{picture.width}x{picture.height} of {width}x{height} pixels"
        raise RawPhotoError(f"is a raw file that holds only a preview ({sizes}); convert it to TIFF or JPEG first")
    if turn in _SIDEWAYS and (picture.width > picture.height) != (width > height):  # the camera has turned it already
        picture.getexif()[ExifTags.Base.Orientation] = 1
    return picture


def _behind_exif(jpeg: bytes) -> bytes:
    """A JPEG without its head and an EXIF block behind it, which LibRaw adds where the file has none."""
    start = len(_JPEG_HEAD)
    if jpeg[start : start + 2] == _EXIF_MARKER:
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return jpeg[start:]
