"""`tinyfaces anonymise`."""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
from tinyfaces.files import clear_partials, write_atomically, write_parts
from tinyfaces.jobs.inputs import InputFile, Inputs, find_inputs, outside

_THRESHOLD = 0.2  # lower than the detectors' own: a face that is missed costs more than a hand that is covered


class Method(StrEnum):
    """What takes a face's place."""

    blur = "blur"
    pixelate = "pixelate"
    solid = "solid"


class Shape(StrEnum):
    """Of the covered area."""

    ellipse = "ellipse"
    box = "box"


@app.command()
def anonymise(
    paths: runs.PathsArgument,
    method: Annotated[
        Method, typer.Option(help="blur and pixelate leave a few averages of each face; solid leaves nothing, and is the safest.")
    ] = Method.blur,
    shape: Annotated[Shape, typer.Option(help="Of the covered area.")] = Shape.ellipse,
    enlarge: Annotated[
        float, typer.Option(min=1, max=4, help="Size of the covered area in each direction, in those of the face's box.")
    ] = 1.45,
    out: Annotated[str, typer.Option(help="Folder for the anonymised files; sources are never overwritten.")] = "anonymised",
    report: Annotated[Path | None, typer.Option(help="JSON file to write: what was covered and removed, file by file.")] = None,
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata",
            help="Keep EXIF (date, camera, place) and videos' tags; thumbnails and other copies of the picture go in any case.",
        ),
    ] = False,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Score from which something is covered; low, as a missed face costs most.")
    ] = _THRESHOLD,
    quality: Annotated[
        int, typer.Option(min=0, max=51, help="Of encoded videos (constant rate factor): lower is better and larger.")
    ] = 18,
    model: ModelOption = "accurate",
    scale: ScaleOption = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    recursive: runs.RecursiveOption = False,
    resume: runs.ResumeOption = False,
    quiet: runs.QuietOption = False,
) -> None:
    """Cover every face in images and videos.

    Exit code: 0 all files were done, 1 some were not, 2 nothing could be done.
    """
    from tinyfaces.jobs.masking import MaskStyle

    covering = MaskStyle(method.value, shape.value, enlarge)
    folder = Path(out)
    inputs = find_inputs(paths, recursive)
    run = runs.start(Inputs(outside(inputs.files, folder), inputs.problems), quiet)
    run.plan(folder, lambda file: [file.written_name])
    run.leave_if_nothing()
    if report is not None and report.absolute() in {path.absolute() for path in (*(f.path for f in run.files), *run.all_targets)}:
        fail(f"{report}: is one of the files given or written")
    open_one = partial(open_detector, model, threshold, scale, device, backend, precision=precision)
    detectors = runs.open_detectors(run, threads, open_one)
    choice = {"method": method.value, "shape": shape.value, "enlarge": enlarge, "threshold": threshold, "scale": scale}
    settings = {
        "command": "anonymise", "model": runs.model_identity(model), **choice, "keep_metadata": keep_metadata, "quality": quality,
        "backend": backend, "precision": precision,
    }  # fmt: skip
    journal = runs.open_journal(folder / "anonymised.journal", settings, resume)
    clear_partials([*run.all_targets, *filter(None, [report])])

    def photo(file: InputFile) -> Any:
        return detectors.call(lambda detector: _anonymise_photo(file, run.targets[file][0], detector, covering, keep_metadata))

    def video(file: InputFile) -> Any:
        return _anonymise_video(file, run.targets[file][0], detectors, covering, quality, keep_metadata, quiet)

    for _ in run.process(run.images, photo, journal, detectors.size, "covering faces"):
        pass
    for _ in run.process(run.videos, video, journal):
        pass
    done = [(file, entry.record) for file, entry in journal.read(run.files) if entry.record is not None]
    if report is not None:
        try:
            write_parts(report, _report(run, done, {**choice, "model": model, "keep_metadata": keep_metadata}))
        except OSError as error:
            fail(reason(error, report))
    if not quiet:
        console = Console(highlight=False)
        faces = sum(record.get("tracks", record["faces"]) for _, record in done)
        console.print(f"{faces} faces covered in {len(done)} files")
        runs.tell_written([run.targets[file][0] for file, _ in done], console)
        runs.tell_speed(run, console)
    run.finish(journal, resume, folder / "problems.csv")


def _anonymise_photo(file: InputFile, target: Path, detector: Any, covering: Any, keep_metadata: bool) -> Any:
    from tinyfaces.jobs.bulk import Outcome
    from tinyfaces.jobs.photos import anonymised, open_photo, removed

    photo = open_photo(file.path)
    faces = detector.detect(photo.pixels)
    write_atomically(target, anonymised(photo, faces, covering, keep_metadata))
    height, width = photo.pixels.shape[:2]
    record = {"width": width, "height": height, "faces": len(faces), **faces.to_dict()}
    return Outcome({**record, "removed": removed(photo, keep_metadata)}, [target])


def _anonymise_video(
    file: InputFile, target: Path, detectors: Any, covering: Any, quality: int, keep_metadata: bool, quiet: bool
) -> Any:
    from tinyfaces.jobs.bulk import Outcome

    open_clip = runs.clip_opener()
    with open_clip(file, detectors, quiet, "covering faces") as (video, clip):
        from tinyfaces.jobs.clips import write_masked

        left_out = write_masked(clip, target, covering, quality=quality, keep_metadata=keep_metadata)
        return Outcome({**clip.summary(), "removed": left_out}, [target], video.problem)


def _report(run: runs.Run, done: list[tuple[InputFile, dict[str, Any]]], settings: dict[str, Any]) -> list[str]:
    files = [{"file": runs.shown(f.path), "output": runs.shown(run.targets[f][0]), **record} for f, record in done]
    problems = [{"file": file, "problem": line} for file, line in run.problems]
    return [
        f'{{"settings": {json.dumps(settings)},\n"files": [\n',
        ",\n".join(map(json.dumps, files)),
        '\n],\n"problems": [\n',
        ",\n".join(map(json.dumps, problems)),
        "\n]}\n",
    ]
