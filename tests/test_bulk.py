"""Many files: work overlaps, the journal knows what is done, and a run killed at any instant goes on to the same end."""

import errno
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from test_images import bad_files
from tinyfaces.jobs import journal as journal_module
from tinyfaces.jobs.bulk import DiskFull, Stopwatch, overlapped, process, reason
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.journal import Journal, JournalError, Outcome, stamp_of

KILL_RUNS = str(Path(__file__).with_name("kill_runs.py"))


def _files(folder: Path, number: int) -> list[InputFile]:
    folder.mkdir(exist_ok=True)
    for n in range(number):
        (folder / f"{n}.txt").write_text(str(n))
    return [InputFile(folder / f"{n}.txt", Path(f"{n}.txt")) for n in range(number)]


def test_overlapped_keeps_the_order_and_works_at_once():
    together, most = set(), []
    meet = threading.Barrier(2, timeout=10)

    def work(item):
        together.add(item)
        if item in (0, 1):
            meet.wait()  # passes only if both are worked on at once
            time.sleep(0.05 * (1 - item))
        most.append(len(together))
        together.discard(item)
        return item * 10

    assert list(overlapped(iter(range(12)), work, 2)) == [(n, 10 * n) for n in range(12)]
    assert max(most) == 2


def test_overlapped_takes_only_so_many_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = overlapped(items(), lambda item: item, 2, ahead=3)
    for _ in range(5):
        next(results)
    assert len(taken) <= 5 + 6
    results.close()


def test_problems_are_the_files_own_and_the_rest_goes_on(tmp_path):
    def work(file):
        if file.name.stem == "2":
            raise ValueError("2.txt: is odd")
        if file.name.stem == "3":
            raise OSError(30, "Read-only file system", "out/3")
        return Outcome({"n": int(file.name.stem)}, "half of it" if file.name.stem == "4" else None)

    journal = Journal(None, {})
    outcomes = [outcome for _, outcome in process(_files(tmp_path, 6), work, journal, 2)]
    assert [outcome.record for outcome in outcomes] == [{"n": 0}, {"n": 1}, None, None, {"n": 4}, {"n": 5}]
    assert outcomes[2].problem == "2.txt: is odd" and "read-only file system" in outcomes[3].problem
    assert outcomes[4].problem == "half of it"


class OddError(Exception):
    """What a runtime raises: its exceptions share no base."""


@pytest.mark.parametrize(
    "error,line",
    [
        (MemoryError(), "cannot be done (MemoryError)"), (struct.error("needs 4 bytes"), "(error: needs 4 bytes)"),
        (TypeError("no int"), "(TypeError: no int)"), (OddError("Fail\nin node 7"), "(OddError: Fail in node 7)"),
        (ValueError("too many values"), "(ValueError: too many values)"), (RecursionError(), "(RecursionError)"),
        (UnicodeEncodeError("utf-8", "\udcfc", 0, 1, "surrogates"), "(UnicodeEncodeError:"), (ZeroDivisionError("x"), "x)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("workers", [0, 2])
def test_whatever_a_file_raises_is_its_problem_with_the_kind_of_error(tmp_path, error, line, workers):
    def work(file):
        if file.name.stem == "1":
            raise error
        return Outcome({})

    outcomes = [outcome for _, outcome in process(_files(tmp_path, 3), work, Journal(None, {}), workers)]
    assert [outcome.record for outcome in outcomes] == [{}, None, {}]
    problem = outcomes[1].problem
    assert problem.startswith(str(tmp_path / "1.txt")) and line in problem and len(problem.splitlines()) == 1


def test_results_that_are_gone_are_a_problem_of_their_file(tmp_path):
    def work(file):
        output = tmp_path / f"{file.name.stem}.out"
        if file.name.stem != "1":
            output.write_bytes(b"x")
        return Outcome({}, written=[output])

    outcomes = [outcome for _, outcome in process(_files(tmp_path / "in", 3), work, Journal(None, {}), 2)]
    assert [outcome.record for outcome in outcomes] == [{}, None, {}] and "1.out: is gone" in outcomes[1].problem


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_work(tmp_path, code):
    def work(file):
        raise OSError(code, "No space left on device", f"out/{file.name}")

    journal = Journal(tmp_path / "j", {})
    with pytest.raises(DiskFull, match="no space left on device"):
        list(process(_files(tmp_path / "in", 6), work, journal, 2))
    journal.close(keep=True)


def test_a_journal_that_cannot_be_written_is_said_in_a_line(tmp_path):
    journal = Journal(tmp_path / "j", {})
    journal._database.execute("PRAGMA max_page_count = 1")  # as on a full disk
    with pytest.raises(JournalError, match=r"j: cannot be written \(database or disk is full\)"):
        list(process(_files(tmp_path / "in", 2000), lambda file: Outcome({"x": "y" * 100}), journal, 0))
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"j: cannot be written \((not a directory|file exists)\)"):
        Journal(tmp_path / "file/j", {})


def test_a_journal_that_was_begun_on_a_full_disk_is_one_later(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_TABLES", journal_module._TABLES.replace("CREATE TABLE IF NOT EXISTS files", "FULL"))
    with pytest.raises(JournalError, match="j: "):
        Journal(tmp_path / "j", {"a": 1}, resume=True)
    monkeypatch.undo()
    Journal(tmp_path / "j", {"a": 1}, resume=True).close(keep=True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE files SET outputs = '{'", "UPDATE files SET outputs = '[[1]]'", "UPDATE files SET record = '{\"a\"'",
        "UPDATE files SET record = '3'", "UPDATE run SET settings = '{'", "UPDATE run SET settings = '3'",
    ],
)  # fmt: skip
def test_a_damaged_journal_is_one_line(run, tmp_path, change):
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(32, 32, [(8, 8)])).save(tmp_path / "in/a.png")
    run("detect", "in", "--out", "res", "--resume")
    with sqlite3.connect(tmp_path / "res/faces.journal") as database:
        database.execute(change)
    database.close()
    told = run("detect", "in", "--out", "res", "--resume", code=2).stderr.splitlines()
    assert len(told) == 1 and "res/faces.journal: " in told[0] and "damaged" in told[0]
    run("detect", "in", "--out", "res")


@pytest.mark.parametrize("error", [OSError("broken data stream"), OSError(5, "Input/output error"), OSError()])
def test_errors_without_a_name_get_that_of_the_file(error):
    assert reason(error, Path("in/a.png")).startswith("in/a.png: ")


def test_names_whose_bytes_are_no_utf8_are_recorded(tmp_path):
    name = os.fsdecode(b"M\xfcller.txt")
    file = InputFile(tmp_path / name, Path(name))
    journal = Journal(tmp_path / "j", {"out": name})
    journal.write(file, Outcome({"name": name}), stamp_of(file.path))
    assert list(journal.read([file])) == [(file, {"name": name})]
    file.path.touch()
    ((_, outcome),) = process([file], lambda file: Outcome({"name": name}, f"{name}: is odd"), journal, 1)
    assert outcome.problem == "M?ller.txt: is odd"


def test_the_journal_knows_what_is_done_and_what_has_changed_since(tmp_path):
    files = _files(tmp_path / "in", 4)
    output = tmp_path / "out.bin"
    output.write_bytes(b"12345")
    first = Journal(tmp_path / "j", {"threshold": 0.5})
    first.write(files[0], Outcome({"x": 1.25}), stamp_of(files[0].path))
    first.write(files[1], Outcome(problem="is bad"), stamp_of(files[1].path))
    first.write(files[2], Outcome({}, written=[output]), stamp_of(files[2].path))
    first.close(keep=True)
    again = Journal(tmp_path / "j", {"threshold": 0.5}, resume=True)
    assert [again.done(file) for file in files] == [True, False, True, False]
    assert list(again.read(files)) == [(files[0], {"x": 1.25}), (files[2], {})]
    files[0].path.write_text("changed")
    output.write_bytes(b"123")
    assert [again.done(file) for file in files] == [False, False, False, False]
    with pytest.raises(JournalError, match="another run is using"):
        Journal(tmp_path / "j", {"threshold": 0.5}, resume=True)
    again.close(keep=True)
    with pytest.raises(JournalError, match=r"threshold: 0\.5, now 0\.6"):
        Journal(tmp_path / "j", {"threshold": 0.6}, resume=True)
    anew = Journal(tmp_path / "j", {"threshold": 0.6})
    assert not anew.done(files[1]) and list(anew.read(files)) == []
    anew.close(keep=False)
    assert not (tmp_path / "j").exists()
    (tmp_path / "other").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="other: not a journal"):
        Journal(tmp_path / "other", {}, resume=True)
    own = sqlite3.connect(tmp_path / "own")
    own.execute("CREATE TABLE files (name TEXT)")
    own.close()
    with pytest.raises(JournalError, match="own: not a journal"):
        Journal(tmp_path / "own", {})
    assert sqlite3.connect(tmp_path / "own").execute("SELECT count(*) FROM files").fetchone() == (0,)


def test_a_file_that_changes_during_the_work_is_done_again(tmp_path):
    files, seen = _files(tmp_path, 3), []

    def work(file):
        seen.append(file.path.read_text())
        if file.name.stem == "1" and len(seen) == 2:
            file.path.write_text("whole now")
        elif file.name.stem == "2":
            file.path.write_text("longer and longer"[: len(seen)])
        return Outcome({"read": seen[-1]})

    journal = Journal(None, {})
    outcomes = [outcome.record for _, outcome in process(files, work, journal, 0)]
    assert outcomes[:2] == [{"read": "0"}, {"read": "whole now"}]
    assert seen[:3] == ["0", "1", "whole now"] and len(seen) == 5
    assert [journal.done(file) for file in files] == [True, True, False]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(24):
        small = [(8 * int(x), 8 * int(y)) for x, y in rng.integers(0, 11, (6, 2))]
        image = paint(96, 96 + 32 * (n % 3), small)
        image[..., 2] = rng.integers(0, 60, image.shape[:2])
        Image.fromarray(image).save(folder / f"{n:02d}.png")
    (folder / "bad.jpg").write_text("no image")
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_as_an_undisturbed_run(toy_model, photos, tmp_path):
    command = ["detect", str(photos), "--model", str(toy_model), "--format", "voc", "--save-images", "--threads", "2", "--quiet"]
    places = [str(tmp_path / "whole"), str(tmp_path / "killed")]
    done = subprocess.run([sys.executable, KILL_RUNS, *places, "10", *command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "10", done.stderr
    for path in (tmp_path / "killed").glob("*.xml"):
        assert path.read_text().endswith("</annotation>\n")
    some_done = len(list((tmp_path / "killed").glob("*.xml")))
    resumed = [sys.executable, "-m", "tinyfaces", *command, "--out", places[1], "--resume"]
    result = subprocess.run(resumed, capture_output=True, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert some_done > 0
    whole, killed = _contents(tmp_path / "whole"), _contents(tmp_path / "killed")
    for contents in (whole, killed):
        for name in [name for name in contents if name.startswith("faces.journal")]:
            del contents[name]
    assert whole == killed
    assert len(whole) == 24 * 2 + 1  # and faces_problems.csv
    assert whole["faces_problems.csv"].decode().count("bad.jpg") == 2


@pytest.mark.parametrize("command,out", [("detect", "res/a.csv"), ("anonymise", "res"), ("count", "res/a.json")])
def test_resume_skips_what_is_done(run, photos, tmp_path, command, out):
    first = run(command, str(photos), "--out", out, code=1)
    assert "images/s" in first.stdout and "megapixels/s" in first.stdout
    before = _contents(tmp_path / "res")
    second = run(command, str(photos), "--out", out, "--resume", code=1)
    assert "24 files done in an earlier run" in second.stdout
    after = _contents(tmp_path / "res")
    assert {n: c for n, c in before.items() if "journal" not in n} == {n: c for n, c in after.items() if "journal" not in n}
    other = run(command, str(photos), "--out", out, "--resume", "--threshold", "0.9", code=2)
    assert "other settings (threshold" in other.stderr and len(other.stderr.splitlines()) == 1


def test_the_journal_goes_when_all_is_done(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(32, 32, [(8, 8)])).save(tmp_path / "in/a.png")
    run("detect", "in", "--out", "res")
    assert [path.name for path in (tmp_path / "res").iterdir()] == ["faces.json"]
    run("detect", "in", "--out", "res", "--resume")
    assert {path.name for path in (tmp_path / "res").iterdir()} == {"faces.json", "faces.journal"}
    assert sqlite3.connect(tmp_path / "res/faces.journal").execute("SELECT count(*) FROM files").fetchone() == (1,)
    assert "needs --out" in run("detect", "in", "--resume", code=2).stderr


def test_what_a_killed_process_left_half_written_is_cleared(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "res").mkdir()
    Image.fromarray(paint(32, 32, [(8, 8)])).save(tmp_path / "in/a.png")
    for name in (".a.txt.12345678.partial", ".other.txt.12345678.partial"):
        (tmp_path / "res" / name).write_text("half")
    run("detect", "in", "--out", "res", "--format", "yolo", "--no-scores")
    assert {path.name for path in (tmp_path / "res").iterdir()} == {"a.txt", "classes.txt", ".other.txt.12345678.partial"}


def test_problems_are_gathered_in_a_file(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(32, 32, [(8, 8)])).save(tmp_path / "in/a.png")
    bad = bad_files(tmp_path / "in")
    result = run("anonymise", "in", "gone.jpg", "--out", "res", code=1)
    lines = (tmp_path / "res.state/problems.csv").read_text().splitlines()
    assert lines[0] == "file,problem" and len(lines) == len(bad) + 2
    assert "problems, listed in res.state/problems.csv" in result.stdout
    for name in bad:
        (tmp_path / "in" / name).unlink()
    run("anonymise", "in", "--out", "res")
    assert {path.name for path in (tmp_path / "res").iterdir()} == {"a.png", ".tinyfaces"}


@pytest.mark.parametrize("count,beginning", [(0, "0 images in "), (1, "1 image in "), (2, "2 images in ")])
def test_the_speed_says_one_image_and_two_images(count, beginning):
    watch = Stopwatch()
    watch.add(count, 1_000_000)
    line = watch.line("image")
    assert line.startswith(beginning) and line.endswith(" megapixels/s") and " images/s" in line
