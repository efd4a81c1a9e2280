"""The faces of a photo masked: what `tinyfaces anonymise` does with each, here or on a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.jobs.animations import frames_in, masked_animation
from tinyfaces.jobs.covered_faces import Masking, covered_faces
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.photos import LOST_TAG, anonymised, open_photo, removed


def masked_photo(
    path: Path, detector: Detector | None, masking: Masking, known: Sequence[KnownFaces] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of a photo, or of each frame of an animation, and mask them.

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
    if frames_in(path) > 1:
        return masked_animation(path, detector, masking, known)
    photo = open_photo(path)
    height, width = photo.pixels.shape[:2]
    given = [one.faces(path, width, height) for one in known]  # before the detector's work, as it may not fit
    covered = covered_faces(photo, detector, masking, given)
    content = anonymised(photo, covered.faces, masking.style, masking.keep_metadata, covered.in_alpha, masking.picture)
    record = {"width": width, "height": height, "faces": len(covered.faces), **covered.faces.to_dict()}
    return content, {**record, "left_clear": covered.left_clear, "removed": removed(photo, masking.keep_metadata)}


def lost_lines(name: str, removed_kinds: list[str]) -> list[str]:
    """A line for each tag of a photo that was to be kept and could not be. name: that of the photo, as the line has it."""
    return [f"{name}: {kind} cannot be kept" for kind in removed_kinds if kind.startswith(LOST_TAG)]
