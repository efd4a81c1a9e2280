"""An emoji as cover, with fonts that the tests make: coloured squares in place of faces."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyfaces
from serving import client_class
from tinyfaces.detection.images import ImageError
from tinyfaces.jobs import emoji_cover
from tinyfaces.jobs.emoji_cover import emoji_picture, is_emoji

RED = (230, 20, 40)
PHOTO = np.random.default_rng(0).integers(0, 40, (96, 128, 3)).astype(np.uint8)


@pytest.fixture
def font(tmp_path, monkeypatch) -> Path:
    """A font with a red square for 😀, and a black one for what it does not have, as the only one of this system."""
    builders = pytest.importorskip("fontTools.fontBuilder", reason="needs fontTools, which the extra test brings")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def square(side: int) -> object:
        pen = pens.TTGlyphPen(None)
        pen.moveTo((100, 0))
        for corner in ((100, side), (100 + side, side), (100 + side, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    builder = builders.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "smile", "man", "layer", "outline"])
    builder.setupCharacterMap({0x1F600: "smile", 0x1F468: "man", 0x1F30A: "outline"})
    builder.setupGlyf({".notdef": square(300), **dict.fromkeys(("smile", "man", "layer", "outline"), square(700))})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in builder.font.getGlyphOrder()})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.setupCOLR({"smile": [("layer", 0)], "man": [("layer", 1)]})
    builder.setupCPAL([[(*(side / 255 for side in RED), 1.0), (*(side / 255 for side in RED), 0.5)]])
    path = tmp_path / "emoji.ttf"
    builder.save(path)
    monkeypatch.setattr(emoji_cover, "FONTS", (str(tmp_path / "missing.ttf"), str(path)))
    return path


@pytest.mark.parametrize("text", ["😀", "❤️", "👍🏽", "👩‍🚀", "🇫🇷", "1️⃣", "‼️", "\u2139\ufe0f", "\U0001fae9"])
def test_emoji_are_told_from_names_of_files(text):
    assert is_emoji(text)


@pytest.mark.parametrize("text", ["", "smile.png", "a", "😀.png", "/😀", "1", "\ufe0f", "é", "é\u0301", "1.️", "😀" * 20])
def test_names_of_files_are_no_emoji(text):
    assert not is_emoji(text)


def test_an_emoji_is_drawn_in_its_colours(font):
    drawn = np.asarray(emoji_picture("😀"))
    assert drawn.shape[0] == drawn.shape[1] and (drawn[..., 3] == 255).all() and (drawn[..., :3] == RED).all()


def test_what_no_font_has_is_one_line(font, monkeypatch):
    with pytest.raises(ImageError, match="no colour font on this system has this emoji; install one") as missing:
        emoji_picture("🦊")
    assert "\n" not in str(missing.value)
    monkeypatch.setattr(emoji_cover, "FONTS", ())
    with pytest.raises(ImageError, match="fonts-noto-color-emoji"):
        emoji_picture("😀")


def test_what_shows_half_keeps_its_colour(font):
    drawn = np.asarray(emoji_picture("👨"))
    assert (abs(drawn[..., 3].astype(int) - 128) <= 1).all() and (abs(drawn[..., :3].astype(int) - RED) <= 2).all()


def test_an_emoji_without_colours_is_not_drawn(font):
    with pytest.raises(ImageError, match="no colour font"):
        emoji_picture("🌊")


def test_parts_that_are_not_joined_are_refused(font, monkeypatch):
    """A family is one picture, and not four in a row."""
    for raqm, why in [(True, "no colour font"), (False, "several parts, which FriBiDi joins; install it")]:
        monkeypatch.setattr(emoji_cover.features, "check", lambda name, found=raqm: found)
        with pytest.raises(ImageError, match=why):
            emoji_picture("👨\u200d😀")


def test_a_font_of_a_kind_that_cannot_be_drawn_is_named(font):
    ttfonts = pytest.importorskip("fontTools.ttLib")
    colours = pytest.importorskip("fontTools.colorLib.builder")
    kinds = pytest.importorskip("fontTools.ttLib.tables.otTables")
    solid = {"Format": kinds.PaintFormat.PaintSolid, "PaletteIndex": 0, "Alpha": 1.0}
    paint = {"Format": kinds.PaintFormat.PaintGlyph, "Paint": solid, "Glyph": "layer"}
    loaded = ttfonts.TTFont(font)
    loaded["COLR"] = colours.buildCOLR({"smile": paint}, version=1)
    loaded.save(font)
    with pytest.raises(ImageError, match=r"emoji.ttf cannot be drawn \(COLR version 1\); put a NotoColorEmoji.ttf"):
        emoji_picture("😀")


def test_the_command_and_python_cover_with_it(font, run, tmp_path):
    Image.fromarray(PHOTO).save("a.png")
    Path("boxes.csv").write_text("file,x1,y1,x2,y2\na.png,30,30,60,60\n")
    run("anonymise", "a.png", "--boxes", "boxes.csv", "--cover", "😀", "--shape", "box", "--method", "solid")
    written = np.asarray(Image.open("anonymised/a.png"))
    assert (written[30:60, 30:60] == RED).all() and (written[:20] == PHOTO[:20]).all()
    style = tinyfaces.MaskStyle("solid", "box")
    assert (np.asarray(tinyfaces.anonymise(PHOTO, [[30, 30, 60, 60]], style=style, cover="😀")) == written).all()
    output = run("anonymise", "a.png", "--boxes", "boxes.csv", "--cover", "🦊", "--out", "other", code=2).output
    assert "🦊: no colour font" in output and output.count("\n") == 1 and not Path("other").exists()


def test_a_file_of_that_name_is_a_file(font, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), (0, 0, 255)).save("blue.png")
    Path("blue.png").rename("😀")
    assert (emoji_cover_colour("😀") == (0, 0, 255)).all()


def emoji_cover_colour(name: str) -> np.ndarray:
    from tinyfaces.jobs.cover_picture import read_cover_picture

    return read_cover_picture(Path(name)).pixels


def test_the_service_takes_an_emoji(font, toy_model):
    client_type = client_class()
    from tinyfaces.service.app import create_app
    from tinyfaces.service.queue import Engine

    Image.fromarray(PHOTO).save(font.with_name("a.png"))
    photo = {"file": ("a.png", font.with_name("a.png").read_bytes(), "image/png")}
    boxes = {"boxes": "[[30, 30, 60, 60]]"}
    detector = tinyfaces.Detector(toy_model)
    with client_type(create_app({"toy": Engine(detector, detector)})) as client:
        address = "/v1/picture?output=anonymised&method=solid"
        answer = client.post(address, files=photo, data={**boxes, "cover": "😀"})
        assert answer.status_code == 200
        font.with_name("b.png").write_bytes(answer.content)
        assert (np.asarray(Image.open(font.with_name("b.png")))[40:50, 40:50] == RED).all()
        for cover, why in [("🦊", "no colour font"), ("smile.png", "must be a file or an emoji")]:
            refused = client.post(address, files=photo, data={**boxes, "cover": cover})
            assert refused.status_code == 422 and why in refused.json()["detail"]
        twice = client.post(address, files={**photo, "cover": photo["file"]}, data={**boxes, "cover": "😀"})
        assert twice.status_code == 422
