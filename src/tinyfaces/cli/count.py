"""`tinyfaces count`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.options import (
    INPUT,
    OUTPUT,
    DetectorOptions,
    Every,
    InputOptions,
    ProgressOptions,
    Threshold,
    app,
    command,
    fail,
    folder_of,
    spacing_of,
)
from tinyfaces.cli.tables import print_counts
from tinyfaces.files import named_after, write_atomically
from tinyfaces.jobs.counting import Polygon, RegionError, count_regions, draw_density, polygon, read_regions
from tinyfaces.jobs.finding import preview
from tinyfaces.jobs.formats import csv_lines
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.outputs import OutputError, document_of
from tinyfaces.jobs.own_results import as_marked_picture
from tinyfaces.jobs.spacing import Spacing


class CountFormat(StrEnum):
    """Output formats of `count`."""

    json = "json"
    csv = "csv"


@command(app)
def count(
    inputs: InputOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    threshold: Threshold = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=INPUT,
            help='JSON file of polygons to count in, {"stand A": [[x, y], ...]}, in pixels or relative to the image (0-1).',
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'X,Y X,Y X,Y …'",
            rich_help_panel=INPUT,
            help="Corners of a polygon to count in; may be given several times.",
        ),
    ] = None,
    every: Every = "1",
    density: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, help="Folder for density maps, pictures that show where the faces are."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Folder for the numbers, or a .json or .csv file; without it, only a table is shown."
        ),
    ] = None,
    format: Annotated[
        CountFormat | None,
        typer.Option(rich_help_panel=OUTPUT, help="Format of the numbers; without --out, they go to the standard output."),
    ] = None,
) -> None:
    """Count the faces in images, and the different faces in videos.

    Exit code: 0 if all files were read, 1 if some could not be, 2 if nothing could be done.
    """
    polygons = _polygons(regions, region or [])
    spacing = spacing_of(every)
    chosen = format.value if format is not None else "json"
    if out is not None:
        try:
            out, chosen = document_of(out, format and format.value, [one.value for one in CountFormat], "counts")
        except OutputError as error:
            fail(str(error))
    if density is not None:
        folder_of("--density", density)
    if progress.resume and out is None:
        fail("--resume needs --out, where the results of the earlier run are")
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive), "counting", progress.quiet)
    if polygons or density is not None:
        run.drop_videos("regions and density maps are for images only")
    given = [regions] if regions is not None else []
    problems = out.with_name(f"{out.stem}_problems.csv") if out is not None else None
    run.plan(density or Path(), lambda file: [_picture_name(file)] if density is not None else [], [out, problems], given)
    journal = out.with_suffix(".journal") if out is not None else None
    settings = {
        "command": "count",
        "regions": {name: region.tolist() for name, region in polygons.items()},
        "density": str(density),
        **spacing.settings(),
    }
    run.open(detector, threshold, journal, resume=progress.resume, settings=settings)
    for _ in run.process(lambda file: _on_image(file, run, polygons), lambda file: _on_video(file, run, spacing)):
        pass
    records = [{"file": runs.shown(file.path), **record} for file, record in run.records()]
    text = _csv(records, list(polygons)) if chosen == "csv" else json.dumps({"files": records}, indent=1) + "\n"
    if out is not None:
        run.write(out, [text])
    elif format is not None:
        typer.echo(text, nl=False)
    if not progress.quiet:
        console = Console(stderr=out is None and format is not None, highlight=False)
        print_counts(records, list(polygons), console)
        run.print_speed(console)
        runs.print_written([*([out] if out else []), *(target for target in run.all_targets if runs.is_there(target))], console)
    run.finish(progress.resume, problems)


def _polygons(path: Path | None, given: list[str]) -> dict[str, Polygon]:
    try:
        found = read_regions(path) if path is not None else {}
        for number, text in enumerate(given, start=1):
            corners = [corner.split(",") for corner in text.split()]
            found[f"region {number}"] = polygon(corners, f"--region '{text}'")
    except RegionError as error:
        fail(str(error))
    return found


def _on_image(file: InputFile, run: runs.Run, polygons: dict[str, Polygon]) -> Outcome:
    result, image = run.find_faces(file)
    targets = run.targets[file]
    for target in targets:
        drawn = draw_density(result.faces, preview(image), result.width, result.height, polygons)
        write_atomically(target, as_marked_picture(drawn, "PNG"))
    record: dict[str, Any] = {"width": result.width, "height": result.height, "faces": len(result.faces)}
    if polygons:
        record["regions"] = count_regions(result.faces, polygons, result.width, result.height)
    return Outcome(record, written=targets)


def _on_video(file: InputFile, run: runs.Run, spacing: Spacing) -> Outcome:
    with run.clip(file, spacing=spacing) as clip:
        for _ in clip.follow():
            pass
        record = clip.summary()
        return Outcome({**record, "faces": record["tracks"]}, clip.video.problem)


def _picture_name(file: InputFile) -> Path:
    return named_after(file.name, "_density.png")


def _csv(records: list[dict[str, Any]], names: list[str]) -> str:
    rows = ((record["file"], record["faces"], *(record.get("regions", {}).get(name, "") for name in names)) for record in records)
    return csv_lines([("file", "faces", *names), *rows])
