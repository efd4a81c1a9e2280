"""`tinyfaces anonymise`."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tinyfaces.cli import runs
from tinyfaces.cli.given_boxes import BoxesOptions, GivenBoxes
from tinyfaces.cli.mask_options import QUALITY, MaskOptions, Quality
from tinyfaces.cli.options import (
    MODEL,
    OUTPUT,
    SPEED,
    DetectorOptions,
    Every,
    InputOptions,
    ProgressOptions,
    app,
    command,
    errors,
    fail,
    folder_of,
    json_file,
    missing_extra,
    spacing_of,
)
from tinyfaces.cli.remote import RayAddress, options_given, refuse_with_ray, run_on_cluster
from tinyfaces.cli.which_faces import FaceOptions, TrackOptions
from tinyfaces.files import write_atomically
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.journal import Outcome
from tinyfaces.jobs.known_faces import KnownVideo
from tinyfaces.jobs.masked_photos import lost_lines, masked_photo
from tinyfaces.jobs.outputs import StateFiles, lies_in
from tinyfaces.jobs.selection import ALL, clear_line
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.clips import Clip
    from tinyfaces.jobs.encoders import EncoderChoice
    from tinyfaces.jobs.known_clips import KnownClip


@command(app)
def anonymise(
    inputs: InputOptions,
    given: BoxesOptions,
    detector: DetectorOptions,
    progress: ProgressOptions,
    faces: FaceOptions,
    tracks: TrackOptions,
    masks: MaskOptions,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=MODEL,
            help="Score from which something is masked. By default it depends on the height: 0.15 up to 24 pixels, 0.2 at 64, "
            "0.4 from 256 on. Low, as a missed face is worst.",
        ),
    ] = None,
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
    quality: Quality = QUALITY,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:PRESET]|auto",
            rich_help_panel=SPEED,
            help="Encoder of videos, such as h264_nvenc, h264_qsv, h264_videotoolbox or libx264:veryfast; auto takes that of a "
            "graphics card where it works. By default, one of software, in the codec of the original.",
        ),
    ] = None,
    every: Every = "1",
    ray: RayAddress = None,
) -> None:
    """Mask every face in images and videos.

    Exit code: 0 if all files were done, 1 if some could not be, or not as asked, 2 if nothing could be done.
    """
    masking = Masking(
        CoverThreshold.of(threshold),
        masks.style(),
        keep_metadata,
        faces.selection(**tracks.chosen()),
        masks.picture(),
    )
    spacing = spacing_of(every)
    writer = _encoder(encoder)
    if ray is not None:
        refuse_with_ray(options_given(given), "detects all faces itself")
        refuse_with_ray({"--report": report is not None}, f"lists what was masked in Parquet files beside {out}")
        of_videos = {"--every": spacing != EVERY_FRAME, "--encoder": encoder is not None, "--quality": quality != QUALITY}
        refuse_with_ray({**of_videos, **options_given(tracks)}, "leaves videos out")
        run_on_cluster(ray, inputs, out, detector, masking.cover.lowest, progress, masking)
        return
    folder = folder_of("--out", Path(out))
    given.refuse(threshold is not None or masking.selection != ALL or spacing != EVERY_FRAME)
    boxes = given.read()
    state = _state(folder, json_file("--report", report))
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive, folder), "masking faces", progress.quiet)
    if masking.selection.needs_video and not run.videos:
        fail("--keep-track, --only-track, --from and --to are for videos, and none was given")
    if (masking.selection.only_tracks or masking.selection.keep_tracks) and len(run.videos) > 1:
        fail("--keep-track and --only-track name the tracks of one video, and several were given")
    read = [*faces.files(), *masks.files(), *boxes.files]
    run.plan(folder, lambda file: [file.written_name], [report, state.problems], read)
    boxes.assign(run)
    run.mark(folder)
    settings = {"command": "anonymise", **masking.settings(), "quality": quality, **spacing.settings(), **boxes.settings}
    settings |= {} if encoder is None else {"encoder": encoder}
    run.open(detector, masking.cover.lowest, state.journal, resume=progress.resume, settings=settings, detects=boxes.detects)
    for file, outcome in run.process(
        lambda file: _on_image(file, run, boxes, masking),
        lambda file: _on_video(file, run, boxes, masking, quality, spacing, writer),
    ):
        if outcome.record is not None and not progress.quiet:
            for line in lost_lines(runs.shown(file.path), outcome.record["removed"]):
                typer.echo(line)
    done = list(run.records())
    if report is not None:
        chosen = masking.settings() | spacing.settings() | ({} if encoder is None else {"encoder": encoder})
        if boxes.detects:
            chosen |= {"scale": detector.scale, "model": detector.model}
        else:
            del chosen["threshold"]
        run.write(report, _report(run, done, {**chosen, **given.shown()}))
    if not progress.quiet:
        console = Console(highlight=False)
        masked = sum(record.get("tracks", record["faces"]) for _, record in done)
        line = f"{counted(masked, 'face')} masked in {counted(len(done), 'file')}"
        left_clear = sum((Counter(record["left_clear"]) for _, record in done), Counter[str]())
        console.print(f"{line}; {clear_line(left_clear)}" if left_clear else line, soft_wrap=True)
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


def _on_image(file: InputFile, run: runs.Run, boxes: GivenBoxes, masking: Masking) -> Outcome:
    content, record = masked_photo(file.path, run.detector if boxes.detects else None, masking, boxes.photo(file))
    target = run.targets[file][0]
    write_atomically(target, content)
    if file.is_raw:
        run.note(f"{file.path}: the picture in this raw file is written as {target.name}")
    return Outcome(record, written=[target])


def _encoder(given: str | None) -> "EncoderChoice | None":
    """Which encoder `--encoder` names. Ends the command where it cannot be used."""
    if given is None:
        return None
    try:
        from tinyfaces.jobs.encoders import EncoderChoice
    except ImportError as error:
        missing_extra(error, "video")
    try:
        return EncoderChoice.of(given)
    except ValueError as error:
        fail(str(error))


def _on_video(
    file: InputFile,
    run: runs.Run,
    boxes: GivenBoxes,
    masking: Masking,
    quality: int,
    spacing: Spacing,
    encoder: "EncoderChoice | None",
) -> Outcome:
    known = boxes.video(file)
    with _clip(file, run, masking, known, boxes.detects, spacing) as clip:
        from tinyfaces.jobs.clips import write_masked

        target = run.targets[file][0]
        written = write_masked(
            clip,
            target,
            masking.style,
            quality=quality,
            keep_metadata=masking.keep_metadata,
            picture=masking.picture,
            encoder=encoder,
        )
        if written.losses:
            run.note(f"{file.path}: written without {', '.join(written.losses)}")
        lists = {"left_clear": clip.left_clear, "removed": written.left_out, "lost": written.losses}
        return Outcome({**clip.summary(), **lists, "track_list": clip.track_list()}, clip.problem, [target])


@contextmanager
def _clip(
    file: InputFile, run: runs.Run, masking: Masking, known: list[KnownVideo], detects: bool, spacing: Spacing
) -> Iterator["Clip | KnownClip"]:
    """A video with the faces that are found, those that are known, or both."""
    if not known:
        with run.clip(file, masking.cover, masking.selection, spacing) as clip:
            yield clip
        return
    with run.video(file) as (video, advance):
        from tinyfaces.jobs.clips import Clip
        from tinyfaces.jobs.known_clips import KnownClip

        found = None
        if detects:
            found = Clip(video, run.detector, run.workers, advance, masking.cover, masking.selection, spacing)
        yield KnownClip(video, known, advance, found)


def _report(run: runs.Run, done: list[tuple[InputFile, dict[str, Any]]], settings: dict[str, Any]) -> Iterator[str]:
    files = [{"file": runs.shown(file.path), "output": runs.shown(run.targets[file][0]), **record} for file, record in done]
    problems = [{"file": file, "problem": line} for file, line in run.problems]
    yield f'{{"settings": {json.dumps(settings)},\n"files": [\n'
    yield ",\n".join(map(json.dumps, files))
    yield '\n],\n"problems": [\n'
    yield ",\n".join(map(json.dumps, problems))
    yield "\n]}\n"
