"""Weights between those of two runs of which one began from the other's: often better than either (Wortsman et al., 2022)."""

from pathlib import Path

import torch

from tinyfaces.training.checkpoints import load_network, save_atomically


def average_weights(first: Path, second: Path, share: float, out: Path) -> None:
    """Write a checkpoint with weights between those of two proposal networks; normalisations' statistics are averaged too.

    Args:
        first: a checkpoint or .safetensors file. second: another.
        share: of the first one's weights, 0 to 1; the rest is the second's.
        out: the checkpoint to write.

    Raises:
        ValueError: the networks are not of one variant, or cannot be read.
    """
    (one, variant), (other, other_variant) = load_network(first), load_network(second)
    if variant != other_variant:
        raise ValueError(f"{second}: is '{other_variant}', and {first} is '{variant}'")
    others = other.state_dict()
    average = {
        name: torch.lerp(others[name], value, share) if value.is_floating_point() else value
        for name, value in one.state_dict().items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_atomically({"average": average, "variant": variant}, out)
