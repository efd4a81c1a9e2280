"""Which frames of a video are searched, and where the faces are in the frames between."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import av
import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.assignment import heaviest_pairs
from tinyfaces.jobs.bulk import overlapped
from tinyfaces.jobs.camera_motion import Boxes, Motion
from tinyfaces.jobs.patch_matching import Grey, followed, recognisable
from tinyfaces.jobs.spacing import Spacing
from tinyfaces.jobs.video import VideoReader

_CUT = 20.0  # mean change of grey values from frame to frame, 0-255, from which both are searched
_SAME_FACE = 0.25  # overlap of where a face is expected with where one is found
_NEAR = 0.4  # the same, from which nothing else need show that it is the same face
_LOST = 0.06  # share of the faces that may be lost between two frames before a frame between is searched
_DOUBLE = 0.5  # overlap of what was followed from both sides, from which it is one face


@dataclass(frozen=True)
class Planned:
    """A frame, and its grey picture, upright, where it may be left out of the search; `searched` says whether it is not."""

    frame: av.VideoFrame
    grey: Grey | None
    searched: bool


@dataclass(frozen=True)
class Filled:
    """A frame with its faces.

    Args:
        frame: As it was decoded.
        faces: Found in it, or followed into it.
        found: (N,) bool, which of them were found.
        searched: Whether the frame was searched.
    """

    frame: av.VideoFrame
    faces: Faces
    found: npt.NDArray[np.bool_]
    searched: bool


Search = Callable[[Planned], Faces]
Searched = tuple[Planned, Faces]


def planned(video: VideoReader, frames: Iterable[av.VideoFrame], spacing: Spacing) -> Iterator[Planned]:
    """The frames of a video, with those to search."""
    if spacing.frames == 1:
        for frame in frames:
            yield Planned(frame, None, True)
        return
    before: Planned | None = None
    since = 0  # frames since one was searched
    for frame in frames:
        luma = video.luma(frame)
        grey = None if luma is None else Grey(luma)
        apart = before is None or before.grey is None or grey is None or before.grey.change(grey) >= _CUT
        if before is not None:
            yield Planned(before.frame, before.grey, True) if apart else before
            if apart:
                since = 0
        since += 1
        searched = apart or since >= spacing.frames
        if searched:
            since = 0
        before = Planned(frame, grey, searched)
    if before is not None:
        yield Planned(before.frame, before.grey, True)


def filled(found: Iterable[Searched], search: Search, spacing: Spacing, workers: int = 0) -> Iterator[Filled]:
    """Frames with their faces; for those that were not searched, the faces of the searched ones around them, followed there.

    Args:
        found: The frames, with the faces of those that are searched. The first and the last are.
        search: Finds the faces of one more frame, from any of the threads.
        spacing: With `closer`, more frames are searched.
        workers: How many threads follow faces. With 0 that is done in this thread.
    """
    resolved = overlapped(_segments(found), lambda segment: _gaps(segment, search, spacing), workers, most=workers // 2 + 1)
    gaps = (gap for _, several in resolved for gap in several)
    for neighbours in _with_neighbours(gaps):
        yield from _filled(*neighbours)


@dataclass(frozen=True)
class _Gap:
    """Two searched frames with what lies between them.

    Args:
        frames: The first and the last one were searched.
        ends: The faces of these two.
        camera: How the picture moves from frame to frame.
        between: The faces in each frame between.
        onward: Faces of the first frame that are still seen in the last one, and were not found there.
        back: Faces of the last frame that are seen in the first one already, and were not found there.
    """

    frames: list[Planned]
    ends: tuple[Faces, Faces]
    camera: list[Motion]
    between: list[Faces]
    onward: Faces
    back: Faces


def _segments(found: Iterable[Searched]) -> Iterator[list[Searched]]:
    """The frames from each searched one to the next; at last the last one alone."""
    segment: list[Searched] = []
    for one in found:
        segment.append(one)
        if one[0].searched and len(segment) > 1:
            yield segment
            segment = [one]
    if segment:
        yield segment


def _gaps(segment: list[Searched], search: Search, spacing: Spacing, camera: list[Motion] | None = None) -> list[_Gap]:
    """The gaps between two searched frames: one, or more where frames between had to be searched."""
    found_first, found_last = segment[0][1], segment[-1][1]
    if len(segment) <= 2:  # the first may be the last one of the video, alone
        return [_Gap([one for one, _ in segment], (found_first, found_last), [], [], Faces.empty(), Faces.empty())]
    greys = [one.grey for one, _ in segment if one.grey is not None]
    if camera is None:
        camera = [one.motion_to(other) for one, other in pairwise(greys)]
    gap, lost = _followed([one for one, _ in segment], greys, camera, found_first, found_last)
    if not spacing.closer or lost <= _LOST * (len(found_first) + len(found_last)) / 2:
        return [gap]
    half = len(segment) // 2
    middle = segment[half][0]
    there = (middle, search(middle))
    return [
        *_gaps([*segment[:half], there], search, spacing, camera[:half]),
        *_gaps([there, *segment[half + 1 :]], search, spacing, camera[half:]),
    ]


def _followed(frames: list[Planned], greys: list[Grey], camera: list[Motion], first: Faces, last: Faces) -> tuple[_Gap, int]:
    """What lies between two frames, and how many faces could not be followed from one to the other beyond doubt."""
    starts, ends = first.boxes.astype(np.float64), last.boxes.astype(np.float64)
    onward, kept = followed(greys, starts, camera)
    overlaps = iou_matrix(onward[-1], ends).astype(np.float64)
    pairs = heaviest_pairs(np.where(overlaps >= _SAME_FACE, overlaps, 0))
    ahead = np.setdiff1d(np.arange(len(starts)), [a for a, _ in pairs])
    behind = np.setdiff1d(np.arange(len(ends)), [b for _, b in pairs])
    back, kept_back = _followed_back(greys, ends[behind], camera)
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    doubtful = ~(kept[-1, a] | (overlaps[a, b] >= _NEAR))
    lost = int(doubtful.sum() + (~kept[-1, ahead]).sum() + (~kept_back[0]).sum())
    off = ends[b] - onward[-1, a]
    between = []
    for number in range(1, len(greys) - 1):
        paired = Faces(onward[number, a] + off * number / (len(greys) - 1), np.minimum(first.scores[a], last.scores[b]))
        seen, seen_back = ahead[kept[number, ahead]], kept_back[number]
        alone = Faces(onward[number, seen], first.scores[seen])
        between.append(_joined([paired, alone, Faces(back[number, seen_back], last.scores[behind[seen_back]])]))
    still = ahead[kept[-1, ahead] & recognisable(onward[-1, ahead], greys[-1])]
    already = kept_back[0] & recognisable(back[0], greys[0])
    gap = _Gap(
        frames, (first, last), camera, between,
        Faces(onward[-1, still], first.scores[still]), Faces(back[0, already], last.scores[behind[already]]),
    )  # fmt: skip
    return gap, lost


def _followed_back(greys: Sequence[Grey], boxes: Boxes, camera: Sequence[Motion]) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """`followed` from the last frame to the first; what it gives is in the order of the frames."""
    places, kept = followed(greys[::-1], boxes, [motion.back() for motion in camera[::-1]])
    return places[::-1], kept[::-1]


def _with_neighbours(gaps: Iterable[_Gap]) -> Iterator[tuple[_Gap | None, _Gap, _Gap | None]]:
    before: _Gap | None = None
    now: _Gap | None = None
    for after in gaps:
        if now is not None:
            yield before, now, after
        before, now = now, after
    if now is not None:
        yield before, now, None


def _filled(before: _Gap | None, gap: _Gap, after: _Gap | None) -> Iterator[Filled]:
    """The frames of a gap but for the last one. A face that was found in one searched frame only is followed through two gaps
    on both sides, as a face that is found in every other frame only is bridged where every frame is searched."""
    came = Faces.empty() if before is None else before.onward
    comes = Faces.empty() if after is None else after.back
    parts = [[faces] for faces in gap.between]
    greys = [one.grey for one in gap.frames if one.grey is not None]
    for faces, way in ((came, followed), (comes, _followed_back)):
        if len(faces) and parts:
            places, kept = way(greys, faces.boxes.astype(np.float64), gap.camera)
            for number, part in enumerate(parts, start=1):
                part.append(Faces(places[number, kept[number]], faces.scores[kept[number]]))
    first = _joined([gap.ends[0], came, gap.back])
    found = np.arange(len(first)) < len(gap.ends[0])
    yield Filled(gap.frames[0].frame, first, found, True)
    for one, part in zip(gap.frames[1:-1], parts, strict=True):
        faces = _joined(part)
        yield Filled(one.frame, faces, np.zeros(len(faces), np.bool_), False)


def _joined(parts: Sequence[Faces]) -> Faces:
    """All faces, without those of later parts that lie on those of earlier ones."""
    boxes, scores = parts[0].boxes, parts[0].scores
    for part in parts[1:]:
        if len(part):
            alone = iou_matrix(part.boxes, boxes).max(axis=1, initial=0) < _DOUBLE
            boxes, scores = np.concatenate([boxes, part.boxes[alone]]), np.concatenate([scores, part.scores[alone]])
    return Faces(boxes, scores)
