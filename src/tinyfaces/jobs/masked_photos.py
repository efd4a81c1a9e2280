"""The faces of a photo masked: what `tinyfaces anonymise` does with each, here or on a cluster."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import LOST_TAG, anonymised, find_photo_faces, open_photo, removed
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


def masked_photo(
    path: Path, detector: Detector | None, masking: Masking, known: Sequence[KnownFaces] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of a photo and mask them.

    Args:
        path: The photo.
        detector: None to mask nothing but what is known.
        masking: What is covered of what is found, and how.
        known: Faces that are masked in any case.

    Returns:
        The masked photo as a file of its own format, and what was found and removed, as JSON can hold it.

    Raises:
        ImageError: The photo cannot be read or written.
        KnownFacesError: What is known contradicts the photo.
    """
    photo = open_photo(path)
    height, width = photo.pixels.shape[:2]
    given = [one.faces(path, width, height) for one in known]  # before the detector's work, as it may not fit
    nothing = Faces.empty()
    faces, in_alpha = (nothing, nothing) if detector is None else find_photo_faces(photo, detector, masking.cover)
    faces, left_clear = masking.selection.pick(faces, width, height)
    in_alpha, _ = masking.selection.pick(in_alpha, width, height)
    faces = joined([faces, *given])[0]
    if photo.alpha is not None:
        in_alpha = joined([in_alpha, *given])[0]
    content = anonymised(photo, faces, masking.style, masking.keep_metadata, in_alpha, masking.picture)
    record = {"width": width, "height": height, "faces": len(faces), **faces.to_dict()}
    return content, {**record, "left_clear": left_clear, "removed": removed(photo, masking.keep_metadata)}


def lost_lines(name: str, removed_kinds: list[str]) -> list[str]:
    """A line for each tag of a photo that was to be kept and could not be. name: that of the photo, as the line has it."""
    return [f"{name}: {kind} cannot be kept" for kind in removed_kinds if kind.startswith(LOST_TAG)]
