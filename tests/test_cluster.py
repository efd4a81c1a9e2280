"""A job on a local Ray of several processes: each image in exactly one row, though a worker is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import corners, paint

pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra ray)")

from tinyfaces.jobs import cluster  # noqa: E402


def _workers() -> dict[int, str]:
    """Ray's processes that do parts, by their number."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            title = (process / "cmdline").read_bytes().decode(errors="replace") if process.name.isdigit() else ""
        except OSError:
            continue
        if title.startswith("ray::") and "_Worker" in title:
            found[int(process.name)] = title
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds Ray's workers by /proc")
@pytest.mark.slow
def test_a_worker_killed_in_the_middle_leaves_each_image_in_one_row(toy_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    places = {}
    for n in range(40):
        places[n] = [(8 * int(x), 8 * int(y)) for x, y in rng.integers(0, 60, (4, 2))]
        Image.fromarray(paint(640, 640, places[n])).save(folder / f"{n:02d}.png")
    (folder / "bad.jpg").write_text("no image")
    before = set(_workers())
    command = [sys.executable, "-m", "tinyfaces", "detect", str(folder), "--ray", "local", "--out", "res"]
    running = subprocess.Popen(
        [*command, "--model", str(toy_model)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = None
    while killed is None and running.poll() is None:
        busy = sorted(set(_workers()) - before)
        if busy and list((tmp_path / "res").glob("*.parquet")):
            killed = busy[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    output, errors = running.communicate(timeout=120)
    assert killed is not None and running.returncode == 1, errors
    assert "40 images" in output and "bad.jpg: not an image" in errors

    names = sorted(path.name for path in (tmp_path / "res").iterdir())
    assert names == ["_job.json", *(f"part-{n:05d}-of-00006.parquet" for n in range(6))]
    table = parquet.read_table(tmp_path / "res")
    rows = {Path(row["file"]).name: row for row in table.to_pylist()}
    assert table.num_rows == len(rows) == 41
    assert rows["bad.jpg"]["width"] is None and "not an image" in rows["bad.jpg"]["problem"]
    for n, small in places.items():
        boxes = {tuple(round(side) for side in box) for box in rows[f"{n:02d}.png"]["boxes"]}
        assert boxes == corners(small) and rows[f"{n:02d}.png"]["problem"] is None
        assert (rows[f"{n:02d}.png"]["width"], rows[f"{n:02d}.png"]["height"]) == (640, 640)


def test_any_filesystem_and_what_is_wrong_in_one_line(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("/shots/a.png", "/shots/deep/b.jpg", "/shots/notes.txt"):
        memory.pipe_file(name, b"x")
    problems: list[str] = []
    assert cluster._find(["memory://shots"], False, problems) == ["memory:///shots/a.png"]
    assert cluster._find(["memory://shots"], True, problems) == ["memory:///shots/a.png", "memory:///shots/deep/b.jpg"]
    assert cluster._find(["memory://shots/*.png", "memory://shots/a.png"], False, problems) == ["memory:///shots/a.png"]
    assert problems == []
    assert cluster._find([str(tmp_path), "nonsense://x"], False, problems) == []
    assert len(problems) == 2 and "no images found" in problems[0] and "nonsense" in problems[1]
    cluster._write("memory://out", "a.bin", b"123")
    assert memory.cat_file("/out/a.bin") == b"123" and cluster._exists("memory://out", "a.bin")


def test_workers_detect_as_the_options_say(toy_model, tmp_path):
    Image.fromarray(paint(64, 64, [(24, 24)])).save(tmp_path / "a.png")
    for threshold, faces in ((0.3, 1), (1.0, 0)):
        job = cluster._Job(str(tmp_path), toy_model.read_bytes(), {"threshold": threshold, "stages": "proposals"})
        worker = cluster._Worker(job)
        assert len(worker._row(str(tmp_path / "a.png"))["boxes"]) == faces
        assert worker._detector.stages == "proposals"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Non-zero status code"), TypeError("odd")])
def test_whatever_one_image_raises_is_its_problem(tmp_path, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    worker = cluster._Worker.__new__(cluster._Worker)
    worker._detector = SimpleNamespace(detect=lambda pixels: (_ for _ in ()).throw(error))
    row = worker._row(str(tmp_path / "a.png"))
    assert row["problem"].startswith(f"{tmp_path / 'a.png'}: cannot be done ({type(error).__name__}") and "boxes" not in row


@pytest.mark.parametrize("option", (("--precision", "int3"), ("--stages", "three"), ("--backend", "none")))
def test_a_wrong_option_is_told_before_a_cluster_is_asked(option, toy_model, tmp_path):
    command = [sys.executable, "-m", "tinyfaces", "detect", str(tmp_path), "--ray", "nowhere:1", "--out", str(tmp_path / "res")]
    ran = subprocess.run([*command, "--model", str(toy_model), *option], capture_output=True, text=True)
    assert ran.returncode == 2 and option[1] in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_results_of_another_job_are_not_mixed_with(tmp_path):
    job = cluster._Job(str(tmp_path), "accurate", {"threshold": None, "precision": "auto"})
    cluster._prepare(job, ["a.png", "b.png"], resume=False)
    (tmp_path / "part-00000-of-00001.parquet").write_bytes(b"x")
    assert json.loads((tmp_path / "_job.json").read_text())["files"] == 2
    with pytest.raises(cluster.RayError, match="another job"):
        cluster._prepare(job, ["a.png"], resume=True)
    other = cluster._Job(job.out, job.model, {"threshold": None, "precision": "float32"})
    with pytest.raises(cluster.RayError, match="another job"):
        cluster._prepare(other, ["a.png", "b.png"], resume=True)
    cluster._prepare(job, ["a.png", "b.png"], resume=True)
    assert (tmp_path / "part-00000-of-00001.parquet").exists()
    cluster._prepare(job, ["a.png", "b.png"], resume=False)
    assert not (tmp_path / "part-00000-of-00001.parquet").exists()
