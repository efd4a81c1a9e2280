"""`detect --crops` and `--show`: each face as a file, and scores beside the frames."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from tinyfaces import Detector, Faces, read_image
from tinyfaces.files import clear_partials
from tinyfaces.jobs import face_crops
from tinyfaces.jobs.face_crops import FaceCrops
from tinyfaces.jobs.image_results import ImageResult

SMALL = [(8, 88), (56, 8)]


@pytest.fixture
def photo(run, tmp_path):
    """Two faces of 8 px and one of 32, at (64, 64)."""
    pixels = paint(96, 128, SMALL, [(64, 64)])
    pixels[..., 2] = np.arange(128)  # so that each column is another
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return pixels


def test_crops_are_the_pixels_around_each_face_highest_score_first(run, photo, toy_model, tmp_path):
    result = run("detect", "a.png", "--crops", "crops", "--margin", "0.5")
    assert "3 crops in crops" in result.stdout and "a_face_000" not in result.stdout
    boxes = Detector(toy_model).detect(photo).boxes.round().astype(int).tolist()
    assert len(boxes) == 3
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        more = (x2 - x1) // 2
        expected = photo[max(0, y1 - more) : min(96, y2 + more), max(0, x1 - more) : min(128, x2 + more)]
        got = read_image(tmp_path / f"crops/a_face_{number:03d}.png")
        assert got.shape == expected.shape and (got == expected).all()
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == [f"a_face_{n:03d}.png" for n in range(3)]
    run("detect", "a.png", "--crops", "tight", "--margin", "0", "--quiet")
    assert sorted(Image.open(path).size for path in (tmp_path / "tight").iterdir()) == [(8, 8), (8, 8), (32, 32)]
    run("detect", "a.png", "--crops", "plain", "--min-height", "20", "--quiet")
    assert [Image.open(path).size for path in (tmp_path / "plain").iterdir()] == [(48, 40)]  # a quarter more, up to the border


def test_crops_go_with_every_format_and_with_pictures(run, photo, tmp_path):
    run("detect", "a.png", "--out", "out", "--format", "yolo", "--save-images", "--crops", "out/faces")
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["a.txt", "a_faces.png", *(f"faces/a_face_{n:03d}.png" for n in range(3))]


def test_no_given_and_no_other_file_is_written_over(run, photo, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in/a.png")
    for name, marked in (("a_face_002.png", False), ("a_face_000.png", False), ("a_face_001.png", True)):
        if marked:
            run("detect", "in/a.png", "--crops", "crops", "--quiet")
            (tmp_path / "crops/a_face_001.png").rename(tmp_path / "in" / name)
        else:
            Image.fromarray(paint(32, 32, [(8, 8)])).save(tmp_path / "in" / name)
        before = (tmp_path / "in" / name).read_bytes()
        result = run("detect", "in/a.png", f"in/{name}", "--crops", "in", "--quiet", code=1)
        assert f"{name}: is one of the input files, which are never overwritten" in result.stderr
        result = run("detect", "in/a.png", "--crops", "in", "--quiet", code=0 if marked else 2)
        assert marked or f"{name}: is no crop of a face, and is not overwritten" in result.stderr
        assert marked or (tmp_path / "in" / name).read_bytes() == before
        for path in (tmp_path / "in").glob("a_face_*"):
            path.unlink()


def test_two_photos_never_share_crops(run, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.bmp")
    result = run("detect", "a.png", "a.bmp", "--crops", "crops", "--quiet", code=1)
    assert "another file of that name" in result.stderr
    (tmp_path / "b").mkdir()
    Image.fromarray(photo).save(tmp_path / "b/a.png")
    run("detect", ".", "-r", "--crops", "more", "--quiet", code=1)
    assert (tmp_path / "more/b/a_face_000.png").exists()


def test_crops_are_no_input_of_a_later_run(run, photo, tmp_path):
    run("detect", "a.png", "--crops", ".", "--quiet")
    lines = run("detect", ".", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines if line.startswith("{")] == ["a.png"]


def test_a_resumed_run_writes_what_is_missing(run, photo, tmp_path):
    given = ["detect", "a.png", "--out", "out.json", "--crops", "crops", "--quiet", "--resume"]
    run(*given)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "crops").iterdir()}
    run(*given)
    assert stamps == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "crops").iterdir()}
    (tmp_path / "crops/a_face_002.png").unlink()
    run(*given)
    assert len(list((tmp_path / "crops").iterdir())) == 3
    assert "settings" in run(*given, "--margin", "0.5", code=2).stderr


def test_what_a_killed_run_leaves_is_cleared(tmp_path, photo, monkeypatch):
    faces = Faces([[56, 8, 64, 16], [8, 88, 16, 96]], [0.9, 0.8])
    crops = FaceCrops(tmp_path / "crops")
    result = ImageResult(Path("a.png"), Path("a.png"), 128, 96, faces)
    monkeypatch.setattr(Path, "replace", lambda self, target: self)  # as if killed before it
    crops.write(result, photo)
    assert len(list((tmp_path / "crops").glob(".*.partial"))) == 2
    clear_partials([crops.first(result)])
    assert not list((tmp_path / "crops").iterdir())


def test_huge_images_are_read_from_top_to_bottom(tmp_path, photo):
    class Forward:
        shape = photo.shape
        rows = 0

        def __getitem__(self, region):
            assert region[0].start >= self.rows
            self.rows = region[0].start
            return photo[region]

    faces = Faces([[8, 88, 16, 96], [64, 64, 96, 96], [56, 8, 64, 16], [-20, -20, -4, -4]], [0.9, 0.8, 0.7, 0.6])
    paths = FaceCrops(tmp_path, 0.0).write(ImageResult(Path("a.tif"), Path("a.tif"), 128, 96, faces), Forward())
    sizes = [Image.open(path).size for path in paths]
    assert sizes == [(8, 8), (32, 32), (8, 8), (1, 1)] and face_crops.MARGIN == 0.25


def test_scores_are_shown(run, photo, toy_model, tmp_path):
    run("detect", "a.png", "--save-images", "--out", "plain", "--format", "voc", "--quiet")
    run("detect", "a.png", "--save-images", "--out", "scored", "--format", "voc", "--show", "scores", "--quiet")
    plain, scored = (read_image(tmp_path / folder / "a_faces.png") for folder in ("plain", "scored"))
    changed = np.argwhere((plain != scored).any(axis=2))
    letters = scored[tuple(changed.T)].astype(int)
    assert (letters[:, [0, 2]].max(axis=1) - letters[:, 1]).min() < -100  # green ones
    expected = Detector(toy_model).detect(photo).draw(photo, scores=True)
    assert (scored == np.asarray(expected)).all()


def test_options_that_do_not_go_together(run, photo):
    assert "--show goes with --save-images" in run("detect", "a.png", "--show", "scores", code=2).stderr
    assert "--margin goes with --crops" in run("detect", "a.png", "--margin", "1", code=2).stderr
    assert "crops.json: --crops is a folder" in run("detect", "a.png", "--crops", "crops.json", code=2).stderr
    assert "--crops does not go with it" in run("detect", "a.png", "--crops", "c", "--ray", "local", "--out", "o", code=2).stderr


def test_a_second_run_with_fewer_faces_leaves_no_crop_of_the_first(run, photo, tmp_path):
    crops = tmp_path / "crops"
    run("detect", "a.png", "--crops", "crops", "--quiet")
    Image.fromarray(paint(32, 32, [(8, 8)])).save(crops / "a_face_003.png")  # of the user's own
    run("detect", "a.png", "--crops", "crops", "--min-height", "20", "--quiet")
    assert sorted(path.name for path in crops.iterdir()) == ["a_face_000.png", "a_face_003.png"]
    assert Image.open(crops / "a_face_000.png").size == (48, 40)
    run("detect", "a.png", "--crops", "crops", "--min-height", "90", "--quiet")
    assert [path.name for path in crops.iterdir()] == ["a_face_003.png"]


def test_crops_of_tracks_that_are_gone_are_removed_too(photo, tmp_path):
    crops = FaceCrops(tmp_path / "crops")
    clip, other = (SimpleNamespace(name=Path(name)) for name in ("clip.mp4", "clip_face_2.mp4"))
    for file, track in ((clip, 2), (clip, 7), (other, 7)):
        kept = crops.write_track(file, track, np.array([8, 8, 20, 20], np.float32), photo)
    crops.remove_other_tracks(clip, [tmp_path / "crops/clip_face_002.png"])
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["clip_face_002.png", kept.name]
