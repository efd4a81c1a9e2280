"""Covered faces, and photos written again: what is gone, what stays."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from tinyfaces import Faces, ImageError
from tinyfaces.cli import app
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces
from tinyfaces.jobs.photos import anonymised, open_photo, removed

EXAMPLES = Path(__file__).parents[1] / "examples"
NOISE = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)


def _mask(values, boxes, style, step=1, blank=0.0):
    covered = values.copy()
    channels = covered[..., None] if covered.ndim == 2 else covered
    planes = [Plane(channels[..., n], step, step, blank) for n in range(channels.shape[2])]
    mask_faces(planes, np.array(boxes, np.float32), style)
    return covered


@pytest.mark.parametrize("method", ["blur", "pixelate", "solid"])
@pytest.mark.parametrize("side", [8, 40, 300])
def test_the_larger_the_face_the_stronger(method, side):
    """Whatever its size, no more than 5x5 values of the face remain, and none where 4 pixels or less would make one."""
    box = [100, 50, 100 + side, 50 + side]
    covered = _mask(NOISE, [box], MaskStyle(method, "box"))[box[1] : box[3], box[0] : box[2], 0].astype(float)
    rank = np.linalg.matrix_rank(covered, tol=0.6 * side)
    assert rank <= min(5, -(-side * 1.45 // 4))
    # what is left of noise of standard deviation 73 is that of its averages
    assert covered.std() < 74 / max(4, side * 1.2 / 5) * 2
    if method == "solid":
        assert covered.max() == 0


def test_an_ellipse_holds_the_whole_box_and_leaves_the_corners_of_its_own():
    box = [200, 150, 260, 230]
    covered = _mask(NOISE, [box], MaskStyle("solid"))
    assert covered[150:230, 200:260].max() == 0
    changed = (covered != NOISE).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    width, height = 60 * 1.45 + 4, 80 * 1.45 + 4
    assert abs(len(columns) - width) <= 3 and abs(len(rows) - height) <= 3
    assert changed.sum() == pytest.approx(np.pi / 4 * width * height, rel=0.06)
    assert (covered[rows[0], columns[0]] == NOISE[rows[0], columns[0]]).all()


def test_faces_at_and_beyond_the_border():
    covered = _mask(NOISE, [[-30, -20, 10, 10], [480, 380, 540, 460], [900, 900, 950, 950]], MaskStyle("solid", "box"))
    assert covered[:10, :10].max() == 0 and covered[380:, 480:].max() == 0
    assert (covered[100:300, 100:400] == NOISE[100:300, 100:400]).all()


def test_halved_colour_and_deep_values():
    plane = np.random.default_rng(1).integers(0, 1023, (50, 60), np.uint16)
    covered = _mask(plane, [[40, 40, 60, 60]], MaskStyle("solid", "box"), step=2, blank=512)
    assert (covered[20:30, 20:30] == 512).all() and covered.dtype == np.uint16
    assert (covered[:10] == plane[:10]).all()


@pytest.mark.parametrize(("method", "shape", "digest"), [
    ("blur", "ellipse", "ae3a3d95cfb26e3b"), ("blur", "box", "c0fca159184bc9db"), ("solid", "ellipse", "63be53eb7b191b30"),
])  # fmt: skip
def test_masks_of_a_video_frame_stay_as_they_are_to_the_last_bit(method, shape, digest):
    """Digests of what masks were before they were made faster; boxes overlap, and reach beyond the picture."""
    rng = np.random.default_rng(3)
    planes = [Plane(rng.integers(0, 256, (181 // step, 321 // step), np.uint8), step, step, blank)
              for step, blank in ((1, 16), (2, 128), (2, 128))]  # fmt: skip
    centres, sides = rng.uniform(-10, 330, (60, 2)), rng.uniform(3, 70, (60, 2))
    mask_faces(planes, np.concatenate([centres - sides / 2, centres + sides / 2], 1).astype(np.float32), MaskStyle(method, shape))
    assert hashlib.sha256(b"".join(plane.values.tobytes() for plane in planes)).hexdigest()[:16] == digest


@pytest.mark.parametrize("wrong", [{"method": "smear"}, {"shape": "star"}, {"enlarge": 0.5}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskStyle(**wrong)


FACES = Faces(np.array([[10, 10, 40, 50]], np.float32), np.array([0.9], np.float32))
SECRET = b"SECRET-PLACE"


def _photo(tmp_path, name, mode="RGB", **options):
    gradient = np.linspace(0, 255, 96 * 80 * 4).reshape(80, 96, 4).astype(np.uint8)[..., : 3 if mode == "P" else 4]
    image = (
        Image.fromarray(gradient).convert(mode) if mode != "I;16" else Image.fromarray(gradient[..., 0].astype(np.uint16) * 257)
    )
    image.save(tmp_path / name, **options)
    return tmp_path / name


def _with_everything(tmp_path):
    """A JPEG with EXIF, GPS, thumbnail, maker's note, XMP and comment, all of which tell on someone."""
    import struct

    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 10, 10)).save(thumbnail, "JPEG")
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "a garden"
    # What programs for photos put there too: copies of XMP and IPTC, and Photoshop's preview.
    for tag in (ExifTags.Base.XMLPacket, ExifTags.Base.IPTCNAA, ExifTags.Base.ImageResources):
        exif[tag] = SECRET
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.MakerNote: SECRET, ExifTags.Base.DateTimeOriginal: "2020:01:01 10:00:00"}
    )
    block = exif.tobytes()
    # Pillow writes no thumbnail: a second directory with one is put behind the first by hand.
    tiff = bytearray(block[6:])
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack(order + "I", tiff[4:8])
    (entries,) = struct.unpack(order + "H", tiff[first : first + 2])
    link = first + 2 + 12 * entries
    tiff[link : link + 4] = struct.pack(order + "I", len(tiff))
    data = len(tiff) + 2 + 12 * 2 + 4
    for_thumbnail = struct.pack(order + "H", 2)
    for_thumbnail += struct.pack(order + "HHII", ExifTags.Base.JpegIFOffset, 4, 1, data)
    for_thumbnail += struct.pack(order + "HHII", ExifTags.Base.JpegIFByteCount, 4, 1, len(thumbnail.getvalue()))
    tiff += for_thumbnail + struct.pack(order + "I", 0) + thumbnail.getvalue()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
    path = _photo(tmp_path, "all.jpg", quality=80, exif=block[:6] + bytes(tiff), xmp=xmp, comment=SECRET)
    return path, thumbnail.getvalue()


def test_metadata_goes(tmp_path):
    path, thumbnail = _with_everything(tmp_path)
    assert SECRET in path.read_bytes() and thumbnail in path.read_bytes()
    photo = open_photo(path)
    assert photo.pixels.shape == (96, 80, 3)  # turned upright
    content = anonymised(photo, FACES, MaskStyle())
    assert SECRET not in content and thumbnail not in content and b"Exif" not in content
    again = Image.open(io.BytesIO(content))
    assert not len(again.getexif()) and again.size == (80, 96)
    assert set(removed(photo, False)) == {"EXIF", "GPS", "thumbnail", "XMP", "comment"}


def test_metadata_kept_on_request_but_never_another_picture_of_the_face(tmp_path):
    path, thumbnail = _with_everything(tmp_path)
    photo = open_photo(path)
    content = anonymised(photo, FACES, MaskStyle(), keep_metadata=True)
    exif = Image.open(io.BytesIO(content)).getexif()
    assert exif[ExifTags.Base.Make] == "Camera" and exif[ExifTags.Base.ImageDescription] == "a garden"
    assert not {ExifTags.Base.XMLPacket, ExifTags.Base.IPTCNAA, ExifTags.Base.ImageResources} & set(exif)
    assert SECRET not in content
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48.0, 51.0, 30.0)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2020:01:01 10:00:00" and ExifTags.Base.MakerNote not in details
    assert exif.get(ExifTags.Base.Orientation, 1) == 1 and thumbnail not in content and b"xmpmeta" not in content
    assert set(removed(photo, True)) == {"thumbnail", "XMP", "comment"}


@pytest.mark.parametrize(
    "name,mode,options",
    [
        ("a.png", "RGBA", {}), ("a.png", "LA", {}), ("a.png", "I;16", {}), ("a.png", "P", {}), ("a.jpg", "CMYK", {}),
        ("a.jpg", "L", {}), ("a.webp", "RGB", {"lossless": True}),
        ("a.tif", "RGB", {"compression": "tiff_lzw"}), ("a.bmp", "RGB", {}),
    ],
)  # fmt: skip
def test_kinds_and_modes_stay_and_so_does_what_is_not_covered(tmp_path, name, mode, options):
    path = _photo(tmp_path, name, mode, **options)
    content = anonymised(open_photo(path), FACES, MaskStyle("solid", "box"))
    before, after = Image.open(path), Image.open(io.BytesIO(content))
    assert after.format == before.format and after.size == before.size
    if mode == "P":
        before = before.convert("RGB")
    assert after.mode == before.mode
    before, after = np.asarray(before).astype(int), np.asarray(after).astype(int)
    assert np.abs(before - after)[:, 70:].max() <= (6 if name.endswith("jpg") else 0)
    inside = after[12:48, 12:38]
    assert (
        inside[..., :3] if mode not in ("LA", "CMYK") else inside[..., -1:] - 255 if mode == "CMYK" else inside[..., :1]
    ).max() <= 6
    if mode in ("RGBA", "LA"):
        assert (before[..., -1] == after[..., -1]).all()


def test_documents_of_several_pages_are_refused(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"a\.tif: has 3 pictures"):
        open_photo(tmp_path / "a.tif")


def test_every_known_face_of_the_example_is_covered_by_the_command(tmp_path, monkeypatch):
    """With the shipped model: the 29 faces of the public-domain photo, reduced so that they are 20-30 px high."""
    known = json.loads((EXAMPLES / "solvay_1927.json").read_text())["boxes"]
    monkeypatch.chdir(tmp_path)
    photo = Image.open(EXAMPLES / "solvay_1927.jpg").convert("RGB").resize((800, 579))
    photo.save("a.png")
    result = CliRunner().invoke(app, ["anonymise", "a.png", "--method", "solid", "--report", "r.json", "--model", "fast"])
    assert result.exit_code == 0, result.output
    covered = np.asarray(Image.open("anonymised/a.png"))
    for x1, y1, x2, y2 in np.array(known) / 2:
        # the middle of the face, which any box that finds it holds
        width, height = (x2 - x1) / 4, (y2 - y1) / 4
        inside = covered[round(y1 + height) : round(y2 - height), round(x1 + width) : round(x2 - width)]
        assert inside.max() == 0
    changed = (covered != np.asarray(photo)).any(axis=2).mean()
    assert 0.02 < changed < 0.25
    report = json.loads(Path("r.json").read_text())
    assert report["settings"]["method"] == "solid" and report["files"][0]["output"] == "anonymised/a.png"
    assert report["files"][0]["faces"] == len(report["files"][0]["boxes"]) >= 29
