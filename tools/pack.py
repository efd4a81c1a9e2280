"""Pack labelled photos into small archives, for training on a machine that takes only so much at a time.

    python tools/pack.py configs/packs.toml packs --megabytes 45

Writes packs/00.zip, 01.zip, ...: each holds photos as AVIF and annotations.json.gz, a COCO file of just those photos, so that
any number of packs is a training set. Photos of all sources are spread evenly over the packs: a few of them are a sample of all.
"""

import argparse
import gzip
import io
import json
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyfaces import read_image

_SEED = 7
_SPEED = 9  # of the AVIF encoder: twice as fast as 8 for 5% more bytes


@dataclass(frozen=True)
class Labelled:
    """A photo of a source as its COCO file has it: the image's entry, its annotations, and how the photo is to be written."""

    image: dict[str, Any]
    boxes: list[dict[str, Any]]
    path: Path
    side: int
    quality: int


@dataclass(frozen=True)
class Packed:
    """A photo as it goes into a pack: its entries, scaled to the size it has there, and its bytes."""

    image: dict[str, Any]
    boxes: list[dict[str, Any]]
    content: bytes


def chosen(source: dict[str, Any]) -> list[Labelled]:
    """Photos of a source: all, or `limit` of them, those with hard negatives first and the others by lot."""
    with gzip.open(source["annotations"], "rt") as file:
        coco = json.load(file)
    boxes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for box in coco["annotations"]:
        boxes[box["image_id"]].append(box)
    images = coco["images"]
    limit = source.get("limit", len(images))
    if limit < len(images):
        lot = np.random.default_rng(_SEED).random(len(images))
        order = sorted(range(len(images)), key=lambda n: lot[n] - bool(images[n].get("hard_negatives")))
        images = [images[n] for n in sorted(order[:limit])]
    folder = Path(source["images"])
    return [
        Labelled(image, boxes[image["id"]], folder / image["file_name"], source.get("side", 1024), source.get("quality", 50))
        for image in images
    ]


def packed(photo: Labelled) -> Packed:
    """The photo as AVIF, reduced where a side is longer than `side` + 10%; an AVIF that needs no reducing is taken as it is."""
    width, height = photo.image["width"], photo.image["height"]
    name = str(Path(photo.image["file_name"]).with_suffix(".avif"))
    longest = max(width, height)
    if longest <= photo.side * 1.1:
        scale, size = 1.0, (width, height)
    else:
        scale = photo.side / longest
        size = (round(width * scale), round(height * scale))
    if scale == 1.0 and photo.path.suffix == ".avif":
        content = photo.path.read_bytes()
    else:
        picture = Image.fromarray(read_image(photo.path))
        if scale != 1.0:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "AVIF", quality=photo.quality, speed=_SPEED, max_threads=1)
        content = buffer.getvalue()
    image = {**photo.image, "file_name": name, "width": size[0], "height": size[1]}
    if "hard_negatives" in image:
        image["hard_negatives"] = [[*(round(v * scale, 1) for v in box[:4]), *box[4:]] for box in image["hard_negatives"]]
    image.pop("head_points", None)
    kept = ("iscrowd", "ignore", "score")
    boxes = [
        {"bbox": [round(v * scale, 2) for v in box["bbox"]], **{name: box[name] for name in kept if name in box}}
        for box in photo.boxes
    ]
    return Packed(image, boxes, content)


def write_pack(photos: list[Packed], path: Path) -> None:
    """One archive: the photos and a COCO file of them."""
    images, annotations = [], []
    for number, photo in enumerate(photos, 1):
        images.append({**photo.image, "id": number})
        annotations += [
            {"id": len(annotations) + n, "image_id": number, "category_id": 1, **box} for n, box in enumerate(photo.boxes, 1)
        ]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("annotations.json.gz", gzip.compress(json.dumps(coco, separators=(",", ":")).encode()))
        for photo in photos:
            archive.writestr(photo.image["file_name"], photo.content)
    partial.replace(path)


def interleaved(sources: list[list[Labelled]]) -> Iterator[Labelled]:
    """All photos of all sources, each source spread evenly over the whole."""
    places = [((n + 0.5) / len(source), photo) for source in sources for n, photo in enumerate(shuffled(source))]
    for _, photo in sorted(places, key=lambda place: place[0]):
        yield photo


def shuffled(photos: list[Labelled]) -> list[Labelled]:
    """The same photos in an order that depends on nothing but their number."""
    return [photos[n] for n in np.random.default_rng(_SEED).permutation(len(photos))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=45, help="the most that a pack may take")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sources = [chosen(source) for source in tomllib.loads(arguments.config.read_text())["source"]]
    photos = list(interleaved(sources))
    number, size, waiting, bound = 0, 0, [], arguments.megabytes * 2**20
    by_source: dict[str, list[int]] = {}
    with ProcessPoolExecutor(arguments.workers) as pool:
        for done, photo in enumerate(pool.map(packed, photos, chunksize=16), 1):
            added = len(photo.content) + 300 + 60 * len(photo.boxes)
            if size + added > bound:
                write_pack(waiting, arguments.out / f"{number:02}.zip")
                print(
                    f"{arguments.out / f'{number:02}.zip'}: {len(waiting)} photos; {done:,} of {len(photos):,} done", flush=True
                )
                number, size, waiting = number + 1, 0, []
            size += added
            waiting.append(photo)
            sums = by_source.setdefault(photo.image["file_name"].split("/")[0], [0, 0])
            sums[0] += 1
            sums[1] += len(photo.content)
    if waiting:
        write_pack(waiting, arguments.out / f"{number:02}.zip")
    for name, (count, total) in by_source.items():
        print(f"{name}: {count} photos, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
