"""The result type."""

import copy
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from tinyfaces import Faces


def _faces():
    return Faces(np.array([[10, 10, 20, 30], [0, 0, 5, 6], [40.5, 8, 60.5, 16]]), np.array([0.875, 0.5, 0.25]))


def test_selection():
    faces = _faces()
    assert len(faces) == 3 and faces.boxes.dtype == np.float32
    assert faces.heights.tolist() == [20, 6, 8] and faces.widths.tolist() == [10, 5, 20]
    assert faces[1].scores.tolist() == [0.5]
    assert faces[-1].scores.tolist() == [0.25]
    assert faces[:2].scores.tolist() == faces[[0, 1]].scores.tolist() == faces[np.array([1, 1, 0], bool)].scores.tolist()
    assert faces.above(0.5).scores.tolist() == [0.875, 0.5]
    assert faces.larger_than(6).heights.tolist() == [20, 8] and faces.smaller_than(8).heights.tolist() == [6]
    assert [len(one) for one in faces] == [1, 1, 1]
    assert len(faces[[]]) == 0 and Faces.empty().boxes.shape == (0, 4)
    with pytest.raises(IndexError):
        faces[3]


def test_it_is_a_plain_value():
    faces = _faces()
    assert faces == _faces() and faces == copy.deepcopy(faces) == copy.copy(faces) == pickle.loads(pickle.dumps(faces))
    assert faces != faces[:2] and faces != faces[[1, 0, 2]] and faces != Faces(faces.boxes + 1, faces.scores)
    assert faces != Faces(faces.boxes, faces.scores / 2) and faces != faces.boxes.tolist()
    assert Faces.empty() == faces[[]]
    with pytest.raises(TypeError, match="unhashable"):
        hash(faces)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Faces(np.zeros((2, 5)), np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        Faces(np.zeros((2, 4)), np.zeros(3))


def test_to_dict_is_plain():
    assert _faces().to_dict()["boxes"][2] == [40.5, 8.0, 60.5, 16.0]
    assert _faces().to_dict()["scores"] == [0.875, 0.5, 0.25]


def test_supervision():
    supervision = pytest.importorskip("supervision")
    detections = _faces().to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == _faces().boxes.tolist()
    assert detections.confidence.tolist() == [0.875, 0.5, 0.25]


def test_drawing_frames_the_face_and_leaves_the_image():
    image = np.zeros((40, 70, 3), np.uint8)
    drawn = np.asarray(_faces().draw(image, colour=(255, 0, 0)))
    assert drawn[9, 15].tolist() == [255, 0, 0] and drawn[30, 15].tolist() == [255, 0, 0]
    assert drawn[20, 15].tolist() == [0, 0, 0]
    assert image.max() == 0
    assert isinstance(_faces().draw(image, scores=True), Image.Image)


@pytest.mark.parametrize("colour,outline", [((0, 255, 0), 0), ("white", 0), ("navy", 255)])
def test_scores_stand_out_on_any_ground(colour, outline):
    ground = np.full((80, 80, 3), 120, np.uint8)
    faces = Faces(np.array([[20, 40, 40, 60]]), np.array([0.88]))
    words = np.asarray(faces.draw(ground, scores=True, colour=colour))[10:38].astype(int)
    assert (np.abs(words - outline).max(axis=2) < 80).sum() > 40  # beside letters in `colour`


def test_the_line_follows_the_face_and_not_the_image():
    faces = Faces(np.array([[100, 100, 110, 110], [300, 100, 620, 420]]), np.array([0.9, 0.9]))
    for side in (700, 5000):
        drawn = np.asarray(faces.draw(np.zeros((side, side, 3), np.uint8), colour=(255, 0, 0)))[..., 0]
        assert (drawn[105, 80:100] > 0).sum() == 1
        assert (drawn[200, 280:300] > 0).sum() == 320 // 40


def test_a_short_text_and_a_sketch_for_notebooks():
    assert repr(_faces()) == "Faces(3 faces, 6 to 20 px high, score 0.25 to 0.88)"
    assert repr(_faces()[0]) == "Faces(1 face, 20 px high, score 0.88)" and repr(Faces.empty()) == "Faces(no faces)"
    sketch = Image.open(io.BytesIO(_faces()._repr_png_())).convert("RGB")
    empty = sketch.getpixel((35, 25))
    assert all(sketch.getpixel(place) != empty for place in ((10, 20), (20, 20), (15, 10), (15, 30)))
    wide = Faces(np.array([[0, 0, 9, 9], [8000, 3000, 8010, 3012]]), np.array([0.9, 0.9]))
    assert Image.open(io.BytesIO(wide._repr_png_())).width < 700
    assert Image.open(io.BytesIO(Faces.empty()._repr_png_())).format == "PNG"
