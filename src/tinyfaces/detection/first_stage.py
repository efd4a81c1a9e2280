"""The first stage: the proposal network on images of any size, as a whole or in tiles."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np

from tinyfaces.detection.boxes import longer_sides, tiles
from tinyfaces.detection.context import min_score_needed, rescore_by_neighbours
from tinyfaces.detection.decoding import find_faces
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels, Regions
from tinyfaces.detection.merging import joined, merge, one_box_per_face
from tinyfaces.detection.runtime import Session
from tinyfaces.detection.views import (
    MIN_THUMBNAIL_SIDE,
    MULTIPLE,
    Scale,
    View,
    factor_to,
    padded_pixels,
    scale_factor,
    scaled_size,
)

if TYPE_CHECKING:
    import supervision

GivenProposals: TypeAlias = Union[Callable[[Pixels], Any], "supervision.Detections"]

_Find: TypeAlias = Callable[[Sequence[View]], list[Faces]]

TILED_ABOVE_PIXELS = 4_000_000
"""Larger images, after scaling, are searched in tiles, which bounds the memory of the network."""
TILE_SIDE = 1280
TILE_OVERLAP = 128
FRAME_PIXELS = 2_000_000
"""A tiled image is also searched as a whole, reduced to this many pixels."""
MIN_THUMBNAIL_FACE = 64
"""Longer side in pixels from which a face is taken from the thumbnail pass; smaller ones are found at full size."""

_BATCH_PIXELS = 4_000_000  # larger batches are no faster on a CPU, and need more memory


class Proposer(Protocol):
    """Whatever finds proposals."""

    def propose(self, images: Sequence[Pixels], threshold: float, scale: Scale | None) -> list[Faces]:
        """The proposals in each of the images HxWx3, in pixels of the image, highest score first."""
        ...

    def propose_in_regions(self, image: Pixels | Regions, threshold: float, scale: Scale | None) -> Faces:
        """As `propose`, for one image, always in tiles, from top to bottom."""
        ...


class OtherDetector:
    """Proposals of another detector, in any of the forms that `tinyfaces.Detector` takes as `proposals`."""

    def __init__(self, given: GivenProposals) -> None:
        self._given = given

    def propose(self, images: Sequence[Pixels], threshold: float, scale: Scale | None) -> list[Faces]:
        """What the other detector finds; `scale` is its own affair."""
        return [self._find(image).above(threshold) for image in images]

    def propose_in_regions(self, image: Pixels | Regions, threshold: float, scale: Scale | None) -> Faces:
        """As `propose`, for one image, in tiles at its own size; proposals made before are taken as they are."""
        if not callable(self._given):
            return _as_faces(self._given).above(threshold)
        height, width = image.shape[:2]
        find: _Find = lambda views: [self._find(np.ascontiguousarray(view.pixels)) for view in views]  # noqa: E731
        return find_in_tiles(image, (width, height), find, find).above(threshold)

    def _find(self, image: Pixels) -> Faces:
        return _as_faces(self._given(image) if callable(self._given) else self._given)


class FirstStage:
    """The proposal network, ready to run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def propose(self, images: Sequence[Pixels], threshold: float, scale: Scale | None) -> list[Faces]:
        """Find the proposals in each of several images.

        Args:
            images: HxWx3 uint8 RGB each.
            threshold: Proposals with a lower score, after `rescore_by_neighbours`, are left out.
            scale: See `tinyfaces.Detector`.

        Returns:
            For each image its proposals, in pixels of the image, highest score first.
        """
        lowest = min_score_needed(threshold)
        results = [Faces.empty()] * len(images)
        small: list[tuple[int, View]] = []
        for number, image in enumerate(images):
            working = _working_size(image, scale)
            if padded_pixels(*working) > TILED_ABOVE_PIXELS:
                results[number] = self._find_in_tiles(image, working, lowest)
            else:
                small.append((number, View.of(image, working, (0, 0, *working))))
        found = self._find_in_wholes([view for _, view in small], lowest)
        for (number, view), faces in zip(small, found, strict=True):
            results[number] = Faces(view.to_image(faces.boxes), faces.scores)
        return [rescore_by_neighbours(faces).above(threshold) for faces in results]

    def propose_in_regions(self, image: Pixels | Regions, threshold: float, scale: Scale | None) -> Faces:
        """As `propose`, for one image, always in tiles, from top to bottom."""
        faces = self._find_in_tiles(image, _working_size(image, scale), min_score_needed(threshold))
        return rescore_by_neighbours(faces).above(threshold)

    def _find_in_tiles(self, image: Pixels | Regions, working: tuple[int, int], threshold: float) -> Faces:
        return find_in_tiles(
            image,
            working,
            lambda views: self._find_in_wholes(views, threshold),
            lambda views: self._find_in_views(views, threshold),
        )

    def _find_in_wholes(self, views: Sequence[View], threshold: float) -> list[Faces]:
        """Faces of views that each show a whole image, in pixels of the view. Faces that fill much of a view, which may be too
        large for the network, come from the thumbnail pass."""
        found = self._find_in_views(views, threshold)
        numbers = [number for number, view in enumerate(views) if max(view.size) > MIN_THUMBNAIL_SIDE]
        thumbnails = [views[number].thumbnail() for number in numbers]
        for number, thumbnail, faces in zip(numbers, thumbnails, self._find_in_views(thumbnails, threshold), strict=True):
            large = longer_sides(faces.boxes) >= MIN_THUMBNAIL_FACE
            both, passes = joined([found[number], Faces(thumbnail.to_image(faces.boxes[large]), faces.scores[large])])
            found[number] = one_box_per_face(both, passes)
        return found

    def _find_in_views(self, views: Sequence[View], threshold: float) -> list[Faces]:
        """Faces of each view, in pixels of the view. Views of the same padded size run together."""
        found = [Faces.empty()] * len(views)
        by_shape = sorted(range(len(views)), key=lambda number: views[number].padded_shape)
        for shape, group in groupby(by_shape, key=lambda number: views[number].padded_shape):
            numbers = list(group)
            at_once = max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
            for start in range(0, len(numbers), at_once):
                chunk = numbers[start : start + at_once]
                batch = np.zeros((len(chunk), 3, *shape), np.float32)
                for row, number in enumerate(chunk):
                    width, height = views[number].size
                    batch[row, :, :height, :width] = views[number].pixels.transpose(2, 0, 1)
                outputs = self._session.run(batch)
                for row, number in enumerate(chunk):
                    width, height = views[number].size
                    found[number] = find_faces([output[row] for output in outputs], threshold, (height, width))
        return found


def find_in_tiles(image: Pixels | Regions, working: tuple[int, int], in_wholes: _Find, in_views: _Find) -> Faces:
    """Find small faces in overlapping tiles, and large ones in the image as a whole.

    Args:
        image: HxWx3 uint8 RGB.
        working: Width and height that it is scaled to.
        in_wholes: Finds the faces of views that each show a whole image, in pixels of the view.
        in_views: The same for parts of an image.

    Returns:
        The faces in pixels of the image, highest score first.
    """
    height, width = image.shape[:2]
    reduced = scaled_size(*working, factor_to(FRAME_PIXELS, *working))
    frame = View.of(image, reduced, (0, 0, *reduced))
    found = in_wholes([frame])[0]
    boxes = frame.to_image(found.boxes)
    per_pixel = working[0] / width
    # Smaller faces lie within some tile, which shows them in full detail.
    large = longer_sides(boxes) * per_pixel >= TILE_OVERLAP / 2
    parts = [Faces(boxes[large], found.scores[large])]
    regions = [np.array([0, 0, width, height], np.float64)]
    rectangles = tiles(*working, TILE_SIDE, TILE_OVERLAP, MULTIPLE).tolist()
    at_once = max(1, _BATCH_PIXELS // TILE_SIDE**2)
    for start in range(0, len(rectangles), at_once):
        views = [View.of(image, working, rectangle) for rectangle in rectangles[start : start + at_once]]
        for view, faces in zip(views, in_views(views), strict=True):
            whole = ~view.cuts(faces.boxes)
            parts.append(Faces(view.to_image(faces.boxes[whole]), faces.scores[whole]))
            regions.append(view.to_image(np.array([[0, 0, *view.size]], np.float32))[0].astype(np.float64))
    return merge(parts, regions, width, height)


def _working_size(image: Pixels | Regions, scale: Scale | None) -> tuple[int, int]:
    """Width and height of the image once it is scaled."""
    height, width = image.shape[:2]
    return scaled_size(width, height, scale_factor(scale, width, height))


def _as_faces(given: Any) -> Faces:
    """What another detector gave, as faces, highest score first."""
    if hasattr(given, "xyxy"):
        if given.confidence is None:
            raise ValueError("proposals need scores: these supervision.Detections have no confidence")
        given = Faces.from_supervision(given)
    faces = given if isinstance(given, Faces) else Faces(*given)
    return faces[np.argsort(-faces.scores, kind="stable")]
