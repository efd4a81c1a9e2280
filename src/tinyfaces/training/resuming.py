"""What makes a run the one that it is. A checkpoint remembers it, and only the same run goes on from there."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.files import GivenFiles

_DIGITS = 8  # of a digest


def settings_of(config: Any, left_out: Iterable[str]) -> dict[str, Any]:
    """Settings of a run by name, those of sections as "crops.size".

    Args:
        config: A dataclass.
        left_out: Names of settings, or of whole sections, that may change on the way or are compared by what they lead to.
    """
    left = set(left_out)

    def flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            if prefix + name not in left:
                found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return found

    return flat(dataclasses.asdict(config), "")


def photos_of(images: Sequence[AnnotatedImage], weights: npt.NDArray[np.float64]) -> str:
    """How many photos there are, and a digest of their names and sizes, of their boxes, and of how often each is drawn (N,).

    The folder that they lie in may be another.
    """
    digest = hashlib.sha256(np.ascontiguousarray(weights).tobytes())
    for image in images:
        digest.update(repr((image.path.parts[-2:], image.path.stat().st_size, image.width, image.height)).encode())
        for values in (image.boxes, image.ignore, image.scores, image.hard_negatives):
            digest.update(np.ascontiguousarray(values).tobytes())
    return f"{len(images)} ({digest.hexdigest()[:_DIGITS]})"


def arrays_of(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """How many entries the arrays have along their first axis, and a digest of them."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return f"{len(arrays[0])} ({digest.hexdigest()[:_DIGITS]})"


def weights_of(path: str) -> str:
    """A digest of a file with weights, or "none" where no path is given. Raises ValueError where it cannot be read."""
    if not path:
        return "none"
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:_DIGITS]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as weights ({error.strerror})") from None


def require_same_run(state: Mapping[str, Any] | None, wanted: Mapping[str, Any], last: Path) -> None:
    """Check that a checkpoint is of this run.

    Args:
        state: What the checkpoint holds, with what it remembers of its run under "run"; nothing where there is none.
        wanted: Of this run: what must be the same. Names that "run" has besides are passed over.
        last: The checkpoint.

    Raises:
        ValueError: Something differs; the line says what.
    """
    if state is None or "run" not in state:
        return
    known = state["run"]
    other = [f"{name}: {known.get(name)}, now {value}" for name, value in wanted.items() if known.get(name) != value]
    if other:
        raise ValueError(
            f"{last}: is of another run ({'; '.join(other)}); go on with what that run had, or start over in another folder"
            " or with --fresh"
        )


def require_steps_left(state: Mapping[str, Any] | None, steps: int, last: Path) -> None:
    """Raise ValueError where a checkpoint has taken more steps than the run is to have."""
    if state is not None and state.get("step", 0) > steps:
        raise ValueError(f"{last}: has taken {state['step']} steps already, more than the {steps} of the settings")


def remembers_its_run(state: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint can be compared; those of earlier versions cannot."""
    return state is None or "run" in state


def keep_weights(given: Iterable[str], written: Iterable[Path]) -> None:
    """Raise ValueError where weights that a run begins or learns from are a file that it writes."""
    own = GivenFiles(written)
    for path in given:
        if path and Path(path) in own:
            raise ValueError(f"{path}: this run would write over the weights that it begins or learns from; choose another `out`")
