"""The score from which a face is covered: lower for small faces than for large ones, in photos and in the service."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from serving import client_class
from tinyfaces import Detector, Faces
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.photos import find_photo_faces, open_photo

SMALL, LARGE = (slice(32, 40), slice(128, 136)), (slice(0, 32), slice(0, 32))
"""Where `unsure` has its faces: the toy model gives the small one 0.162 and the large one 0.151."""


def unsure() -> np.ndarray:
    """A picture with a face 8 px high and one 32 px high, both unsure."""
    pixels = np.zeros((64, 160, 3), np.uint8)
    pixels[*SMALL, 0], pixels[*LARGE, 1] = 195, 197
    return pixels


def test_the_score_needed_rises_with_the_height():
    cover = CoverThreshold()
    heights = np.array([1, 8, 24, 64, 128, 256, 257, 5000], np.float32)
    np.testing.assert_allclose(cover.at(heights), [0.15, 0.15, 0.15, 0.2, 0.3, 0.4, 0.4, 0.4], atol=1e-6)
    between = 0.15 + 0.05 * math.log(40 / 24) / math.log(64 / 24)
    assert cover.at(np.array([40.0]))[0] == pytest.approx(between, abs=1e-6)
    assert cover.lowest == 0.15 and cover.settings() == [[24, 0.15], [64, 0.2], [256, 0.4]]
    flat = CoverThreshold.of(0.3)
    assert (flat.at(heights) == np.float32(0.3)).all() and flat.lowest == flat.settings() == 0.3
    json.dumps([cover.settings(), flat.settings()])


def test_faces_at_the_threshold_are_covered():
    boxes = np.array([[0, 0, 10, 8], [0, 0, 10, 8], [0, 0, 9, 128], [0, 0, 400, 128]], np.float32)
    faces = Faces(boxes, np.array([0.15, 0.1499, 0.3001, 0.2999], np.float32))
    assert CoverThreshold().reached(faces).tolist() == [True, False, True, False]
    assert CoverThreshold().apply(faces) == faces[[0, 2]]
    assert CoverThreshold.of(0.2).apply(faces) == faces[[2, 3]]
    assert len(CoverThreshold.of(0.0).apply(faces)) == 4 and CoverThreshold().apply(Faces.empty()) == Faces.empty()


def test_evened_scores_compare_faces_of_all_heights():
    boxes = np.array([[0, 0, 10, height] for height in (8, 8, 8, 256, 256, 256)], np.float32)
    faces = Faces(boxes, np.array([0.075, 0.15, 1, 0.2, 0.4, 1], np.float32))
    np.testing.assert_allclose(CoverThreshold().evened(faces), [0.075, 0.15, 1] * 2, atol=1e-6)
    for score in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(CoverThreshold.of(score).evened(faces), faces.scores, atol=1e-6)


@pytest.mark.parametrize("points", [(), ((0, 0.2),), ((9, 0.2), (9, 0.3)), ((9, 1.2),), ((9, 0.1), (10, math.nan))])
def test_wrong_thresholds(points):
    with pytest.raises(ValueError, match="Received"):
        CoverThreshold(points)


def test_photos(run, toy_model, tmp_path):
    before = unsure()
    Image.fromarray(before).save(tmp_path / "a.png")
    found, _ = find_photo_faces(open_photo(tmp_path / "a.png"), Detector(toy_model), CoverThreshold.of(0.15))
    assert found.scores.tolist() == pytest.approx([0.162, 0.151], abs=5e-4)
    solid = ("--method", "solid", "--shape", "box", "--enlarge", "1", "--report", "r.json")
    for threshold, covered, settings in (
        ((), [True, False], [[24, 0.15], [64, 0.2], [256, 0.4]]),
        (("--threshold", "0.15"), [True, True], 0.15),
        (("--threshold", "0.2"), [False, False], 0.2),
    ):
        run("anonymise", "a.png", *solid, *threshold)
        after = np.asarray(Image.open("anonymised/a.png"))
        expected = before.copy()
        for place, is_covered in zip((SMALL, LARGE), covered, strict=True):
            expected[place] *= not is_covered
        assert (after == expected).all()
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["settings"]["threshold"] == settings and report["files"][0]["faces"] == sum(covered)
    run("anonymise", "a.png", "--resume")
    refused = run("anonymise", "a.png", "--resume", "--threshold", "0.2", code=2)
    assert "threshold" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_the_service(toy_model):
    client_type = client_class()
    from tinyfaces.service.app import create_app
    from tinyfaces.service.queue import Engine

    content = io.BytesIO()
    Image.fromarray(unsure()).save(content, "PNG")
    png = {"content": content.getvalue(), "headers": {"Content-Type": "image/png"}}
    engine = Engine(Detector(toy_model), Detector(toy_model))
    with client_type(create_app({"toy": engine})) as service:
        for options, covered, told in (
            ("", [True, False], [[24, 0.15], [64, 0.2], [256, 0.4]]),
            ("&threshold=0.15", [True, True], 0.15),
            ("&threshold=0.2", [False, False], 0.2),
        ):
            answer = service.post(f"/v1/detect?output=anonymised&method=solid{options}", **png)
            after = np.asarray(Image.open(io.BytesIO(answer.content)))
            assert [after[place].max() == 0 for place in (SMALL, LARGE)] == covered
            assert json.loads(answer.headers["X-Threshold"]) == told and answer.headers["X-Faces"] == str(sum(covered))
        assert service.post("/v1/detect", **png).json()["boxes"] == []
        assert service.get("/v1/models").json()["cover_threshold"] == [[24, 0.15], [64, 0.2], [256, 0.4]]
