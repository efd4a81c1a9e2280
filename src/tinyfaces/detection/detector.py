"""The public door: `Detector` takes images of any size and gives the faces in them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, overload

import numpy as np

from tinyfaces.detection.boxes import longer_sides, tiles
from tinyfaces.detection.context import in_scene, lowest_needed
from tinyfaces.detection.decoding import find_faces
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import ImageError, ImageSource, Pixels, Regions, read_image
from tinyfaces.detection.merging import gathered, merge, one_a_face
from tinyfaces.detection.runtime import ModelError, load_session
from tinyfaces.detection.second_stage import SecondStage
from tinyfaces.detection.views import (
    GLANCE_LEAST,
    MULTIPLE,
    Scale,
    View,
    factor_to,
    padded_pixels,
    scale_factor,
    scaled_size,
)
from tinyfaces.weights import models, second_stage

if TYPE_CHECKING:
    import supervision

ImageList: TypeAlias = list[Any] | tuple[ImageSource, ...]
Proposals: TypeAlias = Union[Callable[[Pixels], Any], "supervision.Detections"]

STAGES = ("proposals", "proposals+gan")

LARGEST_SCALE = 16.0

TILED_ABOVE_PIXELS = 4_000_000
TILE_SIDE = 1280
TILE_OVERLAP = 128
FRAME_PIXELS = 2_000_000
GLANCE_SIDE = 64  # of the faces taken from it

_OWN_MODEL_THRESHOLD = 0.3
_BATCH_PIXELS = 4_000_000
_WINDOW_PIXELS = 8_000_000


class Detector:
    """Finds faces in images.

    model: the name of a shipped model (`tinyfaces.weights.models()`), or the path of an ONNX file of one's own.
    threshold: the score from which a detection counts as a face; the model's own recommendation if None.
    scale: by how much images are enlarged (above 1) or reduced (below 1) before the network sees them: twice the scale
        finds faces half as large and takes four times as long. "auto" enlarges images of less than 2 megapixels to
        that size, at most twofold, and leaves larger ones as they are. None, with a shipped model, enlarges those of less than
        0.3 megapixels to that size, at most 1.5 times, and leaves all others, and all with a model of one's own, as they are.
    device: "cpu" or "cuda". backend: "onnxruntime" or "openvino". threads: all processors if None.
    precision: "float32"; "int8", for models with an int8 file beside theirs, twice as fast on processors made for it and a little
        less exact; "bfloat16", with openvino; or "auto": int8 where the model has it and the processor is made for it.
    stages: "proposals" for the proposal network alone; "proposals+gan" to have small or undecided candidates restored and
        judged by the second stage too. None takes both stages with a shipped model or with `proposals`, else the first alone.
    rule: which candidates the second stage judges and how its judgement is fused (see `tinyfaces.detection.fusion`); if None,
        the one learnt for the model.
    proposals: another detector whose faces the second stage is to judge, instead of `model`: a function of an image HxWx3 (uint8,
        RGB) that gives `Faces`, `supervision.Detections`, or a pair of boxes (N, 4), x1 y1 x2 y2 in pixels, and scores (N,); or
        the `supervision.Detections` of the one image that is going to be given. It should give low scores too: what it leaves
        out can't be found. `scale` has no effect then.

    Images are also looked at reduced to a quarter of their sides (but to 256 pixels at least), for faces that fill much of
    them. Those of more than 4 megapixels, after scaling, are searched in overlapping tiles, and once more as a whole, reduced,
    for the faces that are too large for the overlap. Memory does not grow with them beyond their own pixels.

    Raises ModelError where the model, the backend or the device is missing, ValueError for a threshold outside 0-1, a scale
    outside 0-16 or unknown stages.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "accurate",
        *,
        threshold: float | None = None,
        scale: Scale | None = None,
        device: str = "cpu",
        backend: str = "onnxruntime",
        threads: int | None = None,
        precision: str = "auto",
        stages: str | None = None,
        rule: FusionRule | None = None,
        proposals: Proposals | None = None,
    ) -> None:
        if stages is not None and stages not in STAGES:
            raise ValueError(f"stages '{stages}': must be one of {', '.join(STAGES)}")
        path, own_threshold = _find_model(model)
        shipped = path in {record.path for record in models().values()}
        self.threshold = _checked_threshold(own_threshold if threshold is None else threshold)
        self.scale = _checked_scale(1.0 if scale is None and not shipped else scale)
        self._proposals = proposals
        if proposals is None:
            self._session = load_session(path, backend=backend, device=device, threads=threads, precision=precision)
        self.stages = stages or STAGES[shipped or proposals is not None]
        self._second: SecondStage | None = None
        if self.stages == "proposals+gan":
            record = second_stage()
            known = record.rules.get(str(model) if shipped and proposals is None else "other")
            chosen = rule or FusionRule.from_dict(known or record.rules["other"])
            self._second = SecondStage(
                record, chosen, backend=backend, device=device, threads=threads,
                precision="auto" if precision == "bfloat16" else precision,
            )  # fmt: skip

    @overload
    def detect(self, image: ImageSource, *, threshold: float | None = None, scale: Scale | None = None) -> Faces: ...

    @overload
    def detect(self, image: ImageList, *, threshold: float | None = None, scale: Scale | None = None) -> list[Faces]: ...

    def detect(
        self,
        image: ImageSource | ImageList,
        *,
        threshold: float | None = None,
        scale: Scale | None = None,
    ) -> Faces | list[Faces]:
        """The faces in an image, or in each of a list of images, in their order; of each, highest score first.

        image: a path, a PIL image, or an array HxWx3 uint8 in RGB order (see `read_image`); or a list of these.
        threshold, scale: instead of the detector's own.

        Boxes are in pixels of the upright image. Raises ImageError where an image cannot be read; use `stream` to go
        on with the others.
        """
        images = image if isinstance(image, list | tuple) else [image]
        found = []
        for result in self.stream(images, threshold=threshold, scale=scale):
            if isinstance(result, ImageError):
                raise result
            found.append(result)
        return found if images is image else found[0]

    def stream(
        self, images: Iterable[ImageSource], *, threshold: float | None = None, scale: Scale | None = None
    ) -> Iterator[Faces | ImageError]:
        """The faces in each of any number of images, in their order, read some megapixels ahead.

        An image that cannot be read gives its ImageError in the place of its faces, and the rest goes on.
        """
        return self._stream(
            images,
            _checked_threshold(self.threshold if threshold is None else threshold),
            _checked_scale(self.scale if scale is None else scale),
        )

    def detect_regions(self, image: Regions, *, threshold: float | None = None) -> Faces:
        """The faces in an image that is read region by region, such as `tinyfaces.detection.large.LargeImage`: in tiles, and
        reduced as a whole, from top to bottom each time. threshold: instead of the detector's own. By the first stage alone: the
        second's crops would jump about in the file."""
        height, width = image.shape[:2]
        working = scaled_size(width, height, scale_factor(self.scale, width, height))
        lowest = _checked_threshold(self.threshold if threshold is None else threshold)
        return in_scene(self._detect_tiled(image, working, lowest_needed(lowest))).above(lowest)

    def _stream(self, sources: Iterable[ImageSource], threshold: float, scale: Scale | None) -> Iterator[Faces | ImageError]:
        window: list[Pixels | ImageError] = []
        held = 0
        for source in sources:
            try:
                pixels = read_image(source)
            except ImageError as error:
                window.append(error)
                continue
            window.append(pixels)
            height, width = pixels.shape[:2]
            held += max(1, scale_factor(scale, width, height)) ** 2 * width * height
            if held >= _WINDOW_PIXELS:
                yield from self._detect_window(window, threshold, scale)
                window, held = [], 0
        yield from self._detect_window(window, threshold, scale)

    def _detect_window(
        self, window: Sequence[Pixels | ImageError], threshold: float, scale: Scale | None
    ) -> list[Faces | ImageError]:
        images = [pixels for pixels in window if not isinstance(pixels, ImageError)]
        if self._second is None:
            found = [faces.above(threshold) for faces in self._propose(images, threshold, scale)]
        else:
            proposals = self._propose(images, self._second.rule.lowest_useful(threshold), scale)
            found = [faces.above(threshold) for faces in self._second.apply(images, proposals)]
        in_order = iter(found)
        return [pixels if isinstance(pixels, ImageError) else next(in_order) for pixels in window]

    def restore(self, image: ImageSource | Regions, faces: Faces) -> Pixels:
        """Restore faces of an image with the second stage's generator.

        What it shows is likely, not known: it is no evidence of who someone is.

        Args:
            image: What the faces were found in: a path, a PIL image, an array HxWx3 uint8 in RGB order, or an image that is
                read region by region.
            faces: Which faces, with boxes in pixels of the image.

        Returns:
            (N, 64, 64, 3) uint8 RGB: each face with its context, at four times the 16x16 pixels that the generator sees.

        Raises:
            ValueError: The detector has no second stage.
            ImageError: The image cannot be read.

        Example:
            ```python
            detector = tinyfaces.Detector()
            faces = detector.detect("crowd.jpg").smaller_than(16)
            crops = detector.restore("crowd.jpg", faces)
            ```
        """
        if self._second is None:
            raise ValueError("restoring needs the second stage: Detector(stages='proposals+gan')")
        if isinstance(image, np.ndarray) or not isinstance(image, Regions):
            image = read_image(image)
        return self._second.restore_faces(image, faces.boxes)

    def _propose(self, images: Sequence[Pixels], threshold: float, scale: Scale | None) -> list[Faces]:
        """First stage: faces of each image, in pixels of the image."""
        if self._proposals is not None:
            given = [self._proposals(image) if callable(self._proposals) else self._proposals for image in images]
            return [_as_faces(one).above(threshold) for one in given]
        lowest = lowest_needed(threshold)
        results = [Faces.empty()] * len(images)
        small: list[tuple[int, View]] = []
        for number, image in enumerate(images):
            height, width = image.shape[:2]
            working = scaled_size(width, height, scale_factor(scale, width, height))
            if padded_pixels(*working) > TILED_ABOVE_PIXELS:
                results[number] = self._detect_tiled(image, working, lowest)
            else:
                small.append((number, View.of(image, working, (0, 0, *working))))
        found = self._detect_wholes([view for _, view in small], lowest)
        for (number, view), faces in zip(small, found, strict=True):
            results[number] = Faces(view.to_image(faces.boxes), faces.scores)
        return [in_scene(faces).above(threshold) for faces in results]

    def _detect_tiled(self, image: Pixels | Regions, working: tuple[int, int], threshold: float) -> Faces:
        height, width = image.shape[:2]
        reduced = scaled_size(*working, factor_to(FRAME_PIXELS, *working))
        frame = View.of(image, reduced, (0, 0, *reduced))
        found = self._detect_wholes([frame], threshold)[0]
        boxes = frame.to_image(found.boxes)
        per_pixel = working[0] / width
        # What is smaller than this is whole in some tile, where it is seen in full detail.
        large = longer_sides(boxes) * per_pixel >= TILE_OVERLAP / 2
        parts = [Faces(boxes[large], found.scores[large])]
        regions = [np.array([0, 0, width, height], np.float64)]
        rectangles = tiles(*working, TILE_SIDE, TILE_OVERLAP, MULTIPLE).tolist()
        at_once = max(1, _BATCH_PIXELS // TILE_SIDE**2)
        for start in range(0, len(rectangles), at_once):
            views = [View.of(image, working, rectangle) for rectangle in rectangles[start : start + at_once]]
            for view, faces in zip(views, self._detect_views(views, threshold), strict=True):
                whole = ~view.cuts(faces.boxes)
                parts.append(Faces(view.to_image(faces.boxes[whole]), faces.scores[whole]))
                regions.append(view.to_image(np.array([[0, 0, *view.size]], np.float32))[0].astype(np.float64))
        return merge(parts, regions, width, height)

    def _detect_wholes(self, views: Sequence[View], threshold: float) -> list[Faces]:
        """Faces of views that each show a whole image, in pixels of the view. Those that fill much of a view, and may be too
        large for the network there, come from a glance at it reduced too."""
        found = self._detect_views(views, threshold)
        glanced_at = [number for number, view in enumerate(views) if max(view.size) > GLANCE_LEAST]
        glances = [views[number].reduced() for number in glanced_at]
        for number, glance, glanced in zip(glanced_at, glances, self._detect_views(glances, threshold), strict=True):
            large = longer_sides(glanced.boxes) >= GLANCE_SIDE
            both, looks = gathered([found[number], Faces(glance.to_image(glanced.boxes[large]), glanced.scores[large])])
            found[number] = one_a_face(both, looks)
        return found

    def _detect_views(self, views: Sequence[View], threshold: float) -> list[Faces]:
        """Faces of each view, in pixels of the view."""
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


def _as_faces(given: Any) -> Faces:
    """What another detector gave, as faces, highest score first."""
    if hasattr(given, "xyxy"):
        if given.confidence is None:
            raise ValueError("proposals need scores: these supervision.Detections have no confidence")
        given = Faces.from_supervision(given)
    faces = given if isinstance(given, Faces) else Faces(*given)
    return faces[np.argsort(-faces.scores, kind="stable")]


def _find_model(model: str | os.PathLike[str]) -> tuple[Path, float]:
    shipped = models()
    if isinstance(model, str) and model in shipped:
        return shipped[model].path, shipped[model].threshold
    path = Path(model)
    if path.suffix.lower() != ".onnx" and not path.exists():
        names = ", ".join(shipped)
        raise ModelError(f"no model '{model}': choose from {names}, or give the path of an ONNX file")
    return path, _OWN_MODEL_THRESHOLD


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}: must be within 0-1")
    return float(threshold)


def _checked_scale(scale: Scale | None) -> Scale | None:
    if scale is None:
        return None
    if isinstance(scale, str):
        if scale != "auto":
            raise ValueError(f"scale '{scale}': must be a number or 'auto'")
        return scale
    if not 0 < scale <= LARGEST_SCALE:
        raise ValueError(f"scale {scale}: must be above 0 and at most {LARGEST_SCALE:g}")
    return float(scale)
