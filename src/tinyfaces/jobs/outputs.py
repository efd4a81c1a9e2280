"""Where the results of a detection go: one document, a file for each image, pictures, or nowhere."""

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.files import named_after, write_atomically
from tinyfaces.jobs import formats
from tinyfaces.jobs.finding import AnyImage, preview
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile

STATE_ENDING = ".state"
"""Of the name of the folder beside published results."""
_FORMAT_OF_SUFFIX = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}


@dataclass(frozen=True)
class Output:
    """Where results go.

    Args:
        format: One of `formats.FORMATS`, or None where none are written.
        folder: For all files but the document.
        document: The one file of all images' results, if any.
        scores: Whether YOLO files have scores.
        pictures: Whether to draw a picture of each image.
    """

    format: str | None
    folder: Path
    document: Path | None
    scores: bool = True
    pictures: bool = False

    @classmethod
    def of(cls, out: str | None, format: str | None, *, scores: bool, pictures: bool) -> "Output":
        """What a user means by a file or folder `out` and a format, either of which may be left out."""
        given = Path(out) if out is not None else None
        suffix = given.suffix.lower() if given is not None and not given.is_dir() else ""
        chosen = format or (_FORMAT_OF_SUFFIX.get(suffix, "json") if given is not None else None)
        document = None
        if chosen in formats.DOCUMENTS and given is not None:
            extension = {"coco": ".json"}.get(chosen, f".{chosen}")
            document = given if suffix in _FORMAT_OF_SUFFIX else given / f"faces{extension}"
        folder = Path("faces") if given is None else (given.parent if document == given else given)
        return cls(chosen, folder, document, scores, pictures)

    @property
    def to_stdout(self) -> bool:
        """Whether the document goes to the standard output."""
        return self.document is None and self.format in formats.DOCUMENTS

    @property
    def on_disk(self) -> bool:
        """Whether results are written to files."""
        return self.document is not None or self.per_image

    @property
    def per_image(self) -> bool:
        """Whether each image has a result file of its own."""
        return self.format in formats.PER_IMAGE

    @property
    def takes_videos(self) -> bool:
        """Whether the results of videos can be written too."""
        return not self.per_image and self.format != "coco" and (not self.to_stdout or self.format == "jsonl")

    def beside(self, suffix: str) -> Path | None:
        """A file of the run's own beside its results, such as its journal."""
        if not self.on_disk:
            return None
        return self.document.with_name(f"{self.document.stem}{suffix}") if self.document else self.folder / f"faces{suffix}"

    def names(self, file: InputFile) -> list[Path]:
        """The files in the folder that are written for one input file alone."""
        if file.is_video:
            return [named_after(file.name, f"{file.name.suffix}.{self.format}")] if self.document else []
        names = [formats.PER_IMAGE[self.format or ""][0](file)] if self.per_image else []
        return [*names, _picture_name(file)] if self.pictures else names

    def write(self, result: ImageResult, image: AnyImage) -> list[Path]:
        """Write the files of one image alone, and give their paths. Raises OSError, and ImageError for a damaged image."""
        written = []
        if self.per_image:
            name, text = formats.PER_IMAGE[self.format or ""]
            content = text(result) if self.scores else formats.as_yolo_labels(result)
            written.append(self.folder / name(result))
            write_atomically(written[-1], content.encode())
        if self.pictures:
            written.append(self.folder / _picture_name(result))
            write_atomically(written[-1], _drawn(result, preview(image)))
        return written


@dataclass(frozen=True)
class StateFiles:
    """The files of a run that tell where its results come from. They never lie in a folder that is made to be published.

    Args:
        journal: See `tinyfaces.jobs.journal`.
        problems: The list of problems, a CSV file.
    """

    journal: Path
    problems: Path

    @classmethod
    def of(cls, out: Path, report: Path | None) -> "StateFiles":
        """Next to the report, or in a folder FOLDER.state beside the folder of the results.

        Raises:
            ValueError: There is nothing beside that folder.
        """
        if report is not None and not lies_in(report, out):
            return cls(report.with_name(f"{report.stem}.journal"), report.with_name(f"{report.stem}_problems.csv"))
        folder = out.resolve() if ".." in out.parts else out.absolute()
        if folder.parent == folder:
            raise ValueError(f"{out}: has nothing beside it where the journal could lie; choose another folder, or give --report")
        beside = (out if out.name and ".." not in out.parts else folder).with_name(f"{folder.name}{STATE_ENDING}")
        return cls(beside / "journal", beside / "problems.csv")

    def tidy(self) -> None:
        """Remove the state folder if nothing is left in it."""
        if self.journal.parent.name.endswith(STATE_ENDING):
            with suppress(OSError):
                self.journal.parent.rmdir()


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is, or would be, somewhere below a folder."""
    return folder.resolve() in path.resolve().parents


def _picture_name(file: formats.Named) -> Path:
    return named_after(file.name, f"_faces.{'png' if file.path.suffix.lower() == '.png' else 'jpg'}")


def _drawn(result: ImageResult, pixels: Pixels) -> bytes:
    """A picture of the image, or of a reduced copy, with frames around its faces."""
    content = io.BytesIO()
    faces = Faces(result.faces.boxes * (pixels.shape[1] / result.width), result.faces.scores)
    kind = "PNG" if result.path.suffix.lower() == ".png" else "JPEG"
    faces.draw(pixels).save(content, kind, quality=92)
    return content.getvalue()
