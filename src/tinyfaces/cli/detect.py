"""`tinyfaces detect` and `tinyfaces models`."""

import io
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tinyfaces.cli import runs
from tinyfaces.cli.options import (
    SOME_FAILED,
    UNUSABLE,
    BackendOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ScaleOption,
    StagesOption,
    ThreadsOption,
    app,
    errors,
    fail,
    missing_extra,
    open_detector,
    reason,
)
from tinyfaces.files import clear_partials, write_atomically, write_parts
from tinyfaces.jobs.inputs import InputFile, find_inputs

_FILE_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}
_TABLE_ROWS = 30
_PREVIEW_SIDE = 2000  # of the picture of an image too large for memory


class Format(StrEnum):
    """Output formats of `detect`."""

    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    wider = "wider"


@dataclass(frozen=True)
class _Output:
    """Where results go. format: None where only the table is shown; document: the one file of all images' results, if any."""

    format: str | None
    folder: Path
    document: Path | None
    scores: bool
    pictures: bool

    @classmethod
    def of(cls, out: str | None, format: Format | None, scores: bool, pictures: bool) -> "_Output":
        from tinyfaces.jobs import formats

        given = Path(out) if out is not None else None
        suffix = given.suffix.lower() if given is not None and not given.is_dir() else ""
        chosen = format.value if format else (_FILE_SUFFIXES.get(suffix, "json") if given is not None else None)
        document = None
        if chosen in formats.DOCUMENTS and given is not None:
            extension = {"coco": ".json"}.get(chosen, f".{chosen}")
            document = given if suffix in _FILE_SUFFIXES else given / f"faces{extension}"
        folder = Path("faces") if given is None else (given.parent if document == given else given)
        return cls(chosen, folder, document, scores, pictures)

    @property
    def to_stdout(self) -> bool:
        from tinyfaces.jobs import formats

        return self.document is None and self.format in formats.DOCUMENTS

    @property
    def on_disk(self) -> bool:
        return self.document is not None or self.per_image

    @property
    def per_image(self) -> bool:
        from tinyfaces.jobs import formats

        return self.format in formats.PER_IMAGE

    def beside(self, suffix: str) -> Path | None:
        """A file of the run's own beside its results."""
        if not self.on_disk:
            return None
        return self.document.with_name(f"{self.document.stem}{suffix}") if self.document else self.folder / f"faces{suffix}"

    def names(self, file: InputFile) -> list[Path]:
        """Files in the folder that are written for this one alone."""
        from tinyfaces.jobs import formats

        if file.is_video:
            return [file.name.with_suffix(f"{file.name.suffix}.{self.format}")] if self.document else []
        names = [formats.PER_IMAGE[self.format or ""][0](file)] if self.per_image else []
        return [*names, _picture_name(file)] if self.pictures else names


@app.command()
def detect(
    paths: runs.PathsArgument,
    out: Annotated[
        str | None,
        typer.Option(help="Folder for results, or a .json, .jsonl or .csv file. Without it only the table is shown."),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Format of the results; to the standard output where no --out is given.")
    ] = None,
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Also write each image with frames around its faces (into --out or faces/).")
    ] = False,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="Leave the scores out of YOLO files, as labelling tools want them.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which a detection counts; the model's own if left out.")
    ] = None,
    model: ModelOption = "accurate",
    stages: StagesOption = None,
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    recursive: runs.RecursiveOption = False,
    resume: runs.ResumeOption = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on this Ray cluster, or 'local' (an extra): PATHS of any fsspec kind (s3://...), Parquet into --out.",
        ),
    ] = None,
    quiet: runs.QuietOption = False,
) -> None:
    """Find the faces in images, and follow them through videos.

    Exit code: 0 all files were read, 1 some were not, 2 nothing could be done.
    """
    options = {
        "threshold": threshold, "scale": scale, "stages": stages, "device": device, "backend": backend, "precision": precision,
    }  # fmt: skip
    if ray is not None:
        if format is not None or save_images or no_scores:
            fail("--ray writes Parquet: --format, --save-images and --no-scores don't go with it")
        _on_ray(ray, paths, out, model, options, recursive, resume, quiet)
        return
    output = _Output.of(out, format, not no_scores, save_images)
    if no_scores and output.format != "yolo":
        fail("--no-scores goes with --format yolo")
    if resume and not output.on_disk:
        fail("--resume needs --out, where an earlier run's results are")
    run = runs.start(find_inputs(paths, recursive), quiet)
    for video in run.videos:
        if output.per_image or output.format == "coco" or (output.to_stdout and output.format != "jsonl"):
            run.drop(video, f"{video.path}: a video's faces are written as json, jsonl or csv, into --out (or jsonl without it)")
    run.plan(output.folder, output.names)
    run.leave_if_nothing()
    detectors = runs.open_detectors(run, threads, partial(open_detector, model, **options))
    settings = {
        "command": "detect", "model": runs.model_identity(model), "stages": stages, "threshold": threshold, "scale": scale,
        "format": output.format, "scores": output.scores, "pictures": output.pictures, "backend": backend,
        "precision": precision,
    }  # fmt: skip
    journal = runs.open_journal(output.beside(".journal"), settings, resume)
    _detect_all(run, output, detectors, journal, quiet)
    run.finish(journal, resume, output.beside("_problems.csv"))


def _detect_all(run: runs.Run, output: _Output, detectors: Any, journal: Any, quiet: bool) -> None:
    from tinyfaces.jobs import formats

    clear_partials([*run.all_targets, *filter(None, [output.document])])

    def work(file: InputFile) -> Any:
        return detectors.call(lambda detector: _detect_image(file, output, detector))

    images, videos = run.images, run.videos
    for step in run.process(images, work, journal, detectors.size, "finding faces"):
        if output.to_stdout and output.format == "jsonl" and step.entry.record is not None:
            sys.stdout.write(formats.as_json_line(_result(step.file, step.entry.record)))
            sys.stdout.flush()
    for _ in run.process(videos, lambda file: _detect_video(file, output, detectors, quiet), journal):
        pass

    def results() -> Iterator[Any]:
        return (_result(file, entry.record) for file, entry in journal.read(images) if entry.record is not None)

    written = [target for target in run.all_targets if target.exists()]
    if output.format in formats.DOCUMENTS and images:
        parts = formats.DOCUMENTS[output.format](results())
        if output.document is not None:
            try:
                write_parts(output.document, parts)
            except OSError as error:
                fail(reason(error, output.document))
            written.insert(0, output.document)
        elif output.format != "jsonl":
            sys.stdout.writelines(parts)
    if output.format == "yolo" and not output.scores:
        write_atomically(output.folder / "classes.txt", b"face\n")
    if not quiet:
        console = Console(stderr=output.to_stdout, highlight=False)
        _summary(results(), [(f, e.record) for f, e in journal.read(videos) if e.record is not None], console)
        runs.tell_written(written, console)
        runs.tell_speed(run, console)


def _detect_image(file: InputFile, output: _Output, detector: Any) -> Any:
    """Find, and write what is written for this image alone."""
    from tinyfaces.jobs import formats
    from tinyfaces.jobs.bulk import Outcome

    faces, picture, width, height = runs.find_in(file, detector, _PREVIEW_SIDE if output.pictures else None)
    result = formats.ImageResult(file.path, file.name, width, height, faces)
    written = []
    if output.per_image:
        name, text = formats.PER_IMAGE[output.format or ""]
        content = text(result) if output.scores else formats.as_yolo_labels(result)
        written.append(output.folder / name(file))
        write_atomically(written[-1], content.encode())
    if output.pictures:
        written.append(output.folder / _picture_name(file))
        write_atomically(written[-1], _drawn(result, picture))
    # Boxes and scores as they are, so that a resumed run's results are the same to the last bit.
    record = {"width": width, "height": height, "boxes": faces.boxes.tolist(), "scores": faces.scores.tolist()}
    return Outcome(record, written)


def _detect_video(file: InputFile, output: _Output, detectors: Any, quiet: bool) -> Any:
    """Find and follow faces, and write them frame by frame."""
    from tinyfaces.jobs import formats
    from tinyfaces.jobs.bulk import Outcome

    open_clip = runs.clip_opener()
    with open_clip(file, detectors, quiet, "finding faces") as (video, clip):
        frames = (settled for _, settled in clip.follow())
        written = []
        if output.format is None:
            for _ in frames:
                pass
        else:
            parts = formats.VIDEO_DOCUMENTS[output.format](file.path, video.width, video.height, frames)
            if output.document is None:
                sys.stdout.writelines(parts)
            else:
                written.append(output.folder / output.names(file)[0])
                write_parts(written[0], parts)
        return Outcome(clip.summary(), written, video.problem)


def _on_ray(
    address: str,
    paths: list[str],
    out: str | None,
    model: str,
    options: dict[str, Any],
    recursive: bool,
    resume: bool,
    quiet: bool,
) -> None:
    try:
        from tinyfaces.jobs import cluster
    except ImportError as error:
        missing_extra(error, "ray")
    if out is None:
        fail("--ray needs --out, the folder (of any fsspec kind) for Parquet files")
    if options["device"] == "cpu":  # what cannot be had here cannot be had there, and is told before a cluster is asked
        open_detector(model, threads=1, **options)
    try:
        with runs.bar("finding faces", "{task.completed} images", None, quiet) as advance:
            summary = cluster.detect(
                address, paths, out, model=model, options=options, recursive=recursive, resume=resume, advance=advance
            )
    except cluster.RayError as error:
        fail(str(error))
    for line in summary.problems:
        errors.print(f"tinyfaces: {line}")
    if not quiet:
        typer.echo(summary.line())
    if summary.problems:
        raise typer.Exit(SOME_FAILED if summary.images else UNUSABLE)


def _result(file: InputFile, record: dict[str, Any]) -> Any:
    import numpy as np

    from tinyfaces.detection.faces import Faces
    from tinyfaces.jobs.formats import ImageResult

    faces = Faces(np.array(record["boxes"], np.float32), np.array(record["scores"], np.float32))
    return ImageResult(file.path, file.name, record["width"], record["height"], faces)


def results_of(detector: Any, files: list[Any], quiet: bool) -> Iterator[tuple[Any, Any, str | None]]:
    """Each file's result and pixels, or what was wrong with it, while a bar shows how far it has come."""
    from tinyfaces.detection.images import ImageError, read_image
    from tinyfaces.jobs.formats import ImageResult

    waiting: deque[tuple[Any, Any]] = deque()
    problems: deque[str] = deque()

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    hidden = quiet or len(files) < 2 or not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
        bar = progress.add_task("finding faces", total=len(files))

        def pixels_of_files() -> Iterator[Any]:
            for file in files:
                try:
                    pixels = read_image(file.path)
                except ImageError as error:
                    problems.append(str(error))
                    continue
                waiting.append((file, pixels))
                yield pixels

        for faces in detector.stream(pixels_of_files()):
            while problems:
                progress.advance(bar)
                yield None, None, problems.popleft()
            file, pixels = waiting.popleft()
            height, width = pixels.shape[:2]
            progress.advance(bar)
            yield ImageResult(file.path, file.name, width, height, faces), pixels, None
        while problems:
            yield None, None, problems.popleft()


def _picture_name(file: Any) -> Path:
    return Path(file.name.with_name(f"{file.name.stem}_faces.{'png' if file.path.suffix.lower() == '.png' else 'jpg'}"))


def _drawn(result: Any, pixels: Any) -> bytes:
    """A picture of the image, or of a reduced copy, with frames around its faces."""
    from tinyfaces.detection.faces import Faces

    content = io.BytesIO()
    faces = Faces(result.faces.boxes * (pixels.shape[1] / result.width), result.faces.scores)
    kind = "PNG" if result.path.suffix.lower() == ".png" else "JPEG"
    faces.draw(pixels).save(content, kind, quality=92)
    return content.getvalue()


def _summary(results: Iterator[Any], videos: list[tuple[InputFile, dict[str, Any]]], console: Console) -> None:
    table = Table("image", "size", "faces", "smallest", "median", "largest")
    for column in table.columns[1:]:
        column.justify = "right"
    images = faces = 0
    for result in results:
        images += 1
        faces += len(result.faces)
        if images > _TABLE_ROWS:
            continue
        heights = sorted(result.faces.heights.tolist())
        sizes = [f"{heights[place]:.0f} px" for place in (0, len(heights) // 2, -1)] if heights else ["-"] * 3
        table.add_row(escaped(result.name), f"{result.width}x{result.height}", str(len(heights)), *sizes)
    if images or not videos:
        console.print(table)
    if images > _TABLE_ROWS:
        console.print(f"and {images - _TABLE_ROWS} more")
    if images != 1 and (images or not videos):
        console.print(f"{faces} faces in {images} images")
    for file, record in videos:
        console.print(
            f"{runs.shown(file.name)}: {record['frames']} frames of {record['width']}x{record['height']}, "
            f"{record['tracks']} faces followed, {record['most']} at most in one frame", markup=False, soft_wrap=True,
        )  # fmt: skip


def escaped(path: Path) -> str:
    return runs.shown(path).replace("[", "\\[")


@app.command()
def models() -> None:
    """List the shipped models."""
    from tinyfaces.weights import models as shipped
    from tinyfaces.weights import second_stage

    table = Table("model", "file", "GMAC at 640x480", "parameters", "AP on the dev split, by face height", "trained on")
    for record in shipped().values():
        table.add_row(
            record.name, f"{record.bytes / 1e6:.1f} MB", f"{record.gmac:.2f}", f"{record.parameters / 1e6:.2f} M",
            "\n".join(f"{band}: {ap:.3f}" for band, ap in record.ap.items()), record.training_data,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    second = second_stage()
    console.print(
        f"second stage ({second.variant}): {second.gmac:.3f} GMAC a candidate, {second.parameters / 1e6:.2f} M parameters, "
        f"for {', '.join(second.rules)} proposals; trained on {second.training_data}"
    )
