"""Videos of a review without its page: the search and a kill, any frame, the covers, the files, none of them half-written."""

import io
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")

from reviewing import all_found, ask, exact_options, running_review  # noqa: E402
from test_video import crowd, frames_of, write  # noqa: E402
from tinyfaces import Detector  # noqa: E402
from tinyfaces.jobs import pixel_formats  # noqa: E402
from tinyfaces.jobs.clips import Clip  # noqa: E402
from tinyfaces.jobs.cover_threshold import CoverThreshold  # noqa: E402
from tinyfaces.jobs.covered_faces import Masking  # noqa: E402
from tinyfaces.jobs.frame_seeking import FrameSeeker  # noqa: E402
from tinyfaces.jobs.inputs import InputFile  # noqa: E402
from tinyfaces.jobs.masking import MaskStyle  # noqa: E402
from tinyfaces.jobs.review_store import Outdated, ReviewStore  # noqa: E402
from tinyfaces.jobs.reviewed_photos import ChangedSince  # noqa: E402
from tinyfaces.jobs.reviewed_videos import search_video, write_video  # noqa: E402
from tinyfaces.jobs.selection import Selection  # noqa: E402
from tinyfaces.jobs.video import VideoReader  # noqa: E402
from tinyfaces.jobs.video_store import DrawnFace, VideoStore  # noqa: E402
from tinyfaces.service.clip_desk import ClipDesk, ClipTask  # noqa: E402
from tinyfaces.service.clip_views import ClipView  # noqa: E402

COVER = CoverThreshold.of(0.5)
SOLID = Masking(COVER, MaskStyle("solid"))


class CountingDetector:
    """The toy detector, which says how many pictures it searched."""

    def __init__(self, toy_model: Path) -> None:
        self._detector = Detector(toy_model, threshold=0.5, threads=1)
        self.threshold = 0.5
        self.searched = 0

    def detect(self, picture, threshold):
        self.searched += 1
        return self._detector.detect(picture, threshold=threshold)


@pytest.fixture
def detector(toy_model) -> CountingDetector:
    return CountingDetector(toy_model)


@pytest.fixture
def videos(tmp_path):
    store = ReviewStore(tmp_path / "state/review", {"model": "toy"}, COVER)
    yield VideoStore(store)
    store.close()


def searched(videos: VideoStore, path: Path, detector) -> int:
    (number,) = videos.store.enter([path])
    search_video(videos, number, detector, lambda done, expected: None)
    return number


def planes_of(frame) -> list[np.ndarray]:
    return [plane.values.copy() for plane in pixel_formats.planes(frame)]


def test_what_is_found_is_what_anonymise_masks(videos, detector, tmp_path):
    images, _ = crowd(40, missed={1: set(range(12, 15)), 3: set(range(10, 34))})
    path = write(tmp_path / "a.mp4", images, sound=False)
    told = []
    (number,) = videos.store.enter([path])
    with pytest.raises(KeyError):
        videos.video(number)
    search_video(videos, number, detector, lambda done, expected: told.append((done, expected)))
    assert told[-1] == (40, 40) and [done for done, _ in told] == list(range(1, 41))
    frames = list(videos.frames(number))
    with VideoReader(path) as video:
        expected = [settled for _, settled in Clip(video, detector, 1, lambda done: None, COVER).follow()]
    assert len(frames) == len(expected) == 40
    for frame, settled in zip(frames, expected, strict=True):
        assert (frame.masks == settled.masks).all() and frame.seconds == settled.time
        assert (frame.tracks[: frame.faces, 0] == settled.tracks).all() and frame.faces == len(settled.faces)
    assert [one.number for one in videos.frames(number, 3, 5)] == [3, 4, 5]
    known = videos.video(number)
    seen = {
        track: [at for at, one in enumerate(expected) if track in one.tracks]
        for track in {t for e in expected for t in e.tracks.tolist()}
    }
    assert {one.number: [at for first, last in one.spans for at in range(first, last + 1)] for one in known.tracks} == seen
    assert any(len(one.spans) > 1 for one in known.tracks) or len(known.tracks) > 5  # what was missed for long leaves a gap
    assert (known.size, known.rate, known.warning) == ((192, 128), 25, None)


def test_what_the_selection_leaves_out_is_not_covered(detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(6)[0], sound=False)
    left_half = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
    store = ReviewStore(tmp_path / "state/review", {}, COVER, Selection(only_regions=[left_half]))
    videos = VideoStore(store)
    number = searched(videos, path, detector)
    assert len(videos.video(number).tracks) == 3  # the others begin at 120 and 160 of 192 pixels
    assert all((frame.masks[:, 0] < 96).all() and len(frame.masks) == 3 for frame in videos.frames(number))
    store.close()


def test_a_search_goes_on_where_it_ended(videos, detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(60)[0], sound=False)
    (number,) = videos.store.enter([path])

    def stop(done, expected):
        if done == 30:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        search_video(videos, number, detector, stop)
    before = detector.searched
    assert 30 <= before < 60 and len(videos.searched(number)) >= before - 2
    assert videos.store.photo(number).size is None
    search_video(videos, number, detector, lambda done, expected: None)
    assert detector.searched <= 62 and videos.searched(number) == {}
    again = tmp_path / "b.mp4"
    again.write_bytes(path.read_bytes())
    other = searched(videos, again, detector)
    pairs = list(zip(videos.frames(number), videos.frames(other), strict=True))
    assert len(pairs) == 60 and all((one.masks == two.masks).all() and (one.tracks == two.tracks).all() for one, two in pairs)
    path.write_bytes(path.read_bytes() + b" ")
    assert videos.store.enter([path]) == [number]
    assert list(videos.frames(number)) == [] and videos.store.photo(number).size is None


def test_a_drawn_face_moves_in_a_line_between_its_key_frames():
    face = DrawnFace(0, "covered", [(2, (0, 0, 10, 10)), (6, (40, 20, 60, 30)), (7, (40, 20, 60, 30))])
    assert [face.at(frame) for frame in (1, 2, 3, 4, 6, 7, 8)] == [
        None, (0, 0, 10, 10), (10, 5, 22.5, 15), (20, 10, 35, 20), (40, 20, 60, 30), (40, 20, 60, 30), None,
    ]  # fmt: skip
    alone = DrawnFace(0, "covered", [(2, (0, 0, 10, 10))])
    assert alone.at(2) == (0, 0, 10, 10) and alone.at(1) is alone.at(3) is None
    for keys in ([], [(3, (0, 0, 1, 1)), (3, (0, 0, 1, 1))], [(3, (0, 0, 1, 1)), (2, (0, 0, 1, 1))]):
        with pytest.raises(ValueError, match="must rise"):
            DrawnFace(0, "covered", keys)


def long_gop(path: Path, codec: str, pixels: str, options: dict[str, str], frames: int = 60) -> Path:
    """A clip with keyframes far apart, every frame of which is told from all others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, pixels, 20
        for number in range(frames):
            image = np.random.default_rng(number // 3).integers(0, 255, (4, 6, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
            image[:8, number : number + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("a.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
        ("a.ts", "libx264", {"x264-params": "bframes=2"}),
        ("a.mkv", "libvpx-vp9", {"deadline": "realtime"}),
        ("a.avi", "mpeg4", {}),
        ("a.mpg", "mpeg2video", {"bf": "2"}),
    ],
)
def test_any_frame_is_that_of_reading_from_the_start(tmp_path, name, codec, options):
    path = long_gop(tmp_path / name, codec, "yuv420p", options)
    with VideoReader(path) as video:
        read = [(frame.pts, frame.key_frame, planes_of(frame)) for frame in video.frames()]
    keyframes = [number for number, (_, keyframe, _) in enumerate(read) if keyframe]
    assert len(read) == 60 and len(keyframes) > 2
    seeker = FrameSeeker(path, [pts for pts, _, _ in read], keyframes, kept=5 * 96 * 64)
    for number in [59, 0, 30, 29, 28, 20, 19, 21, 40, 41, 3, *random.Random(1).sample(range(60), 25)]:
        frame = seeker.frame(number)
        for mine, theirs in zip(planes_of(frame), read[number][2], strict=True):
            assert (mine == theirs).all(), number
        pixel_formats.planes(frame)[0].values[:] = 0  # which must not change what is kept
    seeker.close()


def test_a_file_without_usable_times_is_read_from_its_start(tmp_path):
    path = long_gop(tmp_path / "a.mkv", "libx264", "yuv420p", {})
    with VideoReader(path) as video:
        read = [planes_of(frame) for frame in video.frames()]
    seeker = FrameSeeker(path, [7 * number for number in range(60)], [0, 20, 40])
    for number in (33, 5, 6):
        assert all((a == b).all() for a, b in zip(planes_of(seeker.frame(number)), read[number], strict=True))
    seeker.close()


def decided(videos: VideoStore, number: int, places) -> tuple[set[int], DrawnFace]:
    """Keep two tracks clear, and draw a face that moves through an empty part."""
    tracks = videos.video(number).tracks
    off = {tracks[0].number, tracks[2].number}
    drawn = DrawnFace(0, "covered", [(4, (60, 100, 70, 112)), (14, (90, 104, 104, 120))])
    deleted = DrawnFace(1, "deleted", [(0, (150, 60, 180, 90))])
    edition = videos.video(number).edition
    videos.change(number, edition, dict.fromkeys(off, "clear"), [drawn, deleted])
    return off, drawn


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p"])
def test_exactly_what_was_decided_is_covered(videos, detector, tmp_path, pixels, rotation):
    """Encoded without loss (H.264 at quality 0), plane by plane: what is open is as it was, what is covered is black."""
    path = write(tmp_path / "a.mp4", crowd(24)[0], sound=False, pixels=pixels, rotation=rotation)
    number = searched(videos, path, detector)
    off, drawn = decided(videos, number, None)
    known = videos.video(number)
    assert len(known.tracks) == 5 and known.clear == off
    target = tmp_path / "out/a.mp4"
    report = write_video(videos, number, target, SOLID, 0, lambda frames: None)
    assert (report["found"], len(report["taken_away"]), len(report["covered"]), len(report["added"])) == (5, 2, 3, 1)
    assert report["added"][0][1] == {"frame": 14, "time": 0.56, "box": [90, 104, 104, 120]}
    before, after = frames_of(path), frames_of(target)
    times = videos.times(number)
    view = ClipView(path, [time for time, _, _ in times], [0], ".mp4", SOLID)
    covered = uncovered = 0
    with VideoReader(path) as reader:
        shape = reader.shape
    for place in (5, 23, 4, 14, 0, 11, 3, 15):
        one, other = before[place], after[place]
        found = next(videos.frames(number, place, place))
        boxes = np.array(
            [*found.masks[~np.isin(found.tracks, list(off)).all(axis=1)], *([drawn.at(place)] if 4 <= place <= 14 else [])]
        )
        stored = shape.turn.undo(boxes.reshape(-1, 4).astype(np.float32), *shape.size)
        for mine, theirs in zip(pixel_formats.planes(one), pixel_formats.planes(other), strict=True):
            height, width = mine.values.shape
            x, y = np.meshgrid((np.arange(width) + 0.5) * mine.step_x, (np.arange(height) + 0.5) * mine.step_y)
            inside, near = np.zeros((2, height, width), bool)
            for x1, y1, x2, y2 in stored:
                across, down = (x - (x1 + x2) / 2) / ((x2 - x1) / 2 * 1.45 + 2), (y - (y1 + y2) / 2) / ((y2 - y1) / 2 * 1.45 + 2)
                inside |= across**2 + down**2 <= 1
                near |= (abs(across) <= 1.3) & (abs(down) <= 1.3)
            assert (theirs.values[inside] == theirs.blank).all() and (theirs.values[~near] == mine.values[~near]).all()
            covered, uncovered = covered + inside.sum(), uncovered + (~near).sum()
        shown = view.picture(place, known.masks(found))
        written = shape.turn.apply(np.asarray(other.to_ndarray(format="rgb24")))
        assert (shown == written).all()
        assert not (shown == view.picture(place, boxes[:0])).all()
    assert covered > 1000 and uncovered > 10_000
    view.close()


def test_a_written_video_is_not_encoded_again_unless_something_changed(videos, detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(8)[0], sound=False)
    number = searched(videos, path, detector)
    target = tmp_path / "out/a.mp4"
    counts = []

    def written(masking=SOLID) -> int:
        counts.clear()
        report = write_video(videos, number, target, masking, 18, counts.append)
        assert report["frames"] == 8 and report["removed"] == []
        return sum(counts)

    assert [written(), written()] == [8, 0]
    assert [written(replace(SOLID, style=MaskStyle("blur"))), written(), written()] == [8, 8, 0]
    target.unlink()
    assert [written(), written()] == [8, 0]
    videos.change(number, 0, {videos.video(number).tracks[0].number: "clear"}, [])
    assert [written(), written()] == [8, 0]
    with pytest.raises(Outdated):
        videos.change(number, 0, {}, [])

    def stop(frames):
        raise InterruptedError

    target.unlink()
    with pytest.raises(InterruptedError):
        write_video(videos, number, target, SOLID, 18, stop)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ChangedSince, match=r"a\.mp4: has changed"):
        write_video(videos, number, target, SOLID, 18, counts.append)
    assert list(target.parent.iterdir()) == []


def test_of_a_video_that_is_cut_short_the_rest_is_reviewed_and_the_report_says_so(videos, detector, tmp_path):
    path = write(tmp_path / "a.mkv", crowd(40)[0], sound=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    number = searched(videos, path, detector)
    known = videos.video(number)
    assert known.warning.startswith(f"{path}: ") and 5 < videos.frame_count(number) < 40
    report = write_video(videos, number, tmp_path / "out/a.mkv", SOLID, 18, lambda frames: None)
    assert report["problem"] == known.warning and report["frames"] == videos.frame_count(number)
    assert len(frames_of(tmp_path / "out/a.mkv")) == report["frames"]


def eventually(test) -> None:
    deadline = time.monotonic() + 30
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_photos_come_before_videos_but_for_one_that_is_looked_at(videos, detector, tmp_path):
    paths = [write(tmp_path / "long.mp4", crowd(80)[0], sound=False), write(tmp_path / "short.mp4", crowd(6)[0], sound=False)]
    long, short = videos.store.enter(paths)
    tasks = {
        number: ClipTask(InputFile(path, Path(path.name)), tmp_path / "out" / path.name)
        for number, path in zip((long, short), paths, strict=True)
    }
    photos = threading.Event()
    photos.set()
    desk = ClipDesk(videos, detector, tasks, SOLID, 18, lambda number: None, photos.is_set)
    desk.start()
    eventually(lambda: desk.entry(long)["done"] == 1)
    time.sleep(0.1)
    before = detector.searched
    time.sleep(0.1)
    assert detector.searched == before < 40 and desk.entry(short)["state"] == "waiting"
    desk.want(short)
    eventually(lambda: desk.entry(short)["state"] == "found")
    assert desk.entry(long)["state"] == "waiting" and detector.searched <= before + 6 + 3
    desk.want(long)
    eventually(lambda: desk.entry(long)["done"] > 20)
    desk.stop()
    photos.clear()
    again = ClipDesk(videos, detector, tasks, SOLID, 18, lambda number: None, photos.is_set)
    again.start()
    eventually(lambda: again.entry(long)["state"] == "found")
    again.stop()
    assert detector.searched <= 80 + 6 + 9  # those under way when it was stopped are searched twice


_CLICKS = """
import sys
from pathlib import Path
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.review_store import ReviewStore
from tinyfaces.jobs.video_store import DrawnFace, VideoStore
store = ReviewStore(Path(sys.argv[1]) / "review", {}, CoverThreshold.of(0.2))
(number,) = store.enter([Path(sys.argv[1]) / "a.mp4"])
videos = VideoStore(store)
print("ready", flush=True)
for click in range(int(sys.argv[2]), 100000):
    videos.change(number, store.photo(number).edition, {click: "clear"}, [DrawnFace(click, "covered", [(click, (1, 1, 5, 6))])])
    print(click, flush=True)
"""


def test_a_kill_at_any_instant_loses_the_last_click_at_most(tmp_path):
    """After each kill, every click that was answered is there, with all that it did."""
    moments = random.Random(0)
    done = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", _CLICKS, str(tmp_path), str(done)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        clicks = [process.stdout.readline() for _ in range(moments.randrange(2, 12))]
        time.sleep(moments.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        answered = [int(line) for line in [*clicks, *process.communicate()[0].splitlines()] if line.strip()]
        store = ReviewStore(tmp_path / "review", {}, CoverThreshold.of(0.2))
        videos = VideoStore(store)
        videos.finish(1, (-1, -1), (10, 10), 25, [], 0, None)
        known = videos.video(1)
        there = len(known.drawn)
        assert [face.number for face in known.drawn] == sorted(known.clear) == list(range(there))
        assert max(answered, default=done - 1) + 1 <= there <= max(answered, default=done - 1) + 2
        assert known.edition == there
        done = there
        store.close()
    assert done > 10


def test_without_the_extra_videos_are_left_out_with_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.delitem(sys.modules, "tinyfaces.jobs.video")
    monkeypatch.setitem(sys.modules, "av", None)
    lines = run("review", "clip.mp4", code=2).output.strip().splitlines()
    assert lines == ["tinyfaces: clip.mp4: is a video; av is not installed, which videos need: pip install 'tinyfaces[video]'"]


def wait_for(service, test, timeout=30.0):
    """The queue, once a test of it holds."""
    deadline = time.monotonic() + timeout
    while not test(news := ask(service, "")):
        assert time.monotonic() < deadline, news
        time.sleep(0.03)
    return news


def test_large_frames_are_shown_as_jpegs_and_small_ones_without_loss(videos, detector, tmp_path):
    rng = np.random.default_rng(0)
    for side, kind, most in ((256, "image/png", 0), (1024, "image/jpeg", 12)):
        smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((side, side // 2)))
        path = write(tmp_path / f"{side}.mp4", [smooth] * 3, sound=False)
        number = searched(videos, path, detector)
        desk = ClipDesk(videos, detector, {number: ClipTask(InputFile(path, Path(path.name)), path)}, SOLID, 18, print, bool)
        content, said = desk.picture(number, 1, False)
        assert said == kind
        shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        assert np.abs(shown - frames_of(path)[1].to_ndarray(format="rgb24")).max() <= most
        desk.stop()


def test_a_frame_and_a_click_take_nothing_of_the_other_tracks(videos, detector, tmp_path):
    path = write(tmp_path / "a.mp4", crowd(12)[0], sound=False)
    number = searched(videos, path, detector)
    first, second, *_ = videos.video(number).tracks
    desk = ClipDesk(
        videos, detector, {number: ClipTask(InputFile(path, Path("a.mp4")), tmp_path / "out.mp4")}, SOLID, 18, lambda one: None,
        lambda: False,
    )  # fmt: skip
    before = desk.picture(number, 3, True)
    with videos.store.transaction() as database:  # fails where more of a track is read than its number
        database.set_authorizer(
            lambda act, table, column, *_: (
                sqlite3.SQLITE_DENY
                if act == sqlite3.SQLITE_READ and table == "tracks" and column == "spans"
                else sqlite3.SQLITE_OK
            )
        )
    assert desk.picture(number, 3, True) == before
    drawn = (0, "covered", [(2, (60.0, 100.0, 72.0, 112.0)), (9, (60.0, 100.0, 72.0, 112.0))])
    desk.change(number, 0, {first.number: "clear", second.number: "covered"}, [drawn])
    assert desk.picture(number, 3, True) != before
    line = desk.entry(number)
    assert (line["found"], line["added"], line["taken_away"], line["covered"]) == (5, 1, 1, 5)
    for tracks, faces in (({77: "clear"}, []), ({}, [(0, "covered", [(12, drawn[2][0][1])])])):
        with pytest.raises(ValueError, match="no such track or frame"):
            desk.change(number, 1, tracks, faces)
    with videos.store.transaction() as database:
        database.set_authorizer(None)
    assert desk.crop(number, first.number)
    with pytest.raises(KeyError):
        desk.crop(number, 77)
    desk.stop()


@pytest.mark.slow
def test_a_video_over_http(tmp_path, toy_model):
    path = write(tmp_path / "clip.mp4", crowd(30)[0], sound=False)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / "one.png")
    before = path.read_bytes()
    with running_review(tmp_path, *exact_options(toy_model)) as service:
        entries = {entry["name"]: entry for entry in all_found(service)}
        assert "review 1 photo and 2 videos on" in service.lines[-1]
        assert entries["broken.mp4"]["state"] == "problem" and "broken.mp4" in entries["broken.mp4"]["problem"]
        clip, number = entries["clip.mp4"], entries["clip.mp4"]["number"]
        assert (clip["kind"], clip["found"], clip["covered"]) == ("video", 5, 5)
        facts = ask(service, f"/videos/{number}")
        assert (facts["width"], facts["height"], len(facts["seconds"]), facts["rate"]) == (192, 128, 30, 25)
        assert [track["spans"] for track in facts["tracks"]] == [[[0, 29]]] * 5 and facts["drawn"] == [] == facts["clear"]
        faces = ask(service, f"/videos/{number}/faces?first=3&last=6")["frames"]
        assert len(faces) == 4 and all(len(frame) == 5 and frame[0][6] == 1 for frame in faces)
        track = facts["tracks"][0]["track"]
        drawn = {"face": 0, "state": "covered", "keys": [{"frame": frame, "box": [60, 100, 72, 112]} for frame in (2, 9)]}
        change = {"edition": 0, "tracks": [{"track": track, "state": "clear"}], "drawn": [drawn]}
        answer = ask(service, f"/videos/{number}/changes", change)["photo"]
        assert (answer["added"], answer["taken_away"], answer["covered"], answer["edition"]) == (1, 1, 5, 1)
        flat = {**drawn, "keys": [{"frame": 2, "box": [60, 100, 60, 112]}]}
        late = {**drawn, "keys": [{"frame": 30, "box": [60, 100, 72, 112]}]}
        photo = entries["one.png"]["number"]
        for address, content, status in [
            (f"/videos/{number}/changes", change, 409),
            ("/videos/99/changes", change, 404),
            (f"/videos/{photo}/changes", change, 404),
            (f"/photos/{number}", None, 404),
            (f"/videos/{number}/changes", {**change, "edition": 1, "tracks": [{"track": 77, "state": "clear"}]}, 422),
            *((f"/videos/{number}/changes", {**change, "edition": 1, "drawn": [one]}, 422) for one in (flat, late)),
            (f"/videos/{number}/frames/30", None, 404),
            (f"/videos/{number}/tracks/77", None, 404),
            (f"/videos/{number}/faces?first=0&last=100000", None, 422),
        ]:
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(service, address, content)
            assert refused.value.code == status, address
        for address in (f"photos/{number}/thumbnail", f"videos/{number}/tracks/{track}", f"videos/{number}/frames/3?covered=1"):
            with urllib.request.urlopen(f"{service.url}/v1/review/{address}", timeout=10) as picture:
                shown = np.asarray(Image.open(picture).convert("RGB"))
                assert picture.headers["Cache-Control"] == "no-store"
        for one, edition in ((number, 1), (photo, 0)):
            ask(service, f"/photos/{one}/accepted", {"edition": edition, "accepted": True})
        ask(service, "/writing", {})
        news = wait_for(service, lambda news: news["writing"]["state"] == "done")["writing"]
        assert (news["written"], news["found"], news["added"], news["taken_away"], news["problems"]) == (2, 6, 1, 1, [])
    written = frames_of(tmp_path / "public/clip.mp4")
    assert len(written) == 30 and (written[3].to_ndarray(format="rgb24") == shown).all() and path.read_bytes() == before
    report = {Path(one["file"]).name: one for one in json.loads((tmp_path / "public.state/review.json").read_text())["files"]}
    assert report["clip.mp4"]["taken_away"][0]["track"] == track and report["clip.mp4"]["frames"] == 30


@pytest.mark.slow
def test_a_review_that_is_killed_while_it_writes_leaves_no_half_file_and_goes_on(tmp_path, toy_model):
    """Killed at several instants, in photos and in a video; what was begun is finished by the next run."""
    write(tmp_path / "clip.mp4", [frame.repeat(2, 0).repeat(2, 1) for frame in crowd(90)[0]], sound=False)
    for number in range(12):
        Image.fromarray(paint(240, 320, [(8 * number, 8)])).save(tmp_path / f"{number}.png")
    options = (".", "--out", "public", "--threshold", "0.5", "--threads", "1", "--model", str(toy_model))
    public = tmp_path / "public"

    def check_whole() -> int:
        whole = [path for path in public.iterdir() if not path.name.startswith(".")]
        for path in whole:
            if path.suffix == ".png":
                Image.open(path).load()
            else:
                assert len(frames_of(path)) == 90
        return len(whole)

    for instant in ("photos", "video"):
        with running_review(tmp_path, *options) as service:
            for entry in all_found(service) if instant == "photos" else ():
                ask(service, f"/photos/{entry['number']}/accepted", {"edition": 0, "accepted": True})
            assert all(entry["accepted"] for entry in ask(service, "")["photos"])
            ask(service, "/writing", {})
            if instant == "video":
                wait_for(service, lambda news: news["writing"].get("video", {}).get("done", 0) > 5)
            else:
                wait_for(service, lambda news: news["writing"]["done"] > 2)
            service.process.kill()
            service.process.wait()
        assert check_whole() <= 12
    assert list(public.glob(".clip.mp4.*"))  # what the kill left behind, which nobody takes for a result
    with running_review(tmp_path, *options) as service:
        assert not list(public.glob(".*.partial"))
        ask(service, "/writing", {})
        news = wait_for(service, lambda news: news["writing"]["state"] == "done", 60)["writing"]
        assert news["written"] == 13 and not news["problems"]
    assert check_whole() == 13 and sorted(path.name for path in public.glob(".*")) == [".tinyfaces"]
