"""The progress of a review in a small SQLite file: the faces found, what people changed, what they accepted. It survives a kill.

Nothing of a photo itself is in it. What the detector found is never changed: changes lie beside it, one for each face.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.journal import Stamp, stamp_of
from tinyfaces.jobs.selection import ALL, Selection

FaceState: TypeAlias = Literal["covered", "clear", "deleted"]
"""What is to become of a face; "deleted": it is none, and is not shown any more."""
FACE_STATES: tuple[FaceState, ...] = get_args(FaceState)

_TABLES = {
    "review": "settings TEXT NOT NULL",
    "photos": "number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, changed INTEGER NOT NULL, "
    "width INTEGER, height INTEGER, found TEXT, doubt REAL, problem TEXT, accepted INTEGER NOT NULL, edition INTEGER NOT NULL, "
    "written INTEGER",
    "changes": "photo INTEGER NOT NULL, face INTEGER NOT NULL, x1 REAL NOT NULL, y1 REAL NOT NULL, x2 REAL NOT NULL, "
    "y2 REAL NOT NULL, state TEXT NOT NULL, PRIMARY KEY (photo, face)",
}
VIDEO_TABLES = {
    "searched": "video INTEGER NOT NULL, time INTEGER NOT NULL, boxes BLOB NOT NULL, scores BLOB NOT NULL, "
    "PRIMARY KEY (video, time)",
    "frames": "video INTEGER NOT NULL, number INTEGER NOT NULL, time INTEGER NOT NULL, seconds REAL NOT NULL, "
    "keyframe INTEGER NOT NULL, masks BLOB NOT NULL, tracks BLOB NOT NULL, faces INTEGER NOT NULL, PRIMARY KEY (video, number)",
    "videos": "video INTEGER PRIMARY KEY, rate REAL NOT NULL, warning TEXT, written TEXT",
    "tracks": "video INTEGER NOT NULL, track INTEGER NOT NULL, spans TEXT NOT NULL, best INTEGER NOT NULL, score REAL NOT NULL, "
    "box TEXT NOT NULL, PRIMARY KEY (video, track)",
    "track_changes": "video INTEGER NOT NULL, track INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (video, track)",
    "drawn": "video INTEGER NOT NULL, face INTEGER NOT NULL, state TEXT NOT NULL, keys TEXT NOT NULL, PRIMARY KEY (video, face)",
}
"""What is kept of videos, beside a row of `photos` for each; see `tinyfaces.jobs.video_store`."""
_UNTOUCHED = (
    "width = NULL, height = NULL, found = NULL, doubt = NULL, problem = NULL, accepted = 0, edition = edition + 1, written = NULL"
)


class ReviewError(ValueError):
    """The file of a review cannot be used; the message is one line that names it."""


class Outdated(Exception):
    """A photo was changed meanwhile, from another page."""


@dataclass(frozen=True)
class ReviewedFace:
    """A face as it stands in a review.

    Args:
        number: Of the face, in its photo; found ones come first.
        box: x1 y1 x2 y2 in pixels of the upright photo.
        score: The detector's, from 0 to 1; None where a person drew the face.
        state: What is to become of it.
        found: Whether the detector is sure enough of it to cover it by itself, or a file gives it.
        moved: Whether its box is no longer the one that was found.
        left_out: Why the selection keeps it clear unless a person says otherwise; empty where it does not.
    """

    number: int
    box: tuple[float, float, float, float]
    score: float | None
    state: FaceState
    found: bool = False
    moved: bool = False
    left_out: str = ""


@dataclass(frozen=True)
class ReviewedPhoto:
    """A photo as it stands in a review.

    Args:
        number: Of the photo, in the review.
        path: Its file.
        stamp: That of the file when it was searched.
        size: Width and height of the upright photo, in pixels; None where it was not searched yet.
        faces: All of them, deleted ones too, by number.
        doubt: See `tinyfaces.jobs.doubts`.
        problem: Why it cannot be searched.
        accepted: Whether a person has seen it and wants it written.
        edition: Grows with every change.
        written: The edition that was written, if any was.
    """

    number: int
    path: Path
    stamp: Stamp
    size: tuple[int, int] | None
    faces: Sequence[ReviewedFace]
    doubt: float
    problem: str | None
    accepted: bool
    edition: int
    written: int | None

    @property
    def covered(self) -> npt.NDArray[np.float32]:
        """(N, 4) float32, the boxes to cover."""
        return np.array([face.box for face in self.faces if face.state == "covered"], np.float32).reshape(-1, 4)


class ReviewStore:
    """A review's file. Any thread may use it; what a method has done is on the disk once it returns.

    Args:
        path: Where it lies.
        settings: What the faces found depend on beside the photos.
        cover: The score from which a face is covered unless a person says otherwise.
        selection: Which of the faces found are covered unless a person says otherwise.
        masks: How they are covered when they are written, which may change while the review goes on; see `other_masks`.
        start_over: Forget what the file holds.

    Raises:
        ReviewError: Another process uses the file, it belongs to a review with other settings, it is no review's file, or it
            cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        cover: CoverThreshold,
        selection: Selection = ALL,
        masks: Mapping[str, Any] | None = None,
        *,
        start_over: bool = False,
    ) -> None:
        self.path = path
        self.cover = cover
        self.selection = selection
        self.other_masks = ""
        """Which masks are not those that the review had before, such as "method: blur, now solid"."""
        self._lock = threading.RLock()
        fixed = {**settings, "threshold": cover.settings(), **selection.settings()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise ReviewError(f"{path}: cannot be written ({(getattr(error, 'strerror', None) or str(error)).lower()})") from None
        try:
            self._open(fixed, dict(masks or {}), start_over)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise ReviewError(f"{path}: {'another review is using it' if 'locked' in str(error) else error}") from None
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ReviewError(f"{path}: not the file of a review ({error})") from None
        except ReviewError:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock, suppress(sqlite3.Error):
            self._database.close()

    def enter(self, paths: Sequence[Path]) -> list[int]:
        """Take photos into the review, and give their numbers, in order. A photo whose file has changed is to be searched anew,
        and what was decided about it is forgotten."""
        with self.transaction() as database:
            numbers = []
            for path in paths:
                key, stamp = os.fsencode(path.absolute()), stamp_of(path)
                row = database.execute("SELECT number, size, changed FROM photos WHERE path = ?", (key,)).fetchone()
                if row is None:
                    database.execute(
                        "INSERT INTO photos (path, size, changed, accepted, edition) VALUES (?, ?, ?, 0, 0)", (key, *stamp)
                    )
                    numbers.append(int(database.execute("SELECT last_insert_rowid()").fetchone()[0]))
                    continue
                numbers.append(int(row[0]))
                if (row[1], row[2]) != stamp:
                    self._forget(numbers[-1], stamp)
            return numbers

    def forget(self, number: int) -> None:
        """Let a photo be searched anew, as its file has changed."""
        with self.transaction():
            self._forget(number, stamp_of(self.photo(number).path))

    def found(
        self, number: int, stamp: Stamp, size: tuple[int, int], faces: Faces, doubt: float, given: Faces | None = None
    ) -> None:
        """Record the faces of a photo of a size (width, height). stamp: that of its file before it was read; given: faces that
        are covered whatever their score is and wherever they are."""
        every, _ = joined([faces, Faces.empty() if given is None else given])
        record = json.dumps({"boxes": every.boxes.tolist(), "scores": every.scores.tolist(), "given": len(every) - len(faces)})
        with self.transaction() as database:
            database.execute("DELETE FROM changes WHERE photo = ?", (number,))
            database.execute(
                "UPDATE photos SET size = ?, changed = ?, width = ?, height = ?, found = ?, doubt = ?, problem = NULL "
                "WHERE number = ?",
                (*stamp, *size, record, doubt, number),
            )

    def failed(self, number: int, problem: str) -> None:
        """Record why a photo cannot be reviewed."""
        with self.transaction() as database:
            database.execute("UPDATE photos SET problem = ?, accepted = 0 WHERE number = ?", (problem, number))

    def change(self, number: int, edition: int, faces: Sequence[ReviewedFace]) -> int:
        """Change faces of a photo, or add some; it is no longer accepted then.

        Args:
            number: Of the photo.
            edition: Of the photo that was changed.
            faces: As they are to be; only numbers, boxes and states count.

        Returns:
            The new edition.

        Raises:
            Outdated: The photo has another edition.
        """
        with self.transaction() as database:
            self.check(number, edition)
            database.executemany(
                "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(number, face.number, *face.box, face.state) for face in faces],
            )
            database.execute("UPDATE photos SET edition = edition + 1, accepted = 0 WHERE number = ?", (number,))
        return edition + 1

    def accept(self, number: int, edition: int, accepted: bool) -> None:
        """Accept a photo as it stands, or take that back. Raises Outdated."""
        with self.transaction() as database:
            self.check(number, edition)
            database.execute(
                "UPDATE photos SET accepted = ? WHERE number = ? AND found IS NOT NULL AND problem IS NULL", (accepted, number)
            )

    def written(self, number: int, edition: int) -> None:
        """Record that an edition of a photo is written."""
        with self.transaction() as database:
            database.execute("UPDATE photos SET written = ? WHERE number = ?", (edition, number))

    def photo(self, number: int) -> ReviewedPhoto:
        """A photo of the review. Raises KeyError."""
        with self._lock:
            row = self._database.execute(
                "SELECT path, size, changed, width, height, found, doubt, problem, accepted, edition, written FROM photos "
                "WHERE number = ?", (number,),
            ).fetchone()  # fmt: skip
            if row is None:
                raise KeyError(number)
            changes = self._database.execute(
                "SELECT face, x1, y1, x2, y2, state FROM changes WHERE photo = ? ORDER BY face", (number,)
            ).fetchall()
        path, size, changed, width, height, found, doubt, problem, accepted, edition, written = row
        faces = {} if found is None else self._found(json.loads(found), width, height)
        return ReviewedPhoto(
            number, Path(os.fsdecode(path)), (size, changed), None if width is None else (width, height),
            _changed(faces, changes), doubt or 0.0, problem, bool(accepted), edition, written,
        )  # fmt: skip

    def _found(self, found: Mapping[str, Any], width: int, height: int) -> dict[int, ReviewedFace]:
        """The faces of a photo by their numbers, before a person changed them."""
        faces = Faces(np.array(found["boxes"], np.float32).reshape(-1, 4), np.array(found["scores"], np.float32))
        given = [number >= len(faces) - found.get("given", 0) for number in range(len(faces))]
        reached = self.cover.reached(faces).tolist()
        reasons = self.selection.reasons(faces.boxes, width, height)
        known = {}
        for number, (box, score) in enumerate(zip(found["boxes"], found["scores"], strict=True)):
            sure = given[number] or reached[number]
            left_out = reasons[number] if sure and not given[number] else ""
            state: FaceState = "covered" if sure and not left_out else "clear"
            known[number] = ReviewedFace(number, tuple(box), score, state, sure, left_out=left_out)
        return known

    def _open(self, fixed: Mapping[str, Any], masks: Mapping[str, Any], start_over: bool) -> None:
        database = self._database
        database.execute("PRAGMA locking_mode = EXCLUSIVE")  # one review at a time; the lock goes with the process
        there = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if there and not set(_TABLES) <= there <= {*_TABLES, *VIDEO_TABLES}:
            raise sqlite3.DatabaseError("another program's database")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with self.transaction():
            for name, columns in {**_TABLES, **VIDEO_TABLES}.items():
                if start_over:
                    database.execute(f"DROP TABLE IF EXISTS {name}")
                database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
            known = database.execute("SELECT settings FROM review").fetchone()
            before = {} if known is None else json.loads(known[0])
            masks_before = before.pop("masks", masks)
            if known is not None and (other := _differences(before, fixed)):
                raise ReviewError(f"{self.path}: belongs to a review with other settings ({other}); use those, or --start-over")
            self.other_masks = _differences(masks_before, masks)
            if self.other_masks:
                database.execute("UPDATE photos SET written = NULL")
            database.execute("DELETE FROM review")
            database.execute("INSERT INTO review VALUES (?)", (json.dumps({**fixed, "masks": masks}, sort_keys=True),))

    def _forget(self, number: int, stamp: Stamp) -> None:
        self._database.execute("DELETE FROM changes WHERE photo = ?", (number,))
        for table in VIDEO_TABLES:
            self._database.execute(f"DELETE FROM {table} WHERE video = ?", (number,))
        self._database.execute(f"UPDATE photos SET size = ?, changed = ?, {_UNTOUCHED} WHERE number = ?", (*stamp, number))

    def check(self, number: int, edition: int) -> None:
        """Make sure that a photo has this edition. Raises KeyError, Outdated."""
        row = self._database.execute("SELECT edition FROM photos WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(number)
        if row[0] != edition:
            raise Outdated

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database, alone, for changes that are on the disk all together once it is left, or not at all."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise


def _changed(faces: dict[int, ReviewedFace], changes: Sequence[tuple[Any, ...]]) -> list[ReviewedFace]:
    """Faces by their numbers as people changed them."""
    for number, *sides, state in changes:
        box = (sides[0], sides[1], sides[2], sides[3])
        known = faces.get(number)
        if known is None:
            faces[number] = ReviewedFace(number, box, None, state)
        else:
            faces[number] = replace(known, box=box, state=state, moved=known.box != box)
    return list(faces.values())


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is another setting now, such as "model: fast, now accurate"."""
    then, today = json.loads(json.dumps([before, now]))
    names = [name for name in {**then, **today} if then.get(name) != today.get(name)]
    return ", ".join(f"{name}: {then.get(name, 'not set')}, now {today.get(name, 'not set')}" for name in names)
