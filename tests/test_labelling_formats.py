"""XMP face regions and the documents of CVAT, Label Studio and FiftyOne, against what their documentation says."""

import json
import math
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import paint
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import ImageError
from tinyfaces.jobs import formats
from tinyfaces.jobs.face_regions import NAMESPACES
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.jpeg_copies import jpeg_with_regions

RDF, RS = f"{{{NAMESPACES['rdf']}}}", f"{{{NAMESPACES['mwg-rs']}}}"
AREA, DIM = f"{{{NAMESPACES['stArea']}}}", f"{{{NAMESPACES['stDim']}}}"


def results() -> list[ImageResult]:
    faces = Faces(np.array([[10, 20, 30, 60.125], [100, 5, 120, 25]]), np.array([0.75, 0.5]))
    one = ImageResult(Path("in/a & b/é 1.jpg"), Path("a & b/é 1.jpg"), 200, 160, faces)
    return [one, ImageResult(Path("in/none.png"), Path("none.png"), 64, 48, Faces.empty())]


def regions_of(packet: str) -> tuple[tuple[int, int], list[tuple[float, float, float, float]]]:
    """Size and regions (x, y, width, height) of a packet, by the specification's schema."""
    root = ElementTree.fromstring(packet)
    descriptions = [*root.iter(f"{RDF}Description")]
    assert len({description.get(f"{RDF}about") for description in descriptions}) == 1
    (regions,) = [regions for description in descriptions for regions in description.findall(f"{RS}Regions")]
    size = regions.find(f"{RS}AppliedToDimensions")
    assert size is not None and size.get(f"{DIM}unit") == "pixel"
    areas = []
    for item in regions.findall(f"{RS}RegionList/{RDF}Bag/{RDF}li"):
        assert item.findtext(f"{RS}Type") == "Face"
        (area,) = item.findall(f"{RS}Area")
        assert area.get(f"{AREA}unit") == "normalized"
        areas.append(tuple(float(area.get(f"{AREA}{side}", "nan")) for side in ("x", "y", "w", "h")))
    return (int(size.get(f"{DIM}w", "")), int(size.get(f"{DIM}h", ""))), areas


def test_xmp():
    size, areas = regions_of(formats.as_xmp(results()[0]))
    assert size == (200, 160)
    np.testing.assert_allclose(areas, [[0.1, 40.0625 / 160, 0.1, 40.125 / 160], [0.55, 15 / 160, 0.1, 0.125]], atol=1e-9)
    assert regions_of(formats.as_xmp(results()[1])) == ((64, 48), [])
    assert formats.xmp_name(results()[0]) == Path("a & b/é 1.jpg.xmp")


def test_xmp_is_read_by_pillow(tmp_path):
    pytest.importorskip("defusedxml")
    path = tmp_path / "a.jpg"
    Image.new("RGB", (200, 160)).save(path, xmp=formats.as_xmp(results()[0]).encode())
    with Image.open(path) as image:
        _, description = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert [one["Type"] for one in description["Regions"]["RegionList"]["Bag"]["li"]] == ["Face", "Face"]
    assert description["Regions"]["AppliedToDimensions"] == {"w": "200", "h": "160", "unit": "pixel"}


@pytest.mark.parametrize("turned", range(1, 9))
def test_regions_are_those_of_the_photo_as_stored(turned, tmp_path):
    """A white face that is stored anywhere is where the region says, whatever the orientation."""
    stored = np.zeros((40, 60), np.uint8)
    stored[4:12, 30:36] = 255
    path = tmp_path / "a.png"
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = turned
    image.save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = np.nonzero(upright)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    result = ImageResult(path, Path("a.png"), upright.shape[1], upright.shape[0], Faces(np.array([box]), np.ones(1)))
    packet = formats.as_xmp(result)
    size, ((x, y, width, height),) = regions_of(packet)
    assert size == (60, 40) and f"tiff:Orientation='{turned}'" in packet
    np.testing.assert_allclose([x, y, width, height], [33 / 60, 8 / 40, 6 / 60, 8 / 40], atol=1e-9)


def test_another_programs_sidecar_stays(run, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    run("detect", "a.png", "--format", "xmp", "--out", ".")
    run("detect", "a.png", "--format", "xmp", "--out", ".")
    theirs = (tmp_path / "a.png.xmp").read_text().replace("x:xmptk='tinyfaces'", "x:xmptk='XMP Core 6.0.0'")
    (tmp_path / "a.png.xmp").write_text(theirs)
    output = run("detect", "a.png", "--format", "xmp", "--out", ".", code=2).output
    assert "a.png.xmp: is another program's sidecar, which is not written over" in output
    assert (tmp_path / "a.png.xmp").read_text() == theirs


OTHER_XMP = """<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about='uuid:1'
xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='4'/></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"""


@pytest.mark.parametrize("other", ["", OTHER_XMP], ids=["none", "some"])
def test_copies_hold_regions_and_all_they_held_before(other, run, tmp_path):
    picture = Image.fromarray(paint(61, 97, [(8, 8)]))
    exif = picture.getexif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif, xmp=other.encode(), comment=b"hello", dpi=(72, 72))
    run("detect", "a.jpg", "--format", "xmp", "--copies", "--out", "out", "--scale", "1")
    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "out/a.jpg") as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert (after.info["comment"], after.info["dpi"]) == (b"hello", (72, 72)) and after.getexif() == before.getexif()
        packet = after.info["xmp"].decode()
    assert ("xmp:Rating='4'" in packet) == bool(other) and packet.rstrip().endswith("<?xpacket end='w'?>")
    size, ((x, y, width, height),) = regions_of(packet)
    assert size == (97, 61)
    np.testing.assert_allclose([x, y, width, height], [12 / 97, 12 / 61, 8 / 97, 8 / 61], atol=0.005)
    again = run("detect", "out/a.jpg", "--format", "xmp", "--copies", "--out", "again", code=2).output
    assert "out/a.jpg: has face regions already, which are not written over" in again


def test_what_cannot_be_copied(run, tmp_path):
    Image.fromarray(paint(64, 64, [(0, 0)])).save(tmp_path / "a.png")
    output = run("detect", "a.png", "--format", "xmp", "--copies", "--out", "out", code=2).output
    assert "a.png: is no JPEG file; only copies of those can hold face regions" in output
    assert "--copies goes with --format xmp" in run("detect", "a.png", "--copies", "--format", "voc", code=2).output
    many = ImageResult(tmp_path / "a.jpg", Path("a.jpg"), 64, 64, Faces(np.tile([0, 0, 9, 9], (900, 1)), np.ones(900)))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="its 900 faces do not fit"):
        jpeg_with_regions((tmp_path / "a.jpg").read_bytes(), many)
    for content, word in ((b"\xff\xd8\xff\xd9", "has no picture"), (b"\xff\xd8abcdef", "damaged before its picture")):
        with pytest.raises(ImageError, match=word):
            jpeg_with_regions(content, many)


def test_cvat():
    """https://docs.cvat.ai/docs/manual/advanced/xml_format/: the part for images."""
    root = ElementTree.fromstring("".join(formats.DOCUMENTS["cvat"](results())).encode())
    assert (root.tag, root.findtext("version"), root.findtext("meta/task/labels/label/name")) == ("annotations", "1.1", "face")
    first, second = root.findall("image")
    assert first.attrib == {"id": "0", "name": "a & b/é 1.jpg", "width": "200", "height": "160"}
    assert [one.get("label") for one in first] == ["face", "face"] and len(second) == 0
    corners = [[float(one.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr")] for one in first]
    assert corners == [[10, 20, 30, 60.125], [100, 5, 120, 25]]
    assert {one.get("source") for one in first} == {"auto"} and {one.get("occluded") for one in first} == {"0"}


def test_names_that_xml_cannot_hold():
    odd = ImageResult(Path("a\x01\ud800<.jpg"), Path("a\x01\ud800<.jpg"), 9, 9, Faces.empty())
    (image,) = ElementTree.fromstring("".join(formats.DOCUMENTS["cvat"]([odd])).encode()).findall("image")
    assert image.get("name") == ElementTree.fromstring(formats.as_voc(odd)).findtext("filename") == "a??<.jpg"


def test_label_studio():
    """https://labelstud.io/guide/predictions: percent of the image, in predictions of a task."""
    first, second = json.loads("".join(formats.DOCUMENTS["labelstudio"](results())))
    address = urlsplit(first["data"]["image"])
    assert address.path == "/data/local-files/" and parse_qs(address.query) == {"d": ["a & b/é 1.jpg"]}
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "tinyfaces" and prediction["score"] == 0.5
    for region, (x1, y1, x2, y2), score in zip(prediction["result"], results()[0].faces.boxes.tolist(), [0.75, 0.5], strict=True):
        assert (region["type"], region["from_name"], region["to_name"]) == ("rectanglelabels", "label", "image")
        assert (region["original_width"], region["original_height"], region["image_rotation"]) == (200, 160, 0)
        assert region["score"] == score
        value = region["value"]
        assert value["rectanglelabels"] == ["face"] and value["rotation"] == 0
        shares = [value[side] for side in ("x", "y", "width", "height")]
        expected = [x1 / 2, y1 / 1.6, (x2 - x1) / 2, (y2 - y1) / 1.6]
        assert all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(shares, expected, strict=True))
    assert len({region["id"] for region in prediction["result"]}) == 2
    assert second["predictions"] == [{"model_version": "tinyfaces", "result": []}]


def test_fiftyone():
    """https://docs.voxel51.com: the labels.json of FiftyOneImageDetectionDataset."""
    content = json.loads("".join(formats.DOCUMENTS["fiftyone"](results())))
    assert content["classes"] == ["face"]
    assert set(content["labels"]) == {"a & b/é 1", "none"} and content["labels"]["none"] == []
    first, second = content["labels"]["a & b/é 1"]
    np.testing.assert_allclose(first["bounding_box"], [0.05, 0.125, 0.1, 40.125 / 160])
    assert (second["label"], second["confidence"]) == ("face", 0.5)
