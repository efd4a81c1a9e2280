"""`tinyfaces anonymise`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.given_boxes import BoxesOptions, GivenBoxes
from tinyfaces.cli.options import (
    MODEL,
    OUTPUT,
    DetectorOptions,
    InputOptions,
    ProgressOptions,
    app,
    command,
    errors,
    fail,
    folder_of,
    json_file,
)
from tinyfaces.cli.remote import RayAddress, anonymise_on_cluster
from tinyfaces.files import write_atomically
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.known_faces import KnownVideo
from tinyfaces.jobs.masked_photos import masked_photo
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.outputs import StateFiles, lies_in
from tinyfaces.jobs.photos import LOST_TAG

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.clips import Clip
    from tinyfaces.jobs.known_clips import KnownClip

_THRESHOLD = 0.2  # lower than the models' own: missing a face is worse than masking a hand


class Method(StrEnum):
    """What takes a face's place."""

    blur = "blur"
    pixelate = "pixelate"
    solid = "solid"


class Shape(StrEnum):
    """The shape of a mask."""

    ellipse = "ellipse"
    box = "box"


@command(app)
def anonymise(
    inputs: InputOptions,
    given: BoxesOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, rich_help_panel=MODEL, help="Score from which something is masked; low, as a missed face is worst."
        ),
    ] = _THRESHOLD,
    method: Annotated[
        Method,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="blur and pixelate leave a few averages of each face; solid, the safest, leaves nothing.",
        ),
    ] = Method.blur,
    shape: Annotated[Shape, typer.Option(rich_help_panel=OUTPUT, help="Shape of the mask.")] = Shape.ellipse,
    enlarge: Annotated[
        float,
        typer.Option(min=1, max=4, rich_help_panel=OUTPUT, help="Size of the mask in each direction, relative to the face."),
    ] = 1.45,
    out: Annotated[
        str, typer.Option(rich_help_panel=OUTPUT, help="Folder for the anonymised files; sources are never overwritten.")
    ] = "anonymised",
    report: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, help="JSON file that lists what was masked and removed in each file.")
    ] = None,
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata",
            rich_help_panel=OUTPUT,
            help="Keep EXIF (date, camera, place) and the tags of videos. Thumbnails and other copies of the picture always go.",
        ),
    ] = False,
    quality: Annotated[
        int,
        typer.Option(
            min=0, max=51, rich_help_panel=OUTPUT, help="Quality of videos (constant rate factor): lower is better, and larger."
        ),
    ] = 18,
    ray: RayAddress = None,
) -> None:
    """Mask every face in images and videos.

    Exit code: 0 if all files were done, 1 if some could not be, 2 if nothing could be done.
    """
    style = MaskStyle(method.value, shape.value, enlarge)
    if ray is not None:
        if given.boxes is not None or given.also_boxes is not None:
            fail("--boxes and --also-boxes do not go with --ray")
        if report is not None:
            fail(f"--ray lists what was masked in Parquet files beside {out}; --report does not go with it")
        anonymise_on_cluster(ray, inputs, out, detector, threshold, progress, style, keep_metadata)
        return
    folder = folder_of("--out", Path(out))
    boxes = given.read()
    state = _state(folder, json_file("--report", report))
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive, folder), "masking faces", progress.quiet)
    run.plan(folder, lambda file: [file.written_name], [report, state.problems], boxes.files)
    boxes.assign(run)
    run.mark(folder)
    settings = {"command": "anonymise", **asdict(style), "keep_metadata": keep_metadata, "quality": quality, **boxes.settings}
    run.open(detector, threshold, state.journal, resume=progress.resume, settings=settings, detects=boxes.detects)
    for file, outcome in run.process(
        lambda file: _on_image(file, run, boxes, style, keep_metadata),
        lambda file: _on_video(file, run, boxes, style, quality, keep_metadata),
    ):
        if outcome.record is not None and not progress.quiet:
            _tell_lost(file, outcome.record["removed"])
    done = list(run.records())
    if report is not None:
        found = {"threshold": threshold, "scale": detector.scale, "model": detector.model} if boxes.detects else {}
        sources = {name: runs.shown(path) for name, path in asdict(given).items() if path is not None}
        run.write(report, _report(run, done, {**asdict(style), **found, "keep_metadata": keep_metadata, **sources}))
    if not progress.quiet:
        console = Console(highlight=False)
        faces = sum(record.get("tracks", record["faces"]) for _, record in done)
        console.print(f"{runs.counted(faces, 'face')} masked in {runs.counted(len(done), 'file')}", soft_wrap=True)
        runs.print_written([run.targets[file][0] for file, _ in done], console)
        run.print_speed(console)
        if progress.resume or run.problems:
            console.print(f"journal for --resume: {runs.shown(state.journal)}", soft_wrap=True, markup=False)
    try:
        run.finish(progress.resume, state.problems)
    finally:
        state.tidy()


def _state(out: Path, report: Path | None) -> StateFiles:
    """Where the journal and the list of problems go. Both, and the report, tell where the faces were."""
    try:
        state = StateFiles.of(out, report)
    except ValueError as error:
        fail(str(error))
    if report is not None and lies_in(report, out):
        errors.print(f"tinyfaces: {report}: lists the sources and all faces; move it before you publish {out}")
    return state


def _tell_lost(file: InputFile, removed: list[str]) -> None:
    """Name the tags that should be kept and could not be."""
    for kind in removed:
        if kind.startswith(LOST_TAG):
            typer.echo(f"{runs.shown(file.path)}: {kind} cannot be kept")


def _on_image(file: InputFile, run: runs.Run, boxes: GivenBoxes, style: MaskStyle, keep_metadata: bool) -> Outcome:
    detector = run.detector if boxes.detects else None
    content, record = masked_photo(file.path, detector, style, keep_metadata, boxes.photo(file))
    target = run.targets[file][0]
    write_atomically(target, content)
    return Outcome(record, written=[target])


def _on_video(file: InputFile, run: runs.Run, boxes: GivenBoxes, style: MaskStyle, quality: int, keep_metadata: bool) -> Outcome:
    known = boxes.video(file)
    with _clip(file, run, known, boxes.detects) as clip:
        from tinyfaces.jobs.clips import write_masked

        target = run.targets[file][0]
        written = write_masked(clip, target, style, quality=quality, keep_metadata=keep_metadata)
        if written.losses:
            run.note(f"{file.path}: written without {', '.join(written.losses)}")
        return Outcome({**clip.summary(), "removed": written.left_out, "lost": written.losses}, clip.video.problem, [target])


@contextmanager
def _clip(file: InputFile, run: runs.Run, known: list[KnownVideo], detects: bool) -> Iterator["Clip | KnownClip"]:
    """A video with the faces that are found, those that are known, or both."""
    if not known:
        with run.clip(file) as clip:
            yield clip
        return
    with run.video(file) as (video, advance):
        from tinyfaces.jobs.clips import Clip
        from tinyfaces.jobs.known_clips import KnownClip

        yield KnownClip(video, known, advance, Clip(video, run.detector, run.workers, advance) if detects else None)


def _report(run: runs.Run, done: list[tuple[InputFile, dict[str, Any]]], settings: dict[str, Any]) -> Iterator[str]:
    files = [{"file": runs.shown(file.path), "output": runs.shown(run.targets[file][0]), **record} for file, record in done]
    problems = [{"file": file, "problem": line} for file, line in run.problems]
    yield f'{{"settings": {json.dumps(settings)},\n"files": [\n'
    yield ",\n".join(map(json.dumps, files))
    yield '\n],\n"problems": [\n'
    yield ",\n".join(map(json.dumps, problems))
    yield "\n]}\n"
