"""How the picture as a whole moves from frame to frame: shifted, turned and zoomed, as a camera moves."""

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]
Array = npt.NDArray[np.float64]

_WIDEST = 320  # pixels of the reduced pictures in which motion is measured
_WINDOW = 64  # side in such pixels of the squares that are compared
_NEAR = 1.0  # such pixels by which a square may move otherwise than the picture
_FEW = 4  # squares that must agree
_MOST_ZOOM = 0.2  # from frame to frame
_FLAT = 2.0  # spread of grey values below which a square shows nothing


class Motion:
    """A move of the picture: a point (x, y) goes to (a x - b y + dx, b x + a y + dy)."""

    def __init__(self, a: float, b: float, dx: float, dy: float) -> None:
        self._turn = np.array([[a, -b], [b, a]])
        self._shift = np.array([dx, dy])

    @classmethod
    def none(cls) -> "Motion":
        """The picture stays as it is."""
        return cls(1, 0, 0, 0)

    def back(self) -> "Motion":
        """The way back."""
        (a, _), (b, _) = self._turn
        square = a * a + b * b
        dx, dy = -(np.array([[a, b], [-b, a]]) / square) @ self._shift
        return Motion(a / square, -b / square, dx, dy)

    def moved(self, boxes: Boxes) -> Boxes:
        """Where boxes (N, 4) go, upright as they are."""
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        centres = centres @ self._turn.T + self._shift
        halves = halves * np.hypot(*self._turn[:, 0])
        return np.concatenate([centres - halves, centres + halves], axis=1)


class Reduced:
    """A frame's grey picture HxW, reduced, and what comparing it with others needs."""

    def __init__(self, luma: Luma) -> None:
        step = max(1, -(-max(luma.shape) // _WIDEST))
        height, width = (side // step for side in luma.shape)
        rows = luma[: height * step, : width * step].reshape(height, step, -1)
        summed = rows[:, 0].astype(np.uint16)
        for line in range(1, step):
            summed += rows[:, line]
        total = summed[:, ::step].astype(np.float32)
        for column in range(1, step):
            total += summed[:, column::step]
        self.pixels: npt.NDArray[np.float32] = total / np.float32(step * step)
        self.step = step
        self._spectra: npt.NDArray[np.complex64] | None = None

    def motion_to(self, other: "Reduced") -> Motion:
        """How the picture moves from this frame to another one of the same size."""
        (first, seen), (second, _) = self._windows(), other._windows()
        cross = second * first.conj()
        peaks = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(self._side, self._side))
        moves = np.array([_peak(one) for one in peaks[seen]]).reshape(-1, 2)
        return _agreed(self._centres[seen], moves, self.step)

    def _windows(self) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.bool_]]:
        if self._spectra is None:
            height, width = self.pixels.shape
            self._side = min(_WINDOW, height, width)
            corners = np.array([(x, y) for y in _starts(height, self._side) for x in _starts(width, self._side)])
            cut = np.stack([self.pixels[y : y + self._side, x : x + self._side] for x, y in corners])
            cut = cut - cut.mean(axis=(1, 2), keepdims=True)
            self._seen = np.asarray(cut.std(axis=(1, 2)) >= _FLAT)
            self._centres = corners + (self._side - 1) / 2
            fade = np.hanning(self._side + 2)[1:-1].astype(np.float32)
            self._spectra = np.asarray(np.fft.rfft2(cut * (fade[:, None] * fade)), np.complex64)
        return self._spectra, self._seen


def _starts(length: int, side: int) -> list[int]:
    """Where squares begin that cover a length."""
    return [round(place) for place in np.linspace(0, length - side, -(-length // side))]


def _peak(peaks: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The highest place, to a part of a pixel: x, y from the corner, either way."""
    side = len(peaks)
    y, x = divmod(int(peaks.argmax()), side)
    place = []
    for at, line in ((x, peaks[y]), (y, peaks[:, x])):
        before, top, after = line[at - 1], line[at], line[(at + 1) % side]
        bent = before - 2 * top + after
        between = float((before - after) / (2 * bent)) if bent < 0 else 0.0
        place.append((at + side // 2) % side - side // 2 + between)
    return place[0], place[1]


def _agreed(places: Array, moves: Array, step: int) -> Motion:
    """The motion that most squares share. places, moves: (N, 2) in reduced pixels."""
    if not len(moves):
        return Motion.none()
    middle = places.mean(axis=0)
    around = places - middle
    guesses = _guesses(around, moves)
    off = _off(guesses, around, moves)
    best = int((off <= _NEAR).sum(axis=1).argmax())
    agreeing = off[best] <= _NEAR
    a, b, dx, dy = _fitted(around[agreeing], moves[agreeing]) if agreeing.sum() >= _FEW else guesses[best]
    turn = np.array([[a, -b], [b, a]])
    corner = np.full(2, (step - 1) / 2)  # the middle of the first reduced pixel
    shift = (middle - turn @ middle + np.array([dx, dy])) * step + corner - turn @ corner
    return Motion(float(a), float(b), *shift.tolist())


def _guesses(around: Array, moves: Array) -> Array:
    """Motions (M, 4), each as a, b, dx, dy, of the shift of one square or all, and of the shifts of two."""
    shifts = np.concatenate([moves, np.median(moves, axis=0)[None]])
    one, other = np.triu_indices(len(moves), 1)
    apart = around[other] - around[one]
    after = apart + moves[other] - moves[one]
    length = np.maximum((apart**2).sum(axis=1), 1e-9)
    a = (apart * after).sum(axis=1) / length
    b = (apart[:, 0] * after[:, 1] - apart[:, 1] * after[:, 0]) / length
    x, y = around[one].T
    reached = around[one] + moves[one] - np.stack([a * x - b * y, b * x + a * y], axis=1)
    turns = np.column_stack([a, b, reached])[np.abs(np.hypot(a, b) - 1) <= _MOST_ZOOM]
    return np.concatenate([np.column_stack([np.ones(len(shifts)), np.zeros(len(shifts)), shifts]), turns])


def _off(motions: Array, around: Array, moves: Array) -> Array:
    """How far (M, N) each square moves otherwise than each motion says."""
    (a, b, dx, dy), (x, y) = motions.T[:, :, None], around.T
    return np.asarray(np.hypot(a * x - b * y + dx - x - moves[:, 0], b * x + a * y + dy - y - moves[:, 1]))


def _fitted(around: Array, moves: Array) -> Array:
    """The motion a, b, dx, dy that is nearest to all moves."""
    x, y = around.T
    one, none = np.ones(len(x)), np.zeros(len(x))
    rows = np.concatenate([np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)])
    return np.asarray(np.linalg.lstsq(rows, (around + moves).T.ravel(), rcond=None)[0])
