"""Annotation readers against files written here by hand."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces.data.annotations import (
    AnnotatedImage,
    AnnotationError,
    dismiss_doubtful,
    image_size,
    read_coco,
    read_wider,
    read_wider_txt,
)
from tinyfaces.detection.images import read_image

COCO = {
    "images": [
        {"id": 7, "file_name": "set/b.png", "width": 40, "height": 30},
        {"id": 3, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 9, "file_name": "empty.png", "width": 5, "height": 5},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "bbox": [1, 2, 3.5, 4]},
        {"id": 2, "image_id": 7, "bbox": [0, 0, 10, 12], "score": 0.25, "ignore": 1},
        {"id": 3, "image_id": 3, "bbox": [5, 5, 2, 2], "iscrowd": 1, "ignore": 0},
        {"id": 4, "image_id": 7, "bbox": [4, 4, 0, 6]},
        {"id": 5, "image_id": 3, "bbox": [6, 1, 1, 2], "score": 0.5},
    ],
}

WIDER_TXT = """0--Parade/first.jpg
2
10 20 30 40 0 0 0 0 0 0
1 2 3 4 2 0 0 1 2 0
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/last.jpg
3
5 6 0 8 0 0 0 0 0 0
5 6 7 8 0 0 0 0 0 0
9 9 9 -1 0 0 0 0 0 0
"""


def _write_coco(folder, content):
    for entry in COCO["images"]:
        path = folder / "images" / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    path = folder / "faces.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path, folder / "images"


def _changed(**changes):
    content = json.loads(json.dumps(COCO))
    for place, value in changes.items():
        group, field = place.split("__")
        content[group][0][field] = value
    return content


def _write_wider_images(folder, records):
    for name, size in records.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)


def _write_wider_mat(path, events):
    savemat = pytest.importorskip("scipy.io").savemat

    def cell(items):
        array = np.empty((len(items), 1), dtype=object)
        for number, item in enumerate(items):
            array[number, 0] = item
        return array

    savemat(
        path,
        {
            "event_list": cell(list(events)),
            "file_list": cell([cell(list(images)) for images in events.values()]),
            "face_bbx_list": cell([cell([boxes for boxes, _ in images.values()]) for images in events.values()]),
            "invalid_label_list": cell([cell([flags for _, flags in images.values()]) for images in events.values()]),
        },
    )


@pytest.mark.parametrize("packed", [False, True])
def test_coco_is_read_in_file_order(tmp_path, packed):
    path, images = _write_coco(tmp_path, COCO)
    if packed:
        raw = path.read_bytes()
        path = tmp_path / "faces.json.gz"
        path.write_bytes(gzip.compress(raw))
    second, first, empty = read_coco(path, images)

    assert (second.path, second.width, second.height) == (images / "set/b.png", 40, 30)
    np.testing.assert_array_equal(second.boxes, [[0, 0, 10, 12], [4, 4, 4, 10]])
    assert second.ignore.tolist() == [True, True]
    assert second.scores.tolist() == [0.25, 1]

    np.testing.assert_array_equal(first.boxes, [[1, 2, 4.5, 6], [5, 5, 7, 7], [6, 1, 7, 3]])
    assert first.ignore.tolist() == [False, True, False]
    assert first.scores.tolist() == [1, 1, 0.5]

    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    for image in (second, first, empty):
        assert (image.boxes.dtype, image.ignore.dtype, image.scores.dtype) == (np.float32, bool, np.float32)


def test_coco_of_several_categories_gives_the_faces_alone(tmp_path):
    content = json.loads(json.dumps(COCO))
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "Face"}]
    for entry in content["annotations"]:
        entry["category_id"] = 2 if entry["id"] == 5 else 1
    read = read_coco(*_write_coco(tmp_path, content))
    assert [len(image) for image in read] == [0, 1, 0]
    np.testing.assert_array_equal(read[1].boxes, [[6, 1, 7, 3]])

    content["categories"][1]["name"] = "car"
    with pytest.raises(AnnotationError, match="none of them named 'face'"):
        read_coco(*_write_coco(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ("[]", "no object at its top"),
        ('{"images": []}', "no list of objects 'annotations'"),
        ('{"images": {}, "annotations": []}', "no list of objects 'images'"),
        ('{"images": [], "annotations": [3]}', "no list of objects 'annotations'"),
        (_changed(images__id=3), "two images have the id 3"),
        (_changed(images__id=[3]), "neither a number nor a text"),
        (_changed(images__width="40"), "width '40'"),
        (_changed(images__height=0), "height 0"),
        (_changed(annotations__image_id=4), "belongs to no image"),
        (_changed(annotations__image_id=[3]), "belongs to no image"),
        (_changed(annotations__bbox=[1, 2, 3]), "annotation 1 has no 'bbox' of 4 numbers"),
        (_changed(annotations__bbox=[1, 2, 3, "x"]), "annotation 1 has no 'bbox' of 4 numbers"),
        (_changed(annotations__bbox=[1, 2, 3, float("nan")]), "not finite"),
        (_changed(annotations__score="high"), "'score' is not a number"),
        (_changed(annotations__ignore="x"), "'ignore' is not a number"),
        ("[" * 100_000, "not valid JSON"),
        (_changed(images__width=float("inf")), "width inf"),
        (_changed(images__width=float("nan")), "width nan"),
        (_changed(annotations__bbox=[1, 2, 3, 10**400]), "no 'bbox' of 4 numbers"),
        (_changed(annotations__score=10**400), "'score' is not a number"),
        (_changed(images__hard_negatives=[[1, 2, 3, 10**400]]), "hard_negatives that are not"),
    ],
)
def test_malformed_coco_is_refused_in_a_line_that_names_the_file(tmp_path, content, complaint):
    path, images = _write_coco(tmp_path, content)
    with pytest.raises(AnnotationError) as caught:
        read_coco(path, images)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["id", "file_name"])
def test_coco_image_without_a_field_is_refused(tmp_path, field):
    content = json.loads(json.dumps(COCO))
    del content["images"][1][field]
    with pytest.raises(AnnotationError, match=f"faces.json: an image has no '{field}'"):
        read_coco(*_write_coco(tmp_path, content))


def test_damaged_gzip_missing_file_and_missing_image_are_named(tmp_path):
    path, images = _write_coco(tmp_path, COCO)
    packed = tmp_path / "cut.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(AnnotationError, match=r"cut\.json\.gz: cannot be read"):
        read_coco(packed, images)
    with pytest.raises(AnnotationError, match=r"nowhere\.json: cannot be read"):
        read_coco(tmp_path / "nowhere.json", images)
    (images / "a.png").unlink()
    with pytest.raises(AnnotationError, match=r"a\.png: no such image \(listed in .*faces\.json\)"):
        read_coco(path, images)


@pytest.mark.parametrize("layout", ["", "images", "WIDER_train/images"])
def test_wider_txt_with_images_in_each_known_layout(tmp_path, layout):
    split = tmp_path / "wider_face_split"
    split.mkdir()
    (split / "wider_face_train_bbx_gt.txt").write_text(WIDER_TXT)
    root = tmp_path / "data"
    sizes = {"0--Parade/first.jpg": (64, 48), "0--Parade/none.jpg": (30, 20), "1--Handshaking/last.jpg": (16, 32)}
    _write_wider_images(root / layout, sizes)

    read = read_wider(split, root)
    assert [image.path for image in read] == [root / layout / name for name in sizes]
    assert [(image.width, image.height) for image in read] == list(sizes.values())
    np.testing.assert_array_equal(read[0].boxes, [[10, 20, 40, 60], [1, 2, 4, 6]])
    assert read[0].ignore.tolist() == [False, True]
    assert read[1].boxes.shape == (0, 4)
    assert read[2].ignore.tolist() == [True, False, True]
    assert read[2].scores.tolist() == [1, 1, 1]


def test_wider_mat_says_the_same_as_txt(tmp_path):
    sizes = {"0--Parade/first.jpg": (64, 48), "0--Parade/none.jpg": (30, 20), "1--Handshaking/last.jpg": (16, 32)}
    _write_wider_images(tmp_path / "images", sizes)
    (tmp_path / "faces.txt").write_text(WIDER_TXT)
    _write_wider_mat(
        tmp_path / "wider_face_val.mat",
        {
            "0--Parade": {
                "first": (np.array([[10, 20, 30, 40], [1, 2, 3, 4]], dtype=np.uint16), np.array([[0], [1]])),
                "none": (np.zeros((0, 4)), np.zeros((0, 1))),
            },
            "1--Handshaking": {"last": (np.array([[5, 6, 0, 8], [5, 6, 7, 8], [9, 9, 9, -1]]), np.zeros((3, 1), dtype=np.uint8))},
        },
    )
    from_txt = read_wider(tmp_path / "faces.txt", tmp_path)
    from_mat = read_wider(tmp_path, tmp_path, "val")
    assert len(from_mat) == len(from_txt) == 3
    for one, other in zip(from_mat, from_txt, strict=True):
        assert (one.path, one.width, one.height) == (other.path, other.width, other.height)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.ignore, other.ignore)


def test_wider_txt_without_the_line_of_zeros_and_with_four_columns(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("a/x.jpg\n0\nb/0 0.jpg\n1\n0 0 5 6\n\n")
    empty, full = read_wider_txt(path)
    assert (empty.event, empty.name, len(empty.boxes)) == ("a", "x", 0)
    assert (full.event, full.name, full.boxes.tolist(), full.invalid.tolist()) == ("b", "0 0", [[0, 0, 5, 6]], [False])


def test_size_of_a_rotated_photo_is_that_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "e").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "e/x.jpg", exif=exif)
    (tmp_path / "own.txt").write_text("e/x.jpg\n1\n1 1 5 5\n")
    (image,) = read_wider(tmp_path / "own.txt", tmp_path)
    assert (image.width, image.height) == (40, 60)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "lists no images"),
        ("3\n", "line 1: expected <event>/<image>"),
        ("e/x.jpg\n", "line 1: no number of faces"),
        ("e/x.jpg\nmany\n", "line 1: no number of faces"),
        ("e/x.jpg\n-1\n", "line 1: no number of faces"),
        (f"e/x.jpg\n{'1' * 5000}\n", "line 1: no number of faces"),
        ("e/x.jpg\n2\n1 1 5 5\n", "ends before the 2 faces"),
        ("e/x.jpg\n1\n1 1 five 5\n", "line 3: expected a face's"),
        ("e/x.jpg\n1\n1 1 5\n", "line 3: expected a face's"),
        ("e/x.jpg\n1\n1 1 nan 5\n", "line 3: expected a face's"),
        ("e/x.jpg\n1\n1 1 5 5\n2 2 5 5\n", "line 4: expected <event>/<image>"),
    ],
)
def test_malformed_wider_txt_is_refused(tmp_path, text, complaint):
    _write_wider_images(tmp_path, {"e/x.jpg": (10, 10)})
    path = tmp_path / "faces.txt"
    path.write_text(text)
    with pytest.raises(AnnotationError) as caught:
        read_wider(path, tmp_path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_wider_places_and_images_that_are_not_there(tmp_path):
    (tmp_path / "faces.txt").write_text("e/x.jpg\n1\n1 1 5 5\n")
    with pytest.raises(AnnotationError, match=r"gone: no such file or folder"):
        read_wider(tmp_path / "gone", tmp_path)
    with pytest.raises(AnnotationError, match=r"holds neither wider_face_val_bbx_gt\.txt nor wider_face_val\.mat"):
        read_wider(tmp_path, tmp_path, "val")
    with pytest.raises(AnnotationError, match="holds no folder 'e'"):
        read_wider(tmp_path / "faces.txt", tmp_path)
    (tmp_path / "e").mkdir()
    with pytest.raises(AnnotationError, match=r"x\.jpg: no such image"):
        read_wider(tmp_path / "faces.txt", tmp_path)
    (tmp_path / "e/x.jpg").write_bytes(b"not a photo")
    with pytest.raises(AnnotationError, match=r"x\.jpg: cannot be read as an image"):
        read_wider(tmp_path / "faces.txt", tmp_path)


def test_damaged_mat_is_named(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "wider_face_val.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(AnnotationError, match=r"wider_face_val\.mat: cannot be read as a MATLAB file"):
        read_wider(path, tmp_path)
    savemat(path, {"event_list": np.zeros(3)})
    with pytest.raises(AnnotationError, match=r"wider_face_val\.mat: has no variable 'file_list'"):
        read_wider(path, tmp_path)
    names = ("event_list", "file_list", "face_bbx_list", "invalid_label_list")
    savemat(path, dict.fromkeys(names, np.zeros(3)))
    with pytest.raises(AnnotationError, match=r"wider_face_val\.mat: not a WIDER FACE ground truth file"):
        read_wider(path, tmp_path)
    _write_wider_mat(path, {"e": {"x": (np.ones((2, 4)), np.zeros((1, 1)))}})
    with pytest.raises(AnnotationError, match="x has 2 boxes and 1 flags"):
        read_wider(path, tmp_path)


def test_a_mat_that_ends_its_process_is_named(tmp_path):
    """scipy reads beyond its memory where the kind of a text is 0x7f10 in place of 0x10."""
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "wider_face_val.mat"
    names = np.empty((2, 1), object)
    names[:, 0] = ["a", "b"]
    lists = np.empty((1, 1), object)
    lists[0, 0] = names
    savemat(path, {"event_list": np.array([["event"]], object), "file_list": lists})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"\x10\0\x01\0b\0\0\0") + 1] = 0x7F
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"wider_face_val\.mat: cannot be read as a MATLAB file"):
        read_wider(path, tmp_path)


def test_mat_without_scipy_tells_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "wider_face_val.mat"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(AnnotationError, match=r"wider_face_val\.mat: .* pip install 'tinyfaces\[evaluate\]'"):
        read_wider(path, tmp_path)


def test_doubtful_boxes_are_dismissed():
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    ignore = np.array([False, True, True, True])
    image = AnnotatedImage(Path("a"), 9, 9, boxes, ignore, np.array([0.1, 0.1, 0.5, 0.4], np.float32))
    kept = dismiss_doubtful(image, 0.4)
    assert kept.boxes.tolist() == boxes[[0, 2, 3]].tolist() and kept.ignore.tolist() == [False, True, True]
    assert len(dismiss_doubtful(image, 0.0)) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ("tif", "jpg", "png", "webp"))
def test_the_size_of_a_turned_photo_is_that_of_its_pixels(tmp_path, ending, orientation):
    picture = Image.new("RGB", (40, 30))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / f"a.{ending}", exif=exif)
    height, width = read_image(tmp_path / f"a.{ending}").shape[:2]
    assert image_size(tmp_path / f"a.{ending}", tmp_path) == (width, height) == ((30, 40) if orientation > 4 else (40, 30))
