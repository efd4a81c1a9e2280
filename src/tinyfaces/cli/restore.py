"""`tinyfaces restore`."""

import io
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfaces.cli.detect import results_of
from tinyfaces.cli.options import (
    SOME_FAILED,
    UNUSABLE,
    BackendOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ScaleOption,
    ThreadsOption,
    app,
    errors,
    open_detector,
    reason,
)
from tinyfaces.files import write_atomically


@app.command()
def restore(
    paths: Annotated[list[str], typer.Argument(help="Images, folders of images, or patterns such as 'photos/**/*.jpg'.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("restored"),
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which a detection counts; the model's own if left out.")
    ] = None,
    largest: Annotated[
        float, typer.Option(min=1, help="Restore faces up to this height in pixels; larger ones show more as they are.")
    ] = 24.0,
    model: ModelOption = "accurate",
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders below the given ones.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Write each tiny face beside its restored version, and a contact sheet for each image.

    For IMAGE.jpg: IMAGE/000.png, IMAGE/001.png, ... (highest score first; left what the second stage sees, right what it makes of
    it) and IMAGE_restored.png. What is restored is likely, not known: it is no evidence of who someone is.

    Exit code: 0 all images were read, 1 some were not, 2 nothing could be done.
    """
    from tinyfaces.jobs.contact_sheets import contact_sheet, low_crops, pair
    from tinyfaces.jobs.inputs import find_inputs

    inputs = find_inputs(paths, recursive)
    for line in inputs.problems:
        errors.print(f"tinyfaces: {line}")
    if not inputs.files:
        raise typer.Exit(UNUSABLE)
    detector = open_detector(model, threshold, scale, device, backend, threads, "both", precision)
    failures, done = len(inputs.problems), 0
    written: set[Path] = set()
    for result, pixels, problem in results_of(detector, inputs.files, quiet):
        if problem is None:
            faces = result.faces[result.faces.heights <= largest]
            low, restored = low_crops(pixels, faces.boxes), detector.restore(pixels, faces)
            stem = out / result.name.with_suffix("")
            sheet = stem.with_name(f"{stem.name}_restored.png")
            try:
                if sheet in written:
                    raise OSError(f"{sheet}: already holds the faces of another image of that name")
                for number, (small, large) in enumerate(zip(low, restored, strict=True)):
                    write_atomically(stem / f"{number:03d}.png", _png(pair(small, large)))
                write_atomically(sheet, _png(contact_sheet(low, restored)))
                written.add(sheet)
            except OSError as error:
                problem = reason(error, result.path)
        if problem is not None:
            failures += 1
            errors.print(f"tinyfaces: {problem}")
            continue
        done += 1
        if not quiet:
            larger = len(result.faces) - len(faces)
            left_out = f", {larger} larger than {largest:g} px left as they are" if larger else ""
            typer.echo(f"{result.path}: {len(faces)} faces restored{left_out}; {sheet}")
    if failures:
        raise typer.Exit(SOME_FAILED if done else UNUSABLE)


def _png(picture: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
