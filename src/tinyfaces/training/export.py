"""Export of trained weights: ONNX for inference, safetensors for fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

from tinyfaces.detection.crops import HIGH_SIDE, LOW_SIDE
from tinyfaces.detection.runtime import GENERATOR, JUDGE, PROPOSALS, ModelSignature, RuntimeOptions, int8_file, load_session
from tinyfaces.files import write_atomically
from tinyfaces.training.checkpoints import load_network, load_second_stage
from tinyfaces.training.folding import folded
from tinyfaces.training.networks.proposal_network import STRIDES
from tinyfaces.training.networks.second_stage_networks import Discriminator, Mirrored

_OPSET = 17
_MIN_STORED_IN_FLOAT16 = 256  # values; biases stay as they are
DISCRIMINATOR = ModelSignature("discriminator", "crops", ("real", "face", "box"))
"""crops Nx3x64x64 (RGB, 0-1) to logits (N,) of being real, and what the judge gives. Detection does not use it."""
LARGEST_DIFFERENCE = 1e-3
"""That ONNX Runtime's outputs may have from torch's."""


def export(checkpoint: Path, out: Path, in_float16: bool = False) -> float:
    """Write a proposal network as ONNX, with dynamic batch and size, and the same weights as .safetensors beside it.

    Args:
        checkpoint: of a training, or a .safetensors file.
        out: the ONNX file.
        in_float16: store the convolutions in the .safetensors file in 16 bits.

    Returns:
        The largest absolute difference of the outputs between torch and ONNX Runtime on noise.

    Raises:
        ValueError: that is above LARGEST_DIFFERENCE, or the checkpoint cannot be used; `out` is not touched then.
    """
    network, variant = load_network(checkpoint)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    axes |= {f"stride{stride}": {0: "batch", 2: f"height{stride}", 3: f"width{stride}"} for stride in STRIDES}
    difference = write_onnx(network, PROPOSALS, ((1, 3, 96, 160), (3, 3, 64, 64)), 255.0, axes, out)
    _write_weights(out.with_suffix(".safetensors"), network, {"variant": variant}, in_float16)
    return difference


def export_second_stage(checkpoint: Path, out: Path) -> dict[Path, float]:
    """Write a judge, or generator and discriminator, as ONNX, with dynamic batch, and their weights as NAME.safetensors. A
    judge looks at each crop and its mirror image.

    Args:
        checkpoint: of a training, or a .safetensors file.
        out: NAME.onnx: the judge. For generator and discriminator NAME.generator.onnx and NAME.discriminator.onnx are written
            instead.

    Returns:
        Of each ONNX file the largest absolute difference between torch and ONNX Runtime on noise.

    Raises:
        ValueError: as `export` does.
    """
    generator, discriminator, settings = load_second_stage(checkpoint)
    written: list[tuple[nn.Module, ModelSignature, int, Path]] = [(_Heads(Mirrored(discriminator), JUDGE), JUDGE, LOW_SIDE, out)]
    if settings["parts"] != "none":
        heads = _Heads(discriminator, DISCRIMINATOR)
        written = [
            (network, signature, side, out.with_suffix(f".{signature.kind}.onnx"))
            for network, signature, side in ((generator, GENERATOR, LOW_SIDE), (heads, DISCRIMINATOR, HIGH_SIDE))
        ]
    differences = {}
    for network, signature, side, file in written:
        axes = {name: {0: "batch"} for name in (signature.input, *signature.outputs)}
        differences[file] = write_onnx(network, signature, ((2, 3, side, side), (5, 3, side, side)), 1.0, axes, file)
    both = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    _write_weights(out.with_suffix(".safetensors"), both, settings)
    return differences


class _Heads(nn.Module):
    """A discriminator with a tuple for its judgement, as ONNX has it: what the signature names."""

    def __init__(self, discriminator: Discriminator | Mirrored, signature: ModelSignature) -> None:
        super().__init__()
        self.discriminator, self.outputs = discriminator, signature.outputs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        judged = self.discriminator(images)
        return tuple(getattr(judged, name) for name in self.outputs)


def write_onnx(
    network: nn.Module,
    signature: ModelSignature,
    shapes: Sequence[tuple[int, ...]],
    largest_input: float,
    axes: dict[str, dict[int, str]],
    out: Path,
) -> float:
    """Write a folded network as ONNX, and compare it with torch on noise.

    Args:
        network: a proposal network, a generator, or a discriminator that gives a tuple.
        signature: names of its inputs and outputs.
        shapes: of the noise.
        largest_input: noise is from 0 to this.
        axes: names of the dynamic ones of each input and output.
        out: the ONNX file.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        ValueError: that is above LARGEST_DIFFERENCE; `out` is left as it was.
    """
    partial = out.with_suffix(".partial.onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.onnx.export(
            folded(network), (torch.zeros(shapes[0]),), str(partial), input_names=[signature.input],
            output_names=list(signature.outputs), dynamic_axes=axes, opset_version=_OPSET, dynamo=False,
        )  # fmt: skip
        difference = largest_difference(network, partial, signature, shapes, largest_input)
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(f"{out}: ONNX Runtime's outputs differ from torch's by {difference:.1e}")
        int8_file(out).unlink(missing_ok=True)  # of the network before
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def store_in_float16(model: Path) -> None:
    """Store the large weights of an ONNX file in 16 bits, half the bytes. They become float32 again when it is loaded, so it
    runs as before, from rounded weights.

    Args:
        model: the file, which is replaced.
    """
    proto = onnx.load(str(model))
    graph = proto.graph
    casts = []
    for weights in graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype != np.float32 or values.size < _MIN_STORED_IN_FLOAT16:
            continue
        name = weights.name
        weights.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(onnx.helper.make_node("Cast", [weights.name], [name], to=onnx.TensorProto.FLOAT))
    for number, cast in enumerate(casts):
        graph.node.insert(number, cast)
    write_atomically(model, proto.SerializeToString())


@torch.no_grad()
def largest_difference(
    network: nn.Module, onnx_file: Path, signature: ModelSignature, shapes: Sequence[tuple[int, ...]], largest_input: float
) -> float:
    """Largest absolute difference between torch's outputs and ONNX Runtime's, on noise of several shapes."""
    session = load_session(onnx_file, signature, RuntimeOptions(precision="float32"))
    rng = np.random.default_rng(0)
    largest = 0.0
    for shape in shapes:
        images = rng.uniform(0, largest_input, shape).astype(np.float32)
        expected = network.eval()(torch.from_numpy(images))
        for ours, theirs in zip(session.run(images), expected, strict=True):
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
    return largest


def _write_weights(path: Path, network: nn.Module, settings: dict[str, Any], in_float16: bool = False) -> None:
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if in_float16:
        weights = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in weights.items()}
    write_atomically(path, save(weights, settings))
