"""The official WIDER FACE protocol: average precision on easy, medium and hard, and on all, tiny and micro faces.

Two facts of the protocol make it a matter of array operations. A detection answers only to the ground truth that it
overlaps most, whatever was matched before; so neither the true positives nor the dropped detections at a threshold
depend on the order of the detections, and one matching serves all subsets.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import (
    AnnotationError,
    WiderRecord,
    cells,
    find_wider_images,
    is_count,
    read_mat,
    read_wider_mat,
)

OFFICIAL_SUBSETS = ("easy", "medium", "hard")
TINY_HEIGHT = 16
MICRO_HEIGHT = 10
IOU_THRESHOLD = 0.5
_THRESHOLDS = 1 - np.arange(1, 1001) / 1000
_OVERLAPS_AT_ONCE = 1 << 18

Rows = npt.NDArray[np.floating[Any]]


class PredictionError(ValueError):
    """A prediction file cannot be used; the message is one line that names the file."""


@dataclass(frozen=True)
class GroundTruth:
    """The faces of a WIDER FACE split.

    Attributes:
        images: keys "<event>/<image without ending>", in the toolbox's order.
        boxes: one (N, 4) float64 array an image, x y w h in pixels.
        keep: for each subset one (N,) bool array an image, true where a face is to be found.
    """

    images: tuple[str, ...]
    boxes: tuple[npt.NDArray[np.float64], ...]
    keep: dict[str, tuple[npt.NDArray[np.bool_], ...]]


@dataclass(frozen=True)
class SubsetResult:
    """What the protocol gives for one subset.

    Attributes:
        ap: area under the monotone envelope of the curve, 0-1; NaN where the subset has no faces.
        faces: how many there are to be found.
        precision: (1000,) float64, at falling thresholds on the normalised score. recall: likewise.
    """

    ap: float
    faces: int
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]


def read_ground_truth(folder: str | Path) -> GroundTruth:
    """Read wider_face_val.mat and wider_{easy,medium,hard}_val.mat from a folder (needs scipy).

    Beside the official subsets come "all" (both sides > 0), "tiny" (of those, height <= 16) and "micro" (<= 10).

    Args:
        folder: of the four files.

    Returns:
        The faces, and which of them each subset has.

    Raises:
        AnnotationError: a file is missing or malformed, or the files do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder")
    names = ["wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in OFFICIAL_SUBSETS)]
    missing = [name for name in names if not (folder / name).is_file()]
    if names[0] in missing or missing == names[1:]:
        raise AnnotationError(f"{folder}: is no ground truth of WIDER FACE (holds no {', '.join(missing)})")
    records = read_wider_mat(folder / "wider_face_val.mat")
    keep = {subset: _read_keep(folder / f"wider_{subset}_val.mat", records) for subset in OFFICIAL_SUBSETS}
    valid = tuple(np.logical_and(record.boxes[:, 2] > 0, record.boxes[:, 3] > 0) for record in records)
    heights = [record.boxes[:, 3] for record in records]
    keep["all"] = valid
    for subset, limit in (("tiny", TINY_HEIGHT), ("micro", MICRO_HEIGHT)):
        keep[subset] = tuple(usable & (height <= limit) for usable, height in zip(valid, heights, strict=True))
    images = tuple(f"{record.event}/{record.name}" for record in records)
    return GroundTruth(images, tuple(record.boxes for record in records), keep)


def image_paths(ground_truth: GroundTruth, images: str | Path) -> dict[str, Path]:
    """The image file of every key, in the toolbox's order.

    Args:
        ground_truth: of the split.
        images: the folder of the events' folders, or WIDER_val, or its parent.

    Returns:
        Paths by key.

    Raises:
        AnnotationError: an image is missing.
    """
    if not ground_truth.images:
        return {}
    folder = find_wider_images(Path(images), "val", ground_truth.images[0].rpartition("/")[0])
    paths = {key: folder / f"{key}.jpg" for key in ground_truth.images}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise AnnotationError(f"{missing[0]}: no such image ({len(missing)} of {len(paths)} images are missing)")
    return paths


def prediction_rows(boxes: npt.ArrayLike, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One image's detections as the protocol has them: boxes (N, 4) xyxy, scores (N,) -> (N, 5) x y w h score."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    column = np.asarray(scores, dtype=np.float64).reshape(-1, 1)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2], column], axis=1)


def read_predictions(path: str | Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read official prediction files `<event>/<image>.txt` from a folder or a zip file, at any depth.

    Args:
        path: the folder or the zip file.

    Returns:
        "<event>/<image>" -> (N, 5) x y w h score, in the file's order.

    Raises:
        PredictionError: there are no such files, or one is malformed.
    """
    path = Path(path)
    predictions: dict[str, npt.NDArray[np.float64]] = {}
    for key, label, text in _prediction_texts(path):
        if key in predictions:
            raise PredictionError(f"{label}: a second file for {key}")
        predictions[key] = _parse_prediction(label, text)
    if not predictions:
        raise PredictionError(f"{path}: holds no prediction files <event>/<image>.txt")
    return predictions


def without_predictions(predictions: Mapping[str, Rows], ground_truth: GroundTruth) -> str | None:
    """A line about the images that have no prediction file, which count as images without detections; None where all have."""
    missing = [key for key in ground_truth.images if key not in predictions]
    if not missing:
        return None
    events = {key.rpartition("/")[0] for key in ground_truth.images}
    whole = sorted(events - {key.rpartition("/")[0] for key in predictions})
    folders = f", among them all of {len(whole)} folders such as '{whole[0]}'" if whole else f", such as '{missing[0]}'"
    number = f"{len(missing):,} of {len(ground_truth.images):,} images have no prediction file{folders}"
    return f"{number}: nothing counts as found there, and the numbers are too low if the detector saw them"


def score(predictions: Mapping[str, Rows], ground_truth: GroundTruth) -> dict[str, SubsetResult]:
    """Score detections by the official protocol, on every subset of the ground truth.

    Where all scores are equal, which the toolbox cannot normalise, all detections count at every threshold.

    Args:
        predictions: "<event>/<image>" -> (N, 5) x y w h score, in any order; an image without an entry has no detections,
            entries of unknown images do not count.
        ground_truth: of the split.

    Returns:
        The result of each subset.

    Raises:
        PredictionError: no entry belongs to an image of the ground truth, or one is not an (N, 5) array of finite numbers.
    """
    if predictions and not any(key in predictions for key in ground_truth.images):
        raise PredictionError(
            f"no prediction belongs to an image of the ground truth (found {next(iter(predictions))!r}, "
            f"expected such as {next(iter(ground_truth.images), '')!r})"
        )
    starts = np.cumsum([0, *map(len, ground_truth.boxes)])
    face_parts, score_parts, counted_parts = [], [], []
    for key, faces, start in zip(ground_truth.images, ground_truth.boxes, starts, strict=False):
        if key not in predictions:
            continue
        rows = _checked_rows(key, predictions[key])
        best = _best_faces(rows[:, :4], faces)
        face_parts.append(np.where(best >= 0, best + start, -1))
        score_parts.append(rows[:, 4])
        # the toolbox skips an image that has no boxes at all, false positives included
        counted_parts.append(np.full(len(rows), len(faces) > 0))
    face_of = np.concatenate([np.empty(0, dtype=np.int64), *face_parts])
    raw_scores = np.concatenate([np.empty(0), *score_parts])
    counted = np.concatenate([np.empty(0, dtype=bool), *counted_parts])
    step_of = _threshold_steps(raw_scores)
    matched = face_of >= 0

    first_step = np.full(starts[-1], len(_THRESHOLDS))
    np.minimum.at(first_step, face_of[matched], step_of[matched])

    results = {}
    for subset, masks in ground_truth.keep.items():
        kept = np.concatenate([np.empty(0, dtype=bool), *masks])
        proposed = counted & ~(matched & ~kept[face_of]) if len(kept) else counted
        proposals = _count_up_to(step_of[proposed])
        found = _count_up_to(first_step[kept])
        results[subset] = _subset_result(found, proposals, int(kept.sum()))
    return results


def _subset_result(found: npt.NDArray[np.int64], proposals: npt.NDArray[np.int64], faces: int) -> SubsetResult:
    precision = found / np.maximum(proposals, 1)
    if faces == 0:
        return SubsetResult(math.nan, 0, precision, np.zeros(len(found)))
    recall = found / faces
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return SubsetResult(float(np.sum(np.diff(recall, prepend=0.0) * envelope)), faces, precision, recall)


def _threshold_steps(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The first of the falling thresholds that each score, normalised over the whole data set, reaches."""
    if not len(scores):
        return np.empty(0, dtype=np.int64)
    low, span = scores.min(), np.ptp(scores)
    normalised = (scores - low) / span if span > 0 else np.ones_like(scores)
    return np.searchsorted(-_THRESHOLDS, -normalised, side="left").astype(np.int64)


def _count_up_to(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.cumsum(np.bincount(steps, minlength=len(_THRESHOLDS) + 1)[: len(_THRESHOLDS)])


def _best_faces(detections: npt.NDArray[np.float64], faces: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The first face of maximum IoU of each detection, -1 where it is below 0.5; both x y w h."""
    best = np.full(len(detections), -1, dtype=np.int64)
    if not len(detections) or not len(faces):
        return best
    left, top = faces[:, 0], faces[:, 1]
    right, bottom = left + faces[:, 2], top + faces[:, 3]
    area = (right - left + 1) * (bottom - top + 1)
    block = max(1, _OVERLAPS_AT_ONCE // len(faces))
    for start in range(0, len(detections), block):
        x, y, width, height = detections[start : start + block, :, None].transpose(1, 0, 2)
        x2, y2 = x + width, y + height
        across = np.minimum(right, x2) - np.maximum(left, x) + 1
        down = np.minimum(bottom, y2) - np.maximum(top, y) + 1
        inside = across * down
        union = area + (x2 - x + 1) * (y2 - y + 1) - inside
        overlap = np.zeros_like(inside)
        np.divide(inside, union, out=overlap, where=(across > 0) & (down > 0))
        first = overlap.argmax(axis=1)
        reached = overlap[np.arange(len(first)), first] >= IOU_THRESHOLD
        best[start : start + block] = np.where(reached, first, -1)
    return best


def _checked_rows(key: str, rows: Rows) -> npt.NDArray[np.float64]:
    array = np.asarray(rows, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 5)
    if array.ndim != 2 or array.shape[1] != 5 or not np.isfinite(array).all():
        raise PredictionError(f"{key}: predictions must be an (N, 5) array of finite numbers, x y w h score")
    return array


def _read_keep(path: Path, records: list[WiderRecord]) -> tuple[npt.NDArray[np.bool_], ...]:
    fields = read_mat(path, ("gt_list",))
    try:
        lists = [np.asarray(item).reshape(-1) for event in cells(fields["gt_list"]) for item in cells(event)]
        if len(lists) != len(records):
            raise ValueError(f"lists {len(lists)} images, the ground truth {len(records)}")
        masks = []
        for record, numbers in zip(records, lists, strict=True):
            mask = np.zeros(len(record.boxes), dtype=bool)
            if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(mask):
                raise ValueError(f"keeps boxes of {record.name} that the ground truth does not have")
            mask[numbers.astype(np.int64) - 1] = True
            masks.append(mask)
    except (ValueError, TypeError, IndexError) as error:
        raise AnnotationError(f"{path}: does not fit wider_face_val.mat ({error})") from error
    return tuple(masks)


def _prediction_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Key, name for messages and text of each prediction file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            if file.parent != path:
                try:
                    yield f"{file.parent.name}/{file.stem}", str(file), file.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise PredictionError(f"{file}: cannot be read ({error})") from error
        return
    if not path.is_file():
        raise PredictionError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                inner = PurePosixPath(entry)
                if inner.suffix == ".txt" and len(inner.parts) > 1 and inner.parts[0] != "__MACOSX":
                    label = f"{path}, {entry}"
                    try:
                        text = archive.read(entry).decode("utf-8")
                    except Exception as error:  # zipfile lets nearly any exception out of a damaged file
                        raise PredictionError(f"{label}: cannot be read ({str(error) or type(error).__name__})") from error
                    yield f"{inner.parent.name}/{inner.stem}", label, text
    except PredictionError:
        raise
    except Exception as error:
        raise PredictionError(f"{path}: cannot be read as a zip file ({error})") from error


def _parse_prediction(label: str, text: str) -> npt.NDArray[np.float64]:
    lines = text.rstrip().split("\n")
    if len(lines) < 2 or not is_count(lines[1].strip()):
        raise PredictionError(f"{label}: expected the image's name, then the number of detections")
    count = int(lines[1])
    rows = [line.split() for line in lines[2:]]
    if len(rows) != count:
        raise PredictionError(f"{label}: announces {count} detections and has {len(rows)}")
    for number, row in enumerate(rows, start=3):
        if len(row) != 5:
            raise PredictionError(f"{label}: line {number} has {len(row)} values, not x y w h score")
    try:
        array = np.array([float(word) for row in rows for word in row], dtype=np.float64).reshape(-1, 5)
    except ValueError as error:
        raise PredictionError(f"{label}: {error}") from error
    if not np.isfinite(array).all():
        number = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0]) + 3
        raise PredictionError(f"{label}: line {number} holds a value that is not finite")
    return array
