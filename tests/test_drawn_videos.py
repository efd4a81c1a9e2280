"""`detect --save-video`: a copy of a video with its faces framed, known again as a result."""

import json

import numpy as np
import pytest
from PIL import Image

from conftest import paint

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")

from test_video import crowd, frames_of, run, samples_of, write  # noqa: E402, F401
from tinyfaces import Detector, Faces  # noqa: E402
from tinyfaces.jobs.clips import Clip  # noqa: E402
from tinyfaces.jobs.drawn_videos import drawing, write_drawn  # noqa: E402
from tinyfaces.jobs.inputs import find_inputs  # noqa: E402
from tinyfaces.jobs.tracking import TrackedFaces  # noqa: E402
from tinyfaces.jobs.video import VideoReader  # noqa: E402
from tinyfaces.jobs.video_writer import VideoWriter  # noqa: E402


def _pixels(path):
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames_of(path)]).astype(int)


def _is_green(pixels):
    return (pixels[..., 1] > 200) & (pixels[..., [0, 2]].max(axis=-1) < 60)


def _outline(x, y, side=8):
    """Rows and columns of the line of one pixel around a square."""
    line = np.ones((side + 2, side + 2), bool)
    line[1:-1, 1:-1] = False
    rows, columns = np.nonzero(line)
    return rows + y - 1, columns + x - 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_face_is_framed_and_all_else_stays(run, tmp_path, suffix):  # noqa: F811
    images, places = crowd(20)
    path = write(tmp_path / f"a{suffix}", images, tags={"title": "secret"})
    run("detect", path.name, "--out", "plain")
    result = run("detect", path.name, "--out", "found", "--save-video")
    assert f"found/a_faces{suffix}" in result.stdout
    assert (tmp_path / f"found/a{suffix}.json").read_text() == (tmp_path / f"plain/a{suffix}.json").read_text()
    drawn = tmp_path / f"found/a_faces{suffix}"
    before, after = _pixels(path), _pixels(drawn)
    assert before.shape == after.shape
    assert [frame.time for frame in frames_of(drawn)] == [frame.time for frame in frames_of(path)]
    assert (samples_of(drawn) == samples_of(path)).all()
    for number, here in enumerate(places):
        touched = np.zeros(before.shape[1:3], bool)
        for x, y in here:
            touched[max(0, y - 16) : y + 12, max(0, x - 4) : x + 24] = True  # the frame, and the number above it
        for x, y in here:
            rows, columns = _outline(x, y)
            seen = (rows >= 0) & (columns >= 0) & (rows < 128) & (columns < 192)
            assert _is_green(after[number][rows[seen], columns[seen]]).mean() > 0.6  # others' numbers and frames cross it
        assert np.abs(after[number] - before[number])[~touched].max() < 24
    assert b"secret" not in drawn.read_bytes()


def test_a_turned_video_stays_turned_and_its_words_are_upright(run, tmp_path):  # noqa: F811
    image = np.full((128, 192, 3), 40, np.uint8)
    image[64:72, 96:104] = (255, 0, 0)
    path = write(tmp_path / "a.mp4", [image] * 6, sound=False, rotation=90, pixels="yuv420p")
    run("detect", "a.mp4", "--save-video", "--show", "scores")
    with VideoReader(path) as source, VideoReader(tmp_path / "faces/a_faces.mp4") as drawn:
        assert drawn.shape == source.shape and drawn.shape.size == (128, 192)
        upright = drawn.pictures(next(drawn.frames()))[0].astype(int)
        before = source.pictures(next(source.frames()))[0]
    faces = Faces([_place(before)], [0.9933])
    settled = TrackedFaces(0.0, faces, np.zeros(1, np.int64), np.ones(1, bool), faces.boxes)
    expected = drawing(settled, 128, 192, scores=True)[..., 0]
    assert np.corrcoef(expected.ravel(), (upright[..., 1] - before[..., 1]).ravel())[0, 1] > 0.8


def _place(image):
    rows, columns = np.nonzero(image[..., 0] > 200)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_numbers_and_scores_stand_above_frames():
    faces = Faces([[40, 60, 60, 100], [100, 60, 180, 140]], [0.9, 0.5])
    settled = TrackedFaces(0.0, faces, np.array([3, 12]), np.ones(2, bool), faces.boxes)
    lines = np.asarray(faces.draw(np.zeros((160, 200, 3), np.uint8), colour="white"))[..., 0]
    numbers, scores = (drawing(settled, 200, 160, scores=scores) for scores in (False, True))
    for drawn in (numbers, scores):
        assert drawn.shape == (160, 200, 2) and (drawn[lines > 0] == 255).all()
        assert (drawn[..., 0] <= drawn[..., 1]).all()
        words = np.argwhere((drawn[..., 0] > 0) & (lines == 0))
        assert len(words) and words[:, 0].max() < 60
    assert (scores > 0).sum() > (numbers > 0).sum() + 50
    assert not drawing(TrackedFaces(0.0, faces[:0], np.zeros(0), np.zeros(0), faces.boxes[:0]), 20, 10, scores=True).any()


def test_words_have_a_dark_outline(toy_model, tmp_path):
    faces = Faces([[60, 60, 120, 120]], [0.5])
    settled = TrackedFaces(0.0, faces, np.zeros(1, np.int64), np.ones(1, bool), faces.boxes)
    path = write(tmp_path / "a.mkv", [np.full((128, 192, 3), 255, np.uint8)] * 2, sound=False)
    with VideoReader(path) as source, VideoWriter(tmp_path / "b.mkv", ".mkv", source) as writer:
        for frame in source.frames():
            writer.write_drawn(frame, drawing(settled, 192, 128, scores=True))
    words = _pixels(tmp_path / "b.mkv")[0][40:58]
    assert (words.max(axis=2) < 60).sum() > 40 and (words[..., 1] - words[..., 0] > 100).sum() > 20
    assert _pixels(tmp_path / "b.mkv")[0][:30].min() > 225


def test_it_is_no_input_of_a_later_run_but_others_of_such_a_name_are(run, tmp_path):  # noqa: F811
    for name in ("a.mp4", "b_faces.mp4"):
        write(tmp_path / name, crowd(4)[0], sound=False)
    for suffix in ("mkv", "mov", "webm"):
        codec = {"codec": "libvpx-vp9"} if suffix == "webm" else {}
        write(tmp_path / f"a.{suffix}", crowd(4)[0], sound=False, **codec)
    names = ["a.mkv", "a.mov", "a.mp4", "a.webm"]
    run("detect", *names, "--save-video", "--out", ".", "--quiet")
    assert len(list(tmp_path.glob("a_faces.*"))) == 4
    found = find_inputs(["."], False)
    assert [str(file.name) for file in found.files] == [*names, "b_faces.mp4"] and found.left_out["earlier results"] == 4


def test_transport_streams_become_mkv(run, tmp_path):  # noqa: F811
    write(tmp_path / "a.ts", crowd(4)[0], sound=False)
    run("detect", "a.ts", "--save-video", "--out", ".", "--quiet")
    assert len(frames_of(tmp_path / "a_faces.mkv")) == 4
    assert [str(file.name) for file in find_inputs(["."], False).files] == ["a.ts"]


def test_nothing_given_is_written_over(run, tmp_path):  # noqa: F811
    for name in ("a.mp4", "a_faces.mp4"):
        write(tmp_path / name, crowd(4)[0], sound=False)
    before = (tmp_path / "a_faces.mp4").read_bytes()
    result = run("detect", "a.mp4", "a_faces.mp4", "--save-video", "--out", ".", code=1)
    assert "a_faces.mp4: is one of the input files, which are never overwritten" in result.stderr
    assert (tmp_path / "a_faces.mp4").read_bytes() == before and (tmp_path / "a_faces_faces.mp4").exists()


def test_whole_or_not_at_all(toy_model, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(30)[0], sound=False)
    with VideoReader(path) as video:
        clip = Clip(video, Detector(toy_model, threads=1), 0, lambda frames: None)
        frames = write_drawn(clip, tmp_path / "out/a_faces.mp4", scores=False)
        next(frames)
        assert len(list((tmp_path / "out").iterdir())) == 1
        frames.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_other_formats_sizes_and_photos_beside(run, tmp_path):  # noqa: F811
    Image.fromarray(paint(96, 128, [(8, 8)])).save(tmp_path / "p.png")
    write(tmp_path / "a.mkv", [paint(64, 64, [(24, 24)])] * 4, sound=False, pixels="yuv420p10le", codec="libx265")
    lines = run("detect", "a.mkv", "p.png", "--save-video", "--save-images", "--format", "jsonl", "--quiet").stdout.splitlines()
    assert len([json.loads(line) for line in lines if line.startswith("{")]) == 5
    assert {path.name for path in (tmp_path / "faces").iterdir()} == {"a_faces.mkv", "p_faces.png"}
    frame = frames_of(tmp_path / "faces/a_faces.mkv")[0]
    assert frame.format.name == "yuv420p10le"
    luma = frame.to_ndarray(format="gray")
    assert luma[_outline(24, 24)].min() > 120 and luma[40:, :20].max() < 30
    faint = write(tmp_path / "t.mkv", [paint(64, 64, [(24, 24)])] * 2, sound=False, codec="ffv1", pixels="yuva420p")
    assert f"faces/{faint.stem}_faces.mkv: written without transparency" in run("detect", "t.mkv", "--save-video").stderr
    assert "--save-video is for videos, and none was given" in run("detect", "p.png", "--save-video", code=2).stderr


def test_crops_are_the_best_view_of_each_track(run, tmp_path):  # noqa: F811
    """A square whose red is weaker scores less; the crop is from the one frame in which it is strongest."""
    images = [np.full((128, 192, 3), 40, np.uint8) for _ in range(12)]
    for number, image in enumerate(images):
        image[24:32, 24:32] = (255 if number == 5 else 215, 0, 0)
        image[80:88, 120:128] = (255 if number == 9 else 215, 0, 0)
        image[22:24, 24:32] = image[78:80, 120:128] = (0, 0, 20 * number)  # which tells the frames apart
    write(tmp_path / "a.mkv", images, sound=False, rotation=90)
    result = run("detect", "a.mkv", "--crops", "crops", "--margin", "0.25", "--save-video", "--out", "out")
    assert "2 crops in crops" in result.stdout
    rows = [json.loads(line) for line in run("detect", "a.mkv", "--format", "jsonl").stdout.splitlines() if line[0] == "{"]
    tracks = rows[5]["tracks"]
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == [f"a_face_{n:03d}.png" for n in sorted(tracks)]
    with VideoReader(tmp_path / "a.mkv") as video:
        pictures = [video.pictures(frame)[0] for frame in video.frames()]
    best = {track: max(range(12), key=lambda n: rows[n]["scores"][rows[n]["tracks"].index(track)]) for track in tracks}
    assert set(best.values()) == {5, 9}
    for track, number in best.items():
        x, y, _, _ = (round(side) for side in rows[number]["boxes"][rows[number]["tracks"].index(track)])
        crop = np.asarray(Image.open(tmp_path / f"crops/a_face_{track:03d}.png"))
        assert (crop == pictures[number][y - 2 : y + 10, x - 2 : x + 10]).all()
    found = find_inputs(["."], True)
    assert [str(file.name) for file in found.files] == ["a.mkv"]
    Image.new("RGB", (8, 8)).save(tmp_path / "crops/a_face_000.png")
    assert "a_face_000.png: is no crop of a face" in run("detect", "a.mkv", "--crops", "crops", code=2).stderr
