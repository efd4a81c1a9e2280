"""From an HTTP request to pixels. What is too large, too slow or no picture is refused; nothing is written to disk."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import python_multipart  # noqa: F401  (Starlette's parser needs it, and says so only at the first upload)
from fastapi import HTTPException, Request
from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from tinyfaces.detection.boxes import areas, clip, outside
from tinyfaces.detection.extra_formats import HEIF, plugin_for
from tinyfaces.detection.images import ImageError, Pixels, read_image
from tinyfaces.detection.raw_photos import holds_raw
from tinyfaces.detection.views import Scale, scale_factor
from tinyfaces.jobs.cover_picture import CoverPicture, cover_picture
from tinyfaces.jobs.emoji_cover import emoji_picture, is_emoji
from tinyfaces.service.limits import Limits
from tinyfaces.service.memory import MemoryFull, Share

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings are about what clients send, who are told
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "HEIF")
"""Formats that are decoded, HEIF where the extra is installed. Pillow's rarer decoders are not exposed to the network."""

COVER = "cover"
"""The name in a form of a file that is a picture to cover faces with, or of a field with an emoji."""

_FORM_BYTES = 2_000_000  # of the other fields of a form: enough for 20,000 boxes
_NAME_LENGTH = 255
_MAX_COVERAGE = 4  # how many times boxes may cover a picture; those of faces hardly overlap


@dataclass(frozen=True)
class Upload:
    """A request that has arrived.

    Args:
        name: Name of the file, as the client gave it; a plain name or empty.
        content: Content of the file.
        fields: The other fields of the form; `COVER` is an emoji.
        cover: Content of a second file, a picture to cover faces with.
    """

    name: str
    content: bytes
    fields: dict[str, str]
    cover: bytes | None = None


def busy(reason: str) -> HTTPException:
    """The answer 429."""
    return HTTPException(429, f"{reason}: try again in a moment", {"Retry-After": "1"})


async def receive(request: Request, limits: Limits, share: Share, fields: Collection[str] = ()) -> Upload:
    """Read a request's body: a form with a `file`, or just the bytes of a picture. fields: those that a form may have beside it;
    `COVER` is a second file, or an emoji.

    Raises:
        HTTPException: 400 for no file, a broken form or a name that is a path; 408 if it is too slow; 413 if it is too large; 415
            for another kind of body; 422 for other fields in a form; 429 if there is no room for it in memory.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not form and not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(415, "send a form (multipart/form-data) with a 'file', or the bytes of a picture (image/jpeg ...)")
    length = request.headers.get("content-length", "")
    limit = limits.bytes + (_FORM_BYTES if form else 0)
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.receive_seconds):
            body = _counted(request, limit, limits, share)
            upload = (
                await _from_form(request, body, COVER in fields)
                if form
                else Upload("", b"".join([part async for part in body]), {})
            )
    except TimeoutError:
        message = f"the upload took more than {limits.receive_seconds:g} s to arrive"
        raise HTTPException(408, message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload was interrupted") from None
    for name in upload.fields:
        if name not in fields:
            raise HTTPException(422, f"{name}: no such form field; choose from {', '.join(['file', *fields])}")
    if COVER in upload.fields and (upload.cover is not None or not is_emoji(upload.fields[COVER])):
        raise HTTPException(422, f"{COVER}: must be a file or an emoji, and given once")
    if not upload.content:
        raise HTTPException(400, "the file is empty")
    if len(upload.content) > limits.bytes or len(upload.cover or b"") > limits.bytes:
        raise _too_large(limits)
    return upload


async def _counted(request: Request, limit: int, limits: Limits, share: Share) -> AsyncGenerator[bytes, None]:
    async for part in request.stream():
        try:
            share.add(len(part))
        except MemoryFull:
            raise busy("too many uploads at once") from None
        if share.bytes > limit:
            raise _too_large(limits)
        yield part


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # Starlette's own would write uploads of more than a megabyte to disk


async def _from_form(request: Request, body: AsyncGenerator[bytes, None], cover: bool) -> Upload:
    """What a form holds. cover: Whether it may have a file `COVER` too."""
    parser = _InMemoryParser(request.headers, body, max_files=1 + cover, max_fields=8, max_part_size=_FORM_BYTES)
    try:
        form = await parser.parse()
    except (MultiPartException, MultipartParseError) as error:  # older versions of Starlette pass the second one on
        said = str(getattr(error, "message", error))
        raise HTTPException(400, _one_file(cover) if "files" in said else f"the form cannot be read: {said}") from None
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(400, "the form has no file named 'file'")
    names = [key for key, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(set(names) - {COVER}) > 1 or len(names) > len(set(names)):
        raise HTTPException(400, _one_file(cover))
    name = file.filename or ""
    if not _is_plain(name):
        raise HTTPException(400, "the file's name must be a plain name, not a path")
    given = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
    fields = dict(given)
    if len(fields) < len(given):
        names = [key for key, _ in given]
        raise HTTPException(422, f"{next(name for name in names if names.count(name) > 1)}: given twice")
    content = await file.read()
    await file.close()
    second = form.get(COVER)
    return Upload(name, content, fields, await second.read() if isinstance(second, UploadFile) else None)


def _one_file(cover: bool) -> str:
    return f"send one file only, and a '{COVER}'" if cover else "send one file only"


def _is_plain(name: str) -> bool:
    control = any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
    return name not in (".", "..") and len(name) <= _NAME_LENGTH and not control and not set(name) & set("/\\")


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the upload is larger than {limits.megabytes:g} MB")


def open_picture(upload: Upload, limits: Limits, scale: Scale = 1.0) -> Image.Image:
    """Read a picture's header only. Raises HTTPException: 413 too many pixels, 415 no picture, 422 a damaged one."""
    Image.init()
    if plugin_for(io.BytesIO(upload.content)) is HEIF and not HEIF.load():
        raise HTTPException(415, "HEIC and HEIF pictures need pillow-heif on the server: pip install 'tinyfaces[heif]'")
    if holds_raw(io.BytesIO(upload.content)):
        raise HTTPException(415, "raw files of cameras are not read here: send a JPEG of it")
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(upload.content), formats=formats)
    except UnidentifiedImageError:
        kinds = ", ".join(formats[:-1])
        raise HTTPException(415, f"not a picture, or damaged at the start; {kinds} and {formats[-1]} are supported") from None
    except Image.DecompressionBombError:
        raise HTTPException(413, _too_many_pixels(limits)) from None
    except Exception as error:  # Pillow's plugins raise nearly anything for a damaged header
        raise HTTPException(422, f"damaged ({type(error).__name__})") from None
    width, height = image.size
    if width * height > limits.pixels:
        raise HTTPException(413, f"{width}x{height}: {_too_many_pixels(limits)}")
    factor = scale_factor(scale, width, height)
    if width * height * factor**2 > limits.pixels:
        raise HTTPException(413, f"{width}x{height} at scale {factor:g}: {_too_many_pixels(limits)}")
    return image


def _too_many_pixels(limits: Limits) -> str:
    return f"more than {limits.megapixels:g} megapixels"


def decode(image: Image.Image) -> Pixels:
    """The pixels, upright. Raises HTTPException 422 where they are damaged or cut short."""
    try:
        return read_image(image)
    except ImageError as error:
        raise HTTPException(422, str(error).removeprefix("PIL image: ")) from None


def draw_cover(emoji: str) -> CoverPicture:
    """An emoji to cover faces with. Raises HTTPException 422 where this machine has no font for it."""
    try:
        return cover_picture(emoji_picture(emoji), COVER)
    except ImageError as error:
        raise HTTPException(422, f"{COVER}: {error}") from None


def decode_cover(image: Image.Image) -> CoverPicture:
    """A picture to cover faces with. Raises HTTPException 422 where it is damaged or cut short."""
    try:
        return cover_picture(image, COVER)
    except ImageError as error:
        raise HTTPException(422, str(error)) from None


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes that a request gives.

    Args:
        name: The form's field that has them.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels.
        size: Width and height of the picture that they are for, where the request says so.
    """

    name: str
    boxes: npt.NDArray[np.float32]
    size: tuple[float, float] | None = None


def read_boxes(name: str, text: str | None, limits: Limits) -> GivenBoxes:
    """Boxes from a form's field `name`: a JSON list of [x1, y1, x2, y2], or an answer of /v1/detect. Raises HTTPException 422."""
    wrong = HTTPException(422, f"the field '{name}' must be a JSON list of [x1, y1, x2, y2], or an answer of /v1/detect")
    size = None
    try:
        values = json.loads(text or "")
        if isinstance(values, dict):
            if values.get("width") is not None and values.get("height") is not None:
                size = float(values["width"]), float(values["height"])
            values = values["boxes"]
        boxes = np.array(values, np.float32).reshape(len(values), 4)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        raise wrong from None
    if len(boxes) > limits.boxes:
        raise HTTPException(422, f"{len(boxes)} boxes are too many: at most {limits.boxes} are allowed")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise HTTPException(422, "boxes must be finite, with x1 < x2 and y1 < y2")
    return GivenBoxes(name, boxes, size)


def boxes_within(given: GivenBoxes, pixels: Pixels) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) clipped to the picture HxWx3.

    Raises HTTPException 422 if they are for a picture of another size, or if one is outside this one; also if they cover the
    picture many times over, which faces never do, and which takes long.
    """
    height, width = pixels.shape[:2]
    if given.size not in (None, (width, height)):
        raise HTTPException(422, f"the boxes are for a picture of {given.size[0]:g}x{given.size[1]:g}; it is {width}x{height}")
    beyond = outside(given.boxes, width, height)
    if beyond.any():
        box = " ".join(f"{side:g}" for side in given.boxes[beyond][0].tolist())
        raise HTTPException(422, f"the picture is {width}x{height} pixels, but '{given.name}' has a box outside it ({box})")
    cut = clip(given.boxes, width, height)
    if areas(cut).sum() > _MAX_COVERAGE * width * height:
        raise HTTPException(422, f"the boxes cover the picture more than {_MAX_COVERAGE} times over")
    return cut
