"""`tinyfaces restore`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.options import (
    OUTPUT,
    DetectorOptions,
    InputOptions,
    ProgressOptions,
    Threshold,
    app,
    command,
    folder_of,
)
from tinyfaces.files import clear_partials, named_after, write_atomically
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.contact_sheets import contact_sheet, low_crops, pair
from tinyfaces.jobs.finding import find_faces
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.own_results import as_marked_picture, is_marked_picture


@command(app)
def restore(
    inputs: InputOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    threshold: Threshold = None,
    out: Annotated[Path, typer.Option(rich_help_panel=OUTPUT, help="Folder for the pictures.")] = Path("restored"),
    max_height: Annotated[
        float,
        typer.Option(min=1, rich_help_panel=OUTPUT, help="Restore faces up to this height in pixels; larger ones gain nothing."),
    ] = 24.0,
) -> None:
    """Write each tiny face beside its restored version, and a contact sheet for each image.

    IMAGE.jpg gives IMAGE/000.png, IMAGE/001.png and so on, highest score first, with what the second stage sees on the left and
    what it makes of it on the right, and all of them in IMAGE_restored.png. A restored face shows what is likely, not what was
    there: it is no evidence of who someone is.

    Exit code: 0 if all images were read, 1 if some could not be, 2 if nothing could be done.
    """
    folder_of("--out", out)
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive, out), "restoring faces", progress.quiet)
    run.drop_videos("faces are restored in images only")
    run.plan(out, lambda file: [named_after(file.name, "_restored.png"), file.name.with_suffix("")], [out / "problems.csv"])
    settings = {"command": "restore", "max_height": max_height}
    run.open(detector, threshold, out / "restored.journal", resume=progress.resume, settings=settings)
    for file, outcome in run.process(lambda file: _on_image(file, run, max_height)):
        if outcome.record is not None and not progress.quiet:
            larger = outcome.record["faces"] - outcome.record["restored"]
            skipped = f", {larger} higher than {max_height:g} px skipped" if larger else ""
            typer.echo(
                f"{runs.shown(file.path)}: {counted(outcome.record['restored'], 'face')} restored{skipped}; "
                f"{runs.shown(run.targets[file][0])}"
            )
    if not progress.quiet:
        run.print_speed(Console(highlight=False))
    run.finish(progress.resume, out / "problems.csv")


def _on_image(file: InputFile, run: runs.Run, max_height: float) -> Outcome:
    result, image = find_faces(file, run.detector)
    faces = result.faces[result.faces.heights <= max_height]
    low, restored = low_crops(image, faces.boxes), run.detector.restore(image, faces)
    sheet, folder = run.targets[file]
    pairs = [folder / f"{number:03d}.png" for number in range(len(faces))]
    for path in pairs:
        if path.exists() and not is_marked_picture(path):
            raise ValueError(f"{path}: is no restored face, and is not overwritten")
    clear_partials(pairs)
    for path, small, large in zip(pairs, low, restored, strict=True):
        write_atomically(path, as_marked_picture(pair(small, large), "PNG"))
    write_atomically(sheet, as_marked_picture(contact_sheet(low, restored), "PNG"))
    record = {"width": result.width, "height": result.height, "faces": len(result.faces), "restored": len(faces)}
    return Outcome(record, written=[*pairs, sheet])
