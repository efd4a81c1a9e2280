"""Every odd kind of image is read as people expect or refused in one line that names it."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces import ImageError, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _corners(width=16, height=12) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return pixels


def test_path_pil_and_array_give_the_same(tmp_path):
    expected = _corners()
    path = tmp_path / "a.png"
    Image.fromarray(expected).save(path)
    for source in (path, str(path), Image.open(path), expected):
        assert (read_image(source) == expected).all()


# what each EXIF orientation stores, as a turn of the upright picture
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = _corners()
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png") == upright).all()
    assert (read_image(Image.open(tmp_path / "turned.png")) == upright).all()


def test_sixteen_bit_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    assert read.shape == (8, 8, 3)
    np.testing.assert_allclose(read[..., 1], values / 257.0, atol=0.51)


def test_cmyk(tmp_path):
    Image.fromarray(_corners(32, 32)).convert("CMYK").save(tmp_path / "print.tif")
    assert (read_image(tmp_path / "print.tif") == _corners(32, 32)).all()


def test_palette_with_and_without_transparency(tmp_path):
    Image.fromarray(_corners()).quantize(8).save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png") == _corners()).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "t.png", transparency=0)
    assert read_image(tmp_path / "t.png").tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_transparent_parts_become_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    assert read_image(Image.fromarray(rgba))[0, :, 0].tolist() == [255, 127, 0]
    assert read_image(rgba)[0, :, 0].tolist() == [255, 127, 0]


def test_grey_one_bit_and_animation(tmp_path):
    assert read_image(Image.new("L", (3, 2), 7)).tolist() == [[[7] * 3] * 3] * 2
    assert read_image(Image.new("1", (1, 1), 1)).tolist() == [[[255] * 3]]
    frames = [Image.new("RGB", (5, 5), colour) for colour in (RED, GREEN, BLUE)]
    for name in ("a.gif", "a.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert read_image(tmp_path / name)[2, 2].tolist() == list(RED)


@pytest.mark.parametrize("size", [(1, 1), (30000, 10), (10, 30000)])
def test_odd_shapes(tmp_path, size):
    Image.new("RGB", size, GREEN).save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").shape == (size[1], size[0], 3)


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def bad_files(folder: Path) -> dict[str, str]:
    """Make files that cannot be read: name -> a word of the message."""
    photo = folder / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(photo)
    content = photo.read_bytes()
    photo.unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "head.jpg").write_bytes(content[:10])
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "bomb.png").write_bytes(_png_that_claims(60000, 60000))
    (folder / "false.png").write_bytes(_png_that_claims(500, 500))
    return {
        "empty.jpg": "empty", "cut.jpg": "damaged or cut short", "head.jpg": "", "text.jpg": "not an image",
        "bomb.png": "megapixels", "false.png": "damaged or cut short",
    }  # fmt: skip


def test_bad_files_are_refused_in_one_line(tmp_path):
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message and word in message and "\n" not in message


def test_missing_folder_and_forbidden(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match=r"secret\.png: no permission"):
        read_image(secret)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_damaged_size_is_not_searched_for_minutes(tmp_path):
    """The canvas of an animated WebP may be 16 million pixels wide, whatever is in it."""
    frames = [Image.new("RGB", (80, 60), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "a.webp").read_bytes())
    assert content[12:16] == b"VP8X"
    content[24:27] = (1_638_479).to_bytes(3, "little")
    (tmp_path / "a.webp").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.webp: damaged, or blank \(1638480x60 pixels in a file of \d+ bytes\)"):
        read_image(tmp_path / "a.webp")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    "array,word",
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((3, 40, 40), np.uint8), "CxHxW"),
        (np.zeros((2, 4, 4, 3), np.uint8), "list"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros(4, np.uint8), "HxWx3"),
    ],
)
def test_wrong_arrays(array, word):
    with pytest.raises(ImageError, match=word):
        read_image(array)


def test_other_types():
    with pytest.raises(TypeError, match="int"):
        read_image(7)


def test_bytes_and_file_objects_give_what_the_file_gives(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(_corners()).save(path)
    content = path.read_bytes()
    for source in (content, bytearray(content), memoryview(content)):
        assert (read_image(source) == _corners()).all()
    with path.open("rb") as file:
        for _ in range(2):  # it is read from its start each time
            assert (read_image(file) == _corners()).all()
    written = io.BytesIO()
    Image.fromarray(_corners()).save(written, "PNG")
    assert (read_image(written) == _corners()).all()


def test_a_file_object_that_cannot_go_back_is_read_once():
    class Stream:
        def read(self):
            content = io.BytesIO()
            Image.fromarray(_corners()).save(content, "PNG")
            return content.getvalue()

    assert (read_image(Stream()) == _corners()).all()


def test_bad_bytes_and_file_objects(tmp_path):
    with pytest.raises(ImageError, match="bytes: the file is empty"):
        read_image(b"")
    with pytest.raises(ImageError, match="bytes: not an image"):
        read_image(b"no picture at all")
    path = tmp_path / "text.jpg"
    path.write_text("no picture at all")
    with path.open("rb") as file, pytest.raises(ImageError, match=r"text\.jpg: not an image"):
        read_image(file)
    with pytest.raises(ImageError, match=r"text\.jpg: cannot be read"):
        read_image(file)  # closed by now
    with path.open() as file, pytest.raises(TypeError, match="binary"):
        read_image(file)
