"""Each output format, read back by someone else's reader where there is one."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tinyfaces import Faces
from tinyfaces.evaluation.wider import read_predictions
from tinyfaces.files import write_atomically
from tinyfaces.jobs import formats
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import find_inputs

BOXES = np.array([[10, 20, 30, 60], [0.5, 0.25, 8.5, 10.25]], np.float32)


def _results():
    return [
        ImageResult(Path("in/a/one.jpg"), Path("a/one.jpg"), 100, 200, Faces(BOXES, np.array([0.75, 0.5]))),
        ImageResult(Path("in/two, b.jpg"), Path("two, b.jpg"), 40, 30, Faces.empty()),
    ]


def test_json_and_jsonl():
    images = json.loads(formats.as_json(_results()))["images"]
    assert images[0] == {
        "file": "in/a/one.jpg", "width": 100, "height": 200, "boxes": BOXES.tolist(), "scores": [0.75, 0.5],
    }  # fmt: skip
    assert images[1]["boxes"] == []
    assert [json.loads(line) for line in formats.as_jsonl(_results()).splitlines()] == images


def test_csv():
    rows = list(csv.DictReader(io.StringIO(formats.as_csv(_results()))))
    assert [[float(row[k]) for k in ("x1", "y1", "x2", "y2")] for row in rows] == BOXES.tolist()
    assert {row["file"] for row in rows} == {"in/a/one.jpg"}


def test_coco_is_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "coco.json").write_text(formats.as_coco(_results()))
    data = coco.COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in data.loadImgs(data.getImgIds())] == ["a/one.jpg", "two, b.jpg"]
    annotations = data.loadAnns(data.getAnnIds(imgIds=[1]))
    assert [a["bbox"] for a in annotations] == [[10, 20, 20, 40], [0.5, 0.25, 8, 10]]
    assert [a["score"] for a in annotations] == [0.75, 0.5]
    assert data.getAnnIds(imgIds=[2]) == []


def test_yolo():
    rows = np.loadtxt(formats.as_yolo(_results()[0]).splitlines())
    np.testing.assert_allclose(rows[0], [0, 0.2, 0.2, 0.2, 0.2, 0.75])
    assert formats.as_yolo(_results()[1]) == ""
    assert formats.yolo_name(_results()[0]) == Path("a/one.txt")


def test_wider_is_read_by_the_evaluation(tmp_path):
    for result in _results():
        write_atomically(tmp_path / formats.wider_name(result), formats.as_wider(result).encode())
    read = read_predictions(tmp_path)
    assert set(read) == {"a/one", "in/two, b"}
    assert read["a/one"].tolist() == [[9.5, 19.5, 20, 40, 0.75], [0, -0.25, 8, 10, 0.5]]
    assert len(read["in/two, b"]) == 0


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _touch(tmp_path, "in/b.JPG", "in/a.png", "in/notes.txt", "in/deep/c.webp", "x[1].jpg", "empty/readme.md")
    flat = find_inputs(["in"], recursive=False)
    assert [file.name.as_posix() for file in flat.files] == ["a.png", "b.JPG"]
    deep = find_inputs(["in", "in/a.png"], recursive=True)
    assert [file.name.as_posix() for file in deep.files] == ["a.png", "b.JPG", "deep/c.webp"]
    assert [f.name.as_posix() for f in find_inputs(["in/a.png", "in/deep/c.webp"], False).files] == ["a.png", "deep/c.webp"]
    assert [f.path.as_posix() for f in find_inputs(["in/**/*.webp"], False).files] == ["in/deep/c.webp"]
    assert [f.path.as_posix() for f in find_inputs(["x[1].jpg"], False).files] == ["x[1].jpg"]
    assert [f.path.as_posix() for f in find_inputs(["in/notes.txt"], False).files] == ["in/notes.txt"]
    problems = find_inputs(["gone.jpg", "empty", "*.tif"], recursive=False)
    assert not problems.files and [p.split(":")[0] for p in problems.problems] == ["gone.jpg", "empty", "*.tif"]
