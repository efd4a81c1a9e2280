"""Formats that Pillow reads with a plugin: HEIC and HEIF, JPEG XL. A plugin is imported when the first such file is met."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF_BRANDS = frozenset(b"avif avis".split())  # which Pillow reads itself, and which share the container
_JPEG_XL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_HEAD = 256  # bytes: more brands than any camera names


@dataclass(frozen=True)
class Plugin:
    """A plugin of Pillow.

    Args:
        format: What Pillow calls the format.
        kinds: What people call it.
        package: Its package, as pip calls it.
        extra: The extra of tinyfaces that installs it.
        register: Makes Pillow know the format. Raises ImportError where the package is missing.
    """

    format: str
    kinds: str
    package: str
    extra: str
    register: Callable[[], None]

    def load(self) -> bool:
        """Make Pillow know the format; whether it does then."""
        try:
            self.register()
        except (ImportError, OSError):  # OSError where a library of the package is missing
            return False
        return True


def plugin_for(file: BinaryIO) -> Plugin | None:
    """The plugin that a file needs, by its first bytes. Leaves the file at its start."""
    head = file.read(_HEAD)
    file.seek(0)
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = {head[start : start + 4] for start in (8, *range(16, min(size, len(head)), 4))}
        return HEIF if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS else None
    return JPEG_XL if head.startswith(_JPEG_XL_HEADS) else None


def _register_heif() -> None:
    pillow_heif: Any = import_module("pillow_heif")
    pillow_heif.register_heif_opener()


def _register_jpeg_xl() -> None:
    import_module("pillow_jxl")  # whose import does it


HEIF = Plugin("HEIF", "HEIC and HEIF", "pillow-heif", "heif", _register_heif)
JPEG_XL = Plugin("JXL", "JPEG XL", "pillow-jxl-plugin", "jxl", _register_jpeg_xl)
PLUGINS = (HEIF, JPEG_XL)
"""All of them."""
