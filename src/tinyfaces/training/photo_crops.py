"""Training crops: pieces of real photos, rescaled so that chosen faces get the wanted sizes, laid out and degraded.

Crop number i is a function of (seed, i) alone, so a resumed run sees just the crops that an unbroken one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import areas, clip, mirror

Pixels = npt.NDArray[np.uint8]

MASK_STRIDE = 4
_PADDING = 114
_SCALES_ANYWHERE = (0.25, 1.0)
_LETTERS = list("aabcdeeeeefghijklmnooopqrstuvwxyzACDGOQOBRS0689@&%")
_LETTER_SIZES = (8.0, 60.0)
_DOWNSCALING = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_UPSCALING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_LIGHT, _COLOURED_LIGHT = (0.9, 1.1), (0.3, 1.3)  # factors of the channels: daylight and lamps; stages, fires, night


class PhotoPixels(Protocol):
    """Pixels of photos by number, each HxWx3 uint8 RGB: an `ImageCache`, or what holds several."""

    def __getitem__(self, index: int) -> Pixels: ...


class Part(NamedTuple):
    """A rectangle, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class CropSettings:
    """What a training crop looks like.

    Attributes:
        size: side in pixels.
        grids: cells a side of the layouts (1: one photo, 2: mosaic of 2x2, ...). grid_shares: how often each is drawn.
        small_share: how often the chosen face of a cell gets a height from `small_heights`, else from `all_heights`.
        small_heights: bounds in pixels, log-uniform. all_heights: likewise.
        scales: bounds of the resulting scale factor.
        anywhere_share: how often a cell shows any place of its photo at a scale of 0.25 to 1, as where no face is known, in place
            of a chosen face.
        negative_share: how often a cell of a photo that lists hard negatives is laid around one of them, at a scale from
            `own_scales`.
        own_scale_share: how often any other cell has a scale from `own_scales`, whatever its face is to become.
        own_scales: bounds of scale factors near the photo's own size, log-uniform.
        min_height: smaller faces, in pixels, are neither faces nor background.
        min_piece: what a small photo leaves empty of a cell is filled with others, if its sides have so many pixels.
        min_visible: a face of which a smaller share is left is ignored too.
        turned_share: how often a piece is turned by up to `max_turned` degrees. lying_share: how often by 90.
        text_share: how often lines of letters, which detectors like to take for faces, are written between the faces of a crop.
    """

    size: int = 448
    grids: tuple[int, ...] = (1, 2, 4)
    grid_shares: tuple[float, ...] = (0.55, 0.33, 0.12)
    small_share: float = 0.45
    small_heights: tuple[float, float] = (4.5, 32.0)
    all_heights: tuple[float, float] = (8.0, 400.0)
    scales: tuple[float, float] = (0.12, 2.0)
    anywhere_share: float = 0.0
    negative_share: float = 0.0
    own_scale_share: float = 0.0
    own_scales: tuple[float, float] = (0.7, 1.35)
    min_height: float = 4.0
    min_piece: int = 64
    min_visible: float = 0.4
    turned_share: float = 0.12
    max_turned: float = 30.0
    lying_share: float = 0.03
    text_share: float = 0.2

    def check(self, name: str) -> None:
        """Raise ValueError, with one line that begins with `name`, where such crops can't be laid out."""
        if self.size % 32 or any(self.size % (4 * grid) for grid in self.grids):
            raise ValueError(f"{name}.size is {self.size}, must be a multiple of 32 and of 4 x each grid")
        if len(self.grids) != len(self.grid_shares) or abs(sum(self.grid_shares) - 1) > 1e-6:
            raise ValueError(f"{name}.grid_shares must be one for each of grids, and 1 together")


@dataclass(frozen=True)
class Crop:
    """One training crop.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy of the faces to find.
        ignored: (S / 4, S / 4) bool, where no loss is taken unless a face is assigned there.
    """

    pixels: Pixels
    boxes: npt.NDArray[np.float32]
    ignored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CropBatch:
    """B crops.

    Attributes:
        pixels: (B, S, S, 3) uint8 RGB.
        boxes: (M, 4) float32 xyxy in pixels, of all crops.
        owners: (M,) index of each box's crop.
        ignored: (B, S / 4, S / 4) bool.
    """

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

    def mirrored(self) -> "CropBatch":
        """All crops with left and right exchanged."""
        left, top, right, bottom = self.boxes.unbind(1)
        width = self.pixels.shape[2]
        boxes = torch.stack([width - right, top, width - left, bottom], 1)
        return CropBatch(self.pixels.flip(2), boxes, self.owners, self.ignored.flip(2))

    def to(self, device: torch.device) -> "CropBatch":
        """The same crops on another device; from pinned memory without waiting for the copy."""
        return CropBatch(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()))

    def pin_memory(self) -> "CropBatch":
        """The same crops where a GPU can fetch them by itself; what torch's DataLoader asks for."""
        return CropBatch(*(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.pixels, self.boxes, self.owners, self.ignored


class CropDataset(torch.utils.data.Dataset[Crop]):
    """Crops `first` to `first + length` of the endless stream that `seed` defines."""

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        cache: PhotoPixels,
        weights: npt.NDArray[np.float64],
        settings: CropSettings,
        seed: int,
        first: int,
        length: int,
    ) -> None:
        """
        Args:
            images: photos. cache: their pixels, in the same order.
            weights: (len(images),) how often each is drawn.
            settings: what crops look like.
            seed: of the stream.
            first: number of the first crop. length: how many there are.
        """
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
        empty = [Part(column * side, row * side, side, side) for row in range(grid) for column in range(grid)]
        while empty:
            part = empty.pop()
            photo = min(int(np.searchsorted(self.cumulated, rng.random())), len(self.images) - 1)
            cell = pixels[part.y : part.y + part.height, part.x : part.x + part.width]
            cell_boxes, cell_ignore, used = cut_cell(self.cache[photo], self.images[photo], cell, settings, rng)
            boxes.append(cell_boxes + np.array([part.x, part.y] * 2, np.float32))
            ignore.append(cell_ignore)
            empty += left_empty(part, used, settings.min_piece)
        all_boxes, all_ignore = np.concatenate(boxes), np.concatenate(ignore)
        if rng.random() < settings.text_share:
            write_lines(pixels, all_boxes, rng)
        return Crop(degrade(pixels, rng), all_boxes[~all_ignore], ignore_mask(all_boxes[all_ignore], settings.size))


def cut_cell(
    photo: Pixels, image: AnnotatedImage, cell: Pixels, settings: CropSettings, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], Part]:
    """Fill a cell, or a corner of it, with a rescaled piece of a photo, mirrored or turned now and then, around a face if any.

    Args:
        photo: (H, W, 3) uint8 RGB. image: its annotation.
        cell: (h, w, 3) uint8, the part of a crop that is written into.
        settings: what crops look like.
        rng: decides.

    Returns:
        The boxes (N, 4) that lie in the cell, clipped to the piece; which of them (N,) are to be ignored; and the part of the
        cell that was filled.
    """
    height, width = cell.shape[:2]
    faces = np.flatnonzero(~image.ignore)
    if len(image.hard_negatives) and settings.negative_share and rng.random() < settings.negative_share:
        left, top, right, bottom = image.hard_negatives[rng.integers(len(image.hard_negatives))]
        scale = _log_uniform(rng, settings.own_scales)
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    elif len(faces) and not (settings.anywhere_share and rng.random() < settings.anywhere_share):
        left, top, right, bottom = image.boxes[rng.choice(faces)]
        small = rng.random() < settings.small_share
        wanted = _log_uniform(rng, settings.small_heights if small else settings.all_heights)
        scale = float(np.clip(min(wanted, 0.9 * height, width) / max(bottom - top, 1.0), *settings.scales))
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    else:
        scale = _log_uniform(rng, _SCALES_ANYWHERE)
        centre_x, centre_y = rng.random() * image.width, rng.random() * image.height
    if settings.own_scale_share and rng.random() < settings.own_scale_share:
        scale = _log_uniform(rng, settings.own_scales)

    x0, out_x, out_w = _place(image.width, centre_x, width, scale, rng)
    y0, out_y, out_h = _place(image.height, centre_y, height, scale, rng)
    source = photo[
        round(y0) : max(round(y0 + out_h / scale), round(y0) + 1),
        round(x0) : max(round(x0 + out_w / scale), round(x0) + 1),
    ]
    kernel = int(rng.choice(_DOWNSCALING if scale < 1 else _UPSCALING))
    piece = np.asarray(cv2.resize(source, (out_w, out_h), interpolation=kernel), np.uint8)
    factors = np.array([out_w / source.shape[1], out_h / source.shape[0]] * 2, np.float32)
    boxes = (image.boxes - np.array([round(x0), round(y0)] * 2, np.float32)) * factors
    if rng.random() < 0.5:
        piece = np.asarray(cv2.flip(piece, 1), np.uint8)
        boxes = mirror(boxes, out_w)
    boxes, visible = _cut(boxes, out_w, out_h)
    kind = rng.random()
    if kind < settings.lying_share + settings.turned_share:
        lying = kind < settings.lying_share
        degrees = rng.choice([-90.0, 90.0]) if lying else rng.uniform(-settings.max_turned, settings.max_turned)
        piece, boxes = turned(piece, boxes, float(degrees))
        boxes, still_visible = _cut(boxes, out_w, out_h)
        visible = visible * still_visible
    cell[out_y : out_y + out_h, out_x : out_x + out_w] = piece

    ignore = image.ignore | (visible < settings.min_visible) | (boxes[:, 3] - boxes[:, 1] < settings.min_height)
    placed = (boxes + np.array([out_x, out_y] * 2)).astype(np.float32)
    return placed[visible > 0], ignore[visible > 0], Part(out_x, out_y, out_w, out_h)


def _cut(boxes: npt.NDArray[np.float32], width: int, height: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Boxes (N, 4) clipped to a picture, and the share (N,) of each that is left."""
    cut = clip(boxes, width, height)
    return cut, areas(cut) / np.maximum(areas(boxes), 1e-6)


def _place(length: int, centre: float, room: int, scale: float, rng: np.random.Generator) -> tuple[float, int, int]:
    """Along one axis: where the piece starts in the photo, where in the cell it goes (to one end), and its length there."""
    extent = room / scale
    if extent >= length:
        out = max(min(round(length * scale), room), 1)
        return 0.0, (room - out) * int(rng.integers(0, 2)), out
    start = centre - extent * rng.uniform(0.15, 0.85)
    return float(np.clip(start, 0, length - extent)), 0, room


def left_empty(cell: Part, used: Part, least: int) -> list[Part]:
    """What of a cell, in the pixels of a crop, is not in its part `used`, which lies in a corner: up to two parts, without those
    that have a side below `least`."""
    aside = Part(cell.x + (0 if used.x else used.width), cell.y, cell.width - used.width, cell.height)
    above = Part(cell.x + used.x, cell.y + (0 if used.y else used.height), used.width, cell.height - used.height)
    return [part for part in (aside, above) if min(part.width, part.height) >= least]


def turned(piece: Pixels, boxes: npt.NDArray[np.float32], degrees: float) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """A picture (H, W, 3), turned anticlockwise around its middle, and the boxes (N, 4) of its faces then: of the ellipses that
    filled the boxes before."""
    height, width = piece.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    picture = np.asarray(cv2.warpAffine(piece, matrix, (width, height), borderValue=(_PADDING,) * 3), np.uint8)
    cosine, sine = matrix[0, :2]
    x, y = ((boxes[:, :2] + boxes[:, 2:] - np.array([width, height])) / 2).T
    middle = np.stack([x * cosine + y * sine + width / 2, y * cosine - x * sine + height / 2], 1)
    across, down = ((boxes[:, 2:] - boxes[:, :2]) / 2).T
    half = np.stack([np.hypot(across * cosine, down * sine), np.hypot(across * sine, down * cosine)], 1)
    return picture, np.concatenate([middle - half, middle + half], 1).astype(np.float32)


def write_lines(pixels: Pixels, boxes: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Write some lines of letters into `pixels` (H, W, 3), on a plain ground or on the picture, where no box (N, 4) is."""
    height, width = pixels.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        font = _font(round(_log_uniform(rng, _LETTER_SIZES)))
        words = ["".join(rng.choice(_LETTERS, rng.integers(1, 10))) for _ in range(rng.integers(1, 5))]
        text = "\n".join(" ".join(rng.permutation(words)) for _ in range(rng.integers(1, 4)))
        _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((4, 4), text, font=font)
        size = np.array([min(right + 4, width), min(bottom + 4, height)]).astype(int)
        start = rng.integers(0, np.array([width, height]) - size + 1)
        end = start + size
        touched = (boxes[:, :2] < end).all(axis=1) & (boxes[:, 2:] > start).all(axis=1)
        if touched.any():
            continue
        part = pixels[start[1] : end[1], start[0] : end[0]]
        picture = Image.fromarray(part)
        draw = ImageDraw.Draw(picture)
        ground, ink = rng.integers(0, 256, (2, 3))
        if rng.random() < 0.5:
            ground = np.full(3, 255) if rng.random() < 0.5 else ground
            ink = ink if abs(int(ink.sum()) - int(ground.sum())) > 200 else 255 - ground
            draw.rectangle((0, 0, *size.tolist()), fill=tuple(ground.tolist()))
        draw.multiline_text((4, 4), text, fill=tuple(ink.tolist()), font=font)
        part[:] = np.asarray(picture)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


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
        kind = rng.random()
        tint = rng.uniform(*(_COLOURED_LIGHT if kind < 0.15 else _LIGHT), 3) if kind < 0.6 else np.ones(3)
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
        pixels = compressed(pixels, quality)
    return np.ascontiguousarray(pixels)


def compressed(pixels: Pixels, quality: int) -> Pixels:
    """(H, W, 3) uint8 RGB after JPEG compression of the given quality, 0 to 100."""
    # OpenCV codes BGR. In RGB order blue would lose as little as red should: JPEG's luminance weighs them differently.
    coded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
