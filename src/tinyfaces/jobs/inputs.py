"""From what a user names (files, folders, patterns) to image and video files."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyfaces.detection.images import SUFFIXES
from tinyfaces.detection.raw_photos import RAW_SUFFIXES
from tinyfaces.files import missing, named_after, too_long
from tinyfaces.jobs.own_results import is_marked_folder, is_marked_picture, is_marked_video

VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split())
"""Endings of files that count as videos."""
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts",
}  # fmt: skip
"""Containers that videos can be written to, as FFmpeg calls them."""
_OTHER_CONTAINER = ".mkv"  # holds nearly every kind of stream

_TAKEN = SUFFIXES | VIDEO_SUFFIXES
_SYSTEM = frozenset(("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"))
_HIDDEN, _EARLIER, _EARLIER_FOLDER, _BROKEN = "hidden", "earlier results", "folders of earlier results", "broken links"
_ANY_DEPTH = "**"


def is_image_name(path: Path) -> bool:
    """Whether a name ends as an image's."""
    return path.suffix.lower() in SUFFIXES


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
    def is_raw(self) -> bool:
        """Whether its name ends as a camera's raw file's."""
        return self.path.suffix.lower() in RAW_SUFFIXES

    @property
    def written_name(self) -> Path:
        """Its name when it is written again: the same, but .mkv for videos in a container that cannot be written, and .jpg for
        raw files of cameras."""
        if self.is_raw:
            return named_after(self.name, ".jpg")
        if not self.is_video or self.path.suffix.lower() in CONTAINERS:
            return self.name
        return named_after(self.name, _OTHER_CONTAINER)


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Args:
        files: Each real file once, in the order given, folders sorted.
        problems: A line for each path given that leads to no file, and for each folder that cannot be read.
        left_out: What folders and patterns led to and is not searched: how many of each kind.
    """

    files: list[InputFile]
    problems: list[str]
    left_out: Counter[str] = field(default_factory=Counter)


def find_inputs(given: Sequence[str], recursive: bool, results: Path | None = None) -> Inputs:
    """Find the files meant by files, folders (with `recursive`, also the folders in them) and glob patterns (with `**`).

    Folders and patterns lead to no hidden files, and to no results of earlier runs. Links are followed, and each real file and
    folder is taken once. If several folders are given, names begin below the folder that they share.

    Args:
        given: What the user named.
        recursive: Search the folders in a folder too.
        results: A folder for results; what is in it is no input, if it lies below a folder given.
    """
    search = _Search(recursive, results)
    for text in given:
        try:
            search.one(text)
        except OSError as error:  # no permission, a name too long
            search.problems.append(f"{text}: cannot be read ({(error.strerror or str(error)).lower()})")
    names = names_below(search.roots, [_absolute(path) for path in search.found.values()])
    files = [InputFile(path, Path(name)) for path, name in zip(search.found.values(), names, strict=True)]
    return Inputs(files, search.problems, search.left_out)


def names_below(roots: Sequence[str], paths: Sequence[str], system: Any = os.path) -> list[str]:
    """The names of files below the folder that all roots share; over several drives, they begin with the drive's letter.

    Args:
        roots: Absolute paths of folders.
        paths: Absolute paths of files.
        system: The module of paths, `ntpath` for those of Windows.
    """
    drives = {system.normcase(system.splitdrive(root)[0]) for root in roots}
    if len(drives) < 2:
        shared = system.commonpath(roots) if roots else ""
        return [system.relpath(path, shared) for path in paths]
    parts = [system.splitdrive(path) for path in paths]
    return [system.join(*re.split(r"[\\/:]+", drive.strip("\\/:")), inside.lstrip("\\/")) for drive, inside in parts]


class _Search:
    """What is found on the way through all that was given.

    Args:
        recursive: Search the folders in folders too.
        results: A folder of results.
    """

    def __init__(self, recursive: bool, results: Path | None) -> None:
        self.found: dict[str, Path] = {}  # by their real path
        self.roots: list[str] = []
        self.problems: list[str] = []
        self.left_out: Counter[str] = Counter()
        self._real_folders: dict[str, str] = {}
        self._recursive = recursive
        self._results = None if results is None else os.path.realpath(results)

    def one(self, text: str) -> None:
        """Take what one argument leads to. Raises OSError."""
        path = Path(text)
        if path.is_dir():
            self.folder(text)
        elif not os.path.lexists(path) and glob.has_magic(text):
            self.pattern(text)
        elif not os.path.lexists(path):
            self.problems.append(f"{text}: {missing(path)}")
        else:
            self.take(path, path.absolute().parent)

    def take(self, path: Path, root: str | Path) -> None:
        """Take a file; names begin below `root`, or further up."""
        self.found.setdefault(os.path.normcase(self._real_path(path)), path)
        self.roots.append(_absolute(root))

    def _real_path(self, path: Path) -> str:
        if path.is_symlink():
            return os.path.realpath(path)
        folder = str(path.parent)
        if folder not in self._real_folders:  # asked once for all files in it, as that takes a call for each part of the path
            self._real_folders[folder] = os.path.realpath(folder)
        return os.path.join(self._real_folders[folder], path.name)  # noqa: PTH118

    def folder(self, text: str) -> None:
        """Take all that is in a folder."""
        self.roots.append(_absolute(text))
        problems, inside = len(self.problems), 0
        for path in sorted(path for folder in self._folders(text, self._recursive) for path in self._files_in(folder)):
            inside += 1
            self.take(path, text)
        if not inside and len(self.problems) == problems:
            deeper = "" if self._recursive else " (--recursive searches the folders in it too)"
            self.problems.append(f"{text}: no images or videos in this folder{deeper}")

    def pattern(self, text: str) -> None:
        """Take all that matches a pattern."""
        matched = False
        for path in sorted(map(Path, self._matches("", Path(text).parts))):
            if path.is_file() and self._wanted(path):
                matched = True
                self.take(path, path.absolute().parent)
        if not matched:
            self.problems.append(f"{text}: no image or video matches this pattern")

    def _matches(self, base: str, parts: tuple[str, ...]) -> Iterator[str]:
        """What matches the parts of a pattern below `base`. Only `glob` itself would go round in circles where links do."""
        if _ANY_DEPTH not in parts:
            for match in glob.iglob(str(Path(*parts)), root_dir=base or None):
                if self._results_on_the_way(base, parts, Path(match).parts):
                    self.left_out[_EARLIER_FOLDER] += 1
                else:
                    yield os.path.join(base, match)  # noqa: PTH118
            return
        place = parts.index(_ANY_DEPTH)
        heads = self._matches(base, parts[:place]) if place else [base]
        rest = parts[place + 1 :] or ("*",)
        for head in heads:
            for folder in self._folders(head, True) if os.path.isdir(head or ".") else ():  # noqa: PTH112
                yield from self._matches(folder, rest)

    def _results_on_the_way(self, base: str, parts: tuple[str, ...], match: tuple[str, ...]) -> bool:
        """Whether a match lies in a folder of results or of the system that the pattern does not name."""
        way = base
        for part, name in zip(parts, match, strict=False):
            way = os.path.join(way, name)  # noqa: PTH118
            if part != name and (name in _SYSTEM or self._holds_results(way)):
                return True
        return False

    def _folders(self, top: str, recursive: bool) -> Iterator[str]:
        """A folder and, sorted, those in it, each real one once; without hidden ones and those of results."""
        seen = {os.path.realpath(top)}
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            yield folder
            if not recursive:
                return
            inside = []
            for entry in self._entries(folder):
                if not Path(entry.path).is_dir():
                    if entry.is_dir():
                        self._beyond_reach(Path(entry.path))
                    continue
                real = os.path.realpath(entry.path)
                if is_hidden(entry.name):
                    self.left_out[_HIDDEN] += 1
                elif self._holds_results(entry.path):
                    self.left_out[_EARLIER_FOLDER] += 1
                elif real not in seen:
                    seen.add(real)
                    inside.append(entry.path)
            waiting += reversed(inside)

    def _holds_results(self, folder: str) -> bool:
        return os.path.realpath(folder) == self._results or is_marked_folder(folder)

    def _files_in(self, folder: str) -> Iterator[Path]:
        for entry in self._entries(folder):
            path = Path(entry.path)
            if entry.is_symlink() and not path.exists():
                self.left_out[_BROKEN] += 1
            elif path.is_file() and self._wanted(path):
                yield path
            elif entry.is_file() and path.suffix.lower() in _TAKEN and not path.exists():
                self._beyond_reach(path)

    def _beyond_reach(self, path: Path) -> None:
        """Say so where Windows lists a file or folder, and does not find it, as its path is too long."""
        if too_long(path) and not is_hidden(path.name):
            self.problems.append(f"{path}: cannot be read ({too_long(path)})")

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problem = f"{folder}: cannot be read ({(error.strerror or 'unknown error').lower()})"
            if problem not in self.problems:
                self.problems.append(problem)
            return []

    def _wanted(self, path: Path) -> bool:
        """Whether a file is an image or video, and no result of an earlier run. If not, it is counted."""
        if is_hidden(path.name):
            self.left_out[_HIDDEN] += 1
        elif path.suffix.lower() not in _TAKEN:
            self.left_out[path.suffix.lower() or "without an ending"] += 1
        elif is_marked_picture(path) or is_marked_video(path):
            self.left_out[_EARLIER] += 1
        else:
            return True
        return False


def left_out_line(left_out: Mapping[str, int]) -> str:
    """What was left out, such as "left out: 3 .txt, 1 hidden"."""
    return "left out: " + ", ".join(
        f"{number} {kind}" for kind, number in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over, unless it is named itself."""
    return name.startswith(".") or name in _SYSTEM


def _absolute(path: str | Path) -> str:
    """A path from the root, with links as they are."""
    return os.path.abspath(path)  # noqa: PTH100
