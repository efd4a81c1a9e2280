"""The command line as a user meets it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import corners, paint
from test_images import bad_files
from test_wider import SHARED
from tinyfaces.cli import app


@pytest.fixture
def run(toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, code=0):
        options = ["--model", str(toy_model)] if arguments[0] == "detect" else []
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "1--street").mkdir(parents=True)
    Image.fromarray(paint(64, 96, [(8, 8), (40, 40)], [(64, 0)])).save(folder / "a.png")
    Image.fromarray(paint(32, 32)).save(folder / "none.png")
    Image.fromarray(paint(64, 64, [(0, 0)])).save(folder / "1--street" / "b.png")
    return folder


def test_the_table_alone_writes_nothing(run, photos, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    output = run("detect", "photos", "--recursive").stdout
    assert re.search(r"a\.png\W+96x64\W+3\W+8 px\W+8 px\W+32 px", output)
    assert re.search(r"none\.png\W+32x32\W+0\W", output)
    assert "4 faces in 3 images" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_quiet(run, photos):
    result = run("detect", "photos", "--quiet")
    assert result.output == ""


@pytest.mark.parametrize(
    "format,file", [("json", "faces.json"), ("jsonl", "faces.jsonl"), ("csv", "faces.csv"), ("coco", "faces.json")]
)
def test_documents_go_to_a_folder_or_to_the_standard_output(run, photos, tmp_path, format, file):
    run("detect", "photos", "--out", "res", "--format", format)
    written = (tmp_path / "res" / file).read_text()
    assert run("detect", "photos", "--format", format).stdout == written
    assert [path.name for path in (tmp_path / "res").iterdir()] == [file]


def test_the_format_follows_the_files_name(run, photos, tmp_path):
    run("detect", "photos/a.png", "--out", "deep/x.csv")
    assert (tmp_path / "deep/x.csv").read_text().startswith("file,x1,y1")
    run("detect", "photos/a.png", "--out", "x.json")
    boxes = json.loads((tmp_path / "x.json").read_text())["images"][0]["boxes"]
    assert {tuple(round(v) for v in box) for box in boxes} == corners([(8, 8), (40, 40)], [(64, 0)])


def test_wider_mirrors_the_folders(run, photos, tmp_path):
    run("detect", "photos", "-r", "--format", "wider", "--out", "pred")
    assert sorted(p.relative_to(tmp_path / "pred").as_posix() for p in (tmp_path / "pred").rglob("*.txt")) == [
        "1--street/b.txt", "photos/a.txt", "photos/none.txt",
    ]  # fmt: skip
    assert (tmp_path / "pred/1--street/b.txt").read_text().splitlines()[:2] == ["b", "1"]


def test_yolo_and_pictures(run, photos, tmp_path):
    run("detect", "photos", "-r", "--format", "yolo", "--out", "res", "--save-images")
    names = sorted(p.relative_to(tmp_path / "res").as_posix() for p in (tmp_path / "res").rglob("*.*"))
    assert names == ["1--street/b.txt", "1--street/b_faces.png", "a.txt", "a_faces.png", "none.txt", "none_faces.png"]
    drawn = np.asarray(Image.open(tmp_path / "res/a_faces.png"))
    assert drawn[7, 8].tolist() == [0, 255, 0] and drawn[12, 12].tolist() == [255, 0, 0]


def test_pictures_of_images_wider_than_a_jpeg_are_reduced(run, tmp_path):
    Image.fromarray(paint(16, 70_000, [(8, 8), (69_992, 8)])).save(tmp_path / "wide.tif")
    run("detect", "wide.tif", "--save-images", "--out", "out")
    assert Image.open(tmp_path / "out/wide_faces.jpg").size == (35_000, 8)


def test_bad_files_are_told_and_the_rest_goes_on(run, photos, tmp_path):
    bad = bad_files(photos)
    result = run("detect", "photos", "nowhere.jpg", "--out", "res", code=1)
    lines = result.stderr.splitlines()
    for name in [*bad, "nowhere.jpg"]:
        assert sum(name in line for line in lines) == 1
    assert len(lines) == len(bad) + 1
    read = json.loads((tmp_path / "res/faces.json").read_text())["images"]
    assert [image["file"] for image in read] == ["photos/a.png", "photos/none.png"]


def test_nothing_readable_is_another_code(run, tmp_path):
    bad_files(tmp_path)
    run("detect", "empty.jpg", "cut.jpg", code=2)
    run("detect", "nowhere.jpg", code=2)


def test_wrong_usage(run, photos, toy_model):
    assert "--threshold" in run("detect", "photos", "--threshold", "7", code=2).stderr
    assert "number or 'auto'" in run("detect", "photos", "--scale", "big", code=2).stderr
    assert "abacus" in run("detect", "photos", "--backend", "abacus", code=2).stderr
    result = CliRunner().invoke(app, ["detect", str(photos), "--model", "gone.onnx"])
    assert result.exit_code == 2 and "gone.onnx: no such model file" in result.stderr


def test_sources_and_each_other_are_never_overwritten(run, photos, tmp_path):
    Image.fromarray(paint(32, 32)).save(photos / "a.bmp")
    result = run("detect", "photos", "--format", "yolo", "--out", "res", code=1)
    assert "another file of that name" in result.stderr
    Image.fromarray(paint(32, 32)).save(photos / "none_faces.png")
    before = (photos / "none_faces.png").read_bytes()
    result = run("detect", "photos/none.png", "photos/none_faces.png", "--save-images", "--out", "photos", code=1)
    assert "never overwritten" in result.stderr and (photos / "none_faces.png").read_bytes() == before


def test_a_folder_that_cannot_be_written(run, photos, tmp_path):
    (tmp_path / "file").touch()
    result = run("detect", "photos", "--out", "file/res", "--format", "json", code=2)
    assert len(result.stderr.splitlines()) == 1 and "file" in result.stderr


def test_scale(run, photos):
    assert "2 faces in 2 images" not in run("detect", "photos", "--scale", "0.5").stdout
    run("detect", "photos", "--scale", "auto")


def test_models_lists_what_ships(run):
    from tinyfaces.weights import models

    output = run("models").stdout
    for name, record in models().items():
        assert re.search(rf"{name}\W+{record.bytes / 1e6:.1f} MB", output)


def test_import_is_light():
    code = (
        "import sys, tinyfaces, tinyfaces.cli; print([m for m in ('torch', 'onnxruntime', 'scipy', 'cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_detection_never_imports_torch(toy_model):
    code = (
        "import sys, numpy, tinyfaces; tinyfaces.Detector(sys.argv[1]).detect(numpy.zeros((64, 64, 3), 'uint8'));"
        "print([m for m in ('torch', 'scipy', 'cv2', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(toy_model)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "missing,extra,command",
    [
        ("av", "video", ["anonymise", "clip.mp4"]),
        ("av", "video", ["detect", "clip.mp4"]),
        ("ray", "ray", ["detect", "photos", "--ray", "local", "--out", "res"]),
        ("pyarrow", "ray", ["detect", "photos", "--ray", "local", "--out", "res"]),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(photos, toy_model, tmp_path, missing, extra, command):
    (tmp_path / "clip.mp4").write_bytes(b"anything")
    code = f"import sys; sys.modules['{missing}'] = None; from tinyfaces.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--model", str(toy_model)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"pip install 'tinyfaces[{extra}]'" in done.stderr and missing in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_version():
    import tinyfaces

    done = subprocess.run([sys.executable, "-m", "tinyfaces", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"tinyfaces {tinyfaces.__version__}"


def test_evaluate_coco(photos, toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxes = {"a.png": [[8, 8, 8, 8], [40, 40, 8, 8], [64, 0, 32, 32]], "none.png": [[0, 0, 8, 8]]}
    known = {
        "images": [
            {"id": 0, "file_name": "a.png", "width": 96, "height": 64},
            {"id": 1, "file_name": "none.png", "width": 32, "height": 32},
        ],
        "annotations": [
            {"id": 10 * n + m, "image_id": n, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, name in enumerate(boxes)
            for m, box in enumerate(boxes[name])
        ],
        "categories": [{"id": 1, "name": "face"}],
    }
    (tmp_path / "known.json").write_text(json.dumps(known))
    command = [
        "evaluate",
        "coco",
        "--annotations",
        "known.json",
        "--images",
        "photos",
        "--model",
        str(toy_model),
        "--json",
        "ap.json",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "ap.json").read_text())
    # of the three small faces two are found with precision 1: 67 of the 101 recall points
    assert read["<=10"] == {"ap": pytest.approx(67 / 101), "faces": 3}
    assert read["16-32"] == {"ap": pytest.approx(1), "faces": 1}
    assert read[">96"] == {"ap": None, "faces": 0}
    (photos / "a.png").unlink()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "a.png" in result.stderr and len(result.stderr.splitlines()) == 1


def test_evaluate_wider_reproduces_the_toolbox(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: real predictions with the toolbox's values")
    out = tmp_path / "ap.json"
    command = ["evaluate", "wider", "--predictions", str(SHARED / "predictions.zip"), "--ground-truth", str(SHARED)]
    result = CliRunner().invoke(app, [*command, "--json", str(out)])
    assert result.exit_code == 0, result.output
    expected = json.loads((SHARED / "expected.json").read_text())
    ours = {name: values["ap"] for name, values in json.loads(out.read_text()).items()}
    for name in ("easy", "medium", "hard", "tiny", "micro"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-4)


def test_evaluate_wider_tells_what_is_wrong(tmp_path):
    for arguments in (
        ["--ground-truth", str(tmp_path)],
        ["--ground-truth", str(tmp_path), "--predictions", "none.zip"],
        ["--ground-truth", str(tmp_path / "none"), "--images", str(tmp_path)],
    ):
        result = CliRunner().invoke(app, ["evaluate", "wider", *arguments])
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output


@pytest.mark.parametrize(
    ("command", "options", "names"),
    [
        ("anonymise", ["--also-boxes", "b.json", "--boxes", "b.json"], "--boxes and --also-boxes do"),
        ("anonymise", ["--report", "r.json"], "--report does"),
        ("anonymise", ["--quality", "30"], "--quality does"),
        ("anonymise", ["--every", "3", "--keep-track", "1", "--to", "9"], "--every, --keep-track and --to do"),
        ("anonymise", ["--threads", "1"], "--threads does"),
        ("detect", ["--threads", "1"], "--threads does"),
        ("detect", ["--format", "csv", "--copies"], "--format and --copies do"),
        ("detect", ["--show", "scores", "--margin", "0.1"], "--show and --margin do"),
        ("detect", ["--min-height", "9", "--only-region", "0,0 1,0 1,1"], "--min-height and --only-region do"),
        ("detect", ["--every", "auto"], "--every does"),
    ],
)
def test_what_a_cluster_would_pass_over_is_refused_before_anything_runs(run, command, options, names):
    output = run(command, "photos", "--ray", "nowhere:1", "--out", "out", *options, code=2).output
    assert f"; {names} not go with it" in output and output.count("\n") == 1 and not Path("out").exists()
