"""Which faces are covered, by height, place, track and time; and how strongly, and by which picture: pixel by pixel."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from serving import client_class
from tinyfaces import Detector, Faces, ImageError
from tinyfaces.jobs.cover_picture import read_cover_picture
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.masked_photos import masked_photo
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.selection import ALL, Selection, clear_line, read_corners
from tinyfaces.jobs.tracking import TrackedFaces

SOLID = ("--method", "solid", "--shape", "box", "--enlarge", "1")
LEFT_HALF = "0,0 0.5,0 0.5,1 0,1"


@pytest.fixture
def photo(tmp_path):
    """Two small faces on the left, one on the right, and a large one on the right."""
    pixels = paint(64, 160, [(8, 8), (40, 48), (128, 8)], [(96, 32)])
    pixels[..., 2] = 77
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return pixels


PLACES = {"a": (8, 8, 8), "b": (40, 48, 8), "c": (128, 8, 8), "large": (96, 32, 32)}


def without(pixels: np.ndarray, names: str) -> np.ndarray:
    """The picture with masks over the faces of these names: with 2 pixels around each, and those only partly within."""
    after = pixels.copy()
    for name in names.split():
        x, y, side = PLACES[name]
        after[y - 3 : y + side + 3, x - 3 : x + side + 3] = 0
    return after


BY_PLACE = [
    ((), "a b c large", {}),
    (("--min-height", "9"), "large", {"below 9 px": 3}),
    (("--max-height", "9"), "a b c", {"above 9 px": 1}),
    (("--except-region", LEFT_HALF), "c large", {"in an excepted region": 2}),
    (("--only-region", LEFT_HALF), "a b", {"outside the regions": 2}),
    (("--only-region", "0,0 30,0 30,30 0,30", "--only-region", "120,0 140,0 140,20 120,20"), "a c", {"outside the regions": 2}),
    (("--only-region", LEFT_HALF, "--except-region", "0,0 30,0 30,30 0,30"), "b",
     {"outside the regions": 2, "in an excepted region": 1}),
    (("--min-height", "9", "--except-region", LEFT_HALF), "large", {"below 9 px": 3}),
    (("--except-region", "areas.json"), "b large", {"in an excepted region": 2}),
]  # fmt: skip


@pytest.mark.parametrize("options,covered,left_clear", BY_PLACE)
def test_photos(run, tmp_path, photo, options, covered, left_clear):
    areas = {"a": [[0, 0], [30, 0], [30, 30], [0, 30]], "c": [[120, 0], [140, 0], [140, 20], [120, 20]]}
    (tmp_path / "areas.json").write_text(json.dumps(areas))
    said = run("anonymise", "a.png", *SOLID, *options, "--report", "r.json").stdout
    assert (np.asarray(Image.open(tmp_path / "anonymised/a.png")) == without(photo, covered)).all()
    record = json.loads((tmp_path / "r.json").read_text())["files"][0]
    assert record["left_clear"] == left_clear and record["faces"] == len(record["boxes"]) == len(covered.split())
    assert (f"; {clear_line(left_clear)}" in said) if left_clear else ("left clear" not in said)
    if options:
        (tmp_path / "found.json").unlink(missing_ok=True)
        run("detect", "a.png", *options, "--out", "found.json")
        boxes = json.loads((tmp_path / "found.json").read_text())["images"][0]["boxes"]
        assert sorted(boxes) == sorted(record["boxes"])


def test_a_line_says_why_faces_are_left_clear():
    assert clear_line({"above 9 px": 1, "in an excepted region": 2}) == "3 left clear (2 in an excepted region, 1 above 9 px)"


def test_what_the_report_tells_of_a_selection(run, tmp_path, photo):
    run("anonymise", "a.png", "--min-height", "9", "--except-region", LEFT_HALF, "--report", "r.json")
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert settings["min_height"] == 9 and settings["except_regions"] == [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]
    assert "max_height" not in settings and "spans" not in settings
    run("anonymise", "a.png", "--resume")
    assert "min_height" in run("anonymise", "a.png", "--resume", "--min-height", "3", code=2).stderr


@pytest.mark.parametrize(
    "options,words",
    [
        (("--min-height", "9", "--max-height", "3"), "heights must rise"),
        (("--only-region", "0,0 1,1"), "--only-region '0,0 1,1' must be a list of at least 3 corners"),
        (("--only-region", "0,0 1 1,1"), "at least 3 corners"),
        (("--except-region", "a,b c,d e,f"), "at least 3 corners"),
        (("--except-region", "none.json"), "none.json: cannot be read"),
        (("--keep-track", "3,x"), "--keep-track '3,x': must be numbers"),
        (("--keep-track", "3", "--only-track", "3,4"), "track 3 cannot be both"),
        (("--from", "1:2:3:4"), "--from '1:2:3:4': must be seconds"),
        (("--from", "9", "--to", "3"), "times must rise"),
        (("--from", "1", "--from", "2", "--to", "3"), "as many of one as of the other"),
        (("--keep-track", "3"), "are for videos, and none was given"),
        (("--strength", "6"), "--strength"),
        (("--cover", "none.png"), "none.png"),
        (("--cover", "areas.txt"), "areas.txt"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, tmp_path, photo, options, words):
    (tmp_path / "areas.txt").write_text("no picture")
    said = run("anonymise", "a.png", *options, code=2).stderr
    assert words in said and not (tmp_path / "anonymised").exists()
    assert len(said.splitlines()) == 1 or "Usage" in said


def test_a_region_and_a_cover_are_never_written_over(run, tmp_path, photo):
    (tmp_path / "r.json").write_text(json.dumps({"a": [[0, 0], [1, 0], [1, 1]]}))
    said = run("anonymise", "a.png", "--only-region", "r.json", "--report", "r.json", code=2).stderr
    assert "r.json" in said and json.loads((tmp_path / "r.json").read_text()) == {"a": [[0, 0], [1, 0], [1, 1]]}


def test_selections_as_values():
    faces = Faces(np.array([[0, 0, 10, 12], [50, 50, 70, 80]], np.float32), np.array([0.9, 0.8], np.float32))
    assert ALL.pick(faces, 100, 100) == (faces, {}) and ALL.settings() == {}
    assert Selection(min_height=12).pick(faces, 100, 100)[0] == faces  # 12 is not below 12
    picked, left_clear = Selection(max_height=12, except_regions=[read_corners("0,0 .2,0 .2,.2 0,.2", "x")]).pick(faces, 100, 100)
    assert len(picked) == 0 and left_clear == {"above 12 px": 1, "in an excepted region": 1}
    assert Selection(min_height=13).pick(Faces.empty(), 10, 10) == (Faces.empty(), {})
    assert hash(Selection(only_tracks=[3])) == hash(Selection(only_tracks=(3,)))
    told = Selection(keep_tracks=[7, 3], spans=[(1, math.inf)]).settings()
    assert json.loads(json.dumps(told)) == {"keep_tracks": [3, 7], "spans": [[1, None]]}


def _frame(time: float) -> TrackedFaces:
    """Tracks 0 and 1 are found; one more mask is of track 1, one may be of 0 or of 2."""
    boxes = np.array([[0, 0, 10, 10], [40, 0, 60, 20], [44, 0, 64, 20], [0, 30, 10, 40]], np.float32)
    of = np.array([[0, 0], [1, 1], [1, 1], [0, 2]], np.int64)
    found = np.ones(2, np.bool_)
    return TrackedFaces(time, Faces(boxes[:2], np.ones(2)), np.array([0, 1]), found, boxes, mask_tracks=of)


@pytest.mark.parametrize(
    "selection,time,faces,masks,clear",
    [
        (Selection(keep_tracks=[1]), 0, [0], [0, 3], {1: "of kept tracks"}),
        (Selection(keep_tracks=[0]), 0, [1], [1, 2, 3], {0: "of kept tracks"}),
        (Selection(keep_tracks=[0, 2]), 0, [1], [1, 2], {0: "of kept tracks"}),
        (Selection(only_tracks=[1]), 0, [1], [1, 2], {0: "of other tracks"}),
        (Selection(only_tracks=[2]), 0, [], [3], {0: "of other tracks", 1: "of other tracks"}),
        (Selection(max_height=15), 0, [0], [0, 3], {1: "above 15 px"}),
        (Selection(spans=[(1, 2), (3, 4)]), 1, [0, 1], [0, 1, 2, 3], {}),
        (Selection(spans=[(1, 2), (3, 4)]), 2, [], [], {0: "outside the time", 1: "outside the time"}),
        (Selection(except_regions=[[(0, 25), (20, 25), (20, 50), (0, 50)]]), 0, [0, 1], [0, 1, 2], {}),
    ],
)
def test_frames(selection, time, faces, masks, clear):
    frame = _frame(time)
    picked, left_clear = selection.pick_frame(frame, 100, 50)
    assert picked.tracks.tolist() == faces and (picked.faces.boxes == frame.faces.boxes[faces]).all()
    assert (picked.masks == frame.masks[masks]).all() and len(picked.masks) == len(masks) == len(picked.mask_tracks)
    assert left_clear == clear


@pytest.fixture
def clip(tmp_path):
    """20 frames at 25 per second: a face on the left that is there all the time, one on the right from the fifth on."""
    pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
    from test_video import write

    images = [paint(64, 160, [(24, 24)] + [(112, 24)] * (number >= 5)) for number in range(20)]
    return write(tmp_path / "a.mp4", images, sound=False)


@pytest.mark.parametrize(
    "options,left,right,left_clear",
    [
        ((), range(20), range(20), {}),
        (("--keep-track", "0"), [], range(5, 20), {"of kept tracks": 1}),
        (("--only-track", "0"), range(20), [], {"of other tracks": 1}),
        (("--from", "0.4", "--to", "0:00.6"), range(10, 15), range(10, 15), {"outside the time": 2}),
        (("--from", "0.6"), range(15, 20), range(15, 20), {"outside the time": 2}),
        (("--from", "0", "--to", "0.2", "--from", "0.6", "--to", "0.72"), [*range(5), 15, 16, 17], [15, 16, 17],
         {"outside the time": 2}),
        (("--except-region", "0,0 0.5,0 0.5,1 0,1"), [], range(5, 20), {"in an excepted region": 1}),
        (("--min-height", "12"), [], [], {"below 12 px": 2}),
    ],
)  # fmt: skip
def test_videos(run, tmp_path, clip, options, left, right, left_clear):
    from test_video import frames_of

    run("anonymise", "a.mp4", *SOLID, *options, "--threshold", "0.5", "--threads", "1", "--report", "r.json")
    images = [frame.to_ndarray(format="rgb24") for frame in frames_of(tmp_path / "anonymised/a.mp4")]
    seen = [{name: int(image[26:30, x : x + 4, 0].max()) > 128 for name, x in (("left", 26), ("right", 114))} for image in images]
    assert [number for number in range(20) if not seen[number]["left"]] == list(left)
    assert [number for number in range(5, 20) if not seen[number]["right"]] == [number for number in right if number >= 5]
    record = json.loads((tmp_path / "r.json").read_text())["files"][0]
    assert record["left_clear"] == left_clear
    assert [(one["track"], one["from"], one["to"]) for one in record["track_list"]] == [(0, 0, 0.76), (1, 0.2, 0.76)]
    assert [round(side) for side in record["track_list"][1]["box"]] == [112, 24, 120, 32]
    assert record["tracks"] == bool(list(left)) + bool(list(right))


def test_numbers_of_tracks_need_one_video(run, tmp_path, clip):
    (tmp_path / "b.mp4").write_bytes(clip.read_bytes())
    assert "several were given" in run("anonymise", "a.mp4", "b.mp4", "--keep-track", "1", code=2).stderr


@pytest.mark.parametrize(
    "options,missing,masked",
    [
        (("--only-track", "999"), "has no track 999", 0),
        (("--keep-track", "1,998,999"), "has no tracks 998, 999", 1),
        (("--only-track", "0,7", "--keep-track", "1,5"), "has no tracks 5, 7", 1),
    ],
)
def test_tracks_that_a_video_does_not_have_are_told(run, tmp_path, clip, options, missing, masked):
    result = run("anonymise", "a.mp4", *SOLID, *options, "--threshold", "0.5", "--quiet", "--report", "r.json", code=1)
    line = f"a.mp4: {missing}"
    assert result.stderr.splitlines() == [f"tinyfaces: {line}"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["problems"] == [{"file": "a.mp4", "problem": line}]
    assert report["files"][0]["tracks"] == masked  # the rest is done as asked
    assert run("anonymise", "a.mp4", *SOLID, "--only-track", "0", "--keep-track", "1", "--threshold", "0.5").stderr == ""


def test_tracks_are_those_found_also_where_boxes_are_added(run, tmp_path, clip):
    frames = [{"frame": number, "boxes": [[60, 20, 80, 40]], "scores": [1], "tracks": [7]} for number in range(20)]
    (tmp_path / "b.json").write_text(json.dumps({"file": "a.mp4", "width": 160, "height": 64, "frames": frames}))
    options = ("--also-boxes", "b.json", "--keep-track", "7", "--threshold", "0.5")
    assert "a.mp4: has no track 7" in run("anonymise", "a.mp4", *options, code=1).stderr


@pytest.mark.parametrize("strength,cells", [(1, 5), (2, 4), (3, 3), (5, 1)])
def test_strength_leaves_fewer_averages(toy_model, tmp_path, strength, cells):
    """A face of noise, 40 px wide: what is left are cells x cells blocks of one colour."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    from tinyfaces.jobs.photos import anonymised, open_photo

    faces = Faces(np.array([[30, 30, 70, 70]], np.float32), np.ones(1, np.float32))
    content = anonymised(open_photo(tmp_path / "a.png"), faces, MaskStyle("pixelate", "box", 1.0, strength))
    inside = np.asarray(Image.open(io.BytesIO(content)))[28:72, 28:72]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) == cells**2
    if strength == 5:
        assert np.abs(inside[0, 0] - noise[27:73, 27:73].mean(axis=(0, 1))).max() < 1.5
    with pytest.raises(ValueError, match="strength"):
        MaskStyle(strength=0)


def emoji(path, size=(64, 32)):
    """A picture that is red on the left and blue on the right, with a transparent upper half."""
    values = np.zeros((size[1], size[0], 4), np.uint8)
    values[:, : size[0] // 2, 0] = values[:, size[0] // 2 :, 2] = 200
    values[size[1] // 2 :, :, 3] = 255
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "CMYK", "I;16"])
def test_a_picture_covers_faces_of_photos_in_all_modes(tmp_path, mode):
    grey = np.full((80, 80), 120, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.dstack([grey] * 3)).convert(mode)
    white = {"L": 255, "LA": (255, 255), "RGB": (255,) * 3, "RGBA": (255,) * 4, "CMYK": (0,) * 4, "I;16": 65535}[mode]
    image.putpixel((0, 0), white)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    masking = Masking(style=MaskStyle("solid", "box", 1.0), picture=read_cover_picture(emoji(tmp_path / "e.png")))

    class Knowing:
        def detect(self, look, threshold):
            return Faces(np.array([[22.5, 22.5, 57.5, 57.5]]), np.ones(1))  # with the margin, 20 to 60

    content, _ = masked_photo(path, Knowing(), masking)
    after = Image.open(io.BytesIO(content))
    after = np.asarray(after) / 257 if mode == "I;16" else np.asarray(after.convert("RGB")).mean(axis=2)
    before = np.asarray(image) / 257 if mode == "I;16" else np.asarray(image.convert("RGB")).mean(axis=2)
    assert (after[:20] == before[:20]).all() and (after[:, 61:] == before[:, 61:]).all()
    assert after[22:36, 22:58].max() <= 1  # what the picture does not hide, solid does
    lower = np.asarray(Image.open(emoji(tmp_path / "e.png")).convert("RGB"))[-1]
    for x, colour in ((24, lower[0]), (56, lower[-1])):
        as_grey = float(np.asarray(Image.new("RGB", (1, 1), tuple(colour.tolist())).convert("L"))[0, 0])
        expected = as_grey if mode in ("L", "LA", "I;16") else colour.mean()
        assert np.abs(after[42:58, x] - expected).max() <= 2


def test_a_picture_covers_faces_by_the_command(run, tmp_path, photo):
    emoji(tmp_path / "e.png")
    run("anonymise", "a.png", "--method", "solid", "--cover", "e.png", "--report", "r.json")
    after = np.asarray(Image.open(tmp_path / "anonymised/a.png"))
    large = after[32:64, 96:128]
    assert large[2:12].max() <= 1 and (large[24, 4] == [200, 0, 0]).all() and (large[24, 28] == [0, 0, 200]).all()
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["cover"] == read_cover_picture(tmp_path / "e.png").digest
    (tmp_path / "cut.png").write_bytes((tmp_path / "e.png").read_bytes()[:90])
    with pytest.raises(ImageError, match=r"cut\.png"):
        read_cover_picture(tmp_path / "cut.png")


@pytest.mark.parametrize("rotation", [0, 90])
def test_a_picture_covers_faces_of_videos_upright(run, tmp_path, rotation):
    pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
    from test_video import frames_of, write

    emoji(tmp_path / "e.png")
    stored = paint(96, 96, large=[(32, 32)])
    write(tmp_path / "a.mp4", [stored] * 3, sound=False, rotation=rotation)
    run("anonymise", "a.mp4", "--method", "solid", "--shape", "box", "--enlarge", "1", "--cover", "e.png", "--threads", "1")
    frame = frames_of(tmp_path / "anonymised/a.mp4")[1]
    shown = frame.to_ndarray(format="rgb24", src_colorspace="ITU709").astype(int)
    shown = np.rot90(shown, rotation // 90)
    assert shown[34:44, 34:62].max() < 20
    for x, colour in ((36, (200, 0, 0)), (60, (0, 0, 200))):
        assert np.abs(shown[52:60, x] - colour).max() < 25


def test_the_service(toy_model, photo):
    client_type = client_class()
    from tinyfaces.service.app import create_app
    from tinyfaces.service.queue import Engine

    content = io.BytesIO()
    Image.fromarray(photo).save(content, "PNG")
    detector = Detector(toy_model)
    files = {"file": ("a.png", content.getvalue(), "image/png")}
    with client_type(create_app({"toy": Engine(detector, detector)})) as service:
        for options, covered, left_clear in BY_PLACE:
            if "areas.json" in options:
                continue
            names = [name.removeprefix("--").replace("-", "_") for name in options[::2]]
            query = list(zip(names, options[1::2], strict=True))
            answer = service.post("/v1/detect", params=[*query, ("output", "anonymised"), ("method", "solid")], files=files)
            after = np.asarray(Image.open(io.BytesIO(answer.content)))
            for name, (x, y, side) in PLACES.items():
                here = slice(y, y + side), slice(x, x + side)
                assert after[here].max() == 0 if name in covered.split() else (after[here] == photo[here]).all()
            assert json.loads(answer.headers["X-Left-Clear"]) == left_clear
            told = service.post("/v1/detect", params=query, files=files).json()
            assert told["left_clear"] == left_clear and len(told["boxes"]) == len(covered.split())
        for query, words in (("only_region=0,0", "only_region must be"), ("min_height=9&max_height=3", "heights must rise")):
            answer = service.post(f"/v1/detect?{query}", files=files)
            assert answer.status_code == 422 and words in answer.json()["detail"]
        assert service.post("/v1/detect?strength=6", files=files).status_code == 422
        weak, strong = (service.post(f"/v1/detect?output=anonymised&strength={n}", files=files).content for n in (1, 5))
        assert weak != strong
    assert_cover(service_app=create_app({"toy": Engine(detector, detector)}), files=files, client_type=client_type)


def assert_cover(service_app, files, client_type):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(picture, "PNG")
    cover = {"cover": ("e.png", picture.getvalue(), "image/png")}
    with client_type(service_app) as service:
        for address, data in (("detect", {}), ("picture", {"boxes": "[[96, 32, 128, 64]]"})):
            answer = service.post(f"/v1/{address}?output=anonymised", files={**files, **cover}, data=data)
            assert (np.asarray(Image.open(io.BytesIO(answer.content)))[40:60, 100:124] == [10, 200, 30]).all()
            refused = service.post(f"/v1/{address}", files={**files, "cover": ("e.png", b"none", "image/png")}, data=data)
            assert refused.status_code == 415
            refused = service.post(f"/v1/{address}", files=files, data={**data, "cover": "e.png"})
            assert refused.status_code == 422 and "must be a file" in refused.json()["detail"]
