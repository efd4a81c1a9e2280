"""Frames of a video with faces masked: as a file gets them, and as a review shows them before."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from tinyfaces.jobs import pixel_formats
from tinyfaces.jobs.cover_picture import Cover, CoverPicture
from tinyfaces.jobs.masking import MaskStyle, mask_faces
from tinyfaces.jobs.pixel_formats import Encoding
from tinyfaces.jobs.video import VideoReader


class FrameMasker:
    """Masks faces in frames, in the pixel format in which they are encoded.

    Args:
        source: The video that the frames come from.
        encoding: How they are encoded.
        picture: Put over each mask.
    """

    def __init__(self, source: VideoReader, encoding: Encoding, picture: CoverPicture | None = None) -> None:
        self._shape = source.shape
        self._encoding = encoding
        self._covers = [] if picture is None else self._in_planes(picture)

    def masked(self, frame: av.VideoFrame, boxes: npt.NDArray[np.float32], style: MaskStyle) -> av.VideoFrame:
        """A frame as it is encoded, which may be the one given, changed.

        Args:
            frame: Of the video. It gets the size of the first one.
            boxes: (N, 4), x1 y1 x2 y2 in pixels of the first frame, upright.
            style: How faces are masked.
        """
        converted = self._encoding.convert(frame, *self._shape.stored)
        if not len(boxes):
            return converted
        converted.make_writable()
        planes = pixel_formats.planes(converted)
        if self._covers:
            planes = [replace(plane, cover=cover) for plane, cover in zip(planes, self._covers, strict=True)]
        mask_faces(planes, self._shape.turn.undo(boxes, *self._shape.size), style)
        return converted

    def _in_planes(self, picture: CoverPicture) -> list[Cover]:
        """A picture in the planes of a frame to encode, as it is stored."""
        turn = self._shape.turn
        turned = CoverPicture(turn.unapply(picture.pixels), turn.unapply(picture.opacity))
        frame = av.VideoFrame.from_ndarray(turned.pixels, format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        planes = pixel_formats.planes(self._encoding.convert(frame, frame.width, frame.height))
        return turned.in_planes([plane.values.copy() for plane in planes])
