"""One file never ends a run: odd names, full disks, folders without permission, results that vanish, anything that is raised."""

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from test_runs import arguments
from tinyfaces import files
from tinyfaces.detection.detector import Detector
from tinyfaces.jobs.outputs import StateFiles

FACE = paint(64, 64, [(8, 8)])
COMMANDS = ("detect", "anonymise", "count", "restore")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(FACE).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


def _problems(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


class OddError(Exception):
    """What a runtime raises: its exceptions share no base."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "error", [MemoryError(), struct.error("odd"), TypeError("odd"), OddError("Non-zero status code"), KeyError(3)]
)
def test_whatever_one_file_raises_the_rest_goes_on(run, photos, tmp_path, monkeypatch, command, error):
    detect, place = Detector.detect, np.array(Image.open(photos / "b.png")).copy()
    place[40, 40] = 9
    Image.fromarray(place).save(photos / "b.png")

    def odd(self, image, **options):
        if image[40, 40, 0] == 9:
            raise error
        return detect(self, image, **options)

    monkeypatch.setattr(Detector, "detect", odd)
    given = [*arguments(command), *(["--report", "out.json"] if command == "anonymise" else [])]
    result = run(*given, code=1)
    (line,) = result.stderr.splitlines()
    assert "in/b.png: cannot be done" in line and type(error).__name__ in line
    if command == "anonymise":
        report = json.loads((tmp_path / "out.json").read_text())
        assert len(report["files"]) == 2 and len(report["problems"]) == 1
        assert len(_problems(tmp_path / "out_problems.csv")) == 1


def _odd_names(folder: Path) -> bool:
    try:
        for name in (b"gut_f\xfcnf.png", b"kaputt_M\xfcller.jpg"):
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
            if name.startswith(b"gut"):
                Image.fromarray(FACE).save(path)
            else:
                path.write_bytes(b"no photo")
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="names are text here")
@pytest.mark.parametrize(
    "command", ["detect", "detect csv", "detect voc", "detect yolo", "detect wider", "anonymise", "count", "restore"]
)
def test_names_that_are_no_utf8(run, photos, tmp_path, command):
    if not _odd_names(photos):
        pytest.skip("this file system takes no such names")
    kind = command.partition(" ")[2]
    given = ["detect", "in", "--out", "out", "--format", kind] if kind else arguments(command)
    result = run(*given, code=1)
    assert len(result.stderr.splitlines()) == 1 and "kaputt_M" in result.stderr
    lists = [path for path in tmp_path.rglob("*problems.csv")]
    assert len(lists) == 1
    assert all(len(_problems(path)) == 1 for path in lists)
    if command == "anonymise":
        assert len(list((tmp_path / "out").glob("*.png"))) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="such names are not allowed here")
def test_a_name_of_two_lines_is_one_line(run, photos):
    (photos / "two\nlines.png").write_bytes(b"no photo")
    assert len(run("detect", "in", code=1).stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "given",
    [
        ["anonymise", "in", "--out", "out"], ["detect", "in", "--out", "out", "--save-images"], ["restore", "in", "--out", "out"],
        ["count", "in", "--density", "out"],
        *(["detect", "in", "--out", "out", "--format", kind] for kind in ("voc", "wider", "yolo")),
    ],
)  # fmt: skip
def test_names_near_255_bytes(run, photos, tmp_path, given):
    for name in ("\U0001f600" * 61, "漢" * 83, "x" * 251):
        Image.fromarray(FACE).save(photos / f"{name}.png")
    run(*given)
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix in (".png", ".txt", ".xml")]
    assert len(made) == (12 if given[0] == "restore" else 6)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_exit_code_2(run, photos, tmp_path, monkeypatch, command):
    run(*arguments(command))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "open", _opened_on_a_full_disk(Path.open))
    result = run(*arguments(command), code=2)
    assert len(result.stderr.splitlines()) == 1 and "no space left on device" in result.stderr.lower()
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file() and "journal" not in path.name}
    assert after == before, "what was there before is still whole"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_a_full_disk_behind_the_standard_output(photos, tmp_path, toy_model, kind):
    command = [sys.executable, "-m", "tinyfaces", "detect", str(photos), "--format", kind, "--model", str(toy_model), "-q"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "tinyfaces: the standard output: no space left on device\n"


def _opened_on_a_full_disk(opened):
    def full(self, mode="r", *given, **options):
        if "w" in mode and self.name.endswith(".partial"):
            raise OSError(28, "No space left on device", str(self))
        return opened(self, mode, *given, **options)

    return full


def test_folders_without_permission(run, photos, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    listed, looked = os.scandir, Path.is_dir

    def closed(folder):
        if folder == "closed":
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    def hidden(self):
        if self.name == "hidden":
            raise PermissionError(13, "Permission denied", str(self))
        return looked(self)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(Path, "is_dir", hidden)
    result = run("detect", "in", "closed", "hidden", "y" * 5000, "--out", "out", code=1)
    assert [line.split(": ", 1)[1][:26] for line in result.stderr.splitlines()] == [
        "closed: cannot be read (permission denied)"[:26], "hidden: cannot be read (permission denied)"[:26], "y" * 26,
    ]  # fmt: skip
    assert len(json.loads((tmp_path / "out/faces.json").read_text())["images"]) == 3


def test_an_output_folder_that_cannot_be_made_is_one_line(run, photos, tmp_path):
    (tmp_path / "file").write_text("")
    for given in (["anonymise", "in", "--out", "file/out"], ["detect", "in", "--out", "file/out/a.json"]):
        result = run(*given, code=2)
        assert len(result.stderr.splitlines()) == 1 and "cannot be written" in result.stderr


def test_results_that_vanish_end_nothing(run, photos, tmp_path, monkeypatch):
    write = files.write_atomically

    def vanishing(path, content):
        write(path, content)
        if path.name == "b.png":
            path.unlink()

    monkeypatch.setattr("tinyfaces.cli.anonymise.write_atomically", vanishing)
    result = run("anonymise", "in", "--out", "out", code=1)
    assert result.stderr == "tinyfaces: out/b.png: is gone, though it was written\n"


TRAIL = ("journal", "problems", ".csv", ".db")


@pytest.mark.parametrize(
    "more,place",
    [
        ([], "out.state"), (["--resume"], "out.state"), (["--report", "reports/r.json"], "reports"),
        (["--resume", "--report", "out/r.json"], "out.state"),
    ],
)  # fmt: skip
def test_the_folder_of_anonymised_photos_holds_no_trail(run, photos, tmp_path, more, place):
    (photos / "bad.png").write_bytes(b"no photo")
    result = run("anonymise", "in", "--out", "out", *more, code=1)
    inside = {path.name for path in (tmp_path / "out").rglob("*")} - {"r.json"}
    assert inside == {"a.png", "b.png", "c.png", ".tinyfaces"}  # which says of this folder only that it holds results
    kept = {path.name for path in (tmp_path / place).iterdir()}
    assert {name for name in kept if "journal" in name} and {name for name in kept if "problems.csv" in name}
    assert f"listed in {place}" in result.stdout and f"journal for --resume: {place}" in result.stdout
    assert ("move it before you publish" in result.stderr) == ("out/r.json" in more)
    again = run("anonymise", "in", "--out", "out", *{*more, "--resume"} - {"out/r.json", "--report", "reports/r.json"},
                *(["--report", more[-1]] if "--report" in more else []), code=1)  # fmt: skip
    assert "3 files done in an earlier run" in again.stdout


def test_the_state_is_no_input_and_is_written_over_nothing_that_was_given(run, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no photo")
    run("anonymise", "in", "--out", "out", code=1)
    Image.fromarray(FACE).save(tmp_path / "out.state/x.png")
    result = run("anonymise", ".", "-r", "--out", "out", "--resume", code=1)
    assert "2 folders of earlier results" in result.stderr and "out.state" not in result.stderr
    other = tmp_path / "other.state"  # a folder of photos that has such a name is one like any other
    other.mkdir()
    Image.fromarray(FACE).save(other / "y.png")
    run("detect", ".", "-r", "--out", "found", code=1)
    found = {image["file"] for image in json.loads((tmp_path / "found/faces.json").read_text())["images"]}
    assert "other.state/y.png" in found and "out.state/x.png" not in found
    for name in ("journal", "problems.csv"):
        (tmp_path / f"new.state/{name}").parent.mkdir(exist_ok=True)
        (tmp_path / f"new.state/{name}").write_bytes((photos / "a.png").read_bytes())
        result = run("anonymise", "in", f"new.state/{name}", "--out", "new", code=2)
        assert "is one of the input files" in result.stderr
        assert (tmp_path / f"new.state/{name}").read_bytes() == (photos / "a.png").read_bytes()


def test_the_state_goes_when_nothing_is_left_to_do(run, photos, tmp_path):
    run("anonymise", "in", "--out", "out")
    assert not (tmp_path / "out.state").exists()
    (tmp_path / "in/bad.png").write_bytes(b"no photo")
    run("anonymise", "in", "--out", "out", code=1)
    assert (tmp_path / "out.state").is_dir()
    (tmp_path / "in/bad.png").unlink()
    run("anonymise", "in", "--out", "out")
    assert not (tmp_path / "out.state").exists()


def test_where_the_state_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert StateFiles.of(Path("a/out"), None).journal == Path("a/out.state/journal")
    assert StateFiles.of(Path(), None).journal == tmp_path.with_name(f"{tmp_path.name}.state") / "journal"
    assert StateFiles.of(Path("a/.."), None).journal == tmp_path.with_name(f"{tmp_path.name}.state") / "journal"
    assert StateFiles.of(Path("out"), Path("r.json")).problems == Path("r_problems.csv")
    with pytest.raises(ValueError, match="nothing beside it"):
        StateFiles.of(Path("/"), None)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    assert StateFiles.of(Path("out"), Path("link/r.json")).journal == Path("out.state/journal")
