"""Photos whose faces are masked, written again in their own format and without their metadata."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import ImageError, Pixels, open_image, read_image, upright
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces

_EDITED_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16L", "I;16B", "I", "F")
# What may hold a picture without masks, or describes the pixels as they were: previews, maker notes, orientation, XMP, IPTC.
_NEVER_KEPT = (
    ExifTags.Base.Orientation, ExifTags.Base.SubIFDs, ExifTags.Base.JpegIFOffset, ExifTags.Base.JpegIFByteCount,
    ExifTags.Base.XMLPacket, ExifTags.Base.IPTCNAA, ExifTags.Base.ImageResources,
    ExifTags.Base.StripOffsets, ExifTags.Base.StripByteCounts, ExifTags.Base.TileOffsets, ExifTags.Base.TileByteCounts,
)  # fmt: skip
_IN_INFO = {"xmp": "XMP", "photoshop": "IPTC", "comment": "comment", "XML:com.adobe.xmp": "XMP", "mp": "second picture"}


@dataclass(frozen=True)
class Photo:
    """A photo to edit.

    Args:
        path: Its file.
        image: The upright image in its own mode, but palettes and rare modes as RGB or RGBA.
        pixels: HxWx3 uint8 RGB, for the detector.
        kind: Its format, as Pillow calls it.
        save: Options to write it with.
        exif: Its EXIF block.
        found: The kinds of metadata in the file.
    """

    path: Path
    image: Image.Image
    pixels: Pixels
    kind: str
    save: dict[str, Any]
    exif: Image.Exif
    found: list[str]


def open_photo(path: Path) -> Photo:
    """Read a photo and all that is needed to write it again.

    Raises:
        ImageError: It cannot be read, or holds several pictures (an animation, a document), of which only one would be masked.
    """
    with open_image(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise ImageError(f"{path}: has {frames} pictures, of which only the first would be masked; save them as single files")
        vars(image)["filename"] = str(path)  # which messages name
        pixels = read_image(image)
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        if kind not in Image.SAVE:
            raise ImageError(f"{path}: {kind} files cannot be written; convert it to PNG or TIFF")
        save = _save_options(image, kind)
        if kind == "WEBP" and _is_lossless_webp(path):
            save = {**save, "lossless": True}
        exif = _exif_of(image)
        found = _metadata(image, exif)
        whole = upright(image).copy()
    whole.info = {name: value for name, value in whole.info.items() if name == "transparency"}
    if whole.mode not in _EDITED_MODES:
        whole = whole.convert("RGBA" if whole.has_transparency_data else "RGB")
    return Photo(path, whole, pixels, kind, save, exif, found)


def anonymised(photo: Photo, faces: Faces, style: MaskStyle, keep_metadata: bool = False) -> bytes:
    """Mask the faces of a photo. Colour profile and resolution are kept.

    Args:
        photo: What to mask.
        faces: With boxes in pixels.
        style: How faces are masked.
        keep_metadata: Keep the EXIF block (date, camera, place), but never its thumbnail, maker's notes, XMP or IPTC, which can
            hold the picture without masks.

    Returns:
        The content of a file in the photo's own format.

    Raises:
        ImageError: The photo cannot be written in this format.
    """
    values = np.array(photo.image)
    channels = values[..., None] if values.ndim == 2 else values
    alpha = photo.image.mode in ("LA", "RGBA")
    blank = _blank(photo.image.mode)
    planes = [Plane(channels[..., n], 1, 1, blank[n]) for n in range(channels.shape[2] - alpha)]
    mask_faces(planes, faces.boxes, style)
    masked = Image.fromarray(values) if photo.image.mode != "CMYK" else Image.fromarray(values, "CMYK")
    options = dict(photo.save)
    if keep_metadata:
        options["exif"] = _kept_exif(photo.exif)
    content = io.BytesIO()
    try:
        masked.save(content, photo.kind, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{photo.path}: cannot be written as {photo.kind} ({error})") from None
    return content.getvalue()


def removed(photo: Photo, keep_metadata: bool) -> list[str]:
    """The kinds of metadata in the photo that `anonymised` leaves out."""
    return [kind for kind in photo.found if not (keep_metadata and kind in ("EXIF", "GPS"))]


def _blank(mode: str) -> tuple[float, ...]:
    return (0, 0, 0, 255) if mode == "CMYK" else (0, 0, 0, 0)


def _save_options(image: Image.Image, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name in ("icc_profile", "dpi"):
        if image.info.get(name):
            options[name] = image.info[name]
    if kind == "JPEG":
        # With the source's own tables, what is not masked loses next to nothing, and the file keeps about its size.
        options["qtables"] = getattr(image, "quantization", None)
        sampling = JpegImagePlugin.get_sampling(image)
        if sampling >= 0:
            options["subsampling"] = sampling
    elif kind == "WEBP":
        options["quality"] = 92
    elif kind == "AVIF":
        options["quality"] = 90
    elif kind == "TIFF" and image.info.get("compression") not in (None, "raw"):
        options["compression"] = image.info["compression"]
    return options


def _metadata(image: Image.Image, exif: Image.Exif) -> list[str]:
    found = []
    if image.format in ("JPEG", "MPO", "PNG", "WEBP", "AVIF") and len(exif):
        found.append("EXIF")
    if exif.get_ifd(ExifTags.IFD.GPSInfo):
        found.append("GPS")
    if exif.get_ifd(ExifTags.IFD.IFD1):
        found.append("thumbnail")
    if getattr(image, "text", None):
        found.append("text")
    if getattr(image, "n_frames", 1) > 1:
        found.append("second picture")
    found += [kind for name, kind in _IN_INFO.items() if image.info.get(name) and kind not in found]
    return found


def _kept_exif(exif: Image.Exif) -> bytes:
    details = dict(exif.get_ifd(ExifTags.IFD.Exif))
    details.pop(ExifTags.Base.MakerNote, None)
    places = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag not in (*_NEVER_KEPT, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            kept[tag] = value
    # Pillow writes the main block and these two, and no thumbnail.
    if details:
        kept.get_ifd(ExifTags.IFD.Exif).update(details)
    if places:
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(places)
    return kept.tobytes()


def _is_lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16)[12:] == b"VP8L"


def _exif_of(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # a broken EXIF block, which is not written again
        return Image.Exif()
