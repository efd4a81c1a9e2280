"""Animations masked frame by frame: every face in every frame, times and repetitions as before, no frame left behind another."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from conftest import paint
from tinyfaces import Detector, ImageError
from tinyfaces.jobs.animations import frames_in, masked_animation
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.masked_photos import masked_photo
from tinyfaces.jobs.masking import MaskStyle

SOLID = Masking(style=MaskStyle("solid", "box", 1.0))
PLACES = [(16, 16), (64, 16), (112, 64), (16, 64)]
TIMES = [100, 250, 40, 500]
FORMATS = {"gif": {}, "png": {}, "webp": {"lossless": True}, "avif": {"quality": 100}}


def _frames(see_through=False):
    """A red square, which the toy detector takes for a face, that moves over a ground of few colours."""
    frames = []
    for number, place in enumerate(PLACES):
        pixels = paint(96, 160, [place])
        pixels[80:, 40 * number : 40 * number + 40] = (0, 0, 200)
        image = Image.fromarray(pixels)
        if see_through:
            image.putalpha(Image.fromarray(np.where(pixels.any(axis=2), 255, 0).astype(np.uint8)))
        frames.append(image)
    return frames


def _animation(path, frames, **more):
    first, *rest = frames
    cleared = {".gif": 2, ".png": 1}.get(path.suffix, 0)  # the canvas, after each frame
    first.save(path, save_all=True, append_images=rest, **{"duration": TIMES, "loop": 3, "disposal": cleared, **more})
    return path


def _shown(content):
    """What a viewer shows: a frame for each, RGBA, and its time; frames that a writer has made one count as one."""
    image = Image.open(io.BytesIO(content))
    shown, times = [], []
    for number in range(image.n_frames):
        image.seek(number)
        image.load()
        shown.append(np.asarray(image.convert("RGBA")).astype(int))
        times.append(image.info["duration"])
    return image, shown, times


@pytest.fixture(scope="module")
def detector(toy_model):
    return Detector(toy_model)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_frame_is_masked_and_times_stay(tmp_path, detector, kind):
    path = _animation(tmp_path / f"a.{kind}", _frames(), **FORMATS[kind])
    assert frames_in(path) == 4
    content, record = masked_photo(path, detector, SOLID)
    image, shown, times = _shown(content)
    before = _shown(path.read_bytes())
    assert image.format == before[0].format and times == before[2] == TIMES
    assert image.info.get("loop") == before[0].info.get("loop")
    for number, (frame, was) in enumerate(zip(shown, before[1], strict=True)):
        here = PLACES[max(0, number - 1) : number + 2]
        masked = np.zeros(frame.shape[:2], bool)
        for x, y in here:
            masked[y - 3 : y + 11, x - 3 : x + 11] = True
            assert frame[y : y + 8, x : x + 8, :3].max() < 12, (number, x, y)
        assert np.abs(frame - was)[~masked].max() <= (0 if kind != "avif" else 40), "the rest is as it was"
    assert record["frames"] == 4 and record["faces"] == 4 and record["frame"] == [0, 1, 2, 3]
    assert [[round(side) for side in box] for box in record["boxes"]] == [[x, y, x + 8, y + 8] for x, y in PLACES]
    assert (record["width"], record["height"]) == (160, 96)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_transparent_frames_leave_nothing_of_the_one_before(tmp_path, detector, kind):
    path = _animation(tmp_path / f"a.{kind}", _frames(see_through=True), **FORMATS[kind])
    shown = _shown(masked_animation(path, detector, SOLID)[0])[1]
    for number, (frame, was) in enumerate(zip(shown, _shown(path.read_bytes())[1], strict=True)):
        assert (frame[80:, :, 3] == was[80:, :, 3]).all() and (frame[80:, :, 3] == 255).sum() == 16 * 40
        for x, y in PLACES[max(0, number - 1) : number + 2]:
            assert frame[y : y + 8, x : x + 8, 0].max() == 0


def test_a_face_that_one_frame_misses_is_masked_there_too(tmp_path, detector):
    frames = []
    for number, red in enumerate((255, 170, 255)):  # the second one is too dark for the toy detector
        pixels = paint(96, 160, [(16, 16)])
        pixels[16:24, 16:24, 0] = red
        pixels[80:, 40 * number : 40 * number + 40] = (0, 0, 200)
        frames.append(Image.fromarray(pixels))
    path = _animation(tmp_path / "a.png", frames, duration=[50, 50, 50])
    content, record = masked_animation(path, detector, SOLID)
    assert record["frame"] == [0, 2]
    assert max(frame[16:24, 16:24, :3].max() for frame in _shown(content)[1]) == 0


def test_colours_of_a_gif_beyond_one_palette(tmp_path, detector):
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    noise[..., 0] //= 2  # no faces
    path = _animation(tmp_path / "a.gif", [Image.fromarray(one) for one in noise], duration=[70, 80, 90])
    content, record = masked_animation(path, detector, SOLID)
    _, shown, times = _shown(content)
    assert record["faces"] == 0 and times == [70, 80, 90]
    for frame, was in zip(shown, _shown(path.read_bytes())[1], strict=True):
        assert np.abs(frame - was).mean() < 1


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_metadata_goes_or_is_kept(tmp_path, detector, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    path = _animation(tmp_path / f"a.{kind}", _frames(), exif=exif.tobytes(), **FORMATS[kind])
    content, record = masked_animation(path, detector, SOLID)
    assert record["removed"] == ["EXIF", "GPS"] and b"Camera" not in content
    content, record = masked_animation(path, detector, replace(SOLID, keep_metadata=True))
    assert record["removed"] == [] and Image.open(io.BytesIO(content)).getexif()[ExifTags.Base.Make] == "Camera"


def test_a_gif_without_repetitions_and_with_a_comment(tmp_path, detector):
    first, *rest = _frames()
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=TIMES, comment=b"secret words")
    content, record = masked_animation(tmp_path / "a.gif", detector, SOLID)
    assert "loop" not in Image.open(io.BytesIO(content)).info and b"secret" not in content and record["removed"] == ["comment"]


def test_the_picture_for_viewers_without_animation_is_masked_too(tmp_path, detector):
    path = _animation(tmp_path / "a.png", _frames(), default_image=True, duration=TIMES[1:])
    content, _ = masked_animation(path, detector, SOLID)
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["default_image"] and np.asarray(image)[16:24, 16:24, :3].max() == 0
        times = []
        for number in range(1, image.n_frames):
            image.seek(number)
            image.load()
            times.append(image.info["duration"])
    assert times == TIMES[1:]


def test_an_upright_animation(tmp_path, detector):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = [image.transpose(Image.Transpose.ROTATE_90) for image in _frames()]
    path = _animation(tmp_path / "a.webp", stored, lossless=True, exif=exif.tobytes())
    content, record = masked_animation(path, detector, SOLID)
    assert (record["width"], record["height"]) == (160, 96) == Image.open(io.BytesIO(content)).size
    assert [[round(side) for side in box[:2]] for box in record["boxes"]] == [list(place) for place in PLACES]


def test_an_animation_larger_than_memory_allows_is_refused(tmp_path, detector, monkeypatch):
    from tinyfaces.jobs import animations

    path = _animation(tmp_path / "a.gif", _frames())
    monkeypatch.setattr(animations, "MAX_PIXELS", 60_000)
    with pytest.raises(ImageError, match=r"a\.gif: 4 frames of 160x96 are more than"):
        masked_photo(path, detector, SOLID)


def test_faces_that_are_chosen_or_given(run, tmp_path):
    _animation(tmp_path / "a.gif", _frames())
    run("anonymise", "a.gif", "--max-height", "4", "--report", "r.json")
    file = json.loads((tmp_path / "r.json").read_text())["files"][0]
    assert file["faces"] == 0 and sum(file["left_clear"].values()) == 4
    given = {"images": [{"file": "a.gif", "width": 160, "height": 96, "boxes": [[120, 8, 136, 24]], "scores": [1.0]}]}
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    run("anonymise", "a.gif", "--boxes", "boxes.json", "--method", "solid", "--report", "r.json", "--out", "b")
    assert json.loads((tmp_path / "r.json").read_text())["files"][0]["frame"] == [0, 1, 2, 3]
    for frame in _shown((tmp_path / "b/a.gif").read_bytes())[1]:
        assert frame[8:24, 120:136, :3].max() == 0


def test_commands_say_what_they_did(run, tmp_path):
    _animation(tmp_path / "a.gif", _frames())
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[:30])
    run("anonymise", "a.gif", "cut.gif", "--method", "solid", "--report", "r.json", code=1)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["files"][0]["frame"] == [0, 1, 2, 3] and [one["file"] for one in report["problems"]] == ["cut.gif"]
    assert frames_in(tmp_path / "anonymised/a.gif") == 4
    for command in ("detect", "count"):
        told = run(command, "a.gif").stderr
        assert "a.gif: is an animation of 4 frames; its first one is searched" in " ".join(told.split())
    assert "animation" not in run("detect", "a.gif", "--quiet").stderr
