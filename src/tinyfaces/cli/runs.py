"""What the commands that work on many files share: inputs, targets, detectors, the bar, the report of what went wrong."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tinyfaces.cli.options import SOME_FAILED, UNUSABLE, errors, fail
from tinyfaces.files import write_parts
from tinyfaces.jobs import bulk
from tinyfaces.jobs.bulk import Pool, Stopwatch, reason
from tinyfaces.jobs.inputs import InputFile, Inputs
from tinyfaces.jobs.journal import Journal, JournalError

_LINES_SHOWN = 3

PathsArgument = Annotated[
    list[str], typer.Argument(help="Images and videos, folders of them, or patterns such as 'photos/**/*.jpg'.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Skip what an earlier run, finished or killed, has done; give it the same options.")
]
RecursiveOption = Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders below the given ones.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Neither table nor progress; errors only.")]


@dataclass
class Run:
    """Files on their way through a command. targets: what each will write; problems: what went wrong so far, a line each."""

    files: list[InputFile]
    quiet: bool
    targets: dict[InputFile, list[Path]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    speeds: list[str] = field(default_factory=list)
    skipped: int = 0
    done: int = 0

    @property
    def images(self) -> list[InputFile]:
        return [file for file in self.files if not file.is_video]

    @property
    def videos(self) -> list[InputFile]:
        return [file for file in self.files if file.is_video]

    @property
    def all_targets(self) -> list[Path]:
        return [target for targets in self.targets.values() for target in targets]

    def problem(self, line: str, file: Path | None = None) -> None:
        """Tell what went wrong, and remember it."""
        errors.print(f"tinyfaces: {line}")
        self.problems.append((str(file) if file is not None else "", line))

    def drop(self, file: InputFile, line: str) -> None:
        """Leave a file out, and tell why."""
        self.problem(line, file.path)
        self.files.remove(file)

    def leave_if_nothing(self) -> None:
        """Leave where nothing is left to do."""
        if not self.files:
            raise typer.Exit(UNUSABLE)

    def plan(self, folder: Path, names: Callable[[InputFile], Iterable[Path]]) -> None:
        """Decide where everything goes: no two files write the same, and none overwrites one of those given. Files for which
        that can't be are told and left out."""
        sources = {_identity(file.path) for file in self.files} - {None}
        claimed: set[Path] = set()
        for file in self.files:
            targets = [folder / name for name in names(file)]
            wrong = next((target for target in targets if target in claimed), None)
            if wrong is not None:
                self.problem(f"{wrong}: already holds the result of another image of that name", file.path)
                continue
            wrong = next((target for target in targets if _identity(target) in sources), None)
            if wrong is not None:
                self.problem(f"{wrong}: is one of the files given, and is not overwritten", file.path)
                continue
            claimed.update(targets)
            self.targets[file] = targets
        self.files = [file for file in self.files if file in self.targets]

    def process(
        self,
        files: Sequence[InputFile],
        work: Callable[[InputFile], bulk.Outcome],
        journal: Journal,
        workers: int = 0,
        label: str | None = None,
    ) -> Iterator[bulk.Progress]:
        """`bulk.process`, with problems told as they come, and a bar if there is a label; a video's work has one of its own."""
        watch = Stopwatch()
        hidden = self.quiet or len(files) < 2 or label is None
        with bar(label or "", "{task.completed}/{task.total}", len(files), hidden) as advance:
            for step in bulk.process(files, work, journal, workers):
                advance(1)
                self.skipped += step.skipped
                record = step.entry.record
                self.done += step.skipped or record is not None
                if record is not None and not step.skipped:
                    watch.add(record.get("frames", 1), record["width"] * record["height"])
                if step.entry.problem is not None:
                    self.problem(step.entry.problem, step.file.path)
                yield step
        if watch.count:
            self.speeds.append(watch.line("frames" if files[0].is_video else "images"))

    def finish(self, journal: Journal, keep: bool, report: Path | None) -> None:
        """Write the report of what went wrong, let go of the journal, and leave with the right code."""
        from tinyfaces.jobs import formats

        journal.close(keep or bool(self.problems))
        if report is not None:
            try:
                if self.problems:
                    write_parts(report, [formats.csv_lines([("file", "problem"), *self.problems])])
                else:
                    report.unlink(missing_ok=True)
            except OSError as error:
                fail(reason(error, report))
        if self.problems:
            if report is not None and not self.quiet:
                typer.echo(f"{len(self.problems)} problems, listed in {shown(report)}")
            raise typer.Exit(SOME_FAILED if self.done else UNUSABLE)


def start(inputs: Inputs, quiet: bool) -> Run:
    """Begin with what was found; leaves where that is nothing."""
    run = Run(inputs.files, quiet)
    for line in inputs.problems:
        run.problem(line, Path(line.partition(":")[0]))
    if not run.files:
        raise typer.Exit(UNUSABLE)
    return run


def open_journal(path: Path | None, settings: dict[str, Any], resume: bool) -> Journal:
    try:
        return Journal(path, settings, resume=resume)
    except JournalError as error:
        fail(str(error))


def open_detectors(run: Run, threads: int | None, open_one: Callable[..., Any]) -> Pool[Any]:
    """Detectors for as many images, or frames of a video, at once as there are threads: a thread each does more work than all
    threads for one. open_one: `open_detector`, still without its threads."""
    from tinyfaces.detection.runtime import usable_cpus

    total = threads or usable_cpus()
    workers = total if run.videos else max(1, min(total, len(run.images)))
    return Pool([open_one(threads=total // workers) for _ in range(workers)])


def find_in(file: InputFile, detector: Any, preview_side: int | None) -> tuple[Any, Any, int, int]:
    """The faces in an image of any size, its pixels, width and height. Of an image too large for memory the pixels are a preview
    of `preview_side`, or None where no side is given. Raises ImageError."""
    from tinyfaces.detection.images import ImageTooLarge, read_image
    from tinyfaces.detection.large import LargeImage

    try:
        pixels = read_image(file.path)
    except ImageTooLarge:
        image = LargeImage(file.path)
        height, width = image.shape[:2]
        return detector.detect_regions(image), image.preview(preview_side) if preview_side else None, width, height
    return detector.detect(pixels), pixels, pixels.shape[1], pixels.shape[0]


def clip_opener() -> Callable[..., Any]:
    """What opens a video and its clip: `with open(file, detectors, quiet, label) as (video, clip)`. Raises ValueError where the
    extra is missing, as a problem of that file."""
    try:
        import trackers  # noqa: F401  (which the clip imports when a video is open)

        from tinyfaces.jobs.clips import Clip
        from tinyfaces.jobs.video import VideoReader
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed, which videos need: pip install 'tinyfaces[video]'") from None

    @contextmanager
    def open_clip(file: InputFile, detectors: Pool[Any], quiet: bool, label: str) -> Iterator[tuple[Any, Any]]:
        with (
            VideoReader(file.path) as video,
            bar(f"{label}: {shown(file.name)}", _count_of(video.frames_expected), video.frames_expected, quiet) as advance,
        ):
            threshold = detectors.call(lambda detector: detector.threshold)
            yield video, Clip(video, detectors, threshold, advance)

    return open_clip


def model_identity(model: str) -> str:
    """What tells a model from another of the same name."""
    import hashlib

    from tinyfaces.weights import models

    path = models()[model].path if model in models() else Path(model)
    return f"{model} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


@contextmanager
def bar(label: str, count: str, total: int | None, hidden: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on the standard error, where that is a terminal: gives what to call with each step."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn(count) if count else MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True, disable=hidden or not errors.is_terminal) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(steps: int) -> None:
            progress.advance(task, steps)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def tell_speed(run: Run, console: Console) -> None:
    if run.skipped:
        console.print(f"{run.skipped} files were done before")
    for line in run.speeds:
        console.print(line)


def tell_written(written: Sequence[Path], console: Console) -> None:
    for file in written[:_LINES_SHOWN]:
        console.print(f"wrote {shown(file)}", soft_wrap=True, markup=False)
    if len(written) > _LINES_SHOWN:
        console.print(f"and {len(written) - _LINES_SHOWN} more files")


def shown(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode("utf-8")


def _count_of(frames: int | None) -> str:
    return "{task.completed} frames" if frames is None else "{task.completed}/{task.total} frames"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
