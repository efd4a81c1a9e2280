"""Finds tiny faces (6-32 px) in photos of crowds, stands and streets, on a plain CPU.

import tinyfaces
faces = tinyfaces.Detector().detect("crowd.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyfaces.detection.detector import Detector
    from tinyfaces.detection.faces import Faces
    from tinyfaces.detection.images import ImageError, read_image
    from tinyfaces.detection.runtime import ModelError

__version__ = "0.1.0"
__all__ = ["Detector", "Faces", "ImageError", "ModelError", "__version__", "read_image"]

_HOME = {
    "Detector": "tinyfaces.detection.detector",
    "Faces": "tinyfaces.detection.faces",
    "ImageError": "tinyfaces.detection.images",
    "ModelError": "tinyfaces.detection.runtime",
    "read_image": "tinyfaces.detection.images",
}


# Names are looked up on first use, so that `import tinyfaces` and `tinyfaces --help` stay instant.
def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinyfaces' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
