"""Which frames of a video are searched, and where the faces are in the frames between."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.faces import Faces
from tinyfaces.jobs import fields
from tinyfaces.jobs.assignment import heaviest_pairs
from tinyfaces.jobs.patch_matching import Luma, Motions, camera_motions, followed, thumbnail
from tinyfaces.jobs.spacing import Spacing
from tinyfaces.jobs.video import VideoReader, naming

_CUT = 20.0  # mean change of grey values from frame to frame, 0-255, from which both are searched
_SAME_FACE = 0.25  # overlap of where a face is expected with where one is found
_NEAR = 0.4  # the same, from which nothing else need show that it is the same face
_MOST = 0.7  # share of the frames between two that had to be searched, from which following is given up for a while
_NOT_TRIED = 3  # gaps in which it is
_DOUBLE = 0.5  # overlap of what was followed from both sides, from which it is one face


@dataclass(frozen=True)
class Planned:
    """A frame, and its grey picture HxW, upright, where it may be left out of the search; `searched` says whether it is not."""

    frame: av.VideoFrame
    luma: Luma | None
    searched: bool


Search = Callable[[Planned], Faces]
Filled = tuple[av.VideoFrame, Faces, bool]


def planned(video: VideoReader, frames: Iterable[av.VideoFrame], spacing: Spacing) -> Iterator[Planned]:
    """The frames of a video, with those to search."""
    if spacing.frames == 1:
        for frame in frames:
            yield Planned(frame, None, True)
        return
    before: Planned | None = None
    small: npt.NDArray[np.float32] | None = None
    since = 0  # frames since one was searched
    for frame in frames:
        luma = _luma(video, frame)
        now = None if luma is None else thumbnail(luma)
        apart = now is None or small is None or float(np.abs(now - small).mean()) >= _CUT
        if before is not None:
            yield Planned(before.frame, before.luma, True) if apart else before
            if apart:
                since = 0
        since += 1
        searched = before is None or apart or since >= spacing.frames
        if searched:
            since = 0
        before, small = Planned(frame, luma, searched), now
    if before is not None:
        yield Planned(before.frame, before.luma, True)


def filled(found: Iterable[tuple[Planned, Faces]], search: Search, spacing: Spacing) -> Iterator[Filled]:
    """Frames with their faces, and whether they were searched; for those that were not, the faces of the searched ones around
    them, followed there.

    Args:
        found: The frames, with the faces of those that are searched. The first and the last are.
        search: Finds the faces of one more frame.
        spacing: With `closer`, more frames are searched.
    """
    segment: list[tuple[Planned, Faces]] = []
    all_searched = 0  # how many of the next gaps are searched wholly
    for one in found:
        segment.append(one)
        if not one[0].searched:
            continue
        if all_searched:
            all_searched -= 1
            for between, _ in segment[1:-1]:
                yield between.frame, search(between), True
        else:
            count = 0
            for filled_frame in _between(segment, search, spacing):
                count += filled_frame[2]
                yield filled_frame
            all_searched = _NOT_TRIED if count > _MOST * (len(segment) - 2) > 0 else 0
        yield one[0].frame, one[1], True
        segment = [one]


def _between(
    segment: list[tuple[Planned, Faces]], search: Search, spacing: Spacing, camera: Motions | None = None
) -> Iterator[Filled]:
    """The frames between the first and the last one, which were searched."""
    if len(segment) <= 2:
        return
    lumas = [one.luma for one, _ in segment if one.luma is not None]
    camera = camera_motions(lumas) if camera is None else camera
    faces, sure = _followed(lumas, camera, segment[0][1], segment[-1][1])
    if sure or not spacing.closer:
        for (one, _), here in zip(segment[1:-1], faces, strict=True):
            yield one.frame, here, False
        return
    half = len(segment) // 2
    middle = segment[half][0]
    there = (middle, search(middle))
    yield from _between([*segment[:half], there], search, spacing, camera[:half])
    yield middle.frame, there[1], True
    yield from _between([there, *segment[half + 1 :]], search, spacing, camera[half:])


def _followed(lumas: list[Luma], camera: Motions, first: Faces, last: Faces) -> tuple[list[Faces], bool]:
    """The faces in the frames between two, and whether all were followed from one to the other beyond doubt."""
    starts, ends = first.boxes.astype(np.float64), last.boxes.astype(np.float64)
    onward, kept = followed(lumas, starts, camera)
    overlaps = iou_matrix(onward[-1], ends).astype(np.float64)
    pairs = [(a, b) for a, b in heaviest_pairs(overlaps) if overlaps[a, b] >= _SAME_FACE]
    ahead = np.setdiff1d(np.arange(len(starts)), [a for a, _ in pairs])
    behind = np.setdiff1d(np.arange(len(ends)), [b for _, b in pairs])
    back, kept_back = (values[::-1] for values in followed(lumas[::-1], ends[behind], -camera[::-1]))
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    sure = bool((kept[-1, a] | (overlaps[a, b] >= _NEAR)).all() and kept[-1, ahead].all() and kept_back[0].all())
    off = ends[b] - onward[-1, a]  # it grew on the way
    between = []
    for number in range(1, len(lumas) - 1):
        boxes = list(onward[number, a] + off * number / (len(lumas) - 1))
        scores = list(np.minimum(first.scores[a], last.scores[b]))
        seen_ahead, seen_behind = kept[number, ahead], kept_back[number]
        alone = np.concatenate([onward[number, ahead[seen_ahead]], back[number, seen_behind]])
        for box, score in zip(
            alone, np.concatenate([first.scores[ahead[seen_ahead]], last.scores[behind[seen_behind]]]), strict=True
        ):
            if not boxes or iou_matrix(box[None], np.array(boxes)).max() < _DOUBLE:
                boxes.append(box)
                scores.append(score)
        between.append(Faces(np.array(boxes).reshape(-1, 4), np.array(scores)))
    return between, sure


def _luma(video: VideoReader, frame: av.VideoFrame) -> Luma | None:
    """The grey picture of a frame, upright; None for one that is searched anyway: interlaced, or not of the first one's shape."""
    shape = video.shape_of(frame)
    if shape != video.shape or frame.interlaced_frame:
        return None
    with naming(video.path, "cannot be converted"):
        grey = np.array(frame.to_ndarray(format="gray"), np.uint8)[..., None]  # a copy, as the frame is masked later
        if fields.is_combed(grey):
            return None
        return shape.turn.apply(grey)[..., 0]
