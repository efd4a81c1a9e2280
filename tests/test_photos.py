"""Photos written again: nothing that the detector could not see stays, previews are no photos, odd metadata ends nothing."""

import io
import json
import random
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from conftest import paint
from test_masking import EXAMPLES, FACES, NOISE
from tinyfaces import Faces, ImageError, read_image
from tinyfaces.cli import app
from tinyfaces.jobs.depth import bits_per_value
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.metadata import kept_exif
from tinyfaces.jobs.photos import anonymised, open_photo, removed

NONE = Faces.empty()
COLOURS = NOISE[:40, :60]
SEEN = np.zeros((40, 60), np.uint8)
SEEN[:, 30:] = 255
"""The left half is transparent: there, secret colours lie that nobody sees."""


def _again(path, faces=NONE, **options):
    return Image.open(io.BytesIO(anonymised(open_photo(path), faces, MaskStyle("solid", "box"), **options)))


def _hidden(folder, name, mode):
    """A photo with secret colours under its transparent half, written so that they are in the file."""
    rgba = Image.fromarray(np.dstack([COLOURS, SEEN]))
    options = {"webp": {"lossless": True, "exact": True}}.get(name.partition(".")[2], {})
    if mode == "P":  # a palette of which half is transparent
        rgb = COLOURS // 64 * 64
        image = Image.fromarray(rgb).quantize(64)
        values = np.asarray(image) % 32
        values[:, 30:] += 32
        palette = Image.fromarray(values, "P")
        palette.putpalette(np.tile(image.getpalette()[: 3 * 32], 2).tolist())
        palette.save(folder / name, transparency=bytes([0] * 32 + [255] * 32))
    else:
        rgba.convert(mode).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(
    "name,mode",
    [
        ("a.png", "RGBA"),
        ("a.png", "LA"),
        ("a.png", "P"),
        ("a.tif", "RGBA"),
        ("a.tif", "LA"),
        ("a.webp", "RGBA"),
        ("a.tga", "RGBA"),
    ],
)
def test_colours_under_full_transparency_are_blanked(tmp_path, name, mode):
    path = _hidden(tmp_path, name, mode)
    after = _again(path)
    values = np.asarray(after.convert("RGBA"))
    assert (values[..., 3] == SEEN).all()
    assert values[:, :30, :3].max() == 0
    assert (values[:, 30:] == np.asarray(Image.open(path).convert("RGBA"))[:, 30:]).all()


def test_a_grey_that_is_told_to_be_transparent_stays_so(tmp_path):
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "a.png", transparency=7)
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png", transparency=7 * 257)
    values = np.asarray(_again(tmp_path / "a.png"))
    assert ((values[..., 1] == 0) == (NOISE[..., 0] == 7)).all() and values[..., 0][NOISE[..., 0] == 7].max() == 0
    assert _again(tmp_path / "deep.png").info["transparency"] == 7 * 257


def test_faces_too_transparent_to_be_seen_are_masked_too(tmp_path, monkeypatch):
    """With the shipped model: their colours are in the file, and a viewer's setting shows them."""
    monkeypatch.chdir(tmp_path)
    photo = _crop()
    photo.save("solid.png")
    photo.putalpha(12)
    photo.save("faint.png")
    given = ["anonymise", "solid.png", "faint.png", "--method", "solid", "--report", "r.json", "--model", "fast"]
    assert CliRunner().invoke(app, given).exit_code == 0
    solid, faint = json.loads((tmp_path / "r.json").read_text())["files"]
    assert faint["faces"] >= solid["faces"] > 5
    covered = [np.asarray(Image.open(f"anonymised/{name}.png").convert("RGB")).any(axis=2) for name in ("solid", "faint")]
    assert not (covered[1] & ~covered[0]).any(), "whatever is masked in the one is masked in the other"


def test_opaque_photos_are_looked_at_once(tmp_path):
    Image.fromarray(np.dstack([COLOURS, np.full_like(SEEN, 255)])).save(tmp_path / "a.png")
    Image.fromarray(COLOURS).save(tmp_path / "b.png")
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257).save(tmp_path / "c.png")
    for name in "abc":
        photo = open_photo(tmp_path / f"{name}.png")
        assert not photo.looks and photo.alpha is None
    _hidden(tmp_path, "d.png", "RGBA")
    assert len(open_photo(tmp_path / "d.png").looks) == 1 and open_photo(tmp_path / "d.png").alpha is None


def _crop():
    return Image.open(EXAMPLES / "solvay_1927.jpg").convert("RGB").resize((800, 579)).crop((300, 150, 600, 400))


@pytest.mark.parametrize("negative", [False, True])
def test_faces_that_the_transparency_alone_shows_are_masked_there(tmp_path, monkeypatch, negative):
    monkeypatch.chdir(tmp_path)
    grey = np.asarray(_crop().convert("L"))
    black = np.zeros_like(grey)
    Image.fromarray(np.dstack([black, black, black, grey if negative else 255 - grey])).save("a.png")
    given = ["anonymise", "a.png", "--method", "solid", "--report", "r.json", "--model", "fast"]
    assert CliRunner().invoke(app, given).exit_code == 0
    faces = json.loads((tmp_path / "r.json").read_text())["files"][0]["boxes"]
    assert len(faces) > 5
    alpha = np.asarray(Image.open("anonymised/a.png"))[..., 3]
    for x1, y1, x2, y2 in faces:
        assert (alpha[round((y1 + y2) / 2), round((x1 + x2) / 2)]) == 255
    assert (alpha == 255).mean() < 0.5


def test_faces_in_a_few_of_sixteen_bits_are_masked(tmp_path, monkeypatch):
    """A camera of 12 bits in 16 looks black, until a viewer stretches it."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.asarray(_crop().convert("L")).astype(np.uint16) * 4).save("a.png")
    given = ["anonymise", "a.png", "--method", "solid", "--report", "r.json", "--model", "fast"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["files"][0]["faces"] > 5


def _tiff(small, large, *, extra=(), name="a.tif", folder, sub=True):
    """A grey TIFF whose first directory is `small`, with `large` in a sub-directory or in the next one."""

    def directory(pixels, start, more, following=0):
        rows = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8, 259: 1, 262: 1, 277: 1, 278: pixels.shape[0]}
        size = 2 + 12 * (len(rows) + 2 + len(more)) + 4
        rows |= {273: start + size, 279: pixels.size, **dict(more)}
        body = struct.pack("<H", len(rows))
        for tag, value in sorted(rows.items()):
            body += struct.pack("<HHII", tag, 4, 1, value)
        return body + struct.pack("<I", following) + pixels.tobytes()

    first = directory(small, 8, [*extra, *([(330, 0)] if sub else [])])
    second = 8 + len(first)
    tags = [*extra, *([(330, second)] if sub else [])]
    content = b"II*\0\x08\0\0\0" + directory(small, 8, tags, 0 if sub else second) + directory(large, second, [])
    (folder / name).write_bytes(content)
    return folder / name


SMALL, LARGE = NOISE[:20, :30, 0], NOISE[:200, :300, 0]


@pytest.mark.parametrize(
    "name,extra,sub",
    [
        ("a.dng", [(254, 1)], True), ("a.nef", [(254, 1)], True), ("a.arw", [(254, 1)], True), ("a.cr2", [], False),
        ("a.pef", [], True), ("a.tif", [(254, 1)], True), ("a.tif", [(254, 1)], False), ("a.tif", [(255, 2)], False),
        ("a.tif", [], True), ("a.tif", [(50706, 0x00000401)], True),
    ],
)  # fmt: skip
def test_a_preview_is_not_the_photo(run, tmp_path, name, extra, sub):
    path = _tiff(SMALL, LARGE, extra=extra, name=name, folder=tmp_path, sub=sub)
    with Image.open(path) as image:
        assert image.size == (30, 20), "it is a preview that Pillow would give"
    with pytest.raises(ImageError, match=r"preview|reduced copy|raw file") as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert len(run("anonymise", name, code=2).stderr.splitlines()) == 1
    assert len(run("detect", name, code=2).stderr.splitlines()) == 1


def test_reduced_copies_after_the_photo_do_no_harm(tmp_path):
    path = _tiff(LARGE, SMALL, folder=tmp_path)
    assert read_image(path).shape == (200, 300, 3)
    assert _again(path).size == (300, 200)


def _deep_png(path, channels):
    import zlib

    values = np.random.default_rng(0).integers(0, 65535, (6, 5, channels), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kind = {2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", 5, 6, 16, kind, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "la.png", "a.ppm", "a.tif", "a.jp2"])
def test_more_than_8_bits_per_colour_are_refused_and_not_cut(tmp_path, name):
    path = tmp_path / name
    if name.endswith("png"):
        _deep_png(path, {"la": 2, "rgb": 3, "rgba": 4}[path.stem])
    elif name.endswith("ppm"):
        path.write_bytes(b"P6\n4 4\n65535\n" + bytes(range(96)))
    elif name.endswith("tif"):
        tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
        tifffile.imwrite(path, NOISE[:20, :20].astype(np.uint16) * 257, photometric="rgb")
    else:  # only the header is changed, as Pillow writes none
        Image.fromarray(COLOURS).save(path)
        content = bytearray(path.read_bytes())
        content[content.index(b"\xff\x4f\xff\x51") + 42] = 15
        path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match=r"16 bits per colour"):
        open_photo(path)


@pytest.mark.parametrize("flags,bits", [(0, 8), (0x40, 10), (0x60, 12)])
def test_bits_of_avif(tmp_path, flags, bits):
    Image.fromarray(COLOURS).save(tmp_path / "a.avif")
    content = bytearray((tmp_path / "a.avif").read_bytes())
    content[content.index(b"av1C") + 6] = content[content.index(b"av1C") + 6] & 0x9F | flags
    with Image.open(tmp_path / "a.avif") as image:
        assert bits_per_value(image, io.BytesIO(bytes(content))) == bits


def test_deep_tiff_written_by_hand_is_refused(tmp_path):
    values = (NOISE[:4, :5].astype("<u2") * 257).tobytes()
    rows = [(256, 3, 1, 5), (257, 3, 1, 4), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140),
            (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, len(values)), (284, 3, 1, 1)]  # fmt: skip
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows)
    content = (body + struct.pack("<I", 0)).ljust(134, b"\0") + struct.pack("<HHH", 16, 16, 16) + values
    (tmp_path / "a.tif").write_bytes(content)
    assert Image.open(tmp_path / "a.tif").mode == "RGB"
    with pytest.raises(ImageError, match=r"a\.tif: has 16 bits per colour"):
        open_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("name,options", [("a.tif", {"compression": "group4"}), ("a.tif", {}), ("a.png", {}), ("a.pbm", {})])
def test_black_and_white_stays_so(tmp_path, name, options):
    image = Image.fromarray(NOISE[:100, :80, 0]).convert("1", dither=Image.Dither.NONE)
    image.save(tmp_path / name, **options)
    after = _again(tmp_path / name, FACES)
    assert after.mode == "1" and after.info.get("compression") == Image.open(tmp_path / name).info.get("compression")
    before, values = np.asarray(image), np.asarray(after)
    assert not values[12:48, 12:38].any() and (values[:, 60:] == before[:, 60:]).all()


def test_jpeg_within_tiff_loses_next_to_nothing(tmp_path):
    gradient = np.linspace(0, 255, 96 * 80 * 3).reshape(80, 96, 3).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "a.tif", compression="jpeg", quality=90)
    after = _again(tmp_path / "a.tif", FACES)
    assert after.info["compression"] == "jpeg"
    before = np.asarray(Image.open(tmp_path / "a.tif")).astype(int)
    assert np.abs(np.asarray(after).astype(int) - before)[:, 72:].max() <= 6


def test_a_compression_that_cannot_be_written_again_gives_way_to_a_lossless_one(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "a.tif", compression="tiff_lzw")
    photo = open_photo(tmp_path / "a.tif")
    photo.save["compression"] = "group4"  # for black and white only
    after = Image.open(io.BytesIO(anonymised(photo, NONE, MaskStyle())))
    assert after.info["compression"] == "tiff_adobe_deflate" and (np.asarray(after) == COLOURS).all()


@pytest.mark.parametrize("compression", ["group3", "tiff_ccitt", "tiff_sgilog", "tiff_thunderscan", "tiff_raw_16", "webp"])
def test_compressions_of_other_modes_are_never_tried(tmp_path, monkeypatch, compression):
    """Pillow 11 and 12 end the process where libtiff cannot write a mode so."""
    Image.fromarray(COLOURS).save(tmp_path / "a.tif", compression="tiff_lzw")
    photo = open_photo(tmp_path / "a.tif")
    photo.save["compression"] = compression
    tried, save = [], Image.Image.save
    monkeypatch.setattr(
        Image.Image, "save", lambda self, file, kind, **way: tried.append(way["compression"]) or save(self, file, kind, **way)
    )
    anonymised(photo, NONE, MaskStyle())
    assert tried == ["tiff_adobe_deflate"]


SECRET = b"SECRET-COPY" * 10


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.png", "a.webp"])
def test_what_may_hold_a_copy_of_the_picture_is_never_kept(tmp_path, name):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    for tag in (0x02BC, 0x83BB, 0x8649, 0x935C, 0xC634, 0xC6D2, 0x501B, 0xC68C, 0x927C, 0xEA1C):  # XMP to padding
        exif[tag] = SECRET
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details.update({ExifTags.Base.MakerNote: SECRET, ExifTags.Base.DateTimeOriginal: "2020:01:01 10:00:00", 0xA005: 4})
    details[ExifTags.Base.UserComment] = b"x" * 5000  # too much for words
    Image.fromarray(COLOURS).save(tmp_path / name, exif=exif.tobytes())
    assert SECRET in (tmp_path / name).read_bytes()
    photo = open_photo(tmp_path / name)
    content = anonymised(photo, NONE, MaskStyle(), keep_metadata=True)
    assert SECRET not in content and b"x" * 100 not in content
    again = Image.open(io.BytesIO(content)).getexif()
    assert again[ExifTags.Base.Make] == "Camera"
    assert again.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:01 10:00:00"
    assert "EXIF tag UserComment" in removed(photo, True) and "EXIF" in removed(photo, False)


def _exif(*rows):
    """An EXIF block of (tag, type, count, value), whose types need not be those of the tags."""
    head, data = b"II*\0" + struct.pack("<IH", 8, len(rows)), b""
    for tag, kind, count, raw in rows:
        start = 8 + 2 + 12 * len(rows) + 4 + len(data)
        head += struct.pack("<HHI", tag, kind, count) + (raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", start))
        data += b"" if len(raw) <= 4 else raw
    return b"Exif\0\0" + head + struct.pack("<I", 0) + data


ODD = {
    "resolution as text": _exif((282, 2, 5, b"72/1\0"), (283, 2, 5, b"72/1\0")),
    "no resolution": _exif((282, 5, 1, struct.pack("<II", 1, 0)), (283, 5, 1, struct.pack("<II", 1, 0)), (296, 3, 1, b"\2\0")),
    "huge resolution": _exif((282, 5, 1, struct.pack("<II", 2**31, 1)), (283, 5, 1, struct.pack("<II", 2**31, 1))),
    "two resolutions": _exif((282, 5, 2, struct.pack("<IIII", 72, 1, 72, 1))),
    "maker as number": _exif((271, 3, 1, b"\7\0")),
    "orientation as text": _exif((274, 2, 2, b"1\0")),
    "orientation 9": _exif((274, 3, 1, b"\t\0")),
    "details nowhere": _exif((0x8769, 4, 1, struct.pack("<I", 2**31))),
    "places as text": _exif((0x8825, 2, 8, b"nowhere\0")),
    "thumbnail nowhere": _exif((271, 2, 2, b"a\0"))[:-4] + struct.pack("<I", 2**31),
    "a tag of an unknown type": _exif((271, 99, 1, b"\7\0")),
    "cut": _exif((282, 5, 2, struct.pack("<IIII", 72, 1, 72, 1)))[:20],
    "noise": b"Exif\0\0" + bytes(range(200)),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("keep", [[], ["--keep-metadata"]], ids=["without", "kept"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_odd_exif_ends_nothing(run, tmp_path, kind, keep, name):
    Image.fromarray(paint(64, 64, [(8, 8)])).save(name, exif=ODD[kind])
    run("anonymise", name, *keep, "--report", "r.json")
    assert Image.open(f"anonymised/{name}").size == (64, 64)
    Image.open(f"anonymised/{name}").getexif()


def test_a_tag_that_cannot_be_kept_is_told(run, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.ImageDescription] = "x" * 3000
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"x" * 3000
    Image.fromarray(paint(64, 64, [(8, 8)])).save("a.jpg", exif=exif)
    result = run("anonymise", "a.jpg", "--keep-metadata", "--report", "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["files"][0]["removed"] == ["EXIF tag UserComment"]
    assert "a.jpg: EXIF tag UserComment cannot be kept" in result.stdout
    assert Image.open("anonymised/a.jpg").getexif()[ExifTags.Base.ImageDescription] == "x" * 3000


def test_values_of_a_wrong_type_are_left_out_one_by_one():
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.XResolution], exif[ExifTags.Base.Rating] = "Camera", "72/1", object()
    block, lost = kept_exif(exif)
    again = Image.Exif()
    again.load(block)
    assert again[ExifTags.Base.Make] == "Camera" and lost == ["XResolution", "Rating"]


@pytest.mark.parametrize("pages", ["noise", "nowhere", "loop"])
def test_a_damaged_last_page_is_a_problem_of_that_file(run, tmp_path, pages):
    image = Image.fromarray(paint(64, 64, [(8, 8)]))
    image.save("two.tif", save_all=True, append_images=[image])
    content = bytearray((tmp_path / "two.tif").read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[first : first + 2])[0]
    link = first + 2 + 12 * entries
    second = struct.unpack("<I", content[link : link + 4])[0]
    if pages == "noise":
        content[second : second + 200] = bytes(range(200))
    else:
        content[link : link + 4] = struct.pack("<I", 2**31 if pages == "nowhere" else first)
    (tmp_path / "two.tif").write_bytes(bytes(content))
    image.save("good.png")
    result = run("anonymise", "two.tif", "good.png", code=0 if pages == "loop" else 1)
    if pages != "loop":  # in which there is one picture only
        assert len(result.stderr.splitlines()) == 1 and "two.tif" in result.stderr
    assert (tmp_path / "anonymised/good.png").is_file()
    run("detect", "two.tif")  # which needs the first page only


def _mutated(content: bytes, rng) -> bytes:
    """The content with a few bytes changed, cut off or put in, most of them in its headers."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(min(len(changed), rng.choice((64, 400, len(changed)))))
        kind = rng.random()
        if kind < 0.7:
            changed[place] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        elif kind < 0.85:
            changed = changed[: max(1, rng.randrange(len(changed)))]
        else:
            changed[place:place] = rng.randbytes(4)
    return bytes(changed)


def test_mutated_photos_are_written_again_or_refused_in_a_line(tmp_path):
    """Seeded, so that it is the same each time; the command line was run on many more."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (1.0, 2.0, 3.0)})
    rgb, rgba = Image.fromarray(COLOURS), Image.fromarray(np.dstack([COLOURS, SEEN]))
    seeds = {
        "a.jpg": (rgb, {"exif": exif, "dpi": (72, 72)}), "a.png": (rgba, {"exif": exif}), "a.webp": (rgba, {"exif": exif}),
        "a.tif": (rgba, {"compression": "tiff_lzw", "exif": exif}), "b.tif": (rgb, {"compression": "jpeg"}),
        "a.gif": (rgb.quantize(16), {"transparency": 3}), "a.bmp": (rgb, {}), "a.tga": (rgba, {}),
    }  # fmt: skip
    rng, written, refused = random.Random(7), 0, 0
    for name, (image, options) in seeds.items():
        image.save(tmp_path / name, **options)
        content = (tmp_path / name).read_bytes()
        for _ in range(60):
            (tmp_path / name).write_bytes(_mutated(content, rng))
            try:
                photo = open_photo(tmp_path / name)
                for keep in (False, True):
                    anonymised(photo, FACES, MaskStyle(), keep)
                    removed(photo, keep)
                written += 1
            except ImageError as error:
                assert str(tmp_path / name) in str(error) and "\n" not in str(error)
                refused += 1
    assert written > 100 and refused > 100
