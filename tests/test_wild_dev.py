"""`wild_dev`: photos are scored in bands of face height by the official protocol."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.evaluation import wider
from tinyfaces.evaluation.wild_dev import (
    BANDS,
    average_precision,
    average_precision_of_parts,
    ground_truth,
    read_part,
    wholly_marked,
)


def photo(name: str, boxes: list[tuple[float, float, float, float]], ignore: list[bool]) -> AnnotatedImage:
    """Boxes are x y w h."""
    xywh = np.array(boxes, np.float32).reshape(-1, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    return AnnotatedImage(Path(name), 400, 400, corners, np.array(ignore, bool), np.ones(len(xywh), np.float32))


def rows(*found: tuple[float, float, float, float, float]) -> np.ndarray:
    return np.array(found, np.float64).reshape(-1, 5)


SMALL, LARGE, DOUBTFUL = (10, 10, 8, 9), (100, 100, 60, 70), (300, 300, 20, 20)


def test_a_box_is_in_the_bands_of_its_height_and_a_doubtful_one_in_none():
    keep = ground_truth([photo("a", [SMALL, LARGE, DOUBTFUL], [False, False, True])]).keep
    bands = {band: masks[0].tolist() for band, masks in keep.items()}
    assert list(bands) == list(BANDS)
    for band in ("<=10", "tiny"):
        assert bands[band] == [True, False, False]
    for band in (">32", "easy", "medium", "hard"):
        assert bands[band] == [False, True, False]
    assert bands["all"] == [True, True, False]
    assert bands["16-32"] == bands["10-16"] == [False, False, False]


def test_each_band_is_charged_with_false_detections_of_any_size_and_no_doubtful_ones():
    image = photo("a", [SMALL, LARGE, DOUBTFUL], [False, False, True])
    right = rows((*SMALL, 0.9), (*LARGE, 0.8), (*DOUBTFUL, 0.95))
    figures = average_precision({"a": right}, [image])
    assert figures["<=10"] == figures["easy"] == figures["all"] == pytest.approx(1.0)
    false = np.concatenate([right, rows((200, 10, 8, 9, 0.85))])
    figures = average_precision({"a": false}, [image])
    assert figures["<=10"] == pytest.approx(1.0), "the false one has a lower score than the small face"
    assert figures["easy"] == pytest.approx(0.5), "it has a higher score than the large face"


def test_parts_are_scored_each_and_together():
    images = {"one": [photo("a", [LARGE], [False])], "two": [photo("b", [LARGE], [False])]}
    found = {"a": rows((*LARGE, 0.9)), "b": rows((0, 0, 9, 9, 0.8))}
    figures = average_precision_of_parts(found, images)
    assert figures["one"]["easy"] == pytest.approx(1.0) and figures["two"]["easy"] == 0.0
    both = wider.score(found, ground_truth([*images["one"], *images["two"]]))
    assert figures["together"]["easy"] == both["easy"].ap == pytest.approx(0.5)


def test_a_part_is_read_with_its_photos(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30, "hard_negatives": [[1, 2, 3, 4, 0.6]]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 7, 8]}],
        "categories": [{"id": 1, "name": "face"}],
    }
    (tmp_path / "annotations/wider_mixed_dev.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    (image,) = read_part("wider_mixed", tmp_path, tmp_path / "photos")
    assert image.boxes.tolist() == [[5.5, 6.5, 12.5, 14.5]] and image.hard_negatives.tolist() == [[1, 2, 4, 6]]


def test_all_faces_are_marked_in_the_photos_of_wider_face():
    images = [photo(f"{part}/a.jpg", [SMALL], [False]) for part in ("wider_mixed", "masks_street", "wider_more", "no_people")]
    assert wholly_marked(images) == [0, 2]
