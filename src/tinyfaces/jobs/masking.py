"""Making faces unrecognisable: the pixels under a mask are replaced by a few averages or by one colour."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

METHODS = ("blur", "pixelate", "solid")
SHAPES = ("ellipse", "box")

STRENGTHS = range(1, 6)
_CELLS = 5  # at the lowest strength, across the mask of a large face, whatever its size
_MIN_CELL = 4  # pixels
_MARGIN = 2.0  # pixels beyond the enlarged box, as boxes of tiny faces may be off by that
_BLUR = 0.65  # standard deviation of the blur, in cells: enough for them to melt into each other


@dataclass(frozen=True)
class MaskStyle:
    """How faces are masked.

    Args:
        method: "blur" or "pixelate" leave averages over at most 5x5 cells of 4 pixels or more, which grow with the face. "solid"
            leaves nothing.
        shape: "ellipse" or "box".
        enlarge: Size of the mask in each direction, relative to the face's box, 1-4. From 1.42 on, the ellipse holds the whole
            box.
        strength: Of "blur" and "pixelate", 1-5. Each step takes away a row and a column of averages: 1 leaves 5x5, 5 only one.

    Raises:
        ValueError: A value is not one of these.
    """

    method: str = "blur"
    shape: str = "ellipse"
    enlarge: float = 1.45
    strength: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}': choose from {', '.join(METHODS)}")
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape '{self.shape}': choose from {', '.join(SHAPES)}")
        if not 1 <= self.enlarge <= 4:
            raise ValueError(f"enlarge must be within 1-4. Received: {self.enlarge}")
        if self.strength not in STRENGTHS:
            raise ValueError(f"strength must be a whole number within 1-5. Received: {self.strength}")

    @classmethod
    def of(cls, method: str | None, style: "MaskStyle | None") -> "MaskStyle":
        """A style from its method alone, or one that is given whole; blur if neither is.

        Raises:
            TypeError: The style is no `MaskStyle`.
            ValueError: Both are given, or the method is unknown.
        """
        if style is None:
            return cls() if method is None else cls(method)
        if not isinstance(style, cls):
            raise TypeError(f"style must be a MaskStyle. Received: {type(style).__name__}")
        if method is not None:
            raise ValueError("give the method in the style, or without one. Received: both")
        return style


@dataclass(frozen=True)
class Plane:
    """One channel to mask.

    Args:
        values: HxW, of any type; changed in place.
        step_x: Pixels of the image per value, across; 2 for halved colour.
        step_y: The same, down.
        blank: The value that "solid" puts there.
        cover: (h, w, 2) float32, a picture that is put over each mask: its values in this plane, and its opacity, 0-1. Where it
            is not opaque, the mask shows through.
    """

    values: npt.NDArray[np.generic]
    step_x: float
    step_y: float
    blank: float
    cover: npt.NDArray[np.float32] | None = None


def mask_faces(planes: Sequence[Plane], boxes: npt.NDArray[np.float32], style: MaskStyle) -> None:
    """Mask faces in an image, in place.

    Args:
        planes: The channels of the image.
        boxes: (N, 4), x1 y1 x2 y2 in pixels of the image; they may reach beyond it. What counts is 0.001 pixels, as results are
            written, so that boxes written and read again mask the same pixels.
        style: How.
    """
    grids = [(plane.step_x, plane.step_y, *plane.values.shape) for plane in planes]
    middles = {grid: _Middles.of(*grid) for grid in grids}
    most = _CELLS + 1 - style.strength
    for box in boxes.tolist():
        x1, y1, x2, y2 = (round(side, 3) for side in box)
        half_x = (x2 - x1) / 2 * style.enlarge + _MARGIN
        half_y = (y2 - y1) / 2 * style.enlarge + _MARGIN
        centre = ((x1 + x2) / 2, (y1 + y2) / 2)
        across, down = (int(min(max(2 * half // _MIN_CELL, 1), most)) for half in (half_x, half_y))
        areas = {grid: _Area.of(all_, centre, (half_x, half_y), style.shape) for grid, all_ in middles.items()}
        for plane, grid in zip(planes, grids, strict=True):
            area = areas[grid]
            if area is not None:
                _mask_one(plane, area, (across, down), style)


@dataclass(frozen=True)
class _Middles:
    """The middles of the values of planes of one size.

    Args:
        x: Of each column, in values from the left.
        y: Of each row, in values from the top.
        step_x: Pixels of the image per value, across.
        step_y: The same, down.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    step_x: float
    step_y: float

    @classmethod
    def of(cls, step_x: float, step_y: float, height: int, width: int) -> "_Middles":
        return cls(np.arange(0.5, width), np.arange(0.5, height), step_x, step_y)


@dataclass(frozen=True, slots=True)
class _Area:
    """The part of a plane that a mask changes.

    Args:
        rows: Of the plane.
        columns: Of the plane.
        inside: Which values the mask covers; None for all.
        place: The part of a cover picture that lies over it, left top right bottom, relative to its sides.
    """

    rows: slice
    columns: slice
    inside: npt.NDArray[np.bool_] | None
    place: tuple[float, float, float, float]

    @classmethod
    def of(cls, middles: _Middles, centre: tuple[float, float], half: tuple[float, float], shape: str) -> "_Area | None":
        """The area around a centre, both in pixels of the image; None where that is beyond the plane."""
        x, y = centre[0] / middles.step_x, centre[1] / middles.step_y
        # Half a value more, so that those only partly within are masked too.
        half_x, half_y = half[0] / middles.step_x + 0.5, half[1] / middles.step_y + 0.5
        left, right = max(0, math.floor(x - half_x)), min(len(middles.x), math.ceil(x + half_x))
        top, bottom = max(0, math.floor(y - half_y)), min(len(middles.y), math.ceil(y + half_y))
        if left >= right or top >= bottom:
            return None
        inside = None
        if shape == "ellipse":
            across = (middles.x[left:right] - x) / half_x
            down = (middles.y[top:bottom] - y) / half_y
            inside = across**2 + (down**2)[:, None] <= 1
        place = (
            (left - x + half_x) / half_x / 2,
            (top - y + half_y) / half_y / 2,
            *((right - x + half_x) / half_x / 2, (bottom - y + half_y) / half_y / 2),
        )
        return cls(slice(top, bottom), slice(left, right), inside, place)


def _mask_one(plane: Plane, area: _Area, cells: tuple[int, int], style: MaskStyle) -> None:
    values = plane.values[area.rows, area.columns]
    if style.method == "solid":
        filled = np.full(values.shape, plane.blank, np.float64)
    else:
        filled = _averaged(values, cells, smooth=style.method == "blur")
    if plane.cover is not None:
        filled = _covered(filled, plane.cover, area.place)
    if values.dtype.kind in "iu":
        np.rint(filled, out=filled)
    np.copyto(values, filled, casting="unsafe", where=True if area.inside is None else area.inside)


def _covered(
    filled: npt.NDArray[np.float64], cover: npt.NDArray[np.float32], place: tuple[float, float, float, float]
) -> npt.NDArray[np.float64]:
    """The area HxW with a picture over it. place: the part of the picture that covers it, left top right bottom, relative to its
    sides."""
    height, width = cover.shape[:2]
    box = tuple(float(np.clip(share, 0, 1)) * side for share, side in zip(place, (width, height) * 2, strict=True))
    values, opacity = cover[..., 0], cover[..., 1]
    size = filled.shape[1], filled.shape[0]
    drawn, opaque = (
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize(size, Image.Resampling.BILINEAR, box), np.float64)
        for channel in (values * opacity, opacity)
    )
    return filled * (1 - opaque) + drawn


def _averaged(area: npt.NDArray[np.generic], cells: tuple[int, ...], smooth: bool) -> npt.NDArray[np.float64]:
    """The area HxW from its averages over at most `cells` (across, down), as blocks or blurred."""
    height, width = area.shape
    columns, rows = min(cells[0], width), min(cells[1], height)
    means = _means(height, rows) @ area.astype(np.float64) @ _means(width, columns).T
    return np.asarray(_spread(height, rows, smooth) @ means @ _spread(width, columns, smooth).T)


@lru_cache(maxsize=2048)
def _means(size: int, cells: int) -> npt.NDArray[np.float64]:
    """The weights (cells, size) with which each of `size` values counts in the mean of each cell."""
    of_cell = np.arange(size) * cells // size == np.arange(cells)[:, None]
    return np.asarray(of_cell / of_cell.sum(axis=1, keepdims=True))


@lru_cache(maxsize=2048)
def _spread(size: int, cells: int, smooth: bool) -> npt.NDArray[np.float64]:
    """The weights (size, cells) with which each cell counts at each of `size` places."""
    if not smooth:
        return np.asarray(np.arange(size)[:, None] * cells // size == np.arange(cells), np.float64)
    places = (np.arange(size) + 0.5) / size * cells
    weights = np.exp(-0.5 * ((places[:, None] - np.arange(cells) - 0.5) / _BLUR) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
