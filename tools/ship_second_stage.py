"""Put a trained second stage into the package, with its fusion rules learnt and measured here.

    python tools/ship_second_stage.py --judge runs/judge/last.pt --wild ../shared/data2 --photos data2/photos \\
        --config configs/accurate.toml

The rules are learnt on `wild_dev`, whose photos neither stage was trained on; that for detectors of others on the candidates of
`accurate`. AP there is out of fold: rules learnt on one half of the photos are applied to the other. The [[dev]] photos of the
configuration are measured with the rules that ship. Which candidates go through, and how far scores and boxes are changed, was
chosen by AP on `wild_dev` (--search). Writes what is given of judge and generator, their weights and second_stage.json into the
package, and docs/second_stage.json with the AP before and after. With neither, for a new first stage, only the rules change.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.crops import LOW_SIDE, crop_batches
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import Bounds, FusionRule
from tinyfaces.detection.images import Pixels, read_image
from tinyfaces.detection.runtime import GENERATOR, JUDGE, ModelSignature, int8_file
from tinyfaces.detection.second_stage import Judgements, SecondStage
from tinyfaces.evaluation import LOWEST_SCORE, coco, wider
from tinyfaces.evaluation.dev_split import drawn_by_people
from tinyfaces.evaluation.operating_point import MatchedDetections
from tinyfaces.evaluation.rule_fitting import Detections, KnownCandidates, fuse, fuse_across, gather, judge_all, learn_rule
from tinyfaces.evaluation.wild_dev import PARTS, average_precision_of_parts, read_part, wholly_marked
from tinyfaces.files import write_atomically
from tinyfaces.training.candidates import read_candidates
from tinyfaces.training.checkpoints import load_second_stage
from tinyfaces.training.export import export_second_stage
from tinyfaces.training.networks.cost import count_macs
from tinyfaces.training.networks.second_stage_networks import Mirrored
from tinyfaces.training.quantise import quantise
from tinyfaces.training.settings import load_config, read_sources
from tinyfaces.weights import SecondStageRecord, models

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src/tinyfaces/weights"
DATA = "crops of the proposal network's candidates in the photos that the proposal networks were trained on; research use"
_CALIBRATING = 320  # candidates
BOUNDS = Bounds(24.0, (0.2, 0.95), 0.4, 0.7, 0.5)
BOUNDS_OF = {"accurate": BOUNDS, "fast": dataclasses.replace(BOUNDS, largest_side=64.0), "thorough": BOUNDS}
"""`accurate` and `thorough` gain nothing by judging larger candidates, and lose on the hand-labelled photos of the dev split."""
OTHERS = Bounds(24.0, (0.2, 0.9), 1.0, 0.45, 1.0)
"""For proposals of other detectors, whose boxes gain by the whole correction (chosen on the dev split)."""
WIDEST = Bounds(64.0, (0.1, 0.98))


def average_precision(found: Detections, images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """AP by height; and of the part whose boxes people drew alone."""
    bands = {name: band.ap for name, band in coco.score(found, images).items()}
    drawn = coco.score(*drawn_by_people(found, images))
    return bands | {f"people's boxes, {name}": band.ap for name, band in drawn.items()}


def official(found: Detections, parts: dict[str, list[AnnotatedImage]]) -> dict[str, float]:
    """AP on `wild_dev`, all parts together, by WIDER FACE's protocol."""
    images = [image for part in parts.values() for image in part]
    rows = {str(image.path): wider.prediction_rows(boxes, scores) for image, (boxes, scores) in zip(images, found, strict=True)}
    return average_precision_of_parts(rows, parts)["together"]


def at_default_threshold(name: str, found: Detections, images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """Precision, recall and F1 of a shipped model, on the photos in which all faces are marked."""
    marked = wholly_marked(images)
    matched = MatchedDetections.of([found[n] for n in marked], [images[n] for n in marked])
    return dataclasses.asdict(matched.at(models()[name].threshold))


def proposals_of(known: Sequence[KnownCandidates]) -> Detections:
    """Detections of the first stage alone."""
    return [(one.proposals.boxes, one.proposals.scores) for one in known]


def sent(known: Sequence[KnownCandidates], bounds: Bounds) -> float:
    """Candidates a photo that go through, in the mean."""
    return float(np.mean([bounds.selects(longer_sides(one.proposals.boxes), one.proposals.scores).sum() for one in known]))


def show(name: str, values: dict[str, float]) -> None:
    print(f"{name:58}" + " ".join(f"{band} {ap:.3f}" for band, ap in values.items()), flush=True)


def search(
    known: Sequence[KnownCandidates], judged: Sequence[Judgements], parts: dict[str, list[AnnotatedImage]], at: Bounds
) -> None:
    """Print AP and how many candidates go through, as it is and when one of the bounds is changed at a time."""
    others = [dataclasses.replace(at, box=box) for box in (0.0, 0.3, 0.7, 1.0)]
    others += [dataclasses.replace(at, trust=trust) for trust in (0.4, 0.5, 0.8, 1.0)]
    others += [dataclasses.replace(at, largest_side=side) for side in (12.0, 16.0, 24.0, 32.0, 64.0)]
    others += [dataclasses.replace(at, undecided=(low, at.undecided[1])) for low in (0.15, 0.2, 0.3, 0.4)]
    others += [dataclasses.replace(at, undecided=(at.undecided[0], high)) for high in (0.8, 0.9, 0.95)]
    others += [dataclasses.replace(at, overlap=overlap) for overlap in (0.6, 0.8)]
    for bounds in [at, *(other for other in others if other != at)]:
        low, high = bounds.undecided
        name = f"up to {bounds.largest_side:g} px, scores {low:g}-{high:g}, box {bounds.box:g}, trust {bounds.trust:g}, "
        name += f"overlap {bounds.overlap:g}: {sent(known, bounds):.0f} a photo"
        show(name, official(fuse_across(known, judged, bounds), parts))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, help="a checkpoint of a judge, to ship it")
    parser.add_argument("--generator", type=Path, help="a checkpoint of a generator and its discriminator, to ship the generator")
    parser.add_argument("--wild", type=Path, required=True, help="the folder that holds annotations/NAME_dev.json.gz")
    parser.add_argument("--photos", type=Path, required=True, help="the photos of wild_dev")
    parser.add_argument("--config", type=Path, required=True, help="its [[dev]] sources are measured")
    parser.add_argument("--candidates", type=Path, default=Path("candidates"), help="some of these calibrate the int8 copies")
    parser.add_argument("--models", nargs="*", default=tuple(BOUNDS_OF), help="the first stages to search behind")
    parser.add_argument("--scrfd", type=Path, action="append", default=[], help="another detector to measure with; repeatable")
    parser.add_argument("--yunet", type=Path, action="append", default=[])
    parser.add_argument("--search", action="store_true", help="only show what other bounds would give")
    return parser.parse_args()


def export_networks(judge: Path | None, generator: Path | None, candidates: Path) -> SecondStageRecord:
    """Write what is given of both networks, with int8 copies that the candidates calibrate and weights, into the package; gives
    the record of what lies there then, still without rules."""
    stem = WEIGHTS / "second_stage.onnx"
    files = {part: stem.with_suffix(f".{part}.onnx") for part in ("judge", "generator")}
    if generator is not None:
        print(f"generator: largest difference from torch {max(export_second_stage(generator, stem).values()):.1e}")
        stem.with_suffix(".discriminator.onnx").unlink()  # only its weights ship, to train from
        calibrate(files["generator"], GENERATOR, candidates)
    if judge is not None:
        print(f"judge: largest difference from torch {export_second_stage(judge, files['judge'])[files['judge']]:.1e}")
        calibrate(files["judge"], JUDGE, candidates)
    judging = load_second_stage(files["judge"].with_suffix(".safetensors"))[1]
    restoring, _, settings = load_second_stage(stem.with_suffix(".safetensors"))
    low = torch.zeros(1, 3, LOW_SIDE, LOW_SIDE)
    hashed = [*files.values(), *map(int8_file, files.values())]
    return SecondStageRecord(
        variant=settings["variant"],
        judge=files["judge"].name,
        generator=files["generator"].name,
        sha256={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in hashed},
        parameters=parameters_of(judging),
        gmac=round(count_macs(Mirrored(judging), low) / 1e9, 4),
        restoring_parameters=parameters_of(restoring),
        restoring_gmac=round(count_macs(restoring, low) / 1e9, 4),
        training_data=DATA,
        rules={},
    )


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    arguments = parse_arguments()
    parts = {name: read_part(name, arguments.wild, arguments.photos) for name in PARTS}
    wild = [image for part in parts.values() for image in part]
    sources = load_config(arguments.config, {}).dev
    dev, _ = read_sources(sources)

    record = export_networks(arguments.judge, arguments.generator, arguments.candidates)
    second = SecondStage(record, FusionRule(Bounds(), (0, 1, 0, 0), (0, 1, 0, 0, 0, 0)))

    if arguments.search:
        for name in arguments.models:
            known = gather(own(name), read_all(wild, f"{name} on wild_dev"), WIDEST)
            show(name, official(proposals_of(known), parts))
            search(known, judge_all(known, second.judge), parts, BOUNDS_OF[name])
        return

    rules: dict[str, FusionRule] = {}
    measured: dict[str, Any] = {"wild_dev": {}, "dev split": {}}
    for name, bounds in BOUNDS_OF.items():
        known = gather(own(name), read_all(wild, f"{name} on wild_dev"), widest(bounds, OTHERS))
        judged = judge_all(known, second.judge)
        first, both = proposals_of(known), fuse_across(known, judged, bounds)
        before, after = official(first, parts), official(both, parts)
        before |= at_default_threshold(name, first, wild)
        after |= at_default_threshold(name, both, wild)
        show(f"{name}, wild_dev", before)
        show(f"{name}, both stages, wild_dev", after)
        measured["wild_dev"][name] = {"proposals": before, "both": after, "candidates": sent(known, bounds)}
        rules[name] = learn_rule(known, judged, bounds)
        if name == "accurate":
            rules["other"] = learn_rule(known, judged, OTHERS)
            of_accurate = known, judged
    of_others = {one.name: functools.partial(proposals_from, one) for one in others(arguments.scrfd, arguments.yunet)}
    for name, detect in of_others.items():
        known = gather(detect, read_all(wild, f"{name} on wild_dev"), OTHERS)
        before = official(proposals_of(known), parts)
        after = official(fuse_across(known, judge_all(known, second.judge), OTHERS, learnt_on=of_accurate), parts)
        show(f"{name}, wild_dev", before)
        show(f"{name}, both stages, wild_dev", after)
        measured["wild_dev"][name] = {"proposals": before, "both": after, "candidates": sent(known, OTHERS)}
    for name, detect in ({name: own(name) for name in BOUNDS_OF} | of_others).items():
        rule = rules.get(name, rules["other"])
        known = gather(detect, read_all(dev, f"{name} on the dev split"), rule.bounds)
        before = average_precision(proposals_of(known), dev)
        after = average_precision(fuse(known, judge_all(known, second.judge), rule), dev)
        show(f"{name}, dev split", before)
        show(f"{name}, both stages, dev split", after)
        measured["dev split"][name] = {"proposals": before, "both": after, "candidates": sent(known, rule.bounds)}
    record = dataclasses.replace(record, rules={name: rule.to_dict() for name, rule in rules.items()})
    write_atomically(WEIGHTS / "second_stage.json", (json.dumps(dataclasses.asdict(record), indent=1) + "\n").encode())
    write_atomically(ROOT / "docs/second_stage.json", (json.dumps(measured, indent=1) + "\n").encode())


def read_all(images: Sequence[AnnotatedImage], what: str) -> Iterator[tuple[Pixels, AnnotatedImage]]:
    """The photos, one after the other, with a bar."""
    return ((read_image(image.path), image) for image in track(images, what))


def widest(*bounds: Bounds) -> Bounds:
    """Bounds that admit whatever one of these admits."""
    lows, highs = zip(*(one.undecided for one in bounds), strict=True)
    return dataclasses.replace(bounds[0], largest_side=max(one.largest_side for one in bounds), undecided=(min(lows), max(highs)))


def calibrate(file: Path, signature: ModelSignature, folder: Path) -> None:
    """Write the int8 copy of a network of crops."""
    candidates = read_candidates(folder)
    quantise(file, signature, crop_batches(candidates.low[:: max(1, len(candidates) // _CALIBRATING)]))


def others(scrfd_files: Sequence[Path], yunet_files: Sequence[Path]) -> list[Any]:
    """Detectors of others, as the benchmarks run them."""
    sys.path.append(str(ROOT / "benchmarks"))
    from detectors import scrfd, yunet

    return [scrfd(path, 2) for path in scrfd_files] + [yunet(path, 2) for path in yunet_files]


def proposals_from(other: Any, pixels: Pixels) -> Faces:
    """What a detector of others finds."""
    return Faces(*other.detect(pixels, LOWEST_SCORE))


def own(name: str) -> Any:
    """The first stage of a shipped model alone."""
    detector = Detector(name, threshold=LOWEST_SCORE, stages="proposals")
    return lambda pixels: detector.detect(pixels)


if __name__ == "__main__":
    main()
