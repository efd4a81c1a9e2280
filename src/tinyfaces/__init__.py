"""Finds tiny faces (6-32 px) in photos of crowds, stands and streets, on a plain CPU.

import tinyfaces
faces = tinyfaces.Detector().detect("crowd.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyfaces.detector import Detector
    from tinyfaces.faces import Faces
    from tinyfaces.images import ImageError, read_image
    from tinyfaces.runtime import ModelError

__version__ = "0.1.0"
__all__ = ["Detector", "Faces", "ImageError", "ModelError", "__version__", "read_image"]

_HOME = {
    "Detector": "tinyfaces.detector",
    "Faces": "tinyfaces.faces",
    "ImageError": "tinyfaces.images",
    "ModelError": "tinyfaces.runtime",
    "read_image": "tinyfaces.images",
}


# Names are looked up on first use, so that `import tinyfaces` and `tinyfaces --help` stay instant.
def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinyfaces' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
