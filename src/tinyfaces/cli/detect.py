"""`tinyfaces detect` and `tinyfaces models`."""

import io
import sys
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tinyfaces.cli.app import (
    SOME_FAILED,
    UNUSABLE,
    BackendOption,
    DeviceOption,
    ModelOption,
    ScaleOption,
    StagesOption,
    ThreadsOption,
    app,
    errors,
    fail,
    open_detector,
    reason,
)

_FILE_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}
_TABLE_ROWS = 30


class Format(StrEnum):
    """Output formats of `detect`."""

    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    coco = "coco"
    yolo = "yolo"
    wider = "wider"


@app.command()
def detect(
    paths: Annotated[list[str], typer.Argument(help="Images, folders of images, or patterns such as 'photos/**/*.jpg'.")],
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
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which a detection counts; the model's own if left out.")
    ] = None,
    model: ModelOption = "accurate",
    stages: StagesOption = None,
    scale: ScaleOption = 1.0,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    threads: ThreadsOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders below the given ones.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Neither table nor progress; errors only.")] = False,
) -> None:
    """Find the faces in images.

    Exit code: 0 all images were read, 1 some were not, 2 nothing could be done.
    """
    from tinyfaces import formats
    from tinyfaces.inputs import find_inputs

    given = Path(out) if out is not None else None
    suffix = given.suffix.lower() if given is not None and not given.is_dir() else ""
    chosen: str | None = format.value if format else (_FILE_SUFFIXES.get(suffix, "json") if given is not None else None)
    document = None
    if chosen in formats.DOCUMENTS and given is not None:
        extension = {"coco": ".json"}.get(chosen, f".{chosen}")
        document = given if suffix in _FILE_SUFFIXES else given / f"faces{extension}"
    folder = Path("faces") if given is None else (given.parent if document == given else given)
    to_stdout = chosen in formats.DOCUMENTS and given is None

    inputs = find_inputs(paths, recursive)
    for line in inputs.problems:
        errors.print(f"tinyfaces: {line}")
    if not inputs.files:
        raise typer.Exit(UNUSABLE)
    detector = open_detector(model, threshold, scale, device, backend, threads, stages)

    results: list[formats.ImageResult] = []
    failures: list[str] = list(inputs.problems)
    written: set[Path] = set()
    sources = {file.path.absolute() for file in inputs.files}

    def save(name: Path, content: bytes) -> None:
        target = folder / name
        if target in written:
            raise OSError(f"{target}: already holds the result of another image of that name")
        if target.absolute() in sources:
            raise OSError(f"{target}: is one of the images given, and is not overwritten")
        formats.write_atomically(target, content)
        written.add(target)

    for result, pixels, problem in results_of(detector, inputs.files, quiet):
        if problem is None:
            try:
                if chosen in formats.PER_IMAGE:
                    name, text = formats.PER_IMAGE[chosen]
                    save(name(result), text(result).encode())
                if save_images:
                    save(*_drawn(result, pixels))
            except OSError as error:
                problem = reason(error, result.path)
        if problem is not None:
            failures.append(problem)
            errors.print(f"tinyfaces: {problem}")
            continue
        if to_stdout and chosen == "jsonl":
            sys.stdout.write(formats.as_json_line(result))
            sys.stdout.flush()
        results.append(result)

    if chosen in formats.DOCUMENTS and not (to_stdout and chosen == "jsonl"):
        text_of_all = formats.DOCUMENTS[chosen](results)
        if document is None:
            sys.stdout.write(text_of_all)
        else:
            try:
                formats.write_atomically(document, text_of_all.encode())
            except OSError as error:
                fail(reason(error, document))
            written.add(document)
    if not quiet:
        _summary(results, written, Console(stderr=to_stdout, highlight=False))
    if failures:
        raise typer.Exit(SOME_FAILED if results else UNUSABLE)


def results_of(detector: Any, files: list[Any], quiet: bool) -> Iterator[tuple[Any, Any, str | None]]:
    """Each file's result and pixels, or what was wrong with it, while a bar shows how far it has come."""
    from tinyfaces.formats import ImageResult
    from tinyfaces.images import ImageError, read_image

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
            yield ImageResult(file.path, file.name, width, height, faces.without_image()), pixels, None
        while problems:
            yield None, None, problems.popleft()


def _drawn(result: Any, pixels: Any) -> tuple[Path, bytes]:
    kind = "PNG" if result.path.suffix.lower() == ".png" else "JPEG"
    content = io.BytesIO()
    result.faces.draw(pixels).save(content, kind, quality=92)
    return result.name.with_name(f"{result.name.stem}_faces.{'png' if kind == 'PNG' else 'jpg'}"), content.getvalue()


def _summary(results: list[Any], written: set[Path], console: Console) -> None:
    table = Table("image", "size", "faces", "smallest", "median", "largest")
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results[:_TABLE_ROWS]:
        heights = sorted(result.faces.heights.tolist())
        sizes = [f"{heights[place]:.0f} px" for place in (0, len(heights) // 2, -1)] if heights else ["-"] * 3
        table.add_row(shown(result.name), f"{result.width}x{result.height}", str(len(heights)), *sizes)
    console.print(table)
    if len(results) > _TABLE_ROWS:
        console.print(f"and {len(results) - _TABLE_ROWS} more")
    if len(results) != 1:
        console.print(f"{sum(len(result.faces) for result in results)} faces in {len(results)} images")
    for file in sorted(written)[:3]:
        console.print(f"wrote {shown(file)}", soft_wrap=True, markup=False)
    if len(written) > 3:
        console.print(f"and {len(written) - 3} more files")


def shown(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode("utf-8").replace("[", "\\[")


@app.command()
def models() -> None:
    """List the shipped models."""
    from tinyfaces.weights import models as shipped

    table = Table("model", "file", "GMAC at 640x480", "parameters", "AP on the dev split, by face height", "trained on")
    for record in shipped().values():
        table.add_row(
            record.name, f"{record.bytes / 1e6:.1f} MB", f"{record.gmac:.2f}", f"{record.parameters / 1e6:.2f} M",
            "\n".join(f"{band}: {ap:.3f}" for band, ap in record.ap.items()), record.training_data,
        )  # fmt: skip
    Console(highlight=False).print(table)
