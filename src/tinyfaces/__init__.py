"""Finds tiny faces (6-32 px) in photos of crowds, stands and streets, on a plain CPU.

import tinyfaces
faces = tinyfaces.Detector().detect("crowd.jpg")
"""

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyfaces import video
    from tinyfaces.detection.detector import Detector
    from tinyfaces.detection.faces import Faces
    from tinyfaces.detection.images import ImageError, read_image
    from tinyfaces.detection.runtime import ModelError
    from tinyfaces.jobs.cover_threshold import CoverThreshold
    from tinyfaces.jobs.masked_images import anonymise
    from tinyfaces.jobs.masking import MaskStyle
    from tinyfaces.jobs.selection import Selection

__version__ = "0.1.0"
__all__ = [
    "CoverThreshold", "Detector", "Faces", "ImageError", "MaskStyle", "ModelError", "Selection", "__version__", "anonymise",
    "read_image", "video",
]  # fmt: skip

_HOME = {
    "CoverThreshold": "tinyfaces.jobs.cover_threshold",
    "Detector": "tinyfaces.detection.detector",
    "Faces": "tinyfaces.detection.faces",
    "ImageError": "tinyfaces.detection.images",
    "MaskStyle": "tinyfaces.jobs.masking",
    "ModelError": "tinyfaces.detection.runtime",
    "Selection": "tinyfaces.jobs.selection",
    "anonymise": "tinyfaces.jobs.masked_images",
    "read_image": "tinyfaces.detection.images",
}


def _silence() -> None:
    """Keep ONNX Runtime and Ray from sending data about their use. They look at this once, when they are first imported, and
    processes started from this one inherit it."""
    told = os.environ.get("ORT_DISABLE_TELEMETRY", "").lower() in ("1", "true", "yes", "on")
    os.environ.update({"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"})
    earlier = sys.modules.get("onnxruntime")
    if earlier is None:
        return
    getattr(earlier, "disable_telemetry_events", lambda: None)()
    if not told:
        warnings.warn(
            "onnxruntime was imported before tinyfaces, and its telemetry may have begun. It is off from now on; to keep it from "
            "beginning, import tinyfaces first or set ORT_DISABLE_TELEMETRY=1",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


_silence()


# Names are looked up on first use, so that `import tinyfaces` and `tinyfaces --help` stay instant.
def __getattr__(name: str) -> Any:
    if name == "video":
        return import_module("tinyfaces.video")
    if name not in _HOME:
        raise AttributeError(f"module 'tinyfaces' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
