"""Writing of results: JSON, JSON lines, CSV and COCO as one document, YOLO and WIDER FACE as one file per image."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyfaces.faces import Faces


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image. path: as given; name: path below the folder given; width, height: upright, in pixels."""

    path: Path
    name: Path
    width: int
    height: int
    faces: Faces


def as_json(results: Iterable[ImageResult]) -> str:
    """`{"images": [{"file", "width", "height", "boxes", "scores"}, ...]}`, boxes x1 y1 x2 y2 in pixels."""
    return json.dumps({"images": [_record(result) for result in results]}, indent=1) + "\n"


def as_json_line(result: ImageResult) -> str:
    """One image's record of `as_json` on one line."""
    return json.dumps(_record(result)) + "\n"


def as_jsonl(results: Iterable[ImageResult]) -> str:
    """A line of JSON per image."""
    return "".join(as_json_line(result) for result in results)


def as_csv(results: Iterable[ImageResult]) -> str:
    """A line per face: file, x1, y1, x2, y2, score."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "x1", "y1", "x2", "y2", "score"))
    for result in results:
        values = result.faces.to_dict()
        for box, score in zip(values["boxes"], values["scores"], strict=True):
            rows.writerow((_text(result.path), *box, score))
    return text.getvalue()


def as_coco(results: Sequence[ImageResult]) -> str:
    """A COCO detection data set of one category, `face`; each annotation with its score."""
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        values = result.faces.to_dict()
        for (x1, y1, x2, y2), score in zip(values["boxes"], values["scores"], strict=True):
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                    "bbox": [x1, y1, width, height], "area": round(width * height, 3), "score": score,
                }
            )  # fmt: skip
    images = [
        {"id": number, "file_name": result.name.as_posix(), "width": result.width, "height": result.height}
        for number, result in enumerate(results, start=1)
    ]
    categories = [{"id": 1, "name": "face", "supercategory": "person"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}) + "\n"


def as_yolo(result: ImageResult) -> str:
    """A line per face: class 0, centre x, centre y, width, height (all relative to the image's), score."""
    lines = []
    for (x1, y1, x2, y2), score in zip(result.faces.boxes.tolist(), result.faces.scores.tolist(), strict=True):
        x, width = (x1 + x2) / 2 / result.width, (x2 - x1) / result.width
        y, height = (y1 + y2) / 2 / result.height, (y2 - y1) / result.height
        lines.append(f"0 {x:.6f} {y:.6f} {width:.6f} {height:.6f} {score:.6f}\n")
    return "".join(lines)


def as_wider(result: ImageResult) -> str:
    """WIDER FACE's prediction file: the image's name, the number of faces, then x y width height score for each."""
    lines = [f"{result.name.stem}\n{len(result.faces)}\n"]
    for (x1, y1, x2, y2), score in zip(result.faces.boxes.tolist(), result.faces.scores.tolist(), strict=True):
        lines.append(f"{x1:.3f} {y1:.3f} {x2 - x1:.3f} {y2 - y1:.3f} {score:.6f}\n")
    return "".join(lines)


def wider_name(result: ImageResult) -> Path:
    """`<event>/<image>.txt`: the event is the image's folder."""
    name = result.name.with_suffix(".txt")
    return name if name.parent != Path() else Path(result.path.absolute().parent.name) / name


def yolo_name(result: ImageResult) -> Path:
    """The label file's path, like the image's."""
    return result.name.with_suffix(".txt")


DOCUMENTS: dict[str, Callable[[Sequence[ImageResult]], str]] = {
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "coco": as_coco,
}
"""Formats that put all images into one document."""

PER_IMAGE: dict[str, tuple[Callable[[ImageResult], Path], Callable[[ImageResult], str]]] = {
    "yolo": (yolo_name, as_yolo),
    "wider": (wider_name, as_wider),
}
"""Formats with one file per image: its name and its text."""

FORMATS = (*DOCUMENTS, *PER_IMAGE)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it, so that it is never seen half-written. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _record(result: ImageResult) -> dict[str, Any]:
    return {"file": _text(result.path), "width": result.width, "height": result.height, **result.faces.to_dict()}


def _text(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode("utf-8")
