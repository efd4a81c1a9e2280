"""The second stage's generator as the service uses it: small faces enlarged fourfold."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.runtime import RuntimeOptions
from tinyfaces.detection.second_stage import SecondStage
from tinyfaces.weights import second_stage


def restorer(options: RuntimeOptions) -> Callable[[Pixels, npt.NDArray[np.float32]], Pixels]:
    """Load the shipped generator.

    Returns:
        A function of an image HxWx3 and boxes (N, 4) that restores them: (N, 64, 64, 3) uint8 RGB.
    """
    record = second_stage()
    rule = FusionRule.from_dict(record.rules["other"])  # restoring uses none
    return SecondStage(record, rule, options).restore_faces
