"""Put trained weights into the package, with all that `models.json` says of them measured here.

    python tools/ship.py accurate=runs/accurate/best.pt thorough=runs/together/thorough.pt \\
        --data ../shared/data --wild ../shared/data2 --photos data2/photos

--data holds annotations/SET_dev.json.gz, on which AP is measured, SET_train.json.gz, some of whose photos calibrate the int8
copies, and images/; --wild and --photos are the annotations and photos of `wild_dev` and of further training sets. The default
threshold is the lowest of those with nearly the best F1 on the parts of `wild_dev` whose faces are all marked, for the first
stage alone.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.runtime import PROPOSALS
from tinyfaces.evaluation import LOWEST_SCORE, coco, wider
from tinyfaces.evaluation.dev_split import read_dev_split
from tinyfaces.evaluation.operating_point import MatchedDetections
from tinyfaces.evaluation.rule_fitting import Detections
from tinyfaces.evaluation.wild_dev import PARTS, average_precision_of_parts, read_part, wholly_marked
from tinyfaces.files import write_atomically
from tinyfaces.training.checkpoints import load_network
from tinyfaces.training.export import export, store_in_float16
from tinyfaces.training.networks.cost import count_macs
from tinyfaces.training.quantise import photo_batches, quantise
from tinyfaces.weights import ModelRecord

WEIGHTS = Path(__file__).parents[1] / "src/tinyfaces/weights"
DESCRIPTIONS = {
    "accurate": "the default",
    "fast": "a fifth of the computing, for video and small machines",
    "thorough": "finds most, for four times the computing",
}
TRAINING_DATA = (
    "WIDER FACE (1,969 training images), groups, masks, SCUT-HEAD, ShanghaiTech, sports, events, protests and street photos; "
    "research use"
)
_NEAR = 0.01  # of F1
_CALIBRATION_STEP = 400  # every so many training photos, about 80 in all


def best_threshold(found: Detections, images: Sequence[AnnotatedImage]) -> tuple[float, float]:
    """A score threshold, in steps of 0.01, and its F1 at IoU 0.5: the lowest of those that come near to the best F1, for the
    curve is flat and many of the small false detections are faces that nobody marked. Detections are sorted, best first."""
    matched = MatchedDetections.of(found, images)
    f1 = {float(threshold): matched.at(float(threshold)).f1 for threshold in np.arange(0.05, 0.9, 0.01).round(2)}
    threshold = min(threshold for threshold, value in f1.items() if value >= max(f1.values()) - _NEAR)
    return threshold, f1[threshold]


@dataclass(frozen=True)
class DevPhotos:
    """What is measured on: the dev split, and the parts of `wild_dev`."""

    known: Sequence[AnnotatedImage]
    wild: dict[str, list[AnnotatedImage]]


def measure(file: Path, precision: str, photos: DevPhotos) -> tuple[dict[str, float], dict[str, float], tuple[float, float]]:
    """AP by band on the dev split, then on `wild_dev` with all parts together, and the best threshold there with its F1."""
    detector = Detector(file, threshold=LOWEST_SCORE, scale=1, stages="proposals", precision=precision)
    found = [detector.detect(image.path) for image in track(photos.known, f"{file.stem} in {precision} on the dev split")]
    known = coco.score([(faces.boxes, faces.scores) for faces in found], photos.known)
    wild = list(chain.from_iterable(photos.wild.values()))
    seen = [detector.detect(image.path) for image in track(wild, f"{file.stem} in {precision} on wild_dev")]
    rows = {str(image.path): wider.prediction_rows(faces.boxes, faces.scores) for image, faces in zip(wild, seen, strict=True)}
    figures = average_precision_of_parts(rows, photos.wild)
    for part, values in {"dev split": {band: result.ap for band, result in known.items()}, **figures}.items():
        print(f"{file.stem} in {precision}, {part}: " + ", ".join(f"{band} {ap:.4f}" for band, ap in values.items()), flush=True)
    marked = wholly_marked(wild)
    best = best_threshold([(seen[n].boxes, seen[n].scores) for n in marked], [wild[n] for n in marked])
    return {band: result.ap for band, result in known.items()}, figures["together"], best


def ship(name: str, checkpoint: Path, photos: DevPhotos, calibrating: Sequence[Path]) -> ModelRecord:
    """Export one checkpoint into the package and measure it."""
    file = WEIGHTS / f"{name}.onnx"
    print(f"{name}: largest difference from torch {export(checkpoint, file, in_float16=True):.1e}")
    int8 = quantise(file, PROPOSALS, photo_batches(calibrating, print))
    store_in_float16(file)
    network, _ = load_network(checkpoint)
    int8_ap, wild_int8_ap, _ = measure(file, "int8", photos)
    ap, wild_ap, (threshold, f1) = measure(file, "float32", photos)
    print(f"{name}: threshold {threshold} with F1 {f1:.3f}")
    content = file.read_bytes()
    return ModelRecord(
        name=name,
        file=file.name,
        description=DESCRIPTIONS[name],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gmac=round(count_macs(network, torch.zeros(1, 3, 480, 640)) / 1e9, 3),
        bytes=len(content),
        threshold=threshold,
        training_data=TRAINING_DATA,
        ap=rounded(ap),
        sha256=hashlib.sha256(content).hexdigest(),
        int8_file=int8.name,
        int8_sha256=hashlib.sha256(int8.read_bytes()).hexdigest(),
        int8_ap=rounded(int8_ap),
        wild_ap=rounded(wild_ap),
        wild_int8_ap=rounded(wild_int8_ap),
    )


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {band: round(value, 4) for band, value in values.items()}


def calibrating_photos(folder: Path, images: Path) -> list[Path]:
    """Some training photos, of each file of annotations in the folder whose photos are there."""
    files = sorted((folder / "annotations").glob("*_train.json.gz"))
    return [image.path for file in files for image in read_coco(file, images)[::_CALIBRATION_STEP]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--wild", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    arguments = parser.parse_args()
    wild = {part: read_part(part, arguments.wild, arguments.photos) for part in PARTS}
    photos = DevPhotos(read_dev_split(arguments.data), wild)
    calibrating = calibrating_photos(arguments.data, arguments.data / "images")
    calibrating += calibrating_photos(arguments.wild, arguments.photos)
    record_file = WEIGHTS / "models.json"
    if not record_file.exists():
        record_file.write_text("[]\n")
    records = {record["name"]: record for record in json.loads(record_file.read_text())}
    for text in arguments.checkpoints:
        name, _, checkpoint = text.partition("=")
        records[name] = dataclasses.asdict(ship(name, Path(checkpoint), photos, calibrating))
    ordered = [records[name] for name in DESCRIPTIONS if name in records]
    write_atomically(record_file, (json.dumps(ordered, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
