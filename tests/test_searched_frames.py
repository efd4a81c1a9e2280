"""Videos of which not every frame is searched: faces are followed through the frames between."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
from test_odd_videos import ONE, _changing_video  # noqa: E402
from test_video import crowd, frames_of, write  # noqa: E402
from tinyfaces.detection.detector import Detector  # noqa: E402
from tinyfaces.detection.faces import Faces  # noqa: E402
from tinyfaces.jobs.camera_motion import Motion, Reduced  # noqa: E402
from tinyfaces.jobs.clips import Clip  # noqa: E402
from tinyfaces.jobs.patch_matching import Grey, followed  # noqa: E402
from tinyfaces.jobs.result_files import read_box_files  # noqa: E402
from tinyfaces.jobs.searched_frames import Planned, filled, planned  # noqa: E402
from tinyfaces.jobs.spacing import Spacing  # noqa: E402
from tinyfaces.jobs.tracking import Tracker  # noqa: E402
from tinyfaces.jobs.video import VideoReader  # noqa: E402


def _texture(height: int, width: int, seed: int = 0, grain: int = 4) -> np.ndarray:
    """Blurred noise, which looks different everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // grain, width // grain), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def _window(picture: np.ndarray, x: int, y: int, width: int = 320, height: int = 240) -> np.ndarray:
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


def _frame(luma: np.ndarray) -> "av.VideoFrame":
    return av.VideoFrame.from_ndarray(luma, format="gray")


@pytest.fixture
def run(run_on_videos):
    return lambda *arguments, code=0: run_on_videos(*arguments, code=code).output


@pytest.mark.parametrize("step", [(0, 0), (3, 1), (-11, 6), (17, -9)])
@pytest.mark.parametrize("side", [8, 20, 70])
def test_faces_are_followed_through_a_pan(step, side):
    picture = _texture(400, 560, grain=max(4, side // 5))
    greys = [Grey(_window(picture, 100 - step[0] * n, 80 - step[1] * n)) for n in range(4)]
    boxes = np.array([[120.0, 90, 120 + side, 90 + side], [160, 110, 160 + side, 110 + 1.25 * side]])
    places, kept = followed(greys, boxes, [one.motion_to(other) for one, other in pairwise(greys)])
    assert kept.all()
    for n in range(4):
        assert np.abs(places[n] - boxes - np.tile(step, 2) * n).max() <= max(1, side / 16)


def test_a_face_that_something_hides_is_not_followed_on():
    picture = _texture(240, 320)
    hidden = picture.copy()
    hidden[90:130, 110:150] = _texture(40, 40, seed=1)
    greys = [Grey(luma) for luma in (picture, hidden, picture)]
    _, kept = followed(greys, np.array([[120.0, 100, 140, 120], [200, 60, 220, 80]]), [Motion.none()] * 2)
    assert kept.tolist() == [[True, True], [False, True], [False, True]]


def test_a_face_that_leaves_the_picture_is_not_lost():
    """Nothing can recognise it any more, and nothing need be searched for it."""
    picture = _texture(400, 700)
    greys = [Grey(_window(picture, 100 + 12 * n, 80)) for n in range(5)]
    boxes = np.array([[20.0, 100, 40, 124], [200, 100, 220, 124]])
    places, kept = followed(greys, boxes, [one.motion_to(other) for one, other in pairwise(greys)])
    assert kept.all()
    assert np.abs(places[-1, :, 0] - (boxes[:, 0] - 48)).max() <= 1.5


@pytest.mark.parametrize(
    ("degrees", "zoom", "shift"), [(0, 1.0, (9, -5)), (0, 1.04, (0, 0)), (2, 0.97, (-13, 6)), (0, 1.0, (0, 0))]
)
def test_the_motion_of_a_camera(degrees, zoom, shift):
    """Where nine points go, as Pillow moves the picture."""
    a, b = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    turn, middle = np.array([[a, -b], [b, a]]), np.array([320.0, 180])
    back = np.linalg.inv(turn)
    offset = middle - back @ (middle + shift)
    large = Image.fromarray(_texture(360, 640, grain=8))
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    moved = np.asarray(large.transform((640, 360), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC))
    motion = Reduced(np.asarray(large)).motion_to(Reduced(moved))
    points = np.array([(x, y) for x in (80, 320, 560) for y in (60, 180, 300)], np.float64)
    wanted = (points - middle) @ turn.T + middle + shift
    boxes = np.concatenate([points - 8, points + 8], axis=1)
    there = motion.moved(boxes)
    assert np.abs((there[:, :2] + there[:, 2:]) / 2 - wanted).max() < 1
    assert np.abs((there[:, 2:] - there[:, :2]) / 16 - zoom).max() < 0.01
    assert np.abs(motion.back().moved(there) - boxes).max() < 1e-6


def test_a_part_that_moves_otherwise_does_not_change_what_the_camera_did():
    wide, other = _texture(240, 340), _texture(240, 320, seed=1)
    picture, moved = _window(wide, 0, 0), _window(wide, 6, 0)
    for luma, x in ((picture, 40), (moved, 60)):
        luma[60:160, x : x + 90] = other[60:160, :90]
    motion = Reduced(picture).motion_to(Reduced(moved))
    box = np.array([[100.0, 100, 110, 110]])
    assert np.abs(motion.moved(box) - box - [-6, 0, -6, 0]).max() < 0.5


def test_pictures_that_show_nothing_do_not_move():
    flat = Reduced(np.full((120, 160), 90, np.uint8))
    box = np.array([[10.0, 20, 30, 40]])
    assert (flat.motion_to(flat).moved(box) == box).all()
    tiny = Reduced(_texture(6, 5, grain=1))
    assert tiny.motion_to(tiny).moved(box) == pytest.approx(box)


def _filled(lumas, found, spacing, search=None):
    """What comes of frames of which `found`, by number, gives the boxes of the searched ones: frame, faces, searched."""
    frames = [Planned(_frame(luma), Grey(luma), number in found) for number, luma in enumerate(lumas)]
    faces = [Faces(np.array(found.get(n, [])).reshape(-1, 4), np.full(len(found.get(n, [])), 0.9)) for n in range(len(lumas))]
    done = filled(zip(frames, faces, strict=True), search or (lambda one: pytest.fail("searched")), spacing)
    return [(one.frame, one.faces, one.searched) for one in done]


def test_faces_of_both_ends_are_where_they_were_between():
    """The way between is bent, so that a straight line between both ends would miss it."""
    picture = _texture(400, 560)
    way = [(0, 0), (12, 3), (14, -6), (13, -14), (0, -20)]
    lumas = [_window(picture, 100 - x, 80 - y) for x, y in way]
    box = np.array([150.0, 100, 162, 114])
    ends = {0: [box], 4: [box + np.tile(way[4], 2)]}
    result = _filled(lumas, ends, Spacing(4))
    assert [searched for _, _, searched in result] == [True, False, False, False, True]
    for (_, faces, _), moved in zip(result, way, strict=True):
        assert len(faces) == 1 and np.abs(faces.boxes[0] - box - np.tile(moved, 2)).max() <= 1.5


def test_a_face_seen_on_one_side_only_is_followed_from_there():
    lumas = [_texture(240, 320)] * 4
    box = [150.0, 100, 170, 124]
    for end in (0, 3):
        result = _filled(lumas, {0: [], 3: []} | {end: [box]}, Spacing(3))
        assert [faces.boxes.tolist() for _, faces, _ in result[1:3]] == [[box]] * 2


def test_auto_searches_between_where_a_face_is_lost_and_only_there():
    picture = _texture(240, 320)
    gone = picture.copy()
    gone[80:140, 130:190] = _texture(60, 60, seed=1)
    box = [150.0, 100, 170, 124]
    lumas = [picture] * 3 + [gone] * 4  # the face is hidden from frame 3 on
    asked = []

    def search(one: Planned) -> Faces:
        asked.append(one)
        here = one.grey.luma is picture
        return Faces(np.array([box] if here else []).reshape(-1, 4), np.array([0.9] if here else []))

    result = _filled(lumas, {0: [box], 6: []}, Spacing.of("auto"), search)
    assert [len(faces) for _, faces, _ in result] == [1, 1, 1, 0, 0, 0, 0]
    assert [searched for _, _, searched in result] == [True, False, True, True, False, False, True]
    assert len(asked) == 2


def test_auto_searches_every_frame_where_nothing_can_be_followed():
    lumas = [_texture(240, 320, seed=n) for n in range(6)] + [_texture(240, 320, seed=6)] * 31
    boxes = [[x, 60.0, x + 20, 84] for x in range(40, 280, 40)]
    found = [Faces(np.array(boxes) + 20 * n * np.array([0, 1, 0, 1]), np.full(len(boxes), 0.9)) for n in range(7)]
    ends = {number: found[6].boxes for number in range(6, 37, 6)} | {0: found[0].boxes}
    result = _filled(lumas, ends, Spacing.of("auto"), lambda one: found[[one.grey.luma is luma for luma in lumas].index(True)])
    assert [searched for _, _, searched in result] == [True] * 7 + ([False] * 5 + [True]) * 5


def test_a_face_found_once_is_followed_through_two_gaps_on_both_sides():
    """Which searched frame finds a face that is hard to find is chance; it is as plain to see in the others."""
    lumas = [_texture(240, 320)] * 19
    box = [150.0, 100, 170, 124]
    result = _filled(lumas, {0: [], 3: [], 6: [], 9: [box], 12: [], 15: [], 18: []}, Spacing(3))
    assert [len(faces) for _, faces, _ in result] == [0] * 4 + [1] * 11 + [0] * 4
    frames = [Planned(_frame(luma), Grey(luma), number % 3 == 0) for number, luma in enumerate(lumas)]
    faces = [Faces(np.array([box] if n == 9 else []).reshape(-1, 4), np.full(int(n == 9), 0.9)) for n in range(19)]
    done = list(filled(zip(frames, faces, strict=True), lambda one: pytest.fail("searched"), Spacing(3)))
    assert [one.found.tolist() for one in done] == [[]] * 4 + [[False]] * 5 + [[True]] + [[False]] * 5 + [[]] * 4


@pytest.mark.parametrize("every", ["3", "auto"])
def test_threads_change_nothing(every):
    picture = _texture(400, 560)
    rng = np.random.default_rng(0)
    lumas = [_window(picture, 100 - 5 * (n % 9), 80 + 2 * n) for n in range(26)]
    frames = [Planned(_frame(luma), Grey(luma), number % 6 in (0, 1)) for number, luma in enumerate(lumas)]
    corners = [rng.uniform(20, 200, (8, 2)) for _ in frames]
    faces = [Faces(np.concatenate([xy, xy + 16], axis=1), np.full(8, 0.9)) for xy in corners]
    number = {id(one.frame): n for n, one in enumerate(frames)}
    found = [(one, faces[n] if one.searched else Faces.empty()) for n, one in enumerate(frames)]
    first, *others = (
        list(filled(found, lambda one: faces[number[id(one.frame)]], Spacing.of(every), workers)) for workers in (0, 1, 3)
    )
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert one.frame is same.frame and one.searched == same.searched
            assert (one.faces.boxes == same.faces.boxes).all() and (one.found == same.found).all()


def _plan(path: Path, spacing: Spacing) -> list[bool]:
    with VideoReader(path) as video:
        return [one.searched for one in planned(video, video.frames(), spacing)]


def _clip(path: Path, lumas: list[np.ndarray]) -> Path:
    return write(path, [np.repeat(luma[..., None], 3, axis=2) for luma in lumas], sound=False)


def test_which_frames_are_searched(tmp_path):
    first, other = _texture(128, 192), _texture(128, 192, seed=1)
    still = _clip(tmp_path / "still.mkv", [first] * 8)
    assert _plan(still, Spacing(3)) == [True, False, False, True, False, False, True, True]
    assert _plan(still, Spacing()) == [True] * 8
    cut = _clip(tmp_path / "cut.mkv", [first] * 5 + [other] * 4)
    assert _plan(cut, Spacing(3)) == [True, False, False, True, True, True, False, False, True]
    assert _plan(_clip(tmp_path / "one.mkv", [first]), Spacing(3)) == [True]


@pytest.mark.parametrize("matrix", [None, (0, ONE, -ONE, 0)])
def test_frames_of_another_size_are_searched(run, tmp_path, matrix):
    sizes = _changing_video(tmp_path / "a.mp4", matrix)
    plan = _plan(tmp_path / "a.mp4", Spacing(3))
    assert len(plan) == len(sizes) and not all(plan)
    for number, size in enumerate(sizes):
        changes = number + 1 < len(sizes) and sizes[number + 1] != size
        assert plan[number] or (size == sizes[0] and not changes)
    run("anonymise", "a.mp4", "--method", "solid", "--enlarge", "1", "--every", "3")
    for frame, (width, _) in zip(frames_of(tmp_path / "anonymised" / "a.mp4"), sizes, strict=True):
        x, y, side = (round(value * 96 / width) for value in (16, 40, 8))
        assert frame.to_ndarray(format="rgb24")[y : y + side, x : x + side, 0].max() < 90


def test_few_frames_wait(tmp_path, monkeypatch):
    path = write(tmp_path / "crowd.mkv", crowd(120)[0], sound=False)
    taken = []
    with VideoReader(path) as video:
        frames = video.frames
        monkeypatch.setattr(video, "frames", lambda on_packet: (taken.append(frame) or frame for frame in frames(on_packet)))
        clip = Clip(video, Detector(), 2, lambda done: None, spacing=Spacing(4))
        monkeypatch.setattr(clip, "_detect", lambda frame: Faces.empty())
        most = max(len(taken) - given for given, _ in enumerate(clip.follow()))
    assert len(taken) == 120 and 4 < most <= 7 * 4 + Tracker.delay + 2


def test_given_boxes_go_with_it(run, tmp_path):
    write(tmp_path / "crowd.mkv", crowd(10)[0])
    run("detect", "crowd.mkv", "--out", "found", "--format", "json")
    given = "found/crowd.mkv.json"
    run("anonymise", "crowd.mkv", "--every", "3", "--also-boxes", given, "--report", "report.json")
    (record,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert record["searched"] == 4 and record["frames"] == 10
    assert "--boxes masks exactly" in run("anonymise", "crowd.mkv", "--every", "3", "--boxes", given, "--out", "b", code=2)


def test_every_interlaced_frame_is_searched(tmp_path):
    moments = [_window(_texture(160, 400), 6 * n, 0, 192, 128) for n in range(8)]
    woven = [moment.copy() for moment in moments[::2]]
    for frame, later in zip(woven, moments[1::2], strict=True):
        frame[1::2] = later[1::2]
    assert all(_plan(_clip(tmp_path / "woven.mkv", woven), Spacing(3)))


@pytest.mark.parametrize("every", ["2", "3", "auto"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_no_face_is_left_uncovered(run, tmp_path, every, rotation):
    images, places = crowd(26)
    write(tmp_path / "crowd.mkv" if not rotation else tmp_path / "crowd.mp4", images, rotation=rotation)
    name = "crowd.mp4" if rotation else "crowd.mkv"
    run("anonymise", name, "--every", every, "--method", "solid", "--out", "out", "--report", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    (record,) = report["files"]
    assert report["settings"]["every"] == every
    assert record["frames"] == 26 and record["searched"] < 26
    frames = frames_of(tmp_path / "out" / name)
    assert len(frames) == 26
    for frame, here in zip(frames, places, strict=True):
        red = frame.to_ndarray(format="rgb24")
        for x, y in here:
            assert (red[y : y + 8, x : x + 8, 0] > 150).mean() < 0.1


def test_results_say_which_frames_were_searched(run, tmp_path):
    images, _ = crowd(10)
    write(tmp_path / "crowd.mkv", images)
    run("detect", "crowd.mkv", "--every", "3", "--out", "found", "--format", "json")
    frames = json.loads((tmp_path / "found" / "crowd.mkv.json").read_text())["frames"]
    assert [frame.get("searched", True) for frame in frames] == [n % 3 == 0 for n in range(10)]
    for frame in frames:
        if "searched" in frame:
            assert len(frame["boxes"]) == 5 and not any(frame["found"])
    run("detect", "crowd.mkv", "--every", "3", "--out", "found", "--format", "csv")
    columns, *rows = (line.split(",") for line in (tmp_path / "found" / "crowd.mkv.csv").read_text().splitlines())
    assert {(int(row[1]), row[columns.index("searched")]) for row in rows} == {(n, str(int(n % 3 == 0))) for n in range(10)}
    (again,) = read_box_files(tmp_path / "found" / "crowd.mkv.csv").entries
    assert [again.frames[n].searched for n in range(10)] == [n % 3 == 0 for n in range(10)]
    run("detect", "crowd.mkv", "--out", "all", "--format", "json")
    assert "searched" not in (tmp_path / "all" / "crowd.mkv.json").read_text()


def test_count_searches_fewer_frames_too(run, tmp_path):
    write(tmp_path / "crowd.mkv", crowd(1)[0] * 20)
    counts = {}
    for every in ("1", "3"):
        output = run("count", "crowd.mkv", "--every", every, "--format", "json", "--quiet")
        (counts[every],) = json.loads(output)["files"]
    assert counts["3"]["searched"] == 8 and counts["1"]["searched"] == counts["1"]["frames"] == counts["3"]["frames"] == 20
    assert counts["3"]["max_faces"] == counts["3"]["faces"] == 5


def test_spacings_that_make_no_sense(run, tmp_path):
    write(tmp_path / "crowd.mkv", crowd(2)[0])
    for every in ("0", "11", "often", "-1", "2.5"):
        for command in ("anonymise", "detect", "count"):
            assert "--every must be" in run(command, "crowd.mkv", "--every", every, code=2)
