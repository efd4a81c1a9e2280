import json

import numpy as np
import pytest

from tinyfaces.data.annotations import read_wider
from tinyfaces.detection.boxes import mirror
from tinyfaces.evaluation import wider
from tinyfaces.parsing.wider_boxes import from_wider, to_wider


def covered(box):
    """The columns of pixels whose middles lie within a box x1 y1 x2 y2 of ours."""
    return [column for column in range(20) if box[0] <= column + 0.5 <= box[2]]


def test_a_box_of_wider_face_holds_the_pixels_that_it_names():
    # x 3, w 4: from the middle of pixel 3 to the middle of pixel 7, as (w + 1) pixels are counted by the official evaluation.
    (box,) = from_wider(np.array([[3, 3, 4, 4]]))
    assert covered(box) == [3, 4, 5, 6, 7]
    (mirrored,) = mirror(box[None].astype(np.float32), 20)
    assert covered(mirrored) == [19 - column for column in reversed(covered(box))]


def test_there_and_back():
    boxes = np.random.default_rng(3).uniform(0, 50, (20, 4)).cumsum(1)
    np.testing.assert_allclose(from_wider(to_wider(boxes)), boxes)
    assert from_wider(np.zeros((0, 4))).shape == to_wider(np.zeros((0, 4))).shape == (0, 4)


@pytest.fixture
def one_box(tmp_path):
    """A photo with the box x 10, y 20, w 8, h 9 of WIDER FACE, as its own text and as COCO."""
    from PIL import Image

    (tmp_path / "e").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "e/a.jpg")
    (tmp_path / "wider_face_train_bbx_gt.txt").write_text("e/a.jpg\n1\n10 20 8 9 0 0 0 0 0 0\n")
    content = {
        "images": [{"id": 1, "file_name": "e/a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 8, 9]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path


def test_what_is_read_scores_as_what_the_protocol_has(one_box):
    (image,) = read_wider(one_box / "wider_face_train_bbx_gt.txt", one_box)
    np.testing.assert_array_equal(wider.prediction_rows(image.boxes, [0.5]), [[10, 20, 8, 9, 0.5]])


@pytest.mark.parametrize(("places", "left"), [(True, 10.5), (False, 10.0)])
def test_a_source_of_wider_faces_own_boxes(one_box, places, left):
    pytest.importorskip("torch")
    from tinyfaces.training.settings import Source, read_sources

    images, _ = read_sources([Source(annotations=str(one_box / "a.json"), images=str(one_box), places_of_wider=places)])
    assert images[0].boxes.tolist() == [[left, left + 10, left + 8, left + 19]]


def test_a_pack_moves_them_before_it_reduces_the_photo(one_box):
    pytest.importorskip("torch")
    import gzip

    from tinyfaces.training.packs import PackSource, chosen_photos, pack_photo

    packed = one_box / "a.json.gz"
    packed.write_bytes(gzip.compress((one_box / "a.json").read_bytes()))
    source = PackSource(annotations=str(packed), images=str(one_box), side=32, places_of_wider=True)
    (photo,) = chosen_photos(source)
    assert pack_photo(photo).boxes[0]["bbox"] == [5.25, 10.25, 4, 4.5]
