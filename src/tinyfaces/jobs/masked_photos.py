"""The faces of a photo masked: what `tinyfaces anonymise` does with each, here or on a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import Photo, anonymised, find_photo_faces, open_photo, removed


def masked_photo(
    path: Path, detector: Detector | None, style: MaskStyle, keep_metadata: bool, known: Sequence[KnownFaces] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of a photo and mask them.

    Args:
        path: The photo.
        detector: None to mask nothing but what is known.
        style: How faces are masked.
        keep_metadata: See `anonymised`.
        known: Faces that are masked in any case.

    Returns:
        The masked photo as a file of its own format, and what was found and removed, as JSON can hold it.

    Raises:
        ImageError: The photo cannot be read or written.
        KnownFacesError: What is known contradicts the photo.
    """
    photo = open_photo(path)
    faces, in_alpha = _faces_of(photo, detector, known)
    content = anonymised(photo, faces, style, keep_metadata, in_alpha)
    height, width = photo.pixels.shape[:2]
    record = {"width": width, "height": height, "faces": len(faces), **faces.to_dict()}
    return content, {**record, "removed": removed(photo, keep_metadata)}


def _faces_of(photo: Photo, detector: Detector | None, known: Sequence[KnownFaces]) -> tuple[Faces, Faces]:
    """The faces of a photo, those found first, and those of them that are masked in its transparency too."""
    height, width = photo.pixels.shape[:2]
    given = [one.faces(photo.path, width, height) for one in known]  # before the detector's work, as it may not fit
    found, in_alpha = (Faces.empty(), Faces.empty()) if detector is None else find_photo_faces(photo, detector)
    if not given:
        return found, in_alpha
    if photo.alpha is not None:
        in_alpha = joined([in_alpha, *given])[0]
    return joined([found, *given])[0], in_alpha
