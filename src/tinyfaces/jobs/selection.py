"""Which of the faces that were found are covered, and why the others are left clear."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs.counting import in_pixels, polygon, within
from tinyfaces.jobs.tracking import TrackedFaces

Corners: TypeAlias = Sequence[Sequence[float]]
"""The corners of a polygon, [x, y], at least 3: in pixels, or all within 0-1, relative to the image's sides."""


@dataclass(frozen=True)
class Selection:
    """Which faces are covered: all that fit every part of it.

    Args:
        min_height: Faces below this height, in pixels, are left clear.
        max_height: Faces above this height, in pixels, are left clear.
        only_regions: Polygons. If there are any, a face is covered only if its centre is in one of them.
        except_regions: Polygons. A face whose centre is in one of them is left clear.
        only_tracks: Numbers of tracks of a video. If there are any, no other face is covered.
        keep_tracks: Numbers of tracks of a video that are left clear.
        spans: Times in seconds, from and to. If there are any, faces are covered from the one to before the other only.

    Raises:
        ValueError: A polygon has less than 3 corners, or nothing could be covered: heights or a time end before they begin, or a
            track is to be both covered and left clear.

    Example:
        ```python
        selection = Selection(min_height=8, except_regions=[[(0, 0), (0.5, 0), (0.5, 1), (0, 1)]])
        covered, left_clear = selection.pick(faces, 1920, 1080)
        ```
    """

    min_height: float = 0.0
    max_height: float = math.inf
    only_regions: Sequence[Corners] = ()
    except_regions: Sequence[Corners] = ()
    only_tracks: Iterable[int] = ()
    keep_tracks: Iterable[int] = ()
    spans: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        for name in ("only_regions", "except_regions"):
            checked = [polygon(corners, f"a region of {name}") for corners in getattr(self, name)]
            object.__setattr__(self, name, tuple(tuple(map(tuple, corners.tolist())) for corners in checked))
        for name in ("only_tracks", "keep_tracks"):
            object.__setattr__(self, name, frozenset(map(int, getattr(self, name))))
        object.__setattr__(self, "spans", tuple((float(start), float(end)) for start, end in self.spans))
        if not 0 <= self.min_height <= self.max_height:
            raise ValueError(f"heights must rise from 0. Received: {self.min_height:g} to {self.max_height:g}")
        for start, end in self.spans:
            if not 0 <= start < end:
                raise ValueError(f"times must rise from 0. Received: {start:g} to {end:g}")
        if both := sorted(set(self.only_tracks) & set(self.keep_tracks)):
            raise ValueError(f"track {both[0]} cannot be both covered and left clear")

    @property
    def needs_video(self) -> bool:
        """Whether it says something about tracks or times, which photos do not have."""
        return bool(self.only_tracks or self.keep_tracks or self.spans)

    def reasons(
        self,
        boxes: npt.NDArray[np.float32],
        width: int,
        height: int,
        tracks: npt.NDArray[np.int64] | None = None,
        time: float | None = None,
    ) -> list[str]:
        """Why each face is left clear.

        Args:
            boxes: (N, 4), x1 y1 x2 y2 in pixels.
            width: Width of the image, in pixels.
            height: Height of the image, in pixels.
            tracks: (N,) numbers of their tracks, in a video.
            time: Time of the frame in seconds, in a video.

        Returns:
            For each face the reason, or an empty text if it is covered.
        """
        faces = Faces(boxes, np.ones(len(boxes), np.float32))
        found: list[tuple[npt.NDArray[np.bool_], str]] = []
        if time is not None and self.spans:
            outside = not any(start <= time < end for start, end in self.spans)
            found.append((np.full(len(faces), outside), "outside the time"))
        if tracks is not None:
            if self.only_tracks:
                found.append((~np.isin(tracks, list(self.only_tracks)), "of other tracks"))
            found.append((np.isin(tracks, list(self.keep_tracks)), "of kept tracks"))
        found.append((faces.heights < self.min_height, f"below {self.min_height:g} px"))
        found.append((faces.heights > self.max_height, f"above {self.max_height:g} px"))
        if self.only_regions:
            found.append((~_in_any(faces, self.only_regions, width, height), "outside the regions"))
        found.append((_in_any(faces, self.except_regions, width, height), "in an excepted region"))
        return [next((text for clear, text in found if clear[row]), "") for row in range(len(faces))]

    def pick(self, faces: Faces, width: int, height: int) -> tuple[Faces, dict[str, int]]:
        """The faces of a photo of width x height pixels to cover, and how many are left clear for each reason."""
        if self == ALL:
            return faces, {}
        reasons = self.reasons(faces.boxes, width, height)
        return faces[np.array([not reason for reason in reasons], np.bool_)], dict(Counter(filter(None, reasons)))

    def pick_frame(self, frame: TrackedFaces, width: int, height: int) -> tuple[TrackedFaces, dict[int, str]]:
        """The faces of a frame of width x height pixels to cover, and, for each track that is left clear in it, the reason.

        What is masked although no face was found there is left clear only if all tracks that it may belong to are.
        """
        if self == ALL:
            return frame, {}
        faces = len(frame.faces)
        reasons = self.reasons(frame.faces.boxes, width, height, frame.tracks, frame.time)
        covered = np.array([not reason for reason in reasons], np.bool_)
        of = np.stack([frame.tracks] * 2, axis=1) if frame.mask_tracks is None else frame.mask_tracks
        held = [self.reasons(frame.masks[faces:], width, height, of[faces:, either], frame.time) for either in (0, 1)]
        masked = np.array([*covered, *(not (one and other) for one, other in zip(*held, strict=True))], np.bool_)
        picked = replace(
            frame, faces=frame.faces[covered], tracks=frame.tracks[covered], found=frame.found[covered],
            masks=frame.masks[masked], mask_tracks=of[masked],
        )  # fmt: skip
        return picked, {int(track): reason for track, reason in zip(frame.tracks, reasons, strict=True) if reason}

    def missing_tracks(self, tracks: Iterable[int]) -> list[int]:
        """The numbers of tracks that it names and that are not among those of a video, in order."""
        return sorted({*self.only_tracks, *self.keep_tracks}.difference(tracks))

    def settings(self) -> dict[str, Any]:
        """What it says, as JSON can hold it, without what is as by default."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["spans"] = tuple((start, end if math.isfinite(end) else None) for start, end in self.spans)
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in values.items()
            if value != getattr(ALL, name)
        }


ALL = Selection()
"""All faces are covered."""


def clear_line(left_clear: Mapping[str, int]) -> str:
    """Such as "3 left clear (2 below 12 px, 1 in an excepted region)"."""
    each = ", ".join(f"{number} {reason}" for reason, number in sorted(left_clear.items(), key=lambda item: (-item[1], item[0])))
    return f"{sum(left_clear.values())} left clear ({each})"


def read_corners(text: str, name: str) -> list[list[float]]:
    """A polygon from text such as "0,0 100,0 100,80". `name` stands in messages. Raises RegionError."""
    try:
        corners = [[float(side) for side in corner.split(",")] for corner in text.split()]
    except ValueError:
        corners = []
    if any(len(corner) != 2 for corner in corners):
        corners = []
    polygon(corners, name)
    return corners


def _in_any(faces: Faces, regions: Sequence[Corners], width: int, height: int) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(faces), np.bool_)
    for corners in regions:
        found |= within(faces, in_pixels(np.asarray(corners, np.float64), width, height))
    return found
