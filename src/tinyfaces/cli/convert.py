"""`tinyfaces convert`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.detect import Copies, Format, NoScores, check_class_list, write_document, write_video_document
from tinyfaces.cli.options import INPUT, OUTPUT, DetectorOptions, app, command, fail
from tinyfaces.jobs.converting import image_result, input_files, losses, video_frames
from tinyfaces.jobs.formats import ImageResult, as_json_line
from tinyfaces.jobs.inputs import InputFile, Inputs, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.known_faces import Known, KnownFaces, KnownVideo
from tinyfaces.jobs.outputs import WHERE_VIDEOS_GO, Output, OutputError
from tinyfaces.jobs.result_files import read_box_files
from tinyfaces.parsing.texts import AnnotationError


@command(app)
def convert(
    boxes: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER",
            rich_help_panel=INPUT,
            help="Results in any format that anonymise --boxes reads.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            rich_help_panel=INPUT,
            help="The photos, searched with their folders; needed where the results do not say their sizes or whole names (yolo, "
            "wider, csv).",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(rich_help_panel=OUTPUT, help="Folder for the new files, or a .json, .jsonl, .csv or .xml file."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(rich_help_panel=OUTPUT, help="The new format; without --out, it goes to the standard output."),
    ] = None,
    no_scores: NoScores = False,
    copies: Copies = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Print errors only, not what the new format leaves out.")
    ] = False,
) -> None:
    """Turn results of one format into another. Nothing is detected.

    Exit code: 0 if all was converted, 1 if some could not be, 2 if nothing could be done.
    """
    if out is None and format is None:
        fail("give --format, --out, or both")
    try:
        output = Output.of(out, format and format.value, scores=not no_scores, pictures=False, copies=copies)
        given = read_box_files(boxes)
    except (OutputError, AnnotationError) as error:
        fail(str(error))
    photos = find_inputs([str(images)], recursive=True) if images is not None else Inputs([], [])
    entries, problems = input_files(given.entries, [file for file in photos.files if not file.is_video])
    inputs = Inputs([*entries], [*photos.problems, *given.problems, *problems])
    run = runs.Run(inputs, "converting", quiet)
    if not output.takes_videos:
        run.drop_videos(WHERE_VIDEOS_GO)
    check_class_list(output)
    beside = output.beside("_problems.csv")
    read = [*given.files, *(file.path for file in photos.files)]
    run.plan(output.folder, output.names, [output.document, output.class_list, beside], read)
    run.open(DetectorOptions(), None, detects=False)
    for line in losses({file: entries[file] for file in run.files}, output.format, scores=not no_scores):
        run.note(line)
    for file, outcome in run.process(
        lambda file: _on_image(file, entries[file], output, at_hand=images is not None),
        lambda file: _on_video(file, entries[file], output, run),
    ):
        if output.to_stdout and output.format == "jsonl" and outcome.record is not None and not file.is_video:
            sys.stdout.write(as_json_line(ImageResult.from_record(file, outcome.record)))
    if any(run.records()):
        write_document(run, output)
    if not quiet:
        console = Console(stderr=output.to_stdout, highlight=False)
        documents = [output.document] if output.document is not None and run.images else []
        runs.print_written([*documents, *(target for target in run.all_targets if runs.is_there(target))], console)
    run.finish(report=beside)


def _on_image(file: InputFile, entry: Known, output: Output, *, at_hand: bool) -> Outcome:
    assert isinstance(entry, KnownFaces)
    result = image_result(file, entry, output.format, at_hand=at_hand)
    return Outcome(result.to_record(), written=output.write(result))


def _on_video(file: InputFile, entry: Known, output: Output, run: runs.Run) -> Outcome:
    assert isinstance(entry, KnownVideo)
    size, frames = video_frames(entry)
    write_video_document(run, output, file, size, frames)
    written = [] if output.document is None else run.targets[file][:1]
    return Outcome({"width": size[0], "height": size[1], "frames": len(entry.frames)}, written=written)
