"""Photos whose faces are masked, written again in their own format and without their metadata."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from tinyfaces.detection.boxes import nms
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import ImageError, Pixels, open_image, read_image, stretched, upright, without_alpha
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.depth import bits_per_value
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces
from tinyfaces.jobs.metadata import exif_of, kept_exif, kinds_of

LOST_TAG = "EXIF tag"
"""How entries of `removed` begin that name a single tag."""

_EDITED_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16L", "I;16B", "I", "F")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_SAME_BOX = 0.7  # IoU from which two looks at a photo found the same face
_OUTLINE = 0.01  # of all values that lie between the extremes: the edges of what was cut out
_FLAT = 16  # range of transparency in which nothing can be seen
_HIGH_QUALITY = 95  # of JPEG, where the source's own tables cannot be used again
_LOSSLESS_TIFF = "tiff_adobe_deflate"
_FAST_X265 = "ultrafast"  # a fifth of the time of x265's default here, for files 8% larger
_FAX = ("group3", "group4", "tiff_ccitt")
_OTHER_TIFF = ("tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd")


@dataclass(frozen=True)
class Photo:
    """A photo to edit.

    Args:
        path: Its file.
        image: The upright image in its own mode, but palettes and rare modes as RGB or RGBA, and black and white as L. What is
            fully transparent has no colour.
        pixels: HxWx3 uint8 RGB, for the detector.
        looks: The same in other ways in which a viewer may show it: without its transparency, with its greys stretched.
        alpha: Its transparency as a picture, HxWx3 uint8, if that may show something.
        kind: Its format, as Pillow calls it.
        save: Options to write it with.
        exif: Its EXIF block.
        found: The kinds of metadata in the file.
        bilevel: Whether it is to be written in black and white only.
    """

    path: Path
    image: Image.Image
    pixels: Pixels
    looks: Sequence[Pixels]
    alpha: Pixels | None
    kind: str
    save: dict[str, Any]
    exif: Image.Exif
    found: list[str]
    bilevel: bool = False


def open_photo(path: Path) -> Photo:
    """Read a photo and all that is needed to write it again.

    Raises:
        ImageError: It cannot be read; it holds several pictures (a document), of which only one would be masked; or it has more
            than 8 bits per colour, which cannot be written again.
    """
    with open_image(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise ImageError(f"{path}: has {frames} pictures, of which only the first would be masked; save them as single files")
        _refuse_deep_colour(image, path)
        vars(image)["filename"] = str(path)  # which messages name
        pixels = read_image(image)
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        if kind not in Image.SAVE:
            raise ImageError(f"{path}: {kind} files cannot be written; convert it to PNG or TIFF")
        save = _save_options(image, kind)
        if kind == "WEBP" and _is_lossless_webp(path):
            save = {**save, "lossless": True}
        exif = exif_of(image)
        found = kinds_of(image, exif)
        whole = upright(image).copy()
    return photo_of(path, whole, pixels, kind, save, exif, found)


def photo_of(
    path: Path, whole: Image.Image, pixels: Pixels, kind: str, save: dict[str, Any], exif: Image.Exif, found: list[str]
) -> Photo:
    """The `Photo` of an upright image in its own mode, which may be changed; the other values are those of `Photo`."""
    bilevel = whole.mode == "1" and not whole.has_transparency_data
    looks = [look for look in (without_alpha(whole), stretched(whole)) if look is not None]
    image = _editable(whole, bilevel)
    return Photo(path, image, pixels, looks, _alpha_picture(image), kind, save, exif, found, bilevel)


def find_photo_faces(photo: Photo, detector: Detector, cover: CoverThreshold) -> tuple[Faces, Faces]:
    """The faces of a photo to cover, in all ways in which a viewer may show it, and those of them that its transparency alone
    shows."""

    def find(look: Pixels) -> Faces:
        return cover.apply(detector.detect(look, threshold=cover.lowest))

    in_alpha = [] if photo.alpha is None else [photo.alpha, 255 - photo.alpha]
    seen = [find(look) for look in (photo.pixels, *photo.looks)]
    shown = [find(look) for look in in_alpha]
    return _each_once([*seen, *shown]), _each_once(shown)


def anonymised(
    photo: Photo,
    faces: Faces,
    style: MaskStyle,
    keep_metadata: bool = False,
    in_alpha: Faces | None = None,
    picture: CoverPicture | None = None,
) -> bytes:
    """Mask the faces of a photo. Colour profile and resolution are kept.

    Args:
        photo: What to mask.
        faces: With boxes in pixels.
        style: How faces are masked.
        keep_metadata: Keep the EXIF block (date, camera, place), but never its thumbnail, maker's notes, XMP or IPTC, which can
            hold the picture without masks.
        in_alpha: Faces that are to be masked in the transparency too.
        picture: Put over each mask.

    Returns:
        The content of a file in the photo's own format.

    Raises:
        ImageError: The photo cannot be written in this format.
    """
    masked = masked_picture(photo, faces, style, in_alpha, picture)
    options = dict(photo.save)
    if keep_metadata:
        options["exif"] = kept_exif(photo.exif)[0]
    return _encoded(masked, photo, options)


def masked_picture(
    photo: Photo, faces: Faces, style: MaskStyle, in_alpha: Faces | None = None, picture: CoverPicture | None = None
) -> Image.Image:
    """`masked_image` of a photo, in black and white where it is."""
    masked = masked_image(photo.image, faces, style, in_alpha, picture)
    return masked.convert("1", dither=Image.Dither.NONE) if photo.bilevel else masked


def masked_image(
    image: Image.Image, faces: Faces, style: MaskStyle, in_alpha: Faces | None = None, picture: CoverPicture | None = None
) -> Image.Image:
    """A copy of the image of a `Photo` with faces masked, and those of `in_alpha` in its transparency too; without metadata."""
    values = np.array(image)
    channels = values[..., None] if values.ndim == 2 else values
    alpha = image.mode in ("LA", "RGBA")
    blank = _blank(image.mode)
    planes = [Plane(channels[..., n], 1, 1, blank[n]) for n in range(channels.shape[2] - alpha)]
    if picture is not None:
        covers = picture.in_mode(image.mode, float(values.max(initial=0)))
        planes = [replace(plane, cover=cover) for plane, cover in zip(planes, covers, strict=True)]
    mask_faces(planes, faces.boxes, style)
    if alpha and in_alpha is not None:
        mask_faces([Plane(channels[..., -1], 1, 1, 255)], in_alpha.boxes, style)
    return Image.fromarray(values) if image.mode != "CMYK" else Image.fromarray(values, "CMYK")


def removed(photo: Photo, keep_metadata: bool) -> list[str]:
    """The kinds of metadata in the photo that `anonymised` leaves out, and single EXIF tags that cannot be kept."""
    if not keep_metadata:
        return photo.found
    kinds = [kind for kind in photo.found if kind not in ("EXIF", "GPS")]
    return [*kinds, *(f"{LOST_TAG} {name}" for name in kept_exif(photo.exif)[1])]


def _each_once(parts: Sequence[Faces]) -> Faces:
    if len(parts) == 1:
        return parts[0]
    faces = joined(parts)[0] if parts else Faces.empty()
    return faces[nms(faces.boxes, faces.scores, _SAME_BOX)]


def _alpha_picture(image: Image.Image) -> Pixels | None:
    """The transparency of an image as grey pixels; None where it is but an outline: all or nothing, with soft edges."""
    if image.mode not in ("LA", "RGBA"):
        return None
    alpha: Pixels = np.asarray(image.getchannel("A"))
    between = np.count_nonzero((alpha > 0) & (alpha < 255)) / alpha.size
    if between < _OUTLINE or int(alpha.max()) - int(alpha.min()) < _FLAT:
        return None
    return np.repeat(alpha[..., None], 3, axis=2)


def _editable(image: Image.Image, bilevel: bool) -> Image.Image:
    """An upright image in a mode whose values can be changed; no colour is left where it is fully transparent."""
    image.info = {name: value for name, value in image.info.items() if name == "transparency"}
    if bilevel or (image.mode == "L" and image.has_transparency_data):
        image = image.convert("L" if bilevel else "LA")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.has_transparency_data and image.mode not in ("LA", *_DEEP_MODES):
        image = image.convert("RGBA")
    elif image.mode not in _EDITED_MODES:
        image = image.convert("RGB")
    if image.mode not in ("LA", "RGBA"):
        return image
    values: npt.NDArray[np.uint8] = np.array(image)
    values[values[..., -1] == 0] = 0
    return Image.fromarray(values)


def _refuse_deep_colour(image: Image.Image, path: Path) -> None:
    if image.mode in _DEEP_MODES:
        return
    with path.open("rb") as file:
        bits = bits_per_value(image, file)
    if bits > 8:
        raise ImageError(f"{path}: has {bits} bits per colour, of which only 8 could be written; convert it to 8 bits first")


def _encoded(image: Image.Image, photo: Photo, options: dict[str, Any]) -> bytes:
    """The content of a file. Where the source's own way of compression cannot be had, the next best of the same format is."""
    ways = [options]
    if photo.kind == "JPEG" and options.get("qtables"):
        ways.append({**options, "qtables": None, "quality": _HIGH_QUALITY})
    if photo.kind == "TIFF" and options.get("compression"):
        lossless = {**options, "compression": _LOSSLESS_TIFF}
        ways = [options, lossless] if _suits(options["compression"], image.mode) else [lossless]
    if photo.kind == "HEIF":
        ways.append({name: value for name, value in options.items() if name != "enc_params"})
    return encoded(image, photo.path, photo.kind, ways)


def encoded(image: Image.Image, path: Path, kind: str, ways: Sequence[dict[str, Any]]) -> bytes:
    """The content of a file of a format, written with the first of several sets of options that fits.

    Raises:
        ImageError: None of them does. `path` stands in the message.
    """
    for number, way in enumerate(ways, start=1):
        content = io.BytesIO()
        try:
            image.save(content, kind, **way)
            return content.getvalue()
        except Exception as error:  # Pillow's plugins raise nearly anything for options that do not fit
            if number == len(ways):
                what = f"{type(error).__name__}: {error}"
                raise ImageError(f"{path}: cannot be written as {kind} ({what})") from None
    raise AssertionError("there is always a way to try")


def _suits(compression: str, mode: str) -> bool:
    """Whether a TIFF can be written so. Where it can't, some versions of Pillow end the process instead of raising an error."""
    if compression in _FAX:
        return mode == "1"
    if compression == "jpeg":
        return mode in ("L", "RGB", "CMYK")
    return compression in _OTHER_TIFF


def _blank(mode: str) -> tuple[float, ...]:
    return (0, 0, 0, 255) if mode == "CMYK" else (0, 0, 0, 0)


def _save_options(image: Image.Image, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if image.info.get("icc_profile"):
        options["icc_profile"] = image.info["icc_profile"]
    if _is_resolution(image.info.get("dpi")):
        options["dpi"] = image.info["dpi"]
    if image.mode in _DEEP_MODES and image.info.get("transparency") is not None:
        options["transparency"] = image.info["transparency"]  # one grey, which is in no channel of its own
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
    elif kind == "HEIF":
        options.update(_heif_options(image))
    elif kind == "JXL":
        options["quality"] = _HIGH_QUALITY
    elif kind == "TIFF" and image.info.get("compression") not in (None, "raw"):
        options["compression"] = image.info["compression"]
        if options["compression"] == "jpeg":
            options["quality"] = _HIGH_QUALITY
    return options


def _heif_options(image: Image.Image) -> dict[str, Any]:
    """Chroma and colours of a HEIF image as they are. Nothing else of it may come along, which Pillow's plugin would copy."""
    options: dict[str, Any] = {"quality": 90, "enc_params": {"preset": _FAST_X265}}
    if image.info.get("chroma") in (420, 422, 444):
        options["chroma"] = image.info["chroma"]
    if image.info.get("nclx_profile"):
        options["nclx_profile"] = image.info["nclx_profile"]
    return options


def _is_resolution(value: Any) -> bool:
    """Whether it is two numbers as files can hold them; EXIF blocks say anything."""
    try:
        return len(value) == 2 and all(math.isfinite(side) and 0 < side < 65536 for side in map(float, value))
    except (TypeError, ValueError):
        return False


def _is_lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16)[12:] == b"VP8L"
