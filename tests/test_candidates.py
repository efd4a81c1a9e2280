"""Candidates are labelled rightly, their sharp targets show the same place, and a set is complete or refused."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from tinyfaces import Faces  # noqa: E402
from tinyfaces.cli import app  # noqa: E402
from tinyfaces.data.annotations import AnnotatedImage  # noqa: E402
from tinyfaces.training.cache import open_cache  # noqa: E402
from tinyfaces.training.candidates import (  # noqa: E402
    Candidates,
    CandidateSettings,
    box_offsets,
    gather_candidates,
    read_candidates,
    search_photo,
    sharpness,
)

FACES = [(100, 100, 180, 190), (300, 60, 380, 150), (40, 300, 120, 400)]
IGNORED = (300, 300, 380, 390)


class FakeDetector:
    """Says what it is told to, in the photo's pixels, whatever size the photo comes in."""

    def __init__(self, boxes, width):
        self.boxes, self.width = np.array(boxes, np.float32), width

    def detect(self, image, *, threshold):
        scores = np.linspace(0.9, 0.1, len(self.boxes)).astype(np.float32)
        return Faces(self.boxes * image.shape[1] / self.width, scores).above(threshold)


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (480, 512, 3), np.uint8)
    pixels[90:200, 85:195] = cv2.GaussianBlur(pixels[90:200, 85:195], (0, 0), 6)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    boxes = np.array([*FACES, IGNORED], np.float32)
    return AnnotatedImage(tmp_path / "p.png", 512, 480, boxes, np.array([0, 0, 0, 1], bool), np.ones(4, np.float32))


def _search(photo, boxes, **settings):
    options = CandidateSettings(**{"factors": ((0.2, 0.25),), "sharpness": 50.0, **settings})
    pixels = np.asarray(Image.open(photo.path))
    return list(search_photo(pixels, photo, 7, FakeDetector(boxes, 512), options, np.random.default_rng(0)))


def test_labels_and_targets(photo):
    right, shifted, half = (102, 98, 180, 192), (310, 70, 392, 158), (140, 100, 220, 190)
    elsewhere, in_ignored = (420, 20, 500, 110), (305, 305, 375, 385)
    (lot,) = _search(photo, [right, shifted, half, elsewhere, in_ignored])
    by_score = {round(float(score), 2): place for place, score in enumerate(lot.score)}
    assert sorted(by_score) == [0.3, 0.5, 0.7, 0.9], "half matched ones are kept, ignored ones are not"
    assert lot.face[[by_score[0.9], by_score[0.7]]].all() and not lot.face[[by_score[0.5], by_score[0.3]]].any()
    assert lot.overlap[by_score[0.5]] == pytest.approx(1 / 3, abs=0.03) and lot.overlap[by_score[0.3]] == 0
    assert (lot.photo == 7).all() and lot.low.shape == (4, 16, 16, 3)
    assert lot.target[by_score[0.9]] == -1, "the blurred face is no target"
    assert lot.target[by_score[0.7]] >= 0
    assert lot.side[by_score[0.9]] == pytest.approx(94 * 0.25, rel=0.31)
    assert (lot.box[lot.overlap == 0] == 0).all()
    assert lot.box[by_score[0.5]] == pytest.approx([-0.5, 0, 0, 0], abs=0.01), "to its face, as near as it is"


def test_targets_show_the_same_place(photo):
    smooth = cv2.resize(
        np.random.default_rng(1).integers(0, 256, (12, 13, 3), np.uint8), (512, 480), interpolation=cv2.INTER_CUBIC
    )
    Image.fromarray(smooth).save(photo.path)
    lots = [lot for seed in range(3) for lot in _search(photo, [FACES[1]], sharpness=0.0)]
    for lot in lots:
        small = cv2.resize(lot.high[lot.target[0]], (16, 16), interpolation=cv2.INTER_AREA).astype(float)
        other = lot.low[0].astype(float)
        assert np.corrcoef(small.ravel(), other.ravel())[0, 1] > 0.9


def test_sizes_and_numbers_are_bounded(photo):
    crowd = [(x, 400, x + 40, 440) for x in range(160, 460, 10)]
    (lot,) = _search(photo, crowd, per_search=5, positive=0.5)
    (whole,) = _search(photo, crowd, positive=0.5)
    assert len(lot) == 5 and set(lot.score.tolist()) < set(whole.score.tolist()) and len(whole) == len(crowd)
    assert _search(photo, crowd, sides=(200.0, 300.0)) == []


def test_box_offsets_lead_to_the_face():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (20, 2))], 1).astype(np.float32)
    faces = (boxes + rng.uniform(-2, 2, (20, 4))).astype(np.float32)
    offsets = box_offsets(boxes, faces)
    sides, middle = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    middle, half = middle + offsets[:, :2] * sides, np.exp(offsets[:, 2:]) * sides / 2
    np.testing.assert_allclose(np.concatenate([middle - half, middle + half], 1), faces, atol=1e-4)


def test_blur_lowers_sharpness():
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    values = [sharpness(cv2.GaussianBlur(crop, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert sharpness(crop) > values[0] > values[1] > values[2] > values[3]


def test_each_first_stage_searches_the_same_pictures(photo, tmp_path):
    cache = open_cache([photo], tmp_path / "cache", workers=1)
    one, other = FakeDetector(FACES, 512), FakeDetector([(420, 20, 500, 110)], 512)
    settings = CandidateSettings(sides=(4, 100))
    sets = []
    for name, detectors in (("one", [one]), ("other", [other]), ("both", [one, other])):
        assert list(gather_candidates([photo], cache, detectors, settings, tmp_path / name)) == [0]
        sets.append(read_candidates(tmp_path / name))
    alone = Candidates.joined(sets[:2])
    assert len(sets[0]) and len(sets[1])
    for field in fields(Candidates):
        assert np.array_equal(getattr(sets[2], field.name), getattr(alone, field.name)), field.name


def test_a_set_is_read_back_and_an_incomplete_one_refused(photo, tmp_path):
    cache = open_cache([photo, photo], tmp_path / "cache", workers=1)
    detector = FakeDetector([*FACES, (420, 20, 500, 110)], 512)
    settings = CandidateSettings(sharpness=0.0, sides=(4, 100))
    folder = tmp_path / "set"
    assert list(gather_candidates([photo, photo], cache, [detector], settings, folder, shard=5)) == [0, 1]
    read = read_candidates(folder)
    assert set(read.photo.tolist()) == {0, 1} and read.face.sum() == 3 * len(read) / 4
    assert len(list(folder.glob("*.npz"))) > 1
    for place in np.flatnonzero(read.target >= 0):
        small = cv2.resize(read.high[read.target[place]], (16, 16), interpolation=cv2.INTER_AREA)
        assert abs(small.mean() - read.low[place].mean()) < 90
    stop = gather_candidates([photo, photo], cache, [detector], settings, folder)
    next(stop)
    stop.close()
    with pytest.raises(ValueError, match=r"manifest\.json is missing") as caught:
        read_candidates(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="nowhere"):
        read_candidates(Path("nowhere"))


def test_photos_without_labels_are_not_searched(toy_model, tmp_path):
    squares = [(40, 40), (120, 80), (200, 160)]
    Image.fromarray(paint(256, 320, small=squares)).save(tmp_path / "a.png")
    boxes = [{"id": n, "image_id": 0, "category_id": 1, "bbox": [x, y, 8, 8], "iscrowd": 0} for n, (x, y) in enumerate(squares)]
    entry = {"id": 0, "file_name": "a.png", "width": 320, "height": 256}
    categories = [{"id": 1, "name": "face"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": [entry], "annotations": boxes, "categories": categories}))
    source = f'annotations = "{tmp_path}/a.json"\nimages = "{tmp_path}"\n'
    (tmp_path / "c.toml").write_text(
        f'variant = "fast"\nteacher = "t.pt"\ncache = "{tmp_path}/cache"\n'
        f'[[train]]\n{source}[[train]]\n{source}format = "unlabelled"\n[[dev]]\n{source}'
    )
    command = [
        "train", "candidates", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "set"), "--model", str(toy_model),
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    coco = json.loads((tmp_path / "a.json").read_text())
    coco["images"] += [{**entry, "id": 1, "file_name": "gone.png"}, {**entry, "id": 2, "file_name": "bad.png"}]
    (tmp_path / "bad.png").write_text("no photo")
    (tmp_path / "a.json").write_text(json.dumps(coco))
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert result.exit_code == 1 and [line.count("left out") for line in result.stderr.splitlines() if ".png" in line] == [1, 1]
    read = read_candidates(tmp_path / "set")
    assert "candidates of 1 photo" in result.output and read.face.sum() >= 3
