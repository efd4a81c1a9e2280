"""The dev split that AP is measured on, and its part whose boxes people alone drew."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tinyfaces.data.annotations import AnnotatedImage, read_coco, with_places_of_wider
from tinyfaces.evaluation.rule_fitting import Detections

_ENDING = "_dev.json.gz"
_OF_WIDER_FACE = "wider_train"


def read_dev_sets(data: Path) -> dict[str, list[AnnotatedImage]]:
    """Photos of each annotations/SET_dev.json.gz in the folder `data`, whose photos lie in images/. Places of WIDER FACE's boxes,
    which are counted from the middles of pixels, become those from their edges."""
    sets = {}
    for file in sorted((data / "annotations").glob(f"*{_ENDING}")):
        name = file.name.removesuffix(_ENDING)
        images = read_coco(file, data / "images")
        sets[name] = [with_places_of_wider(image) for image in images] if name == _OF_WIDER_FACE else images
    return sets


def read_dev_split(data: Path) -> list[AnnotatedImage]:
    """The photos of all sets."""
    return list(chain.from_iterable(read_dev_sets(data).values()))


def drawn_by_people(found: Detections, images: Sequence[AnnotatedImage]) -> tuple[Detections, list[AnnotatedImage]]:
    """Detections and photos of the part that is from WIDER FACE's training images."""
    people = [number for number, image in enumerate(images) if image.path.parent.name == _OF_WIDER_FACE]
    return [found[n] for n in people], [images[n] for n in people]
