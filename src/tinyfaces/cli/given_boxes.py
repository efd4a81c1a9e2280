"""`--boxes` and `--also-boxes`: boxes from files, for the files of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfaces.cli import runs
from tinyfaces.cli.options import INPUT, fail
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.known_faces import Known, KnownFaces, KnownFacesError, KnownVideo, assign
from tinyfaces.jobs.result_files import BoxFiles, read_box_files
from tinyfaces.parsing.texts import AnnotationError


@dataclass(frozen=True)
class BoxesOptions:
    """Boxes that are given."""

    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            rich_help_panel=INPUT,
            help="Mask exactly the boxes in these files, and detect nothing: json, jsonl or csv of tinyfaces, COCO, YOLO, Pascal "
            "VOC, XMP. A file without an entry there is a problem, and is not written.",
        ),
    ] = None
    also_boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            rich_help_panel=INPUT,
            help="Mask these boxes too, such as number plates or what another detector found.",
        ),
    ] = None

    def refuse(self, chooses: bool) -> None:
        """End the command if exactly these boxes are to be masked, and other options choose among the faces found."""
        if self.boxes is not None and chooses:
            fail("--boxes masks exactly the boxes given; options that choose among the faces found do not go with it")

    def shown(self) -> dict[str, str]:
        """The files given, as reports name them."""
        return {name: runs.shown(path) for name, path in asdict(self).items() if path is not None}

    def read(self) -> "GivenBoxes":
        """Read them. Ends the command where that is impossible."""
        try:
            exact, added = (None if path is None else read_box_files(path) for path in (self.boxes, self.also_boxes))
        except AnnotationError as error:
            fail(str(error))
        return GivenBoxes(exact, added)


@dataclass
class GivenBoxes:
    """The boxes of both options.

    Args:
        exact: Those of `--boxes`, without which nothing is detected; None where that is not given.
        added: Those of `--also-boxes`.
    """

    exact: BoxFiles | None
    added: BoxFiles | None
    _known: dict[InputFile, list[Known]] = field(default_factory=dict)
    _problems: dict[InputFile, str] = field(default_factory=dict)

    @property
    def detects(self) -> bool:
        """Whether faces are detected too."""
        return self.exact is None

    @property
    def files(self) -> list[Path]:
        """The files that were read, which are never overwritten."""
        return [file for part in self._parts for file in part.files]

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        named = {"boxes": self.exact, "also_boxes": self.added}
        return {name: part.fingerprint for name, part in named.items() if part is not None}

    @property
    def _parts(self) -> list[BoxFiles]:
        return [part for part in (self.exact, self.added) if part is not None]

    def assign(self, run: runs.Run) -> None:
        """Find the entries about the files of a run; what is wrong with the files of boxes is printed."""
        for part in self._parts:
            for line in part.problems:
                run.problem(line, Path(line.partition(": ")[0]))
            found = assign(part.entries, run.files)
            if part.entries and not found.known and not found.problems and part is self.added:
                fail(f"{part.path}: has no boxes for any of the files")
            for file in run.files:
                if file in found.known:
                    self._known.setdefault(file, []).append(found.known[file])
                elif file in found.problems:
                    self._problems[file] = found.problems[file]
                elif part is self.exact:
                    self._problems[file] = f"{file.path}: has no entry in {part.path}; not masked, and not written"
            _tell_unused(run, found.unused)

    def photo(self, file: InputFile) -> list[KnownFaces]:
        """The faces given for a photo. Raises KnownFacesError where it has none, and nothing is to be detected."""
        return [one for one in self._of(file) if isinstance(one, KnownFaces)]

    def video(self, file: InputFile) -> list[KnownVideo]:
        """The faces given for a video, as `photo`."""
        known = [one for one in self._of(file) if isinstance(one, KnownVideo)]
        for one in known:
            if one.problem is not None:
                raise KnownFacesError(f"{file.path}: cannot be covered ({one.problem})")
        return known

    def _of(self, file: InputFile) -> Sequence[Known]:
        if file in self._problems:
            raise KnownFacesError(self._problems[file])
        return self._known.get(file, ())


def _tell_unused(run: runs.Run, unused: Mapping[Path, int]) -> None:
    """Say how many entries are about none of the files: a line for each document, and one for all label files together."""
    if not unused:
        return
    places = [*unused]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    entries = "1 entry fits" if sum(unused.values()) == 1 else f"{sum(unused.values())} entries fit"
    run.note(f"{places[0]}{more}: {entries} none of the files given")
