"""What labelling tools export, read: CVAT's XML, Label Studio's tasks and FiftyOne's detections."""

import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from tinyfaces.jobs.box_checks import checked_boxes, checked_scores, stated_size
from tinyfaces.jobs.known_faces import Known, KnownFaces
from tinyfaces.parsing.texts import AnnotationError

_WITHOUT_PLACE = ("attribute", "tag")  # of what CVAT says about an image
_UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files


def cvat_entries(root: ElementTree.Element, file: Path) -> list[Known]:
    """The photos of CVAT's XML 1.1. Of a rotated box, the upright box around it. Raises AnnotationError for a video's tracks."""
    if root.find("track") is not None:
        raise AnnotationError(f"{file}: holds tracks of a video; export it as 'CVAT for images'")
    return [_cvat_image(image, file) for image in root.iter("image")]


def _cvat_image(image: ElementTree.Element, file: Path) -> KnownFaces:
    name = image.get("name", "")
    where = f"{file}: {name}"
    try:
        boxes = []
        for shape in image:
            if shape.tag in _WITHOUT_PLACE:
                continue
            if shape.tag != "box":
                raise AnnotationError(f"{where}: has a {shape.tag}; only boxes are read")
            x1, y1, x2, y2 = (_number(shape.get(side), where) for side in ("xtl", "ytl", "xbr", "ybr"))
            centre, turn = ((x1 + x2) / 2, (y1 + y2) / 2), _number(shape.get("rotation", "0"), where)
            corners = [(x, y) for x in (x1, x2) for y in (y1, y2)]
            boxes.append([x1, y1, x2, y2] if turn == 0 else _around(corners, centre, turn))
        return KnownFaces(file, name, checked_boxes(boxes, where), None, stated_size(image.attrib, where))
    except AnnotationError as error:
        return KnownFaces(file, name, problem=str(error))


def label_studio_entries(tasks: list[dict[str, Any]], file: Path) -> list[Known]:
    """The photos of Label Studio's tasks: the last annotation of each that was not cancelled, or else its last prediction.

    Raises:
        AnnotationError: A task names no image.
    """
    entries: list[Known] = []
    for task in tasks:
        name = _image_of(task, file)
        try:
            entries.append(_label_studio_photo(task, file, name))
        except AnnotationError as error:
            entries.append(KnownFaces(file, name, problem=str(error)))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            entries.append(KnownFaces(file, name, problem=f"{file}: {name}: its results cannot be read ({error})"))
    return entries


def _image_of(task: dict[str, Any], file: Path) -> str:
    """The path of the image that a task's address leads to. Raises AnnotationError."""
    data = task["data"] if isinstance(task["data"], dict) else {}
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str)), None)
    if not isinstance(address, str):
        raise AnnotationError(f"{file}: a task names no image")
    parts = urlsplit(address)
    given = parse_qs(parts.query).get("d")
    if given:
        return given[0]
    path = unquote(parts.path)
    if "/upload/" not in path:
        return path.lstrip("/") if parts.scheme else path
    return _UPLOADED.sub("", path.rpartition("/")[2], count=1)


def _label_studio_photo(task: dict[str, Any], file: Path, name: str) -> KnownFaces:
    where = f"{file}: {name}"
    done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
    results = next((one["result"] for part in (done, task.get("predictions") or ()) for one in reversed(part)), None)
    if results is None:
        raise AnnotationError(f"{where}: has neither annotations nor predictions")
    boxes, scores, size = [], [], stated_size(task["data"], where)
    for result in results:
        value = result["value"]
        if result["type"] not in ("rectanglelabels", "rectangle"):
            if {"x", "points", "rle"} & set(value):
                raise AnnotationError(f"{where}: has {result['type']}; only rectangles are read")
            continue
        size = stated_size({"width": result.get("original_width"), "height": result.get("original_height")}, where) or size
        x, y, width, height = (float(value[side]) / 100 for side in ("x", "y", "width", "height"))
        turn = float(value.get("rotation") or 0)
        if turn == 0:
            boxes.append([x, y, x + width, y + height])
        elif size is None:
            raise AnnotationError(f"{where}: has a rotated rectangle, and not the size of the photo")
        else:
            corners = [((x + dx) * size[0], (y + dy) * size[1]) for dx in (0, width) for dy in (0, height)]
            around = _around(corners, (x * size[0], y * size[1]), turn)
            boxes.append([side / whole for side, whole in zip(around, size * 2, strict=True)])
        scores.append(result.get("score"))
    known = None if not scores or None in scores else checked_scores(scores, where)
    return KnownFaces(file, name, checked_boxes(boxes, where), known, size, relative=True)


def fiftyone_entries(labels: dict[str, Any], file: Path) -> list[Known]:
    """The photos of FiftyOne's `FiftyOneImageDetectionDataset`."""
    return [_fiftyone_photo(file, name, detections) for name, detections in labels.items()]


def _fiftyone_photo(file: Path, name: str, detections: Any) -> KnownFaces:
    where = f"{file}: {name}"
    try:
        given = [(detection["bounding_box"], detection.get("confidence")) for detection in detections or ()]
        boxes = [[x, y, x + width, y + height] for (x, y, width, height), _ in given]
        scores = None if not given or any(score is None for _, score in given) else checked_scores([s for _, s in given], where)
        return KnownFaces(file, name, checked_boxes(boxes, where), scores, relative=True, label_suffix=file.suffix)
    except AnnotationError as error:
        return KnownFaces(file, name, label_suffix=file.suffix, problem=str(error))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        problem = f"{where}: its detections must have a 'bounding_box' of 4 numbers"
        return KnownFaces(file, name, label_suffix=file.suffix, problem=problem)


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise AnnotationError(f"{where}: a box has no corners xtl, ytl, xbr and ybr") from None


def _around(corners: list[tuple[float, float]], pivot: tuple[float, float], degrees: float) -> list[float]:
    """The upright box around corners in pixels that are turned clockwise about a point."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = [pivot[0] + (x - pivot[0]) * cos - (y - pivot[1]) * sin for x, y in corners]
    down = [pivot[1] + (x - pivot[0]) * sin + (y - pivot[1]) * cos for x, y in corners]
    return [min(across), min(down), max(across), max(down)]
