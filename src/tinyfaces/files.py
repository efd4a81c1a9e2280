"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"
_PARTIAL_STEM = 60  # letters of the name; file systems allow 255 bytes
_RANDOM_LETTERS = 8  # that tempfile puts between prefix and suffix


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which becomes `path` when all went well, so that it is never seen half-written.

    A killed process leaves it behind; `clear_partials` finds it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_partial_prefix(path), suffix=_PARTIAL)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it, so that it is never seen half-written. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """`write_atomically` of a text that comes in parts, none of which need be kept. Raises OSError."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def clear_partials(targets: Iterable[Path]) -> None:
    """Remove what processes that were killed while they wrote any of the targets left beside them."""
    prefixes: dict[Path, set[str]] = {}
    for target in targets:
        prefixes.setdefault(target.parent, set()).add(_partial_prefix(target))
    for folder, known in prefixes.items():
        for left in folder.glob(f".*{_PARTIAL}") if folder.is_dir() else ():
            if left.name[: -_RANDOM_LETTERS - len(_PARTIAL)] in known:
                left.unlink(missing_ok=True)


def _partial_prefix(path: Path) -> str:
    return f".{path.name[:_PARTIAL_STEM]}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
