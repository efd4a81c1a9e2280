"""The faces of a photo masked: what `tinyfaces anonymise` does with each, here or on a cluster."""

from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.jobs.animations import frames_in, masked_animation
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import anonymised, find_photo_faces, open_photo, removed


def masked_photo(path: Path, detector: Detector, style: MaskStyle, keep_metadata: bool) -> tuple[bytes, dict[str, Any]]:
    """Find the faces of a photo, or of each frame of an animation, and mask them.

    Returns:
        The masked photo as a file of its own format, and what was found and removed, as JSON can hold it.

    Raises:
        ImageError: The photo cannot be read or written.
    """
    if frames_in(path) > 1:
        return masked_animation(path, detector, style, keep_metadata)
    photo = open_photo(path)
    faces, in_alpha = find_photo_faces(photo, detector)
    content = anonymised(photo, faces, style, keep_metadata, in_alpha)
    height, width = photo.pixels.shape[:2]
    record = {"width": width, "height": height, "faces": len(faces), **faces.to_dict()}
    return content, {**record, "removed": removed(photo, keep_metadata)}
