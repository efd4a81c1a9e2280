"""Export of trained weights: ONNX for inference, safetensors for fine-tuning."""

import copy
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinyfaces.formats import write_atomically
from tinyfaces.networks.proposals import STRIDES, VARIANTS, ProposalNetwork

_OPSET = 17
LARGEST_DIFFERENCE = 1e-3
"""That ONNX Runtime's outputs may have from torch's."""


def load_network(path: Path) -> tuple[ProposalNetwork, str]:
    """The network in evaluation mode and its variant's name, of a training checkpoint or of a .safetensors file that
    `export` wrote. Raises ValueError with one line that names the file."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                variant = (file.metadata() or {})["variant"]
            weights = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            variant, weights = state["variant"], state["average"]
        network = ProposalNetwork(VARIANTS[variant])
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except KeyError as error:
        raise ValueError(f"{path}: not weights of a proposal network, {error} is missing") from None
    except Exception as error:  # a damaged file makes torch and safetensors raise nearly anything
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return network.eval(), variant


def fused(network: ProposalNetwork) -> ProposalNetwork:
    """A copy in which every batch normalisation is part of the convolution before it; for evaluation only."""
    merged = copy.deepcopy(network).eval()
    for module in merged.modules():
        if isinstance(module, nn.Sequential) and len(module) > 1:
            for place in range(len(module) - 1):
                convolution, norm = module[place], module[place + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[place], module[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return merged


def export(checkpoint: Path, out: Path) -> float:
    """Write `out` (ONNX, dynamic batch and size) and the same weights as .safetensors beside it.

    Returns the largest absolute difference of the outputs between torch and ONNX Runtime on noise. Raises ValueError
    where that is above LARGEST_DIFFERENCE or the checkpoint cannot be used; `out` is not touched then.
    """
    network, variant = load_network(checkpoint)
    partial = out.with_suffix(".partial.onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_onnx(network, partial)
        difference = largest_difference(network, partial)
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(f"{checkpoint}: ONNX Runtime's outputs differ from torch's by {difference:.1e}")
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        write_atomically(out.with_suffix(".safetensors"), save(weights, {"variant": variant}))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def write_onnx(network: ProposalNetwork, out: Path) -> None:
    """Write the fused network as ONNX: input `images` Nx3xHxW, outputs `stride4` to `stride32`."""
    names = [f"stride{stride}" for stride in STRIDES]
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    axes |= {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in names}
    torch.onnx.export(
        fused(network), (torch.zeros(1, 3, 64, 96),), str(out),
        input_names=["images"], output_names=names, dynamic_axes=axes, opset_version=_OPSET, dynamo=False,
    )  # fmt: skip


@torch.no_grad()
def largest_difference(network: ProposalNetwork, onnx_file: Path) -> float:
    """Largest absolute difference between torch's outputs and ONNX Runtime's, on noise of two sizes and batches."""
    from tinyfaces.runtime import load_session

    session = load_session(onnx_file)
    rng = np.random.default_rng(0)
    largest = 0.0
    for shape in ((1, 3, 96, 160), (3, 3, 64, 64)):
        images = rng.uniform(0, 255, shape).astype(np.float32)
        expected = network.eval()(torch.from_numpy(images))
        for ours, theirs in zip(session.run(images), expected, strict=True):
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
    return largest
