"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"
_PARTIAL_STEM = 60  # letters of the name that are kept, as file systems allow 255 bytes
_RANDOM_LETTERS = 8  # what tempfile puts between prefix and suffix


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that becomes `path` once all went well, so that nobody sees it half-written.

    A killed process leaves it behind; `clear_partials` removes it. Raises OSError.
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


def _partial_prefix(path: Path) -> str:
    return f".{path.name[:_PARTIAL_STEM]}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
