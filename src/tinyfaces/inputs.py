"""From what a user names (files, folders, globs) to the image files meant."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
"""Files of a folder that are taken for images."""


@dataclass(frozen=True)
class InputFile:
    """An image to read. name: its path below the folder given, or below what all files given share; for output files."""

    path: Path
    name: Path


@dataclass(frozen=True)
class Inputs:
    """files: what was found, each file once, in the order given, folders sorted. problems: a line for each path given that
    leads to no file."""

    files: list[InputFile]
    problems: list[str]


def find_inputs(given: Sequence[str], recursive: bool) -> Inputs:
    """Resolve files, folders (with `recursive` all below them) and glob patterns (`**` allowed)."""
    found: list[InputFile] = []
    problems: list[str] = []
    single: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _images_in(path, recursive)
            if not inside:
                deeper = "" if recursive else " (--recursive looks into the folders below)"
                problems.append(f"{text}: no images in this folder{deeper}")
            found += [InputFile(file, file.relative_to(path)) for file in inside]
        elif not os.path.lexists(path) and glob.has_magic(text):
            matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
            files = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
            if not files:
                problems.append(f"{text}: no image matches this pattern")
            single += files
            found += [InputFile(file, file) for file in files]
        elif not os.path.lexists(path):
            problems.append(f"{text}: no such file")
        else:
            single.append(path)
            found.append(InputFile(path, path))
    shared = Path(os.path.commonpath([file.absolute().parent for file in single])) if single else Path()
    lone = {file: file.absolute().relative_to(shared) for file in single}
    return Inputs(list(_once(InputFile(f.path, lone.get(f.name, f.name)) for f in found)), problems)


def _images_in(folder: Path, recursive: bool) -> list[Path]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    try:
        return sorted(entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file())
    except OSError:
        return []


def _once(files: Iterable[InputFile]) -> Iterable[InputFile]:
    seen: set[Path] = set()
    for file in files:
        key = file.path.absolute()
        if key not in seen:
            seen.add(key)
            yield file
