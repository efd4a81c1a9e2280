"""Files of boxes, read again: those that tinyfaces writes, and the same formats of any other program."""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.box_checks import checked_boxes, checked_numbers, checked_scores, stated_size
from tinyfaces.jobs.inputs import is_hidden, is_image_name
from tinyfaces.jobs.known_faces import Known, KnownFaces, KnownVideo
from tinyfaces.jobs.labelling_files import cvat_entries, fiftyone_entries, label_studio_entries
from tinyfaces.jobs.region_files import PhotoXmp, photo_faces, photo_with_regions, sidecar_faces, xmp_of
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.parsing.coco_entries import boxes_of_entries, column, list_of_objects, owners
from tinyfaces.parsing.texts import AnnotationError, bytes_of, json_of, reason, text_of
from tinyfaces.parsing.voc_objects import voc_boxes, voc_root
from tinyfaces.parsing.wider_boxes import from_wider
from tinyfaces.parsing.yolo_lines import yolo_boxes

_NOT_BOXES = ("classes.txt", "labels.txt", "obj.names", "data.yaml")
_PROBLEMS = "_problems.csv"
_SIDECAR = ".xmp"
_LABEL_FILES = (".txt", ".xml", _SIDECAR)
_MOST_FRAMES = 100_000_000
_SIDES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class BoxFiles:
    """All that a file or folder of boxes says.

    Args:
        path: The file or folder.
        entries: One for each photo or video.
        files: The files that were read.
        problems: A line for each file in a folder that cannot be read.
        fingerprint: Changes with the content of the files.
    """

    path: Path
    entries: list[Known]
    files: list[Path]
    problems: list[str]
    fingerprint: str


def read_box_files(path: Path) -> BoxFiles:
    """Read a file of boxes, or all in a folder and the folders in it.

    Boxes of all classes are read. What a label file or a single entry has wrong is kept as the problem of that photo.

    Args:
        path: `.json` (of tinyfaces, COCO, Label Studio or FiftyOne, also gzipped), `.jsonl` or `.csv`, `.txt` (YOLO or WIDER
            FACE), `.xml` (Pascal VOC or CVAT), `.xmp` (face regions), a photo that holds such regions, or a folder of them.
            Photos count in a folder that holds nothing else.

    Raises:
        AnnotationError: There is nothing to read, or the one file is malformed.
    """
    if not path.exists():
        raise AnnotationError(f"{path}: no such file or folder")
    if not path.is_dir():
        if not _is_readable(path) and not is_image_name(path):
            raise AnnotationError(
                f"{path}: boxes are read from .json, .jsonl, .csv, .txt, .xml and .xmp files, photos with face regions, "
                "or a folder of them"
            )
        content = _content(path)
        mark = hashlib.sha256(_digest(content)).hexdigest()[:16]
        return BoxFiles(path, _read(path, content, path.parent), [path], [], mark)
    there = [file for file in sorted(path.rglob("*")) if not _is_left_out(file, path)]
    readable = [file for file in there if _is_readable(file)]
    files: list[Path] = []
    entries: list[Known] = []
    problems = []
    total = hashlib.sha256()
    for file, xmp in [(file, None) for file in readable] or ((file, photo_with_regions(file)) for file in there):
        if xmp is None and not readable:
            continue
        files.append(file)
        try:
            content = _content(file) if xmp is None else xmp
            total.update(_digest(content))
            entries += _read(file, content, path)
        except AnnotationError as error:
            problems.append(str(error))
            total.update(str(error).encode("utf-8", "replace"))
    if not files:
        raise AnnotationError(f"{path}: holds no files of boxes (.json, .jsonl, .csv, .txt, .xml, .xmp, photos with regions)")
    return BoxFiles(path, entries, files, problems, total.hexdigest()[:16])


def _is_left_out(file: Path, folder: Path) -> bool:
    hidden = any(is_hidden(part) for part in file.relative_to(folder).parts)
    return hidden or file.name in _NOT_BOXES or file.name.endswith(_PROBLEMS) or not file.is_file()


def _content(file: Path) -> bytes | PhotoXmp:
    """All that a file says about boxes. Raises AnnotationError."""
    return xmp_of(file) if is_image_name(file) else bytes_of(file)


def _digest(content: bytes | PhotoXmp) -> bytes:
    return hashlib.sha256(content.packet if isinstance(content, PhotoXmp) else content).digest()


def _reader_of(file: Path) -> Callable[[Path, bytes], list[Known]] | None:
    name = file.name.lower().removesuffix(".gz")
    return next((reader for ending, reader in _DOCUMENTS.items() if name.endswith(ending)), None)


def _is_readable(file: Path) -> bool:
    return _reader_of(file) is not None or file.suffix.lower() in _LABEL_FILES


def _read(file: Path, content: bytes | PhotoXmp, folder: Path) -> list[Known]:
    """The entries of a file with this content. Raises AnnotationError, but for what a label file, which is about one photo, has
    wrong."""
    if isinstance(content, PhotoXmp):
        return [photo_faces(file, content, file.relative_to(folder).as_posix())]
    reader = _reader_of(file)
    if reader is not None:
        return reader(file, content)
    name = file.relative_to(folder).with_suffix("").as_posix()
    if file.suffix.lower() == _SIDECAR:
        return [sidecar_faces(file, content, name)]
    try:
        if file.suffix.lower() != ".xml":
            return [_lines(file, content, name)]
        root = voc_root(file, content)
        if root.tag != "annotations":
            return [_voc(root, file, name)]
    except AnnotationError as error:
        return [KnownFaces(file, name, label_suffix=file.suffix, problem=str(error))]
    return cvat_entries(root, file)


def _voc(root: ElementTree.Element, file: Path, name: str) -> KnownFaces:
    """What a Pascal VOC file says. Raises AnnotationError."""
    if root.tag != "annotation":
        raise AnnotationError(f"{file}: neither a Pascal VOC nor a CVAT file (its root is '{root.tag}')")
    boxes = [box for box, _ in voc_boxes(root, file)]
    stated = {side: root.findtext(f"size/{side}", "").strip() for side in ("width", "height")}
    size = None if "0" in stated.values() else stated_size(stated, str(file))  # which some tools write for what they do not know
    photo_name = root.findtext("filename", "").strip()
    return KnownFaces(file, name, checked_boxes(boxes, str(file)), None, size, label_suffix=file.suffix, photo_name=photo_name)


def _lines(file: Path, content: bytes, name: str) -> KnownFaces:
    """What a file of YOLO or WIDER FACE says. Raises AnnotationError."""
    suffix = file.suffix
    text = text_of(file, content)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].isdecimal():
        rows = _wider_rows(file, lines)
        boxes = from_wider(np.array([row[:4] for row in rows])).tolist()
        scores = checked_scores([row[4] for row in rows], str(file))
        return KnownFaces(file, name, checked_boxes(boxes, str(file)), scores, label_suffix=suffix)
    found = [*yolo_boxes(text, file)]
    given = [box.score for box in found]
    scored = None if any(score is None for score in given) or not given else checked_scores(given, str(file))
    boxes = [[*box.corners] for box in found]
    return KnownFaces(file, name, checked_boxes(boxes, str(file)), scored, relative=True, label_suffix=suffix)


def _wider_rows(file: Path, lines: list[str]) -> list[list[float]]:
    rows = []
    for line in lines[2:]:
        try:
            rows.append([float(word) for word in line.split()])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != 5:
            raise AnnotationError(f"{file}: expected 'x y width height score', found '{line[:60]}'")
    if len(rows) != int(lines[1]):
        raise AnnotationError(f"{file}: says that it has {lines[1]} faces, and has {len(rows)}")
    return rows


def _json(file: Path, given: bytes) -> list[Known]:
    """Photos of tinyfaces, a video of tinyfaces, a report of `anonymise`, or a file of COCO, Label Studio or FiftyOne."""
    content = json_of(file, given)
    if isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content):
        return label_studio_entries(content, file)
    if isinstance(content, dict):
        if isinstance(content.get("labels"), dict):
            return fiftyone_entries(content["labels"], file)
        if isinstance(content.get("frames"), list):
            return [_video(file, content, [_object(file, frame, "frame") for frame in content["frames"]])]
        if "annotations" in content:
            return _coco(file, content)
        records = content.get("images", content.get("files"))
        if isinstance(records, list):
            return [_photo(file, _object(file, one, "image")) for one in records if not _is_video_of_a_report(one)]
    raise AnnotationError(f"{file}: no result of tinyfaces, and no file of COCO, Label Studio or FiftyOne")


def _is_video_of_a_report(record: object) -> bool:
    return isinstance(record, dict) and "frames" in record and "boxes" not in record


def _jsonl(file: Path, content: bytes) -> list[Known]:
    """A photo, or a frame of a video, per line."""
    entries: list[Known] = []
    videos: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(text_of(file, content).split("\n"), start=1):  # names may hold what else ends a line
        if not line.strip():
            continue
        try:
            record = _object(file, json.loads(line), f"line {number}")
        except (ValueError, RecursionError) as error:
            if isinstance(error, AnnotationError):
                raise
            raise AnnotationError(f"{file}, line {number}: not valid JSON ({reason(error)})") from None
        if "frame" in record:
            videos.setdefault(_name(file, record), []).append(record)
        else:
            entries.append(_photo(file, record))
    return [*entries, *(_video(file, frames[0], frames) for frames in videos.values())]


def _csv(file: Path, content: bytes) -> list[Known]:
    """A face per line. A line without a box says that a photo has no faces."""
    text = text_of(file, content)
    header = text.partition("\n")[0]
    rows = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if header.count(";") > header.count(",") else ",", skipinitialspace=True
    )
    columns = [name.strip() for name in rows.fieldnames or ()]
    if not {"file", *_SIDES} <= set(columns):
        raise AnnotationError(f"{file}: its first line must name the columns file, x1, y1, x2 and y2")
    rows.fieldnames = columns
    photos: dict[str, list[dict[str, Any]]] = defaultdict(list)
    videos: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    try:
        for row in rows:
            record: dict[str, Any] = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
            record["line"] = rows.line_num
            name = _name(file, record)
            if "frame" not in columns:
                photos[name].append(record)
                continue
            number = int(record["frame"])
            frame = videos[name].setdefault(
                number,
                {
                    **record, "frame": number, "searched": record.get("searched") != "0",
                    "boxes": [], "scores": [], "tracks": [], "found": [],
                },
            )  # fmt: skip
            frame["boxes"].append(_csv_box(file, record))
            frame["scores"].append(record.get("score") or 1)
            frame["tracks"].append(record.get("track") or 0)
            frame["found"].append(record.get("found") != "0")
    except (ValueError, csv.Error) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{file}, line {rows.line_num}: {reason(error)}") from None
    return [
        *(_csv_photo(file, name, records, "score" in columns) for name, records in photos.items()),
        *(
            _video(file, {"file": name}, [frames[number] for number in sorted(frames)], complete=False)
            for name, frames in videos.items()
        ),
    ]


def _csv_photo(file: Path, name: str, records: list[dict[str, Any]], scored: bool) -> KnownFaces:
    given = [record for record in records if any(record[side] for side in _SIDES)]
    try:
        boxes = checked_boxes([_csv_box(file, record) for record in given], f"{file}: {name}")
        scores = checked_scores([record["score"] or 1 for record in given], f"{file}: {name}") if scored else None
    except AnnotationError as error:
        return KnownFaces(file, name, problem=str(error))
    return KnownFaces(file, name, boxes, scores)


def _csv_box(file: Path, record: Mapping[str, Any]) -> list[float]:
    try:
        return [float(record[side]) for side in _SIDES]
    except ValueError:
        raise AnnotationError(f"{file}, line {record['line']}: x1, y1, x2 and y2 must be numbers") from None


def _coco(file: Path, content: dict[str, Any]) -> list[Known]:
    images = list_of_objects(content, "images", file)
    annotations = list_of_objects(content, "annotations", file)
    owner = owners(images, annotations, file)
    xywh = boxes_of_entries(annotations, file)
    scores = column(annotations, "score", 1.0, file)
    scored = any(annotation.get("score") is not None for annotation in annotations)
    entries: list[Known] = []
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(images) + 1))
    for number, image in enumerate(images):
        name = str(image["file_name"])
        mine = order[ends[number] : ends[number + 1]]
        boxes = np.concatenate([xywh[mine, :2], xywh[mine, :2] + xywh[mine, 2:]], axis=1)
        try:
            checked = checked_boxes(boxes.tolist(), f"{file}: {name}")
            known = checked_scores(scores[mine].tolist(), f"{file}: {name}") if scored else None
            entries.append(KnownFaces(file, name, checked, known, stated_size(image, f"{file}: {name}")))
        except AnnotationError as error:
            entries.append(KnownFaces(file, name, problem=str(error)))
    return entries


_DOCUMENTS: dict[str, Callable[[Path, bytes], list[Known]]] = {".json": _json, ".jsonl": _jsonl, ".csv": _csv}
"""Files with entries about many photos."""


def _photo(file: Path, record: dict[str, Any]) -> KnownFaces:
    name = _name(file, record)
    where = f"{file}: {name}"
    try:
        boxes = checked_boxes(record.get("boxes"), where)
        scores = None if record.get("scores") is None else checked_scores(record["scores"], where)
        if scores is not None and len(scores) != len(boxes):
            raise AnnotationError(f"{where}: has {len(boxes)} boxes and {len(scores)} scores")
        return KnownFaces(file, name, boxes, scores, stated_size(record, where))
    except AnnotationError as error:
        return KnownFaces(file, name, problem=str(error))


def _video(file: Path, head: dict[str, Any], records: list[dict[str, Any]], complete: bool = True) -> KnownVideo:
    name = _name(file, head)
    frames: dict[int, TrackedFaces] = {}
    try:
        for record in records:
            number, frame = _frame(file, record)
            if number in frames:
                raise AnnotationError(f"{file}: has two entries for frame {number}")
            frames[number] = frame
        scored = all(record.get("scores") is not None for record in records)
        return KnownVideo(file, name, frames, stated_size(head, str(file)), complete, scored)
    except AnnotationError as error:
        return KnownVideo(file, name, problem=str(error))


def _frame(file: Path, record: dict[str, Any]) -> tuple[int, TrackedFaces]:
    number = record.get("frame")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MOST_FRAMES:
        raise AnnotationError(f"{file}: a frame has no number 'frame' from 0")
    where = f"{file}: frame {number}"
    boxes = checked_boxes(record.get("boxes"), where).astype(np.float32)
    scores = checked_scores(record["scores"], where) if record.get("scores") is not None else np.ones(len(boxes), np.float32)
    tracks = checked_numbers(record.get("tracks", [0] * len(boxes)), where, "tracks")
    found = checked_numbers(record.get("found", [True] * len(boxes)), where, "found")
    (time,) = checked_numbers([record.get("time") or 0], where, "time").tolist()
    if not len(boxes) == len(scores) == len(tracks) == len(found):
        raise AnnotationError(f"{where}: has {len(boxes)} boxes, {len(scores)} scores and {len(tracks)} tracks")
    return number, TrackedFaces(
        time,
        Faces(boxes, scores.astype(np.float32)),
        tracks.astype(np.int64),
        found != 0,
        boxes,
        stated_size(record, where),
        searched=record.get("searched") is not False,
    )


def _object(file: Path, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AnnotationError(f"{file}: {what} is no object")
    return value


def _name(file: Path, record: Mapping[str, Any]) -> str:
    name = record.get("file")
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f"{file}: an entry has no 'file'")
    return name
