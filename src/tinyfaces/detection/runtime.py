"""Inference sessions: one way to run an exported network, whichever library does the work."""

import ctypes
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

BACKENDS = ("onnxruntime", "openvino")
DEVICES = ("cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
STRIDES = (4, 8, 16, 32)
"""Of the network's four outputs."""


_TRIM_AFTER_PIXELS = 24_000_000

Batch = npt.NDArray[np.float32]


class ModelError(ValueError):
    """A model or what should run it cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Ports:
    """Names of an exported network's input and outputs, and what messages call such a network."""

    kind: str
    input: str
    outputs: tuple[str, ...]


PROPOSALS = Ports("tinyfaces model", "images", tuple(f"stride{stride}" for stride in STRIDES))
"""images Nx3xHxW (RGB, 0-255, H and W multiples of 32) to Nx5xH/sxW/s for strides 4, 8, 16, 32."""
GENERATOR = Ports("generator", "crops", ("enlarged", "restored"))
"""crops Nx3x16x16 (RGB, 0-1) to two of Nx3x64x64: SRN's and RN's output."""
DISCRIMINATOR = Ports("discriminator", "crops", ("real", "face", "box"))
"""crops Nx3x64x64 (RGB, 0-1) to logits (N,) of being real, logits (N,) of being a face, and box offsets (N, 4)."""


class Session(Protocol):
    """A network ready to run."""

    def run(self, images: Batch) -> list[Batch]:
        """Run on a batch; gives the outputs in the order of the network's `Ports`."""
        ...


def load_session(
    path: str | os.PathLike[str],
    ports: Ports = PROPOSALS,
    *,
    backend: str = "onnxruntime",
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "auto",
) -> Session:
    """Load an exported network from an ONNX file.

    backend: "onnxruntime", or "openvino" (an extra, CPU only). device: "cpu" or "cuda" (needs onnxruntime-gpu).
    threads: how many to use; all that this process may run on if None. precision: "float32"; "int8", from the file NAME.int8.onnx
    beside NAME.onnx; "bfloat16", for openvino alone; or "auto": int8 where that file is there and the processor is made for it.

    Raises ModelError where the file, the backend or the device is missing or does not fit.
    """
    file = Path(path)
    if backend not in BACKENDS:
        raise ModelError(f"no backend '{backend}': choose from {', '.join(BACKENDS)}")
    if device not in DEVICES:
        raise ModelError(f"no device '{device}': choose from {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise ModelError(f"{threads} threads: at least 1 is needed")
    if precision not in PRECISIONS:
        raise ModelError(f"no precision '{precision}': choose from {', '.join(PRECISIONS)}")
    if not file.is_file():
        raise ModelError(f"{file}: no such model file")
    if precision == "int8" and device != "cpu":
        raise ModelError(f"precision 'int8' is for the cpu only, not for '{device}'")
    if precision == "int8" and not int8_file(file).is_file():
        raise ModelError(f"{int8_file(file)}: no such model file, which precision 'int8' needs")
    if precision == "auto" and device == "cpu" and int8_file(file).is_file() and multiplies_int8():
        precision = "int8"
    if precision == "int8":
        file = int8_file(file)
    if backend == "openvino":
        if device != "cpu":
            raise ModelError(f"backend 'openvino' runs on the cpu only, not on '{device}'")
        return _OpenVinoSession(file, ports, threads or usable_cpus(), precision == "bfloat16")
    if precision == "bfloat16":
        raise ModelError("backend 'onnxruntime' has no bfloat16: use backend 'openvino' for it")
    return _OnnxRuntimeSession(file, ports, device, threads or usable_cpus())


class _OnnxRuntimeSession:
    def __init__(self, file: Path, ports: Ports, device: str, threads: int) -> None:
        import onnxruntime

        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        if provider not in onnxruntime.get_available_providers():
            raise ModelError(f"device '{device}' is not offered by the installed onnxruntime: install onnxruntime-gpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Both would keep memory for every image size ever seen.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        # Idle threads of one network would spin on in the time of the next: the cascade runs three by turns.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise ModelError(f"{file}: not a model that onnxruntime can load ({_first_line(error)})") from None
        if provider not in self._session.get_providers():
            raise ModelError(f"device '{device}' is not available: onnxruntime found no working CUDA libraries or GPU")
        self._ports = ports
        self._pixels_since_trim = 0
        outputs = {value.name for value in self._session.get_outputs()}
        _check_names(file, ports, [value.name for value in self._session.get_inputs()], outputs)

    def run(self, images: Batch) -> list[Batch]:
        outputs: list[Any] = self._session.run(list(self._ports.outputs), {self._ports.input: images})
        self._pixels_since_trim += images.shape[0] * images.shape[2] * images.shape[3]
        if self._pixels_since_trim > _TRIM_AFTER_PIXELS:
            self._pixels_since_trim = 0
            give_memory_back()
        return outputs


class _OpenVinoSession:
    def __init__(self, file: Path, ports: Ports, threads: int, bfloat16: bool) -> None:
        try:
            import openvino
        except ImportError:
            raise ModelError("backend 'openvino' is not installed: pip install 'tinyfaces[openvino]'") from None
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        try:
            self._model = openvino.Core().compile_model(str(file), "CPU", settings)
        except Exception as error:  # openvino's exceptions share no public base
            raise ModelError(f"{file}: not a model that openvino can load ({_first_line(error)})") from None
        self._ports = ports
        inputs = [name for port in self._model.inputs for name in port.get_names()]
        _check_names(file, ports, inputs, {name for port in self._model.outputs for name in port.get_names()})

    def run(self, images: Batch) -> list[Batch]:
        results = self._model({self._ports.input: images})
        return [np.asarray(results[name], np.float32) for name in self._ports.outputs]


def _check_names(file: Path, ports: Ports, inputs: list[str], outputs: set[str]) -> None:
    if inputs != [ports.input] or not outputs.issuperset(ports.outputs):
        needs = f"the input '{ports.input}' and the outputs {', '.join(ports.outputs)}"
        raise ModelError(f"{file}: not a {ports.kind}: it needs {needs}")


def give_memory_back() -> None:
    """Let the system have what was freed: over thousands of runs glibc would keep gigabytes of holes between what lives."""
    with suppress(AttributeError, OSError, TypeError):  # no malloc_trim here: then not glibc's habit either
        ctypes.CDLL(None).malloc_trim(0)


def int8_file(model: Path) -> Path:
    """Where the int8 copy of an ONNX file lies, if there is one."""
    return model.with_suffix(".int8.onnx")


def multiplies_int8() -> bool:
    """Whether the processor is known to multiply and add int8 in one step (VNNI). Without it int8 is no faster, and ONNX Runtime
    less exact."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(_cpuinfo().split())


def usable_cpus() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name where the system tells it, else its kind."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@lru_cache(1)
def _cpuinfo() -> str:
    """What Linux says of the processors; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
