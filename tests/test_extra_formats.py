"""HEIC as phones write it, and JPEG XL: read, written again without what else is in the file; a missing plugin is named."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from test_masking import EXAMPLES, FACES, NOISE
from tinyfaces import Faces, ImageError, read_image
from tinyfaces.cli import app
from tinyfaces.detection.extra_formats import HEIF, JPEG_XL, PLUGINS, plugin_for
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import anonymised, open_photo, removed

SECRET = b"SECRET-COPY" * 20
ALPHA, DEPTH = b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:hevc:2015:auxid:2"
GAIN_MAP = b"urn:com:phone:aux:gainmap1"  # phones' own names are longer, and the lengths of boxes would have to change
BESIDE = (b"Exif", b"mime", b"thmb", b"cdsc", b"auxl", b"auxC")
"""Types of items, references and properties by which a HEIF file holds metadata, thumbnails and further pictures."""


def _needs(plugin):
    return pytest.mark.skipif(not plugin.load(), reason=f"{plugin.package} is not installed")


def _photo(width=160, height=120):
    return Image.open(EXAMPLES / "solvay_1927.jpg").convert("RGB").resize((width, height))


def _as_phones_write_it(path, kind=DEPTH, orientation=1):
    """A HEIC file with EXIF (place, camera, maker's notes), XMP, a thumbnail and a depth map or gain map."""
    photo = _photo()
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Phone", orientation
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = SECRET
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))  # whose name is changed, as the plugin writes no depth maps
    content = io.BytesIO()
    photo.save(content, "HEIF", exif=exif.tobytes(), xmp=b"<x:xmpmeta>" + SECRET, thumbnails=[64], quality=95)
    path.write_bytes(content.getvalue().replace(ALPHA, kind))
    return path


def _beside(content):
    """Which of `BESIDE` a HEIF file has in its directory."""
    directory = content[content.index(b"meta") : content.index(b"mdat")]
    return {kind for kind in BESIDE if kind in directory}


@_needs(HEIF)
@pytest.mark.parametrize("kind, called", [(DEPTH, "depth map"), (GAIN_MAP, "auxiliary picture")])
def test_nothing_of_a_phone_s_photo_survives_but_its_pixels(tmp_path, kind, called):
    path = _as_phones_write_it(tmp_path / "a.heic", kind)
    assert _beside(path.read_bytes()) == set(BESIDE) and SECRET in path.read_bytes()
    photo = open_photo(path)
    assert set(removed(photo, False)) == {"EXIF", "GPS", "XMP", "thumbnail", called}
    content = anonymised(photo, FACES, MaskStyle("solid", "box"))
    assert _beside(content) == set() and SECRET[:11] not in content
    (tmp_path / "b.heic").write_bytes(content)
    after, before = read_image(tmp_path / "b.heic").astype(int), read_image(path).astype(int)
    assert content[8:12] == b"heic" and after.shape == before.shape == (120, 160, 3)
    assert after[16:44, 16:36].max() < 12, "the face is black"
    assert np.abs(after - before)[:, 80:].mean() < 2, "the rest is as it was"


@_needs(HEIF)
def test_what_is_kept_on_request(tmp_path):
    photo = open_photo(_as_phones_write_it(tmp_path / "a.heic"))
    content = anonymised(photo, FACES, MaskStyle(), keep_metadata=True)
    assert _beside(content) == {b"Exif", b"cdsc"} and SECRET[:11] not in content
    exif = Image.open(io.BytesIO(content)).getexif()
    assert exif[ExifTags.Base.Make] == "Phone" and exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


@_needs(HEIF)
def test_a_heic_photo_is_upright(tmp_path):
    path = _as_phones_write_it(tmp_path / "a.heic", orientation=6)
    upright = np.rot90(np.asarray(_photo()), -1)
    assert np.abs(read_image(path).astype(int) - upright).mean() < 3
    (tmp_path / "b.heic").write_bytes(anonymised(open_photo(path), Faces.empty(), MaskStyle()))
    assert np.abs(read_image(tmp_path / "b.heic").astype(int) - upright).mean() < 3


@_needs(HEIF)
def test_colours_of_a_heic_photo_are_labelled_as_before(tmp_path):
    import pillow_heif

    wide = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6, "full_range_flag": 1}
    heif = pillow_heif.from_pillow(_photo())
    heif.save(tmp_path / "a.heic", nclx_profile=wide, chroma=444)
    again = Image.open(io.BytesIO(anonymised(open_photo(tmp_path / "a.heic"), FACES, MaskStyle())))
    assert again.info["nclx_profile"]["color_primaries"] == 12 and again.info["chroma"] == 444


@_needs(HEIF)
def test_heic_with_more_than_8_bits_or_several_pictures_is_refused(tmp_path):
    import pillow_heif

    deep = NOISE[:64, :64].astype(np.uint16) * 257
    pillow_heif.encode("RGB;16", (64, 64), deep.tobytes(), tmp_path / "deep.hif")
    with pytest.raises(ImageError, match=r"deep\.hif: has 10 bits per colour"):
        open_photo(tmp_path / "deep.hif")
    assert read_image(tmp_path / "deep.hif").shape == (64, 64, 3)
    _photo().save(tmp_path / "two.heic", "HEIF", save_all=True, append_images=[_photo().rotate(180)])
    with pytest.raises(ImageError, match=r"two\.heic: has 2 pictures"):
        open_photo(tmp_path / "two.heic")


@_needs(HEIF)
def test_the_command_masks_heic_and_leaves_broken_files_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    crop = Image.open(EXAMPLES / "solvay_1927.jpg").convert("RGB").resize((800, 579)).crop((300, 150, 600, 400))
    crop.save("in/group.HEIC", "HEIF", quality=95)
    content = (tmp_path / "in/group.HEIC").read_bytes()
    (tmp_path / "in/cut.heic").write_bytes(content[: len(content) // 2])
    (tmp_path / "in/odd.heif").write_bytes(content[:40] + bytes(2000))
    given = ["anonymise", "in", "--method", "solid", "--report", "r.json", "--model", "fast"]
    done = CliRunner().invoke(app, given)
    report = json.loads((tmp_path / "r.json").read_text())
    assert done.exit_code == 1 and [file["output"] for file in report["files"]] == ["anonymised/group.HEIC"]
    assert report["files"][0]["faces"] > 5
    assert [problem["file"] for problem in report["problems"]] == ["in/cut.heic", "in/odd.heif"]
    assert report["problems"][1]["problem"] == "in/odd.heif: damaged, though it begins as HEIC and HEIF images do"
    masked = read_image(tmp_path / "anonymised/group.HEIC")
    for x1, y1, x2, y2 in report["files"][0]["boxes"]:
        assert masked[round((y1 + y2) / 2), round((x1 + x2) / 2)].max() < 20


@_needs(HEIF)
def test_the_service_takes_heic(tmp_path):
    fastapi = pytest.importorskip("fastapi")
    from tinyfaces.service.limits import Limits
    from tinyfaces.service.uploads import Upload, decode, open_picture

    path = _as_phones_write_it(tmp_path / "a.heic", orientation=6)
    image = open_picture(Upload("a.heic", path.read_bytes(), {}), Limits())
    assert image.format == "HEIF" and (decode(image) == read_image(path)).all()
    with pytest.raises(fastapi.HTTPException, match="megapixels"):
        open_picture(Upload("a.heic", path.read_bytes(), {}), Limits(megapixels=0.001))


@pytest.mark.parametrize(
    "content, plugin",
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf", HEIF),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", HEIF),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", None),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf", None),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", None),
        (b"\xff\x0a\x10\x10", JPEG_XL),
        (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"", None),
    ],
)
def test_formats_are_known_by_their_first_bytes(content, plugin):
    file = io.BytesIO(content + b"\0" * 100)
    assert plugin_for(file) is plugin and file.tell() == 0


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.extra)
def test_a_missing_plugin_is_one_line_that_says_what_to_install(tmp_path, monkeypatch, toy_model, plugin):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)  # then importing it fails
    contents = {"heif": b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100), "jxl": b"\xff\x0a" + bytes(100)}
    path = tmp_path / f"a.{plugin.extra}"
    path.write_bytes(contents[plugin.extra])
    with pytest.raises(ImageError, match=rf"need {plugin.package}: pip install 'tinyfaces\[{plugin.extra}\]'") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    told = CliRunner().invoke(app, ["detect", str(path), "--model", str(toy_model)])
    assert told.exit_code == 2 and len(told.stderr.splitlines()) == 1
    if plugin is HEIF:
        fastapi = pytest.importorskip("fastapi")
        from tinyfaces.service.limits import Limits
        from tinyfaces.service.uploads import Upload, open_picture

        with pytest.raises(fastapi.HTTPException, match="pillow-heif on the server"):
            open_picture(Upload("a.heic", contents["heif"], {}), Limits())


@_needs(JPEG_XL)
@pytest.mark.parametrize("within", ["jxl", "jpeg"])
def test_jpeg_xl(tmp_path, within):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Phone"
    if within == "jpeg":  # packed without loss; its own orientation counts
        _photo().save(tmp_path / "a.jpg", quality=95, exif=exif.tobytes())
        Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jxl", lossless_jpeg=True)
        expected = np.rot90(np.asarray(_photo()), -1)
    else:  # what the decoder gives is upright, whatever EXIF says
        _photo().save(tmp_path / "a.jxl", quality=95, exif=exif.tobytes(), xmp=SECRET)
        expected = np.asarray(_photo())
    assert np.abs(read_image(tmp_path / "a.jxl").astype(int) - expected).mean() < 4
    photo = open_photo(tmp_path / "a.jxl")
    assert "EXIF" in removed(photo, False)
    content = anonymised(photo, FACES, MaskStyle("solid", "box"))
    assert b"Exif" not in content and SECRET[:11] not in content
    again = read_image(Image.open(io.BytesIO(content)))
    assert again[16:44, 16:36].max() < 20 and np.abs(again.astype(int) - expected)[:, 80:].mean() < 5
