"""Animations (GIF, PNG, WebP, AVIF) masked frame by frame."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import MAX_PIXELS, ImageError, open_image, read_image, upright
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.covered_faces import CoveredFaces, Masking, covered_faces
from tinyfaces.jobs.depth import bits_per_value
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.metadata import exif_of, kept_exif, kinds_of
from tinyfaces.jobs.photos import LOST_TAG, encoded, masked_image, photo_of

_NONE = Faces.empty()
_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
_SUFFIXES = (".gif", ".png", ".apng", ".webp", ".avif")
_MODES = ("L", "LA", "RGB", "RGBA")
_CLEARED = 2  # GIF's disposal: each frame begins on an empty canvas
_WEBP_QUALITY, _AVIF_QUALITY = 92, 90


def frames_in(path: Path) -> int:
    """How many frames an animation has; 1 for everything else, also for what cannot be read."""
    if path.suffix.lower() in _SUFFIXES:
        with suppress(ImageError), open_image(path) as image:
            if image.format in _FORMATS and getattr(image, "is_animated", False):
                return int(getattr(image, "n_frames", 1))
    return 1


def first_frame_line(path: Path) -> str | None:
    """What is to be said of an animation where one picture is searched; None for everything else."""
    frames = frames_in(path)
    return f"{path}: is an animation of {frames} frames; its first one is searched" if frames > 1 else None


def masked_animation(
    path: Path, detector: Detector | None, masking: Masking, known: Sequence[KnownFaces] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of each frame of an animation and mask them. What is found in a frame is masked in the one before and the
    one after it too. Times and repetitions stay.

    Args:
        path: The animation.
        detector: None to mask nothing but what is known.
        masking: What is covered of what is found, and how.
        known: Faces that are masked in every frame.

    Returns:
        The masked animation as a file of its own format, and what was found and removed, as JSON can hold it: `frames` is their
        number, and `frame` tells for each box in which frame it is, counted from 0.

    Raises:
        ImageError: The animation cannot be read or written, or is larger than 250 million pixels in all.
        KnownFacesError: What is known contradicts the animation.
    """
    with open_image(path) as image:
        number, (width, height) = getattr(image, "n_frames", 1), upright(image).size
        if number * width * height > MAX_PIXELS:
            raise ImageError(f"{path}: {number} frames of {width}x{height} are more than {MAX_PIXELS // 10**6} megapixels")
        with path.open("rb") as file:
            if (bits := bits_per_value(image, file)) > 8:
                raise ImageError(f"{path}: has {bits} bits per colour, of which only 8 could be written")
        exif, kind = exif_of(image), image.format or ""
        found_kinds = [name for name in kinds_of(image, exif) if name != "second picture"]
        durations: list[float] = []
        given = [one.faces(path, width, height) for one in known]
        frames: list[Image.Image] = []
        covered: list[CoveredFaces] = []
        for frame in _frames(image, durations):
            photo = photo_of(path, frame, read_image(frame), kind, {}, exif, [])
            frames.append(photo.image)
            covered.append(covered_faces(photo, detector, masking, given))
        options = _options(image, path, durations)
    if masking.keep_metadata and kind != "GIF":
        options["exif"], lost = kept_exif(exif)
        removed = [name for name in found_kinds if name not in ("EXIF", "GPS")] + [f"{LOST_TAG} {tag}" for tag in lost]
    else:
        removed = found_kinds
    frames = _in_one_mode(frames)
    found, in_alpha = [one.faces for one in covered], [one.in_alpha for one in covered]
    left_clear = sum((Counter(one.left_clear) for one in covered), Counter[str]())
    first, *rest = [
        masked_image(frame, _around(found, number), masking.style, _around(in_alpha, number), masking.picture)
        for number, frame in enumerate(frames)
    ]
    content = encoded(first, path, kind, [{**options, "save_all": True, "append_images": rest}])
    return content, {**_record(width, height, found), "left_clear": dict(left_clear), "removed": removed}


def _frames(image: Image.Image, durations: list[float]) -> Iterator[Image.Image]:
    """The frames of an animation, each composed as a viewer shows it, upright. Their times in milliseconds go to `durations`."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        durations.append(float(image.info.get("duration") or 0))
        frame = upright(image).copy()
        frame.info = {name: value for name, value in frame.info.items() if name == "transparency"}  # else it is turned again
        yield frame


def _in_one_mode(frames: Sequence[Image.Image]) -> list[Image.Image]:
    modes = {frame.mode for frame in frames}
    if len(modes) == 1 and modes <= set(_MODES):
        return list(frames)
    mode = "RGBA" if any(frame.mode in ("LA", "RGBA") for frame in frames) else "RGB"
    return [frame.convert(mode) for frame in frames]


def _around(found: Sequence[Faces], number: int) -> Faces:
    """The faces of a frame and of its neighbours, so that one that is missed in one frame is not seen there."""
    near = [faces for faces in found[max(0, number - 1) : number + 2] if len(faces)]
    return joined(near)[0] if near else _NONE


def _options(image: Image.Image, path: Path, durations: list[float]) -> dict[str, Any]:
    """How the animation is written again, apart from its frames."""
    options: dict[str, Any] = {"duration": durations}
    if image.info.get("icc_profile"):
        options["icc_profile"] = image.info["icc_profile"]
    if "loop" in image.info:  # without it, a GIF is shown once
        options["loop"] = image.info["loop"]
    if image.format == "GIF":
        return {**options, "duration": [round(duration) for duration in durations], "disposal": _CLEARED, "optimize": False}
    if image.format == "PNG":
        apart = bool(image.info.get("default_image"))  # a picture for viewers that show no animations, with no time of its own
        return {**options, "duration": durations[apart:], "default_image": apart}
    whole = [round(duration) for duration in durations]
    if image.format == "WEBP":
        lossless = {"lossless": True} if _is_lossless_webp(path.read_bytes()) else {"quality": _WEBP_QUALITY}
        return {**options, **lossless, "duration": whole, "allow_mixed": False}
    return {**options, "duration": whole, "quality": _AVIF_QUALITY}


def _is_lossless_webp(content: bytes) -> bool:
    """Whether all frames of an animated WebP file are compressed without loss."""
    place, kinds = 12, set()
    while place + 24 <= len(content):
        if content[place : place + 4] == b"ANMF":
            kinds.add(content[place + 24 : place + 28])
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return kinds == {b"VP8L"}


def _record(width: int, height: int, found: Sequence[Faces]) -> dict[str, Any]:
    values = [faces.to_dict() for faces in found]
    return {
        "width": width, "height": height, "frames": len(found), "faces": sum(map(len, found)),
        "boxes": [box for one in values for box in one["boxes"]],
        "scores": [score for one in values for score in one["scores"]],
        "frame": np.repeat(np.arange(len(found)), [len(faces) for faces in found]).tolist(),
    }  # fmt: skip
