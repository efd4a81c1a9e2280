"""Objects of Pascal VOC's XML files."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tinyfaces.parsing.texts import AnnotationError, bytes_of

_TRUE = ("1", "true", "yes")


def voc_root(file: Path, content: bytes | None = None) -> ElementTree.Element:
    """The root of an XML file, in the encoding that it names. content: of the file, where it is read already. Raises
    AnnotationError."""
    try:
        return _xml_of(bytes_of(file) if content is None else content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{file}: not valid XML ({error})") from None


def voc_boxes(root: ElementTree.Element, file: Path, only: str | None = None) -> Iterator[tuple[list[float], bool]]:
    """Each object's box, x1 y1 x2 y2 in pixels, and whether it is marked as difficult.

    Args:
        root: Of the file.
        file: For messages.
        only: The name of the objects that are meant, in lower case; None for all.

    Raises:
        AnnotationError: An object has no box of finite numbers.
    """
    for one in root.iter("object"):
        if only is not None and one.findtext("name", "").strip().lower() != only:
            continue
        what = "a face" if only == "face" else "an object"
        try:
            x1, y1, x2, y2 = (float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise AnnotationError(f"{file}: {what} has no 'bndbox' of 4 numbers") from None
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise AnnotationError(f"{file}: a 'bndbox' has a number that is not finite")
        # Both ends are pixels within the box, counted from 1.
        yield [x1 - 1, y1 - 1, x2, y2], one.findtext("difficult", "0").strip().lower() in _TRUE


def _xml_of(content: bytes) -> ElementTree.Element:
    """XML in the encoding that it names. Raises ParseError, ValueError and LookupError."""
    try:
        return ElementTree.fromstring(content)
    except ValueError:  # an encoding of several bytes, which this parser leaves to Python
        declared = re.match(rb"""<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""", content)
        if declared is None:
            raise
        return ElementTree.fromstring(content[declared.end() :].decode(declared[1].decode()))
