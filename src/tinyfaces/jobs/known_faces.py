"""Faces that a file gives, so that nothing is to be detected; and which photo or video each entry of such a file is about."""

import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import outside
from tinyfaces.detection.faces import Faces
from tinyfaces.files import name_for_windows, named_after
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.tracking import TrackedFaces

_ON_WINDOWS = sys.platform == "win32"

_Parts: TypeAlias = tuple[str, ...]


class KnownFacesError(ValueError):
    """Given boxes do not fit a photo or video. The message is one line that names it."""


@dataclass(frozen=True, eq=False)
class KnownFaces:
    """What a file says about the faces of one photo.

    Args:
        source: The file that says it.
        name: The photo's path, as the file gives it; for a label file, its own path below the folder given.
        boxes: (N, 4) float64, x1 y1 x2 y2 in pixels of the upright photo, or relative to its size.
        scores: (N,) float32, 0-1; None where the file has none.
        size: Width and height of the photo, where the file says so.
        relative: Whether the boxes are relative to the photo's size.
        label_suffix: Ending of a label file, which is named after its photo; empty where `name` is the photo's own.
        photo_name: The photo's name with its ending, where a label file says it.
        problem: What is wrong with the entry, in one line; its boxes are not to be used then.
        alone: Whether the file is about this photo only, so that all folders of its name count.
    """

    source: Path
    name: str
    boxes: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    scores: npt.NDArray[np.float32] | None = None
    size: tuple[int, int] | None = None
    relative: bool = False
    label_suffix: str = ""
    photo_name: str = ""
    problem: str | None = None
    alone: bool = False

    def faces(self, photo: Path, width: int, height: int) -> Faces:
        """The faces in pixels of the photo, to 0.001. Those without a score score 1.

        Args:
            photo: Its file, for messages.
            width: Of the upright photo, in pixels.
            height: Likewise.

        Raises:
            KnownFacesError: The entry is malformed, or contradicts the photo.
        """
        if self.problem is not None:
            raise KnownFacesError(f"{photo}: cannot be covered ({self.problem})")
        if self.size is not None and self.size != (width, height):
            stated = f"{self.size[0]}x{self.size[1]}"
            hint = ", as if its orientation were not applied" if self.size == (height, width) else ""
            raise KnownFacesError(f"{photo}: is {width}x{height} pixels, but {self.source} says {stated}{hint}")
        scaled = self.boxes * [width, height, width, height] if self.relative else self.boxes
        boxes = np.array([[round(side, 3) for side in box] for box in scaled.tolist()], np.float32).reshape(-1, 4)
        beyond = outside(boxes, width, height)
        if beyond.any():
            box = " ".join(f"{side:g}" for side in boxes[beyond][0].tolist())
            raise KnownFacesError(f"{photo}: is {width}x{height} pixels, but {self.source} has a box outside it ({box})")
        return Faces(boxes, np.ones(len(boxes), np.float32) if self.scores is None else self.scores)


@dataclass(frozen=True, eq=False)
class KnownVideo:
    """What a file says about the faces of a video.

    Args:
        source: The file that says it.
        name: The video's path, as the file gives it.
        frames: By their number, from 0. Boxes and masks are the same, in pixels of the upright frame.
        size: Width and height of the first frame, where the file says so.
        complete: Whether all frames are listed, also those without faces.
        scored: Whether the file has scores.
        problem: What is wrong with the entry, in one line; its boxes are not to be used then.
    """

    source: Path
    name: str
    frames: Mapping[int, TrackedFaces] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    complete: bool = True
    scored: bool = True
    problem: str | None = None

    label_suffix = ""
    alone = False

    def masks(self, video: Path, number: int, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The boxes (N, 4) of a frame, x1 y1 x2 y2 in its own pixels.

        Args:
            video: Its file, for messages.
            number: Of the frame, from 0.
            size: Width and height of the upright frame.

        Raises:
            KnownFacesError: The frame is missing where all should be listed, or has another size.
        """
        frame = self.frames.get(number)
        if frame is None:
            if self.complete:
                raise KnownFacesError(f"{video}: {self.source} has no entry for frame {number}")
            return np.empty((0, 4), np.float32)
        if frame.size is not None and frame.size != size:
            stated = f"{frame.size[0]}x{frame.size[1]}"
            raise KnownFacesError(f"{video}: frame {number} is {size[0]}x{size[1]} pixels, but {self.source} says {stated}")
        return frame.masks

    def check_end(self, video: Path, frames: int) -> None:
        """Make sure that no frame is listed that the video does not have. Raises KnownFacesError."""
        listed = max(self.frames, default=-1) + 1
        if listed > frames:
            raise KnownFacesError(f"{video}: has {frames} frames, but {self.source} lists {listed}")


Known: TypeAlias = KnownFaces | KnownVideo


@dataclass(frozen=True)
class Assignment:
    """Which entry is about which file.

    Args:
        known: By file.
        problems: Why a file has no entry, where there might have been one, in one line each.
        unused: How many entries are about none of the files, by where they come from.
    """

    known: dict[InputFile, Known]
    problems: dict[InputFile, str]
    unused: Counter[Path]


def assign(entries: Sequence[Known], files: Sequence[InputFile]) -> Assignment:
    """Find the entry about each file: by its whole path, by its name below the folder given, or by the end of its path.

    Where that leaves a choice, none is made: a wrong one would leave faces uncovered.
    """
    index = _Index(entries)
    known: dict[InputFile, Known] = {}
    problems: dict[InputFile, str] = {}
    taken: set[int] = set()
    for fitting in (index.of_same_path, index.of_same_name, index.of_same_end):
        chosen: dict[InputFile, int] = {}
        for file in files:
            if file in known or file in problems:
                continue
            best = [number for number in fitting(file, taken) if number not in taken]
            if len(best) > 1:
                places = " and ".join(dict.fromkeys(_place(entries[number]) for number in best[:2]))
                problems[file] = f"{file.path}: cannot tell which boxes are its own ({places})"
            elif best and _is_another(entries[best[0]], file):
                problems[file] = f"{file.path}: {_place(entries[best[0]])} is another file, which is still there"
            elif best:
                chosen[file] = best[0]
        claims = Counter(chosen.values())
        for file, number in chosen.items():
            taken.add(number)
            if claims[number] > 1:
                problems[file] = f"{file.path}: cannot tell which of {claims[number]} files is meant by {_place(entries[number])}"
            else:
                known[file] = entries[number]
    unused = Counter(entry.source for number, entry in enumerate(entries) if number not in taken)
    return Assignment(known, problems, unused)


def names_below_roots(entries: Sequence[Known]) -> list[Path]:
    """For each entry the name of its photo or video below the folder that all entries of its file share, never outside of it."""
    names = []
    for entry, root in zip(entries, _roots(entries), strict=True):
        parts = [part for part in _parts(entry.name)[root:] if part != ".." and not set(part) & set("/\\:")]
        if isinstance(entry, KnownFaces) and entry.photo_name:
            parts[-1:] = _parts(entry.photo_name)[-1:]
        names.append(Path(*(map(name_for_windows, parts) if _ON_WINDOWS else parts)))
    return names


def _place(entry: Known) -> str:
    return str(entry.source) if entry.label_suffix else f"'{entry.name}' in {entry.source}"


def _is_another(entry: Known, file: InputFile) -> bool:
    """Whether an entry's path leads to a file that is there and is not the same, nor a copy: one of another size."""
    if entry.label_suffix:
        return False
    try:
        return Path(entry.name).stat().st_size != file.path.stat().st_size
    except (OSError, ValueError):
        return False


_Key: TypeAlias = tuple[_Parts, str, bool]
"""Parts of a path, ending of the label file, and whether it is about a video."""


class _Index:
    """Entries by their paths. Its methods give the numbers of those that fit a file.

    Args:
        entries: To find.
    """

    def __init__(self, entries: Sequence[Known]) -> None:
        self._said = [_parts(entry.name) for entry in entries]
        self._kinds = {(entry.label_suffix, isinstance(entry, KnownVideo)) for entry in entries}
        self._by_path: dict[_Key, list[int]] = defaultdict(list)
        self._by_name: dict[_Key, list[int]] = defaultdict(list)
        self._by_last: dict[_Key, list[int]] = defaultdict(list)
        for number, (entry, said, root) in enumerate(zip(entries, self._said, _roots(entries), strict=True)):
            kind = (entry.label_suffix, isinstance(entry, KnownVideo))
            if not entry.label_suffix:
                self._by_path[_absolute(entry.name), *kind].append(number)
            for name in {said, said[root:]}:
                self._by_name[name, *kind].append(number)
            self._by_last[said[-1:], *kind].append(number)

    def of_same_path(self, file: InputFile, _: set[int]) -> list[int]:
        """Those with the whole path of a file."""
        return [number for _, path, kind in self._kinds_of(file) for number in self._by_path.get((path, *kind), ())]

    def of_same_name(self, file: InputFile, _: set[int]) -> list[int]:
        """Those with the name of a file below the folder given, perhaps below the folder that all entries share."""
        return [number for name, _, kind in self._kinds_of(file) for number in self._by_name.get((name, *kind), ())]

    def of_same_end(self, file: InputFile, taken: set[int]) -> list[int]:
        """Those that are an end of a file's path, or end with its name; of these, those that have most in common with the path.
        taken: those of other files."""
        fits: dict[int, int] = {}
        for name, path, kind in self._kinds_of(file):
            for number in self._by_last.get((path[-1:], *kind), ()):
                said = self._said[number]
                if number not in taken and (path[-len(said) :] == said or said[-len(name) :] == name):
                    fits[number] = _common_end(said, path)
        return [number for number, length in fits.items() if length == max(fits.values())]

    def _kinds_of(self, file: InputFile) -> Iterator[tuple[_Parts, _Parts, tuple[str, bool]]]:
        """Name and path of a file as entries of each kind would have them."""
        for label_suffix, video in self._kinds:
            if video == file.is_video:
                path, name = _parts_of(file, label_suffix)
                yield name, path, (label_suffix, video)


def _common_end(one: _Parts, other: _Parts) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _roots(entries: Sequence[Known]) -> list[int]:
    """For each entry how many parts of its name, all folders, the entries of its file have in common."""
    shared: dict[Path, _Parts] = {}
    for entry in entries:
        if not entry.label_suffix and not entry.alone:
            folders = _parts(entry.name)[:-1]
            before = shared.get(entry.source, folders)
            same = [here == there for here, there in zip(before, folders, strict=False)] + [False]
            shared[entry.source] = before[: same.index(False)]
    return [0 if entry.label_suffix or entry.alone else len(shared[entry.source]) for entry in entries]


def _parts(name: str) -> _Parts:
    """The parts of a path as a file says it, from whatever system."""
    windows = "\\" in name and "/" not in name
    parts = (PureWindowsPath if windows else PurePosixPath)(_composed(name)).parts
    return tuple(part for part in parts if part != ".")


def _absolute(name: str) -> _Parts:
    return Path(_composed(os.path.abspath(name))).parts  # noqa: PTH100


def _parts_of(file: InputFile, label_suffix: str) -> tuple[_Parts, _Parts]:
    """Parts of a file's whole path and of its name; with the last one as that of its label file without its ending."""
    path, name = Path(os.path.abspath(file.path)), file.name  # noqa: PTH100
    if label_suffix:
        path, name = (named_after(one, label_suffix).with_suffix("") for one in (path, name))
    return Path(_composed(str(path))).parts, Path(_composed(str(name))).parts


def _composed(text: str) -> str:
    """A path as results have it, where its bytes are no UTF-8, and with accents as one letter, which macOS writes as two."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
