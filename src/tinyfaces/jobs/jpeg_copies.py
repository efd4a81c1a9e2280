"""Copies of JPEG photos with face regions in them, for photo libraries that pass over sidecars. No pixel is encoded again."""

import re
from collections.abc import Iterator

from tinyfaces.detection.images import ImageError
from tinyfaces.jobs.face_regions import as_xmp, description
from tinyfaces.jobs.image_results import ImageResult

_SIGNATURE = b"http://ns.adobe.com/xap/1.0/\0"
_MOST = 65533 - len(_SIGNATURE)  # bytes that one segment holds
_APP0, _APP1 = b"\xe0", b"\xe1"
_EXIF = b"Exif\0\0"
_ABOUT = re.compile(rb"rdf:about\s*=\s*(\"[^\"]*\"|'[^']*')")


def jpeg_with_regions(content: bytes, result: ImageResult) -> bytes:
    """The content of a JPEG file with the faces of a result as regions; what its XMP says already is kept.

    Raises:
        ImageError: It is no JPEG, has regions already, its XMP cannot be added to, or the faces do not fit in.
    """
    place = 2  # behind the segments of JFIF and EXIF, which programs expect to be first
    for start, end, body in _segments(content, result):
        if body[:1] == _APP1 and body[3:].startswith(_SIGNATURE):
            packet = _added(body[3 + len(_SIGNATURE) :], result)
            return content[:start] + _segment(packet, result) + content[end:]
        if body[:1] == _APP0 or (body[:1] == _APP1 and body[3:].startswith(_EXIF)):
            place = end
    return content[:place] + _segment(as_xmp(result).encode(), result) + content[place:]


def _segments(content: bytes, result: ImageResult) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and content, from its kind on, of each segment before the picture. Raises ImageError."""
    if content[:2] != b"\xff\xd8":
        raise ImageError(f"{result.path}: is no JPEG file; only copies of those can hold face regions")
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            raise ImageError(f"{result.path}: damaged before its picture")
        if content[at + 1] == 0xFF:  # padding
            at += 1
            continue
        if content[at + 1] == 0xDA:
            return
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield at, end, content[at + 1 : end]
        at = end
    raise ImageError(f"{result.path}: has no picture")


def _added(packet: bytes, result: ImageResult) -> bytes:
    """A packet with the regions as one more description of the same resource. Raises ImageError."""
    if b"mwg-rs:Regions" in packet or b"mwg-rs:RegionList" in packet:
        raise ImageError(f"{result.path}: has face regions already, which are not written over")
    place = packet.rfind(b"</rdf:RDF>")
    if place < 0:
        raise ImageError(f"{result.path}: has XMP that nothing can be added to")
    about = _ABOUT.search(packet)
    return packet[:place] + description(result, about[1].decode("utf-8", "replace") if about else "''").encode() + packet[place:]


def _segment(packet: bytes, result: ImageResult) -> bytes:
    if len(packet) > _MOST:
        raise ImageError(f"{result.path}: its {len(result.faces)} faces do not fit into a JPEG file's XMP; write a sidecar")
    length = 2 + len(_SIGNATURE) + len(packet)
    return b"\xff\xe1" + length.to_bytes(2, "big") + _SIGNATURE + packet
