"""`anonymise --boxes` and `--also-boxes`: what files give is masked, exactly, and nothing is published uncovered by mistake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces.cli import app

FORMATS = ("json", "jsonl", "csv", "coco", "yolo", "voc", "wider")


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A function that gives a command with a model that does not exist."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["anonymise", *arguments, "--model", "gone.onnx"])
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result.output

    return call


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos in which the toy model finds faces, over noise that no mask leaves as it was."""
    for seed, (name, small) in enumerate({"a.png": [(8, 8), (40, 40)], "more/b.png": [(0, 24)]}.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 40, (64, 96, 3), np.uint8)
        Image.fromarray(np.maximum(paint(64, 96, small), noise)).save(path)
    return tmp_path / "photos"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def changed(path: Path, source: Path) -> np.ndarray:
    return (pixels(path) != pixels(source)).any(axis=2)


def edit(folder: Path, format: str) -> None:
    """Take the face at (40, 40) away and add one at (70, 10), in the files of a format."""
    old, new = (40, 40, 48, 48), (70, 10, 80, 22)
    if format == "json":
        path = folder / "faces.json"
        content = json.loads(path.read_text())
        record = next(one for one in content["images"] if one["file"].endswith("a.png"))
        record["boxes"] = [box for box in record["boxes"] if tuple(map(round, box)) != old] + [[*new]]
        record["scores"] = [*record["scores"][:1], 1]
        path.write_text(json.dumps(content))
    elif format == "jsonl":
        path = folder / "faces.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        record = next(one for one in records if one["file"].endswith("a.png"))
        record["boxes"] = [box for box in record["boxes"] if tuple(map(round, box)) != old] + [[*new]]
        del record["scores"]
        path.write_text("\n".join(map(json.dumps, records)))
    elif format == "csv":
        path = folder / "faces.csv"
        rows = [row.split(",") for row in path.read_text().splitlines()]
        kept = [row for row in rows if tuple(round(float(one)) for one in row[1:5] if one[0] != "x" and one[0] != "y") != old]
        path.write_text("\n".join(map(",".join, [*kept, ["photos/a.png", *map(str, new), "1"]])))
    elif format == "coco":
        path = folder / "faces.json"
        content = json.loads(path.read_text())
        kept = [one for one in content["annotations"] if tuple(map(round, one["bbox"])) != (40, 40, 8, 8)]
        image = next(one["id"] for one in content["images"] if one["file_name"] == "a.png")
        content["annotations"] = [*kept, {"id": 99, "image_id": image, "category_id": 1, "bbox": [70, 10, 10, 12]}]
        path.write_text(json.dumps(content))
    elif format == "yolo":
        path = folder / "a.txt"
        kept = [line for line in path.read_text().splitlines() if round(float(line.split()[1]) * 96) != 44]
        path.write_text("\n".join([*kept, f"0 {75 / 96:.9f} {16 / 64:.9f} {10 / 96:.9f} {12 / 64:.9f}"]))
    elif format == "voc":
        path = folder / "a.xml"
        text = path.read_text()
        for here, there in (
            ("xmin>41<", "xmin>71<"),
            ("ymin>41<", "ymin>11<"),
            ("xmax>48<", "xmax>80<"),
            ("ymax>48<", "ymax>22<"),
        ):
            assert here in text
            text = text.replace(here, there)
        path.write_text(text)
    else:
        path = folder / "photos/a.txt"
        lines = path.read_text().splitlines()
        kept = [line for line in lines[2:] if round(float(line.split()[0]) + 0.5) != 40]
        path.write_text("\n".join([*lines[:2], *kept, "69.5 9.5 10 12 1"]))


@pytest.mark.parametrize("format", FORMATS)
def test_detect_edit_anonymise(format, run, known, photos, tmp_path):
    run("detect", "photos", "-r", "--threshold", "0.2", "--format", format, "--out", "found")
    run("anonymise", "photos", "-r", "--out", "direct")
    known("photos", "-r", "--boxes", "found", "--out", "same")
    for name in ("a.png", "more/b.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "same" / name), pixels(tmp_path / "direct" / name))
    edit(tmp_path / "found", format)
    known("photos", "-r", "--boxes", "found", "--out", "edited", "--method", "solid", "--shape", "box", "--report", "r.json")
    mask = changed(tmp_path / "edited/a.png", photos / "a.png")
    # 1.45 times the box and 2 pixels more, with every pixel that is partly within.
    expected = np.zeros((64, 96), bool)
    expected[3:21, 3:21] = True
    expected[int(16 - 8.7 - 2.5) : int(np.ceil(16 + 8.7 + 2.5)), int(75 - 7.25 - 2.5) : int(np.ceil(75 + 7.25 + 2.5))] = True
    np.testing.assert_array_equal(mask, expected)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["boxes"] == "found" and "model" not in report["settings"]
    assert [file["faces"] for file in report["files"]] == [2, 1]
    known("photos", "-r", "--boxes", "r.json", "--out", "reported", "--method", "solid", "--shape", "box")
    np.testing.assert_array_equal(pixels(tmp_path / "reported/a.png"), pixels(tmp_path / "edited/a.png"))


def test_photos_without_an_entry_are_told_and_not_written(known, photos, tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"images": [{"file": "photos/a.png", "boxes": []}]}))
    output = known("photos", "-r", "--boxes", "b.json", code=1)
    assert "photos/more/b.png: has no entry in b.json; not masked, and not written" in output
    assert not (tmp_path / "anonymised/more").exists()
    assert not changed(tmp_path / "anonymised/a.png", photos / "a.png").any()
    known("photos/more/b.png", "--boxes", "b.json", "--out", "none", code=2)


def test_what_contradicts_a_photo_is_told(known, photos, tmp_path):
    records = [{"file": f"photos/{name}", "width": 640, "height": 480, "boxes": []} for name in ("a.png", "gone.png")]
    (tmp_path / "b.json").write_text(json.dumps({"images": [*records, {"file": "photos/more/b.png", "boxes": [[1, 2, 3]]}]}))
    output = known("photos", "-r", "--boxes", "b.json", code=2)
    assert "photos/a.png: is 96x64 pixels, but b.json says 640x480" in output
    assert "photos/more/b.png: cannot be covered (b.json: photos/more/b.png: its boxes must be lists of x1 y1 x2 y2)" in output
    assert "b.json: 1 entry fits none of the files given" in output
    assert not list((tmp_path / "anonymised").glob("**/*.png"))


def test_boxes_that_cannot_be_read_end_the_command(known, photos, tmp_path):
    (tmp_path / "b.json").write_text("{")
    assert "tinyfaces: b.json: not valid JSON" in known("photos", "--boxes", "b.json", code=2)
    assert "gone: no such file or folder" in known("photos", "--also-boxes", "gone", code=2)
    assert "--boxes does not go with it" in known("photos", "--boxes", "b.json", "--ray", "local", code=2)
    assert not (tmp_path / "anonymised").exists()


@pytest.mark.parametrize("option", [("--threshold", "0.5"), ("--min-height", "9"), ("--only-region", "0,0 9,0 9,9")])
def test_options_that_choose_among_faces_found_are_refused(option, known, photos, tmp_path):
    (tmp_path / "b.json").write_text('{"images": []}')
    assert "do not go with it" in known("photos", "--boxes", "b.json", *option, code=2)


def test_files_of_boxes_are_not_written_over(known, photos, tmp_path):
    (tmp_path / "b.json").write_text('{"images": []}')
    assert "b.json: is one of the input files" in known("photos", "--boxes", "b.json", "--report", "b.json", code=2)
    assert (tmp_path / "b.json").read_text() == '{"images": []}'


def test_boxes_beside_those_found(run, photos, tmp_path):
    (tmp_path / "plates").mkdir()
    (tmp_path / "plates/a.txt").write_text(f"3 {75 / 96:.9f} {16 / 64:.9f} {10 / 96:.9f} {12 / 64:.9f} 0.3")
    run("anonymise", "photos", "-r", "--out", "found", "--shape", "box")
    run("anonymise", "photos", "-r", "--out", "both", "--shape", "box", "--also-boxes", "plates")
    np.testing.assert_array_equal(pixels(tmp_path / "both/more/b.png"), pixels(tmp_path / "found/more/b.png"))
    before, after = (changed(tmp_path / folder / "a.png", photos / "a.png") for folder in ("found", "both"))
    assert not before[5:27, 66:84].any() and after[5:27, 66:84].all()
    assert after.sum() == before.sum() + after[4:28, 65:85].sum() and (after >= before).all()
    shutil.move(tmp_path / "plates/a.txt", tmp_path / "plates/other.txt")
    output = run("anonymise", "photos", "-r", "--out", "no", "--also-boxes", "plates", code=2).output
    assert "plates: has no boxes for any of the files" in output


def test_both_options_together_detect_nothing(known, photos, tmp_path):
    for name, box in {"faces": [8, 8, 16, 16], "plates": [70, 10, 80, 22]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"images": [{"file": "a.png", "boxes": [box]}]}))
    known("photos/a.png", "--boxes", "faces.json", "--also-boxes", "plates.json", "--method", "solid")
    mask = changed(tmp_path / "anonymised/a.png", photos / "a.png")
    assert mask[8:16, 8:16].all() and mask[10:22, 70:80].all() and not mask[40:48, 40:48].any()


def test_resume_knows_that_boxes_have_changed(known, photos, tmp_path):
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps({"images": [{"file": f"photos/{name}", "boxes": []} for name in ("a.png", "more/b.png")]}))
    known("photos", "-r", "--boxes", "b.json", "--resume")
    assert "2 files done in an earlier run" in known("photos", "-r", "--boxes", "b.json", "--resume")
    boxes.write_text(boxes.read_text().replace("[]", "[[1, 2, 3, 4]]", 1))
    assert "belongs to a run with other settings (boxes: " in known("photos", "-r", "--boxes", "b.json", "--resume", code=2)


def test_transparency_that_shows_a_picture_is_covered_too(known, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    (tmp_path / "b.json").write_text(json.dumps({"images": [{"file": "a.png", "boxes": [[20, 20, 40, 40]]}]}))
    known("a.png", "--boxes", "b.json", "--method", "solid")
    covered = np.asarray(Image.open(tmp_path / "anonymised/a.png"))
    assert (covered[20:40, 20:40] == [0, 0, 0, 255]).all()


def test_orientation(known, tmp_path):
    """Boxes are in pixels of the upright photo."""
    photo = Image.fromarray(np.full((60, 100, 3), 200, np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.png", exif=exif)
    record = {"file": "a.png", "width": 60, "height": 100, "boxes": [[10, 70, 20, 90]]}
    (tmp_path / "b.json").write_text(json.dumps({"images": [record]}))
    known("a.png", "--boxes", "b.json", "--method", "solid")
    assert (pixels(tmp_path / "anonymised/a.png")[70:90, 10:20] == 0).all()
    (tmp_path / "b.json").write_text(json.dumps({"images": [{**record, "width": 100, "height": 60}]}))
    output = known("a.png", "--boxes", "b.json", "--out", "wrong", code=2)
    assert "a.png: is 60x100 pixels, but b.json says 100x60, as if its orientation were not applied" in output
