"""Put a trained second stage into the package, with its fusion rules learnt and measured here.

    python tools/ship_second_stage.py runs/second_stage/last.pt --config configs/accurate.toml

The rules are learnt on the [[dev]] sources of the configuration, that for detectors of others on the candidates of `accurate`.
Which candidates go through, and how far boxes are moved, is chosen there too, by AP with rules learnt on one half of the photos
and applied to the other (--search). Writes the two networks, their weights and second_stage.json into the package, and
docs/second_stage.json with the AP before and after.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from ship import best_threshold
from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.fusion import Bounds, FusionRule
from tinyfaces.detection.images import read_image
from tinyfaces.detection.runtime import DISCRIMINATOR, GENERATOR, RuntimeOptions, int8_file, load_session
from tinyfaces.detection.second_stage import Judgements, SecondStage
from tinyfaces.evaluation import LOWEST_SCORE, coco
from tinyfaces.evaluation.dev_split import drawn_by_people
from tinyfaces.evaluation.rule_fitting import Detections, KnownCandidates, fuse, fuse_across, gather, judge_all, learn_rule
from tinyfaces.files import write_atomically
from tinyfaces.training.candidates import read_candidates
from tinyfaces.training.checkpoints import load_second_stage
from tinyfaces.training.export import export_second_stage
from tinyfaces.training.networks.cost import count_macs
from tinyfaces.training.quantise import quantise
from tinyfaces.training.settings import load_config, read_sources
from tinyfaces.weights import SecondStageRecord

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src/tinyfaces/weights"
DATA = "crops of the proposal network's candidates in the photos that the proposal networks were trained on; research use"
_CALIBRATING = 320  # candidates
OWN = ("accurate", "fast", "thorough")
OVERLAP_OF_OWN = 0.6
WIDEST = Bounds(24.0, (0.05, 0.95), 0.5)


def average_precision(found: Detections, images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """AP by height; and of the part whose boxes people drew alone."""
    bands = {name: band.ap for name, band in coco.score(found, images).items()}
    drawn = coco.score(*drawn_by_people(found, images))
    return bands | {f"people's boxes, {name}": band.ap for name, band in drawn.items()}


def proposals_of(known: Sequence[KnownCandidates]) -> Detections:
    """Detections of the first stage alone."""
    return [(one.proposals.boxes, one.proposals.scores) for one in known]


def sent(known: Sequence[KnownCandidates], bounds: Bounds) -> float:
    """Candidates a photo that go through, in the mean."""
    return float(np.mean([bounds.selects(longer_sides(one.proposals.boxes), one.proposals.scores).sum() for one in known]))


def show(name: str, values: dict[str, float]) -> None:
    print(f"{name:58}" + " ".join(f"{band} {ap:.3f}" for band, ap in values.items()), flush=True)


def search(
    known: Sequence[KnownCandidates],
    judged: Sequence[Judgements],
    images: Sequence[AnnotatedImage],
    undismissed: Sequence[AnnotatedImage],
    at: Bounds,
) -> None:
    """Print AP, best F1 and how many candidates go through, as it is and when one of the bounds is changed at a time."""
    others = [dataclasses.replace(at, box=box) for box in (0.0, 0.5, 1.0)]
    others += [dataclasses.replace(at, largest_side=side) for side in (8.0, 12.0, 16.0, 20.0, 24.0)]
    others += [dataclasses.replace(at, undecided=(low, at.undecided[1])) for low in (0.1, 0.17, 0.2, 0.25, 0.3, 0.35)]
    others += [dataclasses.replace(at, undecided=(at.undecided[0], high)) for high in (0.7, 0.8, 0.85, 0.95)]
    for bounds in [at, *(other for other in others if other != at)]:
        low, high = bounds.undecided
        fused = fuse_across(known, judged, bounds)
        _, f1 = best_threshold(*drawn_by_people(fused, undismissed))
        name = f"up to {bounds.largest_side:g} px, scores {low:g}-{high:g}, box {bounds.box:g}: {sent(known, bounds):.0f} a photo"
        show(name, average_precision(fused, images) | {"F1": f1})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--config", type=Path, required=True, help="its [[dev]] sources are used")
    parser.add_argument("--candidates", type=Path, default=Path("candidates"), help="some of these calibrate the int8 copies")
    parser.add_argument("--undecided", type=float, nargs=2, default=Bounds.undecided)
    parser.add_argument("--lowest", nargs="*", default=["fast=0.3"], metavar="NAME=SCORE", help="lowest score for a model")
    parser.add_argument(
        "--largest", nargs="*", default=["accurate=12", "thorough=12"], metavar="NAME=SIDE", help="largest side for a model"
    )
    parser.add_argument("--box", type=float, default=Bounds.box)
    parser.add_argument("--scrfd", type=Path, action="append", default=[], help="another detector to measure with; repeatable")
    parser.add_argument("--yunet", type=Path, action="append", default=[])
    parser.add_argument("--rules-only", action="store_true", help="leave the networks as they are, for a new first stage")
    parser.add_argument("--search", action="store_true", help="only show what other bounds would give")
    return parser.parse_args()


def export_networks(checkpoint: Path, candidates: Path | None) -> SecondStageRecord:
    """Write both networks, their int8 copies and their weights into the package, unless there are no candidates to calibrate on;
    gives their record, still without rules."""
    stem = WEIGHTS / "second_stage.onnx"
    if candidates is not None:
        print(f"largest difference from torch {export_second_stage(checkpoint, stem):.1e}")
        calibrate(stem, candidates)
    generator, discriminator, settings = load_second_stage(stem.with_suffix(".safetensors"))
    files = {part: stem.with_suffix(f".{part}.onnx") for part in ("generator", "discriminator")}
    hashed = [*files.values(), *map(int8_file, files.values())]
    return SecondStageRecord(
        variant=settings["variant"],
        generator=files["generator"].name,
        discriminator=files["discriminator"].name,
        sha256={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in hashed},
        parameters=sum(p.numel() for network in (generator, discriminator) for p in network.parameters()),
        gmac=round(
            (count_macs(generator, torch.zeros(1, 3, 16, 16)) + count_macs(discriminator, torch.zeros(1, 3, 64, 64))) / 1e9, 4
        ),
        training_data=DATA,
        rules={},
    )


def main() -> None:
    arguments = parse_arguments()
    usual = Bounds(Bounds.largest_side, tuple(arguments.undecided), arguments.box)
    lowest, largest = by_model(arguments.lowest), by_model(arguments.largest)
    sources = load_config(arguments.config, {}).dev
    images, _ = read_sources(sources)
    undismissed, _ = read_sources([dataclasses.replace(source, doubt=0.0) for source in sources])

    record = export_networks(arguments.checkpoint, None if arguments.rules_only else arguments.candidates)
    unused = FusionRule(Bounds(), (0, 1, 0, 0), (0, 1, 0, 0, 0, 0))
    second = SecondStage(record, unused)

    rules: dict[str, FusionRule] = {}
    measured: dict[str, Any] = {}
    detectors = {name: own(name) for name in OWN}
    for one in others(arguments.scrfd, arguments.yunet):
        detectors[one.name] = lambda pixels, one=one: Faces(*one.detect(pixels, LOWEST_SCORE))
    for name, detect in detectors.items():
        own_network = name in OWN
        photos = ((read_image(image.path), image) for image in track(images, f"{name} on the dev split"))
        bounds = Bounds(
            largest.get(name, usual.largest_side),
            (lowest.get(name, usual.undecided[0]), usual.undecided[1]),
            usual.box,
            OVERLAP_OF_OWN if own_network else usual.overlap,
        )
        all_asked = dataclasses.replace(bounds, largest_side=max(bounds.largest_side, usual.largest_side))
        known = gather(detect, photos, WIDEST if arguments.search else all_asked)
        judged = judge_all(known, second.judge)
        before = average_precision(proposals_of(known), images)
        show(name, before)
        if arguments.search:
            search(known, judged, images, undismissed, bounds)
            continue
        if own_network:
            fused = fuse_across(known, judged, bounds)
            after = average_precision(fused, images)
            rules[name] = learn_rule(known, judged, bounds)
            if name == "accurate":
                rules["other"] = learn_rule(known, judged, usual)
        else:
            after = average_precision(fuse(known, judged, rules["other"]), images)
        show(f"{name}, both stages", after)
        measured[name] = {"proposals": before, "both": after, "candidates": sent(known, bounds)}
    if arguments.search:
        return
    record = dataclasses.replace(record, rules={name: rule.to_dict() for name, rule in rules.items()})
    write_atomically(WEIGHTS / "second_stage.json", (json.dumps(dataclasses.asdict(record), indent=1) + "\n").encode())
    write_atomically(ROOT / "docs/second_stage.json", (json.dumps(measured, indent=1) + "\n").encode())


def calibrate(stem: Path, folder: Path) -> None:
    """Write the int8 copies of both networks."""
    candidates = read_candidates(folder)
    low = candidates.low[:: max(1, len(candidates) // _CALIBRATING)].transpose(0, 3, 1, 2).astype(np.float32) / 255
    crops = [np.ascontiguousarray(low[start : start + 32]) for start in range(0, len(low), 32)]
    generator = stem.with_suffix(".generator.onnx")
    restored = [load_session(generator, GENERATOR, RuntimeOptions(precision="float32")).run(batch)[1] for batch in crops]
    quantise(generator, GENERATOR, crops)
    quantise(stem.with_suffix(".discriminator.onnx"), DISCRIMINATOR, restored)


def by_model(texts: Sequence[str]) -> dict[str, float]:
    """Numbers given as NAME=NUMBER, by name."""
    return {name: float(number) for name, _, number in (text.partition("=") for text in texts)}


def others(scrfd_files: Sequence[Path], yunet_files: Sequence[Path]) -> list[Any]:
    """Detectors of others, as the benchmarks run them."""
    sys.path.append(str(ROOT / "benchmarks"))
    from detectors import scrfd, yunet

    return [scrfd(path, 2) for path in scrfd_files] + [yunet(path, 2) for path in yunet_files]


def own(name: str) -> Any:
    """The first stage of a shipped model alone."""
    detector = Detector(name, threshold=LOWEST_SCORE, stages="proposals")
    return lambda pixels: detector.detect(pixels)


if __name__ == "__main__":
    main()
