"""Restoring: the generator turns the crop of a small face into a clear one, four times as wide."""

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.crops import FACTOR, LOW_SIDE, crop_batches, crop_squares, cut_crops
from tinyfaces.detection.images import Pixels, Regions
from tinyfaces.detection.runtime import GENERATOR, RuntimeOptions, load_session
from tinyfaces.weights import SecondStageRecord


class Restorer:
    """The generator, ready to run. Any number of threads may share one.

    Args:
        record: The shipped networks.
        options: What runs it; ONNX Runtime on the CPU if None.

    Raises:
        ModelError: It cannot be loaded.
    """

    def __init__(self, record: SecondStageRecord, options: RuntimeOptions | None = None) -> None:
        self._generator = load_session(record.generator_path, GENERATOR, (options or RuntimeOptions()).for_small_networks())

    def restore(self, crops: Pixels) -> Pixels:
        """Restore crops (N, 16, 16, 3) uint8 RGB to (N, 64, 64, 3)."""
        restored = [self._generator.run(batch)[1] for batch in crop_batches(crops)]
        side = FACTOR * LOW_SIDE
        pixels = np.concatenate([np.zeros((0, 3, side, side), np.float32), *restored]).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))

    def restore_faces(self, image: Pixels | Regions, boxes: npt.NDArray[np.float32]) -> Pixels:
        """Restore boxes (N, 4) of an image HxWx3, each with its context, to (N, 64, 64, 3) uint8 RGB."""
        return self.restore(cut_crops(image, crop_squares(boxes), LOW_SIDE))
