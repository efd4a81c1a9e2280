"""Packs: labelled photos in archives of some megabytes, for training on a machine that takes only so much at a time.

    tinyfaces train pack configs/packs.toml packs --megabytes 45

writes packs/00.zip, 01.zip, ... Each holds photos as AVIF and annotations.json.gz, a COCO file of just those photos, so that
any number of packs is a training set. Photos of all sources are spread evenly over the packs: a few are a sample of all.

A pack is prepared once (unpacked beside itself, its photos decoded into a cache) and then read; `PackLibrary` takes in packs
that become ready while it is in use.
"""

import collections
import gzip
import hashlib
import io
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError, Tell, dismiss_doubtful, read_coco
from tinyfaces.detection.images import ImageError, read_image
from tinyfaces.parsing.wider_boxes import MIDDLE_OF_PIXEL
from tinyfaces.training.cache import ImageCache, open_cache, problem_with
from tinyfaces.training.settings import drawn_first
from tinyfaces.training.worker_pool import map_in_processes

ANNOTATIONS = "annotations.json.gz"
PACK = "pack "  # before its name, in what a checkpoint remembers
_SEED = 7
_SPEED = 9  # of the AVIF encoder: twice as fast as 8 for 5% more bytes
_SLACK = 1.1  # a photo is left as it is where its longer side exceeds the wanted one by no more than this
_ENTRY_BYTES, _BOX_BYTES = 300, 60  # about what a photo and a box take in the annotations
_LOOK_EVERY = 5.0  # seconds
_READY = "ready"


@dataclass(frozen=True, kw_only=True)
class PackSource:
    """A set of photos that goes into packs.

    Attributes:
        annotations: a COCO json.gz.
        images: the folder of its photos.
        limit: at most so many photos, those with hard negatives first; all if left out.
        side: photos are reduced to this longer side, in pixels.
        quality: of AVIF, 0 to 100.
        places_of_wider: true where the boxes are WIDER FACE's own, which count places from the middles of pixels.
    """

    annotations: str
    images: str
    limit: int | None = None
    side: int = 1024
    quality: int = 50
    places_of_wider: bool = False


@dataclass(frozen=True)
class PackConfig:
    """What goes into packs: the [[source]] sections of a TOML file."""

    source: tuple[PackSource, ...]


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo as its COCO file has it (the image's entry and its boxes' entries), and the source it is of."""

    image: dict[str, Any]
    boxes: list[dict[str, Any]]
    source: PackSource


@dataclass(frozen=True)
class PackedPhoto:
    """A photo as it goes into a pack: its entries, scaled to the size it has there, and its bytes."""

    image: dict[str, Any]
    boxes: list[dict[str, Any]]
    content: bytes

    @property
    def size(self) -> int:
        """About how many bytes of a pack it takes."""
        return len(self.content) + _ENTRY_BYTES + _BOX_BYTES * len(self.boxes)


def write_packs(
    config: PackConfig, out: Path, megabytes: float, workers: int, tell: Tell = None
) -> Iterator[tuple[Path, list[PackedPhoto]]]:
    """Write all photos of a configuration into OUT/00.zip, 01.zip, ...

    Args:
        config: the sources.
        out: the folder of the packs.
        megabytes: about the most that a pack may take, in 2^20 bytes.
        workers: processes that encode photos.
        tell: called with a line about each photo that cannot be read, and is left out; if None, the first one raises.

    Yields:
        Each pack's path and what is in it, once it is written.

    Raises:
        ValueError: an annotation file cannot be read, or (with `tell`: none) of the photos can.
    """
    out.mkdir(parents=True, exist_ok=True)
    photos = list(spread([chosen_photos(source) for source in config.source]))
    waiting: list[PackedPhoto] = []
    size, number = 0, 0
    for photo in map_in_processes(_pack_or_problem, photos, workers=workers, chunksize=16):
        if isinstance(photo, str):
            if tell is None:
                raise ImageError(photo)
            tell(f"{photo}; left out")
            continue
        if waiting and size + photo.size > megabytes * 2**20:
            yield _written(waiting, out / f"{number:02}.zip")
            number, size, waiting = number + 1, 0, []
        size += photo.size
        waiting.append(photo)
    if waiting:
        yield _written(waiting, out / f"{number:02}.zip")
    elif photos:
        raise ImageError(f"{config.source[0].images}: none of the {len(photos):,} photos can be read")


def _pack_or_problem(photo: LabelledPhoto) -> PackedPhoto | str:
    """The packed photo, or a line about what is wrong with it."""
    try:
        return pack_photo(photo)
    except Exception as error:  # whatever is wrong with one photo, the others are packed
        return problem_with(Path(photo.source.images) / str(photo.image.get("file_name")), error)


def chosen_photos(source: PackSource) -> list[LabelledPhoto]:
    """Photos of a source: all, or `limit` of them, those with hard negatives first and the others by lot."""
    try:
        with gzip.open(source.annotations, "rt") as file:
            coco = json.load(file)
        boxes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
        for box in coco["annotations"]:
            boxes[box["image_id"]].append(box)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise AnnotationError(f"{source.annotations}: cannot be read ({' '.join(str(error).split())})") from None
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{source.annotations}: not a COCO detection file ({type(error).__name__}: {error})") from None
    images = coco["images"]
    images = [images[n] for n in drawn_first([bool(image.get("hard_negatives")) for image in images], source.limit)]
    return [LabelledPhoto(image, boxes[image["id"]], source) for image in images]


def spread(sources: Sequence[Sequence[LabelledPhoto]]) -> Iterator[LabelledPhoto]:
    """All photos of all sources, each source in an order of its own and spread evenly over the whole."""
    shuffled = [[photos[n] for n in np.random.default_rng(_SEED).permutation(len(photos))] for photos in sources]
    places = [((n + 0.5) / len(photos), photo) for photos in shuffled for n, photo in enumerate(photos)]
    yield from (photo for _, photo in sorted(places, key=lambda place: place[0]))


def pack_photo(photo: LabelledPhoto) -> PackedPhoto:
    """The photo as AVIF, reduced where it is too large, its boxes and hard negatives with it.

    An AVIF file that need not be reduced is taken as it is.
    """
    width, height = photo.image["width"], photo.image["height"]
    path = Path(photo.source.images) / photo.image["file_name"]
    longest = max(width, height)
    scale = 1.0 if longest <= photo.source.side * _SLACK else photo.source.side / longest
    size = (round(width * scale), round(height * scale))
    if scale == 1.0 and path.suffix == ".avif":
        content = path.read_bytes()
    else:
        picture = Image.fromarray(read_image(path))
        if scale != 1.0:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "AVIF", quality=photo.source.quality, speed=_SPEED, max_threads=1)
        content = buffer.getvalue()
    name = Path(photo.image["file_name"]).with_suffix(".avif").as_posix()
    image = {"file_name": name, "width": size[0], "height": size[1]}
    if "hard_negatives" in photo.image:
        image["hard_negatives"] = [[*(round(v * scale, 1) for v in box[:4]), *box[4:]] for box in photo.image["hard_negatives"]]
    shift = MIDDLE_OF_PIXEL if photo.source.places_of_wider else 0.0
    shifts = (shift, shift, 0.0, 0.0)
    boxes = [
        {
            "bbox": [round((value + shift) * scale, 2) for value, shift in zip(box["bbox"], shifts, strict=True)],
            **{key: box[key] for key in ("iscrowd", "ignore", "score") if key in box},
        }
        for box in photo.boxes
    ]
    return PackedPhoto(image, boxes, content)


def write_pack(photos: Iterable[PackedPhoto], path: Path) -> None:
    """Write one archive, whole or not at all: the photos and a COCO file of them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    contents: dict[str, bytes] = {}
    for number, photo in enumerate(photos, 1):
        images.append({**photo.image, "id": number})
        for box in photo.boxes:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, **box})
        contents[photo.image["file_name"]] = photo.content
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(ANNOTATIONS, gzip.compress(json.dumps(coco, separators=(",", ":")).encode()))
        for name, content in contents.items():
            archive.writestr(name, content)
    partial.replace(path)


def _written(photos: list[PackedPhoto], path: Path) -> tuple[Path, list[PackedPhoto]]:
    write_pack(photos, path)
    return path, photos


def prepare_pack(pack: Path, cache: Path, tell: Tell = None) -> Path:
    """Unpack a pack beside itself and decode its photos into the folder `cache`, unless that was done; gives its folder.

    tell: called with a line about each photo that cannot be read, and is left out; if None, the first one raises.

    Raises:
        ValueError: it is no pack, or a photo in it cannot be read.
    """
    folder = pack.with_suffix("")
    if not folder.exists():
        partial = folder.with_suffix(f".{os.getpid()}")
        try:
            with zipfile.ZipFile(pack) as archive:
                archive.extractall(partial)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{pack}: cannot be unpacked ({' '.join(str(error).split())})") from None
        try:
            partial.replace(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(partial)
    problems: dict[Path, str] = {}
    open_cache(read_coco(folder / ANNOTATIONS, folder, tell), cache, problems=None if tell is None else problems)
    for problem in problems.values():
        assert tell is not None
        tell(f"{problem}; left out")
    (folder / _READY).touch()
    return folder


def _told_before(line: str) -> None:
    """Whoever prepared the pack was told."""


class PackLibrary:
    """The photos of all packs that are ready so far; by number it gives a photo's pixels, HxWx3 uint8 RGB.

    Attributes:
        images: their annotations.
        weights: (len(images),) float64, how often each is drawn: its set's share, spread over the set's photos. A photo's set is
            the folder that it lies in.
    """

    def __init__(
        self, packs: Path, cache: Path, shares: Mapping[str, float], doubt: Mapping[str, float], doubt_from: float
    ) -> None:
        """
        Args:
            packs: the folder of the packs. cache: that of the decoded photos.
            shares: how often each set is drawn, before normalising.
            doubt: of a set, the score below which its ignored boxes are background. doubt_from: height of such a box, in pixels;
                lower ones stay ignored.
        """
        self.packs, self.cache = packs, cache
        self.shares, self.doubt, self.doubt_from = shares, doubt, doubt_from
        self.known: set[Path] = set()
        self.images: list[AnnotatedImage] = []
        self.weights: npt.NDArray[np.float64] = np.empty(0)
        self._places: list[tuple[ImageCache, int]] = []
        self._look_again = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        cache, place = self._places[index]
        return cache[place]

    def take_in_new(self, at_once: bool = False) -> bool:
        """Take in packs that have become ready, and say whether there were any; unless `at_once`, looks every 5 seconds only.

        Raises:
            ValueError: a photo lies in a set that has no share.
        """
        if not at_once and time.monotonic() < self._look_again:
            return False
        self._look_again = time.monotonic() + _LOOK_EVERY
        new = sorted(set(self.packs.glob(f"*/{_READY}")) - self.known)
        for ready in new:
            listed = read_coco(ready.parent / ANNOTATIONS, ready.parent, _told_before)
            problems: dict[Path, str] = {}
            cache = open_cache(listed, self.cache, problems=problems)
            kept = [place for place, image in enumerate(listed) if image.path not in problems]
            self.images += [self._without_doubtful(listed[place]) for place in kept]
            self._places += [(cache, place) for place in kept]
            self.known.add(ready)
        if new:
            sets = [image.path.parent.name for image in self.images]
            counts = collections.Counter(sets)
            if unknown := counts.keys() - self.shares.keys():
                raise ValueError(f"no share is given for {', '.join(sorted(unknown))}")
            self.weights = np.array([self.shares[name] / counts[name] for name in sets])
        return bool(new)

    def identity(self) -> dict[str, str]:
        """Of each pack that is ready, by "pack NAME", a digest of its annotations."""
        self.take_in_new(at_once=True)
        return {
            f"{PACK}{ready.parent.name}": hashlib.sha256((ready.parent / ANNOTATIONS).read_bytes()).hexdigest()[:8]
            for ready in sorted(self.known)
        }

    def _without_doubtful(self, image: AnnotatedImage) -> AnnotatedImage:
        """The image without the ignored boxes that become background; hard negatives stay."""
        return dismiss_doubtful(image, self.doubt.get(image.path.parent.name, 0.0), self.doubt_from)
