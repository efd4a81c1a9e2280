"""From a file, a PIL image or an array to upright RGB pixels: every format and mode that Pillow reads."""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from tinyfaces.detection.extra_formats import plugin_for
from tinyfaces.detection.raw_photos import RawPhotoError, finished_picture, holds_raw, is_raw
from tinyfaces.files import missing

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .heic .heif .hif .jfif .jp2 .jpe .jpeg .jpg .jxl .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
"""Endings of the files in a folder that count as images."""
MAX_PIXELS = 250_000_000
"""Larger files are refused before they are decoded. The largest phone cameras give 200 million pixels."""

Pixels: TypeAlias = npt.NDArray[np.uint8]


@runtime_checkable
class Regions(Protocol):
    """An image that is not in memory. Slicing it reads a region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        ...

    def __getitem__(self, region: tuple[slice, slice]) -> Pixels:
        """The pixels of some rows and columns, hxwx3 uint8 RGB."""
        ...


ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]
"""A path, the content of a file, a file opened in binary mode, a PIL image or an array."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 255, 330, 50706  # tags of TIFF
_REDUCED = 1  # bit of the subfile type
_OLD_REDUCED = 2
_CR2_MARK = (8, b"CR")
_STRETCHED_PERCENTILES = (0.1, 99.9)
_SPREAD_ENOUGH = 170  # of 255: so much of the range shows whatever there is
_BELIEVED_PIXELS = 50_000_000
_PIXELS_PER_BYTE = 2_000  # at most; a blank PNG in grey has about 1,000
_STRIP_PIXELS = 4_000_000
_pillow_limit = threading.Lock()


class ImageError(ValueError):
    """An image cannot be read. The message is one line that names the file."""


class ImageTooLarge(ImageError):
    """An image has more than 250 million pixels. `tinyfaces.detection.large` reads it region by region."""


def read_image(source: ImageSource) -> Pixels:
    """Read an image as upright RGB pixels.

    The EXIF orientation is applied, also to PIL images. An animation gives its first frame. Transparent parts become white.
    16-bit grey is scaled from its full range. Other grey values beyond 8 bits (integers, floats) count as 0-1, 0-255 or 0-65535,
    whichever is the first range to hold them all; if none does, they are stretched from lowest to highest.

    Args:
        source: A path; the content of an image file as bytes; a file opened in binary mode, which is read from its start where
            that is possible; a PIL image; or an array HxWx3 (RGB), HxWx4 (RGBA) or HxW (grey), uint8. OpenCV's BGR must be
            reversed.

    Returns:
        HxWx3 uint8, RGB.

    Raises:
        ImageError: The file is missing, unreadable, empty, damaged, no image or larger than 250 million pixels; or the array has
            another shape or type.
        TypeError: The source is something else.

    Example:
        ```python
        pixels = tinyfaces.read_image("crowd.jpg")
        ```
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pillow(source, getattr(source, "filename", "") or "PIL image")
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return read_encoded(bytes(source), "bytes")
    if hasattr(source, "read"):
        return _from_open_file(source)
    raise _no_image(source)


def read_encoded(content: bytes, name: str) -> Pixels:
    """Read an image from the content of a file, as `read_image` does. `name` stands in messages. Raises ImageError."""
    with _open_content(content, name) as image:
        return _from_pillow(image, name)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file as a PIL image, not decoded, not upright. Raises ImageError, also for errors within the `with`."""
    name = _one_line(str(path))
    try:
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name}: is not a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ImageError(f"{name}: the file is empty")
            with _open(file, name, raw=is_raw(file, name)) as image:
                refuse_damaged_size(path, *image.size)
                yield image
    except FileNotFoundError:
        raise ImageError(f"{name}: {missing(path)}") from None
    except PermissionError:
        raise ImageError(f"{name}: permission denied") from None
    except ImageError:
        raise
    except Exception as error:  # nearly anything, for odd metadata and damaged pages after the first
        raise ImageError(f"{name}: cannot be read ({_what(error)})") from None


@contextmanager
def open_source(source: ImageSource) -> Iterator[Image.Image]:
    """Whatever `read_image` takes as a PIL image in its own mode: not upright, perhaps not decoded. Raises as `read_image`."""
    if isinstance(source, np.ndarray):
        _from_array(source)  # which says what is wrong with it
        yield Image.fromarray(np.ascontiguousarray(source[..., 0] if source.shape[2:] == (1,) else source))
    elif isinstance(source, Image.Image):
        yield source
    elif isinstance(source, str | os.PathLike):
        with open_image(Path(source)) as image:
            vars(image)["filename"] = _one_line(str(Path(source)))  # which messages name
            yield image
    elif isinstance(source, bytes | bytearray | memoryview):
        with _open_content(bytes(source), "bytes") as image:
            yield image
    elif hasattr(source, "read"):
        with _open_content(*_content_of(source)) as image:
            yield image
    else:
        raise _no_image(source)


def _open_content(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name}: the file is empty")
    file = io.BytesIO(content)
    image = _open(file, name, raw=is_raw(file, name) or (not Path(name).suffix and holds_raw(file)))
    vars(image)["filename"] = name
    return image


def refuse_damaged_size(path: Path, width: int, height: int) -> None:
    """Raise ImageError where a small file says it has many pixels. Its size is damaged, or all of it is blank, and to search it
    takes minutes."""
    size = path.stat().st_size
    if width * height > max(_BELIEVED_PIXELS, _PIXELS_PER_BYTE * size):
        raise ImageError(f"{_one_line(str(path))}: damaged, or blank ({width}x{height} pixels in a file of {size} bytes)")


def _from_file(path: Path) -> Pixels:
    with open_image(path) as image:
        return _from_pillow(image, _one_line(str(path)))


def _from_open_file(file: BinaryIO) -> Pixels:
    return read_encoded(*_content_of(file))


def _content_of(file: BinaryIO) -> tuple[bytes, str]:
    """The content of an open file, and its name for messages."""
    given = getattr(file, "name", None)
    name = _one_line(given) if isinstance(given, str) and given else "file object"
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)  # as Pillow does, so that one file object can be read twice
        content = file.read()
    except Exception as error:  # a network's, an archive's, or that the file is closed
        raise ImageError(f"{name}: cannot be read ({_what(error)})") from None
    if not isinstance(content, bytes):
        raise TypeError(f"{name}: must be opened in binary mode, so that it gives bytes. Received: {type(content).__name__}")
    return content, name


def _open(file: BinaryIO, name: str, *, raw: bool) -> Image.Image:
    plugin = plugin_for(file)
    if plugin is not None and not plugin.load():
        raise ImageError(f"{name}: {plugin.kinds} images need {plugin.package}: pip install 'tinyfaces[{plugin.extra}]'")
    formats = None if plugin is None else [plugin.format]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if raw:
                return finished_picture(file)
            try:
                return Image.open(file, formats=formats)
            except Image.DecompressionBombError:
                with _lifted_pillow_limit():
                    return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        what = "not an image, or in an unsupported format"
        if plugin is not None:
            what = f"damaged, though it begins as {plugin.kinds} images do"
        raise ImageError(f"{name}: {what}") from None
    except RawPhotoError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"{name}: has more than {MAX_PIXELS // 10**6} megapixels") from None
    except Exception as error:  # Pillow's plugins raise nearly anything for a damaged header
        raise ImageError(f"{name}: damaged ({_what(error)})") from None


@contextmanager
def _lifted_pillow_limit() -> Iterator[None]:
    # Pillow's own limit, 179 million pixels, is below what phones give, and can only be changed for all of Pillow.
    with _pillow_limit:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises from twice this number on
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _from_pillow(image: Image.Image, name: str) -> Pixels:
    _refuse_preview(image, name)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"{name}: {width}x{height} is more than {MAX_PIXELS // 10**6} megapixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            return _to_rgb(upright(image))
    except MemoryError:
        raise ImageError(f"{name}: not enough memory for {width}x{height} pixels") from None
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged data
        raise ImageError(f"{name}: damaged or cut short ({_what(error)})") from None


def _refuse_preview(image: Image.Image, name: str) -> None:
    """Raise ImageError where the picture at hand is a reduced copy of another one in the same file, as in raw files."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:  # no TIFF
        return
    if _DNG_VERSION in tags or _is_cr2(image):
        raise ImageError(f"{name}: is a camera's raw file; its name must end as those do, as in .dng or .cr2")
    kind, old_kind = tags.get(_SUBFILE_TYPE, 0), tags.get(_OLD_SUBFILE_TYPE, 0)
    reduced = isinstance(kind, int) and kind & _REDUCED
    if reduced or old_kind == _OLD_REDUCED or _largest_part(image, tags) > image.width * image.height:
        raise ImageError(f"{name}: its first picture is a reduced copy of another one in the file; save that one as a file")


def _is_cr2(image: Image.Image) -> bool:
    file: Any = getattr(image, "fp", None)
    try:
        file.seek(_CR2_MARK[0])
        return bool(file.read(len(_CR2_MARK[1])) == _CR2_MARK[1])
    except Exception:  # already loaded, or closed
        return False


def _largest_part(image: Image.Image, tags: Any) -> int:
    """Pixels of the largest picture that lies in a sub-directory of the first one of a TIFF; 0 if there is none."""
    largest, file = 0, getattr(image, "fp", None)
    try:
        assert file is not None  # else already loaded
        offsets = tags.get(_SUB_DIRECTORIES, ())
        for offset in offsets if isinstance(offsets, tuple) else (offsets,):
            file.seek(0)
            part = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(offset)
            part.load(file)
            largest = max(largest, int(part.get(256, 0)) * int(part.get(257, 0)))
    except Exception:  # a broken directory, which nothing reads
        pass
    return largest


def without_alpha(image: Image.Image) -> Pixels | None:
    """The colours of an upright image as if nothing of it were transparent, HxWx3 uint8 RGB; None if nothing is.

    A face that is nearly transparent is none for a detector, but its colours are in the file.
    """
    if not image.has_transparency_data or image.mode.startswith(("I", "F")):  # whose transparency `read_image` does not apply
        return None
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "RGBA") and image.getextrema()[-1] == (255, 255):
        return None
    bare = image.convert("RGBA") if image.mode == "PA" else image.copy()
    bare.info.pop("transparency", None)
    return _by_strips(bare.convert("L") if bare.mode == "LA" else bare, "RGB")


def stretched(image: Image.Image) -> Pixels | None:
    """A grey image of more than 8 bits with its darkest value as black and its brightest as white, HxWx3 uint8 RGB.

    None for other images, and where `read_image` shows it about so already. Cameras of 12 bits leave most of 16 empty.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    values = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (float(value) for value in np.percentile(values, _STRETCHED_PERCENTILES))
    shown = _to_rgb(image)
    if high <= low or int(shown.max()) - int(shown.min()) > _SPREAD_ENOUGH:
        return None
    return _grey_to_rgb(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def upright(image: Image.Image) -> Image.Image:
    """The image, turned as its EXIF orientation says."""
    turn = _TRANSPOSE.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    if image.format == "JXL" and not getattr(image, "jpeg", False):  # turned by its decoder; a JPEG within it is not
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(_sixteen_to_eight_bit(np.asarray(image)))
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_to_eight_bit(np.asarray(image)))
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        return _by_strips(image, "RGBA")
    return _by_strips(image, "RGB")


def _by_strips(image: Image.Image, mode: str) -> Pixels:
    # Otherwise, a photo of 200 megapixels would be in memory three times while it is converted.
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        values = np.asarray(strip if strip.mode == mode else strip.convert(mode))
        pixels[top:bottom] = _on_white(values) if mode == "RGBA" else values
    return pixels


def _on_white(rgba: npt.NDArray[np.uint8]) -> Pixels:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _grey_to_rgb(grey: npt.NDArray[np.uint8]) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _sixteen_to_eight_bit(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    table = ((np.arange(65536) + 128) // 257).astype(np.uint8)
    return table[grey.astype(np.uint16, copy=False)]


def _to_eight_bit(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    values = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    ranges = [1.0, 255.0, 65535.0] if grey.dtype.kind == "f" else [255.0, 65535.0]
    peak = next((peak for peak in ranges if low >= 0 and high <= peak), None)
    if peak is None:
        values, peak = values - low, (high - low) or 1.0
    return np.rint(values * (255.0 / peak)).astype(np.uint8)


def _from_array(array: npt.NDArray[Any]) -> Pixels:
    shape = "x".join(str(side) for side in array.shape)
    if array.dtype != np.uint8:
        raise ImageError(f"array {shape} of {array.dtype}: values must be uint8, 0-255")
    if array.ndim == 4:
        raise ImageError(f"array {shape}: give a batch as a list of HxWx3 images")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        hint = " (this one looks like CxHxW)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"array {shape}: must be HxWx3, HxWx4 or HxW{hint}")
    if array.size == 0:
        raise ImageError(f"array {shape}: has no pixels")
    if channels == 4:
        return _on_white(array)
    if channels == 1:
        return _grey_to_rgb(array.reshape(array.shape[:2]))
    return np.ascontiguousarray(array)


def _no_image(source: object) -> TypeError:
    return TypeError(
        f"an image must be a path, bytes, a file opened in binary mode, a PIL image or a NumPy array. "
        f"Received: {type(source).__name__}"
    )


def _what(error: Exception) -> str:
    """What went wrong, with the kind of error where that is no usual one of Pillow."""
    message = _one_line(str(error))
    if isinstance(error, OSError | SyntaxError | ValueError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
