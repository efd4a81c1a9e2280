"""Readers of what labelling tools write, a file per image: YOLO and Pascal VOC; and of photos that nobody labelled. COCO files
are read by `annotations`."""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError, image_size
from tinyfaces.detection.images import SUFFIXES

_CLASS_LIST = "classes.txt"


def read_yolo(labels: str | Path, images: str | Path) -> list[AnnotatedImage]:
    """Read a folder of YOLO label files: a line `class x y width height` per box, all but the class relative to the image.

    Where there is a `classes.txt`, only the class called "face" is read, otherwise class 0. A score after the box is not read:
    what was reviewed is certain.

    Args:
        labels: the folder of the label files.
        images: that of the images, in the same folders below it as the label files; those without a label file are left out.

    Returns:
        Images, sorted by path.

    Raises:
        AnnotationError: a label file is malformed or has no image, or an image is unreadable.
    """
    folder = Path(labels)
    wanted = _face_class(folder / _CLASS_LIST)
    annotated = []
    for file, image in _labelled(folder, Path(images), ".txt"):
        width, height = image_size(image, file)
        rows = []
        for number, line in enumerate(_text_of(file).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                kind, x, y, w, h = int(words[0]), *(float(word) for word in words[1:5])
            except ValueError:
                raise AnnotationError(f"{file}, line {number}: expected 'class x y width height', found '{line[:60]}'") from None
            if not all(map(math.isfinite, (x, y, w, h))):
                raise AnnotationError(f"{file}, line {number}: has a number that is not finite")
            if kind == wanted:
                rows.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
        annotated.append(_certain(image, width, height, rows, []))
    return annotated


def read_voc(labels: str | Path, images: str | Path) -> list[AnnotatedImage]:
    """Read a folder of Pascal VOC's XML files, whose objects called "face" are the faces; `difficult` ones are to be ignored.

    Args:
        labels: the folder of the XML files.
        images: that of the images, in the same folders below it as the XML files; those without one are left out.

    Returns:
        Images, sorted by path.

    Raises:
        AnnotationError: an XML file is malformed or has no image, or an image is unreadable.
    """
    annotated = []
    for file, image in _labelled(Path(labels), Path(images), ".xml"):
        width, height = image_size(image, file)
        try:
            root = ElementTree.fromstring(_text_of(file))
        except ElementTree.ParseError as error:
            raise AnnotationError(f"{file}: not valid XML ({error})") from None
        rows, ignore = [], []
        for face in root.iter("object"):
            if face.findtext("name", "").strip().lower() != "face":
                continue
            try:
                x1, y1, x2, y2 = (float(face.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            except ValueError:
                raise AnnotationError(f"{file}: a face has no 'bndbox' of 4 numbers") from None
            # Both ends are pixels within the box, counted from 1.
            rows.append((x1 - 1, y1 - 1, x2, y2))
            ignore.append(face.findtext("difficult", "0").strip() == "1")
        annotated.append(_certain(image, width, height, rows, ignore))
    return annotated


def read_unlabelled(images: str | Path) -> list[AnnotatedImage]:
    """All photos below a folder, sorted by path, for a teacher to say what is in them (see `without_labels`). Raises
    AnnotationError."""
    folder = Path(images)
    annotated = []
    for image in _images_below(folder):
        width, height = image_size(image, folder)
        annotated.append(without_labels(image, width, height))
    if not annotated:
        raise AnnotationError(f"{folder}: no photos there")
    return annotated


def without_labels(image: Path, width: int, height: int) -> AnnotatedImage:
    """A photo of which nobody says what is in it: one box over all of it is to be ignored."""
    return _certain(image, width, height, [(0, 0, width, height)], [True])


def _certain(
    image: Path, width: int, height: int, rows: list[tuple[float, float, float, float]], ignore: list[bool]
) -> AnnotatedImage:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    ignored = np.array(ignore or [False] * len(boxes), np.bool_) | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    return AnnotatedImage(image, width, height, boxes, ignored, np.ones(len(boxes), np.float32))


def _labelled(labels: Path, images: Path, suffix: str) -> Iterator[tuple[Path, Path]]:
    """Each label file and its image."""
    if not labels.is_dir():
        raise AnnotationError(f"{labels}: no such folder of label files")
    by_stem = {image.relative_to(images).with_suffix(""): image for image in _images_below(images)}
    files = [file for file in sorted(labels.rglob(f"*{suffix}")) if file.name != _CLASS_LIST]
    if not files:
        raise AnnotationError(f"{labels}: holds no {suffix} files")
    for file in files:
        image = by_stem.get(file.relative_to(labels).with_suffix(""))
        if image is None:
            raise AnnotationError(f"{file}: no image of that name below {images}")
        yield file, image


def _images_below(folder: Path) -> list[Path]:
    return [image for image in sorted(folder.rglob("*")) if image.suffix.lower() in SUFFIXES and image.is_file()]


def _face_class(class_list: Path) -> int:
    if not class_list.is_file():
        return 0
    names = [line.strip().lower() for line in _text_of(class_list).splitlines() if line.strip()]
    if "face" not in names:
        raise AnnotationError(f"{class_list}: lists no class 'face'")
    return names.index("face")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{file}: cannot be read ({error})") from None
