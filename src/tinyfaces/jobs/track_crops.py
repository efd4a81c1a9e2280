"""The best view of each face of a video, cut out and written as the video goes by."""

from pathlib import Path

import av
import numpy as np

from tinyfaces.jobs.face_crops import FaceCrops
from tinyfaces.jobs.image_results import Named
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.jobs.video import VideoReader


class TrackCrops:
    """The crops of one video: of each track the face that scores highest. Memory holds no picture.

    Args:
        crops: Where they go.
        file: The video's name.
        video: The same, open.

    It has the attribute `written`: the crop of each track.
    """

    def __init__(self, crops: FaceCrops, file: Named, video: VideoReader) -> None:
        self.written: dict[int, Path] = {}
        self._crops = crops
        self._file = file
        self._video = video
        self._best: dict[int, float] = {}

    def add(self, frame: av.VideoFrame, settled: TrackedFaces) -> None:
        """Write the faces of a frame that score higher than all before on their track. Bridged ones were not seen.

        Args:
            frame: Not changed yet.
            settled: Its faces, in pixels of the first frame.

        Raises:
            CropError: A file of a crop's name is none, or was given.
            OSError: A crop cannot be written.
        """
        tracks, scores = settled.tracks.tolist(), settled.faces.scores.tolist()
        better = [row for row in np.flatnonzero(settled.found).tolist() if scores[row] > self._best.get(tracks[row], -1.0)]
        if not better:
            return
        picture = self._video.pictures(frame)[0]
        boxes = self._video.shape.boxes_in(self._video.shape_of(frame), settled.faces.boxes[better])
        for row, box in zip(better, boxes, strict=True):
            self._best[tracks[row]] = scores[row]
            self.written[tracks[row]] = self._crops.write_track(self._file, tracks[row], box, picture)
