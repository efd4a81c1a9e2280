"""Counts, regions and density maps."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import paint
from tinyfaces import Faces
from tinyfaces.cli import app
from tinyfaces.jobs.counting import RegionError, count_regions, density, draw_density, polygon, read_regions, within


def _at(*centres, side=4.0):
    centres = np.array(centres, np.float32)
    return Faces(np.concatenate([centres - side / 2, centres + side / 2], axis=1), np.full(len(centres), 0.9, np.float32))


def test_within_agrees_with_a_raster():
    """Polygons, one of them a star that crosses itself, against Pillow's drawing of them."""
    from PIL import ImageDraw

    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 100, (400, 2))
    for corners in (
        [(10, 10), (90, 20), (80, 90), (20, 70)],
        [(5, 5), (95, 5), (95, 95), (50, 40), (5, 95)],
        [tuple(50 + 40 * np.array([np.sin(4 * np.pi * k / 5), np.cos(4 * np.pi * k / 5)])) for k in range(5)],
    ):
        big = Image.new("1", (2000, 2000))
        ImageDraw.Draw(big).polygon([(20 * x, 20 * y) for x, y in corners], fill=1)
        drawn = np.asarray(big)[(20 * centres[:, 1]).astype(int), (20 * centres[:, 0]).astype(int)]
        ours = within(_at(*centres), np.array(corners))
        assert (ours != drawn).sum() <= 5  # those on an edge


def test_regions_in_pixels_and_relative():
    faces = _at((10, 10), (90, 10), (90, 40))
    regions = {
        "left": polygon([[0, 0], [50, 0], [50, 50], [0, 50]], "r"),
        "right": polygon([[0.5, 0], [1, 0], [1, 1], [0.5, 1]], "r"),
    }
    assert count_regions(faces, regions, 100, 50) == {"left": 1, "right": 2}


def test_density_sums_to_the_count_and_lies_where_the_faces_are():
    faces = _at((50, 50), (60, 55), (380, 10), (0, 299), side=8)
    values = density(faces, 400, 300)
    assert values.shape == (300, 400) and values.sum() == pytest.approx(4)
    assert values[20:90, 20:100].sum() == pytest.approx(2, abs=0.02)
    peak = np.unravel_index(values[20:90, 20:100].argmax(), (70, 80))
    assert abs(peak[0] + 20 - 52) < 8 and abs(peak[1] + 20 - 55) < 8
    assert density(Faces.empty(), 400, 300).sum() == 0
    assert density(_at((50_000, 100)), 60_000, 300).shape == (5, 1024)


def test_the_picture_is_bright_where_the_faces_are():
    picture = np.asarray(draw_density(_at((300, 200), side=30), np.zeros((400, 600, 3), np.uint8), 600, 400)).astype(int)
    assert picture.shape == (400, 600, 3)
    assert picture[200, 300].sum() > 400 > picture[50, 500].sum()


@pytest.mark.parametrize(
    "content,word",
    [
        ("[]", "object"),
        ("{}", "object"),
        ('{"a": [[0, 0], [1, 1]]}', "at least 3"),
        ('{"a": 3}', "at least 3"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (f'{{"a": [[0, 0], [1, 1], [{"1" * 400}, 1]]}}', "at least 3"),
    ],
)
def test_wrong_regions_are_one_line(tmp_path, content, word):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(RegionError, match=word) as caught:
        read_regions(tmp_path / "r.json")
    assert "r.json" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_regions_are_told_without_codes(tmp_path):
    with pytest.raises(RegionError, match=r"none.json: cannot be read \(no such file or directory\)$"):
        read_regions(tmp_path / "none.json")


@pytest.fixture
def run(toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(64, 96, [(8, 8), (40, 40)], [(64, 0)])).save(tmp_path / "in/a.png")
    Image.fromarray(paint(64, 96, [(80, 48)])).save(tmp_path / "in/b.png")

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, ["count", *arguments, "--model", str(toy_model)])
        assert result.exit_code == code, result.output
        return result

    return call


def test_the_command(run, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}))
    result = run("in", "--regions", "r.json", "--region", "60,0 96,0 96,40 60,40", "--density", "maps", "--out", "n.csv")
    assert (tmp_path / "n.csv").read_text() == "file,faces,left,region 1\nin/a.png,3,2,1\nin/b.png,1,0,0\n"
    assert "4 faces in 2 files" in result.stdout
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"a_density.png", "b_density.png"}
    read = json.loads(run("in/a.png", "--format", "json").stdout)["files"]
    assert read == [{"file": "in/a.png", "width": 96, "height": 64, "faces": 3}]
    assert "at least 3 corners" in run("in", "--region", "1,2 3,4", code=2).stderr
    assert "gone.jpg: no such file" in run("in", "gone.jpg", code=1).stderr
