"""A job on a local Ray of several processes: each image in exactly one row, though a worker is killed in the middle."""

import dataclasses
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
from PIL import ExifTags, Image

from conftest import corners, paint

pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra ray)")

import fsspec  # noqa: E402
from fsspec.registry import _registry as KINDS  # noqa: E402

from tinyfaces.detection import detector as detector_module  # noqa: E402
from tinyfaces.jobs import cluster, fsspec_files  # noqa: E402
from tinyfaces.jobs.cover_threshold import CoverThreshold  # noqa: E402
from tinyfaces.jobs.covered_faces import Masking  # noqa: E402
from tinyfaces.jobs.masking import MaskStyle  # noqa: E402
from tinyfaces.weights import models  # noqa: E402


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
    try:
        output, errors = running.communicate(timeout=120)
    finally:
        running.terminate()  # which ends Ray too
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


def _found(paths, recursive=False, results=""):
    search = fsspec_files.find_images(paths, recursive, results)
    return [file.path for file in search.files], search.problems


def test_any_filesystem_and_what_is_wrong_in_one_line(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("/shots/a.png", "/shots/deep/b.jpg", "/shots/notes.txt", "/shots/._a.png", "/shots/done/c.png"):
        memory.pipe_file(name, b"x")
    memory.pipe_file("/shots/done/.tinyfaces", b"x")
    assert _found(["memory://shots"]) == (["memory:///shots/a.png"], [])
    assert _found(["memory://shots"], True) == (["memory:///shots/a.png", "memory:///shots/deep/b.jpg"], [])
    assert _found(["memory://shots/*.png", "memory://shots/a.png"]) == (["memory:///shots/a.png"], [])
    assert _found(["memory://shots/done"]) == (["memory:///shots/done/c.png"], [])
    left_out = fsspec_files.find_images(["memory://shots"], True).left_out
    assert left_out == {".txt": 1, "hidden": 1, "earlier results": 1}
    files, problems = _found([str(tmp_path), "nonsense://x", "memory://nowhere"])
    assert files == [] and len(problems) == 3
    assert "no images" in problems[0] and "nonsense" in problems[1] and "no images found" in problems[2]
    fsspec_files.write("memory://out/a.bin", b"123")
    assert memory.cat_file("/out/a.bin") == b"123" and fsspec_files.read("memory://out/a.bin") == b"123"


@pytest.mark.parametrize("kind", ("local", "memory"))
def test_names_with_brackets_are_found(tmp_path, kind):
    top = str(tmp_path) if kind == "local" else "memory:///brackets"
    names = ("IMG [1].png", "[2]/a?b.png", "c::d.png" if kind == "local" else "c.png")  # elsewhere :: joins kinds of files
    for name in names:
        fsspec_files.write(f"{top}/{name}", b"x")
        assert _found([f"{top}/{name}"]) == ([f"{top}/{name}"], [])
    assert len(_found([f"{top}/[2]"])[0]) == 1 and len(_found([top], True)[0]) == 3
    assert [fsspec_files.read(path) for path in _found([top], True)[0]] == [b"x"] * 3


def test_names_begin_below_what_all_share():
    names = ("1/a.png", "2/a.png", "2/c/d.png")
    files = [fsspec_files.Found(f"s3://b/x/{name}", f"s3://b/x/{name[0]}", (0, "")) for name in names]
    assert [str(name) for name in fsspec_files.names_of(files).values()] == list(names)
    assert [str(name) for name in fsspec_files.names_of(files[1:]).values()] == ["a.png", "c/d.png"]
    other = fsspec_files.Found("/home/a.png", "/home", (0, ""))
    assert [str(name) for name in fsspec_files.names_of([files[0], other]).values()] == ["s3/b/x/1/a.png", "home/a.png"]


def test_workers_detect_as_the_options_say(toy_model, tmp_path):
    Image.fromarray(paint(64, 64, [(24, 24)])).save(tmp_path / "a.png")
    for threshold, faces in ((0.3, 1), (1.0, 0)):
        job = cluster._Job.of(str(tmp_path), str(toy_model), {"threshold": threshold, "stages": "proposals"})
        worker = cluster._Worker(job)
        assert len(worker._row(str(tmp_path / "a.png"))["boxes"]) == faces
        assert worker._detector.stages == "proposals"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Non-zero status code"), TypeError("odd")])
def test_whatever_one_image_raises_is_its_problem(tmp_path, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    worker = cluster._Worker.__new__(cluster._Worker)
    worker._job = SimpleNamespace(masking=None)
    worker._detector = SimpleNamespace(detect=lambda pixels: (_ for _ in ()).throw(error))
    row = worker._row(str(tmp_path / "a.png"))
    assert row["problem"].startswith(f"{tmp_path / 'a.png'}: cannot be done ({type(error).__name__}") and "boxes" not in row


def test_the_int8_copy_of_an_own_model_travels_too(toy_model, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(toy_model.read_bytes())
    (tmp_path / "m.int8.onnx").write_bytes(b"int8")
    seen = {}
    monkeypatch.setattr(
        detector_module, "Detector", lambda path, **options: seen.update({p.name: p.read_bytes() for p in path.parent.iterdir()})
    )
    job = cluster._Job.of("out", str(tmp_path / "m.onnx"), {})
    cluster._Worker(job)
    assert seen == {"model.onnx": toy_model.read_bytes(), "model.int8.onnx": b"int8"}
    (tmp_path / "m.int8.onnx").write_bytes(b"other")
    assert cluster._Job.of("out", str(tmp_path / "m.onnx"), {}).weights != job.weights
    fast = models()["fast"]
    assert cluster._Job.of("out", str(fast.path), {}) == cluster._Job.of("out", "fast", {})
    with pytest.raises(cluster.RayError, match="another version"):
        cluster._Worker(dataclasses.replace(cluster._Job.of("out", "fast", {}), weights="other"))


def _do(job, files, name="part-00000-of-00001.parquet", targets=None):
    targets = targets or {}
    part = {"name": name, "files": [file.path for file in files], "targets": [targets.get(file.path, "") for file in files]}
    cluster._Worker(job)({**part, "made_of": cluster._made_of(job, files)})
    return name


@pytest.mark.parametrize("kind", ("local", "memory", "s3"))
def test_a_part_counts_only_whole_and_of_the_same_settings_weights_and_photos(toy_model, tmp_path, kind, request):
    top = {"local": str(tmp_path), "memory": f"memory://{tmp_path}"}.get(kind) or request.getfixturevalue("bucket")
    image = tmp_path / "a.png"
    Image.fromarray(paint(64, 64, [(24, 24)])).save(image)
    fsspec_files.write(f"{top}/in/a.png", image.read_bytes())
    files = fsspec_files.find_images([f"{top}/in"], False).files
    job = cluster._Job.of(f"{top}/fresh/out", str(toy_model), {"threshold": 0.3})
    cluster._prepare(job, files, resume=True)  # where nothing is yet
    name = "part-00000-of-00001.parquet"
    assert not cluster._is_whole(job, name, files)
    _do(job, files)
    assert cluster._is_whole(job, name, files)
    cluster._prepare(job, files, resume=True)
    assert cluster._is_whole(job, name, files)
    assert not cluster._is_whole(dataclasses.replace(job, options={"threshold": 0.5}), name, files)
    assert not cluster._is_whole(dataclasses.replace(job, weights="other"), name, files)
    whole = fsspec_files.read(f"{job.out}/{name}")
    for cut in (b"", whole[:40], whole[:-1], whole[: len(whole) // 2]):
        fsspec_files.write(f"{job.out}/{name}", cut)
        assert not cluster._is_whole(job, name, files)
    fsspec_files.write(f"{job.out}/{name}", whole)
    Image.fromarray(paint(64, 72, [(24, 24)])).save(image)
    fsspec_files.write(f"{top}/in/a.png", image.read_bytes())
    changed = fsspec_files.find_images([f"{top}/in"], False).files
    assert changed != files and not cluster._is_whole(job, name, changed)
    cluster._prepare(job, changed, resume=False)
    assert [entry.rpartition("/")[2] for entry in fsspec_files.listed(job.out)] == ["_job.json"]


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of an S3 that is none."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir("photos")
    yield "s3://photos"
    server.stop()


@pytest.mark.parametrize("kind", ("local", "memory"))
def test_workers_mask_photos(toy_model, tmp_path, kind):
    top = str(tmp_path) if kind == "local" else f"memory://{tmp_path}"
    image = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"x" * 3000
    Image.fromarray(paint(64, 64, [(24, 24)])).save(image, exif=exif)
    fsspec_files.write(f"{top}/in/a.png", image.read_bytes())
    fsspec_files.write(f"{top}/in/bad.png", b"no photo")
    masking = Masking(CoverThreshold.of(0.3), MaskStyle("solid", "box", 1.0), keep_metadata=True)
    job = cluster._Job.of(f"{top}/parts", str(toy_model), {"threshold": 0.3}, masking)
    files = fsspec_files.find_images([f"{top}/in"], False).files
    name = _do(job, files, targets={file.path: f"{top}/out/{file.path.rpartition('/')[2]}" for file in files})
    rows = cluster._part(job.out, name).read().to_pylist()
    assert rows[0]["output"].endswith("/out/a.png") and len(rows[0]["boxes"]) == 1
    assert rows[1]["output"] is None and rows[1]["problem"].startswith(f"{files[1].path}: not an image")
    (tmp_path / "masked.png").write_bytes(fsspec_files.read(f"{top}/out/a.png"))
    assert np.asarray(Image.open(tmp_path / "masked.png")).max() == 0
    assert cluster._is_whole(job, name, files)
    summary = cluster.Summary()
    cluster._sum_up(job, name, summary)
    assert summary.lost == [f"{files[0].path}: EXIF tag UserComment cannot be kept"]
    assert summary.line().startswith("1 face in 1 image, ")
    fsspec_files.remove(f"{top}/out", fsspec_files.listed(f"{top}/out"))
    assert not cluster._is_whole(job, name, files)  # its photos are gone


def test_anonymise_on_ray(run, toy_model, tmp_path):
    for number in range(3):
        (tmp_path / f"in/{number}").mkdir(parents=True)
        Image.fromarray(paint(64, 64, [(24, 24)])).save(tmp_path / f"in/{number}/a.png")
    options = ["anonymise", "in", "-r", "--ray", "local", "--method", "solid"]
    command = [sys.executable, "-m", "tinyfaces", *options, "--model", str(toy_model)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)  # as Ray ends the process whose cluster fails
    assert ran.returncode == 0 and "3 faces in 3 images" in ran.stdout and "anonymised_parts" in ran.stdout, ran.stderr
    written = sorted(path.relative_to(tmp_path / "anonymised").as_posix() for path in (tmp_path / "anonymised").rglob("*.*"))
    assert written == [".tinyfaces", "0/a.png", "1/a.png", "2/a.png"]
    assert np.asarray(Image.open(tmp_path / "anonymised/1/a.png")).max() == 0
    before = (tmp_path / "in/0/a.png").read_bytes()
    ran = run(*options, "--out", "in", code=2)
    assert "never overwritten" in ran.stderr and (tmp_path / "in/0/a.png").read_bytes() == before


@pytest.mark.parametrize("given", (["in", "--out", "s3://b/x"], ["s3://b/x", "--out", "out"]))
def test_a_missing_kind_of_files_is_one_line(run, tmp_path, monkeypatch, given):
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(64, 64)).save(tmp_path / "in/a.png")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(KINDS, "s3", raising=False)
    ran = run("detect", *given, "--ray", "local", code=2)
    assert "s3fs" in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr


@pytest.mark.parametrize("option", (("--precision", "int3"), ("--stages", "three"), ("--backend", "none")))
def test_a_wrong_option_is_told_before_a_cluster_is_asked(option, run, tmp_path):
    ran = run("detect", str(tmp_path), "--ray", "nowhere:1", "--out", str(tmp_path / "res"), *option, code=2)
    assert option[1] in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_results_of_another_job_are_not_mixed_with(tmp_path):
    job = cluster._Job(str(tmp_path), "accurate", "weights", {"threshold": None, "precision": "auto"})
    files = [fsspec_files.Found(name, "", (1, "")) for name in ("a.png", "b.png")]
    cluster._prepare(job, files, resume=False)
    (tmp_path / "part-00000-of-00001.parquet").write_bytes(b"x")
    assert json.loads((tmp_path / "_job.json").read_text())["files"] == 2
    with pytest.raises(cluster.RayError, match="another job"):
        cluster._prepare(job, files[:1], resume=True)
    for change in ({"options": {"threshold": None, "precision": "float32"}}, {"weights": "other"}, {"masking": Masking()}):
        with pytest.raises(cluster.RayError, match="another job"):
            cluster._prepare(dataclasses.replace(job, **change), files, resume=True)
    cluster._prepare(job, files, resume=True)
    assert (tmp_path / "part-00000-of-00001.parquet").exists()
    cluster._prepare(job, files, resume=False)
    assert not (tmp_path / "part-00000-of-00001.parquet").exists()
