"""The WIDER FACE protocol against a literal transcription of the toolbox, one step at a time."""

import itertools
import json
import math
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tinyfaces.data.annotations import AnnotationError
from tinyfaces.evaluation.wider import (
    GroundTruth,
    PredictionError,
    image_paths,
    prediction_rows,
    read_ground_truth,
    read_predictions,
    score,
    without_predictions,
)

SHARED = Path(os.environ.get("TINYFACES_SHARED", Path(__file__).parents[1].parent / "shared")) / "data/wider_eval"


def _overlap(face, detection):
    ax1, ay1, ax2, ay2 = face[0], face[1], face[0] + face[2], face[1] + face[3]
    bx1, by1, bx2, by2 = detection[0], detection[1], detection[0] + detection[2], detection[1] + detection[3]
    width = min(ax2, bx2) - max(ax1, bx1) + 1
    height = min(ay2, by2) - max(ay1, by1) + 1
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    return inside / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - inside)


def _toolbox(predictions, images, boxes, keep):
    """Average precision and the 1,000 points of the curve for one subset; `keep` lists box numbers from 1."""
    lists = [sorted(predictions.get(key, []), key=lambda row: -row[4]) for key in images]
    scores = [row[4] for rows in lists for row in rows]
    if scores:
        low, high = min(scores), max(scores)
        lists = [[[*row[:4], (row[4] - low) / (high - low) if high > low else 1.0] for row in rows] for rows in lists]

    proposals, found = [0] * 1000, [0] * 1000
    count_face = 0
    for rows, faces, keep_index in zip(lists, boxes, keep, strict=True):
        count_face += len(keep_index)
        if len(faces) == 0 or len(rows) == 0:
            continue
        wanted = [0] * len(faces)
        for number in keep_index:
            wanted[number - 1] = 1
        recall_list = [0] * len(faces)
        proposal_list = [1] * len(rows)
        matched_so_far = [0] * len(rows)
        for h, row in enumerate(rows):
            overlaps = [_overlap(face, row) for face in faces]
            index = overlaps.index(max(overlaps))
            if overlaps[index] >= 0.5:
                if wanted[index] == 0:
                    recall_list[index] = -1
                    proposal_list[h] = -1
                elif recall_list[index] == 0:
                    recall_list[index] = 1
            matched_so_far[h] = sum(1 for value in recall_list if value == 1)
        for t in range(1, 1001):
            reached = [h for h, row in enumerate(rows) if row[4] >= 1 - t / 1000]
            if reached:
                last = reached[-1]
                proposals[t - 1] += sum(1 for value in proposal_list[: last + 1] if value == 1)
                found[t - 1] += matched_so_far[last]

    precision = [f / p if p else 0.0 for f, p in zip(found, proposals, strict=True)]
    if count_face == 0:
        return math.nan, precision, [0.0] * 1000
    recall = [f / count_face for f in found]
    points, envelope = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(envelope) - 2, -1, -1):
        envelope[i] = max(envelope[i], envelope[i + 1])
    ap = 0.0
    for i in range(1, len(points)):
        if points[i] != points[i - 1]:
            ap += (points[i] - points[i - 1]) * envelope[i]
    return ap, precision, recall


def _random_scores(rng, kind, count):
    return {
        "any": rng.normal(size=count),
        "negative": -1 - rng.random(count),
        "equal": np.full(count, 0.3),
        "ties": rng.integers(0, 4, count) / 4,
        "on thresholds": rng.integers(0, 1001, count) / 1000,
    }[kind]


def _random_case(seed, kind):
    """Boxes on a coarse grid, so that equal overlaps, overlaps of exactly 0.5, duplicates and zero sides occur."""
    rng = np.random.default_rng(seed)
    images, boxes, predictions, keep = [], [], {}, {"first": [], "second": [], "none": []}
    for number in range(int(rng.integers(1, 7))):
        key = f"{number % 2}--event/{number}"
        faces = np.concatenate([rng.integers(0, 12, (8, 2)), rng.integers(0, 7, (8, 2))], axis=1).astype(float)
        faces = faces[: rng.integers(0, 9)]
        if len(faces) > 3:
            faces[1] = faces[0]
        count = int(rng.integers(0, 15))
        near = faces[rng.integers(0, len(faces), count)] if len(faces) else np.zeros((count, 4))
        near = near + rng.integers(-1, 2, (count, 4)) * rng.choice([0, 0.5, 1])
        if count > 4:
            near[2] = near[1]
        images.append(key)
        boxes.append(faces)
        for subset, share in (("first", 0.5), ("second", 0.9), ("none", 0)):
            keep[subset].append((np.flatnonzero(rng.random(len(faces)) < share) + 1).tolist())
        if rng.random() < 0.8:
            predictions[key] = np.concatenate([near, _random_scores(rng, kind, count)[:, None]], axis=1)
    predictions["0--event/unknown"] = np.array([[0, 0, 5, 5, 50.0]])
    if len(predictions) == 1:
        predictions[images[0]] = np.zeros((0, 5))
    return images, boxes, predictions, keep


def _ground_truth(images, boxes, keep):
    masks = {
        subset: tuple(np.isin(np.arange(1, len(faces) + 1), numbers) for faces, numbers in zip(boxes, lists, strict=True))
        for subset, lists in keep.items()
    }
    return GroundTruth(tuple(images), tuple(np.asarray(faces, dtype=np.float64).reshape(-1, 4) for faces in boxes), masks)


@pytest.mark.parametrize("kind", ["any", "negative", "equal", "ties", "on thresholds"])
def test_random_cases_agree_with_the_toolbox(kind):
    for seed in range(12):
        images, boxes, predictions, keep = _random_case(seed, kind)
        results = score(predictions, _ground_truth(images, boxes, keep))
        assert list(results) == list(keep)
        for subset, result in results.items():
            ap, precision, recall = _toolbox(predictions, images, boxes, keep[subset])
            assert result.ap == pytest.approx(ap, abs=1e-12, nan_ok=True), (seed, subset)
            np.testing.assert_array_equal(result.precision, precision)
            np.testing.assert_array_equal(result.recall, recall)
            assert result.faces == sum(map(len, keep[subset]))


def test_order_of_a_file_does_not_matter():
    found, missed, late = [0, 0, 20, 20, 0.9], [200, 200, 20, 20, 0.5], [50, 50, 20, 20, 0.1]
    truth = _ground_truth(["e/x"], [[found[:4], late[:4]]], {"all": [[1, 2]]})
    for rows in itertools.permutations([found, missed, late]):
        assert score({"e/x": np.array(rows)}, truth)["all"].ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_overlap_counts_whole_pixels():
    """A 10 px box shifted by 2 px both ways reaches 0.503 with the +1, 0.471 without."""
    truth = _ground_truth(["e/x"], [[[10, 10, 10, 10]]], {"all": [[1]]})
    assert score({"e/x": np.array([[12, 12, 10, 10, 1.0]])}, truth)["all"].ap == 1
    assert score({"e/x": np.array([[12, 13, 10, 10, 1.0]])}, truth)["all"].ap == 0


def test_nothing_detected_and_nothing_to_detect():
    truth = _ground_truth(["e/x", "e/y"], [[[1, 1, 5, 5]], []], {"all": [[1], []], "none": [[], []]})
    for predictions in ({}, {"e/x": np.zeros((0, 5))}, {"e/y": np.array([[1, 1, 5, 5, 0.5]])}):
        results = score(predictions, truth)
        assert (results["all"].ap, results["all"].faces) == (0, 1)
        assert math.isnan(results["none"].ap)


def test_many_faces_are_matched_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    faces = np.concatenate([rng.uniform(0, 300, (200, 2)), rng.uniform(4, 30, (200, 2))], axis=1)
    rows = np.concatenate([faces + rng.normal(0, 2, faces.shape), rng.random((200, 1))], axis=1)
    truth = _ground_truth(["e/x"], [faces], {"half": [list(range(1, 101))]})
    whole = score({"e/x": rows}, truth)["half"]
    monkeypatch.setattr("tinyfaces.evaluation.wider._OVERLAPS_AT_ONCE", 1000)
    pieces = score({"e/x": rows}, truth)["half"]
    assert 0.2 < whole.ap < 1
    assert pieces.ap == whole.ap


def test_predictions_that_cannot_be_scored():
    truth = _ground_truth(["e/x"], [[[1, 1, 5, 5]]], {"all": [[1]]})
    with pytest.raises(PredictionError, match=r"no prediction belongs .*found 'x', expected such as 'e/x'"):
        score({"x": np.ones((1, 5))}, truth)
    for rows in (np.ones((2, 4)), np.ones(5), np.array([[1, 1, 5, 5, np.nan]])):
        with pytest.raises(PredictionError, match="e/x: predictions must be"):
            score({"e/x": rows}, truth)


def test_prediction_rows_are_widths_and_heights():
    rows = prediction_rows(np.array([[1, 2, 4, 8]], dtype=np.float32), np.array([0.5], dtype=np.float32))
    np.testing.assert_array_equal(rows, [[1, 2, 3, 6, 0.5]])
    assert prediction_rows(np.zeros((0, 4)), np.zeros(0)).shape == (0, 5)


def test_files_are_read_from_folder_and_zip(tmp_path):
    files = {
        "0--Parade/a b.txt": "a b.jpg\n2\n1.5 2 3 4 0.25\n-1 0 2e1 3 -0.5\n",
        "1--Hands/c.d.txt": "c.d\r\n0\r\n",
    }
    folder = tmp_path / "predictions"
    with zipfile.ZipFile(tmp_path / "predictions.zip", "w") as archive:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(text.encode())
            archive.writestr(f"some/depth/{name}", text)
        archive.writestr("__MACOSX/0--Parade/._a.txt", b"\xff\x00")
        archive.writestr("readme.txt", "about these files")
    (folder / "readme.txt").write_text("about these files")
    for source in (folder, tmp_path / "predictions.zip"):
        read = read_predictions(source)
        assert sorted(read) == ["0--Parade/a b", "1--Hands/c.d"]
        np.testing.assert_array_equal(read["0--Parade/a b"], [[1.5, 2, 3, 4, 0.25], [-1, 0, 20, 3, -0.5]])
        assert read["1--Hands/c.d"].shape == (0, 5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected the image's name, then the number"),
        ("x.jpg\n", "expected the image's name, then the number"),
        ("x.jpg\nnone\n", "expected the image's name, then the number"),
        ("x.jpg\n-1\n", "expected the image's name, then the number"),
        (f"x.jpg\n{'1' * 5000}\n", "expected the image's name, then the number"),
        ("x.jpg\n2\n1 2 3 4 0.5\n", "announces 2 detections and has 1"),
        ("x.jpg\n0\n1 2 3 4 0.5\n", "announces 0 detections and has 1"),
        ("x.jpg\n2\n1 2 3 4 0.5\n1 2 3 4\n", "line 4 has 4 values"),
        ("x.jpg\n1\n1 2 3 4 high\n", "'high'"),
        ("x.jpg\n2\n1 2 3 4 0.5\n1 2 nan 4 0.5\n", "line 4 holds a value that is not finite"),
        ("x.jpg\n1\n1 2 3 4 inf\n", "line 3 holds a value that is not finite"),
        (b"x.jpg\n1\n\xff\xfe", "cannot be read"),
    ],
)
def test_malformed_prediction_file_is_named_in_one_line(tmp_path, packed, text, complaint):
    raw = text if isinstance(text, bytes) else text.encode()
    if packed:
        path = tmp_path / "predictions.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("e/x.txt", raw)
    else:
        path = tmp_path
        (tmp_path / "e").mkdir()
        (tmp_path / "e/x.txt").write_bytes(raw)
    with pytest.raises(PredictionError) as caught:
        read_predictions(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "e/x.txt" in message
    assert complaint in message
    assert "\n" not in message


def test_places_without_predictions(tmp_path):
    with pytest.raises(PredictionError, match="gone: no such file or folder"):
        read_predictions(tmp_path / "gone")
    with pytest.raises(PredictionError, match="holds no prediction files"):
        read_predictions(tmp_path)
    (tmp_path / "not.zip").write_bytes(b"something else")
    with pytest.raises(PredictionError, match=r"not\.zip: cannot be read as a zip file"):
        read_predictions(tmp_path / "not.zip")
    for place in ("one/e", "other/e"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.txt").write_text("x.jpg\n0\n")
    with pytest.raises(PredictionError, match="a second file for e/x"):
        read_predictions(tmp_path)


def _cell(items):
    array = np.empty((len(items), 1), dtype=object)
    for number, item in enumerate(items):
        array[number, 0] = item
    return array


def _write_ground_truth(folder, keep):
    savemat = pytest.importorskip("scipy.io").savemat
    boxes = [
        [np.array([[0, 0, 60, 60], [5, 5, 9, 16], [5, 5, 9, 10], [1, 1, 0, 4]], dtype=np.int32)],
        [np.array([[2, 2, 8, 17]], dtype=np.uint8), np.zeros((0, 4))],
    ]
    names = [["0_Parade_1"], ["1_Hands_1", "1_Hands_2"]]
    savemat(
        folder / "wider_face_val.mat",
        {
            "event_list": _cell(["0--Parade", "1--Hands"]),
            "file_list": _cell([_cell(event) for event in names]),
            "face_bbx_list": _cell([_cell(event) for event in boxes]),
            "invalid_label_list": _cell([_cell([np.zeros((len(box), 1)) for box in event]) for event in boxes]),
        },
    )
    for subset, lists in keep.items():
        savemat(folder / f"wider_{subset}_val.mat", {"gt_list": _cell([_cell(event) for event in lists])})


NOTHING = np.zeros((0, 1), dtype=np.uint8)
KEEP = {
    "easy": [[np.array([[1]], dtype=np.uint8)], [NOTHING, NOTHING]],
    "medium": [[np.array([[1], [2]], dtype=np.uint8)], [NOTHING, NOTHING]],
    "hard": [[np.array([[1], [2], [4]], dtype=np.uint8)], [np.array([[1]], dtype=np.uint8), NOTHING]],
}


def test_ground_truth_files(tmp_path):
    _write_ground_truth(tmp_path, KEEP)
    truth = read_ground_truth(tmp_path)
    assert truth.images == ("0--Parade/0_Parade_1", "1--Hands/1_Hands_1", "1--Hands/1_Hands_2")
    np.testing.assert_array_equal(truth.boxes[1], [[2, 2, 8, 17]])
    assert {subset: [mask.tolist() for mask in masks] for subset, masks in truth.keep.items()} == {
        "easy": [[True, False, False, False], [False], []],
        "medium": [[True, True, False, False], [False], []],
        "hard": [[True, True, False, True], [True], []],
        "all": [[True, True, True, False], [True], []],
        "tiny": [[False, True, True, False], [False], []],
        "micro": [[False, False, True, False], [False], []],
    }


def test_ground_truth_that_does_not_fit(tmp_path):
    with pytest.raises(AnnotationError, match="gone: no such folder"):
        read_ground_truth(tmp_path / "gone")
    _write_ground_truth(tmp_path, {"easy": [[np.array([[5]])], [NOTHING, NOTHING]]})
    with pytest.raises(AnnotationError, match=r"wider_easy_val\.mat: does not fit .*keeps boxes of 0_Parade_1"):
        read_ground_truth(tmp_path)
    _write_ground_truth(tmp_path, {"easy": [[NOTHING], [NOTHING]]})
    with pytest.raises(AnnotationError, match=r"wider_easy_val\.mat: does not fit .*lists 2 images"):
        read_ground_truth(tmp_path)
    _write_ground_truth(tmp_path, {"easy": KEEP["easy"]})
    with pytest.raises(AnnotationError, match=r"wider_medium_val\.mat: cannot be read"):
        read_ground_truth(tmp_path)


def test_images_are_found_beside_the_ground_truth(tmp_path):
    truth = _ground_truth(["0--Parade/a", "1--Hands/b"], [[], []], {})
    with pytest.raises(AnnotationError, match="holds no folder '0--Parade'"):
        image_paths(truth, tmp_path)
    for key in truth.images:
        path = tmp_path / "WIDER_val/images" / f"{key}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    for root in (tmp_path, tmp_path / "WIDER_val", tmp_path / "WIDER_val/images"):
        assert image_paths(truth, root) == {key: tmp_path / "WIDER_val/images" / f"{key}.jpg" for key in truth.images}
    path.unlink()
    with pytest.raises(AnnotationError, match=r"b\.jpg: no such image \(1 of 2 images are missing\)"):
        image_paths(truth, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no WIDER FACE ground truth at $TINYFACES_SHARED/data/wider_eval")
def test_real_predictions_score_as_the_official_toolbox_says():
    pytest.importorskip("scipy")
    start = time.process_time()
    results = score(read_predictions(SHARED / "predictions.zip"), read_ground_truth(SHARED))
    seconds = time.process_time() - start
    expected = json.loads((SHARED / "expected.json").read_text())
    assert {subset: result.ap for subset, result in results.items()} == pytest.approx(expected, abs=1e-5)
    assert [results[subset].faces for subset in ("easy", "medium", "hard", "all")] == [7211, 13319, 31958, 39697]
    assert seconds < 20


def test_images_without_a_prediction_file_are_told_loudly(tmp_path):
    truth = _ground_truth(("a/1", "a/2", "b/1", "b/2"), [[[1, 1, 9, 9]]] * 4, {"easy": [[1]] * 4})
    rows = np.array([[1, 1, 9, 9, 0.5]])
    assert without_predictions({key: rows for key in truth.images}, truth) is None
    told = without_predictions({"a/1": rows}, truth)
    assert "3 of 4 images have no prediction file, among them all of 1 folders such as 'b'" in told
    assert "1 of 4 images have no prediction file, such as 'b/2'" in without_predictions(
        dict.fromkeys(truth.images[:3], rows), truth
    )


def test_a_wrong_ground_truth_folder_is_named(tmp_path):
    with pytest.raises(
        AnnotationError, match=rf"{tmp_path}: is no ground truth .*holds no wider_face_val.mat, wider_easy_val.mat"
    ):
        read_ground_truth(tmp_path)
