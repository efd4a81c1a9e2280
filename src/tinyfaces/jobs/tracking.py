"""Faces followed through the frames of a video, and bridged where a face is missed for some frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.byte_track import ByteTrack
from tinyfaces.jobs.cover_threshold import CoverThreshold

LONGEST_GAP = 10
"""Gaps of up to this many frames, in which a face is missed, are bridged."""
HELD = 3
"""A face's place is also masked for this many frames before its first one and after its last one."""

_SMOOTHING = 2
_SMOOTHING_WEIGHTS = np.array([1, 2, 3, 2, 1], np.float64)
_SAME_FACE = 1.5  # distance, in sides of a face, at which what ends and what begins are one track
_MAYBE_SAME_FACE = 3.0  # the same, where it only decides whether to mask the frames between
_MAYBE_SAME_FACE_ONE_MISSED = 8.0  # the same where that is a single frame
_SIZE_RATIO = 2.0
_FORGOTTEN_AFTER = 90  # frames

Box = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrackedFaces:
    """The faces of one frame.

    Args:
        time: Time of the frame, in seconds.
        faces: Those found, and those bridged between two frames in which they were found; boxes in pixels.
        tracks: (N,) int64, the same number for the same face in all frames.
        found: (N,) bool, false where bridged.
        masks: (M, 4) float32, x1 y1 x2 y2 in pixels of what to mask: the faces' boxes, smoothed over time but never smaller,
            and those of faces about to come or just gone.
        size: Width and height of the frame, upright, in pixels, where known.
        mask_tracks: (M, 2) int64, the track that each mask belongs to, or the two of which it may be either's. None where the
            masks are those of the faces, in order. The first masks are always those of the faces.
        searched: Whether the frame was searched. In one that was not, faces are followed from the searched ones around it.
    """

    time: float
    faces: Faces
    tracks: npt.NDArray[np.int64]
    found: npt.NDArray[np.bool_]
    masks: npt.NDArray[np.float32]
    size: tuple[int, int] | None = None
    mask_tracks: npt.NDArray[np.int64] | None = None
    searched: bool = True


@dataclass(frozen=True)
class _Seen:
    box: Box
    score: float
    found: bool


@dataclass
class _Frame:
    time: float
    searched: bool = True
    seen: dict[int, _Seen] = field(default_factory=dict)
    held: list[tuple[Box, int, int]] = field(default_factory=list)  # a box, and the one or two tracks it may belong to
    unsure: list[_Seen] = field(default_factory=list)


@dataclass
class _Track:
    number: int
    last: int
    box: Box
    score: float
    speed: npt.NDArray[np.float64]


class Tracker:
    """Takes the faces of one frame after another, and gives them back some frames later, with the number of their track.

    ByteTrack follows them; what it loses is linked by distance. Faces below the threshold begin no track, but continue one, and
    belong to it if they come just before its first face: so a face whose score wavers around the threshold does not flicker.

    Args:
        rate: About how many frames per second there are.
        threshold: The score from which a face begins a track. Faces to `push` score at least `threshold.lowest`.
    """

    delay = LONGEST_GAP + 1 + _SMOOTHING
    """Frames between the one given and the one that comes back."""

    def __init__(self, rate: float, threshold: CoverThreshold) -> None:
        self._threshold = threshold
        self._byte_track = ByteTrack(rate, threshold.lowest + (1 - threshold.lowest) / 4)
        self._frames: deque[_Frame] = deque()
        self._first = 0  # number of the first frame in _frames
        self._next = 0  # number of the next frame to come
        self._given = 0  # frames given back
        self._tracks: dict[int, _Track] = {}
        self._numbers: dict[int, int] = {}  # ByteTrack's ids to ours
        self._tracks_so_far = 0

    @property
    def tracks_so_far(self) -> int:
        """How many faces were told apart up to now."""
        return self._tracks_so_far

    def push(
        self, faces: Faces, time: float, *, searched: bool = True, found: npt.NDArray[np.bool_] | None = None
    ) -> TrackedFaces | None:
        """Add the faces of the next frame, at a time in seconds. Gives the frame `delay` before it, if there is one.

        Args:
            faces: In pixels.
            time: In seconds.
            searched: Whether the frame was searched.
            found: (N,), false for faces that were not found in this frame, but followed into it. If None, as `searched` says.
        """
        seen = [
            _Seen(box, score, own)
            for box, score, own in zip(
                faces.boxes.astype(np.float64), faces.scores.tolist(),
                [searched] * len(faces) if found is None else found.tolist(), strict=True,
            )
        ]  # fmt: skip
        now = self._next
        self._next += 1
        self._frames.append(_Frame(time, searched))
        identities = self._byte_track.update(faces.boxes, self._threshold.evened(faces), time).tolist()
        starts = []
        for row, identity in enumerate(identities):
            number = self._numbers.get(identity) if identity >= 0 else None
            if number is None or number not in self._tracks or self._tracks[number].last == now:
                starts.append(row)
            else:
                self._go_on(self._tracks[number], now, seen[row])
        reached = self._threshold.reached(faces)
        self._begin({row: seen[row] for row in starts if reached[row]}, identities, now)
        self._continue([seen[row] for row in starts if not reached[row]], now)
        self._hold_and_forget(now)
        return self._settled() if now - self._given >= self.delay else None

    def finish(self) -> Iterator[TrackedFaces]:
        """The frames that are left."""
        while self._given < self._next:
            yield self._settled()

    def _go_on(self, track: _Track, now: int, seen: _Seen) -> None:
        box, score = seen.box, seen.score
        gap = now - track.last
        if gap <= LONGEST_GAP + 1:
            for number, between in self._between(track.last, track.box, now, box):
                self._at(number).seen[track.number] = _Seen(between, min(score, track.score), False)
            track.speed = (track.speed + (_centre(box) - _centre(track.box)) / gap) / 2
        else:
            track.speed = np.zeros(2)
        # It may have jumped: in the gap it is where it was, where it will be, or between.
        self._hold_before(now, box, track.number, track.last)
        track.last, track.box, track.score = now, box, score
        self._at(now).seen[track.number] = seen

    def _begin(self, starts: dict[int, _Seen], identities: list[int], now: int) -> None:
        """Give the faces in these rows a track: that of a face lost nearby a moment ago, or a new one."""
        ends = self._ends(now)
        linked = _nearest(_boxes(starts.values()), ends, now, loose=False)
        begun: dict[int, _Track] = {}
        for place, (row, seen) in enumerate(starts.items()):
            track = linked.get(place)
            if track is not None:
                self._go_on(track, now, seen)
            else:
                track = _Track(self._tracks_so_far, now, seen.box, seen.score, np.zeros(2))
                self._tracks_so_far += 1
                self._tracks[track.number] = track
                begun[row] = track
                self._at(now).seen[track.number] = seen
                first, place_then = self._begun_before(track.number, now, seen)
                self._hold_before(first, place_then, track.number)
            if identities[row] >= 0:
                self._numbers[identities[row]] = track.number
        # A new face may be one just lost, too far away to be sure; to be safe, what lies between is masked.
        new = list(begun.values())
        ends = [track for track in ends if track.last < now]
        for place, end in _nearest(_boxes(new), ends, now, loose=True).items():
            for number, between in self._between(end.last, end.box, now, new[place].box):
                self._at(number).held.append((between, end.number, new[place].number))

    def _ends(self, now: int) -> list[_Track]:
        """The tracks that have no face in this frame, but had one a moment ago."""
        return [track for track in self._tracks.values() if 0 < now - track.last <= LONGEST_GAP + 1]

    def _continue(self, unsure: list[_Seen], now: int) -> None:
        """Give the faces below the threshold to tracks that would have a gap, and keep the others for tracks that begin soon."""
        linked = _nearest(_boxes(unsure), self._ends(now), now, loose=False)
        for place, seen in enumerate(unsure):
            if place in linked:
                self._go_on(linked[place], now, seen)
            else:
                self._at(now).unsure.append(seen)

    def _begun_before(self, track: int, now: int, face: _Seen) -> tuple[int, Box]:
        """Add faces below the threshold in the frames before to a track that begins. Gives its first frame and its place then."""
        first = now
        for number in range(now - 1, self._given - 1, -1):
            unsure = self._at(number).unsure
            nearest = _nearest_of(face.box, [seen.box for seen in unsure])
            if nearest is None:
                continue
            before = unsure.pop(nearest)
            for missed, between in self._between(number, before.box, first, face.box):
                self._at(missed).seen[track] = _Seen(between, min(before.score, face.score), False)
            self._at(number).seen[track] = before
            first, face = number, before
        return first, face.box

    def _between(self, first: int, box: Box, last: int, other: Box) -> Iterator[tuple[int, Box]]:
        for number in range(first + 1, last):
            share = (number - first) / (last - first)
            yield number, box + (other - box) * share

    def _hold_before(self, now: int, box: Box, track: int, last: int = -1) -> None:
        for number in range(max(self._given, now - HELD, last + 1), now):
            self._at(number).held.append((box, track, track))

    def _hold_and_forget(self, now: int) -> None:
        frame = self._at(now)
        for track in list(self._tracks.values()):
            missed = now - track.last
            if 0 < missed <= HELD:
                moved = track.box + np.tile(track.speed * missed, 2)
                frame.held.append((_union(track.box, moved), track.number, track.number))
            elif missed > _FORGOTTEN_AFTER:
                del self._tracks[track.number]
        if len(self._numbers) > 2 * len(self._tracks) + 100:
            self._numbers = {theirs: ours for theirs, ours in self._numbers.items() if ours in self._tracks}

    def _settled(self) -> TrackedFaces:
        number = self._given
        frame = self._at(number)
        self._given += 1
        smoothed = self._smoothed(number)
        while self._first < self._given - _SMOOTHING:
            self._frames.popleft()
            self._first += 1
        seen = list(frame.seen.values())
        return TrackedFaces(
            frame.time,
            Faces(np.array([face.box for face in seen]), np.array([face.score for face in seen])),
            np.array(list(frame.seen), np.int64),
            np.array([face.found for face in seen], np.bool_),
            np.concatenate([smoothed, *(box[None] for box, _, _ in frame.held)]).astype(np.float32),
            mask_tracks=np.array(
                [(track, track) for track in frame.seen] + [either for _, *either in frame.held], np.int64
            ).reshape(-1, 2),
            searched=frame.searched,
        )

    def _smoothed(self, number: int) -> Box:
        """The boxes of a frame's faces, their centres averaged and their sizes the largest over the frames around, and never less
        than themselves."""
        tracks = list(self._at(number).seen)
        own = _boxes(self._at(number).seen.values())
        total, weights, half = np.zeros((len(own), 2)), np.zeros((len(own), 1)), np.zeros((len(own), 2))
        for offset, weight in zip(range(-_SMOOTHING, _SMOOTHING + 1), _SMOOTHING_WEIGHTS, strict=True):
            if not self._first <= number + offset < self._next:
                continue
            seen = self._at(number + offset).seen
            rows = np.array([row for row, track in enumerate(tracks) if track in seen], np.int64)
            boxes = _boxes([seen[tracks[row]] for row in rows.tolist()])
            total[rows] += weight * ((boxes[:, :2] + boxes[:, 2:]) / 2)
            weights[rows] += weight
            half[rows] = np.maximum(half[rows], (boxes[:, 2:] - boxes[:, :2]) / 2)
        centre = total / weights
        low, high = np.minimum(own[:, :2], centre - half), np.maximum(own[:, 2:], centre + half)
        return np.concatenate([low, high], axis=1)

    def _at(self, number: int) -> _Frame:
        return self._frames[number - self._first]


def _boxes(faces: Iterable[_Seen | _Track]) -> Box:
    """The boxes (N, 4) of faces."""
    return np.array([face.box for face in faces], np.float64).reshape(-1, 4)


def _nearest(boxes: Box, ends: list[_Track], now: int, *, loose: bool) -> dict[int, _Track]:
    """Which of the boxes (N, 4) continues which of the tracks that ended; the nearest pairs first, each box and track once."""
    if not len(boxes) or not ends:
        return {}
    last = np.array([track.box for track in ends])
    gaps = np.array([now - track.last for track in ends], np.float64)
    moved = (last[:, :2] + last[:, 2:]) / 2 + np.array([track.speed for track in ends]) * gaps[:, None]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    side, last_side = (np.sqrt(np.maximum((b[:, 2:] - b[:, :2]).prod(axis=1), 1e-6)) for b in (boxes, last))
    mean_side = (side[:, None] + last_side) / 2
    distance = np.linalg.norm(centres[:, None] - moved, axis=2) / mean_side
    far = np.where(gaps <= 2, _MAYBE_SAME_FACE_ONE_MISSED, _MAYBE_SAME_FACE)
    limit = far if loose else np.full(len(ends), _SAME_FACE)
    ratio = side[:, None] / last_side
    allowed = (distance <= limit) & (ratio < _SIZE_RATIO) & (ratio > 1 / _SIZE_RATIO)
    pairs: dict[int, _Track] = {}
    taken: set[int] = set()
    for flat in np.argsort(distance, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(ends))
        if allowed[row, column] and row not in pairs and column not in taken:
            pairs[row] = ends[column]
            taken.add(column)
    return pairs


def _nearest_of(box: Box, others: list[Box]) -> int | None:
    """Which of the other boxes may be the same face a moment before."""
    side = _side(box)
    allowed = [
        (float(np.linalg.norm(_centre(box) - _centre(other))) / ((side + _side(other)) / 2), number)
        for number, other in enumerate(others)
        if 1 / _SIZE_RATIO < side / _side(other) < _SIZE_RATIO
    ]
    distance, nearest = min(allowed, default=(np.inf, 0))
    return nearest if distance <= _SAME_FACE else None


def _side(box: Box) -> float:
    return float(np.sqrt(max((box[2:] - box[:2]).prod(), 1e-6)))


def _centre(box: Box) -> npt.NDArray[np.float64]:
    return (box[:2] + box[2:]) / 2


def _union(box: Box, other: Box) -> Box:
    return np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
