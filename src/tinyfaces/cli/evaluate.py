"""`tinyfaces evaluate`: a detector against known faces."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinyfaces.cli.options import (
    INPUT,
    OUTPUT,
    SOME_FAILED,
    SPEED,
    UNUSABLE,
    DetectorOptions,
    ModelName,
    command,
    errors,
    evaluate_app,
    fail,
    folder_of,
    json_file,
    keep,
    missing_extra,
    overrides_of,
    reason,
)
from tinyfaces.cli.runs import Run
from tinyfaces.evaluation import LOWEST_SCORE
from tinyfaces.files import write_atomically
from tinyfaces.jobs import formats
from tinyfaces.jobs.finding import find_faces
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile, Inputs
from tinyfaces.jobs.journal import Outcome


@dataclass(frozen=True)
class ScoreOptions:
    """Where the numbers go, and whether an earlier run is continued."""

    json: Annotated[Path | None, typer.Option(rich_help_panel=OUTPUT, help="Also write the numbers to this file.")] = None
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=SPEED, help="Skip photos that an earlier run has done; needs --json.")
    ] = False


@command(evaluate_app, "wider")
def evaluate_wider(
    detector: DetectorOptions,
    numbers: ScoreOptions,
    ground_truth: Annotated[
        Path,
        typer.Option(rich_help_panel=INPUT, help="Folder of wider_face_val.mat and wider_{easy,medium,hard}_val.mat."),
    ],
    images: Annotated[Path | None, typer.Option(rich_help_panel=INPUT, help="The folder WIDER_val/images, to run on.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(rich_help_panel=INPUT, help="Folder or zip of official prediction files, scored in place of a detector."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, help="Folder for the detector's official prediction files.")
    ] = None,
) -> None:
    """WIDER FACE's official average precision: easy, medium, hard; also all, tiny (<= 16 px) and micro (<= 10 px)."""
    from tinyfaces.data.annotations import AnnotationError
    from tinyfaces.evaluation import wider

    if (images is None) == (predictions is None):
        fail("give either --images or --predictions")
    if save is not None and images is None:
        fail("--save goes with --images")
    if save is not None:
        folder_of("--save", save)
    json_file("--json", numbers.json)
    known = sorted(ground_truth.glob("*.mat"))
    keep([*known, *([predictions] if predictions is not None else [])], [numbers.json] if numbers.json is not None else [])
    lacking = None
    try:
        truth = wider.read_ground_truth(ground_truth)
        if images is None:
            assert predictions is not None
            found = wider.read_predictions(predictions)
            lacking = wider.without_predictions(found, truth)
        else:
            paths = wider.image_paths(truth, images)
            files = [InputFile(path, Path(f"{key}.jpg")) for key, path in paths.items()]
            found = {
                result.name.with_suffix("").as_posix(): wider.prediction_rows(result.faces.boxes, result.faces.scores)
                for result in _results(files, detector, numbers, known, save)
            }
        results = wider.score(found, truth)
    except (AnnotationError, wider.PredictionError) as error:
        fail(str(error))
    except ImportError as error:
        missing_extra(error, "evaluate")
    _show_ap({name: (result.ap, result.faces) for name, result in results.items()}, numbers.json)
    if lacking is not None:  # below the numbers, where nobody overlooks it
        errors.print(f"tinyfaces: WARNING: {predictions}: {lacking}")


@command(evaluate_app, "coco")
def evaluate_coco(
    detector: DetectorOptions,
    numbers: ScoreOptions,
    annotations: Annotated[
        list[Path],
        typer.Option(rich_help_panel=INPUT, help="COCO detection file, .json or .json.gz; may be given several times."),
    ],
    images: Annotated[
        Path, typer.Option(rich_help_panel=INPUT, help="Folder that the file names in the annotations start from.")
    ],
) -> None:
    """Average precision at IoU 0.5 by face height, as COCO computes it, on boxes of your own."""
    from tinyfaces.data.annotations import AnnotationError, read_coco
    from tinyfaces.evaluation import coco

    json_file("--json", numbers.json)
    try:
        known = [image for file in annotations for image in read_coco(file, images)]
    except AnnotationError as error:
        fail(str(error))
    files = [InputFile(image.path, image.path) for image in known]
    found = [(result.faces.boxes, result.faces.scores) for result in _results(files, detector, numbers, annotations)]
    _show_ap({name: (band.ap, band.faces) for name, band in coco.score(found, known).items()}, numbers.json)


def _results(
    files: list[InputFile], options: DetectorOptions, numbers: ScoreOptions, given: list[Path], save: Path | None = None
) -> Iterator[ImageResult]:
    """What the detector finds in each photo, however unsure. Ends the command at the first photo that cannot be read, as the
    numbers would be wrong without it.

    given: files of known faces; save: where to write prediction files of WIDER FACE.
    """
    if numbers.resume and numbers.json is None:
        fail("--resume needs --json, beside which the earlier run left its journal")
    run = Run(Inputs(files, []), "finding faces")
    run.plan(save or Path(), lambda file: [formats.wider_name(file)] if save is not None else [], [numbers.json], given)
    journal = numbers.json.with_suffix(".journal") if numbers.json is not None else None
    run.open(options, LOWEST_SCORE, journal, resume=numbers.resume, settings={"command": "evaluate", "save": str(save)})

    def work(file: InputFile) -> Outcome:
        result, _ = find_faces(file, run.detector)
        for target in run.targets[file]:
            write_atomically(target, formats.as_wider(result).encode())
        return Outcome(result.to_record(), written=run.targets[file])

    for _, outcome in run.process(work):
        if outcome.problem is not None:
            run.journal.close(keep=True)
            raise typer.Exit(UNUSABLE)
    for file, record in run.records():
        yield ImageResult.from_record(file, record)
    run.finish(numbers.resume)


@command(evaluate_app, "ablation")
def evaluate_ablation(
    config: Annotated[Path, typer.Option(help="TOML file of the second stage, such as configs/ablation.toml.")],
    proposals: Annotated[Path, typer.Option(help="TOML file whose [[dev]] photos are measured, such as configs/wild_dev.toml.")],
    out: Annotated[Path, typer.Option(help="OUT.json and OUT.md are written.")],
    model: ModelName = "accurate",
    photos: Annotated[int | None, typer.Option(min=2, help="Measure on this many of them, evenly drawn; all by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train each variant so many times, each time from another seed.")] = 3,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; may be given several times.")
    ] = None,
) -> None:
    """Train the second stage with and without each of its parts, and measure what each contributes (the paper's claims).

    Variants that are already trained under the configuration's `out` are not trained again.
    """
    import shlex
    import sys

    try:
        from tinyfaces.detection.fusion import Bounds, FusionRule
        from tinyfaces.detection.runtime import processor_name
        from tinyfaces.training import ablation
        from tinyfaces.training.freed_memory import keep_freed_memory
        from tinyfaces.training.settings import load_config, load_second_stage_config
        from tinyfaces.training.sources import open_sources
        from tinyfaces.weights import second_stage
    except ImportError as error:
        missing_extra(error, "train")
    keep([config, proposals], [out.with_suffix(".json"), out.with_suffix(".md")])
    keep_freed_memory()
    try:
        chosen = load_second_stage_config(config, overrides_of(settings))
        sources = load_config(proposals, {})
        left_out: list[str] = []
        images, _, cache = open_sources(sources.dev, Path(sources.cache), left_out.append)
        for line in left_out:
            errors.print(f"tinyfaces: {line}")
        number = min(photos or len(images), len(images))
        drawn = [n * len(images) // number for n in range(number)]
        known = [(cache[n], images[n]) for n in drawn]
        rule = second_stage().rules.get(model)
        bounds = FusionRule.from_dict(rule).bounds if rule else Bounds()
        results = ablation.run_ablation(chosen, model, known, bounds, seeds, errors.print)
    except ValueError as error:
        fail(str(error))
    command = shlex.join(["tinyfaces", *sys.argv[1:]])
    tables = ablation.as_tables(results, command, f"{processor_name()}, {chosen.threads} threads", chosen)
    try:
        ablation.write(results, tables, out)
    except OSError as error:
        fail(reason(error, out))
    typer.echo(tables)
    if left_out:
        raise typer.Exit(SOME_FAILED)


def _show_ap(results: dict[str, tuple[float, int]], json_out: Path | None) -> None:
    table = Table("subset", "faces", "AP")
    for name, (ap, faces) in results.items():
        table.add_row(name, str(faces), "-" if math.isnan(ap) else f"{ap:.4f}")
    Console(highlight=False).print(table)
    if json_out is not None:
        numbers = {name: {"ap": None if math.isnan(ap) else ap, "faces": faces} for name, (ap, faces) in results.items()}
        try:
            write_atomically(json_out, (json.dumps(numbers, indent=1) + "\n").encode())
        except OSError as error:
            fail(reason(error, json_out))
