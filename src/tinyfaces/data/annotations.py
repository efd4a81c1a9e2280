"""Readers of face annotations: COCO detection files and the official WIDER FACE ground truth. Free of torch."""

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.detection.headers import upright_size
from tinyfaces.parsing.coco_entries import boxes_of_entries, column, list_of_objects, owners
from tinyfaces.parsing.texts import AnnotationError as AnnotationError
from tinyfaces.parsing.texts import json_of
from tinyfaces.parsing.texts import reason as _reason

_INVALID_COLUMN = 7
_COUNT_DIGITS = 9
_MAX_SIDE = 2**31 - 1
_MAT_READER = """
import pickle, sys
from scipy.io import loadmat
found = loadmat(sys.argv[1], variable_names=sys.argv[2:])
pickle.dump({name: found[name] for name in sys.argv[2:] if name in found}, sys.stdout.buffer)
"""


Tell: TypeAlias = Callable[[str], None] | None
"""Called with a line about each photo that cannot be read, and is left out; where it is None, the first one raises."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One photo and its faces.

    Attributes:
        path: the image file.
        width: in pixels, of the upright image. height: likewise.
        boxes: (N, 4) float32, xyxy in pixels.
        ignore: (N,) bool, true where a box is neither a face to find nor background.
        scores: (N,) float32 in 0-1, how sure the annotation is (1 where the file does not say).
        hard_negatives: (K, 4) float32, xyxy of background that detectors take for faces, where the file lists any.
    """

    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    ignore: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]
    hard_negatives: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 4), np.float32))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class WiderRecord:
    """One image of a WIDER FACE ground truth file.

    Attributes:
        event: its folder.
        name: its file name without the ending.
        boxes: (N, 4) float64, x y w h in pixels as the file gives them.
        invalid: (N,) bool, the file's own flag.
    """

    event: str
    name: str
    boxes: npt.NDArray[np.float64]
    invalid: npt.NDArray[np.bool_]


def read_coco(annotations: str | Path, images: str | Path, tell: Tell = None) -> list[AnnotatedImage]:
    """Read a COCO detection file.

    `bbox` is x y w h in pixels. A box with `ignore` or `iscrowd` set, or with a side <= 0, is to be ignored; `score` is
    optional. Where an image's size is missing or null, it is read from the photo. An image may list `hard_negatives`, each
    x y w h and perhaps more. If there are several categories, only the one named "face" is read.

    Args:
        annotations: the file, json or json.gz.
        images: the folder that its `file_name`s start from.
        tell: see `Tell`.

    Returns:
        Images in the file's order, those without boxes included.

    Raises:
        AnnotationError: the file is malformed, or an image is missing (with `tell`: all of them).
    """
    source, folder = Path(annotations), Path(images)
    content = _read_json(source)
    image_entries = list_of_objects(content, "images", source)
    box_entries = _only_faces(content, list_of_objects(content, "annotations", source), source)

    owner = owners(image_entries, box_entries, source)
    xywh = boxes_of_entries(box_entries, source)
    scores = column(box_entries, "score", 1.0, source)
    ignore = (column(box_entries, "ignore", 0, source) != 0) | (column(box_entries, "iscrowd", 0, source) != 0)
    ignore |= (xywh[:, 2:] <= 0).any(axis=1)
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(image_entries) + 1))

    annotated, left_out = [], list[str]()
    for number, entry in enumerate(image_entries):
        path = folder / str(entry["file_name"])
        try:
            if not path.is_file():
                raise AnnotationError(f"{path}: no such image (listed in {source})")
            width, height = _sides(entry, path, source)
        except AnnotationError as error:
            if tell is None:
                raise
            left_out.append(f"{error}; left out")
            continue
        mine = order[ends[number] : ends[number + 1]]
        negatives = _to_xyxy(_hard_negatives(entry, source))
        annotated.append(
            AnnotatedImage(path, width, height, _to_xyxy(xywh[mine]), ignore[mine], scores[mine].astype(np.float32), negatives)
        )
    _tell_all(left_out, tell, annotated, source, folder)
    return annotated


def _tell_all(left_out: list[str], tell: Tell, kept: list[AnnotatedImage], source: Path, folder: Path) -> None:
    """Tell which images are left out; raises AnnotationError, one line in place of all, where none is left."""
    if left_out and not kept:
        raise AnnotationError(f"{folder}: none of the {len(left_out):,} images of {source} can be used ({left_out[0]})")
    for line in left_out:
        if tell is not None:
            tell(line)


def _hard_negatives(entry: dict[str, Any], source: Path) -> npt.NDArray[np.float64]:
    try:
        return np.array([box[:4] for box in entry.get("hard_negatives", ())], np.float64).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(f"{source}: image {entry['id']} has hard_negatives that are not x y w h") from None


def dismiss_doubtful(image: AnnotatedImage, below: float, height: float = 0.0) -> AnnotatedImage:
    """Make background of what an annotation is not sure of.

    Args:
        image: a photo and its boxes.
        below: ignored boxes of a lower score go.
        height: in pixels; lower boxes stay.

    Returns:
        The image without those boxes.
    """
    heights = image.boxes[:, 3] - image.boxes[:, 1]
    kept = ~image.ignore | (image.scores >= below) | (heights < height)
    return replace(image, boxes=image.boxes[kept], ignore=image.ignore[kept], scores=image.scores[kept])


def read_wider(ground_truth: str | Path, images: str | Path, split: str = "train", tell: Tell = None) -> list[AnnotatedImage]:
    """Read the official WIDER FACE boxes of a split.

    Boxes flagged invalid or with a side <= 0 are to be ignored. Image sizes are read from the images' headers.

    Args:
        ground_truth: the folder `wider_face_split`, or one of its txt or mat files (mat needs scipy).
        images: the folder that holds the events' folders, or WIDER_<split>, or its parent.
        split: "train" or "val".
        tell: see `Tell`.

    Returns:
        Images in the file's order.

    Raises:
        AnnotationError: the file is malformed, or an image is missing or unreadable (with `tell`: all of them).
    """
    source = _wider_file(Path(ground_truth), split)
    records = read_wider_mat(source) if source.suffix == ".mat" else read_wider_txt(source)
    if not records:
        raise AnnotationError(f"{source}: lists no images")
    folder = find_wider_images(Path(images), split, records[0].event)
    annotated, left_out = [], list[str]()
    for record in records:
        path = folder / record.event / f"{record.name}.jpg"
        try:
            width, height = image_size(path, source)
        except AnnotationError as error:
            if tell is None:
                raise
            left_out.append(f"{error}; left out")
            continue
        ignore = record.invalid | (record.boxes[:, 2:] <= 0).any(axis=1)
        annotated.append(
            AnnotatedImage(path, width, height, _to_xyxy(record.boxes), ignore, np.ones(len(record.boxes), dtype=np.float32))
        )
    _tell_all(left_out, tell, annotated, source, folder)
    return annotated


def read_wider_txt(path: Path) -> list[WiderRecord]:
    """Read `wider_face_<split>_bbx_gt.txt`: image name, count, then `x y w h blur expression illumination invalid ...`.

    An image without faces may have, as in the official file, one line of zeros. Raises AnnotationError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read ({_reason(error)})") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    records = []
    at = 0
    while at < len(lines):
        number, name = lines[at]
        event, slash, file_name = name.rpartition("/")
        if not slash:
            raise AnnotationError(f"{path}, line {number}: expected <event>/<image>, found '{name[:60]}'")
        if at + 1 == len(lines) or not is_count(lines[at + 1][1]):
            raise AnnotationError(f"{path}, line {number}: no number of faces after '{name[:60]}'")
        count = int(lines[at + 1][1])
        at += 2
        if at + count > len(lines):
            raise AnnotationError(f"{path}: ends before the {count} faces of '{name[:60]}'")
        rows = [_wider_row(path, *line) for line in lines[at : at + count]]
        at += count
        if count == 0 and at < len(lines) and set(lines[at][1].split()) == {"0"}:
            at += 1
        boxes = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
        invalid = np.array([len(row) > _INVALID_COLUMN and row[_INVALID_COLUMN] != 0 for row in rows], dtype=bool)
        records.append(WiderRecord(event, Path(file_name).stem, boxes, invalid))
    return records


def read_wider_mat(path: Path) -> list[WiderRecord]:
    """Read `wider_face_<split>.mat`; images in the file's order. Raises AnnotationError, also when scipy is missing."""
    fields = read_mat(path, ("event_list", "file_list", "face_bbx_list", "invalid_label_list"))
    records = []
    try:
        for event, names, boxes, flags in zip(*(cells(fields[name]) for name in fields), strict=True):
            for name, box, flag in zip(cells(names), cells(boxes), cells(flags), strict=True):
                box = np.asarray(box, dtype=np.float64).reshape(-1, 4)
                invalid = np.asarray(flag).reshape(-1) != 0
                if len(invalid) != len(box):
                    raise ValueError(f"{_text(name)} has {len(box)} boxes and {len(invalid)} flags")
                records.append(WiderRecord(_text(event), _text(name), box, invalid))
    except (ValueError, TypeError, IndexError) as error:
        raise AnnotationError(f"{path}: not a WIDER FACE ground truth file ({_reason(error)})") from error
    return records


def read_mat(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the named variables of a MATLAB file, in that order. Raises AnnotationError."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise AnnotationError(f"{path}: reading .mat files needs scipy: pip install 'tinyfaces[evaluate]'") from error
    wanted = tuple(names)
    # In a process of its own, as a damaged file can end the one that scipy reads it in.
    reader = subprocess.run([sys.executable, "-c", _MAT_READER, str(path), *wanted], capture_output=True)
    if reader.returncode:
        said = reader.stderr.decode(errors="replace").split("\n") if reader.returncode > 0 else []
        reason = next((line.strip() for line in reversed(said) if line.strip()), "it is damaged")
        raise AnnotationError(f"{path}: cannot be read as a MATLAB file ({reason})")
    content: dict[str, npt.NDArray[Any]] = pickle.loads(reader.stdout)
    for name in wanted:
        if name not in content:
            raise AnnotationError(f"{path}: has no variable '{name}'")
    return {name: content[name] for name in wanted}


def cells(array: npt.NDArray[Any]) -> list[Any]:
    """The contents of a MATLAB cell array. Raises TypeError when it is something else."""
    if array.dtype != object:
        raise TypeError("expected a cell array")
    return list(array.reshape(-1))


def find_wider_images(images: Path, split: str, event: str) -> Path:
    """The folder of the events' folders, given it, WIDER_<split> or its parent. Raises AnnotationError."""
    for candidate in (images, images / "images", images / f"WIDER_{split}" / "images"):
        if (candidate / event).is_dir():
            return candidate
    raise AnnotationError(f"{images}: holds no folder '{event}' of WIDER FACE {split} images")


def _text(array: Any) -> str:
    while isinstance(array, np.ndarray):
        array = array.reshape(-1)[0]
    return str(array)


def is_count(text: str) -> bool:
    """Whether a text is a number of things, small enough for Python to read it."""
    return text.isdecimal() and len(text) <= _COUNT_DIGITS


def _wider_row(path: Path, number: int, line: str) -> list[float]:
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        row = []
    if len(row) < 4 or not all(map(math.isfinite, row)):
        raise AnnotationError(f"{path}, line {number}: expected a face's 'x y w h ...', found '{line[:60]}'")
    return row


def _wider_file(ground_truth: Path, split: str) -> Path:
    if not ground_truth.is_dir():
        if not ground_truth.is_file():
            raise AnnotationError(f"{ground_truth}: no such file or folder")
        return ground_truth
    candidates = [ground_truth / f"wider_face_{split}_bbx_gt.txt", ground_truth / f"wider_face_{split}.mat"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise AnnotationError(f"{ground_truth}: holds neither {candidates[0].name} nor {candidates[1].name}")


def image_size(path: Path, source: Path) -> tuple[int, int]:
    """Width and height of an upright image, from its header; source: the file that lists it. Raises AnnotationError."""
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such image (listed in {source})") from error
    except Exception as error:  # Pillow's plugins raise nearly anything for a damaged header
        raise AnnotationError(f"{path}: cannot be read as an image (listed in {source})") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = json_of(path)
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: not a COCO detection file (no object at its top)")
    return content


def _only_faces(content: dict[str, Any], entries: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    categories = list_of_objects(content, "categories", path) if "categories" in content else []
    if len(categories) < 2:
        return entries
    faces = [category.get("id") for category in categories if str(category.get("name")).lower() == "face"]
    if not faces:
        raise AnnotationError(f"{path}: has {len(categories)} categories, none of them named 'face'")
    return [entry for entry in entries if entry.get("category_id") in faces]


def _sides(entry: dict[str, Any], image: Path, path: Path) -> tuple[int, int]:
    """Width and height that a COCO file states, or those of the image where it states none."""
    sides = []
    for side in ("width", "height"):
        value = entry.get(side)
        if value is None:
            return image_size(image, path)
        if not isinstance(value, int | float) or not 0 < value <= _MAX_SIDE or value != math.floor(value):
            raise AnnotationError(f"{path}: image {entry['id']} has the {side} {value!r}")
        sides.append(int(value))
    return sides[0], sides[1]


def _to_xyxy(xywh: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
