"""Readers of what labelling tools write, a file per image: YOLO and Pascal VOC; and of photos that nobody labelled. COCO files
are read by `annotations`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError, Tell, image_size
from tinyfaces.detection.images import SUFFIXES
from tinyfaces.parsing.texts import text_of
from tinyfaces.parsing.voc_objects import voc_boxes, voc_root
from tinyfaces.parsing.yolo_lines import yolo_boxes

_CLASS_LIST = "classes.txt"


def read_yolo(labels: str | Path, images: str | Path, tell: Tell = None) -> list[AnnotatedImage]:
    """Read a folder of YOLO label files: a line `class x y width height` per box, all but the class relative to the image. Of a
    polygon or an oriented box, `class x1 y1 x2 y2 x3 y3 ...`, the upright box around it is read.

    Where there is a `classes.txt`, only the class called "face" is read, otherwise class 0. A score after the box is not read:
    what was reviewed is certain.

    Args:
        labels: the folder of the label files.
        images: that of the images, in the same folders below it as the label files; those without a label file are left out.
        tell: see `Tell`.

    Returns:
        Images, sorted by path.

    Raises:
        AnnotationError: a label file is malformed, has numbers outside 0-1 or no image, or an image is unreadable.
    """
    folder = Path(labels)
    wanted = _face_class(folder / _CLASS_LIST)
    annotated = []
    for file, image in _labelled(folder, Path(images), ".txt"):
        size = _size_of(image, file, tell)
        if size is None:
            continue
        width, height = size
        rows = []
        for box in yolo_boxes(text_of(file), file):
            if box.kind == wanted:
                x1, y1, x2, y2 = box.corners
                rows.append((x1 * width, y1 * height, x2 * width, y2 * height))
        annotated.append(_certain(image, width, height, rows, []))
    return annotated


def read_voc(labels: str | Path, images: str | Path, tell: Tell = None) -> list[AnnotatedImage]:
    """Read a folder of Pascal VOC's XML files, whose objects called "face" are the faces; `difficult` ones are to be ignored.

    Args:
        labels: the folder of the XML files.
        images: that of the images, in the same folders below it as the XML files; those without one are left out.
        tell: see `Tell`.

    Returns:
        Images, sorted by path.

    Raises:
        AnnotationError: an XML file is malformed or has no image, or an image is unreadable.
    """
    annotated = []
    for file, image in _labelled(Path(labels), Path(images), ".xml"):
        size = _size_of(image, file, tell)
        if size is None:
            continue
        width, height = size
        boxes = [*voc_boxes(voc_root(file), file, only="face")]
        rows, ignore = [box for box, _ in boxes], [difficult for _, difficult in boxes]
        annotated.append(_certain(image, width, height, rows, ignore))
    return annotated


def read_unlabelled(images: str | Path, tell: Tell = None) -> list[AnnotatedImage]:
    """All photos below a folder, sorted by path, for a teacher to say what is in them (see `without_labels`). Raises
    AnnotationError."""
    folder = Path(images)
    annotated = []
    for image in _images_below(folder):
        size = _size_of(image, folder, tell)
        if size is not None:
            annotated.append(without_labels(image, *size))
    if not annotated:
        raise AnnotationError(f"{folder}: no photos there")
    return annotated


def without_labels(image: Path, width: int, height: int) -> AnnotatedImage:
    """A photo of which nobody says what is in it: one box over all of it is to be ignored."""
    return _certain(image, width, height, [(0, 0, width, height)], [True])


def _size_of(image: Path, source: Path, tell: Tell) -> tuple[int, int] | None:
    try:
        return image_size(image, source)
    except AnnotationError as error:
        if tell is None:
            raise
        tell(f"{error}; left out")
        return None


def _certain(image: Path, width: int, height: int, rows: Sequence[Sequence[float]], ignore: list[bool]) -> AnnotatedImage:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    ignored = np.array(ignore or [False] * len(boxes), np.bool_) | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    return AnnotatedImage(image, width, height, boxes, ignored, np.ones(len(boxes), np.float32))


def _labelled(labels: Path, images: Path, suffix: str) -> Iterator[tuple[Path, Path]]:
    """Each label file and its image."""
    if not labels.is_dir():
        raise AnnotationError(f"{labels}: no such folder of label files")
    by_stem = {image.relative_to(images).with_suffix(""): image for image in _images_below(images)}
    files = [file for file in sorted(labels.rglob(f"*{suffix}")) if file.name != _CLASS_LIST and not file.name.startswith(".")]
    if not files:
        raise AnnotationError(f"{labels}: holds no {suffix} files")
    for file in files:
        image = by_stem.get(file.relative_to(labels).with_suffix(""))
        if image is None:
            raise AnnotationError(f"{file}: no image of that name below {images}")
        yield file, image


def _images_below(folder: Path) -> list[Path]:
    """The images below a folder, without hidden ones such as the `._` files of a Mac."""
    return [
        image
        for image in sorted(folder.rglob("*"))
        if image.suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "@eaDir")) for part in image.relative_to(folder).parts)
        and image.is_file()
    ]


def _face_class(class_list: Path) -> int:
    if not class_list.is_file():
        return 0
    names = [line.strip().lower() for line in text_of(class_list).splitlines() if line.strip()]
    if "face" not in names:
        raise AnnotationError(f"{class_list}: lists no class 'face'")
    return names.index("face")
