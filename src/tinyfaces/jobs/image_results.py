"""The result of one image file, which all formats write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.inputs import InputFile

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class ImageResult:
    """The faces found in one image file.

    Args:
        path: The file, as given.
        name: Its path below the folder given.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        faces: With boxes in pixels of the upright image.
    """

    path: Path
    name: Path
    width: int
    height: int
    faces: Faces

    @classmethod
    def from_record(cls, file: InputFile, record: Mapping[str, Any]) -> "ImageResult":
        """The result that `to_record` wrote."""
        faces = Faces(np.array(record["boxes"], np.float32), np.array(record["scores"], np.float32))
        return cls(file.path, file.name, record["width"], record["height"], faces)

    def to_record(self) -> dict[str, Any]:
        """The result as JSON can hold it, not rounded, so that a resumed run gives the same to the last bit."""
        faces = {"boxes": self.faces.boxes.tolist(), "scores": self.faces.scores.tolist()}
        return {"width": self.width, "height": self.height, **faces}


class Named(Protocol):
    """What the name of an output file depends on: an `ImageResult` or the `InputFile` it comes from."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> Path: ...


def xml_text(path: Path) -> str:
    """`path_text` without the control characters that XML cannot hold."""
    return _NOT_IN_XML.sub("?", path_text(path))


def path_text(path: Path) -> str:
    """A path as text, also where its bytes are no UTF-8."""
    return str(path).encode("utf-8", "replace").decode("utf-8")
