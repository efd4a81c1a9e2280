"""The public class: `Detector` takes images of any size and gives the faces in them."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np

from tinyfaces.detection.cards import card
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.first_stage import FirstStage, GivenProposals, OtherDetector, Proposer
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import ImageError, ImageSource, Pixels, Regions, read_image
from tinyfaces.detection.restoring import Restorer
from tinyfaces.detection.runtime import ModelError, RuntimeOptions, load_session
from tinyfaces.detection.second_stage import SecondStage
from tinyfaces.detection.views import Scale, scale_factor
from tinyfaces.weights import models, second_stage, shipped_model

ImageList: TypeAlias = list[Any] | tuple[ImageSource, ...]

STAGES = ("proposals", "both")
MAX_SCALE = 16.0

_OWN_MODEL_THRESHOLD = 0.3  # for models whose best threshold is not known
_WINDOW_ERRORS = 16  # that wait for the images read before them
_WINDOW_PIXELS = 8_000_000  # read ahead: enough to fill batches of any shape


class Detector:
    """Finds faces in images. Any number of threads may share one.

    Every image is also searched at a quarter of its size (but at least 256 pixels), for faces that fill much of it. Images of
    more than 4 megapixels, after scaling, are searched in overlapping tiles, and once more as a whole. Beyond the image's own
    pixels, memory does not grow with its size.

    Args:
        model: The name of a shipped model (see `tinyfaces.weights.models`) or the path of an ONNX file.
        threshold: The score from which a detection counts as a face, 0-1. If None, what the model recommends; 0.3 for a model of
            your own and for `proposals`, whose scores have a scale of their own.
        scale: How much images are enlarged (above 1) or reduced (below 1) first. At 2, faces half as large are found, in four
            times the time. "auto" enlarges images below 2 megapixels to that size, at most twofold. If None, shipped models
            enlarge images below 0.3 megapixels to that size, at most 1.5 times, and other models enlarge nothing.
        device: "auto", the best there is; or "cpu", "cuda", "directml", "coreml", or with openvino "gpu".
        backend: "onnxruntime" or "openvino".
        threads: Processor threads in all; as many as this process may use if None.
        precision: "float32"; "int8", which is twice as fast on processors made for it and slightly less exact; "bfloat16", with
            openvino only; or "auto": int8 where the model has it and the processor is made for it.
        stages: "proposals" for the proposal network alone; "both" to have the second stage judge small or uncertain candidates.
            If None, "both" for shipped models and with `proposals`, "proposals" for a model of your own.
        rule: Which candidates the second stage judges, and how both scores become one. If None, the rule learnt for the model.
        proposals: Another detector, in place of `model`, whose faces the second stage judges: a function of an image HxWx3
            (uint8, RGB) that returns `Faces`, `supervision.Detections` or a pair of boxes (N, 4), x1 y1 x2 y2 in pixels, and
            scores (N,); or the `supervision.Detections` of the one image to come. It should return low scores too: faces it
            leaves out cannot be found. `scale` has no effect on it.
        workers: How many threads will call the detector at once; each call gets its share of `threads`.

    Raises:
        ModelError: The model, the backend or the device is missing.
        ValueError: A threshold outside 0-1, a scale outside 0-16, or unknown stages.

    Example:
        ```python
        detector = tinyfaces.Detector("fast", threshold=0.5)
        faces = detector.detect("crowd.jpg")
        print(len(faces), faces.boxes)
        ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "accurate",
        *,
        threshold: float | None = None,
        scale: Scale | None = None,
        device: str = "auto",
        backend: str = "onnxruntime",
        threads: int | None = None,
        precision: str = "auto",
        stages: str | None = None,
        rule: FusionRule | None = None,
        proposals: GivenProposals | None = None,
        workers: int = 1,
    ) -> None:
        if stages is not None and stages not in STAGES:
            raise ValueError(f"unknown stages '{stages}': choose from {', '.join(STAGES)}")
        shipped = shipped_model(model) if proposals is None else None
        own_threshold = _OWN_MODEL_THRESHOLD if shipped is None else shipped.threshold
        self.model = os.fspath(model) if proposals is None else "proposals"
        self.workers = workers
        self.threshold = _checked_threshold(own_threshold if threshold is None else threshold)
        self.scale = _checked_scale(1.0 if scale is None and shipped is None else scale)
        self._options = options = RuntimeOptions(backend, device, threads, precision, workers)
        self._first: Proposer = (
            FirstStage(load_session(_file_of(model), options=options)) if proposals is None else OtherDetector(proposals)
        )
        self.stages = stages or ("both" if shipped is not None or proposals is not None else "proposals")
        rules = second_stage().rules
        self._rule = rule or FusionRule.from_dict(rules.get("other" if shipped is None else shipped.name, rules["other"]))
        self._opening = threading.Lock()
        self._opened: Restorer | None = None
        self._second = None if self.stages == "proposals" else SecondStage(second_stage(), self._rule, self._options)

    def __repr__(self) -> str:
        """Model and settings, short."""
        return f"Detector({self.model!r}, threshold={self.threshold:g}, scale={self.scale!r}, stages={self.stages!r})"

    def _repr_png_(self) -> bytes:
        """A card for notebooks: what it is and how it is set."""
        lines = {
            "threshold": f"{self.threshold:g}",
            "scale": "as the model needs" if self.scale is None else f"{self.scale}",
            "stages": self.stages,
            "runs on": f"{self._options.runs_on} ({self._options.backend}, {self._options.precision})",
        }
        return card(f"Detector {self.model}", lines)

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
        """Find the faces in an image, or in each of a list of images.

        Args:
            image: A path, bytes, a file opened in binary mode, a PIL image, or an array HxWx3 uint8 in RGB order (see
                `read_image`); or a list of these.
            threshold: In place of the detector's own.
            scale: In place of the detector's own.

        Returns:
            The faces, highest score first, with boxes in pixels of the upright image; for a list, one `Faces` for each image.

        Raises:
            ImageError: An image cannot be read. `stream` continues with the others.
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
        """Find the faces in any number of images, reading a few ahead.

        Args:
            images: As `detect` takes them.
            threshold: In place of the detector's own.
            scale: In place of the detector's own.

        Returns:
            The faces of each image in turn, or the ImageError of one that cannot be read.
        """
        return self._stream(
            images,
            _checked_threshold(self.threshold if threshold is None else threshold),
            _checked_scale(self.scale if scale is None else scale),
        )

    def detect_regions(self, image: Pixels | Regions, *, threshold: float | None = None) -> Faces:
        """Find the faces in an image that is too large for memory. Only the first stage is used.

        Args:
            image: Read region by region, from top to bottom, such as `tinyfaces.detection.large.LargeImage`.
            threshold: In place of the detector's own.

        Returns:
            The faces, highest score first, with boxes in pixels.

        Raises:
            ImageError: The image is damaged.
        """
        lowest = _checked_threshold(self.threshold if threshold is None else threshold)
        return self._first.propose_in_regions(image, lowest, self.scale)

    def restore(self, image: ImageSource | Regions, faces: Faces) -> Pixels:
        """Restore faces of an image with the generator.

        The result shows what is likely, not what was there: it is no evidence of who someone is.

        Args:
            image: What the faces were found in, as `detect` takes it, or an image that is read region by region.
            faces: Which faces, with boxes in pixels of the image.

        Returns:
            (N, 64, 64, 3) uint8 RGB: each face with its context, at four times the 16x16 pixels that the generator sees.

        Raises:
            ImageError: The image cannot be read.

        Example:
            ```python
            detector = tinyfaces.Detector()
            faces = detector.detect("crowd.jpg").smaller_than(16)
            crops = detector.restore("crowd.jpg", faces)
            ```
        """
        if isinstance(image, np.ndarray | memoryview) or not isinstance(image, Regions):  # these two can be sliced too
            image = read_image(image)
        return self._restorer().restore_faces(image, faces.boxes)

    def _restorer(self) -> Restorer:
        """The generator, opened when it is first needed."""
        with self._opening:
            if self._opened is None:
                self._opened = Restorer(second_stage(), self._options)
            return self._opened

    def _stream(self, sources: Iterable[ImageSource], threshold: float, scale: Scale | None) -> Iterator[Faces | ImageError]:
        window: list[Pixels | ImageError] = []
        held, errors = 0.0, 0
        for source in sources:
            try:
                pixels = read_image(source)
            except ImageError as error:
                window.append(error)
                errors += 1
                if errors >= _WINDOW_ERRORS or errors == len(window):  # nothing is read ahead that they would have to wait for
                    yield from self._detect_window(window, threshold, scale)
                    window, held, errors = [], 0.0, 0
                continue
            window.append(pixels)
            height, width = pixels.shape[:2]
            held += max(1, scale_factor(scale, width, height)) ** 2 * width * height
            if held >= _WINDOW_PIXELS:
                yield from self._detect_window(window, threshold, scale)
                window, held, errors = [], 0.0, 0
        yield from self._detect_window(window, threshold, scale)

    def _detect_window(
        self, window: Sequence[Pixels | ImageError], threshold: float, scale: Scale | None
    ) -> list[Faces | ImageError]:
        images = [pixels for pixels in window if not isinstance(pixels, ImageError)]
        if self._second is None:
            found = self._first.propose(images, threshold, scale)
        else:
            proposals = self._first.propose(images, self._second.rule.min_proposal_score(threshold), scale)
            found = self._second.apply(images, proposals)
        in_order = iter(found)
        return [pixels if isinstance(pixels, ImageError) else next(in_order).above(threshold) for pixels in window]


def _file_of(model: str | os.PathLike[str]) -> Path:
    """The file of a model. Raises ModelError."""
    shipped = models()
    if isinstance(model, str) and model in shipped:
        return shipped[model].path
    path = Path(model)
    if path.suffix.lower() != ".onnx" and not path.exists():
        names = ", ".join(shipped)
        raise ModelError(f"unknown model '{model}': choose from {names}, or give the path of an ONNX file")
    return path


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be within 0-1. Received: {threshold}")
    return float(threshold)


def _checked_scale(scale: Scale | None) -> Scale | None:
    if scale is None:
        return None
    if isinstance(scale, str):
        if scale != "auto":
            raise ValueError(f"scale must be a number or 'auto'. Received: '{scale}'")
        return scale
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"scale must be above 0 and at most {MAX_SCALE:g}. Received: {scale}")
    return float(scale)
