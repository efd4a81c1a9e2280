"""A folder of files that belong together: written whole or not at all, over its own earlier files, never over others."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tinyfaces.files import write_atomically

RECORD = "tinyfaces-page.json"
"""The file that says which others were written, each with its SHA-256."""
ENTRY = "index.html"
"""The file without which the others do nothing. It is taken away first and put there last."""
_STAGED = ".tinyfaces-page.partial"


class SiteFolderError(ValueError):
    """A folder cannot be written to. The message is one line that names what is in the way."""


def write_site(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is new, empty, or holds what this function wrote before. Files of others in it stay.

    Everything is written beside its place first, and moved there once all is complete. What an earlier call wrote and this one
    does not is removed.

    Args:
        folder: Made if it is missing.
        files: Contents by path below the folder, with forward slashes.

    Raises:
        SiteFolderError: The folder holds other things only, or one of the files was changed since.
        OSError: It cannot be written.
    """
    earlier = _recorded(folder)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name in files:
        path = folder / name
        if (path.exists() or path.is_symlink()) and not _is_one_of(path, earlier.get(name, [])):
            raise SiteFolderError(f"{path}: was not written by tinyfaces, or changed since; move it, or choose another folder")
    new = not folder.exists()
    staged = folder / _STAGED
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed
    try:
        for name, content in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        # Both, so that a run killed from here on leaves a folder that the next one knows.
        _record(folder, {**earlier, **{name: [*earlier.get(name, []), value] for name, value in hashes.items()}})
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / ENTRY).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == ENTRY):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(folder / name)
    shutil.rmtree(staged)
    for name in earlier.keys() - hashes.keys():
        _remove(folder, name, earlier[name])
    _record(folder, {name: [value] for name, value in hashes.items()})


def _recorded(folder: Path) -> dict[str, list[str]]:
    """What an earlier call wrote: the hashes that each file may have. Raises SiteFolderError."""
    if folder.exists() and not folder.is_dir():
        raise SiteFolderError(f"{folder}: is a file, not a folder")
    record = folder / RECORD
    if not record.is_file():
        if folder.is_dir() and any(path.name != _STAGED for path in folder.iterdir()):
            raise SiteFolderError(f"{folder}: is not empty, and no page of tinyfaces; choose a new or an empty folder")
        return {}
    try:
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        return {str(name): [str(value) for value in values] for name, values in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SiteFolderError(f"{record}: is damaged; choose another folder, or empty this one") from None


def _record(folder: Path, files: Mapping[str, list[str]]) -> None:
    text = json.dumps({"written_by": "tinyfaces page", "files": files}, indent=1)
    write_atomically(folder / RECORD, f"{text}\n".encode())


def _is_one_of(path: Path, hashes: list[str]) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in hashes


def _remove(folder: Path, name: str, hashes: list[str]) -> None:
    """Remove a file of an earlier call, unless it was changed, and the folders that are empty without it."""
    path = folder / name
    if folder not in path.parents or ".." in path.parts or not _is_one_of(path, hashes):
        return
    path.unlink()
    with suppress(OSError):
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent).rmdir()
