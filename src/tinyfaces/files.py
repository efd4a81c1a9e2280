"""Files that are written whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".partial"
_PARTIAL_STEM = 60  # bytes of the name that are kept
_LONGEST_NAME = 255  # bytes that file systems allow
_MARK_LETTERS = 8  # that tell names apart which were cut
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
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="replace", newline="") as file:
        file.writelines(parts)


def clear_partials(targets: Iterable[Path]) -> None:
    """Remove the temporary files of processes that were killed while they wrote any of the targets."""
    prefixes: dict[Path, set[str]] = {}
    for target in targets:
        prefixes.setdefault(target.parent, set()).add(_partial_prefix(target))
    for folder, known in prefixes.items():
        for left in folder.glob(f".*{_PARTIAL}") if folder.is_dir() else ():
            if left.name[: -_RANDOM_LETTERS - len(_PARTIAL)] in known:
                with suppress(OSError):  # another user's, or gone
                    left.unlink(missing_ok=True)


def named_after(name: Path, ending: str) -> Path:
    """The name with `ending` in place of its suffix. Where that is too long for a file, the stem is cut and marked, so that the
    names of two files still differ."""
    stem = os.fsencode(name.stem)
    room = _LONGEST_NAME - len(os.fsencode(ending))
    if len(stem) <= room:
        return name.with_name(f"{name.stem}{ending}")
    mark = hashlib.sha256(os.fsencode(name.name)).hexdigest()[:_MARK_LETTERS]
    return name.with_name(f"{_cut(name.stem, room - _MARK_LETTERS - 1)}~{mark}{ending}")


def _cut(text: str, most: int) -> str:
    """The beginning of a name, of at most so many bytes."""
    content = os.fsencode(text)
    if len(content) <= most:
        return text
    while most > 0 and content[most] & 0xC0 == 0x80:  # within a letter
        most -= 1
    return os.fsdecode(content[:most])


def _partial_prefix(path: Path) -> str:
    return f".{_cut(path.name, _PARTIAL_STEM)}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
