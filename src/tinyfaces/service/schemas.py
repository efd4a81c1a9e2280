"""What the service answers, as its description at /docs shows it."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


class Detection(BaseModel):
    """The faces of a picture, highest score first; boxes are x1 y1 x2 y2 in pixels of the upright picture. left_clear: how many
    were left out for each reason."""

    file: str
    width: int
    height: int
    model: str
    threshold: float
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    left_clear: dict[str, int]


class Model(BaseModel):
    """A loaded model. Shipped ones come with what was measured: average precision by face height."""

    name: str
    threshold: float
    description: str = ""
    parameters: int | None = None
    gmac: float | None = None
    training_data: str = ""
    ap: dict[str, float] = {}


class Models(BaseModel):
    """What the service offers. limits: megabytes and megapixels of a picture. cover_threshold: heights of a face in pixels, each
    with the score from which it is covered by default; between them it changes with the logarithm of the height."""

    version: str
    default: str
    models: list[Model]
    limits: dict[str, float]
    restores: bool
    cover_threshold: tuple[tuple[float, float], ...]


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "No file, a second file, a broken form, or a file name that is a path.",
        408: "The upload took too long to arrive.",
        413: "More bytes or pixels than allowed.",
        415: "Not a picture.",
        422: "A damaged picture, an option out of its range, or an unknown option or form field.",
        429: "The queue is full; `Retry-After` says when to try again.",
        500: "The picture made the detector fail.",
        503: "Not answered in time.",
    }.items()
}
"""How requests with a picture may be refused."""
PICTURE: dict[str, Any] = {"image/jpeg": {}, "image/png": {}}
"""Kinds of pictures in answers."""


def body(*fields: str, optional: Sequence[str] = (), cover: bool = False) -> dict[str, Any]:
    """The description of a request with a picture and further form fields, each a list of boxes; some may be left out. cover:
    Whether a second picture may be sent to cover faces with."""
    properties: dict[str, Any] = {"file": {"type": "string", "format": "binary", "description": "The picture."}}
    boxes = "JSON: [[x1, y1, x2, y2], ...] in pixels, or an answer of /v1/detect."
    for name in (*fields, *optional):
        properties[name] = {"type": "string", "description": boxes}
    needed = ["file", *fields]
    if cover:
        properties["cover"] = {
            "type": "string",
            "format": "binary",
            "description": "A picture or an emoji to put over each mask.",
        }
    content = {"multipart/form-data": {"schema": {"type": "object", "required": needed, "properties": properties}}}
    if not fields:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}
