"""Candidate crops keep the aspect ratio, centre the box and never run out of the image."""

import numpy as np
import pytest

from tinyfaces.detection.crops import crop_squares, cut_crops


def test_squares_are_centred_and_as_large_as_the_longer_side_asks():
    squares = crop_squares(np.array([[10, 20, 20, 40], [0, 0, 0, 0]], np.float32), context=1.5)
    assert squares.tolist() == [[0, 15, 30, 45], [-0.75, -0.75, 0.75, 0.75]]


def test_a_crop_of_the_same_size_is_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    crop = cut_crops(image, np.array([[7.0, 9, 23, 25]]), 16)[0]
    assert (crop == image[9:25, 7:23]).all()


def test_reduced_and_enlarged_crops_show_the_same_ramp():
    ramp = np.repeat((np.arange(200)[None, :, None] + np.zeros((200, 1, 3))), 1, 0).astype(np.uint8)
    for left, side in ((40.0, 64), (40.0, 16), (51.5, 8)):
        crop = cut_crops(ramp, np.array([[left, 50, left + 32, 82]]), side)[0].astype(float)
        expected = left + (np.arange(side) + 0.5) * 32 / side - 0.5
        np.testing.assert_allclose(crop[2:-2, 2:-2], np.broadcast_to(expected[2:-2, None], (side - 4, side - 4, 3)), atol=1)


@pytest.mark.parametrize("x,y", [(-10, -10), (45, 55), (-8, 20), (30, -5), (200, 200)])
def test_beyond_the_image_its_border_goes_on(x, y):
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    padded = np.pad(image, ((300, 300), (300, 300), (0, 0)), mode="edge")
    crop = cut_crops(image, np.array([[x, y, x + 16, y + 16]], np.float64), 16)[0]
    assert (crop == padded[300 + y : 316 + y, 300 + x : 316 + x]).all()


def test_no_boxes_give_no_crops():
    assert cut_crops(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4)), 16).shape == (0, 16, 16, 3)


def test_many_crops_are_as_one_by_one():
    """Many are cut out of one copy of the image, a few piece by piece: they are the same."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3), np.uint8)
    middle, half = rng.uniform(-0.02, 1.02, (120, 2)) * [400, 300], rng.uniform(3, 40, (120, 1))
    squares = np.concatenate([middle - half, middle + half], 1)
    together = cut_crops(image, squares, 16)
    alone = np.concatenate([cut_crops(image, square[None], 16) for square in squares])
    assert (together == alone).all()
