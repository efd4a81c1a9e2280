"""Detection on a Ray cluster: images from any fsspec path, results as Parquet, one row for each image even if workers die.

The images are divided into parts, which depend only on the list of images. One worker does a part and writes its file, under the
part's own name, in one go. So if a worker dies and Ray repeats its part, the same file is written again.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow
import pyarrow.parquet
import ray
from fsspec.implementations.local import LocalFileSystem
from ray.data import ActorPoolStrategy, DataContext

from tinyfaces.detection.images import SUFFIXES
from tinyfaces.weights import models

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
    """

    images: int = 0
    faces: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        speed = self.images / max(self.seconds, 1e-3)
        return f"{self.faces} faces in {self.images} images, {self.seconds:.1f} s: {speed:.1f} images/s"


@dataclass(frozen=True)
class _Job:
    """What a worker needs. model: the name of a shipped model or the content of an ONNX file; options: of its `Detector`."""

    out: str
    model: str | bytes
    options: Mapping[str, Any]


def detect(
    address: str,
    paths: Sequence[str],
    out: str,
    *,
    model: str = "accurate",
    options: Mapping[str, Any] | None = None,
    recursive: bool = False,
    resume: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> Summary:
    """Find the faces in all images, and write files `part-N-of-M.parquet` of `_SCHEMA` to a folder.

    Args:
        address: Address of a cluster ("auto", "ray://host:10001") whose machines have tinyfaces and see the paths; or "local".
        paths: Files, folders and patterns, of any kind that fsspec knows.
        out: The folder, of any kind that fsspec knows.
        model: The name of a shipped model or the path of an ONNX file.
        options: What `Detector` takes beside the model: threshold, scale, stages, device, backend, precision.
        recursive: Search folders and the folders in them.
        resume: Keep the parts that are there.
        advance: Called with the number of images of each part that is done.

    Raises:
        RayError: The cluster cannot be reached, there are no images, or `out` holds another job's results.
    """
    started = time.monotonic()
    summary = Summary()
    out = _everywhere(out)
    files = _find(paths, recursive, summary.problems)
    if not files:
        raise RayError(summary.problems[0] if summary.problems else "no images given")
    shipped = model in models()
    if not shipped and not Path(model).is_file():
        raise RayError(f"unknown model '{model}': choose from {', '.join(models())}, or give the path of an ONNX file")
    job = _Job(out, model if shipped else Path(model).read_bytes(), dict(options or {}))
    size = min(max(-(-len(files) // _PARTS), _MIN_PART), _MAX_PART)
    parts = {
        f"part-{start // size:05d}-of-{-(-len(files) // size):05d}.parquet": files[start : start + size]
        for start in range(0, len(files), size)
    }
    _prepare(job, files, resume)
    _connect(address)
    try:
        for _ in range(_ATTEMPTS):
            missing = {name: parts[name] for name in parts if not _exists(out, name)}
            if not missing:
                break
            _run(job, missing, advance)
        else:
            raise RayError(f"{out}: {len(missing)} parts failed; run again with --resume")
    finally:
        if address == LOCAL:
            ray.shutdown()
    for name in parts:
        _sum_up(out, name, summary)
    summary.seconds = time.monotonic() - started
    return summary


class _Worker:
    """Does parts of the job. Each worker is a process of the cluster."""

    def __init__(self, job: _Job) -> None:
        from tinyfaces.detection.detector import Detector

        self._out = job.out
        if isinstance(job.model, str):
            self._detector = Detector(job.model, threads=1, **job.options)
            return
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(job.model)
            file.flush()
            self._detector = Detector(file.name, threads=1, **job.options)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        rows = [self._row(file) for file in part["files"]]
        content = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA), content)
        _write(self._out, part["name"], content.getvalue().to_pybytes())
        return {"name": part["name"], "images": len(rows)}

    def _row(self, file: str) -> dict[str, Any]:
        from tinyfaces.detection.images import ImageError, read_encoded

        try:
            with fsspec.open(file, "rb") as opened:
                pixels = read_encoded(opened.read(), file)
            faces = self._detector.detect(pixels)
        except ImageError as error:
            return {"file": file, "problem": str(error)}
        except OSError as error:
            return {"file": file, "problem": f"{file}: cannot be read ({error.strerror or error})"}
        except Exception as error:  # one file never ends a part
            return {"file": file, "problem": f"{file}: cannot be done ({type(error).__name__}: {_first_line(error)})"}
        height, width = pixels.shape[:2]
        return {
            "file": file, "width": width, "height": height, "boxes": faces.boxes.tolist(), "scores": faces.scores.tolist(),
        }  # fmt: skip


def _run(job: _Job, parts: dict[str, list[str]], advance: Callable[[int], None]) -> None:
    DataContext.get_current().enable_progress_bars = False
    rows = [{"name": name, "files": files} for name, files in parts.items()]
    workers = max(1, min(len(rows), int(ray.cluster_resources().get("CPU", 1))))
    # One block for each part, so that only a dead worker's part is repeated.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pool = ActorPoolStrategy(min_size=1, max_size=workers)
    done = dataset.map(cast(Any, _Worker), fn_constructor_args=(job,), compute=pool, num_cpus=1)
    try:
        for row in done.iter_rows():
            advance(row["images"])
    except ray.exceptions.RayError as error:
        raise RayError(f"the cluster failed ({_first_line(error)}); run again with --resume to continue") from None


def _connect(address: str) -> None:
    where: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RayError(f"no Ray cluster at '{address}' ({_first_line(error)})") from None


def _prepare(job: _Job, files: Sequence[str], resume: bool) -> None:
    """Prepare the output folder. Parts in it must be of the same job; they are removed unless the job is resumed."""
    model = job.model if isinstance(job.model, str) else hashlib.sha256(job.model).hexdigest()
    list_hash = hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest()
    wanted = {"files": len(files), "list": list_hash, "model": model, **job.options}
    system, folder = _filesystem(job.out)
    try:
        system.makedirs(folder, exist_ok=True)
        there = [entry for entry in system.ls(folder, detail=False) if entry.endswith(".parquet")]
        known = json.loads(system.cat_file(f"{folder}/{_JOB}")) if system.exists(f"{folder}/{_JOB}") else None
        if there and known != wanted:
            raise RayError(f"{job.out}: holds the results of another job; choose another folder")
        if not resume:
            for entry in there:
                system.rm_file(entry)
        _write(job.out, _JOB, json.dumps(wanted).encode())
    except (OSError, json.JSONDecodeError) as error:
        raise RayError(f"{job.out}: cannot be used ({_first_line(error)})") from None


def _find(paths: Sequence[str], recursive: bool, problems: list[str]) -> list[str]:
    """The images that the paths lead to, each once, folders sorted."""
    found: dict[str, None] = {}
    for path in paths:
        try:
            system, inside = _filesystem(path)
            if any(sign in path for sign in "*?["):
                entries = sorted(system.glob(inside))
            elif system.isdir(inside):
                entries = sorted(system.find(inside, maxdepth=None if recursive else 1))
            else:
                entries = [inside] if system.exists(inside) else []
        except (OSError, ValueError, ImportError) as error:
            problems.append(f"{path}: cannot be read ({_first_line(error)})")
            continue
        lone = entries == [inside]
        images = [entry for entry in entries if lone or Path(entry).suffix.lower() in SUFFIXES]
        if not images:
            problems.append(f"{path}: no images found")
        found.update((_with_protocol(system, entry), None) for entry in images)
    return list(found)


def _everywhere(path: str) -> str:
    """The path as processes in other folders have to write it."""
    return _with_protocol(*_filesystem(path))


def _with_protocol(system: Any, inside: str) -> str:
    return inside if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(inside))


def _filesystem(path: str) -> tuple[Any, str]:
    system, inside = fsspec.core.url_to_fs(path)
    return system, inside


def _exists(out: str, name: str) -> bool:
    system, folder = _filesystem(out)
    system.invalidate_cache()
    return bool(system.exists(f"{folder}/{name}"))


def _write(out: str, name: str, content: bytes) -> None:
    """Write a file whole or not at all, which object stores do anyway."""
    from tinyfaces.files import write_atomically

    system, folder = _filesystem(out)
    if isinstance(system, LocalFileSystem):
        write_atomically(Path(folder) / name, content)
    else:
        system.pipe_file(f"{folder}/{name}", content)


def _sum_up(out: str, name: str, summary: Summary) -> None:
    system, folder = _filesystem(out)
    content = pyarrow.BufferReader(system.cat_file(f"{folder}/{name}"))
    # Not read_table: one of its threads may still hold `content` when Python exits, which then aborts.
    table = pyarrow.parquet.ParquetFile(content).read(columns=["scores", "problem"], use_threads=False)
    problems = [problem for problem in table["problem"].to_pylist() if problem is not None]
    summary.problems += problems
    summary.images += table.num_rows - len(problems)
    summary.faces += sum(len(scores) for scores in table["scores"].to_pylist() if scores is not None)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
