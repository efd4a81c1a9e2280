"""Put trained weights into the package, with all that `models.json` says of them measured here.

    python tools/ship.py accurate=runs/accurate/best.pt fast=runs/fast/best.pt --data ../shared/data

--data holds annotations/SET_dev.json.gz, on which AP is measured, SET_train.json.gz, some of whose photos calibrate the int8
copies, and images/; the default threshold is the middle one of those with nearly the best F1 on WIDER FACE's part, for this
stage alone until ship_second_stage.py chooses it for both.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.detection.boxes import iou_matrix, share_within
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.runtime import PROPOSALS
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.evaluation.dev_split import drawn_by_people, read_dev_split
from tinyfaces.evaluation.rule_fitting import Detections
from tinyfaces.files import write_atomically
from tinyfaces.training.checkpoints import load_network
from tinyfaces.training.export import export
from tinyfaces.training.networks.cost import count_macs
from tinyfaces.training.quantise import photo_batches, quantise
from tinyfaces.weights import ModelRecord

WEIGHTS = Path(__file__).parents[1] / "src/tinyfaces/weights"
DESCRIPTIONS = {
    "accurate": "finds most; the default",
    "fast": "a fifth of the computing, for video and small machines",
}
TRAINING_DATA = "WIDER FACE (1,098 training images), groups, masks, SCUT-HEAD B and ShanghaiTech photos; research use"
_CHANCE = 0.002  # of F1: one or two of some 770 faces
_CALIBRATION_STEP = 200  # every so many training photos, about 40 in all


def best_threshold(found: Detections, images: Sequence[AnnotatedImage]) -> tuple[float, float]:
    """A score threshold, in steps of 0.01, and its F1 at IoU 0.5: the middle one of those that come as near to the best F1 as
    chance, for the curve is flat. Detections are sorted, best first."""
    scores, correct, faces = [], [], 0
    for (boxes, found_scores), image in zip(found, images, strict=True):
        known, crowds = image.boxes[~image.ignore], image.boxes[image.ignore]
        faces += len(known)
        overlap = iou_matrix(boxes, known)
        free = np.ones(len(known), np.bool_)
        excused = (share_within(boxes, crowds) >= 0.5).any(axis=1)
        for row, score, excuse in zip(overlap, found_scores, excused, strict=True):
            best = int(np.argmax(row * free)) if len(row) else -1
            hit = best >= 0 and free[best] and row[best] >= 0.5
            if hit:
                free[best] = False
            if hit or not excuse:
                scores.append(score)
                correct.append(hit)
    all_scores, all_correct = np.array(scores), np.array(correct)
    f1 = {
        threshold: 2 * all_correct[all_scores >= threshold].sum() / (faces + (all_scores >= threshold).sum())
        for threshold in np.arange(0.05, 0.9, 0.01).round(2)
    }
    enough = max(f1.values()) - _CHANCE
    threshold = np.median([threshold for threshold, value in f1.items() if value >= enough]).round(2)
    return float(threshold), float(f1[threshold])


def ship(
    name: str,
    checkpoint: Path,
    images: Sequence[AnnotatedImage],
    calibrating: Sequence[Path],
) -> ModelRecord:
    """Export one checkpoint into the package and measure it."""
    file = WEIGHTS / f"{name}.onnx"
    print(f"{name}: largest difference from torch {export(checkpoint, file):.1e}")
    int8 = quantise(file, PROPOSALS, photo_batches(calibrating))
    network, _ = load_network(checkpoint)
    bands = {}
    for precision in ("int8", "float32"):
        detector = Detector(file, threshold=LOWEST_SCORE, scale=1, stages="proposals", precision=precision)
        found = [detector.detect(image.path) for image in track(images, f"{name} in {precision} on the dev split")]
        detections = [(faces.boxes, faces.scores) for faces in found]
        bands[precision] = coco.score(detections, images)
        print(f"{name} in {precision}: " + ", ".join(f"{k} {b.ap:.3f}" for k, b in bands[precision].items()))
    threshold, f1 = best_threshold(*drawn_by_people(detections, images))
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
        ap={band: round(result.ap, 4) for band, result in bands["float32"].items()},
        sha256=hashlib.sha256(content).hexdigest(),
        int8_file=int8.name,
        int8_sha256=hashlib.sha256(int8.read_bytes()).hexdigest(),
        int8_ap={band: round(result.ap, 4) for band, result in bands["int8"].items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    images = read_dev_split(arguments.data)
    training = sorted((arguments.data / "annotations").glob("*_train.json.gz"))
    calibrating = [image.path for file in training for image in read_coco(file, arguments.data / "images")[::_CALIBRATION_STEP]]
    record_file = WEIGHTS / "models.json"
    if not record_file.exists():
        record_file.write_text("[]\n")
    records = {record["name"]: record for record in json.loads(record_file.read_text())}
    for text in arguments.checkpoints:
        name, _, checkpoint = text.partition("=")
        records[name] = dataclasses.asdict(ship(name, Path(checkpoint), images, calibrating))
    ordered = [records[name] for name in DESCRIPTIONS if name in records]
    write_atomically(record_file, (json.dumps(ordered, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
