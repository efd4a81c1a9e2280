"""Files that are written whole or not at all, and never over those that were given."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"
_NAME_BYTES = 255  # that file systems allow
_PARTIAL_STEM = 60  # bytes of the name that are kept
_RANDOM_LETTERS = 8  # between prefix and suffix


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that becomes `path` once all went well, so that nobody sees it half-written.

    A killed process leaves it behind; `clear_partials` removes it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _new_partial(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees it half-written. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """`write_atomically` for a text that comes in parts, which are not kept in memory. Raises OSError."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def clear_partials(targets: Iterable[Path]) -> None:
    """Remove the temporary files of processes that were killed while they wrote any of the targets."""
    prefixes: dict[Path, set[str]] = {}
    for target in targets:
        prefixes.setdefault(target.parent, set()).add(_partial_prefix(target))
    for folder, known in prefixes.items():
        for left in folder.glob(f".*{_PARTIAL}") if folder.is_dir() else ():
            if left.name[: -_RANDOM_LETTERS - len(_PARTIAL)] in known:
                left.unlink(missing_ok=True)


class GivenFiles:
    """Files that are only read. They are known by whatever path leads to them.

    Args:
        paths: Where they lie; those that do not exist are passed over.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._known = {_identity(path) for path in paths} - {None}

    def add(self, path: Path) -> None:
        """Know one more."""
        self._known |= {_identity(path)} - {None}

    def __contains__(self, path: Path) -> bool:
        return _identity(path) in self._known


def _identity(path: Path) -> tuple[int, int] | None:
    """What two paths of the same file share."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _new_partial(path: Path) -> Path:
    """A new empty file beside `path`, with the permissions that new files have."""
    # mkstemp's has others; to change them takes the umask, which can only be read by setting it, for all threads.
    while True:
        partial = path.parent / f"{_partial_prefix(path)}{secrets.token_hex(_RANDOM_LETTERS // 2)}{_PARTIAL}"
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))
        except FileExistsError:
            continue
        return partial


def _partial_prefix(path: Path) -> str:
    return f".{_cut(path.name, _PARTIAL_STEM)}."


def fitting(path: Path, ending: str) -> Path:
    """A path whose name gets an ending, and is shortened where a file system could not hold it."""
    if len(os.fsencode(path.name + ending)) <= _NAME_BYTES:
        return path.with_name(path.name + ending)
    mark = f"~{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}{ending}"
    return path.with_name(_cut(path.name, _NAME_BYTES - len(os.fsencode(mark))) + mark)


def _cut(name: str, length: int) -> str:
    """The first bytes of a name, as far as they are whole letters."""
    return os.fsencode(name)[:length].decode("utf-8", "ignore")
