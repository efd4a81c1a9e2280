"""Formats of results: JSON, JSON lines, CSV, COCO and those of labelling tools as one document; YOLO, Pascal VOC, WIDER FACE and
XMP as one file per image."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tinyfaces.files import named_after
from tinyfaces.jobs.face_regions import as_xmp, xmp_name
from tinyfaces.jobs.image_results import ImageResult as ImageResult
from tinyfaces.jobs.image_results import Named as Named
from tinyfaces.jobs.image_results import path_text as _text
from tinyfaces.jobs.image_results import xml_text
from tinyfaces.jobs.labelling_formats import cvat_parts, fiftyone_parts, label_studio_parts
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.parsing.wider_boxes import to_wider


def json_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """`{"images": [{"file", "width", "height", "boxes", "scores"}, ...]}`, boxes x1 y1 x2 y2 in pixels; an image per line."""
    yield '{"images": ['
    for number, result in enumerate(results):
        yield (",\n" if number else "\n") + json.dumps(_record(result))
    yield "\n]}\n"


def as_json(results: Iterable[ImageResult]) -> str:
    """`json_parts` as one text."""
    return "".join(json_parts(results))


def as_json_line(result: ImageResult) -> str:
    """One image's record of `as_json` on one line."""
    return json.dumps(_record(result)) + "\n"


def as_jsonl(results: Iterable[ImageResult]) -> str:
    """A line of JSON per image."""
    return "".join(map(as_json_line, results))


def csv_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """A line per face: file, x1, y1, x2, y2, score."""
    yield csv_lines([("file", "x1", "y1", "x2", "y2", "score")])
    for result in results:
        values = result.faces.to_dict()
        rows = zip(values["boxes"], values["scores"], strict=True)
        yield csv_lines((_text(result.path), *box, score) for box, score in rows)


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as comma-separated lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_csv(results: Iterable[ImageResult]) -> str:
    """`csv_parts` as one text."""
    return "".join(csv_parts(results))


def coco_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """A COCO detection data set of one category, `face`; each annotation with its score."""
    images: list[str] = []
    number = 0
    yield '{"annotations": ['
    for image_id, result in enumerate(results, start=1):
        size = {"width": result.width, "height": result.height}
        images.append(json.dumps({"id": image_id, "file_name": _text(Path(result.name.as_posix())), **size}))
        values = result.faces.to_dict()
        for (x1, y1, x2, y2), score in zip(values["boxes"], values["scores"], strict=True):
            number += 1
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            yield (",\n" if number > 1 else "\n") + json.dumps(
                {
                    "id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                    "bbox": [x1, y1, width, height], "area": round(width * height, 3), "score": score,
                }
            )  # fmt: skip
    categories = json.dumps([{"id": 1, "name": "face", "supercategory": "person"}])
    yield '\n], "images": [\n' + ",\n".join(images) + f'\n], "categories": {categories}}}\n'


def as_coco(results: Iterable[ImageResult]) -> str:
    """`coco_parts` as one text."""
    return "".join(coco_parts(results))


def as_yolo(result: ImageResult, scores: bool = True) -> str:
    """A line per face: class 0, then centre x, centre y, width and height, relative to the image, then the score if wanted.

    Nine decimals tell 0.001 pixels apart in images of up to half a million pixels a side.
    """
    lines = []
    values = result.faces.to_dict()
    for (x1, y1, x2, y2), score in zip(values["boxes"], values["scores"], strict=True):
        x, width = (x1 + x2) / 2 / result.width, (x2 - x1) / result.width
        y, height = (y1 + y2) / 2 / result.height, (y2 - y1) / result.height
        lines.append(f"0 {x:.9f} {y:.9f} {width:.9f} {height:.9f}{f' {score:.6f}' if scores else ''}\n")
    return "".join(lines)


def as_yolo_labels(result: ImageResult) -> str:
    """`as_yolo` without scores, as labelling tools and training programs read it."""
    return as_yolo(result, scores=False)


def as_voc(result: ImageResult) -> str:
    """Pascal VOC's XML: an object `face` for each face, with its box in whole pixels, counted from 1, both ends included."""
    root = ElementTree.Element("annotation")
    for tag, text in (("folder", xml_text(result.name.parent)), ("filename", xml_text(Path(result.name.name)))):
        ElementTree.SubElement(root, tag).text = text
    size = ElementTree.SubElement(root, "size")
    for tag, number in (("width", result.width), ("height", result.height), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(number)
    ElementTree.SubElement(root, "segmented").text = "0"
    for x1, y1, x2, y2 in result.faces.to_dict()["boxes"]:
        face = ElementTree.SubElement(root, "object")
        for tag, text in (("name", "face"), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(face, tag).text = text
        box = ElementTree.SubElement(face, "bndbox")
        left, top = min(math.floor(x1 + 0.5), result.width - 1), min(math.floor(y1 + 0.5), result.height - 1)
        right, bottom = max(math.floor(x2 + 0.5), left + 1), max(math.floor(y2 + 0.5), top + 1)
        for tag, number in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            ElementTree.SubElement(box, tag).text = str(number)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def as_wider(result: ImageResult) -> str:
    """WIDER FACE's prediction file: the image's name, the number of faces, then x y width height score for each, with places as
    WIDER FACE counts them (see `parsing.wider_boxes`)."""
    lines = [f"{_text(Path(result.name.stem))}\n{len(result.faces)}\n"]
    values = result.faces.to_dict()
    for (x, y, width, height), score in zip(to_wider(np.array(values["boxes"])).tolist(), values["scores"], strict=True):
        lines.append(f"{x:.3f} {y:.3f} {width:.3f} {height:.3f} {score:.6f}\n")
    return "".join(lines)


def wider_name(result: Named) -> Path:
    """`<event>/<image>.txt`: the event is the image's folder."""
    name = named_after(result.name, ".txt")
    return name if name.parent != Path() else Path(result.path.absolute().parent.name) / name


def yolo_name(result: Named) -> Path:
    """The label file's path, like the image's."""
    return named_after(result.name, ".txt")


def voc_name(result: Named) -> Path:
    """The label file's path, like the image's."""
    return named_after(result.name, ".xml")


DOCUMENTS: dict[str, Callable[[Iterable[ImageResult]], Iterator[str]]] = {
    "json": json_parts,
    "jsonl": lambda results: map(as_json_line, results),
    "csv": csv_parts,
    "coco": coco_parts,
    "cvat": cvat_parts,
    "labelstudio": label_studio_parts,
    "fiftyone": fiftyone_parts,
}
"""Formats with one document for all images: its text, in parts."""

PER_IMAGE: dict[str, tuple[Callable[[Named], Path], Callable[[ImageResult], str]]] = {
    "yolo": (yolo_name, as_yolo),
    "voc": (voc_name, as_voc),
    "wider": (wider_name, as_wider),
    "xmp": (xmp_name, as_xmp),
}
"""Formats with one file per image: its name and its text."""

FORMATS = (*DOCUMENTS, *PER_IMAGE)


def video_jsonl_parts(path: Path, width: int, height: int, frames: Iterable[TrackedFaces]) -> Iterator[str]:
    """A line of JSON per frame: file, frame (its number), time (seconds), width and height (of this frame), boxes, scores, tracks
    (the same number for the same face in all frames), found (false where a face was missed in this frame, and put between its
    neighbours), and, where the frame was not searched, searched (false)."""
    for number, frame in enumerate(frames):
        yield json.dumps({"file": _text(path), **_frame_record(number, frame, (width, height))}) + "\n"


def video_json_parts(path: Path, width: int, height: int, frames: Iterable[TrackedFaces]) -> Iterator[str]:
    """`{"file", "width", "height", "frames": [...]}` with the size of the first frame, and frames as in `video_jsonl_parts`."""
    head = json.dumps({"file": _text(path), "width": width, "height": height})
    yield head[:-1] + ', "frames": ['
    for number, frame in enumerate(frames):
        yield (",\n" if number else "\n") + json.dumps(_frame_record(number, frame, (width, height)))
    yield "\n]}\n"


def video_csv_parts(path: Path, width: int, height: int, frames: Iterable[TrackedFaces]) -> Iterator[str]:
    """A line per face and frame: file, frame, time, track, x1, y1, x2, y2, score, found (0 or 1), width, height of the frame, and
    whether the frame was searched (0 or 1)."""
    columns = ("file", "frame", "time", "track", "x1", "y1", "x2", "y2", "score", "found", "width", "height", "searched")
    yield csv_lines([columns])
    for number, frame in enumerate(frames):
        record = _frame_record(number, frame, (width, height))
        faces = zip(record["tracks"], record["boxes"], record["scores"], record["found"], strict=True)
        end = (record["width"], record["height"], int(frame.searched))
        yield csv_lines(
            (_text(path), number, record["time"], track, *box, score, int(found), *end) for track, box, score, found in faces
        )


VIDEO_DOCUMENTS: dict[str, Callable[[Path, int, int, Iterable[TrackedFaces]], Iterator[str]]] = {
    "json": video_json_parts,
    "jsonl": video_jsonl_parts,
    "csv": video_csv_parts,
}
"""Formats for the faces of a video: the text, in parts."""


def _record(result: ImageResult) -> dict[str, Any]:
    return {"file": _text(result.path), "width": result.width, "height": result.height, **result.faces.to_dict()}


def _frame_record(number: int, frame: TrackedFaces, size: tuple[int, int]) -> dict[str, Any]:
    """size: that of the first frame, for a frame that does not tell its own."""
    width, height = frame.size or size
    faces = {**frame.faces.to_dict(), "tracks": frame.tracks.tolist(), "found": frame.found.tolist()}
    return {"frame": number, "time": round(frame.time, 6), "width": width, "height": height, **faces} | (
        {} if frame.searched else {"searched": False}
    )
