"""What the second stage costs: candidates a second, and what it adds to the time of a crowd photo.

    python benchmarks/second_stage.py --threads 2

The crowd photo is composed of the example photo's faces: 300 of 8 to 28 px on its blurred self, 2,048 x 1,536 pixels. Detectors
with and without the second stage take turns in one run. Candidates are timed through `SecondStage.judge`: ONNX Runtime, batches
of 32. --photos are searched one after the other; the time is that of one photo, in the mean.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tinyfaces import Detector
from tinyfaces.detection.crops import LOW_SIDE
from tinyfaces.detection.detector import STAGES
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import Pixels, read_image
from tinyfaces.detection.runtime import RuntimeOptions, processor_name
from tinyfaces.detection.second_stage import SecondStage
from tinyfaces.weights import second_stage

ROOT = Path(__file__).parents[1]


def compose_crowd(faces: int = 300, size: tuple[int, int] = (2048, 1536), seed: int = 0) -> Pixels:
    """A photo with so many faces, none on another, each with its head and shoulders."""
    photo = Image.fromarray(read_image(ROOT / "examples/solvay_1927.jpg"))
    boxes = np.array(json.loads((ROOT / "examples/solvay_1927.json").read_text())["boxes"])
    rng = np.random.default_rng(seed)
    crowd = photo.resize(size).filter(ImageFilter.GaussianBlur(40))
    columns = int(np.ceil(np.sqrt(faces * size[0] / size[1])))
    cell = size[0] // columns
    for number in range(faces):
        row, column = divmod(number, columns)
        x1, y1, x2, y2 = boxes[rng.integers(len(boxes))]
        height = float(np.exp(rng.uniform(np.log(8), np.log(28))))
        side = (y2 - y1) * 2.2
        box = ((x1 + x2) / 2 - side / 2, (y1 + y2) / 2 - side * 0.4, (x1 + x2) / 2 + side / 2, (y1 + y2) / 2 + side * 0.6)
        head = photo.crop(tuple(map(round, box))).resize((round(height * 2.2),) * 2, Image.Resampling.LANCZOS)
        place = (column * cell + (cell - head.width) // 2, row * cell + (cell - head.height) // 2)
        mask = Image.new("L", head.size, 0)
        mask.paste(255, (2, 2, head.width - 2, head.height - 2))
        crowd.paste(head, place, mask.filter(ImageFilter.GaussianBlur(1.5)))
    return np.asarray(crowd)


def median_ms(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of calls that take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            call()
            if turn:
                times[number].append(1000 * (time.perf_counter() - started))
    return [float(np.median(one)) for one in times]


def detect_each(detector: Detector, photos: list[Pixels]) -> None:
    """Search photos one after the other."""
    for photo in photos:
        detector.detect(photo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", nargs="*", type=Path, default=[], help="photos to time as well, together")
    arguments = parser.parse_args()
    threads, rounds = arguments.threads, arguments.rounds

    record = second_stage()
    rule = FusionRule.from_dict(record.rules["accurate"])
    stage = SecondStage(record, rule, RuntimeOptions(threads=threads))
    crops = np.random.default_rng(0).integers(0, 256, (1024, LOW_SIDE, LOW_SIDE, 3), np.uint8)
    (ms,) = median_ms([lambda: stage.judge(crops)], rounds)
    print(f"machine: {processor_name()}, {threads} threads")
    print(f"second stage: {1000 * len(crops) / ms:.0f} candidates/s ({record.gmac * 1000:.1f} MMAC each)")

    crowd = compose_crowd()
    photos = [read_image(path) for path in arguments.photos]
    for model in ("accurate", "fast"):
        detectors = {stages: Detector(model, stages=stages, threads=threads) for stages in STAGES}
        times = median_ms([partial(detector.detect, crowd) for detector in detectors.values()], rounds)
        alone = detectors["proposals"]
        rule = FusionRule.from_dict(record.rules[model])
        proposals = alone.detect(crowd, threshold=rule.min_proposal_score(alone.threshold))
        candidates = int(rule.selects(proposals.boxes, proposals.scores).sum())
        for (stages, detector), ms in zip(detectors.items(), times, strict=True):
            print(
                f"{model}, 300 faces, 2048x1536, {stages}: {ms:.0f} ms (+{100 * (ms / times[0] - 1):.0f}%), "
                f"{0 if stages == 'proposals' else candidates} candidates, {len(detector.detect(crowd))} faces found"
            )
        if photos:
            times = median_ms([partial(detect_each, detector, photos) for detector in detectors.values()], rounds)
            for stages, ms in zip(detectors, times, strict=True):
                print(f"{model}, {len(photos)} photos, {stages}: {ms / len(photos):.1f} ms (+{100 * (ms / times[0] - 1):.0f}%)")


if __name__ == "__main__":
    main()
