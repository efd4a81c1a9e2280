"""XMP face regions read: what this program writes, and the forms in which photo libraries write them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import open_image
from tinyfaces.jobs import face_regions, region_files
from tinyfaces.jobs.face_regions import as_xmp, stored_area, upright_area, xmp_name
from tinyfaces.jobs.image_results import ImageResult
from tinyfaces.jobs.result_files import read_box_files

BOXES = np.array([[3.25, 10, 20.125, 31], [50, 5.5, 61, 18]], np.float32)
UPRIGHT = (80, 60)


def photo(path: Path, turned: int) -> Path:
    size = UPRIGHT[::-1] if turned >= 5 else UPRIGHT
    exif = Image.Exif()
    exif[0x0112] = turned
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 80, 70)).save(path, exif=exif)
    return path


def other(regions: str, head: str = "", applied: str = "stDim:w='80' stDim:h='60' stDim:unit='pixel'") -> str:
    """A sidecar as another program writes it."""
    return f"""<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<rdf:Description rdf:about='' xmlns:mwg-rs='http://www.metadataworkinggroup.com/schemas/regions/'
 xmlns:stArea='http://ns.adobe.com/xmp/sType/Area#' xmlns:stDim='http://ns.adobe.com/xap/1.0/sType/Dimensions#'
 xmlns:tiff='http://ns.adobe.com/tiff/1.0/' {head}><mwg-rs:Regions rdf:parseType='Resource'>
<mwg-rs:AppliedToDimensions {applied}/><mwg-rs:RegionList><rdf:Bag>{regions}</rdf:Bag></mwg-rs:RegionList>
</mwg-rs:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"""


AREA = "<mwg-rs:Area stArea:x='.5' stArea:y='.5' stArea:w='.25' stArea:h='.5' stArea:unit='normalized'/>"
FACE = f"<rdf:li rdf:parseType='Resource'>{AREA}<mwg-rs:Type>Face</mwg-rs:Type></rdf:li>"


@pytest.mark.parametrize("turned", range(1, 9))
def test_areas_are_turned_back(turned):
    box = [3.0, 10.0, 20.0, 31.0]
    back = upright_area(*stored_area(box, *UPRIGHT, turned), turned)
    assert np.array(back) * [80, 60, 80, 60] == pytest.approx(box)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("beside", [True, False])
def test_own_sidecars(tmp_path, turned, beside):
    path = photo(tmp_path / "photos/a.jpg", turned)
    result = ImageResult(path, Path("a.jpg"), *UPRIGHT, Faces(BOXES, np.ones(2, np.float32)))
    folder = path.parent if beside else tmp_path
    (folder / xmp_name(result)).write_text(as_xmp(result))
    (entry,) = read_box_files(folder / "a.jpg.xmp").entries
    assert entry.name == "a.jpg" and entry.size == UPRIGHT
    assert (entry.faces(path, *UPRIGHT).boxes == BOXES).all()


@pytest.mark.parametrize(
    "region",
    [
        FACE,
        f"<rdf:li><rdf:Description mwg-rs:Name='A' mwg-rs:Type='Face'>{AREA}</rdf:Description></rdf:li>",
        "<rdf:li rdf:parseType='Resource'><mwg-rs:Type>Face</mwg-rs:Type><mwg-rs:Area rdf:parseType='Resource'>"
        "<stArea:x>.5</stArea:x><stArea:y>.5</stArea:y><stArea:w>.25</stArea:w><stArea:h>.5</stArea:h></mwg-rs:Area></rdf:li>",
        FACE.replace("'.5' stArea:y='.5' stArea:w='.25' stArea:h='.5'", "'40' stArea:y='30' stArea:w='20' stArea:h='30'").replace(
            "normalized", "pixel"
        ),
    ],
)
def test_regions_of_others(tmp_path, region):
    pet = FACE.replace("Face", "Pet").replace("'.5'", "'.1'")
    (tmp_path / "a.xmp").write_text(other(pet + region, "tiff:Orientation='6'"))
    (entry,) = read_box_files(tmp_path).entries
    assert entry.name == "a" and entry.label_suffix == ".xmp" and entry.size == (60, 80)
    assert entry.faces(Path("a.jpg"), 60, 80).boxes.tolist() == [[15, 30, 45, 50]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (other(FACE), "does not say how its photo is turned"),
        (other(FACE.replace("stArea:w='.25'", ""), "tiff:Orientation='1'"), "only rectangles are read"),
        (other(FACE.replace("normalized", "pixel"), "tiff:Orientation='1'", ""), "in pixels, and does not say the size"),
        ("<x/>", "does not say how"),
        ("<x", "not valid XML"),
    ],
)
def test_what_is_wrong_is_the_photos_problem(tmp_path, text, why):
    (tmp_path / "a.xmp").write_text(text)
    (entry,) = read_box_files(tmp_path).entries
    assert why in entry.problem and "a.xmp" in entry.problem


def test_the_photo_beside_it_says_how_it_is_turned(tmp_path):
    photo(tmp_path / "a.jpg", 3)
    (tmp_path / "a.xmp").write_text(other(FACE.replace("x='.5'", "x='.25'"), "tiff:Orientation='1'"))
    (entry,) = read_box_files(tmp_path / "a.xmp").entries
    assert entry.faces(tmp_path / "a.jpg", *UPRIGHT).boxes.tolist() == [[50, 15, 70, 45]]


def test_copies_with_regions_are_covered_and_converted(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 30, (64, 96, 3), np.uint8)
    Path("photos").mkdir()
    for name, squares in (("a.jpg", [(8, 8), (40, 40)]), ("none.jpg", [])):
        Image.fromarray(np.maximum(paint(64, 96, squares), noise)).save(Path("photos", name), quality=100, subsampling=0)
    options = ("photos", "--threshold", "0.3", "--scale", "1")
    run("detect", *options, "--format", "xmp", "--copies", "--out", "copies")
    run("detect", *options, "--format", "json", "--out", "found.json")
    by_copies = run_alone(run, "anonymise", "photos", "--boxes", "copies", "--out", "one")
    run_alone(run, "anonymise", "photos", "--boxes", "found.json", "--out", "two")
    assert "2 faces masked in 2 files" in by_copies
    for name in ("a.jpg", "none.jpg"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    from typer.testing import CliRunner

    from tinyfaces.cli import app

    assert CliRunner().invoke(app, ["convert", "copies", "--out", "again.json"]).exit_code == 0
    again, found = (json.loads(Path(file).read_text())["images"] for file in ("again.json", "found.json"))
    assert [one["boxes"] for one in again] == [one["boxes"] for one in found]


def run_alone(run, *arguments: str) -> str:
    return run(*arguments).output


def test_photos_beside_other_files_of_boxes_are_no_boxes(tmp_path):
    path = photo(tmp_path / "a.jpg", 1)
    Image.open(path).save(path, xmp=other(FACE).encode())
    assert len(read_box_files(tmp_path).entries) == 1
    (tmp_path / "b.txt").write_text("0 .5 .5 .1 .1\n")
    assert [entry.source.name for entry in read_box_files(tmp_path).entries] == ["b.txt"]


def test_each_photo_with_regions_is_opened_once(tmp_path, monkeypatch):
    opened = []
    for module in (region_files, face_regions):
        monkeypatch.setattr(module, "open_image", lambda path: (opened.append(path.name), open_image(path))[1])
    for name in ("a.jpg", "b.jpg"):
        path = photo(tmp_path / name, 6)
        Image.open(path).save(path, xmp=other(FACE).encode(), exif=Image.open(path).getexif())
    photo(tmp_path / "none.jpg", 1)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    read = read_box_files(tmp_path)
    assert [entry.name for entry in read.entries] == [file.name for file in read.files] == ["a.jpg", "b.jpg"]
    assert sorted(opened) == ["a.jpg", "b.jpg", "broken.jpg", "none.jpg"]
    opened.clear()
    assert read_box_files(tmp_path / "a.jpg").entries[0].size == (60, 80) and opened == ["a.jpg"]
    opened.clear()
    as_xmp(ImageResult(tmp_path / "a.jpg", Path("a.jpg"), 60, 80, Faces.empty()))
    assert opened == ["a.jpg"]


def test_each_file_is_read_once(tmp_path, monkeypatch):
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path.name), read_bytes(path))[1])
    (tmp_path / "b.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "a.json").write_text('{"images": []}')
    (tmp_path / "c.xmp").write_text(other(FACE, "tiff:Orientation='1'"))
    first = read_box_files(tmp_path).fingerprint
    assert sorted(reads) == ["a.json", "b.txt", "c.xmp"]
    (tmp_path / "b.txt").write_text("0 .5 .5 .1 .2\n")
    assert read_box_files(tmp_path).fingerprint != first
