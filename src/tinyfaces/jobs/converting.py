"""Results turned from one format into another, without a detector; what the new format cannot hold is named."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.headers import upright_size
from tinyfaces.detection.images import open_image
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.known_faces import Known, KnownFaces, KnownFacesError, KnownVideo, assign, names_below_roots
from tinyfaces.jobs.tracking import TrackedFaces

SIZELESS = ("csv", "wider")
"""Formats without the sizes of photos."""
SCORELESS = ("voc", "cvat", "xmp")
"""Formats without scores."""

_ANY_SIZE = sys.maxsize


class ConversionError(ValueError):
    """An entry cannot be converted. The message is one line."""


def input_files(entries: Sequence[Known], images: Sequence[InputFile]) -> tuple[dict[InputFile, Known], list[str]]:
    """What each entry is about, as a file with the path and name under which it is written.

    Args:
        entries: Of files of boxes.
        images: The photos, where they are at hand; without them paths and names are those that the entries say.

    Returns:
        The entry of each file, and a line for each entry or photo that cannot be matched.
    """
    files: dict[InputFile, Known] = {}
    problems: list[str] = []
    if images:
        found = assign(entries, images)
        used = {id(entry) for entry in found.known.values()}
        problems += found.problems.values()
        problems += [
            f"{entry.source}: '{entry.name}' is none of the images given"
            for entry in entries
            if id(entry) not in used and isinstance(entry, KnownFaces)
        ]
        files = {file: found.known[file] for file in images if file in found.known}
        entries = [entry for entry in entries if isinstance(entry, KnownVideo)]
    seen: dict[str, Known] = {}
    for entry, name in zip(entries, names_below_roots(entries), strict=True):
        if isinstance(entry, KnownFaces) and entry.label_suffix and not entry.photo_name:
            problems.append(entry.problem or f"{entry.source}: does not say the ending of its photo's name; give --images")
            continue
        path = str(name) if entry.label_suffix else entry.name
        if path in seen:
            problems.append(f"'{path}': has boxes in {seen[path].source} and in {entry.source}")
            continue
        seen[path] = entry
        files[InputFile(Path(path), name)] = entry
    return files, problems


def image_result(file: InputFile, entry: KnownFaces, format: str | None, *, at_hand: bool) -> ImageResult:
    """The result that an entry holds.

    Args:
        file: The photo.
        entry: What is known of its faces.
        format: The format to write.
        at_hand: Whether the photo can be read, for its size.

    Raises:
        ConversionError: The size of the photo is needed and not known.
        KnownFacesError: The entry is malformed, or contradicts the photo.
        ImageError: The photo cannot be read.
    """
    if at_hand:
        with open_image(file.path) as image:
            size = upright_size(image)
    elif entry.size is not None:
        size = entry.size
    elif entry.problem is None and (entry.relative or format not in SIZELESS):
        raise ConversionError(f"{entry.source}: does not say the size of '{file.path}'; give --images")
    else:
        size = (_ANY_SIZE, _ANY_SIZE)
    if entry.problem is not None:
        raise KnownFacesError(entry.problem)
    return ImageResult(file.path, file.name, *size, entry.faces(file.path, *size))


def video_frames(entry: KnownVideo) -> tuple[tuple[int, int], Iterator[TrackedFaces]]:
    """Size of the first frame, and all frames of a video up to the last that is listed.

    Frames that are not listed, as in CSV those without faces, are put in; their times are between those of their neighbours.

    Raises:
        ConversionError: The size of the frames is not known.
        KnownFacesError: The entry is malformed.
    """
    if entry.problem is not None:
        raise KnownFacesError(entry.problem)
    size = entry.size or next((frame.size for frame in entry.frames.values() if frame.size is not None), None)
    if size is None:
        raise ConversionError(f"{entry.source}: does not say the size of '{entry.name}'")
    numbers = sorted(entry.frames)
    times = np.interp(
        np.arange(numbers[-1] + 1) if numbers else [], numbers or [0], [entry.frames[n].time for n in numbers] or [0]
    )
    empty = TrackedFaces(0, Faces.empty(), np.zeros(0, np.int64), np.zeros(0, np.bool_), Faces.empty().boxes, size)
    return size, (entry.frames.get(number, replace(empty, time=time)) for number, time in enumerate(times))


def losses(entries: Mapping[InputFile, Known], format: str | None, *, scores: bool) -> list[str]:
    """What is not the same after a conversion, in one line each.

    Args:
        entries: What is converted.
        format: The new format.
        scores: Whether it is written with scores, if it has any.
    """
    lines = []
    photos = [entry for entry in entries.values() if isinstance(entry, KnownFaces) and entry.problem is None]
    videos = [entry for entry in entries.values() if isinstance(entry, KnownVideo) and entry.problem is None]
    scored = [entry.scores is not None for entry in photos if len(entry.boxes)] + [entry.scored for entry in videos]
    if format in SCORELESS or not scores:
        if any(scored):
            lines.append(f"{format} files are written without scores")
    elif not all(scored):
        lines.append(f"{scored.count(False)} of {len(scored)} files have no scores: 1 is written for each box")
    if format == "voc" and any((entry.relative or (entry.boxes % 1).any()) for entry in photos):
        lines.append("voc files have whole pixels: boxes are rounded")
    if format in SIZELESS and any(entry.size is not None for entry in photos):
        lines.append(f"{format} files do not say the sizes of photos")
    if format == "csv" and (empty := sum(not len(entry.boxes) for entry in photos)):
        lines.append(f"csv files have no line for photos without faces: {empty} left out")
    if format == "csv" and any(not len(frame.faces) for entry in videos for frame in entry.frames.values()):
        lines.append("csv files have no line for frames without faces")
    if format != "csv" and any(not entry.complete for entry in videos):
        lines.append("csv files do not list frames without faces: they are put in, up to the last frame that is listed")
    return lines
