"""Checkpoints and weights: written so that they are never half-written, and read back as networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork
from tinyfaces.training.networks.second_stage_networks import Discriminator, Generator, make_networks


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one, whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def read_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What a checkpoint holds, or nothing where there is none. Raises ValueError with one line where it cannot be read."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise ValueError(f"{path}: cannot be read as a checkpoint ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint of a training")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Whatever fails while the state of the checkpoint `path` is taken over is a ValueError with one line."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: does not fit this run ({reason})") from None


def load_network(path: Path) -> tuple[ProposalNetwork, str]:
    """The network in evaluation mode and its variant's name, of a training checkpoint or of a .safetensors file that
    `export` wrote. Raises ValueError with one line that names the file."""
    settings, weights = _read(path, "a proposal network", "variant")
    if "parts" in settings:
        raise ValueError(f"{path}: holds a generator and a discriminator, not a proposal network")
    try:
        network = ProposalNetwork(VARIANTS[settings["variant"]])
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return network.eval(), settings["variant"]


def load_second_stage(path: Path) -> tuple[Generator, Discriminator, dict[str, str]]:
    """Generator and discriminator in evaluation mode, and the settings `variant` and `parts`, of a checkpoint of `train
    second-stage` or of a .safetensors file that `export` wrote. Raises ValueError with one line that names the file."""
    settings, weights = _read(path, "a second stage", "parts")
    try:
        generator, discriminator = make_networks(settings["variant"], settings["parts"])
        nn.ModuleDict({"generator": generator, "discriminator": discriminator}).load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return generator.eval(), discriminator.eval(), settings


def _read(path: Path, what: str, needed: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Settings and averaged weights of a checkpoint or of a .safetensors file."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                settings = dict(file.metadata() or {})
            weights = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings = {name: value for name, value in state.items() if isinstance(value, str)}
            weights = state.get("average")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file makes torch and safetensors raise nearly anything
        raise ValueError(f"{path}: cannot be read as weights ({type(error).__name__})") from None
    if needed not in settings or weights is None:
        raise ValueError(f"{path}: not weights of {what}, '{'average' if needed in settings else needed}' is missing")
    return settings, weights


def is_second_stage(path: Path) -> bool:
    """Whether a checkpoint or .safetensors file holds generator and discriminator. Raises ValueError where it cannot be read."""
    return "parts" in _read(path, "a network", "variant")[0]
