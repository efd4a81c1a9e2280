"""One run of a command over many files: what all commands that take files share, from finding them to the exit code."""

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from tinyfaces.cli.options import SOME_FAILED, UNUSABLE, DetectorOptions, errors, fail
from tinyfaces.cli.progress import bar
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.files import GivenFiles, clear_partials, write_parts
from tinyfaces.jobs import bulk
from tinyfaces.jobs.animations import first_frame_line
from tinyfaces.jobs.bulk import Stopwatch, counted, reason
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.finding import AnyImage, find_faces
from tinyfaces.jobs.formats import ImageResult, csv_lines
from tinyfaces.jobs.inputs import InputFile, Inputs, left_out_line
from tinyfaces.jobs.journal import Journal, JournalError, Outcome
from tinyfaces.jobs.own_results import mark_folder
from tinyfaces.jobs.selection import ALL, Selection
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.clips import Advance, Clip
    from tinyfaces.jobs.video import VideoReader

_PROBLEM_COLUMNS = ("file", "problem")
_MAX_LINES = 3  # of written files that are named


class Run:
    """Files on their way through a command.

    In order: `plan` where everything goes, `open` the detector and the journal, `process` the files, `finish`.

    Args:
        inputs: What was found. Problems are printed; if there is no file, the command ends.
        label: What is done, for the progress bar.
        quiet: Show errors only.
    """

    def __init__(self, inputs: Inputs, label: str, quiet: bool = False) -> None:
        self.files = inputs.files
        self.label = label
        self.quiet = quiet
        self.targets: dict[InputFile, list[Path]] = {}
        self.problems: list[tuple[str, str]] = []
        self.detector: Detector
        self.journal: Journal
        self.workers = 1
        self._read = [file.path for file in inputs.files]
        self._given = GivenFiles(self._read)
        self._also: list[Path] = []
        self._speeds: list[str] = []
        self._skipped = self._done = 0
        for line in inputs.problems:
            self.problem(line, Path(line.partition(": ")[0]))
        if inputs.left_out and not quiet:
            errors.print(f"tinyfaces: {left_out_line(inputs.left_out)}")
        self._end_if_empty()

    @property
    def images(self) -> list[InputFile]:
        """The files that are no videos."""
        return [file for file in self.files if not file.is_video]

    @property
    def videos(self) -> list[InputFile]:
        """The files that are videos."""
        return [file for file in self.files if file.is_video]

    @property
    def all_targets(self) -> list[Path]:
        """Everything that may be written."""
        return [target for targets in self.targets.values() for target in targets]

    def is_given(self, path: Path) -> bool:
        """Whether a file is one of those that are only read, by whatever path."""
        return path in self._given

    def problem(self, line: str, file: Path | None = None) -> None:
        """Print what went wrong, and remember it."""
        line = " ".join(bulk.as_text(line).splitlines())
        errors.print(f"tinyfaces: {line}")
        self.problems.append((shown(file) if file is not None else "", line))

    def note(self, line: str) -> None:
        """Print what a user should know that is no problem, unless the run is quiet."""
        if not self.quiet:
            errors.print(f"tinyfaces: {line}")

    def drop_videos(self, why: str) -> None:
        """Leave out all videos; why: the rest of the message, after "is a video"."""
        for video in self.videos:
            self.problem(f"{video.path}: is a video; {why}", video.path)
            self.files.remove(video)

    def plan(
        self,
        folder: Path,
        names: Callable[[InputFile], Iterable[Path]],
        also: Iterable[Path | None] = (),
        given: Iterable[Path] = (),
    ) -> None:
        """Decide where everything goes, so that no two files write the same, and nothing that was given is overwritten.

        Files for which that cannot be are left out, with a message. If none is left, the command ends.

        Args:
            folder: For what is written.
            names: What is written for a file, below the folder. Where a name is that of a folder, all in it may be written.
            also: Files that are written for all of them together.
            given: Files that were given beside the inputs.
        """
        for one in given:
            self._given.add(one)
        folders = GivenFiles(path.absolute().parent for path in self._read)
        claimed: set[str] = set()
        for file in self.files:
            targets = [folder / name for name in names(file)]
            if taken := next((target for target in targets if _place(target) in claimed), None):
                self.problem(f"{shown(taken)}: already holds the result of another file of that name", file.path)
            elif held := next((target for target in targets if target in folders), None):
                self.problem(f"{shown(held)}: holds input files, which are never overwritten", file.path)
            elif source := next((target for target in targets if target in self._given), None):
                self.problem(f"{shown(source)}: is one of the input files, which are never overwritten", file.path)
            else:
                claimed.update(map(_place, targets))
                self.targets[file] = targets
        self.files = [file for file in self.files if file in self.targets]
        self._end_if_empty()
        self._also = [path for path in also if path is not None]
        for path in self._also:
            self._claim(path, claimed)

    def mark(self, folder: Path) -> None:
        """Say in a folder, if it is new, that its pictures are results, which no later run searches."""
        try:
            mark_folder(folder)
        except OSError as error:
            fail(bulk.as_text(reason(error, folder)))

    def _claim(self, path: Path, claimed: set[str]) -> None:
        """Make sure that a file of the run's own is written over no other."""
        if path in self._given or _place(path) in claimed:
            fail(f"{shown(path)}: is one of the input files or of the results; choose another file")
        claimed.add(_place(path))

    def open(
        self,
        options: DetectorOptions,
        threshold: float | None,
        journal: Path | None = None,
        *,
        resume: bool = False,
        settings: dict[str, Any] | None = None,
        detects: bool = True,
    ) -> None:
        """Open the detector, which as many threads share as there are files to work on at once, and the journal.

        Args:
            options: Which detector.
            threshold: Its threshold.
            journal: Where the journal lies; in memory only if None.
            resume: Skip what the journal knows as done.
            settings: What the results depend on beside the detector.
            detects: Whether a detector is needed; if not, no model is loaded.
        """
        claimed = {*map(_place, [*self.all_targets, *self._also])}
        for path in options.files() if detects else ():
            self._given.add(path)
            if _place(path) in claimed:
                fail(f"{shown(path)}: is the model, which is never overwritten")
        if journal is not None:
            self._claim(journal, claimed)
        total = options.threads or usable_cpus()
        self.workers = total if self.videos else max(1, min(total, len(self.images)))
        if detects:
            self.detector = options.open(threshold, self.workers)
        if resume and journal is None:
            fail("--resume needs --out, where the results of the earlier run are")
        detection = {**options.identity(), "threshold": threshold} if detects else {}
        try:
            self.journal = Journal(journal, {**detection, **(settings or {})}, resume=resume)
        except JournalError as error:
            fail(str(error))
        clear_partials([*self.all_targets, *self._also])  # only now: another run with this journal may be writing them

    def process(
        self, on_image: Callable[[InputFile], Outcome], on_video: Callable[[InputFile], Outcome] | None = None
    ) -> Iterator[tuple[InputFile, Outcome]]:
        """`bulk.process` of the images, then of the videos, with a progress bar; problems are printed as they come.

        Args:
            on_image: The work on an image, called from any of the threads.
            on_video: The work on a video, which uses threads itself and has a bar of its own.
        """
        yield from self._process(self.images, on_image, self.workers)
        if on_video is not None:
            yield from self._process(self.videos, on_video, 0)

    def find_faces(self, file: InputFile) -> tuple[ImageResult, AnyImage]:
        """`finding.find_faces`, and a line where only a part of the file is searched. Raises ImageError."""
        if line := first_frame_line(file.path):
            self.note(line)
        return find_faces(file, self.detector)

    def _process(
        self, files: Sequence[InputFile], work: Callable[[InputFile], Outcome], workers: int
    ) -> Iterator[tuple[InputFile, Outcome]]:
        watch = Stopwatch()
        with bar(self.label, len(files), hidden=self.quiet or len(files) < 2 or workers == 0) as advance, self._ended_by_disks():
            for file, outcome in bulk.process(files, work, self.journal, workers):
                advance(1)
                self._skipped += outcome.skipped
                self._done += outcome.skipped or outcome.record is not None
                if outcome.record is not None:
                    watch.add(outcome.record.get("frames", 1), outcome.record["width"] * outcome.record["height"])
                if outcome.problem is not None:
                    self.problem(outcome.problem, file.path)
                yield file, outcome
        if watch.count:
            self._speeds.append(watch.line("frame" if workers == 0 else "image"))

    @contextmanager
    def _ended_by_disks(self) -> Iterator[None]:
        """End the command where no further file can be done; --resume goes on from there."""
        try:
            yield
        except (bulk.DiskFull, JournalError) as error:
            self.journal.close(keep=True)
            fail(bulk.as_text(error))

    @contextmanager
    def clip(
        self, file: InputFile, cover: CoverThreshold | None = None, selection: Selection = ALL, spacing: Spacing = EVERY_FRAME
    ) -> Iterator["Clip"]:
        """The faces of a video, with a progress bar. Raises ValueError where the extra is missing.

        Args:
            file: The video.
            cover: The score from which a detection counts; None for the detector's threshold.
            selection: Which faces are of interest.
            spacing: Which frames are searched.
        """
        with self.video(file) as (video, advance):
            from tinyfaces.jobs.clips import Clip

            yield Clip(video, self.detector, self.workers, advance, cover, selection, spacing)

    @contextmanager
    def video(self, file: InputFile) -> Iterator[tuple["VideoReader", "Advance"]]:
        """A video and what advances its progress bar. Raises ValueError where the extra is missing."""
        try:
            from tinyfaces.jobs.clips import Clip  # noqa: F401
            from tinyfaces.jobs.video import VideoReader
        except ImportError as error:
            needed = f"{error.name} is not installed, which videos need: pip install 'tinyfaces[video]'"
            raise ValueError(f"{file.path}: {needed}") from None
        with (
            VideoReader(file.path) as video,
            bar(f"{self.label}: {shown(file.name)}", video.frames_expected, "frames", self.quiet) as advance,
        ):
            yield video, advance

    def records(self, files: Sequence[InputFile] | None = None) -> Iterator[tuple[InputFile, dict[str, Any]]]:
        """What came of the files, those done in an earlier run too, in order."""
        with self._ended_by_disks():
            yield from self.journal.read(self.files if files is None else files)

    def write(self, path: Path, parts: Iterable[str]) -> None:
        """Write a text; ends the command where that is impossible."""
        try:
            write_parts(path, parts)
        except OSError as error:
            fail(bulk.as_text(reason(error, path)))

    def print_speed(self, console: Console) -> None:
        """Print how fast it went."""
        if self._skipped:
            console.print(f"{counted(self._skipped, 'file')} done in an earlier run", soft_wrap=True)
        for line in self._speeds:
            console.print(line, soft_wrap=True)

    def finish(self, resume: bool = False, report: Path | None = None) -> None:
        """Close the journal, list all problems in the file `report`, and exit with the right code."""
        self.journal.close(resume or bool(self.problems))
        if report is not None:
            if self.problems:
                self.write(report, [csv_lines([_PROBLEM_COLUMNS, *self.problems])])
            elif _is_problem_list(report):
                with suppress(OSError):
                    report.unlink()
        if self.problems:
            if report is not None and not self.quiet:
                typer.echo(f"{counted(len(self.problems), 'problem')}, listed in {shown(report)}")
            raise typer.Exit(SOME_FAILED if self._done else UNUSABLE)

    def _end_if_empty(self) -> None:
        if not self.files:
            raise typer.Exit(UNUSABLE)


def print_written(written: Sequence[Path], console: Console) -> None:
    """Name the first few files that were written."""
    for file in written[:_MAX_LINES]:
        console.print(f"wrote {shown(file)}", soft_wrap=True, markup=False)
    if len(written) > _MAX_LINES:
        console.print(f"and {counted(len(written) - _MAX_LINES, 'more file')}")


def shown(path: Path) -> str:
    """A path as text, also where its bytes are no UTF-8."""
    return bulk.as_text(path)


def is_there(path: Path) -> bool:
    """Whether there is such a file, as far as can be seen."""
    return os.path.exists(path)  # noqa: PTH110 (that of Path raises OSError)


def _place(path: Path) -> str:
    """Where a file is written, however its path is spelt. macOS, like Windows, takes names that differ in case for the same."""
    place = os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118
    return unicodedata.normalize("NFC", place).casefold() if sys.platform == "darwin" else place


def _is_problem_list(path: Path) -> bool:
    """Whether a file is a list of problems that an earlier run wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline() == csv_lines([_PROBLEM_COLUMNS])
    except OSError:
        return False
