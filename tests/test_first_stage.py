"""The first stage on large images, with a network whose answers are known: each face stands once, and whole."""

import numpy as np
import pytest

from conftest import corners, found, paint
from tinyfaces import Detector, Faces
from tinyfaces.detection.boxes import tiles
from tinyfaces.detection.first_stage import FRAME_PIXELS, TILE_OVERLAP, TILE_SIDE, FirstStage
from tinyfaces.detection.merging import merge

WIDTH, HEIGHT = 2600, 1900
BORDER = min(int(x) for x in tiles(WIDTH, HEIGHT, TILE_SIDE, TILE_OVERLAP)[:, 2])
"""Where the first tile of each row ends."""


class SquareFinder:
    """A session that finds green squares, and where only a part of one shows, takes that for the middle of a whole one."""

    def run(self, images):
        ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed (the extra evaluate)")
        outputs = [np.zeros((len(images), 5, images.shape[2] // s, images.shape[3] // s), np.float32) for s in (4, 8, 16, 32)]
        for output in outputs:
            output[:, 0] = -50
        for number, image in enumerate(images):
            labels, _ = ndimage.label(image[1] > 127)
            for rows, columns in ndimage.find_objects(labels):
                side = max(rows.stop - rows.start, columns.stop - columns.start)
                y, x = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
                row, column = int(y // 4), int(x // 4)
                offsets = (x - 4 * column - 2) / 4, (y - 4 * row - 2) / 4
                outputs[0][number, :, row, column] = 5, *offsets, np.log(side / 4), np.log(side / 4)
        return outputs


def find(squares):
    """The faces of an image with green squares, given as x1 y1 x2 y2."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x1, y1, x2, y2 in squares:
        image[y1:y2, x1:x2, 1] = 255
    return FirstStage(SquareFinder()).propose([image], 0.5, 1.0)[0]


def test_faces_cut_by_a_tile_are_taken_from_the_tile_that_shows_them_whole():
    squares = {(BORDER - 10, 300, BORDER + 20, 330), (BORDER - 20, 900, BORDER + 10, 930), (BORDER - 15, 60, BORDER + 15, 90)}
    assert found(find(squares)) == squares


def test_faces_at_the_image_border_are_not_cut():
    squares = {(0, 0, 30, 30), (WIDTH - 30, 200, WIDTH, 230), (700, HEIGHT - 30, 730, HEIGHT)}
    assert found(find(squares)) == squares


def test_small_faces_are_not_taken_from_the_reduced_frame():
    # Reduced to 2 megapixels, neighbours 1 px apart melt into one, and edges fall between pixels.
    squares = {(400, 400, 420, 420), (421, 400, 441, 420), (1003, 1205, 1026, 1228), (2001, 801, 2020, 820)}
    faces = find(squares)
    assert found(faces) == squares
    np.testing.assert_allclose(faces.boxes, faces.boxes.round(), atol=0.01)


def test_faces_larger_than_the_overlap_come_from_the_reduced_frame():
    side, left, top = 400, BORDER - 250, 600
    faces = find([(left, top, left + side, top + side)])
    assert len(faces) == 1 and np.abs(faces.boxes[0] - [left, top, left + side, top + side]).max() < 4


@pytest.fixture(scope="module")
def detector_of_large_faces(toy_model, tmp_path_factory):
    """Takes a green square of 32 px for the middle of a face of 128 px."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(toy_model)
    constant = next(constant for constant in model.graph.initializer if constant.name == "b32")
    constant.CopyFrom(numpy_helper.from_array(np.array([-20.5, 0, 0, np.log(4), np.log(4)], np.float32), "b32"))
    path = tmp_path_factory.mktemp("large") / "toy.onnx"
    onnx.save(model, path)
    return Detector(path, threshold=0.5)


def test_a_fragment_near_a_tiles_border_goes(detector_of_large_faces):
    """A face of some 300 px, which no tile shows whole; in one, its middle looks like a smaller face."""
    height, width = 3072, 4096
    factor = (FRAME_PIXELS / (height * width)) ** 0.5
    ends = {int(x) for x in tiles(width, height, TILE_SIDE, TILE_OVERLAP)[:, 2]} - {width}
    middles = {cell: (32 * cell + 16) / factor for cell in range(8, 44)}
    cell = next(cell for cell, x in middles.items() if any(95 < end - x < 125 for end in ends))
    left, top, side = round(32 * cell / factor), round(32 * 6 / factor), round(32 / factor)
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side, 1] = 255
    faces = detector_of_large_faces.detect(image)
    middle, half = np.array([left, top] * 2) + side / 2, np.array([-1, -1, 1, 1]) * 64 / factor
    assert len(faces) == 1 and np.abs(faces.boxes[0] - (middle + half)).max() < 8


def test_only_what_lies_within_a_larger_face_that_reaches_beyond_the_region_is_a_fragment():
    regions = [np.array([0, 0, 400, 400], np.float64), np.array([0, 0, 200, 400], np.float64)]
    host = [100, 100, 300, 300]
    for box, score, kept in (
        ([110, 120, 190, 200], 0.9, False),  # within it
        ([60, 120, 140, 200], 0.9, True),  # half within it
        ([110, 120, 140, 150], 0.9, True),  # too small for a part of it: a face in front
        ([20, 20, 90, 90], 0.9, True),  # elsewhere
    ):
        parts = [
            Faces(np.array([host], np.float32), np.array([0.6], np.float32)),
            Faces(np.array([box], np.float32), np.array([score], np.float32)),
        ]
        assert len(merge(parts, regions, 400, 400)) == 1 + kept, box
    inside = [np.array([0, 0, 400, 400], np.float64), np.array([0, 0, 350, 400], np.float64)]
    parts[1] = Faces(np.array([[110, 120, 190, 200]], np.float32), np.array([0.9], np.float32))
    assert len(merge(parts, inside, 400, 400)) == 2, "the region shows the larger face whole, and the smaller one beside it"
    parts[0] = Faces(parts[0].boxes, np.array([0.3], np.float32))
    assert len(merge(parts, regions, 400, 400)) == 2, "the larger one is much less sure"


def test_a_smaller_face_of_the_toy_model_beside_a_border_stays(toy_model):
    small = [(BORDER - 16, 320), (BORDER + 8, 640)]
    assert found(Detector(toy_model, threshold=0.5).detect(paint(HEIGHT, WIDTH, small))) == corners(small)
