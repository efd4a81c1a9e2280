"""Which files a command takes: each real file once, no hidden ones, no results of earlier runs; and what it says of the rest."""

import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces.cli import app
from tinyfaces.jobs.inputs import find_inputs, left_out_line


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(paint(32, 32, [(8, 8)])).save(path)


def names(given: list[str], recursive: bool = True) -> list[str]:
    return [file.name.as_posix() for file in find_inputs(given, recursive).files]


@pytest.mark.parametrize(
    "given", (["links"], ["links/**/*.png"], ["links/**"], ["**/*.png"], ["l*/**/a/*.png"], ["links/a", "links"])
)
def test_links_that_lead_up_give_each_real_file_once(here, given):
    photo("links/a/p.png")
    for number in range(3):  # glob would take an exponential number of ways
        Path(f"links/a/up{number}").symlink_to("..")
    Path("links/q.png").symlink_to("a/p.png")
    assert len(find_inputs(given, True).files) == 1


def test_folders_that_are_linked_are_searched(here):
    photo("elsewhere/a.png")
    Path("in").mkdir()
    Path("in/album").symlink_to(here / "elsewhere")
    Path("in/gone.png").symlink_to("nowhere.png")
    assert names(["in/**/*.png"]) == ["a.png"]
    assert names(["in"]) == ["album/a.png"]
    assert find_inputs(["in"], True).left_out == {"broken links": 1}


def test_hidden_files_are_passed_over_and_other_kinds_counted(here):
    for name in ("in/a.png", "in/._a.png", "in/@eaDir/a.png", "in/.Trash/b.png", "in/deep/c.png", "in/deep/$RECYCLE.BIN/d.png"):
        photo(name)
    for name in ("in/n.txt", "in/deep/m.txt", "in/x.pdf", "in/plain"):
        Path(name).write_text("x")
    found = find_inputs(["in"], True)
    assert [file.name.as_posix() for file in found.files] == ["a.png", "deep/c.png"] and found.problems == []
    assert left_out_line(found.left_out) == "left out: 4 hidden, 2 .txt, 1 .pdf, 1 without an ending"
    assert names(["in/**/*.png"]) == ["a.png", "deep/c.png"] and names(["in/*/*.png"]) == ["c.png"]
    assert names(["in/._a.png"]) == ["._a.png"]  # who names it means it
    assert names(["in/.Trash"]) == ["b.png"]


def test_the_line_about_what_is_left_out(here, toy_model):
    photo("in/a.png")
    Path("in/n.txt").write_text("x")
    result = CliRunner().invoke(app, ["detect", "in", "--model", str(toy_model), "--format", "csv"])
    assert result.exit_code == 0 and result.stderr.splitlines()[0] == "tinyfaces: left out: 1 .txt"
    assert "left out" not in result.stdout
    assert "left out" not in CliRunner().invoke(app, ["detect", "in", "--model", str(toy_model), "-q"]).stderr


@pytest.mark.parametrize("given", ("in", "in/**/*.png"))
def test_folders_that_cannot_be_read_are_problems(here, monkeypatch, given):
    photo("in/a.png")
    photo("in/closed/b.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_inputs([given], True)
    assert [file.name.as_posix() for file in found.files] == ["a.png"]
    assert found.problems == ["in/closed: cannot be read (permission denied)"]


def test_the_same_names_in_two_folders(here):
    for name in ("twins/100CANON/IMG_1.png", "twins/101CANON/IMG_1.png", "lone.png"):
        photo(name)
    assert names(["twins/100CANON", "twins/101CANON"]) == ["100CANON/IMG_1.png", "101CANON/IMG_1.png"]
    assert names(["twins/100CANON", "lone.png"]) == ["twins/100CANON/IMG_1.png", "lone.png"]
    assert names(["twins", "twins/100CANON/IMG_1.png"]) == ["100CANON/IMG_1.png", "101CANON/IMG_1.png"]
    assert names(["twins/100CANON/../101CANON"]) == ["IMG_1.png"]
    assert names(["twins/*/*.png"]) == ["100CANON/IMG_1.png", "101CANON/IMG_1.png"]


@pytest.mark.parametrize("format", ("json", "jsonl", "csv", "coco", "yolo", "voc", "wider"))
def test_the_same_names_in_two_folders_in_every_format(here, toy_model, format):
    for name in ("100CANON/IMG_1.png", "101CANON/IMG_1.png"):
        photo(name)
    done = CliRunner().invoke(
        app, ["detect", "100CANON", "101CANON", "--out", "res", "--format", format, "--model", str(toy_model)]
    )
    assert done.exit_code == 0, done.output
    written = [path for path in Path("res").rglob("*.*")]
    text = "".join(path.read_text() for path in written) + " ".join(map(str, written))
    assert "100CANON/IMG_1" in text and "101CANON/IMG_1" in text


RESULTS = (
    ["detect", ".", "-r", "--save-images"],
    ["detect", "in", "-r", "--save-images", "--out", "in"],
    ["detect", "in", "-r", "--save-images", "--out", "in", "--format", "voc"],
    ["detect", "in", "-r", "--crops", "in"],
    ["count", "in", "-r", "--density", "in"],
    ["count", "in", "-r", "--density", "in/maps"],
    ["restore", "in", "-r", "--out", "in", "--max-height", "20"],
    ["restore", ".", "-r", "--max-height", "20"],
    ["anonymise", ".", "-r"],
)


@pytest.mark.parametrize("arguments", RESULTS, ids=lambda given: " ".join(given))
@pytest.mark.parametrize("again", (["."], ["**/*.png"], ["*/*.png", "*/*/*.png"], ["in", "-r"]), ids=lambda given: given[0])
def test_own_results_are_never_searched_again(here, toy_model, arguments, again):
    for name in ("in/a.png", "in/deep/b.jpg", "in/deep/c.png"):
        photo(name)
    model = ["--model", str(toy_model)]
    first = CliRunner().invoke(app, [*arguments, *model])
    assert first.exit_code == 0, first.output
    found = find_inputs([text for text in again if text != "-r"], True)
    assert {file.path.name for file in found.files} <= {"a.png", "b.jpg", "c.png"} and found.problems == []
    assert len(found.files) == (2 if "*" in again[0] else 3), [file.path for file in found.files]
    second = CliRunner().invoke(app, [*arguments, *model])
    assert second.exit_code == 0, second.output


def test_a_folder_of_results_that_is_named_is_searched(here, toy_model):
    photo("in/a.png")
    assert CliRunner().invoke(app, ["anonymise", "in", "--model", str(toy_model)]).exit_code == 0
    assert names(["anonymised"]) == ["a.png"] and names(["."]) == ["in/a.png"]
    photo("own/b.png")  # not new: the photos in it are no results
    assert CliRunner().invoke(app, ["anonymise", "in", "--out", "own", "--model", str(toy_model)]).exit_code == 0
    assert "own/b.png" in names(["."])
