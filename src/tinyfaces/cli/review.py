"""`tinyfaces review`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfaces.cli import runs
from tinyfaces.cli.given_boxes import BoxesOptions
from tinyfaces.cli.listening import Port, listening_on
from tinyfaces.cli.mask_options import QUALITY, MaskOptions, Quality
from tinyfaces.cli.options import (
    INPUT,
    MODEL,
    OUTPUT,
    DetectorOptions,
    InputOptions,
    app,
    command,
    errors,
    fail,
    folder_of,
    json_file,
    missing_extra,
)
from tinyfaces.cli.which_faces import FaceOptions
from tinyfaces.files import clear_partials
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.doubts import offered
from tinyfaces.jobs.inputs import find_inputs
from tinyfaces.jobs.outputs import StateFiles, lies_in
from tinyfaces.jobs.review_store import ReviewError, ReviewStore
from tinyfaces.jobs.selection import ALL

if TYPE_CHECKING:  # an extra
    from tinyfaces.service.review_desk import ReviewDesk


@command(app)
def review(
    inputs: InputOptions,
    given: BoxesOptions,
    detector: DetectorOptions,
    faces: FaceOptions,
    masks: MaskOptions,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, rich_help_panel=MODEL, help="Score from which a face is covered at first; by default as in anonymise."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(rich_help_panel=OUTPUT, help="Folder for the anonymised files; sources are never overwritten.")
    ] = "anonymised",
    report: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="JSON file that lists what was found, added and taken away; by default review.json in the folder OUT.state.",
        ),
    ] = None,
    keep_metadata: Annotated[
        bool,
        typer.Option("--keep-metadata", rich_help_panel=OUTPUT, help="Keep EXIF (date, camera, place)."),
    ] = False,
    start_over: Annotated[
        bool, typer.Option("--start-over", rich_help_panel=INPUT, help="Forget what was decided in an earlier review.")
    ] = False,
    quality: Quality = QUALITY,
    port: Port = 8000,
) -> None:
    """Look at what will be covered in photos and videos, correct it on a page in the browser, and only then write them (needs the
    extra: pip install 'tinyfaces[serve]').

    The page is for this machine only. Progress is kept in OUT.state, so that the same command goes on where it stopped.
    """
    try:
        from tinyfaces.service.limits import Limits
        from tinyfaces.service.review_routes import create_review_app
        from tinyfaces.service.server import run
    except ImportError as error:
        missing_extra(error, "serve")

    masking = Masking(CoverThreshold.of(threshold), masks.style(), keep_metadata, faces.selection(), masks.picture())
    given.refuse(threshold is not None or masking.selection != ALL)
    desk = open_desk(inputs, detector, masking, out, report, [*faces.files(), *masks.files()], given, start_over, quality)
    listening = listening_on("127.0.0.1", port)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/review"
    try:
        errors.print(f"tinyfaces: review {_counts(desk)} on {address} (Ctrl-C stops it)")
        with desk:
            run(create_review_app(desk), listening, Limits())
    except KeyboardInterrupt:
        errors.print("tinyfaces: stopped; the same command goes on with this review")


def _counts(desk: "ReviewDesk") -> str:
    """Such as "3 photos and 1 video"."""
    videos = sum(file.is_video for file in desk.assignment.targets)
    photos = len(desk.assignment.targets) - videos
    return " and ".join(counted(count, what) for count, what in ((photos, "photo"), (videos, "video")) if count)


def open_desk(
    inputs: InputOptions,
    detector: DetectorOptions,
    masking: Masking,
    out: str,
    report: Path | None = None,
    read: Sequence[Path] = (),
    given: BoxesOptions | None = None,
    start_over: bool = False,
    quality: int = QUALITY,
) -> "ReviewDesk":
    """Everything that a review needs, from the files to its progress. Ends the command where something is wrong."""
    from tinyfaces.service.review_desk import Assignment, ReviewDesk

    folder = folder_of("--out", Path(out))
    try:
        state = StateFiles.of(folder, None)
    except ValueError as error:
        fail(str(error))
    database = state.review
    listed = json_file("--report", report) or database.with_name("review.json")
    if lies_in(listed, folder):
        errors.print(f"tinyfaces: {listed}: lists the sources and all faces; move it before you publish {out}")
    given = given or BoxesOptions()
    boxes = given.read()
    run = runs.Run(find_inputs(inputs.paths, inputs.recursive, folder), "reviewing")
    try:
        import tinyfaces.jobs.video  # noqa: F401
    except ImportError as error:
        run.drop_videos(f"{error.name} is not installed, which videos need: pip install 'tinyfaces[video]'")
    if boxes.files:
        run.drop_videos("--boxes and --also-boxes of a review are for photos; give those of videos to anonymise")
    run.plan(folder, lambda file: [file.written_name], [listed, database], [*read, *boxes.files])
    boxes.assign(run)
    run.mark(folder)
    finder = detector.open(offered(masking.cover).lowest) if boxes.detects else None
    found_by = {**(detector.identity() if boxes.detects else {}), **boxes.settings}
    masks = {**asdict(masking.style), **({} if masking.picture is None else {"cover": masking.picture.digest})}
    try:
        store = ReviewStore(database, found_by, masking.cover, masking.selection, masks, start_over=start_over)
    except ReviewError as error:
        fail(str(error))
    if store.other_masks:
        errors.print(
            f"tinyfaces: {database}: goes on with other masks ({store.other_masks}); write photos again to give them these"
        )
    clear_partials([*run.all_targets, listed])
    targets = {file: targets[0] for file, targets in run.targets.items()}
    return ReviewDesk(store, finder, Assignment(targets, listed, masking, boxes.photo, given.shown(), quality))
