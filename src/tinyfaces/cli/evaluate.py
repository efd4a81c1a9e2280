"""`tinyfaces evaluate`: a detector against known faces."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinyfaces.cli.detect import results_of
from tinyfaces.cli.options import (
    BackendOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ScaleOption,
    StagesOption,
    ThreadsOption,
    errors,
    evaluate_app,
    fail,
    missing_extra,
    open_detector,
    overrides_of,
    reason,
)
from tinyfaces.evaluation import LOWEST_SCORE
from tinyfaces.files import write_atomically


@evaluate_app.command("wider")
def evaluate_wider(
    ground_truth: Annotated[Path, typer.Option(help="Folder of wider_face_val.mat and wider_{easy,medium,hard}_val.mat.")],
    images: Annotated[Path | None, typer.Option(help="WIDER_val/images; the detector runs over it.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder or zip of official prediction files, scored instead of running the detector.")
    ] = None,
    model: ModelOption = "accurate",
    stages: StagesOption = None,
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the detector's official prediction files.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """WIDER FACE's official average precision: easy, medium, hard; also all, tiny (<= 16 px) and micro (<= 10 px)."""
    from tinyfaces.data.annotations import AnnotationError
    from tinyfaces.evaluation import wider
    from tinyfaces.jobs import formats
    from tinyfaces.jobs.inputs import InputFile

    if (images is None) == (predictions is None):
        fail("give either --images or --predictions")
    if save is not None and images is None:
        fail("--save goes with --images")
    try:
        truth = wider.read_ground_truth(ground_truth)
        if predictions is not None:
            found = wider.read_predictions(predictions)
        else:
            assert images is not None
            paths = wider.image_paths(truth, images)
            detector = open_detector(model, LOWEST_SCORE, scale, device, backend, threads, stages, precision)
            files = [InputFile(path, Path(f"{key}.jpg")) for key, path in paths.items()]
            found = {}
            for result, _, problem in results_of(detector, files, quiet=False):
                if problem is not None:
                    fail(problem)
                found[result.name.with_suffix("").as_posix()] = wider.prediction_rows(result.faces.boxes, result.faces.scores)
                if save is not None:
                    write_atomically(save / formats.wider_name(result), formats.as_wider(result).encode())
        results = wider.score(found, truth)
    except (AnnotationError, wider.PredictionError) as error:
        fail(str(error))
    except ImportError as error:
        missing_extra(error, "evaluate")
    _show_ap({name: (result.ap, result.faces) for name, result in results.items()}, json_out)


@evaluate_app.command("coco")
def evaluate_coco(
    annotations: Annotated[list[Path], typer.Option(help="COCO detection json or json.gz; may be given several times.")],
    images: Annotated[Path, typer.Option(help="Folder that the file names in the annotations start from.")],
    model: ModelOption = "accurate",
    stages: StagesOption = None,
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Average precision at IoU 0.5 by face height, COCO's way, on boxes of one's own."""
    from tinyfaces.data.annotations import AnnotationError, read_coco
    from tinyfaces.evaluation import coco
    from tinyfaces.jobs.inputs import InputFile

    try:
        known = [image for file in annotations for image in read_coco(file, images)]
    except AnnotationError as error:
        fail(str(error))
    detector = open_detector(model, LOWEST_SCORE, scale, device, backend, threads, stages, precision)
    found = []
    for result, _, problem in results_of(detector, [InputFile(image.path, image.path) for image in known], quiet=False):
        if problem is not None:
            fail(problem)
        found.append((result.faces.boxes, result.faces.scores))
    _show_ap({name: (band.ap, band.faces) for name, band in coco.score(found, known).items()}, json_out)


@evaluate_app.command("ablation")
def evaluate_ablation(
    config: Annotated[Path, typer.Option(help="TOML file of the second stage, such as configs/second_stage.toml.")],
    proposals: Annotated[Path, typer.Option(help="TOML file of the proposal network: its [[dev]] photos are measured.")],
    out: Annotated[Path, typer.Option(help="OUT.json and OUT.md are written.")],
    model: ModelOption = "accurate",
    photos: Annotated[int | None, typer.Option(min=2, help="Measure on so many of them, evenly drawn; all if left out.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
) -> None:
    """Train the second stage with and without each of its parts, and measure what each brings (the paper's claims).

    A way whose training is finished under the configuration's `out` is not trained again.
    """
    import shlex
    import sys

    try:
        from tinyfaces.detection.fusion import Bounds
        from tinyfaces.detection.runtime import processor_name
        from tinyfaces.training import ablation
        from tinyfaces.training.cache import open_cache
        from tinyfaces.training.settings import load_config, load_second_stage_config, read_sources
    except ImportError as error:
        missing_extra(error, "train")
    try:
        chosen = load_second_stage_config(config, overrides_of(settings))
        sources = load_config(proposals, {})
        images, _ = read_sources(sources.dev)
        cache = open_cache(images, Path(sources.cache))
        number = min(photos or len(images), len(images))
        drawn = [n * len(images) // number for n in range(number)]
        known = [(cache[n], images[n]) for n in drawn]
        results = ablation.run_ablation(chosen, model, known, Bounds(), errors.print)
    except ValueError as error:
        fail(str(error))
    command = shlex.join(["tinyfaces", *sys.argv[1:]])
    tables = ablation.as_tables(results, command, f"{processor_name()}, {chosen.threads} threads", chosen)
    try:
        ablation.write(results, tables, out)
    except OSError as error:
        fail(reason(error, out))
    typer.echo(tables)


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
