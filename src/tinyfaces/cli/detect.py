"""`tinyfaces detect`."""

import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

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
    folder_of,
    spacing_of,
)
from tinyfaces.cli.remote import RayAddress, options_given, refuse_with_ray, run_on_cluster
from tinyfaces.cli.tables import print_detections
from tinyfaces.cli.which_faces import FaceOptions
from tinyfaces.files import write_parts
from tinyfaces.jobs import formats
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.face_crops import MARGIN, FaceCrops
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.outputs import WHERE_VIDEOS_GO, Output, OutputError
from tinyfaces.jobs.selection import Selection
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.clips import Clip
    from tinyfaces.jobs.track_crops import TrackCrops
    from tinyfaces.jobs.tracking import TrackedFaces

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


NoScores: TypeAlias = Annotated[
    bool,
    typer.Option("--no-scores", rich_help_panel=OUTPUT, help="Leave scores out of YOLO files, as labelling tools expect."),
]
Copies: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--copies", rich_help_panel=OUTPUT, help="With --format xmp: write copies of JPEG photos that hold the regions."
    ),
]


class Show(StrEnum):
    """What stands beside a frame."""

    scores = "scores"


@dataclass(frozen=True)
class PictureOptions:
    """Pictures of what was found."""

    save_images: Annotated[
        bool,
        typer.Option("--save-images", rich_help_panel=OUTPUT, help="Also write images with framed faces, to --out or faces/."),
    ] = False
    save_video: Annotated[
        bool,
        typer.Option(
            "--save-video",
            rich_help_panel=OUTPUT,
            help="Also write videos with framed faces and the numbers of their tracks, to --out or faces/.",
        ),
    ] = False
    show: Annotated[
        Show | None,
        typer.Option(rich_help_panel=OUTPUT, help="With --save-images or --save-video: write the score above each frame."),
    ] = None
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Also write each face to this folder: IMAGE_face_000.png and so on, highest score first. "
            "Of videos, the best view of each track: VIDEO_face_007.png for track 7.",
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=OUTPUT,
            help="With --crops: what is shown around a face on each side, relative to its width and height. By default 0.25.",
        ),
    ] = None

    def check(self) -> None:
        """End the command where options do not go together."""
        if self.show is not None and not self.save_images and not self.save_video:
            fail("--show goes with --save-images or --save-video")
        if self.margin is not None and self.crops is None:
            fail("--margin goes with --crops")
        if self.crops is not None:
            folder_of("--crops", self.crops)

    def added_to(self, output: Output, run: runs.Run) -> Output:
        """The output of a run, with these too."""
        margin = MARGIN if self.margin is None else self.margin
        crops = None if self.crops is None else FaceCrops(self.crops, margin, run.is_given)
        return replace(output, show_scores=self.show is Show.scores, crops=crops, videos=self.save_video)

    def settings(self) -> dict[str, Any]:
        """What results depend on beside frames."""
        shown: dict[str, Any] = {} if self.show is None else {"show": self.show.value}
        if self.save_video:
            shown["videos"] = True
        return shown if self.crops is None else {**shown, "crops": runs.shown(self.crops), "margin": self.margin}


@command(app)
def detect(
    inputs: InputOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    faces: FaceOptions,
    pictures: PictureOptions,
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
    no_scores: NoScores = False,
    copies: Copies = False,
    every: Every = "1",
    ray: RayAddress = None,
) -> None:
    """Find the faces in images, and follow them through videos.

    Exit code: 0 if all files were read, 1 if some could not be, 2 if nothing could be done.
    """
    selection, spacing = faces.selection(), spacing_of(every)
    if ray is not None:
        of_files = {"--format": format is not None, "--no-scores": no_scores, "--copies": copies}
        refuse_with_ray({**of_files, **options_given(pictures)}, "writes Parquet files")
        refuse_with_ray({"--every": spacing != EVERY_FRAME}, "leaves videos out")
        refuse_with_ray(options_given(faces), "writes all faces")
        run_on_cluster(ray, inputs, out, detector, threshold, progress)
        return
    pictures.check()
    try:
        output = Output.of(out, format and format.value, scores=not no_scores, pictures=pictures.save_images, copies=copies)
    except OutputError as error:
        fail(str(error))
    if progress.resume and not output.on_disk:
        fail("--resume needs --out, where the results of the earlier run are")
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive), "finding faces", progress.quiet)
    if not output.takes_videos:
        run.drop_videos(WHERE_VIDEOS_GO)
    if pictures.save_video and not run.videos:
        fail("--save-video is for videos, and none was given")
    check_class_list(output)
    output = pictures.added_to(output, run)
    also = [output.document, output.class_list, output.beside("_problems.csv")]
    run.plan(Path(), output.targets, also, faces.files())
    settings = {"command": "detect", "format": output.format, "scores": output.scores, "pictures": output.pictures}
    settings |= selection.settings() | pictures.settings() | spacing.settings()
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
        crops = set() if output.crops is None else {output.crops.first(file) for file in run.files}
        written = [target for target in run.all_targets if target not in crops and runs.is_there(target)]
        runs.print_written([*documents, *written], console)
        if output.crops is not None:
            faces_cut = sum(len(record["scores"]) for _, record in run.records(run.images))
            faces_cut += sum(record["crops"] for _, record in run.records(run.videos))
            console.print(f"{counted(faces_cut, 'crop')} in {runs.shown(output.crops.folder)}", soft_wrap=True, markup=False)
        run.print_speed(console)
    run.finish(progress.resume, output.beside("_problems.csv"))


def _on_image(file: InputFile, output: Output, run: runs.Run, selection: Selection) -> Outcome:
    result, image = run.find_faces(file)
    result = replace(result, faces=selection.pick(result.faces, result.width, result.height)[0])
    return Outcome(result.to_record(), written=output.write(result, image))


def _on_video(file: InputFile, output: Output, run: runs.Run, selection: Selection, spacing: Spacing) -> Outcome:
    """Find and follow faces, and write them frame by frame."""
    with run.clip(file, selection=selection, spacing=spacing) as clip:
        crops = None
        if output.crops is not None:
            from tinyfaces.jobs.track_crops import TrackCrops

            crops = TrackCrops(output.crops, file, clip.video)
        with closing(_results(clip, output, file, run, crops)) as frames:
            if output.format is None:
                for _ in frames:
                    pass
            else:
                write_video_document(run, output, file, clip.video.shape.size, frames)
        cut = [] if crops is None else [*crops.written.values()]
        if output.crops is not None and clip.video.problem is None:
            output.crops.remove_other_tracks(file, cut)
        written = [output.folder / name for name in output.names(file)]
        return Outcome({**clip.summary(), "crops": len(cut)}, clip.video.problem, [*written, *cut])


def _results(
    clip: "Clip", output: Output, file: InputFile, run: runs.Run, crops: "TrackCrops | None"
) -> Generator["TrackedFaces", None, None]:
    """The faces frame by frame, while crops and a drawn video are written, if they are wanted."""
    on_frame = (lambda frame, settled: None) if crops is None else crops.add
    target = output.drawn_video(file)
    if target is None:
        yield from clip.results(on_frame=on_frame)
    else:
        from tinyfaces.jobs.drawn_videos import write_drawn

        yield from write_drawn(
            clip, target, scores=output.show_scores, on_frame=on_frame,
            on_losses=lambda losses: run.note(f"{target}: written without {', '.join(losses)}"),
        )  # fmt: skip


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


def write_video_document(
    run: runs.Run, output: Output, file: InputFile, size: tuple[int, int], frames: Iterable["TrackedFaces"]
) -> None:
    """Write the results of a video, frame by frame as they come. size: width and height of the first frame."""
    parts = formats.VIDEO_DOCUMENTS[output.format or ""](file.path, *size, frames)
    if output.document is None:
        sys.stdout.writelines(parts)
    else:
        write_parts(run.targets[file][0], parts)


def check_class_list(output: Output) -> None:
    """Leave a list of other classes as it is."""
    try:
        other = output.class_list is not None and output.class_list.read_text(errors="replace").split() != _CLASSES.split()
    except OSError:  # there is none
        return
    if other:
        fail(f"{output.class_list}: lists other classes than face; choose another folder")
