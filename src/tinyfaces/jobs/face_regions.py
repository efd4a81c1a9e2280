"""Face regions in XMP, as the Metadata Working Group defines them and photo libraries read them."""

from pathlib import Path

from tinyfaces.detection.headers import orientation
from tinyfaces.detection.images import ImageError, open_image
from tinyfaces.files import named_after
from tinyfaces.jobs.image_results import ImageResult, Named

NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
}
"""The prefixes in a packet, and what they stand for."""

_TOOLKIT = "tinyfaces"
ROTATED = (5, 6, 7, 8)
"""EXIF orientations in which width and height are exchanged."""


def xmp_name(result: Named) -> Path:
    """The sidecar's path: like the image's, with `.xmp` after its ending, so that `a.jpg` and `a.png` have one each."""
    return named_after(result.name, f"{result.name.suffix}.xmp")


def is_other_sidecar(path: Path) -> bool:
    """Whether there is a sidecar that another program wrote, or may have added to."""
    try:
        return f"x:xmptk='{_TOOLKIT}'" not in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def as_xmp(result: ImageResult) -> str:
    """An XMP sidecar with a nameless region of the type Face for each face.

    Regions are relative to the photo as it is stored, before its orientation is applied; so the photo's header is read.
    """
    turned = _orientation(result.path)
    stated = f"xmlns:tiff='{NAMESPACES['tiff']}' tiff:Orientation='{turned}'"
    return (
        f"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>\n<x:xmpmeta xmlns:x='{NAMESPACES['x']}' x:xmptk='{_TOOLKIT}'>\n"
        f" <rdf:RDF xmlns:rdf='{NAMESPACES['rdf']}'>\n  <rdf:Description rdf:about='' {stated}/>\n"
        f"{_description(result, turned)} </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end='w'?>\n"
    )


def stored_area(box: list[float], width: int, height: int, turned: int) -> tuple[float, float, float, float]:
    """Where a box of the upright photo is in the photo as stored.

    Args:
        box: x1 y1 x2 y2 in pixels.
        width: Of the upright photo.
        height: Likewise.
        turned: The EXIF orientation, 1-8.

    Returns:
        Centre x and y, width and height, relative to the stored photo.
    """
    x1, y1, x2, y2 = box
    x, y, w, h = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    across, down = {
        1: (x, y), 2: (1 - x, y), 3: (1 - x, 1 - y), 4: (x, 1 - y), 5: (y, x), 6: (y, 1 - x), 7: (1 - y, 1 - x), 8: (1 - y, x),
    }[turned]  # fmt: skip
    return (across, down, h, w) if turned in ROTATED else (across, down, w, h)


def upright_area(across: float, down: float, width: float, height: float, turned: int) -> list[float]:
    """The other way round: x1 y1 x2 y2, relative to the upright photo, from an area that is relative to the stored one."""
    x, y = {
        1: (across, down), 2: (1 - across, down), 3: (1 - across, 1 - down), 4: (across, 1 - down),
        5: (down, across), 6: (1 - down, across), 7: (1 - down, 1 - across), 8: (down, 1 - across),
    }[turned]  # fmt: skip
    w, h = (height, width) if turned in ROTATED else (width, height)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def _orientation(path: Path) -> int:
    """That of the photo; 1 where it cannot be read."""
    try:
        with open_image(path) as image:
            return orientation(image)
    except ImageError:
        return 1


def description(result: ImageResult, about: str = "''") -> str:
    """The faces as an `rdf:Description`. about: the quoted name of the resource, as other descriptions in a packet have it."""
    return _description(result, _orientation(result.path), about)


def _description(result: ImageResult, turned: int, about: str = "''") -> str:
    width, height = (result.height, result.width) if turned in ROTATED else (result.width, result.height)
    boxes = result.faces.to_dict()["boxes"]
    regions = "".join(_region(*stored_area(box, result.width, result.height, turned)) for box in boxes)
    spaces = "".join(f"\n    xmlns:{name}='{NAMESPACES[name]}'" for name in ("mwg-rs", "stArea", "stDim"))
    return (
        f"  <rdf:Description rdf:about={about}{spaces}>\n"
        "   <mwg-rs:Regions rdf:parseType='Resource'>\n"
        f"    <mwg-rs:AppliedToDimensions stDim:w='{width}' stDim:h='{height}' stDim:unit='pixel'/>\n"
        f"    <mwg-rs:RegionList><rdf:Bag>\n{regions}    </rdf:Bag></mwg-rs:RegionList>\n"
        "   </mwg-rs:Regions>\n  </rdf:Description>\n"
    )


def _region(x: float, y: float, width: float, height: float) -> str:
    """An entry of the list; all numbers are relative to the photo."""
    area = f"stArea:x='{x:.9f}' stArea:y='{y:.9f}' stArea:w='{width:.9f}' stArea:h='{height:.9f}' stArea:unit='normalized'"
    kind = "<mwg-rs:Type>Face</mwg-rs:Type>"
    return f"     <rdf:li rdf:parseType='Resource'>\n      <mwg-rs:Area {area}/>\n      {kind}\n     </rdf:li>\n"
