"""How a sharp photo becomes one whose faces look like real tiny ones: out of focus, shaken, reduced, noisy, compressed.

The order of these varies, as it does between camera, editor and web page (the blind degradation of Zhang et al., ICCV 2021).
Light and colour stay as they are: a generator is to restore what was lost, not to guess a tint.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from tinyfaces.training.photo_crops import Pixels, compressed

Step = Callable[[Pixels, float], Pixels]

_KERNELS = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_BLURRED, _SHAKEN, _NOISY, _COMPRESSED = 0.7, 0.15, 0.5, 0.6
"""How often each happens."""
_BLUR = (0.25, 1.3)
"""Standard deviation in pixels of the reduced photo, log-uniform; the narrow axis of an oval one has at least 0.6 of it."""
_SHAKE = (1.5, 3.5)
"""Length in pixels of the reduced photo."""
_NOISE = (1.0, 9.0)
_QUALITY = (30, 95)
_LARGEST_KERNEL = 31


def shrink(photo: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Reduce a photo (H, W, 3) uint8 RGB to `size` (width, height), degraded at random."""
    steps: list[Step] = []
    if rng.random() < _BLURRED:
        steps.append(_blur(rng))
    if rng.random() < _SHAKEN:
        steps.append(_shake(rng))
    if rng.random() < _NOISY:
        steps.append(_noise(rng))
    if rng.random() < _COMPRESSED:
        steps.append(_compress(rng))
    order = rng.permutation(len(steps))
    first = int(rng.integers(0, len(steps) + 1))
    ratio = math.sqrt(photo.shape[0] * photo.shape[1] / (size[0] * size[1]))
    for place in order[:first]:
        photo = steps[place](photo, ratio)
    photo = np.asarray(cv2.resize(photo, size, interpolation=int(rng.choice(_KERNELS))), np.uint8)
    for place in order[first:]:
        photo = steps[place](photo, 1.0)
    return np.ascontiguousarray(photo)


def _blur(rng: np.random.Generator) -> Step:
    sigma = float(np.exp(rng.uniform(*np.log(_BLUR))))
    narrow, turn = rng.uniform(0.6, 1.0), rng.uniform(0, math.pi)

    def step(photo: Pixels, ratio: float) -> Pixels:
        along, across = sigma * ratio, sigma * ratio * narrow
        reach = min(math.ceil(2.5 * along), _LARGEST_KERNEL // 2)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        kernel = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
        return np.asarray(cv2.filter2D(photo, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.uint8)

    return step


def _shake(rng: np.random.Generator) -> Step:
    length, turn = rng.uniform(*_SHAKE), rng.uniform(0, math.pi)

    def step(photo: Pixels, ratio: float) -> Pixels:
        reach = min(math.ceil(length * ratio / 2), _LARGEST_KERNEL // 2)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        kernel = (np.abs(u) <= length * ratio / 2) * np.clip(1 - np.abs(v), 0, 1)
        return np.asarray(cv2.filter2D(photo, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.uint8)

    return step


def _noise(rng: np.random.Generator) -> Step:
    strength, of_light, grey = rng.uniform(*_NOISE), rng.uniform(0, 1), rng.random() < 0.3

    def step(photo: Pixels, ratio: float) -> Pixels:
        # Reducing averages noise away; what is wanted is its strength afterwards.
        shape = (*photo.shape[:2], 1) if grey else photo.shape
        deviation = strength * ratio * ((1 - of_light) + of_light * np.sqrt(photo.astype(np.float32) / 128))
        noisy = photo + deviation * rng.standard_normal(shape, np.float32)
        return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)

    return step


def _compress(rng: np.random.Generator) -> Step:
    quality = int(rng.integers(*_QUALITY))

    def step(photo: Pixels, ratio: float) -> Pixels:
        return compressed(photo, quality)

    return step
