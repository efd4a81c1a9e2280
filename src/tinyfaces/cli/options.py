"""What all commands share: the applications they belong to, their options in groups, exit codes and error messages."""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias, get_type_hints

import typer
from rich.console import Console
from typer.core import TyperCommand

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.runtime import RuntimeOptions, int8_file
from tinyfaces.files import GivenFiles
from tinyfaces.jobs.bulk import reason as reason
from tinyfaces.jobs.outputs import is_file_name
from tinyfaces.jobs.spacing import Spacing
from tinyfaces.weights import models

SOME_FAILED, UNUSABLE = 1, 2

INPUT, MODEL, FACES, OUTPUT, SPEED = "Input", "Model", "Faces", "Output", "Speed"
"""Groups of options in help texts."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds tiny faces in photos of crowds, stands and streets, on a plain CPU.",
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a detector against known faces.")
train_app = typer.Typer(no_args_is_help=True, help="Train networks (needs the extra: pip install 'tinyfaces[train]').")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(train_app, name="train")

errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def fail(message: str, code: int = UNUSABLE) -> NoReturn:
    """End the command with one line on the standard error."""
    errors.print(f"tinyfaces: {message}".encode("utf-8", "replace").decode())
    raise typer.Exit(code)


def folder_of(option: str, given: Path) -> Path:
    """The folder that an option names. Ends the command where that is the name of a file."""
    if is_file_name(given):
        fail(f"{given}: {option} is a folder")
    return given


def json_file(option: str, given: Path | None) -> Path | None:
    """The JSON file that an option names. Ends the command where its ending says something else."""
    if given is not None and is_file_name(given) and given.suffix.lower() != ".json":
        fail(f"{given}: {option} writes JSON, to a file whose name ends in .json")
    return given


def keep(given: Iterable[Path], written: Iterable[Path]) -> None:
    """End the command if it would write over a file that was given."""
    known = GivenFiles(given)
    for path in written:
        if path in known:
            fail(f"{path}: is one of the input files, which are never overwritten")


def missing_extra(error: ImportError, extra: str) -> NoReturn:
    """End the command with one line that says what to install."""
    fail(f"{error.name or error} is not installed: pip install 'tinyfaces[{extra}]'")


class GroupedCommand(TyperCommand):
    """A command whose help lists its options in groups, as plain text, which terminals of any width can show."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], INPUT: [], MODEL: [], FACES: [], OUTPUT: [], SPEED: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            group = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or group, []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def command(group: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of a group. Parameters that are dataclasses become one option for each of their fields."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        group.command(name, cls=GroupedCommand)(_flat(function))
        return function

    return register


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """The function with each dataclass among its parameters replaced by the dataclass's fields."""
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if is_dataclass(kind):
            bundles[parameter.name] = kind
            hints = get_type_hints(kind, include_extras=True)
            parameters += [
                inspect.Parameter(
                    one.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name],
                    default=inspect.Parameter.empty if one.default is MISSING else one.default,
                )
                for one in fields(kind)
            ]  # fmt: skip
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def flat(**values: Any) -> None:
        for name, kind in bundles.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        function(**values)

    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(flat)["__signature__"] = inspect.Signature(parameters)
    return flat


def _parse_scale(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter("must be a number or 'auto'") from None


Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, rich_help_panel=MODEL, help="Score from which a detection counts; by default, what the model recommends."
    ),
]
_EVERY = (
    "Search one in so many frames of a video, 1 to 10, and follow faces between; auto searches more where one is lost. "
    "Faster, and less safe."
)
Every: TypeAlias = Annotated[str, typer.Option(metavar="N|auto", rich_help_panel=SPEED, help=_EVERY)]
Threads: TypeAlias = Annotated[int | None, typer.Option(min=1, rich_help_panel=SPEED, help="Processor threads; all by default.")]
ModelName: TypeAlias = Annotated[
    str, typer.Option(rich_help_panel=MODEL, help="A shipped model (see `tinyfaces models`) or the path of an ONNX file.")
]


@dataclass(frozen=True)
class InputOptions:
    """Which files, and which of them are done already."""

    paths: Annotated[
        list[str],
        typer.Argument(rich_help_panel=INPUT, help="Images and videos, folders of them, or patterns such as 'photos/**/*.jpg'."),
    ]
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", rich_help_panel=INPUT, help="Search folders and the folders in them.")
    ] = False


@dataclass(frozen=True)
class ProgressOptions:
    """How a run over many files goes on, and what it shows."""

    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=SPEED,
            help="Skip what an earlier run of the same command has done.",
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Print errors only: no table, no progress.")
    ] = False


@dataclass(frozen=True)
class RuntimeChoice:
    """What runs the networks."""

    device: Annotated[
        str, typer.Option(rich_help_panel=SPEED, help="auto, the best there is; or cpu, cuda, directml, coreml, gpu (openvino).")
    ] = "auto"
    backend: Annotated[str, typer.Option(rich_help_panel=SPEED, help="onnxruntime or openvino (an extra).")] = "onnxruntime"
    precision: Annotated[
        str,
        typer.Option(
            rich_help_panel=SPEED,
            help="float32, int8, bfloat16 (openvino only), or auto: int8 on processors made for it, else float32.",
        ),
    ] = "auto"
    threads: Threads = None

    def options(self) -> RuntimeOptions:
        """The same, for sessions. Ends the command if the choice makes no sense."""
        try:
            return RuntimeOptions(self.backend, self.device, self.threads, self.precision)
        except ValueError as error:
            fail(str(error))


@dataclass(frozen=True)
class DetectorOptions(RuntimeChoice):
    """Which detector."""

    model: ModelName = "accurate"
    stages: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="proposals: the proposal network alone; both: the second stage judges small or uncertain faces, the default of "
            "shipped models.",
        ),
    ] = None
    scale: Annotated[
        Any,
        typer.Option(
            parser=_parse_scale,
            metavar="NUMBER|auto",
            rich_help_panel=MODEL,
            help="Enlarge images first: at 2, faces half as large are found, in four times the time. auto enlarges images below "
            "2 megapixels, at most twofold. By default, shipped models enlarge those below 0.3 megapixels, at most 1.5 times.",
        ),
    ] = None

    def open(self, threshold: float | None, workers: int = 1) -> Detector:
        """Open the detector, for this many threads to share. Ends the command if that fails."""
        try:
            return Detector(
                self.model, threshold=threshold, scale=self.scale, stages=self.stages, device=self.device, backend=self.backend,
                threads=self.threads, precision=self.precision, workers=workers,
            )  # fmt: skip
        except ValueError as error:  # ModelError is one
            fail(str(error))

    def files(self) -> list[Path]:
        """The model's files, where it is no shipped one."""
        return [] if self.model in models() else [Path(self.model), int8_file(Path(self.model))]

    def identity(self) -> dict[str, Any]:
        """What results depend on: all but the threads and the device, and the content of the model."""
        path = models()[self.model].path if self.model in models() else Path(self.model)
        chosen = {name: value for name, value in asdict(self).items() if name not in ("threads", "device")}
        return {**chosen, "model": f"{self.model} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"}


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


def spacing_of(every: str) -> Spacing:
    """Which frames `--every` names. Ends the command if it makes no sense."""
    try:
        return Spacing.of(every)
    except ValueError as error:
        fail(f"--{error}")
