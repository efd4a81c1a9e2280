"""Content of text files in the encodings that editors and tools write, plain or compressed."""

import codecs
import gzip
import json
import zlib
from pathlib import Path
from typing import Any


class AnnotationError(ValueError):
    """An annotation file, or an image that it lists, cannot be used; the message is one line that names the file."""


def bytes_of(file: Path) -> bytes:
    """Content of a file, decompressed where it is a gzip file. Raises AnnotationError."""
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"{file}: cannot be read ({reason(error)})") from None


def text_of(file: Path, content: bytes | None = None) -> str:
    """A text in UTF-8 or UTF-16, with or without a byte order mark. content: of the file, where it is read already. Raises
    AnnotationError."""
    content = bytes_of(file) if content is None else content
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file}: cannot be read ({reason(error)})") from None


def json_of(file: Path, content: bytes | None = None) -> Any:
    """What a JSON file holds. content: of the file, where it is read already. Raises AnnotationError."""
    content = bytes_of(file) if content is None else content
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{file}: not valid JSON ({reason(error)})") from None


def reason(error: Exception) -> str:
    """An error's message on one line."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return " ".join(text.split())
