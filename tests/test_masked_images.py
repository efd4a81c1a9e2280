"""The public `tinyfaces.anonymise`: the same pixels as the command, from whatever an image may be."""

import io

import numpy as np
import pytest
from PIL import Image

import tinyfaces
from conftest import paint
from tinyfaces import CoverThreshold, Detector, Faces, MaskStyle, Selection
from tinyfaces.jobs import masked_images
from tinyfaces.jobs.masking import Plane, mask_faces

SMALL = [(16, 24), (80, 40)]
PHOTO = paint(96, 128, small=SMALL)
BOXES = np.array([[16, 24, 24, 32], [80, 40, 88, 48]], np.float32)


def masked_by_hand(pixels, boxes, style):
    values = pixels.copy()
    mask_faces([Plane(values[..., n], 1, 1, 0) for n in range(3)], np.asarray(boxes, np.float32), style)
    return values


@pytest.fixture(scope="module")
def detector(toy_model):
    return Detector(toy_model, threshold=0.9)


def test_any_image_gives_the_pixels_of_the_command(run, detector, tmp_path):
    Image.fromarray(PHOTO).save("a.png")
    run("anonymise", "a.png", "--quiet")
    expected = np.asarray(Image.open("anonymised/a.png"))
    assert (expected != PHOTO).any()
    content = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file, Image.open("a.png") as opened:
        for image in ("a.png", tmp_path / "a.png", content, memoryview(content), file, io.BytesIO(content), opened, PHOTO):
            masked = tinyfaces.anonymise(image, detector=detector)
            assert masked.mode == "RGB" and (np.asarray(masked) == expected).all(), type(image)


def test_given_faces_are_masked_exactly_and_nothing_is_detected(monkeypatch):
    monkeypatch.setattr(masked_images, "Detector", None)
    style = MaskStyle("pixelate", "box", 1.2, strength=2)
    before = PHOTO.copy()
    for faces in (Faces(BOXES[:1], np.array([0.1])), BOXES[:1], BOXES[:1].tolist()):
        masked = np.asarray(tinyfaces.anonymise(before, faces, style=style))
        assert (masked == masked_by_hand(PHOTO, BOXES[:1], style)).all()
    assert (before == PHOTO).all()
    assert (np.asarray(tinyfaces.anonymise(PHOTO, [])) == PHOTO).all()


def test_threshold_selection_and_cover(detector):
    solid = MaskStyle("solid", "box", 1.0)
    chosen = Selection(only_regions=[[(0, 0), (64, 0), (64, 96), (0, 96)]])
    masked = tinyfaces.anonymise(PHOTO, detector=detector, selection=chosen, style=solid)
    assert (np.asarray(masked) == masked_by_hand(PHOTO, BOXES[:1], solid)).all()
    for threshold in (1.0, CoverThreshold(((16.0, 1.0), (400.0, 0.1)))):
        assert (np.asarray(tinyfaces.anonymise(PHOTO, detector=detector, threshold=threshold)) == PHOTO).all()
    yellow = Image.new("RGB", (20, 20), (200, 180, 0))
    covered = np.asarray(tinyfaces.anonymise(PHOTO, BOXES, style=solid, cover=yellow))
    assert (covered[26:30, 18:22] == (200, 180, 0)).all() and (covered[42:46, 82:86] == (200, 180, 0)).all()


def test_the_result_is_upright_and_without_metadata(detector):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    content = io.BytesIO()
    stored = Image.fromarray(np.rot90(PHOTO))  # which the orientation turns back
    stored.save(content, "PNG", exif=exif, icc_profile=b"profile", dpi=(72, 72))
    masked = tinyfaces.anonymise(content, detector=detector)
    assert (np.asarray(masked) == np.asarray(tinyfaces.anonymise(PHOTO, detector=detector))).all()
    assert set(masked.info) == {"icc_profile", "dpi"} and not dict(masked.getexif())
    again = io.BytesIO()
    masked.save(again, "PNG")
    assert Image.open(again).info["icc_profile"] == b"profile" and b"camera" not in again.getvalue()


@pytest.mark.parametrize(
    "mode, expected",
    [("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGBA", "RGBA"), ("CMYK", "CMYK"), ("1", "1"), ("I;16", "I;16"), ("YCbCr", "RGB")],
)
def test_modes(mode, expected):
    grey = Image.fromarray(np.full((96, 128), 200, np.uint8))
    image = Image.fromarray(np.full((96, 128), 51400, np.uint16)) if mode == "I;16" else grey.convert(mode)
    masked = tinyfaces.anonymise(image, BOXES, style=MaskStyle("solid", "box", 1.0))
    assert masked.mode == expected and masked.size == image.size
    values = tinyfaces.read_image(masked)
    assert values[26:30, 18:22].max() == 0 and (values[60:] == tinyfaces.read_image(image)[60:]).all()


class RedOnly:
    """Finds one box around all that is purely red."""

    def detect(self, look, *, threshold):
        rows, columns = np.nonzero((look == (255, 0, 0)).all(axis=2))
        if not len(rows):
            return Faces.empty()
        return Faces([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], [0.9])


def test_faces_that_only_the_colours_under_transparency_show():
    """They are nearly transparent: on white, nothing of them is purely red."""
    faint = np.dstack([paint(96, 128, small=SMALL[:1]), np.full((96, 128), 10, np.uint8)])
    assert not len(RedOnly().detect(tinyfaces.read_image(faint), threshold=0.1))
    masked = np.asarray(tinyfaces.anonymise(faint, detector=RedOnly(), style=MaskStyle("solid")))
    assert masked.shape == (96, 128, 4) and faint[..., 0].max() == 255 and masked[..., :3].max() == 0
    faint[..., 3] = 0
    assert np.asarray(tinyfaces.anonymise(faint, [])).max() == 0


def test_the_default_detector_is_opened_once(monkeypatch, toy_model):
    opened = []
    monkeypatch.setattr(masked_images, "Detector", lambda: opened.append(1) or Detector(toy_model))
    masked_images._shared_detector.cache_clear()
    try:
        first, second = (np.asarray(tinyfaces.anonymise(PHOTO)) for _ in range(2))
    finally:
        masked_images._shared_detector.cache_clear()
    assert len(opened) == 1 and (first == second).all() and (first != PHOTO).any()


def test_what_cannot_be_done_is_one_line(detector, tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    for image, words in ((tmp_path / "a.txt", "a.txt: not an image"), (b"", "empty"), (PHOTO / 255, "uint8")):
        with pytest.raises(tinyfaces.ImageError, match=words):
            tinyfaces.anonymise(image, BOXES)
    with pytest.raises(tinyfaces.ImageError, match="not an image"):
        tinyfaces.anonymise(PHOTO, BOXES, cover=tmp_path / "a.txt")
    with pytest.raises(TypeError, match="Received: int"):
        tinyfaces.anonymise(7, BOXES)
    for options in ({"detector": detector}, {"threshold": 0.5}, {"selection": Selection(min_height=9)}):
        with pytest.raises(ValueError, match="do not go with them"):
            tinyfaces.anonymise(PHOTO, BOXES, **options)
    with pytest.raises(ValueError, match="boxes must be"):
        tinyfaces.anonymise(PHOTO, [[1, 2, 3, 4, 5]])
    for box in ([1, 2, float("nan"), 4], [1, 2, 1, 4], [9, 2, 3, 4], [1, 2, float("inf"), 4]):
        for faces in ([box], Faces(np.array([box], np.float32), np.ones(1, np.float32))):
            with pytest.raises(ValueError, match="a box without an area"):
                tinyfaces.anonymise(PHOTO, faces)
    with pytest.raises(ValueError, match=r"a box outside the image of \d+x\d+ pixels \(5000 5000 6000 6000\)"):
        tinyfaces.anonymise(PHOTO, [[5000, 5000, 6000, 6000]])
    with pytest.raises(TypeError, match=r"a MaskStyle\. Received: str"):
        tinyfaces.anonymise(PHOTO, BOXES, style="solid")
    with pytest.raises(ValueError, match="Received: both"):
        tinyfaces.anonymise(PHOTO, BOXES, method="solid", style=MaskStyle())
    with pytest.raises(ValueError, match="unknown method 'smear'"):
        tinyfaces.anonymise(PHOTO, BOXES, method="smear")
    by_method, by_style = (
        tinyfaces.anonymise(PHOTO, BOXES, **how) for how in ({"method": "solid"}, {"style": MaskStyle("solid")})
    )
    assert by_method.tobytes() == by_style.tobytes() != tinyfaces.anonymise(PHOTO, BOXES).tobytes()
    with pytest.raises(ValueError, match="no tracks"):
        tinyfaces.anonymise(PHOTO, detector=detector, selection=Selection(only_tracks=[1]))
    with pytest.raises(ValueError, match="threshold must be within 0-1"):
        tinyfaces.anonymise(PHOTO, detector=detector, threshold=2)
