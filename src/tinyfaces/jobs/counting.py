"""How many faces there are: in all, in polygons, and as a density map."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.jobs.bulk import counted
from tinyfaces.parsing.texts import reason

Polygon = npt.NDArray[np.float64]
"""Corners (N, 2), x and y: in pixels, or all within 0-1, relative to the image's sides."""

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MAP_SIDE = 1024  # pixels of the longer side of a density map
_SPREAD = 1.0  # standard deviation around a face, in its longer side
_MIN_SPREAD, _MAX_SPREAD = 1 / 200, 1 / 25  # standard deviation, in the map's longer side
_HEAT = np.array([[0, 0, 60], [60, 20, 140], [170, 40, 120], [240, 110, 40], [255, 240, 120]], np.float64)


class RegionError(ValueError):
    """Regions cannot be read. The message is one line that names the file."""


def read_regions(path: Path) -> dict[str, Polygon]:
    """Read polygons by name from JSON: `{"stand A": [[x, y], [x, y], [x, y]], ...}`. Raises RegionError."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RegionError(
            f"{path}: cannot be read ({reason(error).lower() if isinstance(error, OSError) else reason(error)})"
        ) from None
    if not isinstance(content, dict) or not content:
        raise RegionError(f'{path}: must be a JSON object of polygons, such as {{"stand A": [[0, 0], [100, 0], [100, 80]]}}')
    return {str(name): polygon(corners, f"{path}: region '{name}'") for name, corners in content.items()}


def polygon(corners: object, name: str) -> Polygon:
    """A polygon from a list of [x, y]. `name` stands in messages. Raises RegionError."""
    try:
        points = np.asarray(corners, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise RegionError(f"{name} must be a list of at least 3 corners [x, y]")
    return points


def in_pixels(region: Polygon, width: int, height: int) -> Polygon:
    """The polygon in pixels of an image of this size."""
    relative = region.min() >= 0 and region.max() <= 1
    return region * (width, height) if relative else region


def within(faces: Faces, region: Polygon) -> npt.NDArray[np.bool_]:
    """Which (N,) of the faces have their centre in a polygon in pixels. Where it crosses itself, the even-odd rule holds."""
    x, y = ((faces.boxes[:, :2] + faces.boxes[:, 2:]).astype(np.float64) / 2).T
    inside = np.zeros(len(faces), np.bool_)
    for (x1, y1), (x2, y2) in zip(region, np.roll(region, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def count_regions(faces: Faces, regions: Mapping[str, Polygon], width: int, height: int) -> dict[str, int]:
    """The number of faces in each polygon. A face in several counts in each."""
    return {name: int(within(faces, in_pixels(region, width, height)).sum()) for name, region in regions.items()}


def density(faces: Faces, width: int, height: int) -> npt.NDArray[np.float64]:
    """A density map, in faces per pixel. Each face is spread around its place, wider the larger it is, but not beyond the image.

    Args:
        faces: With boxes in pixels of the image.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Returns:
        hxw, with the image's proportions and at most 1024 pixels long; its sum is the number of faces.
    """
    scale = min(1.0, _MAP_SIDE / max(width, height))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    longer = max(columns, rows)
    total = np.zeros((rows, columns))
    x_places, y_places = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    sides = np.maximum(faces.widths, faces.heights) * scale
    spreads = np.clip(sides * _SPREAD, max(0.5, longer * _MIN_SPREAD), max(0.5, longer * _MAX_SPREAD))
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 * scale
    for (x, y), spread in zip(centres.tolist(), spreads.tolist(), strict=True):
        left, right = _reach(x, spread, columns)
        top, bottom = _reach(y, spread, rows)
        across = np.exp(-0.5 * ((x_places[left:right] - x) / spread) ** 2)
        down = np.exp(-0.5 * ((y_places[top:bottom] - y) / spread) ** 2)
        total[top:bottom, left:right] += np.outer(down / down.sum(), across / across.sum())
    return total


def draw_density(
    faces: Faces, pixels: Pixels, width: int, height: int, regions: Mapping[str, Polygon] | None = None
) -> Image.Image:
    """Draw the density map over the image in grey, with regions, their counts, and the total.

    Args:
        faces: With boxes in pixels of the image.
        pixels: The image HxWx3 uint8 RGB, or a reduced copy of it.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        regions: Polygons by name.
    """
    values = density(faces, width, height)
    rows, columns = values.shape
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((columns, rows)), np.float64)[..., None] * 0.55
    share = (values / max(float(values.max()), 1e-12)) ** 0.5
    place = share * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(int), len(_HEAT) - 2)
    heat = _HEAT[lower] + (_HEAT[lower + 1] - _HEAT[lower]) * (place - lower)[..., None]
    weight = np.minimum(share * 2, 0.85)[..., None]
    picture = Image.fromarray((grey * (1 - weight) + heat * weight).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    size = max(12, columns // 50)
    font = ImageFont.load_default(size)
    for name, region in (regions or {}).items():
        corners = in_pixels(region, width, height)
        number = int(within(faces, corners).sum())
        drawn = [(x * columns / width, y * rows / height) for x, y in corners.tolist()]
        pen.polygon(drawn, outline=(255, 255, 255), width=2)
        _write(pen, drawn[0], f"{name}: {number}", font)
    _write(pen, (size // 2, rows - 2 * size), counted(len(faces), "face"), font)
    return picture


def _write(
    pen: ImageDraw.ImageDraw, place: Sequence[float], text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    pen.text((place[0] + 4, place[1] + 4), text, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))


def _reach(middle: float, spread: float, length: int) -> tuple[int, int]:
    first = min(max(0, int(middle - 4 * spread)), length - 1)
    return first, max(first + 1, min(length, int(middle + 4 * spread) + 1))
