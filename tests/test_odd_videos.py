"""Videos as cameras, editors and networks leave them: interlaced, turned, of changing size, in any pixel format, with more in the
file than the picture. Faces are covered all the same, nothing else shows them, and what is lost is told."""

# ruff: noqa: F811

import json
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from conftest import paint

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
from test_video import HEIGHT, WIDTH, _red_left, crowd, frames_of, run, samples_of, write  # noqa: E402, F401
from tinyfaces import Faces  # noqa: E402
from tinyfaces.jobs import fields, other_streams, pixel_formats  # noqa: E402
from tinyfaces.jobs.clocks import Clock  # noqa: E402
from tinyfaces.jobs.turns import Shape, Turn  # noqa: E402

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(200)
FONT = b"\0\1\0\0" + bytes(100)


def _encode(path, images, *, codec="libx264", pixels="yuv444p", options=None, rate=25, between=lambda container: None):
    """Encode frames (RGB or RGBA); `between` is called before the first one."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=options or {})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = pixels
        between(container)
        for image in images:
            form = "rgba" if image.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(image, format=form)
            container.mux(video.encode(frame.reformat(format=pixels)))
        container.mux(video.encode(None))
    return path


def _report(run, name, *options):
    run("anonymise", name, "--method", "solid", "--report", "report.json", *options)
    return json.loads(Path("report.json").read_text(encoding="utf-8"))["files"][0]


# interlaced


def _woven(moments: list[np.ndarray], first: int) -> list[np.ndarray]:
    """Frames of two moments each; the earlier one in the lines `first`, `first` + 2, ..."""
    frames = []
    for early, late in zip(moments[::2], moments[1::2], strict=True):
        frame = late.copy()
        frame[first::2] = early[first::2]
        frames.append(frame)
    return frames


@pytest.mark.parametrize("flag", ["tff", "bff", None])
def test_faces_that_move_between_the_fields_of_a_frame_are_covered_in_both(run, tmp_path, flag):
    places = [(8 + 8 * moment, 16) for moment in range(20)]
    moments = [np.maximum(paint(HEIGHT, WIDTH, [place, (40, 96)]), 40) for place in places]
    first = 1 if flag == "bff" else 0
    options = {"crf": "1", "preset": "ultrafast"} | ({"x264-params": f"{flag}=1"} if flag else {})
    _encode(tmp_path / "a.mp4", _woven(moments, first), options=options)
    assert frames_of(tmp_path / "a.mp4")[3].interlaced_frame == (flag is not None)
    record = _report(run, "a.mp4")
    for number, frame in enumerate(frames_of(tmp_path / "anonymised/a.mp4")):
        image = frame.to_ndarray(format="rgb24")
        for field, (x, y) in enumerate(places[2 * number : 2 * number + 2]):
            lines = image[y : y + 8][(first + field) % 2 :: 2]
            assert lines[:, x : x + 8, 0].max() < 80, (number, field)
        assert _red_left(image, 40, 96) < 60
    assert record["max_faces"] == 3  # one that stands, and one in two places


def test_combs_are_measured_and_photos_are_none():
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.linspace(0, 255, 64)[:, None], 96, axis=1)
    noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255)
    for image in (smooth, noisy, paint(64, 96, [(8, 8)])[..., 0]):
        assert not fields.is_combed(np.repeat(image.astype(np.uint8)[..., None], 3, axis=2))
    early, late = (np.repeat(paint(64, 96, [place])[..., :1], 3, axis=2) for place in ((10, 11), (19, 11)))
    assert fields.is_combed(_woven([early, late], 0)[0]) and fields.is_combed(_woven([early, late], 1)[0])
    assert not fields.is_combed(np.zeros((3, 5, 3), np.uint8))


@pytest.mark.parametrize("height", [4, 5, 8, 9])
def test_fields_have_the_size_of_the_frame_and_only_their_own_lines(height):
    frame = np.arange(height, dtype=np.uint8)[:, None, None].repeat(4, axis=1).repeat(3, axis=2) % 2 * 200
    whole, even, odd = fields.pictures(frame)
    assert whole is frame and even.shape == odd.shape == frame.shape
    assert (even == 0).all() and (odd == 200).all()


def test_one_face_of_several_pictures_has_one_box_around_its_places():
    here, moved, far = (
        Faces(np.array([[x, 10, x + 20, 30]]), np.array([score])) for x, score in ((10, 0.5), (16, 0.9), (80, 0.7))
    )
    faces = fields.one_face_each([here, moved, far])
    assert faces.boxes.tolist() == [[10, 10, 36, 30], [80, 10, 100, 30]] and faces.scores.tolist() == pytest.approx([0.9, 0.7])
    twins = Faces(np.array([[0, 0, 20, 20], [6, 0, 26, 20]]), np.array([0.9, 0.8]))
    assert len(fields.one_face_each([twins, Faces.empty(), twins])) == 2
    assert not len(fields.one_face_each([Faces.empty()] * 3))


# what else lies in the container


def _everything(container) -> None:
    """Attachments, subtitles, chapters and titles as editors and drones leave them."""
    container.streams.video[0].metadata["title"] = "Anna and Ben at home"
    container.add_attachment("cover.webp", "image/webp", b"RIFF....WEBPVP8 " + bytes(50))
    container.add_attachment("face.ttf", "application/x-truetype-font", JPEG)
    container.add_attachment("names.txt", "text/plain", b"Anna, Ben")
    container.add_attachment("real.ttf", "application/x-truetype-font", FONT)
    for name, text in (("said", b"what is said"), ("flown", b"GPS (2.3522, 48.8566, 19), D 5.1m"), ("named", b"12.1 m")):
        words = container.add_mux_stream("subrip")
        words.metadata["title"] = "DJI.Subtitle" if name == "named" else name
        words.metadata["language"] = "fra"
        packet = av.Packet(text)
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), words
        waiting.append(packet)
    chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "Anna arrives"}}
    container.set_chapters([chapter])


waiting: list = []


def _all_in_one(path):
    waiting.clear()
    images, _ = crowd(8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = images[0].shape[:2]
        _everything(container)
        container.metadata["METADATA_BLOCK_PICTURE"] = "/9j/4AAQSkZJRgAB" * 40
        container.metadata["comment"] = "at home"
        for number, image in enumerate(images):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
            if not number:
                container.mux(waiting)
        container.mux(video.encode(None))


def test_other_pictures_names_and_telemetry_go_and_are_listed(run, tmp_path):
    _all_in_one(tmp_path / "a.mkv")
    record = _report(run, "a.mkv")
    assert record["removed"] == ["attachment", "chapter names", "tags", "telemetry subtitles", "track titles"]
    content = (tmp_path / "anonymised/a.mkv").read_bytes()
    for gone in (b"Anna", b"WEBP", b"JFIF", b"GPS", b"12.1 m", b"DJI", b"/9j/", b"at home"):
        assert gone not in content, gone
    with av.open(str(tmp_path / "anonymised/a.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video", "subtitle", "attachment"]
        assert bytes(container.streams[2].data)[:4] == FONT[:4]
        assert container.streams[1].metadata["language"] == "fra"
        assert [chapter["end"] * chapter["time_base"] for chapter in container.chapters()] == [Fraction(1, 5)]
        assert [bytes(packet) for packet in container.demux(subtitles=0) if packet.size] == [b"what is said"]


def test_keeping_metadata_keeps_text_and_no_picture(run, tmp_path):
    _all_in_one(tmp_path / "a.mkv")
    record = _report(run, "a.mkv", "--keep-metadata")
    assert record["removed"] == ["attachment", "pictures in tags"]
    content = (tmp_path / "anonymised/a.mkv").read_bytes()
    for kept in (b"Anna and Ben", b"Anna arrives", b"GPS", b"at home"):
        assert kept in content, kept
    for gone in (b"WEBP", b"JFIF", b"/9j/"):
        assert gone not in content, gone


def test_telemetry_in_the_subtitles_of_an_mp4_goes(run, tmp_path):
    images, _ = crowd(8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = images[0].shape[:2]
        words = container.add_mux_stream("mov_text")
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        text = b"[iso : 100] [latitude: 48.8566] [longitude: 2.3522]"
        packet = av.Packet(len(text).to_bytes(2, "big") + text)
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), words
        container.mux(packet)
        container.mux(video.encode(None))
    assert "telemetry subtitles" in _report(run, "a.mp4")["removed"]
    assert b"48.8566" not in (tmp_path / "anonymised/a.mp4").read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_chapter_names_go_also_from_the_track_that_repeats_them(run, tmp_path, name):
    chapters = [
        {"id": n, "start": 160 * n, "end": 160 * n + 160, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
        for n, title in enumerate(("Anna arrives", "Ben leaves"))
    ]
    _encode(tmp_path / name, crowd(8)[0], between=lambda container: container.set_chapters(chapters))
    assert "chapter names" in _report(run, name)["removed"]
    content = (tmp_path / "anonymised" / name).read_bytes()
    assert b"Anna" not in content and b"Ben leaves" not in content
    _report(run, name, "--keep-metadata")
    with av.open(str(tmp_path / "anonymised" / name)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Anna arrives", "Ben leaves"]


def test_a_timecode_is_kept_as_a_tag(run, tmp_path):
    def add(container):
        container.streams.video[0].metadata["timecode"] = "01:00:00:00"

    _encode(tmp_path / "a.mov", crowd(8)[0], between=add)
    with av.open(str(tmp_path / "a.mov")) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    assert "data stream" in _report(run, "a.mov")["removed"]
    assert "data stream" in _report(run, "a.mov", "--keep-metadata")["removed"]
    assert len(frames_of(tmp_path / "anonymised/a.mov")) == 8


@pytest.mark.parametrize(
    "codec,pixels,disposition",
    [
        ("mjpeg", "yuvj420p", "attached_pic"),
        ("png", "rgb24", "attached_pic"),
        ("mjpeg", "yuvj420p", "default"),
        ("png", "rgb24", "default"),
        ("libvpx-vp9", "yuv420p", "default"),
    ],
)
def test_cover_pictures_go_in_any_codec_and_are_not_taken_for_the_video(run, tmp_path, codec, pixels, disposition):
    images, places = crowd(8)
    name = "a.mp4"
    with av.open(str(tmp_path / name), "w") as container:
        cover = container.add_stream(codec, rate=25)
        cover.width, cover.height, cover.pix_fmt = 48, 32, pixels
        cover.disposition = getattr(av.stream.Disposition, disposition)
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = images[0].shape[:2]
        still = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 200, np.uint8))
        container.mux(cover.encode(still.reformat(format=pixels)))
        container.mux(cover.encode(None))
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(video.encode(None))
    assert {"cover picture", "second video stream"} & set(_report(run, name)["removed"])
    with av.open(str(tmp_path / "anonymised" / name)) as container:
        assert [stream.codec_context.width for stream in container.streams] == [WIDTH]
    assert all(
        _red_left(frames_of(tmp_path / "anonymised" / name)[4].to_ndarray(format="rgb24"), x, y) < 60 for x, y in places[4]
    )


@pytest.mark.parametrize(
    "text,tells",
    [
        ("HOME(2.3522, 48.8566) D 5.1m", True),
        ("GPS(48.8566,2.3522,19)", True),
        ("$GPRMC,123519,A,4807.038,N,01131.000,E", True),
        ("SrtCnt : 1, DiffTime : 33ms", True),
        ("F/2.8, SS 320.22, ISO 100, EV 0", True),
        ("<font size='28'>rel_alt: 1.3 abs_alt: 20.1</font>", True),
        ("48.85661, 2.35221", True),
        ("[latitude: 48.8] [longtitude: 2.3]", True),
        ("48°51'23\"N 2°21'7\"E", True),
        ("+48.8566+002.3522/", True),
        ("My GPS says: turn left in 200 metres.", False),
        ("He was 3.5 years old, 12.5 kg", False),
        ("What is the latitude here?", False),
        ("It costs 1,200.50 or 1,300.75", False),
        ("漢字の字幕", False),
    ],
)
def test_what_telemetry_looks_like(text, tells):
    assert other_streams._tells_places(text.encode()) == tells
    assert other_streams._tells_places(b"\xff\xfe" + text.encode("utf-16-le")) == tells


# frames of changing size


def _changing_video(path, matrix):
    sizes = [(96, 64)] * 8 + [(192, 128)] * 8 + [(96, 64)] * 8
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv444p", Fraction(1, 1000)
        if matrix:
            stream.set_display_matrix([*matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30])
        container.start_encoding()
        context = None
        for number, (width, height) in enumerate(sizes):
            if context is None or context.width != width:
                for packet in context.encode(None) if context else ():
                    packet.stream = stream
                    container.mux(packet)
                context = av.CodecContext.create("libvpx-vp9", "w")
                context.width, context.height, context.pix_fmt, context.time_base = width, height, "yuv444p", Fraction(1, 1000)
                context.options = {"lag-in-frames": "0", "crf": "4", "b": "0"}
            frame = av.VideoFrame.from_ndarray(np.maximum(paint(height, width, [(16, 40)]), 40)).reformat(format="yuv444p")
            frame.pts, frame.time_base = number * 40, Fraction(1, 1000)
            for packet in context.encode(frame):
                packet.stream = stream
                container.mux(packet)
        for packet in context.encode(None):
            packet.stream = stream
            container.mux(packet)
    return sizes


ONE = 1 << 16


@pytest.mark.parametrize("matrix", [None, (0, ONE, -ONE, 0), (0, -ONE, ONE, 0), (-ONE, 0, 0, -ONE)])
def test_a_size_that_changes_moves_no_mask_and_is_told(run, tmp_path, matrix):
    name = "a.mp4"
    sizes = _changing_video(tmp_path / name, matrix)
    run("anonymise", name, "--method", "solid", "--enlarge", "1")
    before, after = frames_of(tmp_path / name), frames_of(tmp_path / "anonymised" / name)
    assert [(frame.width, frame.height) for frame in before] == sizes
    assert {(frame.width, frame.height) for frame in after} == {(96, 64)} and len(after) == len(sizes)
    for number, (frame, (width, _)) in enumerate(zip(after, sizes, strict=True)):
        part = 96 / width
        image = frame.to_ndarray(format="rgb24")
        x, y, side = round(16 * part), round(40 * part), round(8 * part)
        assert image[y : y + side, x : x + side, 0].max() < 90, number
    run("detect", name, "--out", "found", "--format", "jsonl")
    lines = [json.loads(line) for line in (tmp_path / f"found/{name}.jsonl").read_text().splitlines()]
    turned = Turn.of(None if matrix is None else np.array([*matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30], np.int32))
    for line, (width, height) in zip(lines, sizes, strict=True):
        upright = (height, width) if turned.swap else (width, height)
        assert (line["width"], line["height"]) == upright
        stored = [turned.undo(np.array([box], np.float32), *upright)[0].round().tolist() for box in line["boxes"]]
        assert [16, 40, 24, 48] in stored
    run("detect", name, "--out", "found", "--format", "csv")
    rows = (tmp_path / f"found/{name}.csv").read_text().splitlines()[1:]
    assert {tuple(row.split(",")[10:12]) for row in rows} == {(str(line["width"]), str(line["height"])) for line in lines}


def test_boxes_go_from_shape_to_shape_and_back():
    boxes = np.array([[1, 2, 5, 9]], np.float32)
    shapes = [Shape(*((40, 60) if swap else (60, 40)), Turn(swap, x, y)) for swap in (0, 1) for x in (0, 1) for y in (0, 1)]
    for one in shapes:
        for other in (*shapes, Shape(120, 80, Turn()), Shape(80, 120, Turn(True))):
            np.testing.assert_allclose(other.boxes_in(one, one.boxes_in(other, boxes)), boxes, atol=1e-4)
    assert Shape(60, 40, Turn()).boxes_in(Shape(120, 80, Turn()), boxes).tolist() == [[2, 4, 10, 18]]


# pixel formats

COLOURS = [(180, 40, 60), (30, 180, 90), (20, 60, 210), (190, 180, 40), (128, 128, 128), (90, 20, 200)]


def _patches() -> np.ndarray:
    """Patches of colour, and a face on grey."""
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for number, colour in enumerate(COLOURS):
        image[64:, number * 32 : number * 32 + 32] = colour
    image[24:32, 80:88] = (255, 0, 0)
    return image


@pytest.mark.parametrize(
    "codec,pixels,name,lost",
    [
        ("libx264rgb", "rgb24", "a.mkv", []),
        ("libx264", "yuv444p", "a.mp4", []),
        ("libx264", "yuv422p", "a.mp4", []),
        ("ffv1", "yuv444p12le", "a.mkv", []),
        ("ffv1", "yuv422p12le", "a.mkv", []),
        ("ffv1", "yuv420p16le", "a.mkv", ["depth above 12 bits"]),
        ("ffv1", "gbrp10le", "a.mkv", []),
        ("libx265", "gbrp", "a.mkv", []),
        ("libx265", "yuv444p12le", "a.mp4", []),
        ("png", "rgba", "a.mov", ["transparency"]),
        ("qtrle", "argb", "a.mov", ["transparency"]),
        ("prores_ks", "yuva444p10le", "a.mov", ["transparency"]),
        ("mjpeg", "yuvj422p", "a.avi", []),
        ("libvpx-vp9", "yuv444p", "a.webm", []),
        ("libvpx-vp9", "gbrp", "a.webm", []),
        ("rawvideo", "bgr24", "a.avi", []),
    ],
)
def test_colours_stay_and_covers_are_black_in_any_pixel_format(run, tmp_path, codec, pixels, name, lost):
    image = _patches()
    if pixels in ("rgba", "argb"):
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    options = {"libvpx-vp9": {"crf": "2", "b": "0"}, "mjpeg": {"q": "1"}, "libx265": {"x265-params": "log-level=error"}}
    _encode(tmp_path / name, [image] * 5, codec=codec, pixels=pixels, options=options.get(codec, {}))
    record = _report(run, name, "--quality", "8")
    assert record["lost"] == lost
    target = tmp_path / "anonymised" / name.replace(".avi", ".mkv")
    before, after = (frames_of(path)[2] for path in (tmp_path / name, target))
    known, shown = (np.asarray(frame.to_ndarray(format="rgb24"), int) for frame in (before, after))
    for number, colour in enumerate(COLOURS):
        middle = (slice(72, 120), slice(number * 32 + 8, number * 32 + 24))
        off = np.abs(shown[middle].mean(axis=(0, 1)) - known[middle].mean(axis=(0, 1))).max()
        assert off <= 2, (colour, shown[middle].mean(axis=(0, 1)))
    assert shown[26:30, 82:86].max() <= 4
    matrix = after.colorspace
    assert (matrix == 0) == bool(after.format.is_rgb)


def test_what_was_transparent_does_not_show(run, tmp_path):
    image = np.dstack([_patches(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    image[64:, :, 3] = 0
    _encode(tmp_path / "a.mov", [image] * 4, codec="png", pixels="rgba")
    result = run("anonymise", "a.mov", "--method", "solid")
    assert result.stderr == "tinyfaces: a.mov: written without transparency\n"
    assert frames_of(tmp_path / "anonymised/a.mov")[2].to_ndarray(format="rgb24")[72:].max() <= 4


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "webm", "mpegts"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "ffv1"])
def test_every_format_finds_an_encoder(kind, codec):
    for pixels in (
        "yuv420p",
        "yuvj420p",
        "yuv411p",
        "yuv440p",
        "gray",
        "gray16le",
        "rgb24",
        "pal8",
        "p010le",
        "yuva420p",
        "nv12",
    ):
        for width, height in ((64, 64), (65, 64), (64, 65)):
            codec_context = type("Context", (), {
                "pix_fmt": pixels, "color_range": 1, "colorspace": 0, "color_primaries": 1,
                "color_trc": 1, "codec": type("Codec", (), {"canonical_name": codec}),
            })  # fmt: skip
            stream = type("Stream", (), {"codec_context": codec_context, "metadata": {}})
            choice = pixel_formats.choose(stream, kind, width, height)
            assert choice.colour["colorspace"] != 0
            if kind == "webm":
                assert choice.encoder in ("libvpx-vp9", "libsvtav1")


@pytest.mark.parametrize("codec,name", [("mjpeg", "a.avi"), ("libvpx-vp9", "a.webm"), ("libvpx", "a.webm"), ("mpeg4", "a.mp4")])
@pytest.mark.parametrize("size", [(97, 64), (96, 65), (97, 65)])
def test_odd_sides_stay(run, tmp_path, codec, name, size):
    width, height = size
    image = np.maximum(paint(height, width, [(16, 40)]), 40)
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    _encode(tmp_path / name, [image] * 4, codec=codec, pixels=pixels)
    run("anonymise", name)
    target = tmp_path / "anonymised" / name.replace(".avi", ".mkv")
    assert {(frame.width, frame.height) for frame in frames_of(target)} == {size}


# names, clocks, and whatever decoders raise


def test_a_colon_in_a_videos_name_is_no_protocol(run, tmp_path):
    write(tmp_path / "2026-11-27T10:30:00.mp4", crowd(4)[0], sound=False)
    run("anonymise", "2026-11-27T10:30:00.mp4")
    assert len(frames_of(tmp_path / "anonymised/2026-11-27T10:30:00.mp4")) == 4
    run("detect", "2026-11-27T10:30:00.mp4", "--out", "found")


def test_a_name_that_is_not_utf8(run, tmp_path):
    name = os.fsdecode(b"gut_f\xfcnf.mp4")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (write(tmp_path / "a.mp4", crowd(4)[0], sound=False)).replace(tmp_path / name)
    run("anonymise", name)
    assert (tmp_path / "anonymised" / name).exists()


def test_transport_streams_joined_end_to_end(run, tmp_path):
    part = write(tmp_path / "part.ts", crowd(25)[0], codec="libx264", pixels="yuv420p").read_bytes()
    (tmp_path / "a.ts").write_bytes(part * 3)
    run("anonymise", "a.ts")
    frames = frames_of(tmp_path / "anonymised/a.ts")
    assert len(frames) == 75
    gaps = [float(later.time - earlier.time) for earlier, later in pairwise(frames)]
    assert min(gaps) > 0.02 and max(gaps) < 0.15
    with av.open(str(tmp_path / "a.ts")) as old, av.open(str(tmp_path / "anonymised/a.ts")) as new:
        sizes = [[packet.size for packet in container.demux(audio=0) if packet.size] for container in (old, new)]
        assert sizes[0] == sizes[1]
    with av.open(str(tmp_path / "anonymised/a.ts")) as new:
        times = [float(packet.pts * packet.time_base) for packet in new.demux(audio=0) if packet.size]
    assert abs(times[-1] - frames[-1].time) < 0.2  # sound and picture end together
    assert all(later > earlier for earlier, later in pairwise(times))


class _Packet:
    def __init__(self, stream, kind, time, duration=40):
        self.stream = type("Stream", (), {"index": stream, "type": kind})
        self.pts = self.dts = time
        self.duration, self.time_base = duration, Fraction(1, 1000)


def test_a_clock_that_jumps_ahead_or_back_runs_on():
    clock = Clock(jumps_ahead=True)
    packets = [
        _Packet(n % 2, ("video", "audio")[n % 2], time)
        for start in (0, 10**7, 500)
        for n, time in enumerate(range(start, start + 400, 20))
    ]
    for packet in packets:
        clock.set(packet)
    for stream in (0, 1):
        times = [packet.pts for packet in packets if packet.stream.index == stream]
        assert all(0 < later - earlier <= 61 for earlier, later in pairwise(times)), times
    steady = Clock(jumps_ahead=False)
    late = [_Packet(0, "video", time) for time in (0, 40, 60_000)]
    for packet in late:
        steady.set(packet)
    assert [packet.pts for packet in late] == [0, 40, 60_000]


@pytest.mark.parametrize("error", [MemoryError(), TypeError("odd"), ValueError("unsupported"), IndexError("no such plane")])
@pytest.mark.parametrize("where", ["pictures", "planes", "convert"])
def test_whatever_is_raised_is_that_files_line_and_leaves_nothing(run, tmp_path, monkeypatch, error, where):
    write(tmp_path / "bad.mp4", crowd(6)[0], sound=False)
    write(tmp_path / "good.mp4", crowd(6)[0], sound=False)
    owner = {"pictures": fields, "planes": pixel_formats, "convert": pixel_formats.Encoding}[where]
    name = {"pictures": "is_combed", "planes": "planes", "convert": "convert"}[where]
    known = getattr(owner, name)
    calls = []

    def fail(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return known(*arguments)

    monkeypatch.setattr(owner, name, fail)
    result = run("anonymise", "bad.mp4", "good.mp4", code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and "bad.mp4: cannot be" in lines[0] and type(error).__name__ in lines[0]
    assert sorted(path.name for path in (tmp_path / "anonymised").iterdir() if path.suffix != ".csv") == [
        ".tinyfaces",
        "good.mp4",
    ]
