"""Weights between those of two runs of which one began from the other's: often better than either (Wortsman et al., 2022)."""

from pathlib import Path

import torch

from tinyfaces.training.checkpoints import load_network, save_atomically


def average_weights(first: Path, second: Path, share: float, out: Path) -> None:
    """Write a checkpoint that holds `share` of the first proposal network's weights and the rest of the second's.

    Both are checkpoints or .safetensors files. Normalisations' statistics are averaged too. Raises ValueError where the networks
    are not of one variant or cannot be read.
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
