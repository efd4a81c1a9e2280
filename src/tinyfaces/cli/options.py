"""What all commands share: the applications they belong to, their common options, exit codes and messages."""

from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from tinyfaces.jobs.bulk import reason as reason

SOME_FAILED, UNUSABLE = 1, 2

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


def fail(message: str, code: int = UNUSABLE) -> NoReturn:
    errors.print(f"tinyfaces: {message}")
    raise typer.Exit(code)


def missing_extra(error: ImportError, extra: str) -> NoReturn:
    fail(f"{error.name or error} is not installed: pip install 'tinyfaces[{extra}]'")


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
        help="Enlarge images before looking: 2 finds faces half as large in four times the time; auto enlarges those below 2 "
        "megapixels, at most twofold. If left out, shipped models enlarge those below 0.3 megapixels, at most 1.5 times.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
BackendOption = Annotated[str, typer.Option(help="onnxruntime or openvino (an extra).")]
PrecisionOption = Annotated[
    str,
    typer.Option(help="auto (int8 on processors made for it, else float32), float32, int8, or bfloat16 (openvino alone)."),
]
StagesOption = Annotated[
    str | None,
    typer.Option(help="proposals: the first network alone; both (default of shipped models): with the second stage."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; all if left out.")]


def open_detector(
    model: str,
    threshold: float | None,
    scale: Any,
    device: str,
    backend: str,
    threads: int | None,
    stages: str | None = None,
    precision: str = "auto",
) -> Any:
    """A detector; ends the command with one line where it cannot be had."""
    from tinyfaces.detection.detector import Detector

    try:
        return Detector(
            model, threshold=threshold, scale=scale, device=device, backend=backend, threads=threads, stages=stages,
            precision=precision,
        )  # fmt: skip
    except ValueError as error:  # ModelError is one
        fail(str(error))


def overrides_of(settings: list[str] | None) -> dict[str, Any]:
    """What `--set NAME=VALUE` options say."""
    overrides = {}
    for text in settings or []:
        name, equals, value = text.partition("=")
        if not equals:
            fail(f"--set {text}: must be NAME=VALUE")
        overrides[name.strip()] = _toml_value(value)
    return overrides


def _toml_value(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
