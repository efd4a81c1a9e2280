"""The photos of a training, read and decoded; one photo that cannot be is told, and the others are used."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError
from tinyfaces.training.cache import ImageCache, open_cache
from tinyfaces.training.settings import Source, read_sources


def open_sources(
    sources: Sequence[Source], folder: Path, tell: Callable[[str], None], relabelled: str = ""
) -> tuple[list[AnnotatedImage], np.ndarray, ImageCache]:
    """All photos of the sources that can be read.

    Args:
        sources: Where the photos and their annotations lie.
        folder: For the cache.
        tell: Called with a line about each photo that is left out.
        relabelled: See `read_sources`.

    Returns:
        The photos, how often each is drawn (N,), and the cache of their pixels.

    Raises:
        AnnotationError: Annotations cannot be read, or none of the photos can.
    """
    left_out: list[str] = []
    images, weights = read_sources(sources, relabelled, left_out.append)
    problems: dict[Path, str] = {}
    cache = open_cache(images, folder, problems=problems)
    left_out += [f"{problem}; left out" for problem in problems.values()]
    for line in left_out:
        tell(line)
    kept = np.array([number for number, image in enumerate(images) if image.path not in problems], np.int64)
    if left_out and not len(kept):
        raise AnnotationError(f"{sources[0].images}: none of the photos can be read")
    return [images[number] for number in kept], weights[kept], cache.of(kept)
