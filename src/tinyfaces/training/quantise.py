"""int8 copies of exported networks: activations and weights of 8 bits, calibrated on real images. Needs the package onnx."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tinyfaces.detection.images import read_image
from tinyfaces.detection.runtime import Batch, ModelSignature, int8_file, quiet_onnxruntime
from tinyfaces.training.cache import problem_with

quiet_onnxruntime()
_SIDE = 480


def quantise(model: Path, signature: ModelSignature, batches: Iterable[Batch]) -> Path:
    """Write NAME.int8.onnx beside NAME.onnx: the same network with convolutions in int8.

    The layers that give the outputs stay in float32, and so do fully connected ones.

    Args:
        model: NAME.onnx.
        signature: names of its inputs and outputs.
        batches: what the network is used on, in float32 as it takes them; they say which values its activations have.

    Returns:
        The path of NAME.int8.onnx.

    Raises:
        ValueError: there is no batch.
    """
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{model}: nothing to calibrate its int8 copy on")
    target = int8_file(model)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        outputs = {value.name for value in graph.output}
        kept = [node.name for node in graph.node if node.op_type == "Gemm" or not outputs.isdisjoint(node.output)]
        reader = _Reader(signature.input, chain([first], remaining))
        quantize_static(
            str(prepared), str(written), reader, quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=kept,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
        written.replace(target)
    return target


def photo_batches(photos: Iterable[Path], tell: Callable[[str], None] | None = None) -> Iterator[Batch]:
    """The upper left of each photo as the proposal network takes it: 1x3x480x480, RGB 0-255, black where the photo ends.

    tell: called with a line about each photo that cannot be read; if None, the first one raises.
    """
    for path in photos:
        try:
            pixels = read_image(path)[:_SIDE, :_SIDE]
        except Exception as error:  # whatever is wrong with one photo, the others calibrate
            if tell is None:
                raise
            tell(problem_with(path, error))
            continue
        batch = np.zeros((1, 3, _SIDE, _SIDE), np.float32)
        batch[0, :, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
        yield batch


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, batches: Iterable[Batch]) -> None:
        self.name, self.batches = name, iter(batches)

    def get_next(self) -> dict[str, Batch] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}
