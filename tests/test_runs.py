"""All commands that take files share one way through them: threads, journal, huge images, files never overwritten."""

import io
import json
import os
import re
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces.cli import app
from tinyfaces.detection import images
from tinyfaces.detection.detector import Detector
from tinyfaces.jobs.journal import Journal, JournalError

COMMANDS = ("detect", "anonymise", "count", "restore", "evaluate coco")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    boxes = []
    for number in range(6):
        Image.fromarray(paint(64, 96, [(8 * number, 16), (64, 40)])).save(tmp_path / f"in/{number}.png")
        boxes += [(number, [8 * number, 16, 8, 8]), (number, [64, 40, 8, 8])]
    known = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 96, "height": 64} for number in range(6)],
        "annotations": [
            {"id": place, "image_id": number, "category_id": 1, "bbox": box, "area": 64, "iscrowd": 0}
            for place, (number, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "face"}],
    }
    (tmp_path / "known.json").write_text(json.dumps(known))
    return tmp_path / "in"


def arguments(command: str) -> list[str]:
    return {
        "detect": ["detect", "in", "--out", "out/faces.json"],
        "anonymise": ["anonymise", "in", "--out", "out"],
        "count": ["count", "in", "--out", "out/numbers.json"],
        "restore": ["restore", "in", "--out", "out", "--max-height", "20"],
        "evaluate coco": ["evaluate", "coco", "--annotations", "known.json", "--images", "in", "--json", "out/ap.json"],
    }[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_share_one_detector(run, photos, monkeypatch, command):
    meeting, detect, opened, users = threading.Barrier(2, timeout=20), Detector.detect, [], set()

    def counted(self, *given, **options):
        opened.append(self)
        return real_init(self, *given, **options)

    def watched(self, *given, **options):
        if len(users) < 2:
            users.add(threading.get_ident())
            meeting.wait()  # passes only where two threads detect at once
        return detect(self, *given, **options)

    real_init = Detector.__init__
    monkeypatch.setattr(Detector, "__init__", counted)
    monkeypatch.setattr(Detector, "detect", watched)
    run(*arguments(command), "--threads", "2")
    assert len(users) == 2 and len(opened) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_resumed_run_detects_only_what_is_new(run, photos, tmp_path, monkeypatch, command):
    run(*arguments(command), "--resume")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if "journal" not in path.name}
    changed = paint(64, 96, [(40, 24), (64, 40)])
    changed[..., 2] = 90
    Image.fromarray(changed).save(photos / "3.png")
    seen, detect = [], Detector.detect
    monkeypatch.setattr(Detector, "detect", lambda self, image, **options: seen.append(1) or detect(self, image, **options))
    run(*arguments(command), "--resume")
    assert len(seen) == 1
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if "journal" not in path.name}
    assert set(after) == set(before)
    assert {path.name for path in after if after[path] != before[path]} == {
        "detect": {"faces.json"}, "anonymise": {"3.png"}, "count": set(), "evaluate coco": {"ap.json"},
        "restore": {"000.png", "001.png", "3_restored.png"},
    }[command]  # fmt: skip


@pytest.mark.parametrize("command", ["restore", "count", "evaluate coco", "detect"])
def test_images_too_large_for_memory_go_through_every_command(run, photos, tmp_path, monkeypatch, command):
    pytest.importorskip("pyvips", reason="pyvips is not installed (the extra large)")
    run(*arguments(command))
    whole = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 96 - 1)
    run(*arguments(command))
    assert whole == {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}


def test_restore_overwrites_no_input(run, tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.png", "a/000.png", "b.png", "b_restored.png"):
        Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("a/000.png", "b_restored.png")}
    result = run("restore", "a.png", "a/000.png", "b.png", "b_restored.png", "--out", ".", code=1)
    assert "a: holds input files, which are never overwritten" in result.stderr
    assert "b_restored.png: is one of the input files, which are never overwritten" in result.stderr
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    "given",
    [
        ["detect", "in", "--out", "in/0.json"],
        ["count", "in", "--out", "in/0.json"],
        ["anonymise", "in", "--report", "in/0.png"],
        ["evaluate", "coco", "--annotations", "known.json", "--images", "in", "--json", "in/0.png"],
    ],
)
def test_documents_overwrite_no_input(run, photos, given):
    before = (photos / "0.png").read_bytes()
    expected = 0 if given[-1].endswith(".json") else 2
    result = run(*given, code=expected)
    assert (photos / "0.png").read_bytes() == before
    told = re.search("is one of the input files|writes JSON", result.stderr)
    assert expected == 0 or (told and len(result.stderr.splitlines()) == 1)


def test_videos_that_restore_cannot_use_and_resume_without_a_file_are_said(run, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"anything")
    assert "a.mp4: is a video; faces are restored in images only" in run("restore", "a.mp4", code=2).stderr
    assert "--resume needs --json" in run(
        "evaluate", "coco", "--annotations", str(_one_photo(tmp_path)), "--images", str(tmp_path), "--resume", code=2
    ).stderr  # fmt: skip


def _one_photo(folder):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "black.png")
    known = {
        "images": [{"id": 1, "file_name": "black.png", "width": 32, "height": 32}], "annotations": [],
        "categories": [{"id": 1, "name": "face"}],
    }  # fmt: skip
    (folder / "one.json").write_text(json.dumps(known))
    return folder / "one.json"


@pytest.mark.parametrize(
    "command", [[], *(c.split() for c in COMMANDS), ["serve"], ["train"], ["train", "proposals"], ["export"], ["models"]]
)
def test_help(command):
    short, long = (CliRunner().invoke(app, [*command, option]).stdout for option in ("-h", "--help"))
    assert short == long and "Usage:" in short


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_in_groups(command):
    text = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"}).stdout
    groups = [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z]\w+:", line)]
    faces = ["Faces"] if command in ("detect", "anonymise") else []
    assert groups == ["Input", "Model", *faces, "Output", "Speed", "Options"]
    assert text.index("Model:") < text.index("--scale") < text.index("Output:") < text.index("--threads")


def _document(folder):
    (folder / "areas.json").write_text('{"left": [[0, 0], [0.5, 0], [0.5, 1]]}')


@pytest.mark.parametrize(
    "given,kept",
    [
        (["count", "in", "--regions", "areas.json", "--out", "areas.json"], "areas.json"),
        (["count", "in", "--regions", "areas.json", "--out", "in/../areas.json"], "areas.json"),
        (["evaluate", "coco", "--annotations", "known.json", "--images", "in", "--json", "known.json"], "known.json"),
        (["detect", "in", "--format", "yolo", "--no-scores", "--out", "in"], "in/classes.txt"),
    ],
)
def test_nothing_that_was_given_is_written_over(run, photos, tmp_path, given, kept):
    _document(tmp_path)
    (photos / "classes.txt").write_text("person\nface\n")
    before = (tmp_path / kept).read_bytes()
    result = run(*given, code=2)
    assert "choose another" in result.stderr.splitlines()[-1] and (tmp_path / kept).read_bytes() == before


def test_the_model_is_not_written_over(photos, tmp_path, toy_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces.json").write_bytes(toy_model.read_bytes())
    result = CliRunner().invoke(app, ["detect", "in", "--out", ".", "--model", "faces.json"])
    assert result.exit_code == 2 and "faces.json: is the model" in result.stderr
    assert (tmp_path / "faces.json").read_bytes() == toy_model.read_bytes()


def test_only_a_list_of_problems_is_removed(run, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/faces_problems.csv").write_text("my own notes\n")
    run("detect", "in", "--out", "out")
    assert (tmp_path / "out/faces_problems.csv").read_text() == "my own notes\n"


@pytest.mark.parametrize(
    "given,words",
    [
        (["detect", "in", "--out", "x.csv", "--format", "json"], "x.csv: --format json writes .json files"),
        (["detect", "in", "--out", "x.jsonl", "--format", "coco"], "x.jsonl: --format coco writes .json files"),
        (["detect", "in", "--out", "x.json", "--format", "yolo"], "a file for each image, to a folder"),
        (["detect", "in", "--out", "x.txt", "--format", "yolo"], "a file for each image, to a folder"),
        (["detect", "in", "--out", "x.txt"], "x.txt: --out is a folder, or a file whose name ends in .json, .jsonl, .csv"),
        (["count", "in", "--out", "x.csv", "--format", "json"], "x.csv: --format json writes .json files"),
        (["count", "in", "--out", "x.jsonl"], "x.jsonl: --out is a folder, or a file whose name ends in .json, .csv"),
        (["count", "in", "--out", "x.txt"], "x.txt: --out is a folder"),
        (["count", "in", "--density", "x.png"], "x.png: --density is a folder"),
        (["anonymise", "in", "--out", "x.txt"], "x.txt: --out is a folder"),
        (["anonymise", "in", "--report", "x.csv"], "x.csv: --report writes JSON"),
        (["restore", "in", "--out", "x.png"], "x.png: --out is a folder"),
        (["evaluate", "coco", "--annotations", "known.json", "--images", "in", "--json", "x.csv"], "x.csv: --json writes JSON"),
    ],
)
def test_names_and_formats_that_contradict_are_refused(run, photos, tmp_path, given, words):
    before = sorted(tmp_path.rglob("*"))
    result = run(*given, code=2)
    assert words in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_count_writes_to_a_folder_as_detect_does(run, photos, tmp_path):
    run("count", "in", "--out", "res")
    run("count", "in", "--out", "res", "--format", "csv")
    assert {path.name for path in (tmp_path / "res").iterdir()} == {"counts.json", "counts.csv"}


@pytest.mark.parametrize(
    "given",
    [
        ["export", "a.safetensors", "a.onnx"],
        ["export", "a.onnx", "deep/../a.onnx"],
        ["train", "average", "a.pt", "b.pt", "b.pt"],
        ["evaluate", "wider", "--predictions", "b.json", "--ground-truth", ".", "--json", "b.json"],
        ["evaluate", "ablation", "--config", "b.json", "--proposals", "a.pt", "--out", "b.md"],
    ],
)
def test_commands_without_a_run_keep_what_they_are_given(tmp_path, monkeypatch, given):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    names = ("a.safetensors", "a.onnx", "a.pt", "b.pt", "b.json")
    for name in names:
        (tmp_path / name).write_text(name)
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2 and "never overwritten" in result.stderr, result.output
    assert [(tmp_path / name).read_text() for name in names] == list(names)


NAMING = (
    ["detect", "in", "--format", "csv", "--out", "out"],
    ["detect", "in", "--save-images", "--out", "out", "--format", "voc"],
    ["detect", "in", "--crops", "out", "--out", "out", "--format", "voc"],
    ["anonymise", "in", "--out", "out", "--report", "r.json"],
    ["count", "in", "--density", "out"],
    ["count", "in", "--out", "out", "--format", "csv"],
    ["restore", "in", "--out", "out", "--max-height", "20"],
)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are UTF-8")
@pytest.mark.parametrize("given", NAMING, ids=lambda given: " ".join(given))
def test_names_of_any_bytes(run, tmp_path, given):
    (tmp_path / "in").mkdir()
    content = io.BytesIO()
    Image.fromarray(paint(64, 64, [(8, 8)])).save(content, "PNG")
    for name in (b"a.png", b"gut_f\xfcnf.png", b"z.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(content.getvalue())
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/kaputt_M\xfcller.jpg")).write_bytes(b"not a photo")
    result = run(*given, code=1)
    assert len(result.stderr.splitlines()) == 1 and "kaputt_M?ller.jpg: not an image" in result.stderr
    lists = list(tmp_path.rglob("*problems.csv"))
    assert "--density" in given or "kaputt" in lists[0].read_text()
    if given[0] == "anonymise":
        assert len(json.loads((tmp_path / "r.json").read_text())["files"]) == 3
        assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.parametrize("given", NAMING, ids=lambda given: " ".join(given))
def test_names_as_long_as_can_be(run, tmp_path, given):
    (tmp_path / "in").mkdir()
    names = ["a", "\U0001f600" * 62, "\u6f22" * 83, "x" * 250 + "1", "x" * 250 + "2"]
    for name in names:
        Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / f"in/{name}.jpg", "PNG")
    run(*given)
    pictures = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".jpg", ".png") and path.parent.name == "out"]
    assert len(pictures) == (0 if "csv" in given else 5)
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize("error", (MemoryError(), struct.error("unpack"), TypeError("no\nnumber"), RuntimeError("of a runtime")))
def test_whatever_a_file_raises_is_its_own_problem(run, photos, tmp_path, monkeypatch, error):
    detect = Detector.detect

    def failing(self, image, **options):
        if image[20, 28, 0] == 255:  # in 3.png alone
            raise error
        return detect(self, image, **options)

    monkeypatch.setattr(Detector, "detect", failing)
    result = run("detect", "in", "--out", "out", code=1)
    kind = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
    assert result.stderr.splitlines() == [f"tinyfaces: in/3.png: cannot be done ({kind})"]
    assert len(json.loads((tmp_path / "out/faces.json").read_text())["images"]) == 5
    assert "in/3.png" in (tmp_path / "out/faces_problems.csv").read_text()


def test_a_journal_that_cannot_be_written_is_one_line(run, photos, monkeypatch):
    monkeypatch.setattr(
        Journal, "write", lambda *given: (_ for _ in ()).throw(JournalError("faces.journal: cannot be written (full)"))
    )
    assert run("detect", "in", "--out", "out", code=2).stderr.splitlines() == [
        "tinyfaces: faces.journal: cannot be written (full)"
    ]


def test_restored_faces_are_written_over_no_photo(run, photos, tmp_path):
    (photos / "0").mkdir()
    Image.fromarray(paint(64, 64)).save(photos / "0/000.png")  # of the user, and not given
    before = (photos / "0/000.png").read_bytes()
    for _ in range(2):
        result = run("restore", "in", "--out", "in", "--max-height", "20", code=1)
        assert "in/0/000.png: is no restored face, and is not overwritten" in result.stderr
    assert (photos / "0/000.png").read_bytes() == before and (photos / "1/000.png").exists()
