"""Frames of videos as the review page shows them: as they are, and covered as they will be written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.images import Pixels
from tinyfaces.jobs import pixel_formats
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.frame_seeking import KEPT_PIXELS, FrameSeeker
from tinyfaces.jobs.inputs import CONTAINERS
from tinyfaces.jobs.masked_frames import FrameMasker
from tinyfaces.jobs.video import naming


class ClipView:
    """A video whose frames are shown in any order. One thread at a time may use it.

    Args:
        path: The video.
        times: Of all its frames, in ticks.
        keyframes: The numbers of those that are decoded without others.
        suffix: Ending of the file that is to be written.
        masking: How faces are covered.
        kept: See `FrameSeeker`.

    Raises:
        VideoError: The video cannot be read.
    """

    def __init__(
        self,
        path: Path,
        times: Sequence[int],
        keyframes: Sequence[int],
        suffix: str,
        masking: Masking,
        kept: int = KEPT_PIXELS,
    ) -> None:
        self._path = path
        self._seeker = FrameSeeker(path, times, keyframes, kept)
        self._style = masking.style
        video = self._seeker.video
        self._turn = video.shape.turn
        try:
            with naming(path, "cannot be encoded"):
                encoding = pixel_formats.choose(video.stream, CONTAINERS[suffix], *video.shape.stored)
                self._masker = FrameMasker(video, encoding, masking.picture)
        except BaseException:
            self._seeker.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._seeker.close()

    def picture(self, number: int, masks: npt.NDArray[np.float32]) -> Pixels:
        """A frame as it is encoded, HxWx3 uint8 RGB, upright. masks: (N, 4) in pixels of the first frame. Raises VideoError."""
        with naming(self._path, "cannot be shown"):
            frame = self._masker.masked(self._seeker.frame(number), masks, self._style)
            return self._turn.apply(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
