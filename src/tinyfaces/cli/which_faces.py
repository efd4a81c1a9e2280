"""Options that choose faces: by height and place, and in videos by track and time."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfaces.cli.options import FACES, fail
from tinyfaces.jobs.counting import RegionError, read_regions
from tinyfaces.jobs.selection import Corners, Selection, read_corners

_POLYGON = "FILE|'X,Y X,Y X,Y ...'"


@dataclass(frozen=True)
class FaceOptions:
    """Which faces, by height and place."""

    min_height: Annotated[
        float, typer.Option(min=0, rich_help_panel=FACES, help="Leave out faces below this height, in pixels.")
    ] = 0.0
    max_height: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=FACES, help="Leave out faces above this height, in pixels.")
    ] = None
    only_region: Annotated[
        list[str] | None,
        typer.Option(
            metavar=_POLYGON,
            rich_help_panel=FACES,
            help="Take only faces whose centre is in this polygon, in pixels or relative to the image (0-1), or in one of a JSON "
            "file as `count --regions` reads it; may be given several times.",
        ),
    ] = None
    except_region: Annotated[
        list[str] | None,
        typer.Option(metavar=_POLYGON, rich_help_panel=FACES, help="Leave out faces whose centre is in such a polygon."),
    ] = None

    def selection(self, **of_videos: Any) -> Selection:
        """The same as a value. Ends the command if it makes no sense."""
        try:
            return Selection(
                self.min_height,
                math.inf if self.max_height is None else self.max_height,
                _polygons("--only-region", self.only_region),
                _polygons("--except-region", self.except_region),
                **of_videos,
            )
        except ValueError as error:
            fail(str(error))

    def files(self) -> list[Path]:
        """The files of polygons."""
        return [Path(text) for text in [*(self.only_region or []), *(self.except_region or [])] if _is_file(text)]


@dataclass(frozen=True)
class TrackOptions:
    """Which faces of a video."""

    keep_track: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            rich_help_panel=FACES,
            help="Leave out these tracks of a video, such as 3,7; --report lists them.",
        ),
    ] = None
    only_track: Annotated[
        str | None, typer.Option(metavar="NUMBERS", rich_help_panel=FACES, help="Take only these tracks of a video.")
    ] = None
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="TIME",
            rich_help_panel=FACES,
            help="Take faces of videos from this time on, in seconds or as 1:02:03.5. --from and --to may be repeated.",
        ),
    ] = None
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="TIME", rich_help_panel=FACES, help="Take faces of videos up to this time."),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """The same as arguments of `Selection`. Ends the command if it makes no sense."""
        return {
            "only_tracks": _numbers("--only-track", self.only_track),
            "keep_tracks": _numbers("--keep-track", self.keep_track),
            "spans": _spans(self.from_ or [], self.to or []),
        }


def _is_file(text: str) -> bool:
    return text.lower().endswith(".json")


def _polygons(option: str, given: Sequence[str] | None) -> list[Corners]:
    found: list[Corners] = []
    for text in given or []:
        try:
            if _is_file(text):
                found += [corners.tolist() for corners in read_regions(Path(text)).values()]
            else:
                found.append(read_corners(text, f"{option} '{text}'"))
        except RegionError as error:
            fail(str(error))
    return found


def _numbers(option: str, text: str | None) -> list[int]:
    if text is None:
        return []
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        fail(f"{option} '{text}': must be numbers of tracks, such as 3,7")
    return [int(number) for number in text.split(",")]


def _spans(starts: Sequence[str], ends: Sequence[str]) -> list[tuple[float, float]]:
    begins = [_seconds("--from", text) for text in starts]
    stops = [_seconds("--to", text) for text in ends]
    if len(begins) <= 1 and len(stops) <= 1 and (begins or stops):
        return [((begins or [0.0])[0], (stops or [math.inf])[0])]
    if len(begins) != len(stops):
        fail("--from and --to: give as many of one as of the other")
    return list(zip(begins, stops, strict=True))


def _seconds(option: str, text: str) -> float:
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        fail(f"{option} '{text}': must be seconds, or a time such as 1:02:03.5")
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
