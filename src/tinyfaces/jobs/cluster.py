"""Work on a Ray cluster: images from any fsspec path, results as Parquet, one row for each image even if workers die.

The images are divided into parts, which depend only on the list of images. One worker does a part and writes its file, under the
part's own name, in one go. So if a worker dies and Ray repeats its part, the same file is written again. A part counts as done
only if its file is whole, and was made with the same settings and weights from images that have not changed.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow
import pyarrow.parquet
import ray
from ray.data import ActorPoolStrategy, DataContext

from tinyfaces.detection.raw_photos import RAW_SUFFIXES
from tinyfaces.detection.runtime import int8_file
from tinyfaces.jobs import fsspec_files
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.fsspec_files import Found, first_line
from tinyfaces.jobs.masked_photos import lost_lines, masked_photo
from tinyfaces.jobs.own_results import MARK_FILE, NOTE
from tinyfaces.weights import models, second_stage, shipped_model

LOCAL = "local"
"""The address that starts Ray on this machine only, for the job."""

_JOB = "_job.json"  # readers of Parquet folders ignore names that begin with _
_MIN_PART, _MAX_PART, _PARTS = 8, 1000, 1000  # images in a part, and the number of parts aimed at
_ATTEMPTS = 3
_SCHEMA = pyarrow.schema(
    [
        ("file", pyarrow.string()),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("boxes", pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
        ("scores", pyarrow.list_(pyarrow.float32())),
        ("problem", pyarrow.string()),
    ]
)
"""A row for each image. boxes: x1 y1 x2 y2 in pixels; problem: why it could not be read, or null."""
_MASKED_SCHEMA = _SCHEMA.append(pyarrow.field("output", pyarrow.string())).append(
    pyarrow.field("removed", pyarrow.list_(pyarrow.string()))
)
"""output: the masked photo; removed: kinds of metadata that it lacks."""
_MADE_OF = b"tinyfaces"  # the entry of a part's metadata that says what it was made of


class RayError(ValueError):
    """A job cannot be done. The message is one line."""


@dataclass
class Summary:
    """What came of a job.

    Args:
        images: How many could be read.
        faces: How many were found.
        seconds: How long it took.
        problems: A line for each file that could not be read.
        left_out: What paths led to and was not searched: how many of each kind.
        lost: A line for each piece of metadata that was to be kept and could not be.
        masked: Where the masked photos are, if that was the job.
        parts: Where the Parquet files are.
    """

    images: int = 0
    faces: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    masked: str = ""
    parts: str = ""

    def line(self) -> str:
        speed = self.images / max(self.seconds, 1e-3)
        where = f"; photos in {self.masked}, lists of what was masked in {self.parts}" if self.masked else ""
        found = f"{counted(self.faces, 'face')} in {counted(self.images, 'image')}"
        return f"{found}, {self.seconds:.1f} s: {speed:.1f} images/s{where}"


@dataclass(frozen=True)
class _Job:
    """What a worker needs.

    Args:
        out: The folder for parts.
        model: The name of a shipped model, or the content of an ONNX file and of its int8 copy, if there is one.
        weights: A digest of all weights.
        options: Of the `Detector`, beside the model.
        masking: How faces are masked; None where they are only found.
    """

    out: str
    model: str | tuple[bytes, bytes | None]
    weights: str
    options: Mapping[str, Any]
    masking: Masking | None = None

    @classmethod
    def of(cls, out: str, model: str, options: Mapping[str, Any], masking: Masking | None = None) -> "_Job":
        """The job for a model's name or path. Raises RayError."""
        record = shipped_model(model)
        if record is not None:
            return cls(out, record.name, _weights_of(record.name), options, masking)
        path = Path(model)
        if not path.is_file():
            raise RayError(f"unknown model '{model}': choose from {', '.join(models())}, or give the path of an ONNX file")
        copy = int8_file(path)
        content = path.read_bytes(), copy.read_bytes() if copy.is_file() else None
        return cls(out, content, _weights_of(content), options, masking)

    @property
    def settings(self) -> dict[str, Any]:
        """All that results depend on beside the images."""
        masks = None if self.masking is None else self.masking.settings()
        return {"weights": self.weights, "options": dict(self.options), "masks": masks}


def _weights_of(model: str | tuple[bytes, bytes | None]) -> str:
    """A digest of a shipped model, as it lies on this machine, or of an ONNX file and its int8 copy; with the second stage."""
    if isinstance(model, str):
        own = [models()[model].sha256, models()[model].int8_sha256]
    else:
        own = [hashlib.sha256(content).hexdigest() for content in model if content is not None]
    return hashlib.sha256(json.dumps([own, second_stage().sha256], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Work:
    """What is to be done, and where.

    Args:
        address: Address of a cluster ("auto", "ray://host:10001") whose machines have tinyfaces and see the paths; or "local".
        paths: Files, folders and patterns, of any kind that fsspec knows.
        out: A folder for results, of any kind that fsspec knows.
        model: The name of a shipped model or the path of an ONNX file.
        options: What `Detector` takes beside the model: threshold, scale, stages, device, backend, precision.
        recursive: Search folders and the folders in them.
        resume: Keep the parts that are there.
    """

    address: str
    paths: Sequence[str]
    out: str
    model: str = "accurate"
    options: Mapping[str, Any] = field(default_factory=dict)
    recursive: bool = False
    resume: bool = False


def detect(work: Work, advance: Callable[[int], None] = lambda images: None) -> Summary:
    """Find the faces in all images, and write files `part-N-of-M.parquet` of `_SCHEMA` to the folder.

    Args:
        work: What is to be done.
        advance: Called with the number of images of each part that is done.

    Raises:
        RayError: The cluster cannot be reached, there are no images, or the folder holds another job's results.
    """
    search = fsspec_files.find_images(work.paths, work.recursive)
    job = _Job.of(fsspec_files.everywhere(work.out), work.model, work.options)
    return _done(work, job, search, {}, advance)


def anonymise(work: Work, masking: Masking, advance: Callable[[int], None] = lambda images: None) -> Summary:
    """Mask the faces in all images, and write the photos to the folder.

    What was masked goes to the folder `OUT_parts` beside it, in files `part-N-of-M.parquet` of `_MASKED_SCHEMA`: the photos'
    paths and the faces' places are not to be published.

    Args:
        work: What is to be done.
        masking: How faces are masked.
        advance: As for `detect`.

    Raises:
        RayError: As for `detect`, or an image would be written over.
    """
    folder = fsspec_files.everywhere(work.out).rstrip("/")
    search = fsspec_files.find_images(work.paths, work.recursive, folder)
    targets = {
        path: f"{folder}/{name}{'.jpg' if name.suffix.lower() in RAW_SUFFIXES else ''}"
        for path, name in fsspec_files.names_of(search.files).items()
    }
    given = {file.path for file in search.files}
    for target in targets.values():
        if target in given:
            raise RayError(f"{target}: is one of the input files, which are never overwritten")
    job = _Job.of(f"{folder}_parts", work.model, work.options, masking)
    if not fsspec_files.listed(folder):
        fsspec_files.write(f"{folder}/{MARK_FILE}", NOTE)
    summary = _done(work, job, search, targets, advance)
    summary.masked, summary.parts = folder, job.out
    return summary


def _done(
    work: Work, job: _Job, search: fsspec_files.Search, targets: Mapping[str, str], advance: Callable[[int], None]
) -> Summary:
    """Do all parts that are not done. targets: where masked photos go."""
    started = time.monotonic()
    summary = Summary(problems=search.problems, left_out=search.left_out)
    files = search.files
    if not files:
        raise RayError(summary.problems[0] if summary.problems else "no images given")
    size = min(max(-(-len(files) // _PARTS), _MIN_PART), _MAX_PART)
    parts = {
        f"part-{start // size:05d}-of-{-(-len(files) // size):05d}.parquet": files[start : start + size]
        for start in range(0, len(files), size)
    }
    _prepare(job, files, work.resume)
    _connect(work.address)
    try:
        for _ in range(_ATTEMPTS):
            missing = {name: part for name, part in parts.items() if not _is_whole(job, name, part)}
            if not missing:
                break
            _run(job, missing, targets, advance)
        else:
            raise RayError(f"{job.out}: {counted(len(missing), 'part')} failed; run again with --resume")
    finally:
        if work.address == LOCAL:
            ray.shutdown()
    for name in parts:
        _sum_up(job, name, summary)
    summary.seconds = time.monotonic() - started
    return summary


class _Worker:
    """Does parts of the job. Each worker is a process of the cluster."""

    def __init__(self, job: _Job) -> None:
        from tinyfaces.detection.detector import Detector

        self._job = job
        if isinstance(job.model, str):
            if _weights_of(job.model) != job.weights:
                raise RayError("a machine of the cluster has another version of tinyfaces")
            self._detector = Detector(job.model, threads=1, **job.options)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(job.model[0])
            if job.model[1] is not None:
                int8_file(path).write_bytes(job.model[1])
            self._detector = Detector(path, threads=1, **job.options)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        rows = [self._row(file, target) for file, target in zip(part["files"], part["targets"], strict=True)]
        schema = _SCHEMA if self._job.masking is None else _MASKED_SCHEMA
        table = pyarrow.Table.from_pylist(rows, schema.with_metadata({_MADE_OF: part["made_of"].encode()}))
        content = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, content)
        fsspec_files.write(f"{self._job.out}/{part['name']}", content.getvalue().to_pybytes())
        return {"name": part["name"], "images": len(rows)}

    def _row(self, file: str, target: str = "") -> dict[str, Any]:
        try:
            return {"file": file, **(self._found(file) if self._job.masking is None else self._masked(file, target))}
        except OSError as error:
            return {"file": file, "problem": f"{file}: cannot be read ({error.strerror or error})"}
        except Exception as error:  # one file never ends a job
            text = first_line(error)
            what = text if str(error).strip() == "" else f"{type(error).__name__}: {text}"
            return {"file": file, "problem": text if text.startswith(f"{file}:") else f"{file}: cannot be done ({what})"}

    def _found(self, file: str) -> dict[str, Any]:
        from tinyfaces.detection.images import read_encoded

        pixels = read_encoded(fsspec_files.read(file), file)
        faces = self._detector.detect(pixels)
        height, width = pixels.shape[:2]
        return {"width": width, "height": height, "boxes": faces.boxes.tolist(), "scores": faces.scores.tolist()}

    def _masked(self, file: str, target: str) -> dict[str, Any]:
        assert self._job.masking is not None
        with tempfile.TemporaryDirectory() as folder:  # Windows opens no file that is open under its name already
            copy = Path(folder) / f"photo{Path(file).suffix}"
            copy.write_bytes(fsspec_files.read(file))
            try:
                content, record = masked_photo(copy, self._detector, self._job.masking)
            except ValueError as error:
                raise ValueError(str(error).replace(str(copy), file)) from None
        fsspec_files.write(target, content)
        return {**{name: record[name] for name in ("width", "height", "boxes", "scores", "removed")}, "output": target}


def _run(job: _Job, parts: dict[str, list[Found]], targets: Mapping[str, str], advance: Callable[[int], None]) -> None:
    DataContext.get_current().enable_progress_bars = False
    rows = [
        {
            "name": name, "files": [file.path for file in files], "targets": [targets.get(file.path, "") for file in files],
            "made_of": _made_of(job, files),
        }
        for name, files in parts.items()
    ]  # fmt: skip
    workers = max(1, min(len(rows), int(ray.cluster_resources().get("CPU", 1))))
    # One block for each part, so that only a dead worker's part is repeated.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pool = ActorPoolStrategy(min_size=1, max_size=workers)
    done = dataset.map(cast(Any, _Worker), fn_constructor_args=(job,), compute=pool, num_cpus=1)
    try:
        for row in done.iter_rows():
            advance(row["images"])
    except ray.exceptions.RayError as error:
        raise RayError(f"the cluster failed ({first_line(error)}); run again with --resume to continue") from None


def _connect(address: str) -> None:
    where: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RayError(f"no Ray cluster at '{address}' ({first_line(error)})") from None


def _prepare(job: _Job, files: Sequence[Found], resume: bool) -> None:
    """Prepare the output folder. Parts in it must be of the same job; they are removed unless the job is resumed."""
    list_hash = hashlib.sha256("\n".join(file.path for file in files).encode("utf-8", "surrogateescape")).hexdigest()
    wanted = {"files": len(files), "list": list_hash, **job.settings}
    try:
        entries = fsspec_files.listed(job.out)
        there = [entry for entry in entries if entry.endswith(".parquet")]
        known = None
        if any(entry.rpartition("/")[2] == _JOB for entry in entries):
            known = json.loads(fsspec_files.read(f"{job.out}/{_JOB}"))
        if there and known != wanted:
            raise RayError(f"{job.out}: holds the results of another job; choose another folder")
        if not resume:
            fsspec_files.remove(job.out, there)
        fsspec_files.write(f"{job.out}/{_JOB}", json.dumps(wanted).encode())
    except RayError:
        raise
    except Exception as error:  # each kind of files has exceptions of its own
        raise RayError(f"{job.out}: cannot be used ({first_line(error)})") from None


def _made_of(job: _Job, files: Sequence[Found]) -> str:
    """A digest of all that a part depends on: settings, weights, and each image's path, size and time."""
    facts = [job.settings, [[file.path, *file.stamp] for file in files]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def _is_whole(job: _Job, name: str, files: Sequence[Found]) -> bool:
    """Whether a part is there, complete to its footer, and made of these images as they are."""
    try:
        part = _part(job.out, name)
        made_of = (part.schema_arrow.metadata or {}).get(_MADE_OF, b"").decode()
        whole = part.metadata.num_rows == len(files) and made_of == _made_of(job, files)
        # Not read_table: one of its threads may still hold the content when Python exits, which then aborts.
        outputs = part.read(columns=["output"], use_threads=False)["output"].to_pylist() if whole and job.masking else []
    except Exception:  # it is not there, or cut short; each kind of files has exceptions of its own
        return False
    return whole and all(_exists(output) for output in outputs if output is not None)


def _exists(path: str) -> bool:
    system, inside = fsspec_files.filesystem(path)
    return bool(system.exists(inside))


def _part(out: str, name: str) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(fsspec_files.read(f"{out}/{name}")))


def _sum_up(job: _Job, name: str, summary: Summary) -> None:
    columns = ["file", "scores", "problem", *(["removed"] if job.masking is not None else [])]
    rows = _part(job.out, name).read(columns=columns, use_threads=False).to_pylist()
    problems = [row["problem"] for row in rows if row["problem"] is not None]
    summary.problems += problems
    summary.images += len(rows) - len(problems)
    summary.faces += sum(len(row["scores"]) for row in rows if row["scores"] is not None)
    for row in rows:
        summary.lost += lost_lines(row["file"], row.get("removed") or [])
