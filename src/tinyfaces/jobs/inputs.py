"""From what a user names (files, folders, patterns) to image and video files."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfaces.detection.images import SUFFIXES
from tinyfaces.files import named_after

VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split())
"""Endings of files that count as videos."""
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts",
}  # fmt: skip
"""Containers that videos can be written to, as FFmpeg calls them."""
_OTHER_CONTAINER = ".mkv"  # holds nearly every kind of stream

_TAKEN = SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True)
class InputFile:
    """An image or video to read.

    Args:
        path: Where it lies.
        name: Its path below the folder given, or below the folder that all files given share; output files are named after it.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether its name ends as a video's."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def written_name(self) -> Path:
        """Its name when it is written again: the same, but .mkv for videos in a container that cannot be written."""
        if not self.is_video or self.path.suffix.lower() in CONTAINERS:
            return self.name
        return named_after(self.name, _OTHER_CONTAINER)


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Args:
        files: Each file once, in the order given, folders sorted.
        problems: A line for each path given that leads to no file.
    """

    files: list[InputFile]
    problems: list[str]


def find_inputs(given: Sequence[str], recursive: bool) -> Inputs:
    """Find the files meant by files, folders (with `recursive`, also the folders in them) and glob patterns (with `**`)."""
    found: list[InputFile] = []
    problems: list[str] = []
    single: list[Path] = []
    for text in given:
        try:
            _find_one(text, recursive, found, single, problems)
        except OSError as error:  # no permission, a name too long
            problems.append(f"{text}: {(error.strerror or str(error)).lower()}")
    shared = Path(os.path.commonpath([file.absolute().parent for file in single])) if single else Path()
    lone = {file: file.absolute().relative_to(shared) for file in single}
    return Inputs(list(_once(InputFile(f.path, lone.get(f.name, f.name)) for f in found)), problems)


def _find_one(text: str, recursive: bool, found: list[InputFile], single: list[Path], problems: list[str]) -> None:
    """Add what one argument leads to. Raises OSError."""
    path = Path(text)
    if path.is_dir():
        inside = _files_in(path, recursive)
        if not inside:
            deeper = "" if recursive else " (--recursive searches the folders in it too)"
            problems.append(f"{text}: no images or videos in this folder{deeper}")
        found += [InputFile(file, file.relative_to(path)) for file in inside]
    elif not os.path.lexists(path) and glob.has_magic(text):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
        files = [match for match in matches if match.suffix.lower() in _TAKEN and match.is_file()]
        if not files:
            problems.append(f"{text}: no image or video matches this pattern")
        single += files
        found += [InputFile(file, file) for file in files]
    elif not os.path.lexists(path):
        problems.append(f"{text}: no such file")
    else:
        single.append(path)
        found.append(InputFile(path, path))


def outside(files: Iterable[InputFile], folder: Path) -> list[InputFile]:
    """The files without those in `folder`, if that is below a folder given: they are an earlier run's output."""
    kept = []
    for file in files:
        path = file.path.absolute()
        inside = folder.absolute() in path.parents and len(file.name.parts) > len(path.relative_to(folder.absolute()).parts)
        if not inside:
            kept.append(file)
    return kept


def _files_in(folder: Path, recursive: bool) -> list[Path]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(entry for entry in entries if entry.suffix.lower() in _TAKEN and entry.is_file())


def _once(files: Iterable[InputFile]) -> Iterable[InputFile]:
    seen: set[Path] = set()
    for file in files:
        key = file.path.absolute()
        if key not in seen:
            seen.add(key)
            yield file
