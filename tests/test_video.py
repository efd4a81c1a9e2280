"""Videos from end to end: a moving crowd with known places is covered, and everything else stays as it was."""

import json
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
from tinyfaces.jobs.turns import Turn  # noqa: E402
from tinyfaces.jobs.video import VideoError, VideoReader  # noqa: E402

WIDTH, HEIGHT = 192, 128
BASE = Fraction(1, 90000)


def crowd(frames: int, missed: dict[int, set[int]] | None = None) -> tuple[list[np.ndarray], list[list[tuple[int, int]]]]:
    """Frames in which five red 8 px squares wander over grey, always on the grid where the toy model finds them; in the frames
    `missed[square]` a square is too dark to be found. Gives the frames, and each square's place in each."""
    starts, steps = [(8, 8), (160, 16), (24, 64), (120, 88), (80, 40)], [(8, 0), (-8, 0), (8, 8), (0, -8), (0, 8)]
    images, places = [], []
    for number in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        here = []
        for square, ((x, y), (dx, dy)) in enumerate(zip(starts, steps, strict=True)):
            moved = number // 4  # a step every fourth frame
            x, y = _bounce(x + dx * moved, WIDTH - 8), _bounce(y + dy * moved, HEIGHT - 8)
            dark = number in (missed or {}).get(square, ())
            image[y : y + 8, x : x + 8] = (170, 0, 0) if dark else (255, 0, 0)
            here.append((x, y))
        images.append(image)
        places.append(here)
    return images, places


def _bounce(place: int, limit: int) -> int:
    place %= 2 * limit
    return place if place <= limit else 2 * limit - place


def write(
    path: Path, images, times=None, *, codec="libx264", pixels="yuv444p", sound=True, subtitles=False, rotation=0, tags=None
):
    """Encode frames (RGB), nearly without loss; times: of each frame, in 1/90000 s."""
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        video = container.add_stream(codec, rate=25, options={"crf": "1", "preset": "ultrafast"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = pixels
        video.codec_context.time_base = BASE
        video.codec_context.color_primaries, video.codec_context.color_trc, video.codec_context.colorspace = 1, 1, 1
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        words = container.add_mux_stream("subrip") if subtitles else None
        end = 0
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels, dst_colorspace="ITU709")
            frame.pts = end = times[number] if times else number * 3600
            frame.time_base = BASE
            container.mux(video.encode(frame))
        if audio is not None:
            noise = np.random.default_rng(0).normal(0, 0.1, (1, 44100 * (end + 3600) // 90000)).astype(np.float32)
            for start in range(0, noise.shape[1], 1024):
                block = av.AudioFrame.from_ndarray(noise[:, start : start + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 44100, start, Fraction(1, 44100)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
        if words is not None:
            packet = av.Packet(b"what is said")
            packet.pts = packet.dts = 200
            packet.duration, packet.time_base, packet.stream = 500, Fraction(1, 1000), words
            container.mux(packet)
        container.mux(video.encode(None))
    return path


def frames_of(path: Path) -> list:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def samples_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.fixture
def run(run_on_videos):
    return run_on_videos


def _red_left(image: np.ndarray, x: int, y: int) -> int:
    """How red the square at a place still is: 0 where all of it is covered."""
    return int(image[y : y + 8, x : x + 8, 0].max())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_no_face_is_uncovered_in_a_frame_between_two_in_which_it_is_found(run, tmp_path, suffix):
    rng = np.random.default_rng(3)
    missed = {square: set(rng.choice(np.arange(3, 45), 12, replace=False).tolist()) for square in range(5)}
    images, places = crowd(48, missed)
    times = np.cumsum(rng.integers(1500, 6000, 48)).tolist()  # a variable frame rate
    times = [90 * (time // 90) for time in times]  # whole milliseconds, which Matroska keeps
    source = write(tmp_path / f"a{suffix}", images, times, subtitles=suffix == ".mkv")
    run("anonymise", source.name, "--method", "solid", "--report", "report.json")
    target = tmp_path / "anonymised" / source.name
    before, after = frames_of(source), frames_of(target)
    assert len(after) == len(before) == 48
    assert [frame.time for frame in after] == [frame.time for frame in before]
    known_gaps = 0
    for number, frame in enumerate(after):
        image = frame.to_ndarray(format="rgb24")
        for square, (x, y) in enumerate(places[number]):
            gone = number in missed[square]
            neighbours = not {number - 1, number + 1} & missed[square]
            if not gone or neighbours:
                assert _red_left(image, x, y) < 40, (number, square)
                known_gaps += gone
    assert known_gaps >= 10
    assert (samples_of(target) == samples_of(source)).all()
    with av.open(str(source)) as old, av.open(str(target)) as new:
        assert [stream.type for stream in new.streams] == [stream.type for stream in old.streams]
        for name in ("pix_fmt", "color_range", "colorspace", "color_primaries", "color_trc"):
            assert getattr(new.streams.video[0].codec_context, name) == getattr(old.streams.video[0].codec_context, name), name
        if suffix == ".mkv":
            words = [bytes(packet) for packet in new.demux(subtitles=0) if packet.size]
            assert words == [b"what is said"]
    # what isn't near a face is as it was
    far = np.abs(before[20].to_ndarray(format="rgb24").astype(int) - after[20].to_ndarray(format="rgb24"))
    near = np.zeros((HEIGHT, WIDTH), bool)
    for number in range(16, 25):
        for x, y in places[number]:
            near[max(0, y - 16) : y + 24, max(0, x - 16) : x + 24] = True
    assert far[~near].max() <= 8
    record = json.loads((tmp_path / "report.json").read_text())["files"][0]
    assert record["frames"] == 48 and record["max_faces"] >= 5 and record["tracks"] >= 5
    assert {path.name for path in (tmp_path / "anonymised").iterdir()} == {source.name, ".tinyfaces"}


def test_a_turned_video_is_searched_upright_and_stays_turned(run, tmp_path):
    upright = paint(96, 64, [(8, 8), (40, 64)])
    for degrees, turn in ((90, 1), (180, 2), (270, 3)):
        # the picture is shown turned counter-clockwise by `degrees`, so it is stored turned the other way
        stored = np.ascontiguousarray(np.rot90(upright, -turn))
        source = write(tmp_path / f"t{degrees}.mp4", [stored] * 6, rotation=degrees, sound=False)
        run("detect", source.name, "--out", f"r{degrees}.json", "--format", "json")
        found = json.loads((tmp_path / f"t{degrees}.mp4.json").read_text())
        assert (found["width"], found["height"]) == (64, 96)
        boxes = {tuple(round(side) for side in box) for box in found["frames"][3]["boxes"]}
        assert boxes == {(8, 8, 16, 16), (40, 64, 48, 72)}
        run("anonymise", source.name, "--method", "solid")
        frame = frames_of(tmp_path / "anonymised" / source.name)[3]
        assert frame.rotation == frames_of(source)[3].rotation != 0
        shown = np.rot90(frame.to_ndarray(format="rgb24"), turn)
        assert _red_left(shown, 8, 8) < 40 and _red_left(shown, 40, 64) < 40


@pytest.mark.parametrize(
    "matrix,expected", [((1, 0, 0, 1), Turn()), ((0, 1, -1, 0), Turn(True, True, False)), ((-1, 0, 0, 1), Turn(False, True))]
)
def test_turns_go_there_and_back(matrix, expected):
    a, b, c, d = matrix
    turn = Turn.of(np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32))
    assert turn == expected
    stored = np.arange(4 * 6).reshape(4, 6, 1).repeat(3, axis=2).astype(np.uint8)
    shown = turn.apply(stored)
    height, width = shown.shape[:2]
    box = np.array([[1, 2, 2, 3]], np.float32)
    x1, y1, x2, y2 = turn.undo(box, width, height)[0].astype(int)
    assert (stored[y1:y2, x1:x2] == shown[2:3, 1:2]).all()


def test_detect_gives_boxes_and_track_ids_per_frame(run, tmp_path):
    images, places = crowd(30)
    write(tmp_path / "a.mp4", images)
    run("detect", "a.mp4", "--out", "res", "--format", "csv")
    rows = [line.split(",") for line in (tmp_path / "res/a.mp4.csv").read_text().splitlines()]
    assert rows[0] == ["file", "frame", "time", "track", "x1", "y1", "x2", "y2", "score", "found", "width", "height", "searched"]
    assert len(rows) - 1 == 30 * 5
    by_track = {}
    for row in rows[1:]:
        by_track.setdefault(row[3], []).append((int(row[1]), round(float(row[4])), round(float(row[5]))))
    assert len(by_track) <= 8 and max(map(len, by_track.values())) == 30
    for number, x, y in (seen for track in by_track.values() for seen in track):
        assert (x, y) in places[number]
    lines = run("detect", "a.mp4", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["frame"] for line in lines if line.startswith("{")] == list(range(30))
    assert "30 frames of 192x128" in run("detect", "a.mp4").stdout
    assert "json, jsonl or csv" in run("detect", "a.mp4", "--out", "res", "--format", "yolo", code=2).stderr


def test_a_cut_or_damaged_file_gives_its_good_part_and_a_line(run, tmp_path):
    images, _ = crowd(100)
    whole = write(tmp_path / "whole.mkv", images, sound=False).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    result = run("anonymise", "cut.mkv", "whole.mkv", code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and "cut.mkv: cut short" in lines[0]
    assert 20 < len(frames_of(tmp_path / "anonymised/cut.mkv")) < 80
    assert len(frames_of(tmp_path / "anonymised/whole.mkv")) == 100
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 900] = bytes(900)
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    result = run("anonymise", "damaged.mkv", code=1)
    assert len(result.stderr.splitlines()) == 1 and "damaged" in result.stderr
    assert len(frames_of(tmp_path / "anonymised/damaged.mkv")) > 20


def test_what_is_no_video(run, tmp_path):
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate = 44100
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    for name in ("text.mp4", "empty.mp4", "sound.mp4", "nowhere.mp4"):
        for command in ("anonymise", "detect", "count"):
            result = run(command, name, code=2)
            assert len(result.stderr.splitlines()) == 1 and name in result.stderr
    assert not (tmp_path / "anonymised").exists() or not list((tmp_path / "anonymised").glob("*.mp4"))
    with pytest.raises(VideoError, match="no such file"):
        VideoReader(tmp_path / "nowhere.mp4")


def test_places_and_other_pictures_go_from_a_videos_file(run, tmp_path):
    images, _ = crowd(8)
    tags = {"title": "our street", "location": "+48.8+002.3/", "comment": "at home"}
    write(tmp_path / "a.mp4", images, tags=tags)
    run("anonymise", "a.mp4", "--report", "r.json")
    with av.open(str(tmp_path / "anonymised/a.mp4")) as container:
        assert not {"title", "location", "comment"} & set(container.metadata)
    assert b"+48.8" not in (tmp_path / "anonymised/a.mp4").read_bytes()
    assert json.loads((tmp_path / "r.json").read_text())["files"][0]["removed"] == ["tags"]
    run("anonymise", "a.mp4", "--keep-metadata")
    with av.open(str(tmp_path / "anonymised/a.mp4")) as container:
        assert container.metadata["comment"] == "at home"


def test_other_pixel_formats(run, tmp_path):
    images, places = crowd(6)
    for codec, pixels, name in (("libx264", "yuv420p", "a.mov"), ("libx264", "yuv420p10le", "b.mkv"), ("ffv1", "bgr0", "c.avi")):
        write(tmp_path / name, images, codec=codec, pixels=pixels, sound=False)
        run("anonymise", name, "--method", "solid")
        written = name.replace(".avi", ".mkv")
        frame = frames_of(tmp_path / "anonymised" / written)[3]
        if codec == "libx264":
            assert frame.format.name == pixels
        image = frame.to_ndarray(format="rgb24")
        assert all(_red_left(image, x, y) < 40 for x, y in places[3]), name


def test_count_gives_different_faces(run, tmp_path):
    write(tmp_path / "a.mp4", crowd(20)[0], sound=False)
    result = run("count", "a.mp4", "--format", "json")
    record = json.loads(result.stdout)["files"][0]
    assert record["max_faces"] == 5 and 5 <= record["faces"] <= 7


@pytest.mark.slow
def test_frames_alive_do_not_grow_with_the_length(toy_model, tmp_path):
    """Peak memory of a video five times as long is the same."""
    program = (
        "import resource, sys\nfrom typer.testing import CliRunner\nfrom tinyfaces.cli import app\n"
        "for name in sys.argv[1:3]:\n"
        "    done = CliRunner().invoke(app, ['anonymise', name, *sys.argv[3:]])\n"
        "    assert done.exit_code == 0, done.output\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    images, _ = crowd(40)
    large = [np.pad(image, ((0, 256), (0, 384), (0, 0)), constant_values=40) for image in images]
    videos = [str(write(tmp_path / f"{times}.mp4", large * times, pixels="yuv420p", sound=False)) for times in (1, 5)]
    options = ["--model", str(toy_model), "--out", str(tmp_path / "out"), "--threshold", "0.5", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", program, *videos, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    # what the longer one has more, as it is decoded, in MiB
    assert 4 * 40 * large[0].size / 2 / 2**20 > 50
    assert peaks[1] - peaks[0] < 25


def test_the_source_is_never_overwritten(run, tmp_path):
    source = write(tmp_path / "a.mp4", crowd(4)[0], sound=False)
    before = source.read_bytes()
    assert "never overwritten" in run("anonymise", "a.mp4", "--out", ".", code=2).stderr
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/a.mp4").symlink_to(source)
    assert "never overwritten" in run("anonymise", "a.mp4", "--out", "linked", code=2).stderr
    assert source.read_bytes() == before


def test_gaps_between_frames_are_those_of_the_source(tmp_path):
    times = [0, 3600, 3690, 20000, 20001]
    source = write(tmp_path / "a.mp4", crowd(5)[0], times, sound=False)
    with VideoReader(source) as video:
        read = [frame.pts * frame.time_base for frame in video.frames()]
    assert [later - earlier for earlier, later in pairwise(read)] == [Fraction(b - a, 90000) for a, b in pairwise(times)]
    assert Image.fromarray(crowd(1)[0][0]).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("number,words", [(1, "1 place;"), (2, "2 places;")])
def test_how_many_places_are_damaged(tmp_path, number, words):
    with VideoReader(write(tmp_path / "a.mp4", [paint(64, 64)] * 3, sound=False)) as video:
        assert len(list(video.frames())) == 3 and video.problem is None
        video._damaged = number
        video._check_end()
        assert video.problem == f"{tmp_path / 'a.mp4'}: damaged in {words} the rest is done"
