"""What ONNX Runtime can run networks on: the CPU, or a GPU by CUDA, DirectML or Core ML."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tinyfaces.weights import models

DEVICES = ("auto", "cpu", "cuda", "directml", "coreml", "gpu")
"""What a user may ask for; "gpu" is OpenVINO's."""
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu in place of onnxruntime"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml in place of onnxruntime"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime on macOS"),
}
"""Devices of ONNX Runtime: what it calls each, and the package that has it."""
_TAKEN = ("cuda", "directml")
"""What "auto" takes, the best first. Core ML is left out: with images of any size it may be slower, which nobody has measured."""
_PROBE = (1, 3, 64, 64)  # NxCxHxW, enough to run every kind of layer
_AGREEMENT = 0.05  # between float32 on a GPU and on the CPU, in logits
_WARNING, _FATAL = 2, 4  # ONNX Runtime's levels of logging; the first is its own choice

_log = logging.getLogger("tinyfaces")


@dataclass(frozen=True)
class Choice:
    """What "auto" comes to. device: one of `PROVIDERS`; why: a line."""

    device: str
    why: str


@lru_cache(1)
def chosen_device(onnxruntime: Any) -> Choice:
    """The best device that works, tried once in a process. Where one is installed and does not work, a line is logged."""
    there = onnxruntime.get_available_providers()
    installed = [device for device in _TAKEN if PROVIDERS[device][0] in there]
    failed = []
    for device in installed:
        problem = problem_with(device, onnxruntime)
        if problem is None:
            return Choice(device, f"{PROVIDERS[device][0]} works")
        failed.append(f"device '{device}' does not work ({problem})")
    if failed:
        _log.warning("tinyfaces: %s: using the CPU", "; ".join(failed))
        return Choice("cpu", "; ".join(failed))
    return Choice("cpu", "this onnxruntime has no provider for a GPU that auto takes")


def problem_with(device: str, onnxruntime: Any) -> str | None:
    """What keeps a device from running a shipped network as the CPU does; None if nothing does."""
    path = str(models()["fast"].path)
    images = np.random.default_rng(0).uniform(0, 255, _PROBE).astype(np.float32)
    try:
        if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        outputs = []
        for provider in (PROVIDERS[device][0], PROVIDERS["cpu"][0]):
            with silent(onnxruntime):
                session = onnxruntime.InferenceSession(path, options, providers=[provider])
            if provider not in session.get_providers():
                return "no such GPU, or a library of it is missing"
            outputs.append(session.run(None, {session.get_inputs()[0].name: images}))
    except Exception as error:  # onnxruntime's exceptions share no public base
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    off = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(*outputs, strict=True))
    return None if off <= _AGREEMENT else f"its outputs are off by {off:.2g}"


@contextmanager
def silent(onnxruntime: Any) -> Iterator[None]:
    """Keep ONNX Runtime from printing what it misses for a device, which is told in a line of ours."""
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
