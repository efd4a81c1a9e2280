"""Relabelling: what becomes of ignored boxes, from views whose agreement is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("cv2")
pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from tinyfaces.cli import app
from tinyfaces.data.annotations import AnnotatedImage, read_coco
from tinyfaces.detection.faces import Faces
from tinyfaces.training.relabel import RelabelSettings, relabel, views_of, write_annotations
from tinyfaces.training.settings import load_config, read_sources

SETTINGS = RelabelSettings(scales=(1.0, 1.0), face=0.6, background=0.15, certain=0.3)


def _boxes(*lefts):
    return np.array([[left, 10, left + 20, 35] for left in lefts], np.float32)


def _image(path, lefts, ignore, scores):
    return AnnotatedImage(path, 400, 100, _boxes(*lefts), np.array(ignore), np.array(scores, np.float32))


def test_views_that_agree_settle_ignored_boxes(tmp_path):
    lefts = [0, 50, 100, 150, 200, 250]
    image = _image(tmp_path / "a.png", lefts, [False, True, True, True, True, True], [1, 0.2, 0.1, 0.5, 0.1, 0.2])
    first = Faces(_boxes(51, 100, 200), np.array([0.9, 0.2, 0.05], np.float32))
    second = Faces(_boxes(50, 100, 251), np.array([0.7, 0.3, 0.9], np.float32))
    after = relabel(image, [first, second], SETTINGS)
    # the known face stays; 50 is a face with the first view's box; 100 (mean 0.25) and 250 (0.45) stay ignored;
    # 150 is seen by no view but its own score is too high to drop it; 200 goes.
    np.testing.assert_array_equal(after.boxes, _boxes(0, 51, 100, 150, 250))
    assert after.ignore.tolist() == [False, False, True, True, True]
    np.testing.assert_allclose(after.scores, [1, 0.8, 0.1, 0.5, 0.2], atol=1e-6)


def test_a_known_face_is_not_doubled_nor_a_new_one(tmp_path):
    image = _image(tmp_path / "a.png", [0, 3, 50, 52], [False, True, True, True], [1, 0.2, 0.2, 0.2])
    view = Faces(_boxes(1, 51), np.array([0.9, 0.9], np.float32))
    after = relabel(image, [view, view], SETTINGS)
    np.testing.assert_array_equal(after.boxes[~after.ignore], _boxes(0, 51))


def test_views_are_mapped_back(tmp_path):
    class Marks:
        """Finds the bounding box of the white pixels."""

        def detect(self, photo, threshold):
            y, x = np.nonzero(photo[..., 0] > 127)
            return Faces(np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32), np.array([0.8], np.float32))

    photo = np.zeros((60, 80, 3), np.uint8)
    photo[20:40, 10:30] = 255
    for view in views_of(photo, Marks(), RelabelSettings(scales=(1.0, 1.0, 2.0, 1.5))):
        np.testing.assert_allclose(view.boxes, [[10, 20, 30, 40]], atol=1.0)


def test_written_annotations_read_the_same(tmp_path):
    Image.new("RGB", (400, 100)).save(tmp_path / "a.png")
    image = _image(tmp_path / "a.png", [5, 50], [False, True], [0.75, 0.125])
    write_annotations([image], tmp_path, tmp_path / "a.json.gz")
    (read,) = read_coco(tmp_path / "a.json.gz", tmp_path)
    assert read.path == image.path and (read.width, read.height) == (400, 100)
    for name in ("boxes", "ignore", "scores"):
        np.testing.assert_array_equal(getattr(read, name), getattr(image, name))


def test_the_command_settles_what_the_model_sees(tmp_path):
    examples = Path(__file__).parents[1] / "examples"
    faces = np.array(json.loads((examples / "solvay_1927.json").read_text())["boxes"], np.float32) / 2
    with Image.open(examples / "solvay_1927.jpg") as photo:
        half = photo.convert("RGB").resize((photo.width // 2, photo.height // 2))
    small = Image.new("RGB", (half.width, half.height + 100))
    small.paste(half)
    small.save(tmp_path / "a.png")
    wall = np.array([[200, half.height + 50, 220, half.height + 74]], np.float32)
    boxes = np.concatenate([faces, wall])
    ignore = np.arange(len(boxes)) % 2 == 1
    assert ignore[-1]
    image = AnnotatedImage(tmp_path / "a.png", *small.size, boxes, ignore, np.full(len(boxes), 0.1, np.float32))
    write_annotations([image], tmp_path, tmp_path / "some.json")
    source = f'annotations = "{tmp_path}/some.json"\nimages = "{tmp_path}"\n'
    (tmp_path / "more").mkdir()
    small.save(tmp_path / "more/b.png")
    unlabelled = f'[[train]]\nimages = "{tmp_path}/more"\nformat = "unlabelled"\n'  # there is nothing to settle
    (tmp_path / "c.toml").write_text(f'variant = "fast"\nteacher = "t.pt"\n[[train]]\n{source}{unlabelled}[[dev]]\n{source}')
    result = CliRunner().invoke(app, ["train", "relabel", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert f"{ignore.sum()} ignored boxes, {ignore.sum() - 1} of them now faces, 1 background" in " ".join(result.output.split())
    (read,) = read_coco(tmp_path / "new/some.json", tmp_path)
    images, _ = read_sources(load_config(tmp_path / "c.toml", {}).train, str(tmp_path / "new"))
    np.testing.assert_array_equal(images[0].boxes, read.boxes)
    assert len(read) == len(faces) and not read.ignore.any()


def test_photos_that_cannot_be_read_keep_their_boxes(tmp_path, toy_model):
    Image.new("RGB", (400, 100)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no photo")
    images = [_image(tmp_path / name, [5], [True], [0.1]) for name in ("a.png", "b.png", "gone.png")]
    write_annotations(images, tmp_path, tmp_path / "some.json")
    source = f'annotations = "{tmp_path}/some.json"\nimages = "{tmp_path}"\n'
    (tmp_path / "c.toml").write_text(f'variant = "fast"\n[[train]]\n{source}[[dev]]\n{source}')
    command = [
        "train",
        "relabel",
        "--config",
        str(tmp_path / "c.toml"),
        "--out",
        str(tmp_path / "new"),
        "--model",
        str(toy_model),
    ]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert result.exit_code == 1, result.output
    assert result.stderr.count("b.png") == result.stderr.count("gone.png: no such image") == 1
    read = {image.path.name: len(image) for image in read_coco(tmp_path / "new/some.json", tmp_path)}
    assert read == {"a.png": 0, "b.png": 1}


def test_a_missing_folder_and_doubled_names_are_told(tmp_path):
    Image.new("RGB", (400, 100)).save(tmp_path / "a.png")
    (tmp_path / "more").mkdir()
    for folder in (tmp_path, tmp_path / "more"):
        write_annotations([_image(tmp_path / "a.png", [5], [True], [0.1])], tmp_path, folder / "some.json")
    source = 'annotations = "{}/some.json"\nimages = "{}"\n'
    here, more = source.format(tmp_path, tmp_path), source.format(tmp_path / "more", tmp_path)
    (tmp_path / "c.toml").write_text(f'variant = "fast"\n[[train]]\n{here}[[train]]\n{more}[[dev]]\n{here}')
    result = CliRunner().invoke(app, ["train", "relabel", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "new")])
    assert result.exit_code == 2 and "some.json: two sources" in result.output
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="no such folder"):
        read_sources(load_config(tmp_path / "c.toml", {}).train, str(tmp_path / "nowhere"))
