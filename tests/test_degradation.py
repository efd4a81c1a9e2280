"""Degraded photos keep their content, colour and place, lose detail, and come out the same from the same seed."""

import numpy as np
import pytest
from PIL import Image

from tinyfaces.detection.images import read_image

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (the extra train)")

from tinyfaces.training import degradation  # noqa: E402
from tinyfaces.training.degradation import shrink  # noqa: E402


@pytest.fixture(scope="module")
def photo():
    from test_weights import EXAMPLES

    return np.asarray(Image.fromarray(read_image(EXAMPLES / "solvay_1927.jpg")).resize((400, 292)))


def test_content_and_light_stay(photo):
    plain = cv2.resize(photo, (100, 73), interpolation=cv2.INTER_AREA).astype(float)
    sharpness, errors = [], []
    for seed in range(30):
        made = shrink(photo, (100, 73), np.random.default_rng(seed))
        assert made.shape == (73, 100, 3) and made.dtype == np.uint8
        assert abs(made.astype(float).mean() - plain.mean()) < 3
        assert np.corrcoef(made.ravel(), plain.ravel())[0, 1] > 0.85
        shifted = [np.roll(plain, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        likeness = [np.corrcoef(made[2:-2, 2:-2].ravel(), one[2:-2, 2:-2].ravel())[0, 1] for one in shifted]
        assert np.argmax(likeness) == 4, "nothing moves by a pixel"
        sharpness.append(cv2.Laplacian(made.mean(2).astype(np.float32), cv2.CV_32F).std())
        errors.append(np.abs(made - plain).mean())
    assert np.ptp(sharpness) > 5, "some are blurred, some are not"
    assert len(set(np.round(errors, 3))) > 20


def test_the_seed_decides(photo):
    first, again, other = (shrink(photo, (100, 73), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_steps_do_what_they_are_called(photo):
    rng = np.random.default_rng(0)
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = degradation._noise(rng)(grey, 1.0).astype(float)
    assert 0.5 < noisy.std() < 12 and abs(noisy.mean() - 128) < 1
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    for make in (degradation._blur, degradation._shake):
        spread = make(rng)(dot, 2.0).astype(float)[..., 0]
        assert spread.max() < 130 and spread.sum() == pytest.approx(255, abs=30)
        rows, columns = np.indices(spread.shape)
        centre = ((rows * spread).sum() / spread.sum(), (columns * spread).sum() / spread.sum())
        assert np.abs(np.array(centre) - 20).max() < 0.5
    compressed = degradation._compress(rng)(photo, 1.0)
    assert 0 < np.abs(compressed.astype(float) - photo).mean() < 12
