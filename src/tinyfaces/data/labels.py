"""Readers of what labelling tools write, a file per image: YOLO and Pascal VOC; and of photos that nobody labelled. COCO files
are read by `annotations`."""

import codecs
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError, Tell, image_size
from tinyfaces.detection.images import SUFFIXES

_CLASS_LIST = "classes.txt"
_SLACK = 0.01  # of numbers relative to the image, as tools round them
_LANDMARKS = (10, 15)  # numbers of five landmarks: x y, or x y and whether it is seen
_TRUE = ("1", "true", "yes")


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
        for number, line in enumerate(_text_of(file).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                kind, values = int(words[0]), [float(word) for word in words[1:]]
                x1, y1, x2, y2 = _yolo_corners(values)
            except ValueError:
                raise AnnotationError(f"{file}, line {number}: expected 'class x y width height', found '{line[:60]}'") from None
            if not all(map(math.isfinite, values)):
                raise AnnotationError(f"{file}, line {number}: has a number that is not finite")
            if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
                raise AnnotationError(f"{file}, line {number}: must be relative to the image, 0-1, found '{line[:60]}'")
            if kind == wanted:
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
        try:
            root = _xml_of(_bytes_of(file))
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise AnnotationError(f"{file}: not valid XML ({error})") from None
        rows, ignore = [], []
        for face in root.iter("object"):
            if face.findtext("name", "").strip().lower() != "face":
                continue
            try:
                x1, y1, x2, y2 = (float(face.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            except ValueError:
                raise AnnotationError(f"{file}: a face has no 'bndbox' of 4 numbers") from None
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                raise AnnotationError(f"{file}: a 'bndbox' has a number that is not finite")
            # Both ends are pixels within the box, counted from 1.
            rows.append((x1 - 1, y1 - 1, x2, y2))
            ignore.append(face.findtext("difficult", "0").strip().lower() in _TRUE)
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
    names = [line.strip().lower() for line in _text_of(class_list).splitlines() if line.strip()]
    if "face" not in names:
        raise AnnotationError(f"{class_list}: lists no class 'face'")
    return names.index("face")


def _yolo_corners(values: Sequence[float]) -> tuple[float, float, float, float]:
    """The corners of a box, perhaps with a score or five landmarks, or of the box around a polygon. Raises ValueError."""
    if len(values) in (4, 5) or _are_landmarks(values):
        x, y, w, h = values[:4]
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) < 6 or len(values) % 2:
        raise ValueError
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _are_landmarks(values: Sequence[float]) -> bool:
    """Whether a box comes first, and then five points within it."""
    if len(values) - 4 not in _LANDMARKS:
        return False
    (x, y, w, h), points = values[:4], values[4:]
    step = len(points) // 5
    across, down = (
        all(abs(place - middle) <= side / 2 for place in points[first::step]) for first, middle, side in ((0, x, w), (1, y, h))
    )
    return across and down


def _xml_of(content: bytes) -> ElementTree.Element:
    """XML in the encoding that it names. Raises ParseError, ValueError and LookupError."""
    try:
        return ElementTree.fromstring(content)
    except ValueError:  # an encoding of several bytes, which this parser leaves to Python
        declared = re.match(rb"""<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""", content)
        if declared is None:
            raise
        return ElementTree.fromstring(content[declared.end() :].decode(declared[1].decode()))


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{file}: cannot be read ({error})") from None


def _text_of(file: Path) -> str:
    content = _bytes_of(file)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file}: cannot be read ({error})") from None
