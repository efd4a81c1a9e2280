"""The dev split: its sets, and where the boxes of WIDER FACE's photos stand."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from tinyfaces.evaluation.dev_split import drawn_by_people, read_dev_sets, read_dev_split


def test_boxes_of_wider_face_are_moved_by_half_a_pixel_and_others_stay(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("groups", "wider_train"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / name / "a.png")
        content = {
            "images": [{"id": 1, "file_name": f"{name}/a.png", "width": 40, "height": 40}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 9, 10, 12], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "face"}],
        }
        with gzip.open(tmp_path / "annotations" / f"{name}_dev.json.gz", "wt") as file:
            json.dump(content, file)
    sets = read_dev_sets(tmp_path)
    assert list(sets) == ["groups", "wider_train"]
    assert sets["groups"][0].boxes.tolist() == [[8, 9, 18, 21]]
    assert sets["wider_train"][0].boxes == pytest.approx(np.array([[8.5, 9.5, 18.5, 21.5]]))
    images = read_dev_split(tmp_path)
    found = [(image.boxes, np.ones(1, np.float32)) for image in images]
    kept, photos = drawn_by_people(found, images)
    assert [image.path.parent.name for image in photos] == ["wider_train"] and kept == [found[1]]
