"""Inference sessions: one way to run an exported network, whichever library does the work."""

import ctypes
import os
import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.devices import DEVICES, PROVIDERS, chosen_device, silent
from tinyfaces.detection.processors import multiplies_int8 as multiplies_int8
from tinyfaces.detection.processors import processor_name as processor_name
from tinyfaces.detection.processors import usable_cpus as usable_cpus

BACKENDS = ("onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
STRIDES = (4, 8, 16, 32)
"""Pixels between neighbouring points of the network's four outputs."""

_TRIM_AFTER_PIXELS = 24_000_000  # 24 photos of a megapixel: trimming stays rare

Batch = npt.NDArray[np.float32]


class ModelError(ValueError):
    """A model, or what should run it, cannot be used. The message is one line that names it."""


@dataclass(frozen=True)
class ModelSignature:
    """What an exported network takes and gives.

    Args:
        kind: What messages call such a network.
        input: The name of its input.
        outputs: The names of its outputs, in order.
    """

    kind: str
    input: str
    outputs: tuple[str, ...]


PROPOSALS = ModelSignature("tinyfaces model", "images", tuple(f"stride{stride}" for stride in STRIDES))
"""images Nx3xHxW (RGB, 0-255, H and W multiples of 32) to Nx5xH/sxW/s for strides 4, 8, 16, 32."""
GENERATOR = ModelSignature("generator", "crops", ("enlarged", "restored"))
"""crops Nx3x16x16 (RGB, 0-1) to two of Nx3x64x64: SRN's and RN's output."""
JUDGE = ModelSignature("judge", "crops", ("face", "box"))
"""crops Nx3x16x16 (RGB, 0-1) to logits (N,) of how well the box fits a face, and box offsets (N, 4)."""


class Session(Protocol):
    """A network ready to run. Any number of threads may run it at once."""

    def run(self, images: Batch) -> list[Batch]:
        """Run on a batch; gives the outputs in the order of the network's `ModelSignature`."""
        ...


@dataclass(frozen=True)
class RuntimeOptions:
    """What runs a network, and with how much of the machine.

    Args:
        backend: "onnxruntime", or "openvino" (an extra).
        device: "auto" (the best there is), "cpu", "cuda" (needs onnxruntime-gpu), "directml" (needs onnxruntime-directml),
            "coreml" (macOS); "gpu" with openvino.
        threads: Processor threads in all; as many as this process may use if None.
        precision: "float32"; "int8", from the file NAME.int8.onnx beside NAME.onnx; "bfloat16", with openvino only; or "auto":
            int8 where that file is there and the processor is made for it.
        workers: How many calls of `Session.run` there may be at once; each gets its share of the threads.

    Raises:
        ModelError: A value is not one of these.
    """

    backend: str = "onnxruntime"
    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    workers: int = 1

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("backend", self.backend, BACKENDS), ("device", self.device, DEVICES), ("precision", self.precision, PRECISIONS),
        ):  # fmt: skip
            if value not in known:
                raise ModelError(f"unknown {kind} '{value}': choose from {', '.join(known)}")
        for kind, number in (("threads", self.threads), ("workers", self.workers)):
            if number is not None and number < 1:
                raise ModelError(f"{kind} must be at least 1. Received: {number}")
        if self.precision == "int8" and self.device not in ("auto", "cpu"):
            raise ModelError(f"precision 'int8' runs on the CPU only, not on '{self.device}'")
        if self.precision == "bfloat16" and self.backend != "openvino":
            raise ModelError(f"precision 'bfloat16' needs backend 'openvino', not '{self.backend}'")
        if self.backend == "openvino" and self.device in PROVIDERS and self.device != "cpu":
            raise ModelError(f"backend 'openvino' runs on 'cpu' or 'gpu', not on '{self.device}'")
        if self.backend == "onnxruntime" and self.device == "gpu":
            raise ModelError("device 'gpu' needs backend 'openvino'; with onnxruntime, choose cuda, directml or coreml")

    @property
    def runs_on(self) -> str:
        """The device itself, where "auto" leaves it open. OpenVINO, int8 and bfloat16 stay on the CPU unless told otherwise."""
        if self.device != "auto":
            return self.device
        if self.backend == "openvino" or self.precision in ("int8", "bfloat16"):
            return "cpu"
        return chosen_device(quiet_onnxruntime()).device

    def for_small_networks(self) -> "RuntimeOptions":
        """The same for networks of crops, which gain nothing from bfloat16: "auto" takes its place."""
        return replace(self, precision="auto") if self.precision == "bfloat16" else self

    @property
    def threads_per_worker(self) -> int:
        """Each worker's share of the threads, at least 1."""
        return max(1, (self.threads or usable_cpus()) // self.workers)

    def file_for(self, model: Path) -> Path:
        """The file to load for the precision: the model itself or its int8 copy. Raises ModelError where it is missing."""
        copy = int8_file(model)
        if not model.is_file():
            raise ModelError(f"{model}: no such model file")
        if self.precision == "int8" and not copy.is_file():
            raise ModelError(f"{copy}: no such model file, but precision 'int8' needs it")
        auto = self.precision == "auto" and self.runs_on == "cpu" and copy.is_file() and multiplies_int8()
        return copy if self.precision == "int8" or auto else model


def load_session(
    path: str | os.PathLike[str],
    signature: ModelSignature = PROPOSALS,
    options: RuntimeOptions | None = None,
) -> Session:
    """Load an exported network from an ONNX file.

    Args:
        path: The ONNX file.
        signature: The inputs and outputs that it must have.
        options: What runs it; ONNX Runtime on the CPU if None.

    Raises:
        ModelError: The file, the backend or the device is missing, or the file holds another kind of network.
    """
    options = options or RuntimeOptions()
    file = options.file_for(Path(path))
    return (_OpenVinoSession if options.backend == "openvino" else _OnnxRuntimeSession)(file, signature, options)


def quiet_onnxruntime() -> Any:
    """ONNX Runtime, without its telemetry. `import tinyfaces` has set what it looks at on Linux and macOS; on Windows only this
    call switches it off."""
    import onnxruntime

    getattr(onnxruntime, "disable_telemetry_events", lambda: None)()
    return onnxruntime


def quiet_openvino() -> Any:
    """OpenVINO, without its telemetry: its import alone would tell Google Analytics of itself. Raises ImportError."""
    earlier = "openvino" in sys.modules
    known = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # then importing it fails, and openvino does without
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if known is not None:
            sys.modules["openvino_telemetry"] = known
    if earlier and known is not None and getattr(known.Telemetry(), "consent", False):
        known.Telemetry().consent = False
        warnings.warn(
            "openvino was imported before tinyfaces, and has sent that it was. Its telemetry is off from now on; to keep it from "
            "beginning, run `opt_in_out --opt_out` once",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    return openvino


class _OnnxRuntimeSession:
    def __init__(self, file: Path, signature: ModelSignature, settings: RuntimeOptions) -> None:
        onnxruntime = quiet_onnxruntime()
        device = settings.runs_on
        provider, package = PROVIDERS[device]
        if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        if provider not in onnxruntime.get_available_providers():
            raise ModelError(f"device '{device}' needs {package}: see docs/platforms.md, and `tinyfaces env` for what there is")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads_per_worker
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Both would keep memory for every image size ever seen.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        # Idle threads of one network would keep spinning while the next one runs: both stages together run three by turns.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            with silent(onnxruntime) if device != "cpu" else nullcontext():
                self._session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise ModelError(f"{file}: not a model that onnxruntime can load ({_first_line(error)})") from None
        if provider not in self._session.get_providers():
            raise ModelError(f"device '{device}' is not available: onnxruntime found no such GPU, or a library is missing")
        self._signature = signature
        self._turn: Any = threading.Lock() if device == "directml" else nullcontext()  # DirectML takes one call at a time
        self._pixels_since_trim = 0
        outputs = {value.name for value in self._session.get_outputs()}
        _check_names(file, signature, [value.name for value in self._session.get_inputs()], outputs)

    def run(self, images: Batch) -> list[Batch]:
        with self._turn:
            outputs: list[Any] = self._session.run(list(self._signature.outputs), {self._signature.input: images})
        # Threads may overwrite each other's count: then memory is trimmed a little later.
        self._pixels_since_trim += images.shape[0] * images.shape[2] * images.shape[3]
        if self._pixels_since_trim > _TRIM_AFTER_PIXELS:
            self._pixels_since_trim = 0
            give_memory_back()
        return outputs


class _OpenVinoSession:
    def __init__(self, file: Path, signature: ModelSignature, options: RuntimeOptions) -> None:
        try:
            openvino = quiet_openvino()
        except ImportError:
            raise ModelError("backend 'openvino' is not installed: pip install 'tinyfaces[openvino]'") from None
        device = options.runs_on.upper()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bfloat16" else "f32"}
        if device == "CPU":
            settings |= {"NUM_STREAMS": options.workers, "INFERENCE_NUM_THREADS": options.workers * options.threads_per_worker}
        core = openvino.Core()
        if not any(name.partition(".")[0] == device for name in core.available_devices):
            raise ModelError(f"device '{options.runs_on}' is not available: openvino has {', '.join(core.available_devices)}")
        try:
            self._model = core.compile_model(str(file), device, settings)
        except Exception as error:  # openvino's exceptions share no public base
            raise ModelError(f"{file}: not a model that openvino can load ({_first_line(error)})") from None
        self._signature = signature
        inputs = [name for port in self._model.inputs for name in port.get_names()]
        _check_names(file, signature, inputs, {name for port in self._model.outputs for name in port.get_names()})

    def run(self, images: Batch) -> list[Batch]:
        # The model's own request serves one thread at a time.
        results = self._model.create_infer_request().infer({self._signature.input: images})
        return [np.array(results[name], np.float32) for name in self._signature.outputs]


def _check_names(file: Path, signature: ModelSignature, inputs: list[str], outputs: set[str]) -> None:
    if inputs != [signature.input] or not outputs.issuperset(signature.outputs):
        needs = f"the input '{signature.input}' and the outputs {', '.join(signature.outputs)}"
        raise ModelError(f"{file}: not a {signature.kind}, which has {needs}")


def give_memory_back() -> None:
    """Return freed memory to the system. Over thousands of runs, glibc would keep gigabytes of gaps between what is in use."""
    with suppress(AttributeError, OSError, TypeError):  # only glibc has malloc_trim, and only glibc needs it
        ctypes.CDLL(None).malloc_trim(0)


def int8_file(model: Path) -> Path:
    """Where the int8 copy of an ONNX file lies, if there is one."""
    return model.with_suffix(".int8.onnx")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
