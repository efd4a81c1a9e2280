"""`tinyfaces detect`."""

import sys
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, TypeAlias

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.options import (
    OUTPUT,
    DetectorOptions,
    Every,
    InputOptions,
    ProgressOptions,
    Threshold,
    app,
    command,
    fail,
    spacing_of,
)
from tinyfaces.cli.remote import RayAddress, run_on_cluster
from tinyfaces.cli.tables import print_detections
from tinyfaces.cli.which_faces import FaceOptions
from tinyfaces.files import write_parts
from tinyfaces.jobs import formats
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.outputs import Output, OutputError
from tinyfaces.jobs.selection import ALL, Selection
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing

_CLASSES = "face\n"


class Format(StrEnum):
    """Output formats of `detect`."""

    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    wider = "wider"
    xmp = "xmp"
    cvat = "cvat"
    labelstudio = "labelstudio"
    fiftyone = "fiftyone"


Copies: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--copies", rich_help_panel=OUTPUT, help="With --format xmp: write copies of JPEG photos that hold the regions."
    ),
]


@command(app)
def detect(
    inputs: InputOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    faces: FaceOptions,
    threshold: Threshold = None,
    out: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Folder for the results, or a .json, .jsonl or .csv file; without it, a table is shown.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(rich_help_panel=OUTPUT, help="Format of the results; without --out, they go to the standard output."),
    ] = None,
    save_images: Annotated[
        bool,
        typer.Option("--save-images", rich_help_panel=OUTPUT, help="Also write images with framed faces, to --out or faces/."),
    ] = False,
    no_scores: Annotated[
        bool,
        typer.Option("--no-scores", rich_help_panel=OUTPUT, help="Leave scores out of YOLO files, as labelling tools expect."),
    ] = False,
    copies: Copies = False,
    every: Every = "1",
    ray: RayAddress = None,
) -> None:
    """Find the faces in images, and follow them through videos.

    Exit code: 0 if all files were read, 1 if some could not be, 2 if nothing could be done.
    """
    selection, spacing = faces.selection(), spacing_of(every)
    if ray is not None:
        if format is not None or save_images or no_scores or copies:
            fail("--ray writes Parquet files; --format, --save-images, --no-scores and --copies do not go with it")
        if spacing != EVERY_FRAME:
            fail("--every is for videos, which --ray leaves out")
        if selection != ALL:
            fail("--ray writes all faces; --min-height, --max-height, --only-region and --except-region do not go with it")
        run_on_cluster(ray, inputs, out, detector, threshold, progress)
        return
    try:
        output = Output.of(out, format and format.value, scores=not no_scores, pictures=save_images, copies=copies)
    except OutputError as error:
        fail(str(error))
    if no_scores and output.format != "yolo":
        fail("--no-scores goes with --format yolo")
    if progress.resume and not output.on_disk:
        fail("--resume needs --out, where the results of the earlier run are")
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive), "finding faces", progress.quiet)
    if not output.takes_videos:
        run.drop_videos("its faces are written as json, jsonl or csv to --out, or as jsonl to the standard output")
    check_class_list(output)
    also = [output.document, output.class_list, output.beside("_problems.csv")]
    run.plan(output.folder, output.names, also, faces.files())
    settings = {"command": "detect", "format": output.format, "scores": output.scores, "pictures": output.pictures}
    settings |= selection.settings() | spacing.settings()
    if copies:
        settings["copies"] = True
    run.open(detector, threshold, output.beside(".journal"), resume=progress.resume, settings=settings)
    for file, outcome in run.process(
        lambda file: _on_image(file, output, run, selection), lambda file: _on_video(file, output, run, selection, spacing)
    ):
        if output.to_stdout and output.format == "jsonl" and outcome.record is not None and not file.is_video:
            sys.stdout.write(formats.as_json_line(ImageResult.from_record(file, outcome.record)))
            sys.stdout.flush()
    write_document(run, output)
    if not progress.quiet:
        console = Console(stderr=output.to_stdout, highlight=False)
        results = (ImageResult.from_record(*item) for item in run.records(run.images))
        print_detections(results, list(run.records(run.videos)), console)
        documents = [output.document] if output.document is not None and run.images else []
        runs.print_written([*documents, *(target for target in run.all_targets if runs.is_there(target))], console)
        run.print_speed(console)
    run.finish(progress.resume, output.beside("_problems.csv"))


def _on_image(file: InputFile, output: Output, run: runs.Run, selection: Selection) -> Outcome:
    result, image = run.find_faces(file)
    result = replace(result, faces=selection.pick(result.faces, result.width, result.height)[0])
    return Outcome(result.to_record(), written=output.write(result, image))


def _on_video(file: InputFile, output: Output, run: runs.Run, selection: Selection, spacing: Spacing) -> Outcome:
    """Find and follow faces, and write them frame by frame."""
    with run.clip(file, selection=selection, spacing=spacing) as clip:
        frames = clip.results()
        written = []
        if output.format is None:
            for _ in frames:
                pass
        else:
            parts = formats.VIDEO_DOCUMENTS[output.format](file.path, *clip.video.shape.size, frames)
            if output.document is None:
                sys.stdout.writelines(parts)
            else:
                written.append(run.targets[file][0])
                write_parts(written[0], parts)
        return Outcome(clip.summary(), clip.video.problem, written)


def write_document(run: runs.Run, output: Output) -> None:
    """Write what stands in one file for all images, in the standard output but for jsonl, which is written as it comes."""
    if output.format in formats.DOCUMENTS and run.images:
        parts = formats.DOCUMENTS[output.format](ImageResult.from_record(*item) for item in run.records(run.images))
        if output.document is not None:
            run.write(output.document, parts)
        elif output.format != "jsonl":  # which was written as it came
            sys.stdout.writelines(parts)
    if output.class_list is not None:
        run.write(output.class_list, [_CLASSES])


def check_class_list(output: Output) -> None:
    """Leave a list of other classes as it is."""
    try:
        other = output.class_list is not None and output.class_list.read_text(errors="replace").split() != _CLASSES.split()
    except OSError:  # there is none
        return
    if other:
        fail(f"{output.class_list}: lists other classes than face; choose another folder")
