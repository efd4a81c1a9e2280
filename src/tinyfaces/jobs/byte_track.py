"""The same boxes through the frames of a video, after ByteTrack (Zhang et al., ECCV 2022): sure boxes go to the tracks first,
then unsure ones to the tracks that are left."""

import numpy as np
import numpy.typing as npt

from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.jobs.assignment import heaviest_pairs

_OVERLAP = 0.1  # from which a box may continue a track
_LOST_AFTER = 1.0  # seconds
_NEW_LOST_AFTER = 2  # frames in which a box that was seen once is missed
# Of the Kalman filter, in pixels and frames: how far a measured box is off, and how much a frame changes place and speed.
_MEASURED = 0.1
_CHANGED = 0.01
_STEADY = 0.004  # seconds by which the time between frames may differ before it counts as another one

Array = npt.NDArray[np.float64]


class ByteTrack:
    """Gives boxes an identity that stays from frame to frame.

    Each corner of a box moves at a constant speed, which a Kalman filter estimates. All coordinates of a track share their
    variances, as they are always measured together.

    Args:
        rate: About how many frames per second there are.
        sure: The score from which a box begins a track, and is matched first.
    """

    def __init__(self, rate: float, sure: float) -> None:
        self._rate = rate
        self._sure = sure
        self._time: float | None = None
        self._next = 0
        self._identities = np.zeros(0, np.int64)
        self._boxes = np.zeros((0, 4))
        self._speeds = np.zeros((0, 4))
        self._variances = np.zeros((0, 3))  # of the place, of place and speed together, of the speed
        self._missed = np.zeros(0, np.int64)  # frames
        self._missing = np.zeros(0)  # seconds
        self._seen_twice = np.zeros(0, np.bool_)

    def update(self, boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], time: float) -> npt.NDArray[np.int64]:
        """The identities of the boxes of the next frame.

        Args:
            boxes: (N, 4), x1 y1 x2 y2 in pixels.
            scores: (N,)
            time: Of the frame, in seconds; later than that of the frame before.

        Returns:
            (N,), -1 for a box that is too unsure to begin a track and continues none.
        """
        self._predict(time)
        measured = boxes.astype(np.float64)
        tracks = np.full(len(boxes), -1)  # the place of each box's track
        left = np.arange(len(self._boxes))
        predicted = self._boxes.copy()
        for rows in (np.flatnonzero(scores >= self._sure), np.flatnonzero(scores < self._sure)):
            overlaps = iou_matrix(predicted[left], measured[rows]).astype(np.float64)
            matched = [(left[t], rows[b]) for t, b in heaviest_pairs(overlaps) if overlaps[t, b] >= _OVERLAP]
            for track, row in matched:
                tracks[row] = track
            left = np.setdiff1d(left, tracks)
        continued = np.flatnonzero(tracks >= 0)
        self._correct(tracks[continued], measured[continued])
        identities = np.where(tracks >= 0, np.append(self._identities, -1)[tracks], -1)
        new = np.flatnonzero((tracks < 0) & (scores >= self._sure))
        identities[new] = self._next + np.arange(len(new))
        self._keep(self._seen_twice | (self._missed < _NEW_LOST_AFTER))
        self._begin(measured[new])
        return identities

    def _predict(self, time: float) -> None:
        passed = 1 / self._rate if self._time is None else max(time - self._time, 0.0)
        self._time = time
        self._missing += passed
        self._missed += 1
        self._keep(self._missing <= _LOST_AFTER)
        step = passed * self._rate
        self._boxes += self._speeds * step
        place, both, speed = self._variances.T
        place = place + 2 * step * both + step**2 * speed
        both = both + step * speed
        if abs(step - 1) <= _STEADY * self._rate:
            self._variances = np.stack([place + _CHANGED, both, speed + _CHANGED], axis=1)
        else:  # the speed changes at random all the time
            changed = _CHANGED * np.array([step**4 / 4, step**3 / 2, step**2])
            self._variances = np.stack([place, both, speed], axis=1) + changed

    def _correct(self, tracks: npt.NDArray[np.int64], measured: Array) -> None:
        place, both, speed = self._variances[tracks].T
        gain, speed_gain = place / (place + _MEASURED), both / (place + _MEASURED)
        off = measured - self._boxes[tracks]
        self._boxes[tracks] += gain[:, None] * off
        self._speeds[tracks] += speed_gain[:, None] * off
        self._variances[tracks] = np.stack([place * (1 - gain), both * (1 - gain), speed - speed_gain * both], axis=1)
        self._missed[tracks] = 0
        self._missing[tracks] = 0
        self._seen_twice[tracks] = True

    def _begin(self, measured: Array) -> None:
        count = len(measured)
        self._identities = np.append(self._identities, self._next + np.arange(count))
        self._next += count
        self._boxes = np.concatenate([self._boxes, measured])
        self._speeds = np.concatenate([self._speeds, np.zeros((count, 4))])
        self._variances = np.concatenate([self._variances, np.tile([1.0, 0.0, 1.0], (count, 1))])
        self._missed = np.append(self._missed, np.zeros(count, np.int64))
        self._missing = np.append(self._missing, np.zeros(count))
        self._seen_twice = np.append(self._seen_twice, np.zeros(count, np.bool_))

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        self._identities, self._boxes, self._speeds = self._identities[kept], self._boxes[kept], self._speeds[kept]
        self._variances, self._missed, self._missing = self._variances[kept], self._missed[kept], self._missing[kept]
        self._seen_twice = self._seen_twice[kept]
