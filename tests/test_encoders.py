"""Encoders that are asked for by name, those of graphics cards too; the cards are simulated."""

from dataclasses import replace

import numpy as np
import pytest

import tinyfaces

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
from test_video import crowd, frames_of, write  # noqa: E402
from tinyfaces.detection.detector import Detector  # noqa: E402
from tinyfaces.jobs import encoders, pixel_formats  # noqa: E402
from tinyfaces.jobs.encoders import ENCODERS, EncoderChoice  # noqa: E402
from tinyfaces.jobs.video import VideoError  # noqa: E402
from tinyfaces.jobs.video_writer import VideoWriter  # noqa: E402


@pytest.fixture
def run(run_on_videos):
    return lambda *arguments, code=0: run_on_videos(*arguments, code=code).output


@pytest.fixture
def missing(monkeypatch):
    """A machine without any graphics card, and one encoder that FFmpeg was built without."""
    trouble = encoders._trouble

    def without(name, preset):
        if name == "libsvtav1":
            return "FFmpeg was built without it"
        return "no device or driver for it" if ENCODERS[name].hardware else trouble(name, preset)

    monkeypatch.setattr(encoders, "_trouble", without)


def _codec(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec.canonical_name


def test_an_encoder_that_cannot_be_used_is_a_line_that_names_those_that_can(run, tmp_path, missing):
    write(tmp_path / "a.mp4", crowd(2)[0])
    usable = "choose from libx264, libx265, libvpx-vp9"
    for name, why in (
        ("h264_nvenc", "no device or driver for it"), ("libsvtav1", "FFmpeg was built without it"), ("x264", "unknown"),
        ("libx264:hasty", "it cannot be opened with this preset"),
    ):  # fmt: skip
        line = f"encoder {name} cannot be used ({why}): {usable}"
        assert run("anonymise", "a.mp4", "--encoder", name, code=2).strip() == f"tinyfaces: {line}"
        with pytest.raises(ValueError) as raised:
            tinyfaces.video.anonymise(tmp_path / "a.mp4", tmp_path / "b.mp4", encoder=name)
        assert str(raised.value) == line
    assert not (tmp_path / "b.mp4").exists() and not (tmp_path / "anonymised").exists()


def test_real_trouble_is_found_by_trying():
    assert encoders._trouble("libx264", None) is None
    assert encoders._trouble("libx264", "veryfast") is None
    assert encoders._trouble("libx264", "hasty") == "it cannot be opened with this preset"
    elsewhere = [name for name, one in ENCODERS.items() if one.hardware and name not in av.codecs_available]
    assert elsewhere
    for name in elsewhere:
        assert encoders._trouble(name, None) == "FFmpeg was built without it"


def test_the_encoder_that_is_asked_for_writes(run, tmp_path):
    write(tmp_path / "a.mp4", crowd(6)[0])
    sizes = {}
    for name, codec in (("libx265:ultrafast", "hevc"), ("libx264", "h264"), ("libx264:ultrafast", "h264")):
        run("anonymise", "a.mp4", "--encoder", name, "--out", name.replace(":", "_"))
        target = tmp_path / name.replace(":", "_") / "a.mp4"
        assert _codec(target) == codec and len(frames_of(target)) == 6
        sizes[name] = target.stat().st_size
    assert sizes["libx264:ultrafast"] > sizes["libx264"]
    done = tinyfaces.video.anonymise(tmp_path / "a.mp4", tmp_path / "b.mkv", [np.zeros((0, 4))] * 6, encoder="libvpx-vp9:8")
    assert done.frames == 6 and _codec(tmp_path / "b.mkv") == "vp9"


def test_the_quicker_preset_comes_with_a_lower_factor():
    assert EncoderChoice().options("libx264", 18) == {"crf": "16.50", "preset": "veryfast"}
    assert float(EncoderChoice().options("libx264", 0)["crf"]) == 0
    assert EncoderChoice.of("libx264").options("libx264", 18)["preset"] == "veryfast"
    assert EncoderChoice.of("libx264:medium").options("libx264", 18) == {"crf": "18", "preset": "medium"}


def test_an_encoder_that_fails_midway_leaves_no_file(tmp_path, monkeypatch, toy_model):
    write(tmp_path / "a.mp4", crowd(12)[0])
    encode, frames = VideoWriter._encode, []

    def failing(self, frame):
        frames.append(frame.pts)
        if len(frames) == 5:
            raise av.error.ExternalError(-1, "the card was unplugged")
        encode(self, frame)

    monkeypatch.setattr(VideoWriter, "_encode", failing)
    detector = Detector(toy_model, threads=1, threshold=0.5)
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be encoded \(the card was unplugged\)"):
        tinyfaces.video.anonymise(tmp_path / "a.mp4", tmp_path / "out" / "b.mp4", detector=detector)
    assert len(frames) == 5 and not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.mp4"]


def test_a_container_that_does_not_take_it_is_a_line(run, tmp_path):
    write(tmp_path / "a.webm", crowd(2)[0], codec="libvpx-vp9", sound=False)
    write(tmp_path / "b.mkv", crowd(2)[0])
    output = run("anonymise", "a.webm", "b.mkv", "--encoder", "libx264:ultrafast", code=1)
    assert "a.webm: libx264 writes h264, which webm does not take" in output
    assert not (tmp_path / "anonymised" / "a.webm").exists() and (tmp_path / "anonymised" / "b.mkv").exists()


def test_auto_without_a_graphics_card_is_the_default(run, tmp_path, missing, toy_model):
    write(tmp_path / "a.mp4", crowd(4)[0])
    for encoder in (None, "auto"):
        detector = Detector(toy_model, threads=1, threshold=0.5)
        tinyfaces.video.anonymise(tmp_path / "a.mp4", tmp_path / f"{encoder}.mp4", detector=detector, encoder=encoder)
    first, second = ([frame.to_ndarray() for frame in frames_of(tmp_path / name)] for name in ("None.mp4", "auto.mp4"))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def _stream(codec, pixels):
    context = type("Context", (), {
        "pix_fmt": pixels, "color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1,
        "codec": type("Codec", (), {"canonical_name": codec}),
    })  # fmt: skip
    return type("Stream", (), {"codec_context": context, "metadata": {}})


class _Card:
    """What FFmpeg offers for encoders of a graphics card that takes interleaved colour only."""

    def __init__(self, name, mode):
        self._codec = _CODEC(name, mode) if name.startswith("lib") else None

    @property
    def video_formats(self):
        names = ("nv12", "p010le", "qsv")
        return self._codec.video_formats if self._codec else [av.VideoFormat(name, 16, 16) for name in names]


_CODEC = av.Codec


def test_auto_takes_the_card_where_nothing_is_lost_by_it(monkeypatch):
    monkeypatch.setattr(pixel_formats.av, "Codec", _Card)
    monkeypatch.setattr(encoders, "_trouble", lambda name, preset: None if name.endswith("qsv") else "missing")
    auto = EncoderChoice.of("auto")
    assert auto.names == ("h264_qsv", "hevc_qsv", "av1_qsv")

    def chosen(codec, pixels, kind="matroska", choice=auto, size=(64, 64)):
        one = pixel_formats.choose(_stream(codec, pixels), kind, *size, choice)
        return one.encoder, one.pixel_format, one.encoded, one.losses

    assert chosen("h264", "yuv420p") == ("h264_qsv", "yuv420p", "nv12", ())
    assert chosen("mpeg4", "yuv420p") == ("h264_qsv", "yuv420p", "nv12", ())
    assert chosen("hevc", "yuv420p10le") == ("hevc_qsv", "yuv420p10le", "p010le", ())
    assert chosen("h264", "yuv444p") == ("libx264", "yuv444p", "yuv444p", ())
    assert chosen("h264", "yuv420p", size=(65, 64))[0] == "libx264"
    assert chosen("vp9", "yuv420p", "webm")[0] == "libvpx-vp9"
    assert chosen("h264", "yuv420p", choice=EncoderChoice())[0] == "libx264"
    named = EncoderChoice.of("hevc_qsv")
    assert chosen("h264", "yuv444p", choice=named) == ("hevc_qsv", "yuv420p", "nv12", ("full colour resolution",))
    with pytest.raises(ValueError, match="hevc_qsv cannot write 65x64 pixels of yuv420p"):
        chosen("h264", "yuv420p", choice=named, size=(65, 64))


def test_frames_are_masked_in_planes_and_handed_on_interleaved(run, tmp_path, monkeypatch):
    """libx264 takes both, and must write the same."""
    write(tmp_path / "a.mp4", crowd(4)[0], pixels="yuv420p")
    run("anonymise", "a.mp4", "--out", "planes", "--encoder", "libx264")
    choose = pixel_formats.choose
    monkeypatch.setattr(pixel_formats, "choose", lambda *given: replace(choose(*given), encoded="nv12"))
    run("anonymise", "a.mp4", "--out", "interleaved", "--encoder", "libx264")
    first, second = ([frame.to_ndarray() for frame in frames_of(tmp_path / out / "a.mp4")] for out in ("planes", "interleaved"))
    assert len(first) == 4
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("quality", [0, 18, 51])
def test_options_stay_in_the_range_of_each_encoder(quality):
    limits = {"crf": 63, "cq": 51, "global_quality": 118 * 100, "qp_i": 51, "qp_p": 51, "quality": 100}
    for name in ENCODERS:
        for option, value in EncoderChoice().options(name, quality).items():
            if option in limits:
                assert 0 <= float(value) <= limits[option]
