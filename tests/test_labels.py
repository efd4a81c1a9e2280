"""From detections to labels, through a correction, and into a training."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces import Faces
from tinyfaces.cli import app
from tinyfaces.data.annotations import AnnotationError, read_coco, read_wider_txt
from tinyfaces.data.labels import read_unlabelled, read_voc, read_yolo
from tinyfaces.jobs import formats
from tinyfaces.jobs.counting import read_regions
from tinyfaces.jobs.formats import ImageResult

BOXES = np.array([[10, 20, 30, 60], [0.5, 0.25, 8.5, 10.25]], np.float32)


@pytest.fixture
def exported(toy_model, tmp_path, monkeypatch):
    """Two photos with three faces and one, in all formats that come back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/deep").mkdir(parents=True)
    Image.fromarray(paint(64, 96, [(8, 8), (40, 40)], [(64, 0)])).save("photos/a.png")
    Image.fromarray(paint(64, 64, [(16, 16)])).save("photos/deep/b.png")
    for name, *more in (("coco",), ("yolo", "--no-scores"), ("voc",)):
        command = [
            "detect",
            "photos",
            "-r",
            "--format",
            name,
            "--out",
            name,
            *more,
            "--model",
            str(toy_model),
            "--threshold",
            "0.5",
        ]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    return tmp_path


def _correct_coco(folder: Path) -> None:
    document = json.loads((folder / "coco/faces.json").read_text())
    kept = [a for a in document["annotations"] if a["bbox"][:2] != [40.0, 40.0]]
    kept.append({"id": 99, "image_id": 2, "category_id": 1, "bbox": [30, 32, 10, 12], "area": 120, "iscrowd": 0})
    document["annotations"] = kept
    (folder / "coco/faces.json").write_text(json.dumps(document))


def _correct_yolo(folder: Path) -> None:
    lines = (folder / "yolo/a.txt").read_text().splitlines()
    assert all(len(line.split()) == 5 for line in lines) and (folder / "yolo/classes.txt").read_text() == "face\n"
    kept = [line for line in lines if abs(float(line.split()[1]) * 96 - 44) > 1]
    (folder / "yolo/a.txt").write_text("\n".join(kept) + "\n")
    with (folder / "yolo/deep/b.txt").open("a") as file:
        file.write(f"0 {35 / 64} {38 / 64} {10 / 64} {12 / 64}\n")


def _correct_voc(folder: Path) -> None:
    tree = ElementTree.parse(folder / "voc/a.xml")
    for face in tree.findall("object"):
        if face.findtext("bndbox/xmin") == "41":
            tree.getroot().remove(face)
    tree.write(folder / "voc/a.xml")
    tree = ElementTree.parse(folder / "voc/deep/b.xml")
    face = ElementTree.SubElement(tree.getroot(), "object")
    ElementTree.SubElement(face, "name").text = "face"
    box = ElementTree.SubElement(face, "bndbox")
    for side, value in (("xmin", 31), ("ymin", 33), ("xmax", 40), ("ymax", 44)):
        ElementTree.SubElement(box, side).text = str(value)
    tree.write(folder / "voc/deep/b.xml")


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_a_corrected_export_is_what_is_trained_on(exported, name):
    {"coco": _correct_coco, "yolo": _correct_yolo, "voc": _correct_voc}[name](exported)
    source = str(exported / "coco/faces.json") if name == "coco" else str(exported / name)
    read = {"coco": read_coco, "yolo": read_yolo, "voc": read_voc}[name](source, exported / "photos")
    assert [image.path.name for image in read] == ["a.png", "b.png"]
    found = [{tuple(box.round().astype(int).tolist()) for box in image.boxes} for image in read]
    assert found == [{(8, 8, 16, 16), (64, 0, 96, 32)}, {(16, 16, 24, 24), (30, 32, 40, 44)}]
    assert [(image.width, image.height) for image in read] == [(96, 64), (64, 64)]
    assert not any(image.ignore.any() for image in read)


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_a_training_step_takes_them(exported, name):
    torch = pytest.importorskip("torch")
    from tinyfaces.training.proposal_loop import train
    from tinyfaces.training.settings import load_config

    source = f'annotations = "{exported / name}"\nimages = "{exported / "photos"}"\nformat = "{name}"\n'
    (exported / "c.toml").write_text(
        f'variant = "fast"\ncache = "{exported}/cache"\nout = "{exported}/run"\nsteps = 1\nbatch = 2\nworkers = 0\nthreads = 1\n'
        f"evaluate_images = 1\n[crops]\nsize = 128\n[[train]]\n{source}[[dev]]\n{source}"
    )
    train(load_config(exported / "c.toml", {}))
    assert torch.load(exported / "run/last.pt", weights_only=True)["step"] == 1


def test_voc_is_read_by_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    Image.new("RGB", (100, 200)).save(tmp_path / "one.jpg")
    result = ImageResult(tmp_path / "one.jpg", Path("one.jpg"), 100, 200, Faces(BOXES, np.array([0.75, 0.5])))
    (tmp_path / "one.xml").write_text(formats.as_voc(result))
    data = supervision.DetectionDataset.from_pascal_voc(str(tmp_path), str(tmp_path))
    (_, _, read), *_ = list(data)
    last = 0 if supervision.__version__ >= "0.31" else 1  # versions before count the last pixel of a box as outside
    np.testing.assert_array_equal(read.xyxy, [[10, 20, 30 - last, 60 - last], [1, 0, 9 - last, 10 - last]])
    assert data.classes == ["face"]


def test_yolo_is_read_by_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    Image.new("RGB", (100, 200)).save(tmp_path / "one.jpg")
    result = ImageResult(tmp_path / "one.jpg", Path("one.jpg"), 100, 200, Faces(BOXES, np.array([0.75, 0.5])))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/one.txt").write_text(formats.as_yolo_labels(result))
    (tmp_path / "data.yaml").write_text("names: [face]\nnc: 1\n")
    data = supervision.DetectionDataset.from_yolo(str(tmp_path), str(tmp_path / "labels"), str(tmp_path / "data.yaml"))
    (_, _, read), *_ = list(data)
    np.testing.assert_allclose(read.xyxy, BOXES, atol=1e-3)


def test_supervision_and_back():
    supervision = pytest.importorskip("supervision")
    faces = Faces(BOXES, np.array([0.75, 0.5], np.float32))
    back = Faces.from_supervision(faces.to_supervision())
    assert (back.boxes == faces.boxes).all() and (back.scores == faces.scores).all()
    assert Faces.from_supervision(supervision.Detections(xyxy=BOXES)).scores.tolist() == [1, 1]
    assert len(Faces.from_supervision(supervision.Detections.empty())) == 0


def test_what_is_ignored_and_other_classes(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n0 0.2 0.2 0.2 0.2 0.77\n0 0.5 0.5 0 0.1\n\n")
    (read,) = read_yolo(tmp_path, tmp_path)
    assert read.boxes.shape == (2, 4) and read.ignore.tolist() == [False, True] and read.scores.tolist() == [1, 1]
    (tmp_path / "classes.txt").write_text("person\nFace\n")
    (read,) = read_yolo(tmp_path, tmp_path)
    np.testing.assert_allclose(read.boxes, [[45, 45, 55, 55]], atol=1e-4)
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9.5</ymax></bndbox>"
    face = "<object><name>{}</name><difficult>{}</difficult>" + box + "</object>"
    objects = face.format("face", 1) + face.format("dog", 0) + face.format("Face", 0)
    (tmp_path / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    (read,) = read_voc(tmp_path, tmp_path)
    assert read.boxes.tolist() == [[0, 1, 9, 9.5]] * 2 and read.ignore.tolist() == [True, False]


@pytest.mark.parametrize(
    "line,box",
    [
        ("0 .5 .5 .2 .2", (80, 40, 120, 60)),
        ("0 .5 .5 .2 .2 .9", (80, 40, 120, 60)),
        ("0 .2 .1 .8 .1 .8 .9 .2 .9", (40, 10, 160, 90)),
        ("0 .1 .1 .4 .15 .38 .5 .08 .45", (16, 10, 80, 50)),
        ("0 .1 .1 .4 .15 .3 .5", (20, 10, 80, 50)),
        ("0 .5 .5 .2 .2 .45 .45 .55 .45 .5 .5 .46 .55 .54 .55", (80, 40, 120, 60)),
        ("0 .5 .5 .2 .2 .45 .45 1 .55 .45 1 .5 .5 1 .46 .55 0 .54 .55 1", (80, 40, 120, 60)),
        ("0 1.001 .5 .2 .2", (180.2, 40, 220.2, 60)),
    ],
)
def test_yolo_lines_are_read_as_what_they_are(tmp_path, line, box):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(line + "\n")
    (read,) = read_yolo(tmp_path, tmp_path)
    np.testing.assert_allclose(read.boxes, [box], atol=1e-4)


def _face_xml(number: str = "9", difficult: str = "0", name: str = "face") -> str:
    box = f"<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{number}</xmax><ymax>9</ymax></bndbox>"
    return f"<annotation><object><name>{name}</name><difficult>{difficult}</difficult>{box}</object></annotation>"


@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "gb2312", "shift_jis", "big5"))
def test_label_files_are_read_in_their_own_encoding(tmp_path, encoding):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    word = "\u6f22" if encoding in ("gb2312", "shift_jis", "big5") else "\xfc"
    word = "\u4e2d" if encoding == "gb2312" else word
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>\n' + _face_xml().replace("<object>", f"<folder>{word}</folder><object>")
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    (read,) = read_voc(tmp_path, tmp_path)
    assert read.boxes.tolist() == [[0, 1, 9, 9]]


@pytest.mark.parametrize("encoding", ("utf-8-sig", "utf-16"))
def test_byte_order_marks_are_no_part_of_a_label(tmp_path, encoding):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 .5 .5 .5 .5\n", encoding=encoding)
    (tmp_path / "classes.txt").write_text("face\nperson\n", encoding=encoding)
    assert len(read_yolo(tmp_path, tmp_path)[0]) == 0
    (tmp_path / "classes.txt").write_text("person\nface\n", encoding=encoding)
    assert len(read_yolo(tmp_path, tmp_path)[0]) == 1
    if encoding == "utf-8-sig":
        (tmp_path / "gt.txt").write_text("event/a.jpg\n1\n1 2 3 4\n", encoding=encoding)
        assert read_wider_txt(tmp_path / "gt.txt")[0].event == "event"
        (tmp_path / "areas.json").write_text('{"left": [[0, 0], [1, 0], [1, 1]]}', encoding=encoding)
        assert list(read_regions(tmp_path / "areas.json")) == ["left"]


@pytest.mark.parametrize(
    "word,ignored", (("1", True), ("True", True), ("true", True), ("0", False), ("False", False), ("", False))
)
def test_difficult_in_words(tmp_path, word, ignored):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(_face_xml(difficult=word))
    assert read_voc(tmp_path, tmp_path)[0].ignore.tolist() == [ignored]


@pytest.mark.parametrize("sizes", ({}, {"width": None, "height": None}, {"width": 40.0, "height": 30.0}, {"width": 40}))
def test_coco_without_sizes_takes_the_photos(tmp_path, sizes):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": None, "ignore": True, "score": None}
    known = {
        "images": [{"id": 1, "file_name": "a.png", **sizes}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "face"}],
    }
    (tmp_path / "known.json").write_text(json.dumps(known), encoding="utf-8-sig")
    (read,) = read_coco(tmp_path / "known.json", tmp_path)
    assert (read.width, read.height, read.ignore.tolist(), read.scores.tolist()) == (40, 30, [True], [1])


@pytest.mark.parametrize(
    "reader,name,content,word",
    [
        (read_yolo, "a.txt", "0 0.1 0.2", "line 1: expected"),
        (read_yolo, "a.txt", "0 0.1 0.2 nan 0.1", "not finite"),
        (read_yolo, "a.txt", "0 100 50 40 40", "line 1: must be relative"),
        (read_yolo, "a.txt", "0 .1 .1 .4 .1 1.4 .9", "line 1: must be relative"),
        (read_yolo, "a.txt", "1 .1 .1 .4 .1 -.4 .9", "line 1: must be relative"),
        (read_yolo, "a.txt", "0 .1 .1 .4 .1 .4 .9 .3", "line 1: expected"),
        (read_voc, "a.xml", _face_xml("nan"), "not finite"),
        (read_yolo, "gone.txt", "", "no image of that name"),
        (read_yolo, "classes.txt", "dog", "no class 'face'"),
        (read_voc, "a.xml", "<annotation>", "not valid XML"),
        (read_voc, "a.xml", "<a><object><name>face</name></object></a>", "no 'bndbox'"),
        (read_voc, "a.txt", "", "holds no .xml files"),
    ],
)
def test_wrong_labels_are_one_line(tmp_path, reader, name, content, word):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=word) as caught:
        reader(tmp_path, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_photos_without_labels_are_all_ignored(tmp_path):
    (tmp_path / "deep").mkdir()
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "deep/b.jpg", exif=exif)
    Image.new("RGB", (50, 20)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no photo")
    first, second = read_unlabelled(tmp_path)
    assert (first.path.name, first.boxes.tolist()) == ("a.png", [[0, 0, 50, 20]])
    assert (second.path.name, second.boxes.tolist()) == ("b.jpg", [[0, 0, 30, 40]])
    assert first.ignore.all() and second.ignore.all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="empty: no photos there"):
        read_unlabelled(tmp_path / "empty")
    (tmp_path / "deep/c.jpg").write_bytes(b"no picture")
    with pytest.raises(AnnotationError, match=r"c\.jpg: cannot be read as an image"):
        read_unlabelled(tmp_path)


@pytest.mark.parametrize("content", ["x = " + "1" * 5000, "x = " + "[" * 100_000, "x = \xff"])
def test_settings_that_cannot_be_read_are_named(tmp_path, content):
    pytest.importorskip("torch")
    from tinyfaces.training.settings import load_config

    (tmp_path / "c.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.toml: ") as error:
        load_config(tmp_path / "c.toml", {})
    assert "\n" not in str(error.value)


def test_hidden_files_are_no_photos(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "@eaDir").mkdir()
    for name in ("._a.png", "@eaDir/b.png", "._a.txt"):
        (tmp_path / name).write_bytes(b"\0\1 a Mac's")
    (tmp_path / "a.txt").write_text("0 .5 .5 .2 .2\n")
    assert [image.path.name for image in read_unlabelled(tmp_path)] == ["a.png"]
    assert [image.path.name for image in read_yolo(tmp_path, tmp_path)] == ["a.png"]


def test_one_photo_does_not_end_a_training(tmp_path):
    torch = pytest.importorskip("torch")
    from tinyfaces.training.settings import load_config
    from tinyfaces.training.sources import open_sources

    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-4000])
    (tmp_path / "c.png").write_text("no photo")
    source = f'annotations = "{tmp_path}"\nimages = "{tmp_path}"\nformat = "yolo"\n'
    (tmp_path / "c.toml").write_text(
        f'variant = "fast"\ncache = "{tmp_path}/cache"\nout = "{tmp_path}/run"\nsteps = 1\nbatch = 2\nworkers = 0\nthreads = 1\n'
        f"evaluate_images = 1\n[crops]\nsize = 128\n[[train]]\n{source}[[dev]]\n{source}"
    )
    config = load_config(tmp_path / "c.toml", {})
    for _ in range(2):  # decoded, and from the cache
        told: list[str] = []
        images, weights, cache = open_sources(config.train, tmp_path / "cache", told.append)
        assert [image.path.name for image in images] == ["a.png", "d.png"] and len(weights) == len(cache) == 2
        assert (cache[1] == np.asarray(Image.open(tmp_path / "d.png"))).all()
        assert len(told) == 2 and "c.png: cannot be read" in told[0] and "b.png: damaged or cut short" in told[1]
    result = CliRunner().invoke(app, ["train", "proposals", "--config", str(tmp_path / "c.toml")])
    assert result.exit_code == 1 and result.stderr.count("b.png") == 2, result.output  # as a training and as a dev photo
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == 1
    for name in "ad":
        (tmp_path / f"{name}.png").write_text("no photo")
    result = CliRunner().invoke(app, ["train", "proposals", "--config", str(tmp_path / "c.toml")])
    assert result.exit_code == 2 and "none of" in result.stderr
