"""The dev split that AP is measured on, and its part whose boxes people alone drew."""

from collections.abc import Sequence
from pathlib import Path

from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.evaluation.second_stage import Detections


def read_dev_split(data: Path) -> list[AnnotatedImage]:
    """All photos of annotations/SET_dev.json.gz and images/ in the folder `data`."""
    files = sorted((data / "annotations").glob("*_dev.json.gz"))
    return [image for file in files for image in read_coco(file, data / "images")]


def drawn_by_people(found: Detections, images: Sequence[AnnotatedImage]) -> tuple[Detections, list[AnnotatedImage]]:
    """Detections and photos of the part that is from WIDER FACE's training images."""
    people = [number for number, image in enumerate(images) if image.path.parent.name == "wider_train"]
    return [found[n] for n in people], [images[n] for n in people]
