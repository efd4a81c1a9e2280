"""Documents of labelling tools: CVAT's XML, Label Studio's tasks and FiftyOne's detections."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tinyfaces.jobs.image_results import ImageResult, path_text, xml_text

LABEL = "face"
"""The label of all boxes."""
LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio's addresses of files below its document root begin with."""
_MODEL = "tinyfaces"


def cvat_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """CVAT's XML 1.1 for images: boxes in pixels, marked as made automatically, with the label `face`."""
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    labels = f"<labels><label><name>{LABEL}</name><type>rectangle</type><attributes></attributes></label></labels>"
    yield f"  <meta><task><name>{_MODEL}</name><mode>annotation</mode>{labels}</task></meta>\n"
    for number, result in enumerate(results):
        size = f'width="{result.width}" height="{result.height}"'
        yield f'  <image id="{number}" name={quoteattr(xml_text(Path(result.name.as_posix())))} {size}>\n'
        for x1, y1, x2, y2 in result.faces.to_dict()["boxes"]:
            corners = f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'
            yield f'    <box label="{LABEL}" source="auto" occluded="0" {corners} z_order="0"></box>\n'
        yield "  </image>\n"
    yield "</annotations>\n"


def label_studio_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """Label Studio's tasks, a photo each, whose faces are predictions; boxes in percent of the photo.

    The photos are local files below Label Studio's document root. The tags of its labelling interface are called `image` and
    `label`, as in its template for boxes.
    """
    yield "["
    for number, result in enumerate(results):
        values = result.faces.to_dict()
        size = {"original_width": result.width, "original_height": result.height, "image_rotation": 0}
        faces = []
        for place, (box, score) in enumerate(zip(values["boxes"], values["scores"], strict=True), start=1):
            x, y, width, height = (100 * side for side in _relative(box, result))
            value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [LABEL]}
            kind = {"id": f"face{place}", "type": "rectanglelabels", "from_name": "label", "to_name": "image"}
            faces.append({**kind, **size, "value": value, "score": score})
        prediction: dict[str, Any] = {"model_version": _MODEL, "result": faces}
        if values["scores"]:
            prediction["score"] = min(values["scores"])  # by which tasks are sorted: the doubtful ones first
        photo = {"image": LOCAL_FILES + quote(_name(result)), "width": result.width, "height": result.height}
        task = {"data": photo, "predictions": [prediction]}
        yield (",\n" if number else "\n") + json.dumps(task)
    yield "\n]\n"


def fiftyone_parts(results: Iterable[ImageResult]) -> Iterator[str]:
    """The labels of FiftyOne's `FiftyOneImageDetectionDataset`: by the photo's path without its ending, boxes x y width height
    relative to the photo, with confidence."""
    yield f'{{"classes": ["{LABEL}"], "labels": {{'
    for number, result in enumerate(results):
        values = result.faces.to_dict()
        detections = [
            {"label": LABEL, "bounding_box": _relative(box, result), "confidence": score}
            for box, score in zip(values["boxes"], values["scores"], strict=True)
        ]
        key = json.dumps(str(Path(_name(result)).with_suffix("").as_posix()))
        yield (",\n" if number else "\n") + f"{key}: {json.dumps(detections)}"
    yield "\n}}\n"


def _name(result: ImageResult) -> str:
    return path_text(Path(result.name.as_posix()))


def _relative(box: list[float], result: ImageResult) -> list[float]:
    """x y width height, relative to the photo."""
    x1, y1, x2, y2 = box
    return [x1 / result.width, y1 / result.height, (x2 - x1) / result.width, (y2 - y1) / result.height]
