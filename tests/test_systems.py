"""What differs between Linux, Windows and macOS: paths with drives, files without numbers, ports, names in another case.

Windows and macOS are simulated: nothing here was run there.
"""

import ast
import io
import json
import ntpath
import os
import socket
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces import ImageError, files, read_image
from tinyfaces.cli import app, runs
from tinyfaces.files import GivenFiles, name_for_windows
from tinyfaces.jobs import known_faces
from tinyfaces.jobs.inputs import names_below

PACKAGE = Path(__file__).parents[1] / "src/tinyfaces"


@pytest.mark.parametrize(
    "roots, paths, names",
    [
        (["C:\\photos"], ["C:\\photos\\a.jpg"], ["a.jpg"]),
        (["C:\\photos", "c:\\Photos\\b"], ["C:\\photos\\a.jpg", "c:\\Photos\\b\\c.jpg"], ["a.jpg", "b\\c.jpg"]),
        (["C:\\photos", "D:\\more"], ["C:\\photos\\a.jpg", "D:\\more\\a.jpg"], ["C\\photos\\a.jpg", "D\\more\\a.jpg"]),
        (["C:\\", "\\\\nas\\share\\x"], ["C:\\a.jpg", "\\\\nas\\share\\x\\a.jpg"], ["C\\a.jpg", "nas\\share\\x\\a.jpg"]),
        ([], [], []),
    ],
)  # fmt: skip
def test_names_over_several_drives(roots, paths, names):
    found = names_below(roots, paths, ntpath)
    assert [name.lower() for name in found] == [name.lower() for name in names]
    assert not any(PureWindowsPath(name).anchor for name in found), "joined to a folder, they lie in it"


def test_a_problem_names_a_file_with_a_drive(monkeypatch):
    line = "C:\\photos\\gone.jpg: no such file"
    seen = []
    monkeypatch.setattr(runs.Run, "problem", lambda self, line, file=None: seen.append(file))
    monkeypatch.setattr(runs.Run, "_end_if_empty", lambda self: None)
    runs.Run(SimpleNamespace(files=[], problems=[line], left_out={}), "", quiet=True)
    assert seen == [Path("C:\\photos\\gone.jpg")]


@pytest.fixture
def short_paths(monkeypatch):
    """Windows as it finds no path of more than 259 letters, though it lists what is in a folder; gives what lifts that."""
    monkeypatch.setattr(files, "_WINDOWS", True)
    lifted = []

    def limited(call):
        def limited_call(path, *arguments, **options):
            if isinstance(path, str | os.PathLike) and len(os.path.abspath(path)) > 259 and not lifted:  # noqa: PTH100
                raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
            return call(path, *arguments, **options)

        return limited_call

    for module, names in ((os, ("stat", "lstat", "open", "mkdir", "scandir")), (io, ("open",))):
        for name in names:
            monkeypatch.setattr(module, name, limited(getattr(module, name)))
    return lambda: lifted.append(True)


def test_paths_too_long_for_windows_are_reported_and_the_others_done(tmp_path, run, short_paths):
    photo = tmp_path / "in" / "a.png"
    photo.parent.mkdir()
    Image.fromarray(paint(64, 96, [(8, 16)])).save(photo)
    folder = tmp_path / "in" / ("f" * (250 - len(str(tmp_path / "in"))))
    folder.mkdir()
    real = os.open(folder, os.O_RDONLY)
    for name in ("long_name.png", "long_name.txt"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=real))
    os.mkdir("a_longer_folder", dir_fd=real)
    os.close(real)
    length = len(str(folder / "long_name.png"))
    why = f"a path too long for Windows: {length} letters, 259 are taken; LongPathsEnabled lifts that"
    told = run("anonymise", "in", "--recursive", "--out", "public", code=1).stderr
    assert f"{Path('in') / folder.name / 'long_name.png'}: cannot be read ({why})" in told
    assert f"{Path('in') / folder.name / 'a_longer_folder'}: cannot be read (a path too long for Windows" in told
    assert "long_name.txt: cannot" not in told and (tmp_path / "public/a.png").exists()
    told = run("detect", "in/a.png", str(folder / "long_name.png"), code=1).stderr
    assert f"{folder / 'long_name.png'}: no such file, or {why}" in told
    with pytest.raises(ImageError, match="a path too long for Windows"):
        read_image(folder / "long_name.png")
    deep = tmp_path / ("o" * (255 - len(str(tmp_path))))
    told = run("anonymise", "in/a.png", "--out", str(deep), code=2).stderr
    assert "cannot be written (a path too long for Windows" in told and not any(deep.rglob("*.png"))
    short_paths()
    told = run("detect", "in", "--recursive", "--out", "found", code=1).stderr
    assert "too long" not in told and "long_name.png: the file is empty" in told


RESERVED = getattr(ntpath, "isreserved", lambda name: PureWindowsPath(name).is_reserved())


@pytest.mark.parametrize("name", ["con", "NUL.txt", "Aux.tar.gz", "com1", "LPT9.jpg", "prn .jpg", "conin$", "COM\u00b9.jpg"])
def test_names_of_devices_get_a_mark_on_windows(name):
    assert RESERVED(name) and not RESERVED(name_for_windows(name)) and name_for_windows(name) == f"_{name}"


@pytest.mark.parametrize(
    "name, other",
    [
        ("a.jpg", "a.jpg"), ("console.jpg", "console.jpg"), ("com10.jpg", "com10.jpg"), (".hidden", ".hidden"),
        ("漢 1.jpg", "漢 1.jpg"), ("a. ", "a"), ("...", "_"), ('10:30 "x"?.jpg', "10_30 _x__.jpg"), ("a\tb|c.png", "a_b_c.png"),
        ("nul. ", "_nul"),
    ],
)  # fmt: skip
def test_other_names_are_as_windows_takes_them(name, other):
    assert name_for_windows(name) == other


def test_names_that_a_file_of_boxes_says_are_taken_by_windows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [{"id": n, "file_name": name, "width": 20, "height": 20} for n, name in enumerate(("day/con.jpg", "day/a?.jpg"))]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in range(2)]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (tmp_path / "all.json").write_text(json.dumps(coco))
    for windows, names in ((False, {"con.txt", "a?.txt"}), (True, {"_con.txt", "a_.txt"})):
        monkeypatch.setattr(known_faces, "_ON_WINDOWS", windows)
        done = CliRunner().invoke(app, ["convert", "all.json", "--format", "yolo", "--out", str(windows)])
        assert done.exit_code == 0, done.output
        assert {path.name for path in (tmp_path / str(windows)).rglob("*.txt")} == names


def test_files_without_numbers_are_told_apart(tmp_path, monkeypatch):
    """As on some network drives of Windows, where all files would count as the same one."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result([0o100644, 0, 7, 1, 0, 0, 1, 0, 0, 0]))
    given = GivenFiles([tmp_path / "a"])
    assert tmp_path / "a" in given and tmp_path / "." / "a" in given and tmp_path / "b" not in given


def test_results_that_differ_in_case_are_not_written_over_each_other_on_macos(run, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("A.png", "a.jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / "in" / name)
    run("detect", "in", "--out", "here", "--format", "yolo", code=0)
    assert {path.name for path in (tmp_path / "here").glob("*.txt")} == {"A.txt", "a.txt"}
    monkeypatch.setattr(runs.sys, "platform", "darwin")
    told = run("detect", "in", "--out", "there", "--format", "yolo", code=1)
    assert "already holds the result of another file of that name" in told.stderr


def test_a_port_is_taken_by_one_service_only_on_windows(monkeypatch):
    pytest.importorskip("fastapi")
    from tinyfaces.service import server

    asked = []
    fake = SimpleNamespace(
        setsockopt=lambda level, option, value: asked.append(option), bind=lambda address: None, listen=lambda backlog: None
    )
    monkeypatch.setattr(server.socket, "socket", lambda family: fake)
    server.listen("127.0.0.1", 0)
    monkeypatch.setattr(server.socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    server.listen("127.0.0.1", 0)
    assert asked == [socket.SO_REUSEADDR, -5]


ONLY_SOMEWHERE = {"fork", "nice", "getuid", "geteuid", "chown", "mkfifo", "sched_getaffinity", "umask", "NamedTemporaryFile"}
"""Calls that one system lacks, or that work otherwise there."""
GUARDED = {("detection/processors.py", "sched_getaffinity"), ("training/worker_pool.py", "nice")}
"""Where the call is made only on systems that have it."""


def _calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ONLY_SOMEWHERE:
            yield node.attr


def test_no_call_of_one_system_alone():
    found = {(path.relative_to(PACKAGE).as_posix(), name) for path in PACKAGE.rglob("*.py") for name in _calls(path)}
    assert found == GUARDED
