"""Where the results of a detection go: one document, a file for each image, pictures, or nowhere."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import SUFFIXES, Pixels
from tinyfaces.files import named_after, write_atomically
from tinyfaces.jobs import formats
from tinyfaces.jobs.face_crops import FaceCrops
from tinyfaces.jobs.face_regions import is_other_sidecar
from tinyfaces.jobs.finding import AnyImage, preview
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import CONTAINERS, VIDEO_SUFFIXES, InputFile
from tinyfaces.jobs.jpeg_copies import jpeg_with_regions
from tinyfaces.jobs.own_results import STATE_ENDING, STATE_NAMES, as_marked_picture

_LONGEST_JPEG = 65_500  # pixels, of what the encoder takes
_FORMAT_OF_SUFFIX = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".xml": "cvat"}
_SUFFIX_OF_FORMAT = {
    "json": ".json", "jsonl": ".jsonl", "csv": ".csv", "coco": ".json",
    "cvat": ".xml", "labelstudio": ".json", "fiftyone": ".json",
}  # fmt: skip
_FILE_SUFFIXES = (
    SUFFIXES
    | VIDEO_SUFFIXES
    | set(_FORMAT_OF_SUFFIX)
    | set(".gz .htm .html .log .md .onnx .parquet .pdf .pt .safetensors .toml .tsv .txt .xls .xlsx .xml .yaml .yml .zip".split())
)


WHERE_VIDEOS_GO = "its faces are written as json, jsonl or csv to --out, or as jsonl to the standard output"
"""What is said of a video whose results cannot be written."""


class OutputError(ValueError):
    """Results cannot go where the user says. The message is one line."""


def is_file_name(path: Path) -> bool:
    """Whether a name that a user gives is that of a file rather than a folder."""
    return path.suffix.lower() in _FILE_SUFFIXES and not path.is_dir()


def document_of(out: Path, format: str | None, formats: Collection[str], stem: str) -> tuple[Path, str]:
    """The document that a user means by `out`, a file or a folder, and its format.

    Args:
        out: What the user gave.
        format: Which format the user wants; None for that of the file's name, or JSON.
        formats: Which formats there are.
        stem: The document's name in a folder, without its ending.

    Raises:
        OutputError: The name's ending is none of a document, or contradicts the format.
    """
    if not is_file_name(out):
        chosen = format or "json"
        return out / f"{stem}{_SUFFIX_OF_FORMAT[chosen]}", chosen
    suffix = out.suffix.lower()
    known = list(dict.fromkeys(_SUFFIX_OF_FORMAT[name] for name in formats))
    if suffix not in known:
        raise OutputError(f"{out}: --out is a folder, or a file whose name ends in {', '.join(known)}")
    if format is not None and _SUFFIX_OF_FORMAT[format] != suffix:
        raise OutputError(f"{out}: --format {format} writes {_SUFFIX_OF_FORMAT[format]} files")
    return out, format or _FORMAT_OF_SUFFIX[suffix]


@dataclass(frozen=True)
class Output:
    """Where results go.

    Args:
        format: One of `formats.FORMATS`, or None where none are written.
        folder: For all files but the document.
        document: The one file of all images' results, if any.
        scores: Whether YOLO files have scores.
        pictures: Whether to draw a picture of each image.
        copies: Whether XMP goes into copies of the photos, and not into sidecars.
        show_scores: Whether pictures have the score above each frame.
        crops: Where each face goes as a file of its own, if anywhere.
        videos: Whether to draw each video.
    """

    format: str | None
    folder: Path
    document: Path | None
    scores: bool = True
    pictures: bool = False
    copies: bool = False
    show_scores: bool = False
    crops: FaceCrops | None = None
    videos: bool = False

    @classmethod
    def of(cls, out: str | None, format: str | None, *, scores: bool, pictures: bool, copies: bool = False) -> "Output":
        """What a user means by a file or folder `out` and a format, either of which may be left out. Raises OutputError."""
        if copies and format != "xmp":
            raise OutputError("--copies goes with --format xmp")
        if not scores and format != "yolo":
            raise OutputError("--no-scores goes with --format yolo")
        if out is None:
            return cls(format, Path("faces"), None, scores, pictures, copies)
        given = Path(out)
        if format in formats.PER_IMAGE:
            if is_file_name(given):
                raise OutputError(f"{given}: --format {format} writes a file for each image, to a folder")
            return cls(format, given, None, scores, pictures, copies)
        document, chosen = document_of(given, format, formats.DOCUMENTS, "faces")
        return cls(chosen, document.parent, document, scores, pictures)

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
        return (self.format is None or self.format in formats.VIDEO_DOCUMENTS) and (not self.to_stdout or self.format == "jsonl")

    def beside(self, suffix: str) -> Path | None:
        """A file of the run's own beside its results, such as its journal."""
        if not self.on_disk:
            return None
        return self.document.with_name(f"{self.document.stem}{suffix}") if self.document else self.folder / f"faces{suffix}"

    @property
    def class_list(self) -> Path | None:
        """The list of classes that labelling tools want beside YOLO files without scores."""
        return self.folder / "classes.txt" if self.format == "yolo" and not self.scores else None

    def names(self, file: InputFile) -> list[Path]:
        """The files in the folder that are written for one input file alone."""
        if file.is_video:
            names = [named_after(file.name, f"{file.name.suffix}.{self.format}")] if self.document else []
            return [*names, _drawn_video_name(file)] if self.videos else names
        names = [formats.PER_IMAGE[self.format or ""][0](file)] if self.per_image else []
        if self.copies:
            names = [file.name]
        return [*names, _picture_name(file)] if self.pictures else names

    def drawn_video(self, file: InputFile) -> Path | None:
        """Where a drawn video goes, if it is to be written."""
        return self.folder / _drawn_video_name(file) if self.videos else None

    def targets(self, file: InputFile) -> list[Path]:
        """All files that are written for one input file alone; of its crops the first, which stands for all."""
        crops = [self.crops.first(file)] if self.crops is not None else []
        return [*(self.folder / name for name in self.names(file)), *crops]

    def write(self, result: ImageResult, image: AnyImage | None = None) -> list[Path]:
        """Write the files of one image alone, and give their paths.

        Raises:
            OSError: A file cannot be written.
            ImageError: The image is damaged, or cannot hold face regions.
            OutputError: A file of another program would be written over.
            CropError: A file that is no crop would be written over by one.
        """
        written = []
        if self.copies:
            written.append(self.folder / result.name)
            write_atomically(written[-1], jpeg_with_regions(result.path.read_bytes(), result))
        elif self.per_image:
            name, text = formats.PER_IMAGE[self.format or ""]
            content = text(result) if self.scores else formats.as_yolo_labels(result)
            written.append(self.folder / name(result))
            if self.format == "xmp" and is_other_sidecar(written[-1]):
                raise OutputError(f"{written[-1]}: is another program's sidecar, which is not written over")
            write_atomically(written[-1], content.encode())
        if self.pictures and image is not None:
            written.append(self.folder / _picture_name(result))
            write_atomically(written[-1], _drawn(result, preview(image), self.show_scores))
        if self.crops is not None and image is not None:
            written += self.crops.write(result, image)
        return written


@dataclass(frozen=True)
class StateFiles:
    """The files of a run that tell where its results come from. They never lie in a folder that is made to be published.

    Args:
        journal: See `tinyfaces.jobs.journal`.
        problems: The list of problems, a CSV file.
        review: See `tinyfaces.jobs.review_store`.
    """

    journal: Path
    problems: Path
    review: Path

    @classmethod
    def of(cls, out: Path, report: Path | None) -> "StateFiles":
        """Next to the report, or in a folder FOLDER.state beside the folder of the results.

        Raises:
            ValueError: There is nothing beside that folder.
        """
        if report is not None and not lies_in(report, out):
            return cls(*(report.with_name(f"{report.stem}{end}") for end in (".journal", "_problems.csv", ".review")))
        folder = out.resolve() if ".." in out.parts else out.absolute()
        if folder.parent == folder:
            raise ValueError(f"{out}: has nothing beside it where the journal could lie; choose another folder, or give --report")
        beside = (out if out.name and ".." not in out.parts else folder).with_name(f"{folder.name}{STATE_ENDING}")
        return cls(*(beside / name for name in STATE_NAMES))

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


def _drawn_video_name(file: InputFile) -> Path:
    suffix = file.written_name.suffix.lower()
    # Transport streams have no tags that tell a result from a recording.
    return named_after(file.name, f"_faces{'.mkv' if CONTAINERS[suffix] == 'mpegts' else suffix}")


def _drawn(result: ImageResult, pixels: Pixels, scores: bool) -> bytes:
    """A picture of the image, or of a reduced copy, with frames around its faces, and their scores if wanted."""
    step = -(-max(pixels.shape[:2]) // _LONGEST_JPEG)
    pixels = pixels[::step, ::step]
    faces = Faces(result.faces.boxes * (pixels.shape[1] / result.width), result.faces.scores)
    return as_marked_picture(faces.draw(pixels, scores=scores), "PNG" if result.path.suffix.lower() == ".png" else "JPEG")
