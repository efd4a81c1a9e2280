"""How many bits a value of an image file has, which Pillow does not say: it cuts most to 8."""

from typing import Any, BinaryIO

from PIL import Image

_BITS_PER_SAMPLE = 258  # a tag of TIFF
_HEAD = 1 << 16  # bytes in which the headers lie


def bits_per_value(image: Image.Image, file: BinaryIO) -> int:
    """Bits of each value in an image file; 8 where they are not known.

    Args:
        image: Opened, and not decoded yet.
        file: The file, at any position.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits = tags.get(_BITS_PER_SAMPLE, 8)
        return max(bits) if isinstance(bits, tuple) else int(bits)
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    file.seek(0)
    head = file.read(_HEAD)
    if image.format == "PNG":
        return head[24]
    if image.format == "AVIF":
        return _bits_of_av1(head)
    if image.format == "JPEG2000":
        start = head.find(b"\xff\x4f\xff\x51")  # the codestream, whose first segment tells the size
        return (head[start + 42] & 0x7F) + 1 if start >= 0 else 8
    return _bits_of_raw(image)


def _bits_of_av1(head: bytes) -> int:
    start = head.find(b"av1C")
    flags = head[start + 6] if start >= 0 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _bits_of_raw(image: Image.Image) -> int:
    """From how Pillow is going to unpack it: PPM by its highest value, others by the name of their raw mode."""
    tiles: Any = getattr(image, "tile", [])
    for decoder, _, _, arguments in tiles:
        values = arguments if isinstance(arguments, tuple) else (arguments,)
        if any(isinstance(value, str) and ";16" in value for value in values):
            return 16
        if decoder.startswith("ppm") and any(isinstance(value, int) and value > 255 for value in values):
            return 16
    return 8
