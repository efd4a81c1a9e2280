"""Raw files of cameras: the picture of full size in them is read and masked, a smaller preview is not."""

import io
import struct
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image

import tinyfaces
from conftest import corners, found, paint
from tinyfaces import Detector, ImageError, read_image
from tinyfaces.detection.raw_photos import holds_raw

SIDES = (96, 64)
SQUARES = [(8, 16), (64, 40)]
_LETTERS = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}  # of TIFF's types, for struct; 5 and 10 are fractions
_MATRIX = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)


def jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=98, subsampling=0)
    return content.getvalue()


def _directory(rows: dict[int, tuple[int, tuple[int, ...] | bytes]], start: int) -> bytes:
    """A directory of TIFF that lies at `start`."""
    behind, end = b"", start + 2 + 12 * len(rows) + 4
    entries = struct.pack("<H", len(rows))
    for tag, (kind, values) in sorted(rows.items()):
        data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values)
        count = len(values) // 2 if kind in (5, 10) else len(values)
        here = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", end + len(behind))
        behind += b"" if len(data) <= 4 else data + bytes(len(data) % 2)
        entries += struct.pack("<HHI", tag, kind, count) + here
    return entries + bytes(4) + behind


def dng(picture: bytes, sides: tuple[int, int] = SIDES, orientation: int = 1) -> bytes:
    """A DNG file of a sensor with so many columns and rows, which holds a JPEG."""
    width, height = sides
    with Image.open(io.BytesIO(picture)) as opened:
        held = opened.size
    mosaic, picture_length = struct.pack("<H", 1000) * (width * height), len(picture)
    picture += bytes(picture_length % 2)

    def directories(second: int, behind: int) -> tuple[bytes, bytes]:
        first = {
            254: (4, (1,)), 256: (4, held[:1]), 257: (4, held[1:]), 258: (3, (8, 8, 8)), 259: (3, (7,)), 262: (3, (6,)),
            271: (2, b"Maker\0"), 272: (2, b"Model\0"), 273: (4, (behind,)), 274: (3, (orientation,)), 277: (3, (3,)),
            278: (4, held[1:]), 279: (4, (picture_length,)), 330: (4, (second,)), 50706: (1, (1, 4, 0, 0)),
            50708: (2, b"Maker Model\0"), 50721: (10, _MATRIX), 50728: (5, (1,) * 6),
        }  # fmt: skip
        of_the_sensor = {
            254: (4, (0,)), 256: (4, (width,)), 257: (4, (height,)), 258: (3, (16,)), 259: (3, (1,)), 262: (3, (32803,)),
            273: (4, (behind + len(picture),)), 277: (3, (1,)), 278: (4, (height,)), 279: (4, (len(mosaic),)),
            33421: (3, (2, 2)), 33422: (1, (0, 1, 1, 2)),
        }  # fmt: skip
        return _directory(first, 8), _directory(of_the_sensor, second)

    second = 8 + len(directories(0, 0)[0])
    first, of_the_sensor = directories(second, second + len(directories(second, 0)[1]))
    return b"II*\0\x08\0\0\0" + first + of_the_sensor + picture + mosaic


@pytest.fixture
def rawpy():
    return pytest.importorskip("rawpy", reason="needs the extra: pip install 'tinyfaces[raw]'")


def test_the_picture_in_it_is_read_upright(rawpy, tmp_path, toy_model):
    picture = jpeg(paint(64, 96, SQUARES))
    (tmp_path / "a.dng").write_bytes(dng(picture))
    assert (read_image(tmp_path / "a.dng") == read_image(picture)).all()
    assert found(Detector(toy_model, threshold=0.5).detect(tmp_path / "a.dng")) == corners(SQUARES)
    for orientation, turned in ((6, -1), (8, 1), (3, 2)):
        (tmp_path / "a.DNG").write_bytes(dng(picture, orientation=orientation))
        assert (read_image(tmp_path / "a.DNG") == np.rot90(read_image(picture), turned)).all()


def test_a_picture_that_the_camera_has_turned_already_is_not_turned_again(rawpy, tmp_path):
    picture = jpeg(paint(96, 64, [(8, 16)]))
    (tmp_path / "a.dng").write_bytes(dng(picture, orientation=6))
    assert (read_image(tmp_path / "a.dng") == read_image(picture)).all()


def test_anonymise_writes_a_jpeg_and_says_so(rawpy, run, tmp_path):
    content = dng(jpeg(paint(64, 96, SQUARES)), orientation=6)
    (tmp_path / "a.dng").write_bytes(content)
    done = run("anonymise", "a.dng", "--out", "public", "--method", "solid")
    assert "2 faces masked in 1 file" in done.stdout
    assert done.stderr == "tinyfaces: a.dng: the picture in this raw file is written as a.jpg\n"
    assert [path.name for path in (tmp_path / "public").glob("*.*") if path.name != ".tinyfaces"] == ["a.jpg"]
    with Image.open(tmp_path / "public/a.jpg") as masked:
        assert masked.format == "JPEG" and masked.size == (64, 96) and np.asarray(masked).max() < 40
        assert not masked.getexif()
    assert (tmp_path / "a.dng").read_bytes() == content
    (tmp_path / "a.jpg").write_bytes(jpeg(paint(64, 96)))
    both = run("anonymise", "a.dng", "a.jpg", "--out", "both", code=1)
    assert "another file of that name" in both.stderr


def test_bytes_and_open_files_are_read_as_paths_are(rawpy, tmp_path, toy_model):
    """By what they hold, as bytes have no name."""
    picture = jpeg(paint(64, 96, SQUARES))
    content = dng(picture, orientation=6)
    path = tmp_path / "a.dng"
    path.write_bytes(content)
    right = read_image(path)
    assert (read_image(content) == right).all() and (read_image(memoryview(content)) == right).all()
    assert (read_image(io.BytesIO(content)) == right).all()
    with path.open("rb") as file, tempfile.TemporaryFile() as nameless:
        assert (read_image(file) == right).all()
        nameless.write(content)
        assert (read_image(nameless) == right).all()
    detector = Detector(toy_model, threshold=0.5)
    assert found(detector.detect(content)) == found(detector.detect(path)) != []
    for source in (content, io.BytesIO(content), path):
        masked = tinyfaces.anonymise(source, detector=detector, style=tinyfaces.MaskStyle("solid"))
        assert masked.size == (64, 96) and np.asarray(masked).max() < 40
    only_a_preview = dng(jpeg(paint(32, 48)))
    with pytest.raises(ImageError, match=r"^bytes: is a raw file that holds only a preview \(48x32 of 96x64 pixels\)"):
        read_image(only_a_preview)


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypcrx \0", b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0", b"II*\0\x10\0\0\0CR\2\0"]
)
def test_broken_bytes_are_one_line(rawpy, head):
    with pytest.raises(ImageError, match=r"^bytes: .*raw file") as raised:
        read_image(head + bytes(64))
    assert "\n" not in str(raised.value)


def test_bytes_without_rawpy_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match=r"^bytes: raw files of cameras need rawpy: pip install 'tinyfaces\[raw\]'$"):
        read_image(dng(jpeg(paint(64, 96))))


def test_pictures_that_are_none_of_a_sensor_are_no_raw_files():
    for kind in ("TIFF", "JPEG", "PNG"):
        content = io.BytesIO()
        Image.fromarray(paint(64, 96)).save(content, kind)
        assert not holds_raw(content) and content.tell() == 0
    assert not holds_raw(io.BytesIO(b"II*\0\xff\xff\xff\x7f")) and not holds_raw(io.BytesIO(b""))


def test_a_preview_is_not_read(rawpy, run, tmp_path):
    (tmp_path / "a.dng").write_bytes(dng(jpeg(paint(32, 48))))
    (tmp_path / "b.dng").write_bytes(dng(jpeg(paint(64, 96, SQUARES))))
    line = "tinyfaces: a.dng: is a raw file that holds only a preview (48x32 of 96x64 pixels); convert it to TIFF or JPEG first"
    done = run("anonymise", "a.dng", "b.dng", "--out", "public", code=1)
    assert line in done.stderr.splitlines() and (tmp_path / "public/b.jpg").exists()
    assert not (tmp_path / "public/a.jpg").exists()


@pytest.mark.parametrize(
    "name, content", [("a.cr3", b"\0\0\0\x18ftypcrx " + bytes(64)), ("a.nef", b"MM\0*\0\0\0\x08" + bytes(64)), ("a.raf", b"x")]
)
def test_broken_ones_are_one_line(rawpy, run, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    told = run("detect", name, code=2).stderr
    assert told.startswith(f"tinyfaces: {name}: ") and "raw file" in told and len(told.splitlines()) == 1


def test_cut_ones_are_one_line_or_read(rawpy, tmp_path):
    picture = jpeg(paint(64, 96, SQUARES))
    whole = dng(picture)
    (tmp_path / "a.dng").write_bytes(whole)
    end = whole.index(picture) + len(picture)
    right, refused = read_image(tmp_path / "a.dng"), 0
    for length in [*range(1, len(whole), len(whole) // 40), end - 100, end - 1]:
        (tmp_path / "a.dng").write_bytes(whole[:length])
        try:
            assert (read_image(tmp_path / "a.dng") == right).all(), "the sensor's values are not needed"
            assert length >= end, "the rest is whatever lay in memory"
        except ImageError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'a.dng'}: ") and "\n" not in str(error)
    assert refused > 2


@pytest.mark.parametrize("name", ["a.dng", "a.cr3"])
def test_without_rawpy_a_line_says_what_to_install(run, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(dng(jpeg(paint(64, 96))))
    monkeypatch.setitem(sys.modules, "rawpy", None)
    line = f"tinyfaces: {name}: raw files of cameras need rawpy: pip install 'tinyfaces[raw]'\n"
    assert run("detect", name, code=2).stderr == line
    assert run("anonymise", name, code=2).stderr == line


def test_a_jpeg_that_is_named_so_is_a_jpeg(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / "a.nef").write_bytes(jpeg(paint(64, 96)))
    assert read_image(tmp_path / "a.nef").shape == (64, 96, 3)


def test_in_folders_they_are_left_out_and_counted(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(64, 96, SQUARES)).save(tmp_path / "in/a.png")
    (tmp_path / "in/a.nef").write_bytes(b"x")
    assert ".nef" in run("detect", "in").stderr
