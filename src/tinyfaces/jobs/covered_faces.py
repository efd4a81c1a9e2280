"""Which faces of a photo are covered, found ones and given ones: what all ways to mask a photo share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import Photo, find_photo_faces
from tinyfaces.jobs.selection import ALL, Selection


@dataclass(frozen=True)
class Masking:
    """What is covered and how, and what else of a file stays.

    Args:
        cover: The score from which a detection is covered.
        style: How it is covered.
        keep_metadata: Keep what `anonymise --keep-metadata` keeps.
        selection: Which faces are covered.
        picture: Put over each mask.
    """

    cover: CoverThreshold = field(default_factory=CoverThreshold)
    style: MaskStyle = field(default_factory=MaskStyle)
    keep_metadata: bool = False
    selection: Selection = ALL
    picture: CoverPicture | None = None

    def settings(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        own = {"threshold": self.cover.settings(), "keep_metadata": self.keep_metadata}
        picture = {} if self.picture is None else {"cover": self.picture.digest}
        return {**asdict(self.style), **own, **self.selection.settings(), **picture}


@dataclass(frozen=True)
class CoveredFaces:
    """The faces of a photo that are covered.

    Args:
        faces: All of them, in pixels of the photo.
        in_alpha: Those that are covered in its transparency too.
        left_clear: How many others were found, for each reason.
    """

    faces: Faces
    in_alpha: Faces
    left_clear: Mapping[str, int] = field(default_factory=dict)


def covered_faces(photo: Photo, detector: Detector | None, masking: Masking, given: Sequence[Faces] = ()) -> CoveredFaces:
    """Find the faces of a photo, choose among them, and add those that are given.

    Nobody says where given faces are seen: where the transparency shows a picture of its own, they are covered there too.

    Args:
        photo: The photo.
        detector: None to cover nothing but what is given.
        masking: What is covered of what is found.
        given: Faces that are covered in any case, in pixels of the photo.
    """
    height, width = photo.pixels.shape[:2]
    found = (Faces.empty(), Faces.empty()) if detector is None else find_photo_faces(photo, detector, masking.cover)
    (faces, left_clear), (in_alpha, _) = (masking.selection.pick(part, width, height) for part in found)
    also_in_alpha = [] if photo.alpha is None else given
    return CoveredFaces(joined([faces, *given])[0], joined([in_alpha, *also_in_alpha])[0], left_clear)
