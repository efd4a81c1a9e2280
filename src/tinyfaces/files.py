"""Files that are written whole or not at all, and never over those that were given."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".partial"
_NAME_BYTES = 255  # that file systems allow
_PARTIAL_STEM = 60  # bytes of the name that are kept
_MARK_LETTERS = 8  # that tell names apart which were cut
_RANDOM_LETTERS = 8  # between prefix and suffix
_LONGEST_ON_WINDOWS = 259  # letters of a path, unless its limit is lifted
_WINDOWS = os.name == "nt"
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³")]
)


@contextmanager
def replacing(path: Path, one_of: Path | None = None) -> Iterator[Path]:
    """A temporary file beside `path` that becomes `path` once all went well, so that nobody sees it half-written.

    A killed process leaves it behind; `clear_partials` of `path`, or of `one_of` if that is given, removes it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _new_partial(one_of or path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes, one_of: Path | None = None) -> None:
    """Write a file so that nobody sees it half-written. one_of: see `replacing`. Raises OSError."""
    with replacing(path, one_of) as partial:
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
    room = _NAME_BYTES - len(os.fsencode(ending))
    if len(stem) <= room:
        return name.with_name(f"{name.stem}{ending}")
    mark = hashlib.sha256(os.fsencode(name.name)).hexdigest()[:_MARK_LETTERS]
    return name.with_name(f"{_cut(name.stem, room - _MARK_LETTERS - 1)}~{mark}{ending}")


def name_for_windows(name: str) -> str:
    """A name of a file or folder as Windows takes it: other letters for those it forbids, no dot or space at its end, and `_`
    before a name that it reserves for a device. Names that it takes stay the same."""
    name = _FORBIDDEN.sub("_", name)
    name = name.rstrip(". ") or "_"
    return f"_{name}" if name.partition(".")[0].rstrip(" ").upper() in _DEVICES else name


def _cut(text: str, most: int) -> str:
    """The beginning of a name, of at most so many bytes."""
    content = os.fsencode(text)
    if len(content) <= most:
        return text
    while most > 0 and content[most] & 0xC0 == 0x80:  # within a letter
        most -= 1
    return os.fsdecode(content[:most])


def missing(path: Path) -> str:
    """What to say of a path that the system does not find: on Windows it may be there, and too long."""
    return f"no such file, or {too_long(path)}" if too_long(path) else "no such file"


def too_long(path: Path) -> str:
    """What to say of a path that Windows may not take, as it is too long; nothing if it is not, or on other systems."""
    length = len(str(path.absolute()))
    if not _WINDOWS or length <= _LONGEST_ON_WINDOWS:
        return ""
    return f"a path too long for Windows: {length} letters, {_LONGEST_ON_WINDOWS} are taken; LongPathsEnabled lifts that"


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


def _identity(path: Path) -> tuple[int, int] | str | None:
    """What two paths of the same file share."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if status.st_ino == 0:  # some network drives and memory cards number no files
        return os.path.normcase(os.path.realpath(path))
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
