"""Photos of a review: how their faces are found, what was decided about them, and how they are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.files import write_atomically
from tinyfaces.jobs.covered_faces import Masking, covered_faces
from tinyfaces.jobs.doubts import doubt, offered
from tinyfaces.jobs.journal import stamp_of
from tinyfaces.jobs.photos import anonymised, find_photo_faces, open_photo, removed
from tinyfaces.jobs.review_store import ReviewedFace, ReviewedPhoto, ReviewStore


class ChangedSince(ValueError):
    """A photo's file is no longer the one that was reviewed. The message is one line that names it."""


@dataclass(frozen=True)
class Decisions:
    """What was decided about the faces of a photo, each list in the order of their numbers.

    Args:
        found: What the detector found, from the threshold on.
        added: What is covered beside that: drawn by a person, or found below the threshold.
        taken_away: What was found and is not covered.
        moved: What was found and is covered in another place or size.
        covered: All that is covered.
    """

    found: list[ReviewedFace]
    added: list[ReviewedFace]
    taken_away: list[ReviewedFace]
    moved: list[ReviewedFace]
    covered: list[ReviewedFace]

    @classmethod
    def of(cls, photo: ReviewedPhoto) -> "Decisions":
        """Those about a photo of a review."""
        covered = [face for face in photo.faces if face.state == "covered"]
        found = [face for face in photo.faces if face.found]
        return cls(
            found,
            [face for face in covered if not face.found],
            [face for face in found if face.state != "covered"],
            [face for face in found if face.state == "covered" and face.moved],
            covered,
        )

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {name: len(faces) for name, faces in vars(self).items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: the number found, and the boxes of all other kinds."""
        boxes = {name: [[round(side, 3) for side in face.box] for face in faces] for name, faces in vars(self).items()}
        return {**boxes, "found": len(self.found)}


def search(store: ReviewStore, number: int, detector: Detector) -> Pixels:
    """Find the faces of a photo of a review and record them. Gives its pixels.

    Raises:
        ImageError: It cannot be read, or could not be written again.
    """
    path = store.photo(number).path
    stamp = stamp_of(path)
    photo = open_photo(path)
    faces, _ = find_photo_faces(photo, detector, offered(store.cover))
    height, width = photo.pixels.shape[:2]
    store.found(number, stamp, (width, height), faces, doubt(faces, store.cover, width, height))
    return photo.pixels


def write_reviewed(photo: ReviewedPhoto, target: Path, masking: Masking) -> Mapping[str, Any]:
    """Write a photo with exactly those faces covered that are to be.

    Returns:
        The kinds of metadata left out, as JSON can hold it.

    Raises:
        ChangedSince: Its file has changed since its faces were found.
        ImageError: It cannot be read or written.
        OSError: The target cannot be written.
    """
    opened = open_photo(photo.path)
    if stamp_of(photo.path) != photo.stamp:
        raise ChangedSince(f"{photo.path}: has changed since it was reviewed; look at it again")
    boxes = photo.covered
    covered = covered_faces(opened, None, masking, [Faces(boxes, np.ones(len(boxes), np.float32))])
    content = anonymised(opened, covered.faces, masking.style, masking.keep_metadata, covered.in_alpha, masking.picture)
    write_atomically(target, content)
    return {"removed": removed(opened, masking.keep_metadata)}
