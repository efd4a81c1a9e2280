"""Photos decoded once into one memory-mapped file, so that no training step waits for a decoder."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError
from tinyfaces.detection.images import ImageError, read_image
from tinyfaces.files import write_atomically
from tinyfaces.training.run_log import progress_bar
from tinyfaces.training.worker_pool import map_in_processes

_FEW = 32  # photos, which are decoded before other processes would have started


@dataclass(frozen=True)
class ImageCache:
    """Random access to decoded photos.

    Attributes:
        pixels: one flat uint8 memory map; image i starts at offsets[i] and is heights[i] x widths[i] x 3, RGB.
        offsets: (N,) in bytes.
        heights: (N,) in pixels. widths: likewise.
    """

    pixels: "np.memmap[Any, np.dtype[np.uint8]]"
    offsets: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        height, width, start = int(self.heights[index]), int(self.widths[index]), int(self.offsets[index])
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file itself: a memory map would be copied to it byte by byte."""
        return _reopened, (self.pixels.filename, self.offsets, self.heights, self.widths)

    def of(self, places: npt.NDArray[np.int64]) -> "ImageCache":
        """Some of the photos."""
        return ImageCache(self.pixels, self.offsets[places], self.heights[places], self.widths[places])


def _reopened(
    file: Path, offsets: npt.NDArray[np.int64], heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]
) -> ImageCache:
    return ImageCache(np.memmap(file, np.uint8, "r"), offsets, heights, widths)


def open_cache(
    images: Sequence[AnnotatedImage], folder: Path, workers: int | None = None, problems: dict[Path, str] | None = None
) -> ImageCache:
    """Open a cache of decoded photos, and make it first if it isn't there yet.

    A photo listed twice is in it once. The file's name is a digest of the images' paths and sizes in bytes, so changed
    photos make a new cache. It is written under another name and renamed when complete, and beside it a list of the photos
    that cannot be used, if there are any.

    Args:
        images: the photos.
        folder: of the cache files.
        workers: processes that decode; as many as cores if left out.
        problems: gets a line for each photo that cannot be used, whose pixels are then black; if left out, the first one raises.

    Returns:
        The photos' pixels, in the order of `images`.

    Raises:
        AnnotationError: a photo's size isn't the one that its annotation states, or the disk has no room for the cache.
        ImageError: a photo cannot be decoded.
    """
    listed = {(image.path, image.width, image.height): image for image in images}
    place_of = {name: place for place, name in enumerate(listed)}
    places = [place_of[image.path, image.width, image.height] for image in images]
    distinct = list(listed.values())
    heights = np.array([image.height for image in distinct], np.int64)
    widths = np.array([image.width for image in distinct], np.int64)
    sizes = heights * widths * 3
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    target = folder / f"{_digest(distinct)}.rgb"
    failed_file = target.with_suffix(".failed.json")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < offsets[-1]:
            raise AnnotationError(
                f"{folder}: {len(distinct):,} decoded photos take {offsets[-1] / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
            )
        partial = target.with_suffix(f".partial{os.getpid()}")
        try:
            with partial.open("wb") as file:
                file.truncate(int(offsets[-1]))
            with progress_bar() as progress:
                arguments = (repeat(partial), offsets[:-1].tolist(), distinct, repeat(problems is not None))
                written = map_in_processes(_decode_into, *arguments, workers=1 if len(distinct) <= _FEW else workers)
                decoded = list(progress.track(written, len(distinct), description="decoding photos"))
            failed = {str(image.path): line for image, line in zip(distinct, decoded, strict=True) if line is not None}
            if failed:
                write_atomically(failed_file, json.dumps(failed).encode())
            else:
                failed_file.unlink(missing_ok=True)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    known = json.loads(failed_file.read_bytes()) if failed_file.exists() else {}
    if known and problems is None:
        raise ImageError(next(iter(known.values())))
    if problems is not None:
        problems.update({Path(path): line for path, line in known.items()})
    return ImageCache(np.memmap(target, np.uint8, "r"), offsets[places], heights[places], widths[places])


def _decode_into(file: Path, start: int, image: AnnotatedImage, forgiving: bool) -> str | None:
    """Decode a photo to its place in the file; if it fails and that may be, give a line about it."""
    try:
        _decode(file, start, image)
    except Exception as error:  # whatever is wrong with one photo, the others are used
        if not forgiving:
            raise
        return problem_with(image.path, error)
    return None


def problem_with(photo: Path, error: Exception) -> str:
    """A line about a photo from which something could not be made."""
    if isinstance(error, ImageError | AnnotationError):
        return str(error)
    reason = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
    return f"{photo}: cannot be read ({' '.join(reason.split())})"


def _decode(file: Path, start: int, image: AnnotatedImage) -> None:
    photo = read_image(image.path)
    if photo.shape[:2] != (image.height, image.width):
        raise AnnotationError(
            f"{image.path}: is {photo.shape[1]}x{photo.shape[0]}, its annotation says {image.width}x{image.height}"
        )
    with file.open("r+b") as cache:
        cache.seek(start)
        cache.write(photo.data)


def _digest(images: Sequence[AnnotatedImage]) -> str:
    facts = [(str(image.path.resolve()), image.path.stat().st_size) for image in images]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
