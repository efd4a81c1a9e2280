"""The second stage's training data: what the proposal network takes for faces in the training photos, rightly or not.

Each photo is searched at its own size and reduced; on the way it is degraded, so that its large, sharp faces become
tiny ones whose sharp original is known. Crops lie in numpy shards of some thousand, with a manifest beside them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage, Tell
from tinyfaces.detection.boxes import iou_matrix, share_within
from tinyfaces.detection.crops import CONTEXT, HIGH_SIDE, LOW_SIDE, crop_squares, cut_crops
from tinyfaces.detection.detector import Detector
from tinyfaces.files import write_atomically
from tinyfaces.training.cache import ImageCache, problem_with
from tinyfaces.training.degradation import shrink

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CandidateSettings:
    """Which candidates are kept.

    Attributes:
        threshold: lowest proposal score.
        factors: for each search of a photo the bounds, log-uniform, of the factor by which it is reduced (and degraded, see
            `tinyfaces.training.degradation`); 1 leaves it as it is.
        sides: bounds of the longer side of a candidate, in pixels where it was found.
        context: see `tinyfaces.detection.crops`.
        positive: IoU with a face from which a candidate counts as one. What lies between is kept too: near misses and doubles
            are what the second stage has to tell from faces.
        excused: a candidate that is no face is left out where a larger share of it lies in an ignored box.
        per_search: at most so many, drawn at random.
        sharpness: lowest variance of the Laplacian (8-bit grey) of a sharp target, without its context.
    """

    threshold: float = 0.1
    factors: tuple[tuple[float, float], ...] = ((1.0, 1.0), (0.5, 1.0), (0.25, 0.6), (0.12, 0.35))
    sides: tuple[float, float] = (3.0, 64.0)
    context: float = CONTEXT
    positive: float = 0.45
    excused: float = 0.25
    per_search: int = 150
    sharpness: float = 150.0


@dataclass(frozen=True)
class Candidates:
    """N candidates.

    Attributes:
        low: (N, 16, 16, 3) uint8 RGB, what the network saw.
        high: (M, 64, 64, 3) uint8 RGB, the sharp originals.
        target: (N,) int32, the place in `high`, -1 where there is none.
        face: (N,) bool, whether it is one.
        score: (N,) float32, the proposal's.
        overlap: (N,) float32, IoU with the nearest face.
        side: (N,) float32, longer side in pixels where it was found.
        box: (N, 4) float32, the nearest face's centre offset and log size relative to the candidate's (zeros where no face
            touches it).
        photo: (N,) int32, number of the photo.
    """

    low: npt.NDArray[np.uint8]
    high: npt.NDArray[np.uint8]
    target: npt.NDArray[np.int32]
    face: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]
    overlap: npt.NDArray[np.float32]
    side: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    photo: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.low)

    @staticmethod
    def joined(parts: Sequence["Candidates"]) -> "Candidates":
        """All parts one after the other."""
        shifts = np.cumsum([0, *(len(part.high) for part in parts)])
        values: dict[str, Any] = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Candidates)}
        moved = [np.where(part.target >= 0, part.target + shift, -1) for part, shift in zip(parts, shifts, strict=False)]
        values["target"] = np.concatenate(moved).astype(np.int32)
        return Candidates(**values)


def box_offsets(boxes: npt.NDArray[np.float32], faces: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """From each box (N, 4) to its face (N, 4): centre shift in the box's sides and log of the sides' ratios, (N, 4)."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    shift = (faces[:, :2] + faces[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    ratio = np.log(np.maximum(faces[:, 2:] - faces[:, :2], 1e-3) / sides)
    return np.concatenate([shift, ratio], axis=1).astype(np.float32)


def sharpness(crop: npt.NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey crop (H, W, 3): low where it is blurred."""
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def search_photo(
    photo: npt.NDArray[np.uint8],
    image: AnnotatedImage,
    number: int,
    detector: Detector,
    settings: CandidateSettings,
    rng: np.random.Generator,
) -> Iterator[Candidates]:
    """The candidates of one photo (H, W, 3), one lot for each factor by which it is reduced."""
    height, width = photo.shape[:2]
    for least, most in settings.factors:
        seen, scale = photo, np.ones(2)
        factor = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        if factor < 1:
            size = (max(32, round(width * factor)), max(32, round(height * factor)))
            seen = shrink(photo, size, rng)
            scale = np.array([size[0] / width, size[1] / height])
        found = detector.detect(seen, threshold=settings.threshold)
        longer = np.maximum(found.widths, found.heights)
        found = found[(longer >= settings.sides[0]) & (longer <= settings.sides[1])]
        known = (image.boxes * np.tile(scale, 2)).astype(np.float32)
        faces, ignored = known[~image.ignore], known[image.ignore]
        overlap = iou_matrix(found.boxes, faces)
        nearest = overlap.max(axis=1, initial=0)
        face = nearest >= settings.positive
        excused = share_within(found.boxes, ignored).max(axis=1, initial=0) > settings.excused
        chosen = np.sort(rng.permutation(np.flatnonzero(face | ~excused))[: settings.per_search])
        if not len(chosen):
            continue
        boxes, face, touched = found.boxes[chosen], face[chosen], nearest[chosen] > 0
        squares = crop_squares(boxes, settings.context)
        offsets = np.zeros((len(chosen), 4), np.float32)
        if touched.any():
            offsets[touched] = box_offsets(boxes[touched], faces[overlap[chosen][touched].argmax(axis=1)])
        originals = squares / np.tile(scale, 2)
        margin = round(HIGH_SIDE * (1 - 1 / settings.context) / 2)
        sharp: list[npt.NDArray[np.uint8]] = []
        target = np.full(len(chosen), -1, np.int32)
        for place in np.flatnonzero((originals[:, 2] - originals[:, 0] >= HIGH_SIDE) & (factor < 1)):
            crop = cut_crops(photo, originals[place : place + 1], HIGH_SIDE)[0]
            if sharpness(crop[margin:-margin, margin:-margin]) >= settings.sharpness:
                target[place] = len(sharp)
                sharp.append(crop)
        yield Candidates(
            low=cut_crops(seen, squares, LOW_SIDE),
            high=np.stack(sharp) if sharp else np.zeros((0, HIGH_SIDE, HIGH_SIDE, 3), np.uint8),
            target=target,
            face=face,
            score=found.scores[chosen],
            overlap=nearest[chosen].astype(np.float32),
            side=(boxes[:, 2:] - boxes[:, :2]).max(axis=1),
            box=offsets,
            photo=np.full(len(chosen), number, np.int32),
        )


def gather_candidates(
    images: Sequence[AnnotatedImage],
    cache: ImageCache,
    detectors: Sequence[Detector],
    settings: CandidateSettings,
    folder: Path,
    chosen: Sequence[int] | None = None,
    seed: int = 0,
    shard: int = 4096,
    tell: Tell = None,
) -> Iterator[int]:
    """Search photos and write the candidates to a folder.

    Shards are written whole or not at all, the manifest last: a folder without one is not complete.

    Args:
        images: photos with known faces. cache: their pixels.
        detectors: the first stages. Each searches all photos, reduced and degraded alike.
        settings: which candidates are kept.
        folder: where shards and manifest are written.
        chosen: numbers of the photos to search; all if left out.
        seed: of the degradation and of the choice among too many faces.
        shard: candidates from which a shard is written.
        tell: called with a line about each photo that cannot be searched, and is left out; if None, the first one raises.

    Yields:
        The number of each photo when it is done.
    """
    waiting: list[Candidates] = []
    shards: list[dict[str, Any]] = []

    def write() -> None:
        lot = Candidates.joined(waiting)
        name = f"{len(shards):05d}.npz"
        partial = folder / f".{name}"
        with partial.open("wb") as file:
            np.savez(file, **{f.name: getattr(lot, f.name) for f in fields(Candidates)})
        partial.replace(folder / name)
        shards.append({"file": name, "candidates": len(lot), "faces": int(lot.face.sum()), "sharp": len(lot.high)})
        waiting.clear()

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    numbers = range(len(images)) if chosen is None else chosen
    for number in numbers:
        try:
            for detector in detectors:
                rng = np.random.default_rng((seed, number))
                waiting += search_photo(cache[number], images[number], number, detector, settings, rng)
        except Exception as error:  # whatever is wrong with one photo, the others are searched
            if tell is None:
                raise
            tell(f"{problem_with(images[number].path, error)}; left out")
        if sum(map(len, waiting)) >= shard:
            write()
        yield number
    if waiting:
        write()
    content = {"settings": asdict(settings), "seed": seed, "photos": len(numbers), "shards": shards}
    write_atomically(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def read_candidates(folder: Path) -> Candidates:
    """All candidates of a folder that `gather_candidates` completed. Raises ValueError with one line otherwise."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        parts = []
        for entry in manifest["shards"]:
            with np.load(folder / entry["file"]) as values:
                parts.append(Candidates(**{f.name: values[f.name] for f in fields(Candidates)}))
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: no complete set of candidates ({Path(error.filename).name} is missing)") from None
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: cannot be read ({error})") from None
    if not parts:
        raise ValueError(f"{folder}: holds no candidates")
    return Candidates.joined(parts)
