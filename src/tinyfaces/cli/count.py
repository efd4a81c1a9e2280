"""`tinyfaces count`."""

import io
import json
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tinyfaces.cli import runs
from tinyfaces.cli.options import (
    BackendOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ScaleOption,
    ThreadsOption,
    app,
    fail,
    open_detector,
    reason,
)
from tinyfaces.files import write_atomically
from tinyfaces.jobs.inputs import InputFile, find_inputs

_TABLE_ROWS = 30
_PREVIEW_SIDE = 2000  # of what is shown of an image too large for memory


class CountFormat(StrEnum):
    """Output formats of `count`."""

    json = "json"
    csv = "csv"


@app.command()
def count(
    paths: runs.PathsArgument,
    regions: Annotated[
        Path | None,
        typer.Option(help='JSON file of polygons to count in, {"stand A": [[x, y], ...]}: pixels, or 0-1 relative to the image.'),
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(metavar="'X,Y X,Y X,Y …'", help="A polygon to count in, by its corners; repeatable.")
    ] = None,
    density: Annotated[
        Path | None, typer.Option(help="Folder for pictures of where the faces are, a density map over each image.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the numbers, .json or .csv. Without it only the table is shown.")
    ] = None,
    format: Annotated[CountFormat | None, typer.Option(help="Of the numbers; to the standard output without --out.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which a detection counts; the model's own if left out.")
    ] = None,
    model: ModelOption = "accurate",
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    recursive: runs.RecursiveOption = False,
    quiet: runs.QuietOption = False,
) -> None:
    """Count the faces in images, and the different faces in videos.

    Exit code: 0 all files were read, 1 some were not, 2 nothing could be done.
    """
    polygons = _polygons(regions, region or [])
    chosen = format.value if format else ("csv" if out is not None and out.suffix.lower() == ".csv" else "json")
    run = runs.start(find_inputs(paths, recursive), quiet)
    for video in run.videos:
        if polygons or density is not None:
            run.drop(video, f"{video.path}: is a video; regions and density maps are for images")
    run.plan(density or Path("density"), lambda file: [_picture_name(file)] if density is not None else [])
    run.leave_if_nothing()
    open_one = partial(open_detector, model, threshold, scale, device, backend, precision=precision)
    detectors = runs.open_detectors(run, threads, open_one)
    journal = runs.open_journal(None, {}, False)

    def image(file: InputFile) -> Any:
        target = run.targets[file][0] if density is not None else None
        return detectors.call(lambda detector: _count_image(file, target, detector, polygons))

    for _ in run.process(run.images, image, journal, detectors.size, "counting"):
        pass
    for _ in run.process(run.videos, lambda file: _count_video(file, detectors, quiet), journal):
        pass

    records = [
        {"file": runs.shown(file.path), **entry.record} for file, entry in journal.read(run.files) if entry.record is not None
    ]
    text = _csv(records, list(polygons)) if chosen == "csv" else json.dumps({"files": records}, indent=1) + "\n"
    if out is not None:
        try:
            write_atomically(out, text.encode())
        except OSError as error:
            fail(reason(error, out))
    elif format is not None:
        typer.echo(text, nl=False)
    if not quiet:
        console = Console(stderr=out is None and format is not None, highlight=False)
        _show(records, list(polygons), console)
        runs.tell_speed(run, console)
        runs.tell_written([*([out] if out else []), *(t for t in run.all_targets if t.exists())], console)
    run.finish(journal, False, None)


def _polygons(path: Path | None, given: list[str]) -> dict[str, Any]:
    from tinyfaces.jobs.counting import RegionError, polygon, read_regions

    try:
        found = read_regions(path) if path is not None else {}
        for number, text in enumerate(given, start=1):
            corners = [corner.split(",") for corner in text.split()]
            found[f"region {number}"] = polygon(corners, f"--region '{text}'")
    except RegionError as error:
        fail(str(error))
    return found


def _count_image(file: InputFile, target: Path | None, detector: Any, polygons: dict[str, Any]) -> Any:
    from tinyfaces.jobs.bulk import Outcome
    from tinyfaces.jobs.counting import count_regions, draw_density

    faces, pixels, width, height = runs.find_in(file, detector, _PREVIEW_SIDE if target is not None else None)
    if target is not None:
        content = io.BytesIO()
        draw_density(faces, pixels, width, height, polygons).save(content, "PNG")
        write_atomically(target, content.getvalue())
    record: dict[str, Any] = {"width": width, "height": height, "faces": len(faces)}
    if polygons:
        record["regions"] = count_regions(faces, polygons, width, height)
    return Outcome(record, [target] if target is not None else [])


def _count_video(file: InputFile, detectors: Any, quiet: bool) -> Any:
    from tinyfaces.jobs.bulk import Outcome

    open_clip = runs.clip_opener()
    with open_clip(file, detectors, quiet, "counting") as (video, clip):
        for _ in clip.follow():
            pass
        record = clip.summary()
        return Outcome({**record, "faces": record["tracks"]}, (), video.problem)


def _picture_name(file: InputFile) -> Path:
    return file.name.with_name(f"{file.name.stem}_density.png")


def _csv(records: list[dict[str, Any]], names: list[str]) -> str:
    from tinyfaces.jobs.formats import csv_lines

    rows: Iterator[Any] = (
        (record["file"], record["faces"], *(record.get("regions", {}).get(name, "") for name in names)) for record in records
    )
    return csv_lines([("file", "faces", *names), *rows])


def _show(records: list[dict[str, Any]], names: list[str], console: Console) -> None:
    table = Table("file", "faces", *names)
    for column in table.columns[1:]:
        column.justify = "right"
    for record in records[:_TABLE_ROWS]:
        most = f" ({record['most']} at most at once)" if "most" in record else ""
        counts = (str(record.get("regions", {}).get(name, "-")) for name in names)
        table.add_row(record["file"].replace("[", "\\["), f"{record['faces']}{most}", *counts)
    console.print(table)
    if len(records) > _TABLE_ROWS:
        console.print(f"and {len(records) - _TABLE_ROWS} more")
    if len(records) > 1:
        console.print(f"{sum(record['faces'] for record in records)} faces in {len(records)} files")
