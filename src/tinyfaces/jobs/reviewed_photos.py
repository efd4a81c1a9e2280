"""Photos of a review: how their faces are found, what was decided about them, and how they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.merging import joined
from tinyfaces.files import write_atomically
from tinyfaces.jobs.covered_faces import Masking, covered_faces
from tinyfaces.jobs.doubts import doubt, offered
from tinyfaces.jobs.journal import stamp_of
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.photos import anonymised, find_photo_faces, open_photo, removed
from tinyfaces.jobs.review_store import ReviewedFace, ReviewedPhoto, ReviewStore


class ChangedSince(ValueError):
    """A photo's or video's file is no longer the one that was reviewed. The message is one line that names it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: has changed since it was reviewed; look at it again")


@dataclass(frozen=True)
class Decisions:
    """What was decided about the faces of a photo, each list in the order of their numbers.

    Args:
        found: What the detector found from the threshold on, and what files give.
        added: What is covered beside that: drawn by a person, found below the threshold, or left out by the selection.
        taken_away: What was found and is not covered, as a person says so.
        moved: What was found and is covered in another place or size.
        covered: All that is covered.
        left_clear: What was found and is not covered, as the selection leaves it out.
    """

    found: list[ReviewedFace]
    added: list[ReviewedFace]
    taken_away: list[ReviewedFace]
    moved: list[ReviewedFace]
    covered: list[ReviewedFace]
    left_clear: list[ReviewedFace]

    @classmethod
    def of(cls, photo: ReviewedPhoto) -> "Decisions":
        """Those about a photo of a review."""
        covered = [face for face in photo.faces if face.state == "covered"]
        found = [face for face in photo.faces if face.found]
        clear = [face for face in found if face.state != "covered"]
        return cls(
            found,
            [face for face in covered if not face.found or face.left_out],
            [face for face in clear if not face.left_out],
            [face for face in found if face.state == "covered" and face.moved],
            covered,
            [face for face in clear if face.left_out],
        )

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {name: len(faces) for name, faces in vars(self).items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: the number found, and the boxes of all other kinds."""
        boxes = {name: [[round(side, 3) for side in face.box] for face in faces] for name, faces in vars(self).items()}
        return {**boxes, "found": len(self.found)}


def search(store: ReviewStore, number: int, detector: Detector | None, known: Sequence[KnownFaces] = ()) -> Pixels:
    """Find the faces of a photo of a review and record them, and those that files give. Gives its pixels.

    Args:
        store: Of the review.
        number: Of the photo.
        detector: None to take only what is known.
        known: Faces that are covered in any case.

    Raises:
        ImageError: It cannot be read, or could not be written again.
        KnownFacesError: What is known contradicts the photo.
    """
    path = store.photo(number).path
    stamp = stamp_of(path)
    photo = open_photo(path)
    height, width = photo.pixels.shape[:2]
    given, _ = joined([Faces.empty(), *(one.faces(path, width, height) for one in known)])
    faces, _ = (Faces.empty(), None) if detector is None else find_photo_faces(photo, detector, offered(store.cover))
    chosen, _ = store.selection.pick(faces, width, height)
    store.found(number, stamp, (width, height), faces, doubt(chosen, store.cover, width, height), given)
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
        raise ChangedSince(photo.path)
    boxes = photo.covered
    covered = covered_faces(opened, None, masking, [Faces(boxes, np.ones(len(boxes), np.float32))])
    content = anonymised(opened, covered.faces, masking.style, masking.keep_metadata, covered.in_alpha, masking.picture)
    write_atomically(target, content)
    return {"removed": removed(opened, masking.keep_metadata)}
