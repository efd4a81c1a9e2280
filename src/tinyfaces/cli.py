"""The command line: detect, models, evaluate, train, export."""

import io
import json
import math
import sys
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SOME_FAILED, UNUSABLE = 1, 2
_EVALUATION_THRESHOLD = 0.02
_FILE_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}
_TABLE_ROWS = 30

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Finds tiny faces in photos of crowds, stands and streets, on a plain CPU.",
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a detector against known faces.")
train_app = typer.Typer(no_args_is_help=True, help="Train networks (needs the extra: pip install 'tinyfaces[train]').")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(train_app, name="train")

errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class Format(StrEnum):
    """Output formats of `detect`."""

    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    coco = "coco"
    yolo = "yolo"
    wider = "wider"


def main() -> None:
    """Entry point of the `tinyfaces` command."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(UNUSABLE)


def _fail(message: str, code: int = UNUSABLE) -> NoReturn:
    errors.print(f"tinyfaces: {message}")
    raise typer.Exit(code)


def _parse_scale(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter("must be a number or 'auto'") from None


ModelOption = Annotated[str, typer.Option(help="A shipped model (see `tinyfaces models`) or the path of an ONNX file.")]
ScaleOption = Annotated[
    Any,
    typer.Option(
        parser=_parse_scale,
        metavar="NUMBER|auto",
        help="Enlarge images before looking: 2 finds faces half as large in four times the time; auto enlarges small images.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
BackendOption = Annotated[str, typer.Option(help="onnxruntime or openvino (an extra).")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; all if left out.")]


def _version(wanted: bool) -> None:
    if wanted:
        from tinyfaces import __version__

        typer.echo(f"tinyfaces {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Finds tiny faces in photos of crowds, stands and streets, on a plain CPU."""


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
    detector = _detector(model, threshold, scale, device, backend, threads)

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

    for result, pixels, problem in _results(detector, inputs.files, quiet):
        if problem is None:
            try:
                if chosen in formats.PER_IMAGE:
                    name, text = formats.PER_IMAGE[chosen]
                    save(name(result), text(result).encode())
                if save_images:
                    save(*_drawn(result, pixels))
            except OSError as error:
                problem = _reason(error, result.path)
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
                _fail(_reason(error, document))
            written.add(document)
    if not quiet:
        _summary(results, written, Console(stderr=to_stdout, highlight=False))
    if failures:
        raise typer.Exit(SOME_FAILED if results else UNUSABLE)


def _detector(model: str, threshold: float | None, scale: Any, device: str, backend: str, threads: int | None) -> Any:
    from tinyfaces.detector import Detector

    try:
        return Detector(model, threshold=threshold, scale=scale, device=device, backend=backend, threads=threads)
    except ValueError as error:  # ModelError is one
        _fail(str(error))


def _results(detector: Any, files: list[Any], quiet: bool) -> Iterator[tuple[Any, Any, str | None]]:
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
            yield ImageResult(file.path, file.name, width, height, faces), pixels, None
        while problems:
            yield None, None, problems.popleft()


def _drawn(result: Any, pixels: Any) -> tuple[Path, bytes]:
    kind = "PNG" if result.path.suffix.lower() == ".png" else "JPEG"
    content = io.BytesIO()
    result.faces.draw(pixels).save(content, kind, quality=92)
    return result.name.with_name(f"{result.name.stem}_faces.{'png' if kind == 'PNG' else 'jpg'}"), content.getvalue()


def _reason(error: OSError, path: Path) -> str:
    if error.filename is None:
        return str(error) if error.strerror is None else f"{path}: {error.strerror}"
    return f"{error.filename}: cannot be written ({(error.strerror or 'unknown error').lower()})"


def _summary(results: list[Any], written: set[Path], console: Console) -> None:
    table = Table("image", "size", "faces", "smallest", "median", "largest")
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results[:_TABLE_ROWS]:
        heights = sorted(result.faces.heights.tolist())
        sizes = [f"{heights[place]:.0f} px" for place in (0, len(heights) // 2, -1)] if heights else ["-"] * 3
        table.add_row(_shown(result.name), f"{result.width}x{result.height}", str(len(heights)), *sizes)
    console.print(table)
    if len(results) > _TABLE_ROWS:
        console.print(f"and {len(results) - _TABLE_ROWS} more")
    if len(results) != 1:
        console.print(f"{sum(len(result.faces) for result in results)} faces in {len(results)} images")
    for file in sorted(written)[:3]:
        console.print(f"wrote {_shown(file)}", soft_wrap=True, markup=False)
    if len(written) > 3:
        console.print(f"and {len(written) - 3} more files")


def _shown(path: Path) -> str:
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


@evaluate_app.command("wider")
def evaluate_wider(
    ground_truth: Annotated[Path, typer.Option(help="Folder of wider_face_val.mat and wider_{easy,medium,hard}_val.mat.")],
    images: Annotated[Path | None, typer.Option(help="WIDER_val/images; the detector runs over it.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder or zip of official prediction files, scored instead of running the detector.")
    ] = None,
    model: ModelOption = "accurate",
    scale: ScaleOption = 1.0,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    threads: ThreadsOption = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the detector's official prediction files.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """WIDER FACE's official average precision: easy, medium, hard; also all, tiny (<= 16 px) and micro (<= 10 px)."""
    from tinyfaces import formats
    from tinyfaces.data.annotations import AnnotationError
    from tinyfaces.evaluation import wider
    from tinyfaces.inputs import InputFile

    if (images is None) == (predictions is None):
        _fail("give either --images or --predictions")
    if save is not None and images is None:
        _fail("--save goes with --images")
    try:
        truth = wider.read_ground_truth(ground_truth)
        if predictions is not None:
            found = wider.read_predictions(predictions)
        else:
            assert images is not None
            paths = wider.image_paths(truth, images)
            detector = _detector(model, _EVALUATION_THRESHOLD, scale, device, backend, threads)
            files = [InputFile(path, Path(f"{key}.jpg")) for key, path in paths.items()]
            found = {}
            for result, _, problem in _results(detector, files, quiet=False):
                if problem is not None:
                    _fail(problem)
                found[result.name.with_suffix("").as_posix()] = wider.prediction_rows(result.faces.boxes, result.faces.scores)
                if save is not None:
                    formats.write_atomically(save / formats.wider_name(result), formats.as_wider(result).encode())
        results = wider.score(found, truth)
    except (AnnotationError, wider.PredictionError) as error:
        _fail(str(error))
    except ImportError as error:
        _missing_extra(error, "evaluate")
    _show_ap({name: (result.ap, result.faces) for name, result in results.items()}, json_out)


@evaluate_app.command("coco")
def evaluate_coco(
    annotations: Annotated[list[Path], typer.Option(help="COCO detection json or json.gz; may be given several times.")],
    images: Annotated[Path, typer.Option(help="Folder that the file names in the annotations start from.")],
    model: ModelOption = "accurate",
    scale: ScaleOption = 1.0,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    threads: ThreadsOption = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Average precision at IoU 0.5 by face height, COCO's way, on boxes of one's own."""
    from tinyfaces.data.annotations import AnnotationError, read_coco
    from tinyfaces.evaluation import coco
    from tinyfaces.inputs import InputFile

    try:
        known = [image for file in annotations for image in read_coco(file, images)]
    except AnnotationError as error:
        _fail(str(error))
    detector = _detector(model, _EVALUATION_THRESHOLD, scale, device, backend, threads)
    found = []
    for result, _, problem in _results(detector, [InputFile(image.path, image.path) for image in known], quiet=False):
        if problem is not None:
            _fail(problem)
        found.append((result.faces.boxes, result.faces.scores))
    _show_ap({name: (band.ap, band.faces) for name, band in coco.score(found, known).items()}, json_out)


def _show_ap(results: dict[str, tuple[float, int]], json_out: Path | None) -> None:
    from tinyfaces.formats import write_atomically

    table = Table("subset", "faces", "AP")
    for name, (ap, faces) in results.items():
        table.add_row(name, str(faces), "-" if math.isnan(ap) else f"{ap:.4f}")
    Console(highlight=False).print(table)
    if json_out is not None:
        numbers = {name: {"ap": None if math.isnan(ap) else ap, "faces": faces} for name, (ap, faces) in results.items()}
        try:
            write_atomically(json_out, (json.dumps(numbers, indent=1) + "\n").encode())
        except OSError as error:
            _fail(_reason(error, json_out))


def _missing_extra(error: ImportError, extra: str) -> NoReturn:
    _fail(f"{error.name or error} is not installed: pip install 'tinyfaces[{extra}]'")


ConfigOption = Annotated[Path, typer.Option(help="TOML file, such as those in configs/.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; repeatable.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin anew, where a run of this name could be gone on with.")]


@train_app.command("proposals")
def train_proposals(config: ConfigOption, settings: SetOption = None, fresh: FreshOption = False) -> None:
    """Train the proposal network; goes on where a killed run stopped."""
    try:
        from tinyfaces.training.proposals import load_config, train
    except ImportError as error:
        _missing_extra(error, "train")
    try:
        train(load_config(config, _overrides(settings)), resume=not fresh)
    except ValueError as error:  # AnnotationError and ImageError too
        _fail(str(error))


@train_app.command("candidates")
def train_candidates(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")],
    model: ModelOption = "accurate",
    settings: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Gather what the proposal network takes for faces in the training photos: the second stage's training data.

    --config is that of the proposal network: its [[train]] sources and cache are searched.
    """
    try:
        from tinyfaces.data.cache import open_cache
        from tinyfaces.data.candidates import CandidateSettings, gather_candidates
        from tinyfaces.training.proposals import load_config, read_sources
    except ImportError as error:
        _missing_extra(error, "train")
    chosen = CandidateSettings()
    detector = _detector(model, chosen.threshold, 1.0, "cpu", "onnxruntime", threads)
    try:
        proposals = load_config(config, _overrides(settings))
        photos, _ = read_sources(proposals.train)
        cache = open_cache(photos, Path(proposals.cache))
        with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True), console=errors) as progress:
            for _ in progress.track(gather_candidates(photos, cache, detector, chosen, out), total=len(photos)):
                pass
    except ValueError as error:
        _fail(str(error))


@train_app.command("gan")
def train_second_stage(config: ConfigOption, settings: SetOption = None, fresh: FreshOption = False) -> None:
    """Train generator and discriminator on gathered candidates; goes on where a killed run stopped."""
    try:
        from tinyfaces.training.gan import load_gan_config, train_gan
    except ImportError as error:
        _missing_extra(error, "train")
    try:
        train_gan(load_gan_config(config, _overrides(settings)), resume=not fresh)
    except ValueError as error:
        _fail(str(error))


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    overrides = {}
    for text in settings or []:
        name, equals, value = text.partition("=")
        if not equals:
            _fail(f"--set {text}: must be NAME=VALUE")
        overrides[name.strip()] = _toml_value(value)
    return overrides


def _toml_value(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


@app.command("export")
def export_model(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or a .safetensors file that `export` wrote.")],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write; a .safetensors is put beside it.")],
) -> None:
    """Export trained weights to ONNX, and check that both give the same."""
    try:
        from tinyfaces.export import export
    except ImportError as error:
        _missing_extra(error, "train")
    try:
        difference = export(checkpoint, out)
    except (ValueError, OSError) as error:
        _fail(str(error))
    typer.echo(f"wrote {out}, largest difference from torch {difference:.1e}")
