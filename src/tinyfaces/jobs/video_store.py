"""What a review keeps of videos, in the same file as of photos: what was found frame by frame, what people decided. No pixels."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.journal import Stamp
from tinyfaces.jobs.review_store import FaceState, ReviewStore

_FRAMES_AT_ONCE = 500

TrackState: TypeAlias = Literal["covered", "clear"]
Box: TypeAlias = tuple[float, float, float, float]
"""x1 y1 x2 y2 in pixels of the first frame, upright."""
Key: TypeAlias = tuple[int, Box]
"""A key frame: its number, and a face's box there."""


@dataclass(frozen=True)
class FoundFrame:
    """A frame, and what is masked in it as long as nobody says otherwise.

    Args:
        number: From 0.
        time: In the video's ticks.
        seconds: The same in seconds.
        keyframe: Whether it is decoded without others.
        masks: (N, 4) float32, x1 y1 x2 y2 in pixels of the first frame.
        tracks: (N, 2) int64, the track of each mask, or the two of which it may be either's.
        faces: So many of the masks are those of faces seen in the frame; the others are of faces about to come or just gone.
    """

    number: int
    time: int
    seconds: float
    keyframe: bool
    masks: npt.NDArray[np.float32]
    tracks: npt.NDArray[np.int64]
    faces: int


@dataclass(frozen=True)
class FoundTrack:
    """A face followed through a video.

    Args:
        number: As in `TrackedFaces.tracks`.
        spans: The first and the last frame of each part of the video in which it is seen, in order.
        best: The frame in which it has its highest score.
        score: That score.
        box: Where it is in that frame.
    """

    number: int
    spans: Sequence[tuple[int, int]]
    best: int
    score: float
    box: Box


@dataclass(frozen=True)
class DrawnFace:
    """A face that a person drew. It is covered from its first to its last key frame; between two, its box moves in a line.

    Args:
        number: Of the face, in its video.
        state: What is to become of it.
        keys: Its key frames, in order.

    Raises:
        ValueError: There are no key frames, or they are not in order.
    """

    number: int
    state: FaceState
    keys: Sequence[Key]

    def __post_init__(self) -> None:
        if not self.keys or any(one >= other for (one, _), (other, _) in pairwise(self.keys)):
            raise ValueError("key frames must rise")

    def at(self, frame: int) -> Box | None:
        """Where it is in a frame; None before the first key frame and after the last."""
        for (first, box), (last, other) in pairwise(self.keys):
            if first <= frame <= last:
                share = (frame - first) / (last - first)
                x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(box, other, strict=True))
                return x1, y1, x2, y2
        frame_only, box = self.keys[0]
        return box if frame == frame_only else None


@dataclass(frozen=True)
class Decided:
    """What people decided about the faces of a video.

    Args:
        clear: Numbers of the tracks that are kept clear.
        drawn: The faces that a person drew, deleted ones too.
    """

    clear: frozenset[int]
    drawn: Sequence[DrawnFace]

    @property
    def added(self) -> list[DrawnFace]:
        """The drawn faces that are covered."""
        return [face for face in self.drawn if face.state == "covered"]

    def masks(self, frame: FoundFrame) -> npt.NDArray[np.float32]:
        """(N, 4) float32, all that is covered in a frame, in pixels of the first one. What may belong to either of two tracks is
        left clear only if both are."""
        clear = np.isin(frame.tracks, list(self.clear)).all(axis=1)
        drawn = [box for face in self.added if (box := face.at(frame.number)) is not None]
        return np.concatenate([frame.masks[~clear], np.array(drawn, np.float32).reshape(-1, 4)])


@dataclass(frozen=True)
class ReviewedVideo(Decided):
    """A searched video as it stands in a review: all that `Decided` says, and

    Args:
        number: In the review, of which photos are part too.
        path: Its file.
        stamp: That of the file when it was searched.
        size: Width and height of the first frame, upright, in pixels.
        rate: Average frames per second.
        tracks: The faces that were found.
        warning: What is wrong with the file, where only a part of it could be read.
        accepted: Whether a person has seen it and wants it written.
        edition: Grows with every change.
        written: What is known of the file that was written last.
    """

    number: int
    path: Path
    stamp: Stamp
    size: tuple[int, int]
    rate: float
    tracks: Sequence[FoundTrack]
    warning: str | None
    accepted: bool
    edition: int
    written: Mapping[str, Any] | None


class VideoStore:
    """The videos of a review. Any thread may use it; what a method has done is on the disk once it returns.

    Args:
        store: The review's file, in which each video is entered as a photo is.
    """

    def __init__(self, store: ReviewStore) -> None:
        self.store = store

    def searched(self, number: int) -> dict[int, Faces]:
        """The faces of the frames that are searched already, by their times, as long as not all are."""
        with self.store.transaction() as database:
            rows = database.execute("SELECT time, boxes, scores FROM searched WHERE video = ?", (number,)).fetchall()
        return {
            time: Faces(np.frombuffer(boxes, np.float32).reshape(-1, 4), np.frombuffer(scores, np.float32))
            for time, boxes, scores in rows
        }

    def add(self, number: int, searched: Mapping[int, Faces], frames: Sequence[FoundFrame]) -> None:
        """Record faces of frames by their times, and frames whose faces are followed."""
        with self.store.transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO searched VALUES (?, ?, ?, ?)",
                [(number, time, faces.boxes.tobytes(), faces.scores.tobytes()) for time, faces in searched.items()],
            )
            database.executemany(
                "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        number,
                        one.number,
                        one.time,
                        one.seconds,
                        one.keyframe,
                        one.masks.tobytes(),
                        one.tracks.tobytes(),
                        one.faces,
                    )
                    for one in frames
                ],
            )

    def finish(
        self,
        number: int,
        stamp: Stamp,
        size: tuple[int, int],
        rate: float,
        tracks: Sequence[FoundTrack],
        doubt: float,
        warning: str | None,
    ) -> None:
        """Record that all frames of a video are there. stamp: that of its file before it was read."""
        with self.store.transaction() as database:
            database.execute("DELETE FROM searched WHERE video = ?", (number,))
            database.execute("INSERT OR REPLACE INTO videos VALUES (?, ?, ?, NULL)", (number, rate, warning))
            database.executemany(
                "INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?)",
                [(number, one.number, json.dumps(one.spans), one.best, one.score, json.dumps(one.box)) for one in tracks],
            )
            database.execute(
                "UPDATE photos SET size = ?, changed = ?, width = ?, height = ?, found = ?, doubt = ?, problem = NULL "
                "WHERE number = ?",
                (*stamp, *size, json.dumps({"boxes": [], "scores": []}), doubt, number),
            )

    def video(self, number: int) -> ReviewedVideo:
        """A video. Raises KeyError where the review has none of this number, or where it is not searched yet."""
        with self.store.transaction() as database:
            entered = self.store.photo(number)
            row = database.execute("SELECT rate, warning, written FROM videos WHERE video = ?", (number,)).fetchone()
            if row is None or entered.size is None:
                raise KeyError(number)
            tracks = database.execute(
                "SELECT track, spans, best, score, box FROM tracks WHERE video = ? ORDER BY track", (number,)
            ).fetchall()
            decided = _decided(database, number)
        rate, warning, written = row
        return ReviewedVideo(
            decided.clear, decided.drawn, number, entered.path, entered.stamp, entered.size, rate,
            [_track(*track) for track in tracks],
            warning, entered.accepted, entered.edition, None if written is None else json.loads(written),
        )  # fmt: skip

    def decided(self, number: int) -> Decided:
        """What people decided about a video. None of its tracks is read for that. Raises KeyError as `video` does."""
        with self.store.transaction() as database:
            _require(database, number)
            return _decided(database, number)

    def warning(self, number: int) -> str | None:
        """What is wrong with the file of a video, where only a part of it could be read. Raises KeyError as `video` does."""
        with self.store.transaction() as database:
            row = database.execute("SELECT warning FROM videos WHERE video = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(number)
        return None if row[0] is None else str(row[0])

    def track_numbers(self, number: int) -> set[int]:
        """The numbers of all tracks of a video. Raises KeyError as `video` does."""
        with self.store.transaction() as database:
            _require(database, number)
            return {track for (track,) in database.execute("SELECT track FROM tracks WHERE video = ?", (number,))}

    def track(self, number: int, track: int) -> FoundTrack:
        """A single track of a video. Raises KeyError."""
        with self.store.transaction() as database:
            row = database.execute(
                "SELECT track, spans, best, score, box FROM tracks WHERE video = ? AND track = ?", (number, track)
            ).fetchone()
        if row is None:
            raise KeyError(track)
        return _track(*row)

    def frames(self, number: int, first: int = 0, last: int | None = None) -> Iterator[FoundFrame]:
        """The frames of a video from one to another, in order; all by default."""
        while last is None or first <= last:
            end = first + _FRAMES_AT_ONCE - 1 if last is None else min(last, first + _FRAMES_AT_ONCE - 1)
            with self.store.transaction() as database:
                rows = database.execute(
                    "SELECT number, time, seconds, keyframe, masks, tracks, faces FROM frames "
                    "WHERE video = ? AND number BETWEEN ? AND ? ORDER BY number",
                    (number, first, end),
                ).fetchall()
            for frame, time, seconds, keyframe, masks, tracks, faces in rows:
                yield FoundFrame(
                    frame, time, seconds, bool(keyframe), np.frombuffer(masks, np.float32).reshape(-1, 4),
                    np.frombuffer(tracks, np.int64).reshape(-1, 2), faces,
                )  # fmt: skip
            if len(rows) < end - first + 1:
                return
            first = end + 1

    def times(self, number: int) -> list[tuple[int, float, bool]]:
        """Of each frame of a video its time in ticks, the same in seconds, and whether it is a keyframe."""
        with self.store.transaction() as database:
            return database.execute(
                "SELECT time, seconds, keyframe FROM frames WHERE video = ? ORDER BY number", (number,)
            ).fetchall()

    def frame_count(self, number: int) -> int:
        """How many frames of a video are recorded."""
        with self.store.transaction() as database:
            return int(database.execute("SELECT count(*) FROM frames WHERE video = ?", (number,)).fetchone()[0])

    def change(self, number: int, edition: int, tracks: Mapping[int, TrackState], drawn: Sequence[DrawnFace]) -> int:
        """Change what becomes of tracks, and change or add drawn faces; the video is no longer accepted then.

        Args:
            number: Of the video.
            edition: Of the video that was changed.
            tracks: What is to become of tracks, by their numbers.
            drawn: Faces as they are to be.

        Returns:
            The new edition.

        Raises:
            KeyError: There is no such video.
            Outdated: It has another edition.
        """
        with self.store.transaction() as database:
            self.store.check(number, edition)
            database.executemany(
                "INSERT OR REPLACE INTO track_changes VALUES (?, ?, ?)", [(number, *change) for change in tracks.items()]
            )
            database.executemany(
                "INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?)",
                [(number, face.number, face.state, json.dumps(face.keys)) for face in drawn],
            )
            database.execute("UPDATE photos SET edition = edition + 1, accepted = 0 WHERE number = ?", (number,))
        return edition + 1

    def written(self, number: int, edition: int, facts: Mapping[str, Any]) -> None:
        """Record that an edition of a video is written, and what is known of the file."""
        with self.store.transaction() as database:
            database.execute("UPDATE photos SET written = ? WHERE number = ?", (edition, number))
            database.execute("UPDATE videos SET written = ? WHERE video = ?", (json.dumps(facts), number))


def _require(database: sqlite3.Connection, number: int) -> None:
    if database.execute("SELECT 1 FROM videos WHERE video = ?", (number,)).fetchone() is None:
        raise KeyError(number)


def _decided(database: sqlite3.Connection, number: int) -> Decided:
    clear = database.execute("SELECT track FROM track_changes WHERE video = ? AND state = 'clear'", (number,)).fetchall()
    drawn = database.execute("SELECT face, state, keys FROM drawn WHERE video = ? ORDER BY face", (number,)).fetchall()
    return Decided(
        frozenset(track for (track,) in clear),
        [DrawnFace(face, state, [(frame, _box(box)) for frame, box in json.loads(keys)]) for face, state, keys in drawn],
    )


def _track(number: int, spans: str, best: int, score: float, box: str) -> FoundTrack:
    """A track as the file holds it."""
    return FoundTrack(number, [(first, last) for first, last in json.loads(spans)], best, score, _box(json.loads(box)))


def _box(sides: Sequence[float]) -> Box:
    x1, y1, x2, y2 = sides
    return x1, y1, x2, y2
