"""Training crops: pieces of real photos, rescaled so that chosen faces get the wanted sizes, laid out and degraded.

Crop number i is a function of (seed, i) alone, so a resumed run sees just the crops that an unbroken one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.data.cache import ImageCache

Pixels = npt.NDArray[np.uint8]

MASK_STRIDE = 4
_PADDING = 114
_DOWNSCALING = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_UPSCALING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class CropSettings:
    """What a training crop looks like.

    size: side in pixels. grids: cells a side of the layouts (1: one photo, 2: mosaic of 2x2, ...) and grid_shares: how
    often each is drawn. small_share: how often the chosen face of a cell gets a height from small_heights, else from
    all_heights (both log-uniform, in pixels). scales: bounds of the resulting scale factor. least_height: smaller faces
    are neither faces nor background. least_visible: a face cut more than that is ignored too.
    """

    size: int = 448
    grids: tuple[int, ...] = (1, 2, 4)
    grid_shares: tuple[float, ...] = (0.55, 0.33, 0.12)
    small_share: float = 0.45
    small_heights: tuple[float, float] = (5.0, 32.0)
    all_heights: tuple[float, float] = (8.0, 400.0)
    scales: tuple[float, float] = (0.12, 2.0)
    least_height: float = 4.0
    least_visible: float = 0.4


@dataclass(frozen=True)
class Crop:
    """One training crop.

    pixels: (S, S, 3) uint8 RGB. boxes: (N, 4) float32 xyxy of the faces to find. ignored: (S / 4, S / 4) bool, where no
    loss is taken unless a face is assigned there.
    """

    pixels: Pixels
    boxes: npt.NDArray[np.float32]
    ignored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CropBatch:
    """B crops: pixels (B, S, S, 3) uint8 RGB; boxes (M, 4) xyxy; owners (M,) index of each box's crop; ignored
    (B, S / 4, S / 4) bool."""

    pixels: torch.Tensor
    boxes: torch.Tensor
    owners: torch.Tensor
    ignored: torch.Tensor

    @staticmethod
    def of(crops: Sequence[Crop]) -> "CropBatch":
        """Stack crops; a collate function."""
        counts = torch.tensor([len(crop.boxes) for crop in crops])
        return CropBatch(
            torch.from_numpy(np.stack([crop.pixels for crop in crops])),
            torch.from_numpy(np.concatenate([crop.boxes for crop in crops])),
            torch.repeat_interleave(torch.arange(len(crops)), counts),
            torch.from_numpy(np.stack([crop.ignored for crop in crops])),
        )


class CropDataset(torch.utils.data.Dataset[Crop]):
    """Crops `first` to `first + length` of the endless stream that `seed` defines.

    images, cache: photos and their pixels, in the same order. weights: (len(images),) how often each is drawn.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        cache: ImageCache,
        weights: npt.NDArray[np.float64],
        settings: CropSettings,
        seed: int,
        first: int,
        length: int,
    ) -> None:
        self.images, self.cache, self.settings = images, cache, settings
        self.cumulated = np.cumsum(weights / weights.sum())
        self.seed, self.first, self.length = seed, first, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Crop:
        if index >= self.length:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.first + index))
        settings = self.settings
        grid = int(rng.choice(settings.grids, p=settings.grid_shares))
        side = settings.size // grid
        pixels = np.full((settings.size, settings.size, 3), _PADDING, np.uint8)
        boxes, ignore = [], []
        for row in range(grid):
            for column in range(grid):
                photo = min(int(np.searchsorted(self.cumulated, rng.random())), len(self.images) - 1)
                cell = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
                cell_boxes, cell_ignore = cut_cell(self.cache[photo], self.images[photo], cell, settings, rng)
                boxes.append(cell_boxes + np.array([column * side, row * side] * 2, np.float32))
                ignore.append(cell_ignore)
        all_boxes, all_ignore = np.concatenate(boxes), np.concatenate(ignore)
        return Crop(degrade(pixels, rng), all_boxes[~all_ignore], ignore_mask(all_boxes[all_ignore], settings.size))


def cut_cell(
    photo: Pixels, image: AnnotatedImage, cell: Pixels, settings: CropSettings, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Fill `cell` (h, w, 3) with a rescaled, perhaps mirrored piece of `photo`, around a chosen face where it has one.

    Returns the boxes (N, 4) that lie in the cell, clipped to it, and which of them (N,) are to be ignored.
    """
    height, width = cell.shape[:2]
    faces = np.flatnonzero(~image.ignore)
    if len(faces):
        left, top, right, bottom = image.boxes[rng.choice(faces)]
        small = rng.random() < settings.small_share
        wanted = _log_uniform(rng, settings.small_heights if small else settings.all_heights)
        scale = float(np.clip(min(wanted, 0.9 * height) / max(bottom - top, 1.0), *settings.scales))
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    else:
        scale = _log_uniform(rng, (0.25, 1.0))
        centre_x, centre_y = rng.random() * image.width, rng.random() * image.height

    x0, out_x, out_w = _place(image.width, centre_x, width, scale, rng)
    y0, out_y, out_h = _place(image.height, centre_y, height, scale, rng)
    source = photo[
        round(y0) : max(round(y0 + out_h / scale), round(y0) + 1),
        round(x0) : max(round(x0 + out_w / scale), round(x0) + 1),
    ]
    kernel = int(rng.choice(_DOWNSCALING if scale < 1 else _UPSCALING))
    cell[out_y : out_y + out_h, out_x : out_x + out_w] = cv2.resize(source, (out_w, out_h), interpolation=kernel)

    factors = np.array([out_w / source.shape[1], out_h / source.shape[0]] * 2, np.float32)
    boxes = (image.boxes - np.array([round(x0), round(y0)] * 2, np.float32)) * factors
    boxes += np.array([out_x, out_y] * 2, np.float32)
    if rng.random() < 0.5:
        cell[:] = cell[:, ::-1].copy()
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0] * 2, np.float32)

    clipped = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    inside = (sides > 0).all(axis=1)
    visible = sides.prod(axis=1) / np.maximum(full.prod(axis=1), 1e-6)
    ignore = image.ignore | (visible < settings.least_visible) | (sides[:, 1] < settings.least_height)
    return clipped[inside].astype(np.float32), ignore[inside]


def _place(length: int, centre: float, room: int, scale: float, rng: np.random.Generator) -> tuple[float, int, int]:
    """Along one axis: where the piece starts in the photo, where in the cell it goes, and its length there."""
    extent = room / scale
    if extent >= length:
        out = max(min(round(length * scale), room), 1)
        return 0.0, int(rng.integers(0, room - out + 1)), out
    start = centre - extent * rng.uniform(0.15, 0.85)
    return float(np.clip(start, 0, length - extent)), 0, room


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def ignore_mask(boxes: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.bool_]:
    """Paint boxes (N, 4) onto a grid of one cell for 4x4 pixels of a crop of `size`: (size / 4, size / 4) bool."""
    mask = np.zeros((size // MASK_STRIDE,) * 2, np.bool_)
    starts = np.floor(boxes[:, :2] / MASK_STRIDE).astype(int)
    ends = np.ceil(boxes[:, 2:] / MASK_STRIDE).astype(int)
    for (x0, y0), (x1, y1) in zip(starts.tolist(), ends.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return mask


def degrade(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change light and colour, blur, add noise and compress, each now and then. (H, W, 3) uint8 RGB in and out."""
    if rng.random() < 0.6:
        levels = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.5, 0.5))
        levels = (levels - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.15, 0.15)
        tint = rng.uniform(0.9, 1.1, 3) if rng.random() < 0.5 else np.ones(3)
        table = np.clip(levels[:, None] * tint * 255, 0, 255).astype(np.uint8)
        pixels = np.asarray(cv2.LUT(pixels, table.reshape(1, 256, 3)), np.uint8)
    if rng.random() < 0.12:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        pixels = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if rng.random() < 0.15:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.4)), np.uint8)
    if rng.random() < 0.12:
        strength = rng.uniform(2, 14)
        noise = rng.standard_normal(pixels.shape, np.float32) * strength
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = int(rng.integers(25, 90))
        coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(pixels)
