"""The public `tinyfaces.video`: the same faces and the same masked file as the commands."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed (the extra video)")

import tinyfaces
from test_video import crowd, frames_of, run, samples_of, write  # noqa: F401
from tinyfaces import CoverThreshold, Detector, MaskStyle, Selection


@pytest.fixture(scope="module")
def detector(toy_model):
    return Detector(toy_model, threshold=0.5, threads=1)


def _pixels(path):
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames_of(path)])


def _reds(path, places):
    """What is red within each square of each frame."""
    frames = zip(_pixels(path), places, strict=True)
    return [[pixels[y + 2 : y + 6, x + 2 : x + 6, 0] for x, y in here] for pixels, here in frames]


def test_frames_come_with_times_tracks_and_faces(detector, tmp_path):
    images, places = crowd(30, missed={1: {5, 6}})
    path = write(tmp_path / "a.mp4", images, sound=False)
    frames = list(tinyfaces.video.detect(path, detector=detector))
    assert [round(frame.time * 25) for frame in frames] == list(range(30))
    for number, (frame, here) in enumerate(zip(frames, places, strict=True)):
        assert len(frame.faces) == len(frame.tracks) == 5 and frame.size == (192, 128)
        corners = {tuple(corner) for corner in frame.faces.boxes[:, :2].round().astype(int).tolist()}
        assert corners == set(here) or number in (5, 6)
        assert frame.found.all() == (number not in (5, 6))
    assert len({track for frame in frames for track in frame.tracks.tolist()}) == 5
    high = tinyfaces.video.detect(path, detector=detector, threshold=1.0)
    assert sum(len(frame.faces) for frame in high) == 0
    chosen = Selection(only_tracks=frames[0].tracks[:2].tolist())
    assert all(len(frame.faces) == 2 for frame in tinyfaces.video.detect(str(path), detector=detector, selection=chosen))


def test_not_every_frame_is_searched_if_so_asked(run, detector, tmp_path):  # noqa: F811
    path = write(tmp_path / "a.mp4", crowd(14)[0], sound=False)
    frames = list(tinyfaces.video.detect(path, detector=detector, every=4))
    assert [frame.searched for frame in frames] == [number in (0, 4, 8, 12, 13) for number in range(14)]
    assert [len(frame.faces) for frame in frames] == [5] * 14
    run("anonymise", "a.mp4", "--every", "auto", "--method", "solid")
    tinyfaces.video.anonymise(path, tmp_path / "b.mp4", detector=detector, threshold=0.5, every="auto", style=MaskStyle("solid"))
    assert (_pixels(tmp_path / "b.mp4") == _pixels(tmp_path / "anonymised/a.mp4")).all()
    for wrong in (0, 11, "often", 1.5, True):
        with pytest.raises(ValueError, match="every must be"):
            tinyfaces.video.detect(path, detector=detector, every=wrong)
    with pytest.raises(ValueError, match="do not go with them"):
        tinyfaces.video.anonymise(path, tmp_path / "c.mp4", [], every=2)


def test_a_video_is_left_in_the_middle(detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(20)[0], sound=False)
    frames = tinyfaces.video.detect(path, detector=detector)
    assert len(next(frames).faces) == 5
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)


def test_a_masked_video_is_that_of_the_command(run, detector, tmp_path):  # noqa: F811
    path = write(tmp_path / "a.mp4", crowd(24)[0], tags={"title": "secret"})
    run("anonymise", "a.mp4", "--method", "solid", "--shape", "box", "--quality", "5")
    counts = []
    done = tinyfaces.video.anonymise(
        path, tmp_path / "new/b.mp4", detector=detector, threshold=0.5, style=MaskStyle("solid", "box"), quality=5,
        progress=counts.append,
    )  # fmt: skip
    command = tmp_path / "anonymised/a.mp4"
    assert (_pixels(tmp_path / "new/b.mp4") == _pixels(command)).all()
    assert (samples_of(tmp_path / "new/b.mp4") == samples_of(path)).all()
    assert (done.width, done.height, done.frames, done.tracks, done.problem) == (192, 128, 24, 5, None)
    assert sum(counts) == 24 and done.removed == ["tags"] and done.lost == [] and done.left_clear == {}
    assert [face["track"] for face in done.track_list] == list(range(5))
    assert b"secret" not in (tmp_path / "new/b.mp4").read_bytes()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["b.mp4"]


def test_tracks_are_left_clear_and_covers_are_put_on(detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(8)[0], sound=False)
    first = next(tinyfaces.video.detect(path, detector=detector))
    x, y = first.faces.boxes[0, :2].round().astype(int)
    cover = Image.new("RGB", (8, 8), (0, 0, 255))
    done = tinyfaces.video.anonymise(
        path, tmp_path / "b.mkv", detector=detector, threshold=CoverThreshold.of(0.5), cover=cover,
        selection=Selection(keep_tracks=[int(first.tracks[0])]),
    )  # fmt: skip
    assert done.tracks == 4 and done.left_clear == {"of kept tracks": 1}
    frame = _pixels(tmp_path / "b.mkv")[0].astype(int)
    assert frame[y + 2 : y + 6, x + 2 : x + 6, 0].min() > 200
    x, y = first.faces.boxes[1, :2].round().astype(int)
    masked = frame[y + 2 : y + 6, x + 2 : x + 6]
    assert masked[..., 2].min() > 200 and masked[..., 0].max() < 60


def test_tracks_that_a_video_does_not_have_are_told(detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(8)[0], sound=False)
    with pytest.warns(RuntimeWarning, match=r"a\.mp4: has no track 999$"):
        frames = list(tinyfaces.video.detect(path, detector=detector, selection=Selection(only_tracks=[0, 999])))
    assert [len(frame.faces) for frame in frames] == [1] * 8
    done = tinyfaces.video.anonymise(path, tmp_path / "b.mp4", detector=detector, selection=Selection(keep_tracks=[9, 8]))
    assert done.problem == f"{path}: has no tracks 8, 9" and done.tracks == 5
    cut = tmp_path / "cut.mkv"
    whole = write(tmp_path / "whole.mkv", crowd(60)[0], sound=False).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    done = tinyfaces.video.anonymise(cut, tmp_path / "b.mkv", detector=detector, selection=Selection(keep_tracks=[99]))
    assert done.problem.startswith(f"{cut}: cut short") and done.problem.endswith("; has no track 99")


def test_faces_that_are_given_frame_by_frame(detector, tmp_path):
    images, places = crowd(12)
    path = write(tmp_path / "a.mkv", images, sound=False)
    frames = list(tinyfaces.video.detect(path, detector=detector))
    chosen = [frame.tracks != frames[0].tracks[0] for frame in frames]
    edited = [replace(one, faces=one.faces[rows], tracks=one.tracks[rows]) for one, rows in zip(frames, chosen, strict=True)]
    kept = frames[0].faces.boxes[0, :2].round().astype(int).tolist()
    square = places[0].index(tuple(kept))
    solid = MaskStyle("solid", "box", 1.0)
    done = tinyfaces.video.anonymise(path, tmp_path / "b.mkv", edited, style=solid)
    assert (done.frames, done.tracks, done.track_list, done.left_clear) == (12, 4, [], {})
    reds = _reds(tmp_path / "b.mkv", places)
    assert all(red[square].min() > 200 for red in reds)
    assert all(red.max() < 30 for frame in reds for number, red in enumerate(frame) if number != square)
    boxes = [[[x, y, x + 8, y + 8] for x, y in here[:1]] for here in places]
    done = tinyfaces.video.anonymise(path, tmp_path / "c.mkv", iter(boxes), style=solid)
    reds = _reds(tmp_path / "c.mkv", places)
    assert done.tracks == 0 and all(frame[0].max() < 30 and frame[1].min() > 200 for frame in reds)
    for given, words in ((boxes[:-1], "no entry for frame 11"), ([*boxes, []], "has 12 frames, but faces lists 13")):
        with pytest.raises(ValueError, match=rf"a\.mkv: .*{words}"):
            tinyfaces.video.anonymise(path, tmp_path / "d.mkv", given)
    with pytest.raises(ValueError, match="do not go with them"):
        tinyfaces.video.anonymise(path, tmp_path / "d.mkv", boxes, threshold=0.5)
    with pytest.raises(ValueError, match="boxes must be"):
        tinyfaces.video.anonymise(path, tmp_path / "d.mkv", [[[1, 2, 3]]] * 12)
    assert not (tmp_path / "d.mkv").exists()


def test_a_damaged_video_gives_its_good_part_and_says_so(detector, tmp_path):
    whole = write(tmp_path / "whole.mkv", crowd(60)[0], sound=False).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(RuntimeWarning, match=r"cut\.mkv: cut short"):
        frames = list(tinyfaces.video.detect(path, detector=detector))
    assert 10 < len(frames) < 50
    done = tinyfaces.video.anonymise(path, tmp_path / "b.mkv", detector=detector)
    assert done.frames == len(frames) == len(frames_of(tmp_path / "b.mkv")) and "cut short" in done.problem


def test_what_cannot_be_done(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.mp4", crowd(4)[0], sound=False)
    before = path.read_bytes()
    (tmp_path / "link.mp4").symlink_to(path)
    cover = tmp_path / "cover.mkv"  # whatever its name
    Image.new("RGB", (8, 8)).save(cover, "PNG")
    for out in (path, "a.mp4", "link.mp4", cover):
        with pytest.raises(ValueError, match="never overwritten"):
            tinyfaces.video.anonymise(path, out, detector=detector, cover=cover)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"b\.avi: a video's name must end in \.mp4"):
        tinyfaces.video.anonymise(path, "b.avi", detector=detector)
    with pytest.raises(ValueError, match=r"quality must be within 0-51\. Received: 60"):
        tinyfaces.video.anonymise(path, "b.mp4", detector=detector, quality=60)
    (tmp_path / "text.mp4").write_text("no video")
    for name, words in (("text.mp4", "cannot be read as a video"), ("nowhere.mp4", "no such file")):
        with pytest.raises(tinyfaces.video.VideoError, match=f"{name}: {words}"):
            next(tinyfaces.video.detect(name, detector=detector))
        with pytest.raises(tinyfaces.video.VideoError, match=f"{name}: {words}"):
            tinyfaces.video.anonymise(name, "b.mp4", detector=detector)
    assert not (tmp_path / "b.mp4").exists() and not list(tmp_path.glob(".*"))


def test_without_the_extra_a_line_says_what_to_install():
    program = (
        "import sys\nsys.modules['av'] = None\nimport tinyfaces\nassert 'video' in dir(tinyfaces)\n"
        "for call in (lambda: tinyfaces.video.detect('a.mp4'), lambda: tinyfaces.video.anonymise('a.mp4', 'b.mp4'),\n"
        "             lambda: tinyfaces.video.VideoError):\n"
        "    try:\n        call()\n    except ImportError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["av is not installed, which videos need: pip install 'tinyfaces[video]'"] * 3
