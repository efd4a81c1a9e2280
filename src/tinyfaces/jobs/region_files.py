"""Face regions in XMP, read: sidecars and photos of this program, and of photo libraries that write MWG regions."""

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from xml.etree import ElementTree

from tinyfaces.detection.headers import orientation
from tinyfaces.detection.images import ImageError, open_image
from tinyfaces.jobs.box_checks import checked_boxes, stated_size
from tinyfaces.jobs.face_regions import NAMESPACES, ROTATED, upright_area
from tinyfaces.jobs.inputs import is_image_name
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.parsing.texts import AnnotationError
from tinyfaces.parsing.voc_objects import voc_root

_REGIONS = b"http://www.metadataworkinggroup.com/schemas/regions/"


@dataclass(frozen=True)
class PhotoXmp:
    """What the file of a photo says of it.

    Args:
        packet: Its XMP; empty if it has none.
        turned: Its EXIF orientation, 1-8.
    """

    packet: bytes
    turned: int


def sidecar_faces(file: Path, content: bytes, name: str) -> KnownFaces:
    """The faces of a sidecar. What is wrong with it is the problem of its photo.

    Args:
        file: Such as `a.jpg.xmp` or `a.xmp`. Where its photo lies beside it, that says how it is turned; else the sidecar must.
        content: Of the file.
        name: Its path below the folder given, without `.xmp`.
    """
    label_suffix = "" if is_image_name(Path(name)) else file.suffix  # a.xmp may be about a.jpg or a.png
    try:
        beside = _photo_beside(file)
        root = voc_root(file, content)
        turned = _stated_orientation(root, file) if beside is None else xmp_of(beside).turned
        return _faces(root, file, name, turned, label_suffix)
    except AnnotationError as error:
        return KnownFaces(file, name, label_suffix=label_suffix, problem=str(error), alone=True)


def photo_faces(file: Path, xmp: PhotoXmp, name: str) -> KnownFaces:
    """The faces that a photo holds as regions. What is wrong with them is the photo's problem.

    Args:
        file: The photo.
        xmp: What it says.
        name: Its path below the folder given.
    """
    try:
        return _faces(voc_root(file, xmp.packet.strip(b"\0 \r\n\t")), file, name, xmp.turned)
    except AnnotationError as error:
        return KnownFaces(file, name, problem=str(error), alone=True)


def photo_with_regions(file: Path) -> PhotoXmp | None:
    """What a photo with regions of any kind says; None for every other file."""
    try:
        xmp = xmp_of(file) if is_image_name(file) else None
    except AnnotationError:
        return None
    return xmp if xmp is not None and _REGIONS in xmp.packet else None


def xmp_of(photo: Path) -> PhotoXmp:
    """What a photo says. Raises AnnotationError."""
    try:
        with open_image(photo) as image:
            packet = image.info.get("xmp")
            return PhotoXmp(packet if isinstance(packet, bytes) else b"", orientation(image))
    except ImageError as error:
        raise AnnotationError(str(error)) from None


def _photo_beside(file: Path) -> Path | None:
    """The photo that a sidecar is about, if it lies in the same folder and there is only one."""
    whole = file.with_suffix("")
    if is_image_name(whole):
        return whole if whole.is_file() else None
    found = [other for other in file.parent.glob(f"{escape(whole.name)}.*") if is_image_name(other) and other.stem == whole.name]
    return found[0] if len(found) == 1 else None


def _stated_orientation(root: ElementTree.Element, file: Path) -> int:
    """What a sidecar says itself. Raises AnnotationError."""
    for element in root.iter():
        if (stated := _value(element, "tiff", "Orientation")) in {str(turned) for turned in range(1, 9)}:
            return int(stated)
    raise AnnotationError(f"{file}: does not say how its photo is turned (tiff:Orientation), and no photo lies beside it")


def _faces(root: ElementTree.Element, file: Path, name: str, turned: int, label_suffix: str = "") -> KnownFaces:
    """The regions of the type Face, or of none. Raises AnnotationError."""
    regions = next(root.iter(f"{{{NAMESPACES['mwg-rs']}}}Regions"), None)
    if regions is None:
        raise AnnotationError(f"{file}: has no face regions")
    applied = next(regions.iter(f"{{{NAMESPACES['mwg-rs']}}}AppliedToDimensions"), None)
    stated = {} if applied is None else {side: _value(applied, "stDim", side[0]) for side in ("width", "height")}
    pixels = applied is None or _value(applied, "stDim", "unit") in ("", "pixel")
    size = stated_size(stated, str(file)) if pixels and all(stated.values()) else None
    boxes = []
    for entry in regions.iter(f"{{{NAMESPACES['rdf']}}}li"):
        if _value(entry, "mwg-rs", "Type") in ("Face", ""):
            area = next(entry.iter(f"{{{NAMESPACES['mwg-rs']}}}Area"), None)
            boxes.append(upright_area(*_area(area, size, file), turned))
    upright = size[::-1] if size is not None and turned in ROTATED else size
    return KnownFaces(
        file, name, checked_boxes(boxes, str(file)), None, upright, relative=True, label_suffix=label_suffix, alone=True
    )


def _area(area: ElementTree.Element | None, size: tuple[int, int] | None, file: Path) -> tuple[float, float, float, float]:
    """Centre x and y, width and height, relative to the photo as stored. Raises AnnotationError."""
    try:
        if area is None:
            raise ValueError
        x, y, width, height = (float(_value(area, "stArea", side)) for side in "xywh")
    except ValueError:
        raise AnnotationError(f"{file}: a face has no area of x, y, w and h; only rectangles are read") from None
    if _value(area, "stArea", "unit") in ("", "normalized"):
        return x, y, width, height
    if size is None:
        raise AnnotationError(f"{file}: has areas in pixels, and does not say the size of the photo")
    return x / size[0], y / size[1], width / size[0], height / size[1]


def _value(element: ElementTree.Element, space: str, name: str) -> str:
    """A property of a resource, which RDF writes as an attribute, as an element, or within a description; empty if missing."""
    key = f"{{{NAMESPACES[space]}}}{name}"
    within = [element, *element.findall(f"{{{NAMESPACES['rdf']}}}Description")]
    found = next((one.get(key) or one.findtext(key) for one in within if one.get(key) or one.findtext(key)), "")
    return (found or "").strip()
