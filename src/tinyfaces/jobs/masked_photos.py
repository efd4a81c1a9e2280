"""The faces of a photo masked: what `tinyfaces anonymise` does with each, here or on a cluster."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.cover_threshold import CoverThreshold
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


def masked_photo(path: Path, detector: Detector, masking: Masking) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of a photo and mask them.

    Returns:
        The masked photo as a file of its own format, and what was found and removed, as JSON can hold it.

    Raises:
        ImageError: The photo cannot be read or written.
    """
    photo = open_photo(path)
    faces, in_alpha = find_photo_faces(photo, detector, masking.cover)
    height, width = photo.pixels.shape[:2]
    faces, left_clear = masking.selection.pick(faces, width, height)
    in_alpha, _ = masking.selection.pick(in_alpha, width, height)
    content = anonymised(photo, faces, masking.style, masking.keep_metadata, in_alpha, masking.picture)
    record = {"width": width, "height": height, "faces": len(faces), **faces.to_dict()}
    return content, {**record, "left_clear": left_clear, "removed": removed(photo, masking.keep_metadata)}


def lost_lines(name: str, removed_kinds: list[str]) -> list[str]:
    """A line for each tag of a photo that was to be kept and could not be. name: that of the photo, as the line has it."""
    return [f"{name}: {kind} cannot be kept" for kind in removed_kinds if kind.startswith(LOST_TAG)]
