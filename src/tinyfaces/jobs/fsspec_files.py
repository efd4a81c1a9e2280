"""Files of any kind that fsspec knows, local ones and s3:// among them, as runs on a cluster find, read and write them."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tinyfaces.detection.images import SUFFIXES
from tinyfaces.files import write_atomically
from tinyfaces.jobs.inputs import find_inputs, is_hidden
from tinyfaces.jobs.own_results import MARK_FILE, is_marked_content, may_be_marked

_VIDEOS, _HIDDEN, _EARLIER = "videos", "hidden", "earlier results"
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "ETag", "created")  # as the kinds of files name them


@dataclass(frozen=True)
class Found:
    """An image.

    Args:
        path: As any process can open it.
        root: The folder that its name may begin below.
        stamp: Its size and the time of its last change.
    """

    path: str
    root: str
    stamp: tuple[int, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """Of its path."""
        return _parts(self.path)


@dataclass
class Search:
    """What paths lead to.

    Args:
        files: Each image once, folders sorted.
        problems: A line for each path that leads to none.
        left_out: What is not searched: how many of each kind.
    """

    files: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def find_images(paths: Sequence[str], recursive: bool, results: str = "") -> Search:
    """The images that files, folders and patterns lead to.

    Args:
        paths: Of any kind that fsspec knows.
        recursive: Search the folders in folders too.
        results: A folder for results, in which no images are searched for.
    """
    search = Search()
    found: dict[str, Found] = {}
    for path in paths:
        try:
            system, inside = fsspec.core.url_to_fs(path) if "://" in path else (LocalFileSystem(), path)
            local = isinstance(system, LocalFileSystem)
            images = _local(inside, recursive, results, search) if local else _remote(system, inside, recursive, results, search)
            new = list(images)
        except Exception as error:  # each kind of files has exceptions of its own
            search.problems.append(f"{path}: cannot be read ({first_line(error)})")
            continue
        if not new and not any(line.startswith(f"{path}:") for line in search.problems):
            search.problems.append(f"{path}: no images found")
        found |= {one.path: one for one in new if one.path not in found}
    search.files = list(found.values())
    return search


def _local(path: str, recursive: bool, results: str, search: Search) -> Iterator[Found]:
    inputs = find_inputs([path], recursive, Path(results) if results and "://" not in results else None)
    search.problems += inputs.problems
    search.left_out += inputs.left_out
    for file in inputs.files:
        if file.is_video:
            search.left_out[_VIDEOS] += 1
            continue
        absolute = file.path.absolute()
        status = absolute.stat()
        root = absolute.parents[len(file.name.parts) - 1]
        yield Found(str(absolute), str(root), (status.st_size, str(status.st_mtime_ns)))


def _remote(system: Any, inside: str, recursive: bool, results: str, search: Search) -> Iterator[Found]:
    system.invalidate_cache()
    if system.isdir(inside):
        entries, root = system.find(inside, maxdepth=None if recursive else 1, detail=True), inside
    elif system.exists(inside):
        entries, root = {inside: system.info(inside)}, inside.rpartition("/")[0]
    else:
        entries, root = (system.glob(inside, detail=True) if any(sign in inside for sign in "*?[") else {}), ""
    marked = {entry.rpartition("/")[0] for entry in entries if entry.endswith(f"/{MARK_FILE}")} - {root}
    for entry, info in sorted(entries.items()):
        name, below = entry.rpartition("/")[2], entry.removeprefix(root).strip("/").split("/")
        suffix = PurePosixPath(name).suffix.lower()
        url = str(system.unstrip_protocol(entry))
        if entry == inside:  # who names it means it
            pass
        elif info.get("type") != "file" or name == MARK_FILE:
            continue
        elif any(map(is_hidden, below)):
            search.left_out[_HIDDEN] += 1
            continue
        elif any(entry.startswith(f"{folder}/") for folder in marked) or (results and url.startswith(f"{results}/")):
            search.left_out[_EARLIER] += 1
            continue
        elif suffix not in SUFFIXES:
            search.left_out[suffix or "without an ending"] += 1
            continue
        elif may_be_marked(name) and is_marked_content(io.BytesIO(system.cat_file(entry))):
            search.left_out[_EARLIER] += 1
            continue
        time = next((str(info[key]) for key in _TIMES if info.get(key) is not None), "")
        yield Found(url, str(system.unstrip_protocol(root or entry.rpartition("/")[0])), (int(info.get("size") or 0), time))


def names_of(files: Sequence[Found]) -> dict[str, PurePosixPath]:
    """The name of each file below the folder that all folders given share."""
    roots = [_parts(file.root) for file in files]
    shared = 0
    while roots and all(len(root) > shared and root[shared] == roots[0][shared] for root in roots):
        shared += 1
    return {file.path: PurePosixPath(*file.parts[shared:]) for file in files}


def everywhere(path: str) -> str:
    """The path as processes in other folders have to write it. Raises ValueError with one line where its kind is not known."""
    try:
        system, inside = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path}: cannot be used ({first_line(error)})") from None
    return str(inside) if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(inside))


def filesystem(path: str) -> tuple[Any, str]:
    """What opens a path that `everywhere` gave, and its path there."""
    if "://" not in path:
        return LocalFileSystem(), path
    system, inside = fsspec.core.url_to_fs(path)
    return system, inside


def read(path: str) -> bytes:
    """The content of a file."""
    system, inside = filesystem(path)
    return Path(inside).read_bytes() if isinstance(system, LocalFileSystem) else bytes(system.cat_file(inside))


def write(path: str, content: bytes) -> None:
    """Write a file; a local one appears whole or not at all."""
    system, inside = filesystem(path)
    if isinstance(system, LocalFileSystem):
        write_atomically(Path(inside), content)
        return
    parent = inside.rpartition("/")[0]
    if parent:
        system.makedirs(parent, exist_ok=True)
    system.pipe_file(inside, content)


def listed(folder: str) -> list[str]:
    """The paths in a folder; none where there is no folder, as there never is in an object store before its first file."""
    system, inside = filesystem(folder)
    system.invalidate_cache()
    try:
        return list(system.ls(inside, detail=False))
    except FileNotFoundError:
        return []


def remove(folder: str, entries: Iterable[str]) -> None:
    """Remove files that `listed` gave."""
    system, _ = filesystem(folder)
    for entry in entries:
        system.rm_file(entry)


def first_line(error: BaseException) -> str:
    """Of an exception's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("://", "/").split("/") if part)
