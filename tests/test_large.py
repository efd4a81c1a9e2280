"""Images read region by region give what they give in memory, in less of it."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import corners, found, paint

pyvips = pytest.importorskip("pyvips", reason="pyvips is not installed (the extra large)")

from tinyfaces import Detector, ImageError  # noqa: E402
from tinyfaces.detection import images  # noqa: E402
from tinyfaces.detection.crops import cut_crops  # noqa: E402
from tinyfaces.detection.large import LargeImage  # noqa: E402


@pytest.fixture(scope="module")
def crowd():
    """3000 x 2600 pixels with small faces all over, some of them on the borders of tiles, and large ones."""
    rng = np.random.default_rng(2)
    cells = rng.choice(93 * 81, 300, replace=False)
    small = [(32 * int(c % 93), 32 * int(c // 93)) for c in cells]
    large = [(32 * int(c % 93), 32 * int(c // 93)) for c in rng.choice(93 * 81, 40, replace=False) if c not in set(cells)]
    return paint(2600, 3000, small, large), corners(small, large)


def _save(image, path):
    picture = pyvips.Image.new_from_memory(np.ascontiguousarray(image), image.shape[1], image.shape[0], 3, "uchar")
    if path.name.startswith("tiled"):
        picture.tiffsave(str(path), tile=True, tile_width=128, tile_height=128, compression="deflate")
    elif path.suffix == ".tif":
        picture.tiffsave(str(path), compression="lzw")
    else:
        picture.write_to_file(str(path))
    return path


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "a.png"])
def test_it_finds_what_is_found_in_memory(toy_model, tmp_path, crowd, name):
    pixels, expected = crowd
    detector = Detector(toy_model, threshold=0.5, threads=1)
    faces = detector.detect_regions(LargeImage(_save(pixels, tmp_path / name)))
    assert found(faces) == expected == found(detector.detect(pixels))
    assert len(faces) == len(expected)


def test_a_damaged_size_is_no_gigapixel_image(run, tmp_path):
    """A file of 14 kB that says it is 12.9 million pixels wide was searched for minutes."""
    Image.fromarray(paint(60, 80)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    tag = next(content.find(head) for kind in (3, 4) if (head := struct.pack("<HHI", 256, kind, 1)) in content)
    wide = struct.pack("<HHII", 256, 4, 1, 12_910_672)
    (tmp_path / "a.tif").write_bytes(content[:tag] + wide + content[tag + 12 :])
    with pytest.raises(ImageError, match=r"a\.tif: damaged, or blank"):
        LargeImage(tmp_path / "a.tif")
    assert "a.tif: damaged, or blank" in run("detect", "a.tif", code=2).stderr  # and is not searched


def test_regions_are_those_of_the_image_in_any_order(tmp_path, crowd):
    pixels, _ = crowd
    image = LargeImage(_save(pixels, tmp_path / "a.tif"))
    assert image.shape == pixels.shape
    for top, bottom, left, right in (
        (0, 50, 0, 3000),
        (40, 90, 100, 200),
        (2000, 2600, 2900, 3000),
        (10, 20, 5, 9),
        (2590, 2600, 0, 3000),
    ):
        assert (image[top:bottom, left:right] == pixels[top:bottom, left:right]).all()


def test_crops_are_those_of_the_image(tmp_path, crowd):
    pixels, _ = crowd
    squares = np.array([[2900, 2500, 3020, 2620], [-4, -4, 12, 12], [1000, 30, 1016, 46], [7.5, 1800.5, 40, 1833]])
    assert (cut_crops(LargeImage(_save(pixels, tmp_path / "a.tif")), squares, 16) == cut_crops(pixels, squares, 16)).all()


def test_orientation_alpha_and_depth(tmp_path):
    upright = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    assert (LargeImage(tmp_path / "turned.png")[0:60, 0:90] == upright).all()
    rgba = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert (LargeImage(tmp_path / "clear.png")[0:8, 0:8] == 255).all()
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert (LargeImage(tmp_path / "deep.png")[0:8, 0:8] == 255).all()


def test_what_cannot_be_read_is_one_line(tmp_path, crowd):
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.tif: cannot be read") as caught:
        LargeImage(tmp_path / "text.tif")
    assert "\n" not in str(caught.value)
    whole = _save(crowd[0], tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.png: damaged or cut short"):
        LargeImage(tmp_path / "cut.png")[2500:2600, 0:10]


def test_the_command_reads_what_is_too_large_for_memory_this_way(toy_model, tmp_path, crowd, monkeypatch):
    import json

    from typer.testing import CliRunner

    from tinyfaces.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "MAX_PIXELS", 5_000_000)
    _save(crowd[0], tmp_path / "a.tif")
    options = ["--model", str(toy_model), "--threshold", "0.5"]
    result = CliRunner().invoke(app, ["detect", "a.tif", "--out", "res", "--save-images", *options])
    assert result.exit_code == 0, result.output
    boxes = json.loads((tmp_path / "res/faces.json").read_text())["images"][0]["boxes"]
    assert {tuple(round(side) for side in box) for box in boxes} == crowd[1]
    assert max(Image.open(tmp_path / "res/a_faces.jpg").size) == 2000
    result = CliRunner().invoke(app, ["count", "a.tif", "--density", "maps", "--format", "json", *options])
    assert result.exit_code == 0 and f'"faces": {len(crowd[1])}' in result.stdout
    assert Image.open(tmp_path / "maps/a_density.png").size == (1024, 887)


@pytest.mark.slow
def test_memory_is_that_of_a_band(tmp_path):
    """96 million pixels, 288 MB, in a process of its own that may not grow by a third of that."""
    path = tmp_path / "big.tif"
    tile = pyvips.Image.new_from_array(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    tile.replicate(125, 188).tiffsave(str(path), tile=True, compression="deflate")
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom tinyfaces.detection.large import LargeImage\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "image = LargeImage(Path(sys.argv[1]))\nbefore = peak()\nheight, width, _ = image.shape\nassert height * width > 95e6\n"
        "total = sum(int(image[y:y + 640, 0:width][::7].sum()) for y in range(0, height, 512))\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 96


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(ImageError, match=r"pip install 'tinyfaces\[large\]'") as told:
        LargeImage(tmp_path / "a.tif")
    assert "has more than" not in str(told.value), "it was not measured"
