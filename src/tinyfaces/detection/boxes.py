"""Boxes: areas, overlaps, non-maximum suppression, tiles. Boxes are (N, 4), x1 y1 x2 y2."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_PAIRS_AT_ONCE = 1_000_000  # bounds memory
_WIDEST_SEARCH = 1e6  # in sides of a box: everywhere


def areas(boxes: Boxes) -> Floats:
    """Areas (N,) of boxes (N, 4); 0 where a side is negative."""
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def longer_sides(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Longer sides (N,) of boxes (N, 4)."""
    sides: npt.NDArray[np.float32] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    return sides


def intersection_matrix(boxes: Boxes, others: Boxes) -> Floats:
    """Intersection areas (N, M) of boxes (N, 4) with others (M, 4)."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T[:, :, None]
    left, top, right, bottom = others.astype(np.float64).T
    across = np.minimum(x2, right)
    across -= np.maximum(x1, left)
    down = np.minimum(y2, bottom)
    down -= np.maximum(y1, top)
    shared: Floats = np.maximum(across, 0, out=across)
    shared *= np.maximum(down, 0, out=down)
    return shared


def iou_matrix(boxes: Boxes, others: Boxes) -> Floats:
    """Intersection over union (N, M) of boxes (N, 4) with others (M, 4); 0 where both are empty."""
    shared = intersection_matrix(boxes, others)
    union = areas(boxes)[:, None] + areas(others) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def clip(boxes: npt.NDArray[np.float32], width: float, height: float) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) clipped to an image of width x height pixels."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def outside(boxes: Boxes, width: float, height: float) -> npt.NDArray[np.bool_]:
    """Which boxes (N, 4) lie outside an image of width x height pixels altogether: (N,)."""
    x1, y1, x2, y2 = boxes.T
    beyond: npt.NDArray[np.bool_] = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
    return beyond


def mirror(boxes: npt.NDArray[np.float32], width: float) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) of an image of `width` pixels, mirrored left to right."""
    return boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)


def nms(boxes: Boxes, scores: npt.NDArray[np.floating[Any]], overlap: float, groups: npt.ArrayLike | None = None) -> Indices:
    """Greedy non-maximum suppression. It gives what the usual loop gives, but compares only boxes near each other, many at once.

    Args:
        boxes: (N, 4), finite.
        scores: (N,).
        overlap: A box goes when its IoU with a kept one of higher score (or the same score and a lower index) is above this.
        groups: (N,), if boxes of the same group shall not suppress each other.

    Returns:
        Indices of the boxes to keep, highest score first.
    """
    order, later, earlier = _overlapping(boxes, scores, overlap)
    if groups is not None:
        ranked = np.asarray(groups)[order]
        apart = ranked[later] != ranked[earlier]
        later, earlier = later[apart], earlier[apart]
    return order[_survivors(len(boxes), later, earlier)]


@dataclass(frozen=True)
class Voted:
    """What is kept of boxes that vote.

    Args:
        kept: (K,) indices of the boxes that are kept, highest score first.
        boxes: (K, 4) float32, each the mean of a kept box and its voters.
        support: (K,) float64, the sum of the voters' scores.
    """

    kept: Indices
    boxes: npt.NDArray[np.float32]
    support: Floats


def nms_with_voting(boxes: Boxes, scores: npt.NDArray[np.floating[Any]], overlap: float, lowest: float = 0.0) -> Voted:
    """Non-maximum suppression with box voting (Gidaris and Komodakis 2015).

    The boxes whose IoU with a kept one is above `overlap` are its voters, if they score at least `lowest`. The mean of a box and
    its voters, weighted by the squares of their scores, is less noisy than the best of them.
    """
    order, later, earlier = _overlapping(boxes, scores, overlap)
    kept = _survivors(len(boxes), later, earlier)
    ranked, votes = boxes[order].astype(np.float64), scores[order].astype(np.float64)
    to_earlier, to_later = kept[earlier], kept[later]
    receivers = np.concatenate([earlier[to_earlier], later[to_later]])
    givers = np.concatenate([later[to_earlier], earlier[to_later]])
    heard = votes[givers] >= lowest
    receivers, givers = receivers[heard], givers[heard]
    weights = np.maximum(np.square(votes), 1e-12)
    heard_sums = [np.bincount(receivers, weights[givers] * ranked[givers, side], len(votes)) for side in range(4)]
    sums = weights[:, None] * ranked + np.stack(heard_sums, axis=1)
    total = weights + np.bincount(receivers, weights[givers], len(votes))
    support = np.bincount(receivers, votes[givers], len(votes))
    return Voted(order[kept], (sums[kept] / total[kept, None]).astype(np.float32), support[kept].astype(np.float64))


def _overlapping(boxes: Boxes, scores: npt.NDArray[np.floating[Any]], overlap: float) -> tuple[Indices, Indices, Indices]:
    """Ranks by score: indices (N,), highest score first; and all pairs of ranks (later, earlier) whose IoU is above `overlap`."""
    order = np.argsort(-scores, kind="stable")
    # IoU > t bounds the ratio of the sides by t, and with it how far the centres can lie apart, in sides of either box.
    reach = _WIDEST_SEARCH if overlap <= 0 else max(1 - overlap, (1 - overlap) / (2 * overlap))
    return order, *_near_pairs(boxes[order].astype(np.float64), reach, overlap)


def _survivors(count: int, losers: Indices, winners: Indices) -> npt.NDArray[np.bool_]:
    """Which (count,) ranks greedy suppression keeps, given the pairs in which the first goes if the second stays."""
    kept = np.ones(count, np.bool_)
    while len(losers):
        contested = np.zeros(count, np.bool_)
        contested[losers] = True
        lost = losers[~contested[winners]]
        kept[lost] = False
        open_pairs = kept[losers] & kept[winners]
        losers, winners = losers[open_pairs], winners[open_pairs]
    return kept


def _near_pairs(boxes: Floats, reach: float, overlap: float) -> tuple[Indices, Indices]:
    """Index pairs (later, earlier) of boxes (N, 4) whose IoU is above `overlap`, each pair once.

    reach: how far the centre of a box's partner can lie from its own, in sides of the box.
    """
    if len(boxes) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    # Boxes are put in strips by the height of their centre and sorted by x within a strip, all by one number, so that
    # a binary search finds a box's neighbours in a strip. Each box looks to its right and into the strips below it.
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    centres -= centres.min(axis=0)
    extent_x, extent_y = centres.max(axis=0)
    reaches = np.minimum(sides * reach, (sides + sides.max(axis=0)) / 2) * 1.0001 + 1e-3
    strip_height = max(float(reaches[:, 1].mean()), extent_y / (4 * len(boxes)))
    strip = (centres[:, 1] / strip_height).astype(np.int64)
    strip_length = extent_x + reaches[:, 0].max() + 1
    place = strip * strip_length + centres[:, 0]
    sorting = np.argsort(place, kind="stable")
    place, strip, centres, reaches, boxes = (values[sorting] for values in (place, strip, centres, reaches, boxes))

    strips = (np.minimum(centres[:, 1] + reaches[:, 1], extent_y) / strip_height).astype(np.int64) - strip + 1
    seeker = np.repeat(np.arange(len(boxes)), strips)
    down = np.arange(len(seeker)) - np.repeat(np.cumsum(strips) - strips, strips)
    middle = place[seeker] + down * strip_length
    begin = np.where(down == 0, seeker + 1, np.searchsorted(place, middle - reaches[seeker, 0], "left"))
    counts = np.maximum(np.searchsorted(place, middle + reaches[seeker, 0], "right") - begin, 0)

    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    area = areas(boxes)
    middle_y, reach_y = np.ascontiguousarray(centres[:, 1]), np.ascontiguousarray(reaches[:, 1])
    later, earlier = [], []
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        number = counts[start:stop]
        first = np.repeat(seeker[start:stop], number)
        second = np.arange(len(first)) + np.repeat(begin[start:stop] - (ends[start:stop] - number - done), number)
        near = np.abs(middle_y[second] - middle_y[first]) <= reach_y[first]
        first, second = first[near], second[near]
        across = np.minimum(right[first], right[second]) - np.maximum(left[first], left[second])
        down = np.minimum(bottom[first], bottom[second]) - np.maximum(top[first], top[second])
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        # IoU > overlap, without the division
        same = shared * (1 + overlap) > overlap * (area[first] + area[second])
        first, second = sorting[first[same]], sorting[second[same]]
        later.append(np.maximum(first, second))
        earlier.append(np.minimum(first, second))
        start = stop
    return np.concatenate(later), np.concatenate(earlier)


def share_within(boxes: Boxes, hosts: Boxes) -> Floats:
    """How much (N, M) of the area of each box (N, 4) lies within each host (M, 4); 0 for empty boxes."""
    own = areas(boxes)[:, None]
    shared = intersection_matrix(boxes, hosts)
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)


def tiles(width: int, height: int, side: int, overlap: int, multiple: int = 32) -> npt.NDArray[np.int64]:
    """Cover an image with overlapping tiles.

    Args:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        side: Longest side of a tile, in pixels.
        overlap: Pixels that neighbours share at least, so that one of them shows whatever is no larger as a whole.
        multiple: Tiles begin and end on multiples of this, except where they end at the image's border.

    Returns:
        Tiles (T, 4), x1 y1 x2 y2 in whole pixels, row by row.

    Raises:
        ValueError: `overlap` is not less than `side`, or one of them is no multiple of `multiple`.
    """
    if not 0 <= overlap < side or side % multiple or overlap % multiple:
        raise ValueError(f"side and overlap must be multiples of {multiple}, overlap < side. Received: {side}, {overlap}")
    columns, rows = _intervals(width, side, overlap, multiple), _intervals(height, side, overlap, multiple)
    return np.array([(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns], np.int64)


def _intervals(length: int, side: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    number = -(-(length - overlap) // (side - overlap))
    size = -(-(length + (number - 1) * overlap) // number)
    size = -(-size // multiple) * multiple
    return [(start, min(start + size, length)) for start in range(0, length - overlap, size - overlap)]
