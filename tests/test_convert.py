"""Results turned from each format into each other: the same files as `detect` writes them, and what is lost is told."""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces.cli import app
from tinyfaces.jobs import formats

READ = [*formats.FORMATS]
WITH_SCORES = ("json", "jsonl", "csv", "coco", "yolo", "wider", "labelstudio", "fiftyone")
NEEDS_IMAGES = ("yolo", "wider", "csv", "fiftyone")


@pytest.fixture(scope="module")
def detected(toy_model, tmp_path_factory) -> Path:
    """A folder with photos/ and what `detect` makes of them: out/FORMAT."""
    folder = tmp_path_factory.mktemp("detected")
    (folder / "photos/more").mkdir(parents=True)
    Image.fromarray(paint(61, 97, [(8, 8), (40, 40)], [(64, 0)])).save(folder / "photos/a, ä.png")
    Image.fromarray(paint(64, 80, [(0, 24)])).save(folder / "photos/more/b.png")
    Image.fromarray(paint(32, 40)).save(folder / "photos/none.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for format in formats.FORMATS:
            arguments = ["detect", "photos", "-r", "--format", format, "--out", f"out/{format}", "--model", str(toy_model)]
            result = CliRunner().invoke(app, [*arguments, "--scale", "1"])
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def convert(monkeypatch, detected):
    """A function that gives the command."""
    monkeypatch.chdir(detected)

    def call(*arguments: str, code: int = 0):
        result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return call


def files_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_scores(text: str, format: str) -> str:
    """With 1 as each score, as it is written where none is known."""
    if format == "csv":
        return re.sub(r",[\d.]+$", ",1.0", text, flags=re.M)
    if format in ("yolo", "wider"):
        return re.sub(r" [\d.]+$", " 1.000000", text, flags=re.M)
    text = re.sub(r'("(?:score|confidence)": )[\d.]+', r"\g<1>1.0", text)
    return re.sub(r'"scores": \[([^\]]*)\]', lambda match: '"scores": [' + re.sub(r"[\d.]+", "1.0", match[1]) + "]", text)


@pytest.mark.parametrize("old,new", [*product(READ, formats.FORMATS)])
def test_the_new_files_are_those_that_detect_writes(old, new, convert, detected, tmp_path):
    output = convert(f"out/{old}", "--images", "photos", "--format", new, "--out", tmp_path / "new").output
    expected, got = files_in(detected / "out" / new), files_in(tmp_path / "new")
    if old == "csv":  # which does not know of photos without faces
        got.pop("faces_problems.csv", None)
        expected = {name: text for name, text in expected.items() if "none" not in name}
        if new in formats.DOCUMENTS:
            assert "none" not in "".join(got.values())
            return
    if old not in WITH_SCORES:
        expected = {name: without_scores(text, new) for name, text in expected.items()}
    assert got == expected
    assert ("written without scores" in output) == (old in WITH_SCORES and new not in WITH_SCORES)
    assert ("have no scores: 1 is written for each box" in output) == (old not in WITH_SCORES and new in WITH_SCORES)
    assert ("csv files have no line for photos without faces: 1 left out" in output) == (new == "csv" and old != "csv")


@pytest.mark.parametrize("old", [name for name in READ if name not in NEEDS_IMAGES])
def test_sizes_and_names_are_enough_without_the_photos(old, convert, detected, tmp_path):
    convert(f"out/{old}", "--format", "voc", "--out", tmp_path / "new", "--quiet")
    assert files_in(tmp_path / "new") == files_in(detected / "out/voc")


@pytest.mark.parametrize("old", NEEDS_IMAGES)
def test_what_needs_the_photos_says_so(old, convert, tmp_path):
    output = convert(f"out/{old}", "--format", "json", "--out", tmp_path / "new", code=2).output
    assert "give --images" in output
    assert not list((tmp_path / "new").glob("*.json"))


def test_photos_that_are_not_there_are_problems(convert, detected, tmp_path):
    output = convert("out/json", "--images", "photos/more", "--format", "yolo", "--out", tmp_path / "new", code=1).output
    assert "out/json/faces.json: 'photos/none.png' is none of the images given" in output
    assert [path.name for path in (tmp_path / "new").rglob("*.txt")] == ["b.txt"]


def test_a_photo_named_twice_is_a_problem(convert, detected, tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text((detected / "out/json/faces.json").read_text())
    output = convert(tmp_path, "--format", "csv", "--out", tmp_path / "new", code=1).output
    assert "'photos/more/b.png': has boxes in " in output


def test_names_never_lead_out_of_the_folder(convert, tmp_path):
    (tmp_path / "bad").mkdir()
    records = [{"file": name, "width": 9, "height": 9, "boxes": []} for name in ("../../x.png", "/etc/y.png", "z.png")]
    (tmp_path / "bad/faces.json").write_text(json.dumps({"images": records}))
    convert(tmp_path / "bad", "--format", "voc", "--out", tmp_path / "deep/new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.xml")) == [
        "deep/new/etc/y.xml", "deep/new/x.xml", "deep/new/z.xml",
    ]  # fmt: skip


def test_options(convert, detected, tmp_path):
    assert "give --format, --out, or both" in convert("out/json", code=2).output
    assert "--no-scores goes with --format yolo" in convert("out/json", "--format", "voc", "--no-scores", code=2).output
    assert "no such file or folder" in convert("gone", "--format", "csv", code=2).output
    result = convert("out/coco", "--images", "photos", "--format", "jsonl", "--quiet")
    assert result.stdout == (detected / "out/jsonl/faces.jsonl").read_text()
    result = convert("out/jsonl", "--format", "json", "--quiet")
    assert result.stdout == (detected / "out/json/faces.json").read_text()
    convert("out/json", "--format", "yolo", "--no-scores", "--out", tmp_path / "labels")
    assert (tmp_path / "labels/classes.txt").read_text() == "face\n"
    assert len((tmp_path / "labels/more/b.txt").read_text().split()) == 5
    path = detected / "out/json/faces.json"
    assert "is one of the input files" in convert(path, "--out", path, "--format", "json", code=2).output


def test_fractions_and_malformed_entries(convert, tmp_path):
    good = {"file": "a.png", "width": 9, "height": 9, "boxes": [[1.5, 2, 3, 4]]}
    (tmp_path / "x.json").write_text(json.dumps({"images": [good, {**good, "file": "b.png", "boxes": [[1]]}]}))
    output = convert(tmp_path / "x.json", "--format", "voc", "--out", tmp_path / "new", code=1).output
    assert "voc files have whole pixels: boxes are rounded" in output
    assert "x.json: b.png: its boxes must be lists of x1 y1 x2 y2" in output
    assert [path.name for path in (tmp_path / "new").glob("*.xml")] == ["a.xml"]


def test_videos(convert, tmp_path):
    frames = [
        {"frame": n, "time": n / 25, "width": 64, "height": 48, "boxes": [], "scores": [], "tracks": [], "found": []}
        for n in range(4)
    ]
    for n in (0, 3):
        frames[n].update(boxes=[[1.0, 2.0, 3.5, 4.0]], scores=[0.5], tracks=[7], found=[n == 0])
    old = tmp_path / "old"
    old.mkdir()
    (old / "clip.mp4.jsonl").write_text("".join(json.dumps({"file": "clip.mp4", **frame}) + "\n" for frame in frames))
    for number, (source, format) in enumerate([("old", "json"), ("0", "jsonl"), ("1", "csv"), ("2", "json")]):
        output = convert(tmp_path / source, "--format", format, "--out", tmp_path / str(number)).output
        assert ("csv files have no line for frames without faces" in output) == (format == "csv")
        assert ("they are put in, up to the last frame" in output) == (number == 3)
    assert (tmp_path / "1/clip.mp4.jsonl").read_text() == (old / "clip.mp4.jsonl").read_text()
    assert (tmp_path / "3/clip.mp4.json").read_text() == (tmp_path / "0/clip.mp4.json").read_text()
    assert np.loadtxt((tmp_path / "2/clip.mp4.csv").read_text().splitlines(), str, delimiter=",").shape == (3, 13)
    assert "is a video; its faces are written as json" in convert(old, "--format", "voc", "--out", tmp_path / "v", code=2).output
