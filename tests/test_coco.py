"""Average precision by face height against pycocotools and against cases worked out by hand."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest

from tinyfaces.data.annotations import AnnotatedImage
from tinyfaces.evaluation.coco import BANDS, COCO_OVERLAPS, score


def _image(boxes, ignore=None):
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    flags = np.zeros(len(boxes), dtype=bool) if ignore is None else np.asarray(ignore, dtype=bool)
    return AnnotatedImage(Path("x.jpg"), 640, 480, boxes, flags, np.ones(len(boxes), dtype=np.float32))


def _detections(boxes, scores):
    return np.asarray(boxes, dtype=np.float32).reshape(-1, 4), np.asarray(scores, dtype=np.float32)


def _random_case(seed):
    """Boxes on a half-pixel grid, so that equal overlaps and overlaps of exactly 0.5 occur, with ties in the scores."""
    rng = np.random.default_rng(seed)
    images, detections = [], []
    for _ in range(int(rng.integers(1, 9))):
        faces = int(rng.integers(0, 25))
        corner = rng.integers(0, 60, (faces, 2))
        size = rng.choice([5, 8, 10, 11, 16, 17, 30, 96, 120], (faces, 1)) * rng.choice([1, 1, 0.5], (faces, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        count = int(rng.integers(0, 60))
        if faces:
            found = boxes[rng.integers(0, faces, count)] + rng.integers(-3, 4, (count, 4)) / 2
        else:
            found = np.tile([3.0, 3, 13, 13], (count, 1))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 0.5)
        images.append(_image(boxes, rng.random(faces) < 0.3))
        detections.append(_detections(found, rng.integers(0, 8, count) / 8 if seed % 2 else rng.random(count)))
    return detections, images


def _pycocotools(detections, images, overlaps):
    """The same by pycocotools, its "area" standing for a box's height."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    entries, faces = [], []
    for number, image in enumerate(images, start=1):
        entries.append({"id": number, "width": image.width, "height": image.height})
        for (x1, y1, x2, y2), ignore in zip(image.boxes.tolist(), image.ignore.tolist(), strict=True):
            faces.append(
                {
                    "id": len(faces) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": y2 - y1,
                    "iscrowd": int(ignore),
                }
            )
    found = [
        {
            "image_id": number,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": value,
            "id": 0,
        }
        for number, (boxes, scores) in enumerate(detections, start=1)
        for (x1, y1, x2, y2), value in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {"images": entries, "annotations": faces, "categories": [{"id": 1, "name": "face"}]}
        truth.createIndex()
        if found:
            result = truth.loadRes(found)
            for entry in result.dataset["annotations"]:
                entry["area"] = entry["bbox"][3]
        else:
            result = coco.COCO()
            result.dataset = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "face"}]}
            result.createIndex()
        evaluation = cocoeval.COCOeval(truth, result, "bbox")
        evaluation.params.iouThrs = np.asarray(overlaps)
        evaluation.params.maxDets = [10**6]
        evaluation.params.areaRng = [
            [math.nextafter(above, math.inf) if math.isfinite(above) else -1e9, min(up_to, 1e9)]
            for above, up_to in BANDS.values()
        ]
        evaluation.params.areaRngLbl = list(BANDS)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, :, 0]
    recall = evaluation.eval["recall"][:, 0, :, 0]
    return {name: (precision[:, :, number].mean(), recall[:, number].mean()) for number, name in enumerate(BANDS)}


@pytest.mark.parametrize("overlaps", [(0.5,), COCO_OVERLAPS])
def test_random_cases_agree_with_pycocotools(overlaps):
    compared = 0
    for seed in range(40):
        detections, images = _random_case(seed)
        expected = _pycocotools(detections, images, overlaps)
        for name, result in score(detections, images, overlaps=overlaps).items():
            ap, recall = expected[name]
            if result.faces == 0:
                assert math.isnan(result.ap) and math.isnan(result.recall)
                assert ap == -1
            else:
                assert result.ap == pytest.approx(ap, abs=1e-9), (seed, name)
                assert result.recall == pytest.approx(recall, abs=1e-9), (seed, name)
                compared += 0 < ap < 1
    assert compared > 60


def test_of_equal_overlaps_the_last_face_is_taken_as_by_pycocotools():
    images = [_image([[0, 0, 10, 10], [2, 0, 12, 10]])]
    detections = [_detections([[1, 0, 11, 10], [5, 0, 15, 10]], [0.9, 0.8])]
    result = score(detections, images)["all"]
    assert (result.ap, result.recall) == pytest.approx((51 / 101, 0.5))
    assert (result.ap, result.recall) == pytest.approx(_pycocotools(detections, images, (0.5,))["all"])


def test_one_of_two_faces_found_after_a_false_positive():
    images = [_image([[0, 0, 20, 20], [100, 100, 120, 120]])]
    detections = [_detections([[0, 0, 20, 20], [50, 50, 70, 70]], [0.4, 0.8])]
    result = score(detections, images)["all"]
    assert result.ap == pytest.approx(51 / 101 * 0.5)
    assert (result.recall, result.faces) == (0.5, 2)


def test_second_detection_of_a_face_is_false():
    images = [_image([[0, 0, 20, 20]]), _image([[0, 0, 20, 20]])]
    detections = [_detections([[0, 0, 20, 20], [1, 0, 20, 20]], [0.9, 0.8]), _detections([[0, 0, 20, 20]], [0.1])]
    assert score(detections, images)["all"].ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_ignored_box_excuses_all_detections_inside_it_and_is_no_miss():
    images = [_image([[0, 0, 20, 20], [100, 0, 400, 300]], [False, True])]
    inside = [[120, 20, 140, 40], [200, 100, 230, 130], [310, 200, 330, 220]]
    detections = [_detections([[0, 0, 20, 20], *inside], [0.1, 0.9, 0.8, 0.7])]
    assert score(detections, images)["all"].ap == 1
    half_out = [_detections([[0, 0, 20, 20], [85, 20, 105, 40]], [0.1, 0.9])]
    assert score(half_out, images)["all"].ap == 0.5


def test_faces_of_other_bands_are_neither_misses_nor_false():
    images = [_image([[0, 0, 8, 8], [50, 50, 80, 80], [200, 200, 300, 350]])]
    detections = [_detections([[0, 0, 8, 8], [50, 50, 80, 80], [400, 400, 440, 440]], [0.1, 0.9, 0.95])]
    results = score(detections, images)
    assert (results["<=10"].ap, results["<=10"].faces) == (1, 1)
    assert math.isnan(results["10-16"].ap)
    assert results["16-32"].ap == 1
    assert (results[">96"].ap, results[">96"].recall, results[">96"].faces) == (0, 0, 1)


@pytest.mark.parametrize(("height", "band"), [(10, "<=10"), (10.1, "10-16"), (16, "10-16"), (32, "16-32"), (96, "32-96")])
def test_height_on_a_limit_belongs_below_it_wherever_the_box_is(height, band):
    for top in np.arange(0, 900, 33.3):
        results = score([_detections([], [])], [_image([[5, top, 15, top + height]])])
        assert [name for name, result in results.items() if result.faces] == ["all", band]


def test_own_bands():
    images = [_image([[0, 0, 8, 8], [50, 50, 80, 80]])]
    results = score([_detections([[0, 0, 8, 8]], [0.5])], images, bands={"<=16": (0, 16), ">16": (16, math.inf)})
    assert {name: (result.ap, result.faces) for name, result in results.items()} == {"<=16": (1, 1), ">16": (0, 1)}


def test_nothing_at_all():
    results = score([], [])
    assert set(results) == set(BANDS)
    assert all(result.faces == 0 and math.isnan(result.ap) for result in results.values())
    assert score([_detections([], [])], [_image([[0, 0, 9, 9]])])["all"].ap == 0


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="detections of 0 images were given for 1"):
        score([], [_image([])])
    with pytest.raises(ValueError, match="image 0 has 1 detected boxes and 2 scores"):
        score([_detections([[0, 0, 5, 5]], [0.5, 0.4])], [_image([])])
