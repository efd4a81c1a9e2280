"""Boxes read again: from each format, whatever state the files are in, and matched with the photos that they are about."""

import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces.detection.faces import Faces
from tinyfaces.jobs import formats
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile, find_inputs
from tinyfaces.jobs.known_faces import KnownFaces, KnownFacesError, KnownVideo, assign
from tinyfaces.jobs.masked_photos import masked_photo
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import anonymised, open_photo
from tinyfaces.jobs.result_files import read_box_files
from tinyfaces.parsing.texts import AnnotationError

SIZE = (613, 457)
ALL = [*formats.FORMATS]
SUFFIXES = {"jsonl": "jsonl", "csv": "csv", "cvat": "xml"}
EXACT = [name for name in ALL if name != "voc"]


@pytest.fixture
def photo(tmp_path):
    """Noise, in which each pixel that is masked can be seen."""
    path = tmp_path / "photos/more/b.png"
    path.parent.mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(values).save(path, compress_level=0)
    return path


def result_of(photo: Path, count: int = 60) -> ImageResult:
    """Faces anywhere, as exact as float32 is, some across the edges."""
    rng = np.random.default_rng(1)
    centres, halves = rng.uniform(0, 1, (count, 2)) * SIZE, rng.uniform(3, 40, (count, 2))
    boxes = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
    return ImageResult(photo, Path("more/b.png"), *SIZE, Faces(boxes, rng.uniform(0.2, 1, count).astype(np.float32)))


def written(result: ImageResult, format: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if format in formats.DOCUMENTS:
        path = folder / f"faces.{SUFFIXES.get(format, 'json')}"
        path.write_text("".join(formats.DOCUMENTS[format]([result])))
        return path
    name, text = formats.PER_IMAGE[format]
    (folder / name(result)).parent.mkdir(parents=True, exist_ok=True)
    (folder / name(result)).write_text(text(result))
    return folder


def entry_of(path: Path, photo: Path):
    file = InputFile(photo, Path("more") / photo.name)
    return assign(read_box_files(path).entries, [file]).known[file]


@pytest.mark.parametrize("format", EXACT)
@pytest.mark.parametrize("style", [MaskStyle(), MaskStyle("solid", "box", 1.3)], ids=["ellipse", "box"])
def test_boxes_written_and_read_again_mask_the_same_pixels(format, style, photo, tmp_path):
    result = result_of(photo)
    expected = anonymised(open_photo(photo), result.faces, style)
    content, record = masked_photo(
        photo, None, Masking(style=style), [entry_of(written(result, format, tmp_path / "out"), photo)]
    )
    assert content == expected
    assert record["boxes"] == result.faces.to_dict()["boxes"]
    np.testing.assert_allclose(record["scores"], 1 if format in ("cvat", "xmp") else result.faces.scores, atol=1e-6)


def test_voc_masks_its_whole_pixels(photo, tmp_path):
    result = result_of(photo)
    known = entry_of(written(result, "voc", tmp_path / "out"), photo).faces(photo, *SIZE)
    assert np.abs(np.clip(result.faces.boxes, 0, SIZE * 2) - np.clip(known.boxes, 0, SIZE * 2)).max() <= 1
    again = ImageResult(photo, Path("more/b.png"), *SIZE, known)
    assert entry_of(written(again, "voc", tmp_path / "again"), photo).faces(photo, *SIZE) == known


@pytest.mark.parametrize("format", ALL)
def test_a_photo_without_faces(format, photo, tmp_path):
    result = ImageResult(photo, Path("more/b.png"), *SIZE, Faces.empty())
    path = written(result, format, tmp_path / "out")
    if format == "csv":  # which has no line for it, unless somebody adds one
        assert read_box_files(path).entries == []
        path.write_text(path.read_text() + f"{photo},,,,,\n")
    assert len(entry_of(path, photo).faces(photo, *SIZE)) == 0


def _own(**changes) -> dict:
    record = {"file": "more/b.png", "width": 613, "height": 457, "boxes": [[1, 2, 3, 4]], "scores": [0.5]}
    return {"images": [{key: value for key, value in {**record, **changes}.items() if value is not None}]}


def test_encodings_and_compression(photo, tmp_path):
    text = json.dumps(_own())
    for number, content in enumerate([text.encode("utf-8-sig"), text.encode("utf-16"), gzip.compress(text.encode())]):
        path = tmp_path / f"{number}.json"
        path.write_bytes(content)
        assert entry_of(path, photo).faces(photo, *SIZE).boxes.tolist() == [[1, 2, 3, 4]]
    for number, encoding in enumerate(["utf-8-sig", "utf-16"]):
        path = tmp_path / f"{number}.csv"
        path.write_bytes("file;x1;y1;x2;y2;note\r\nmore/b.png;1;2;3;4;é\r\n".encode(encoding))  # as spreadsheets save it
        assert entry_of(path, photo).faces(photo, *SIZE).boxes.tolist() == [[1, 2, 3, 4]]


def test_other_programs_files(photo, tmp_path):
    """Boxes of all classes, without scores."""
    xml = "<annotation><filename>b.png</filename><object><name>plate</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax>"
    (tmp_path / "voc/more").mkdir(parents=True)
    (tmp_path / "voc/more/b.xml").write_text(xml + "<ymax>40</ymax></bndbox></object></annotation>")
    assert entry_of(tmp_path / "voc", photo).faces(photo, *SIZE).boxes.tolist() == [[10, 20, 30, 40]]
    (tmp_path / "yolo/more").mkdir(parents=True)
    (tmp_path / "yolo/classes.txt").write_text("car\nplate\n")
    (tmp_path / "yolo/more/b.txt").write_text("1 0.5 0.5 0.1 0.2\n\n0 .1 .1 .2 .1 .2 .3\n")
    boxes = entry_of(tmp_path / "yolo", photo).faces(photo, 1000, 100).boxes
    np.testing.assert_allclose(boxes, [[450, 40, 550, 60], [100, 10, 200, 30]])
    annotation = {"id": 7, "image_id": "x", "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    kinds = [{"id": 1, "name": "face"}, {"id": 2, "name": "plate"}]
    coco = {"images": [{"id": "x", "file_name": "b.png"}], "annotations": [annotation], "categories": kinds}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    known = entry_of(tmp_path / "coco.json", photo)
    assert known.scores is None and known.faces(photo, *SIZE).boxes.tolist() == [[1, 2, 4, 6]]


def test_what_labelling_tools_add(photo, tmp_path):
    """Turned boxes are covered by the upright box around them; shapes that are no boxes are a problem, not left open."""
    head = '<annotations><meta/><image id="4" name="more/b.png" width="613" height="457">'
    box = '<box label="x" xtl="100" ytl="100" xbr="120" ybr="140" rotation="90"><attribute name="a">1</attribute></box>'
    path = tmp_path / "cvat.xml"
    path.write_text(f"{head}<tag label='y'/>{box}</image></annotations>")
    np.testing.assert_allclose(entry_of(path, photo).faces(photo, *SIZE).boxes, [[90, 110, 130, 130]], atol=1e-3)
    path.write_text(f'{head}{box}<polygon points="1,2;3,4;5,6"/></image></annotations>')
    assert "has a polygon; only boxes are read" in entry_of(path, photo).problem
    path.write_text("<annotations><track id='0'/></annotations>")
    with pytest.raises(AnnotationError, match="holds tracks of a video"):
        read_box_files(path)

    def task(results, **others):
        path = tmp_path / "studio.json"
        tasks = [{"data": {"image": "/data/upload/3/1a2b3c4d-b.png"}, "predictions": [{"result": []}], **others}]
        tasks[0]["annotations"] = [{"result": []}, {"result": results}, {"result": [], "was_cancelled": True}]
        path.write_text(json.dumps(tasks), encoding="utf-8-sig")
        return entry_of(path, photo)

    size = {"original_width": 613, "original_height": 457, "type": "rectanglelabels"}
    value = {"x": 10, "y": 20, "width": 5, "height": 10, "rotation": 90}
    turned = task([{**size, "value": value}, {"type": "choices", "value": {"choices": ["good"]}}])
    x, y, width, height = 61.3, 91.4, 30.65, 45.7  # turned clockwise about its first corner
    np.testing.assert_allclose(turned.faces(photo, *SIZE).boxes, [[x - height, y, x, y + width]], atol=2e-3)
    assert "only rectangles are read" in task([{**size, "type": "polygonlabels", "value": {"points": [[1, 2]]}}]).problem
    assert "cannot be read" in task([{"type": "rectanglelabels", "value": {"x": 1}}]).problem


@pytest.mark.parametrize(
    "name,content,word",
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[3]", "no result of tinyfaces"),
        ("a.json", '[{"data": {}}]', "a task names no image"),
        ("a.json", '{"images": [3]}', "image is no object"),
        ("a.json", '{"images": [{"boxes": []}]}', "has no 'file'"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "belongs to no image"),
        ("a.jsonl", "{}\nx", "has no 'file'"),
        ("a.jsonl", '{"file": "a", "boxes": []}\nx', "line 2: not valid JSON"),
        ("a.csv", "", "its first line must name the columns"),
        ("a.csv", "file,frame,x1,y1,x2,y2\na.mp4,zero,1,2,3,4\n", "line 2"),
        ("a.json", b"\xff\x00", "not valid JSON"),
        ("a.csv", b"file,x1\n\xff", "cannot be read"),
        ("a.json", b"\x1f\x8b\x08", "cannot be read"),
        ("a.toml", "", "boxes are read from"),
    ],
)
def test_malformed_documents_are_one_line_with_the_file(name, content, word, tmp_path):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(AnnotationError, match=word) as caught:
        read_box_files(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change,word",
    [
        ({"boxes": None}, "has no boxes; for a photo"),
        ({"boxes": [[1, 2, 3]]}, "its boxes must be lists"),
        ({"boxes": [1, 2, 3, 4]}, "its boxes must be lists"),
        ({"boxes": "none"}, "its boxes must be lists"),
        ({"boxes": [[1, 2, "x", 4]]}, "its boxes must be lists"),
        ({"boxes": [[5, 2, 3, 4]]}, r"box without an area \(5 2 3 4\)"),
        ({"boxes": [[1, 2, float("nan"), 4]]}, "box without an area"),
        ({"scores": [1, 1]}, "1 boxes and 2 scores"),
        ({"scores": ["high"]}, "its scores must be numbers"),
        ({"width": "wide"}, "must be whole numbers"),
        ({"width": 640, "height": 480}, "is 613x457 pixels, but .*b.json says 640x480$"),
        ({"width": 457, "height": 613}, "as if its orientation were not applied"),
        ({"boxes": [[1300, 2, 1310, 9]]}, r"has a box outside it \(1300 2 1310 9\)"),
    ],
)
def test_a_wrong_entry_is_the_problem_of_its_photo(change, word, photo, tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(_own(**change)))
    with pytest.raises(KnownFacesError, match=word) as caught:
        entry_of(path, photo).faces(photo, *SIZE)
    assert str(caught.value).startswith(f"{photo}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name,content,word",
    [
        ("b.txt", "0 0.5 0.5\n", "line 1: expected"),
        ("b.txt", "0 50 50 10 10\n", "must be relative to the image"),
        ("b.txt", "b\n2\n1 2 3 4 0.5\n", "says that it has 2 faces, and has 1"),
        ("b.txt", "b\n1\n1 2 3 4\n", "expected 'x y width height score'"),
        ("b.xml", "<annotation>", "not valid XML"),
        ("b.xml", "<boxes/>", "neither a Pascal VOC nor"),
        ("b.xml", "<annotation><object/></annotation>", "no 'bndbox' of 4 numbers"),
    ],
)
def test_a_wrong_label_file_is_the_problem_of_its_photo(name, content, word, photo, tmp_path):
    (tmp_path / "labels/more").mkdir(parents=True)
    (tmp_path / "labels/more" / name).write_text(content)
    with pytest.raises(KnownFacesError, match=word):
        entry_of(tmp_path / "labels", photo).faces(photo, *SIZE)


ODD = [None, -1, 1e400, "x", "", [], {}, True, [[1]], [{}], "9" * 5000, 10**400]
"""What stands in places of files that people and other programs wrote."""


def _places(value, path=()):
    """The paths to all that is in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*path, key))


@pytest.mark.parametrize("format", ["json", "coco", "labelstudio", "fiftyone", "video"])
def test_whatever_stands_anywhere_is_a_line_or_boxes(format, photo, tmp_path):
    path = tmp_path / "faces.json"
    if format == "video":
        frame = {
            "frame": 0,
            "time": 0,
            "width": 9,
            "height": 9,
            "boxes": [[1, 2, 3, 4]],
            "scores": [1],
            "tracks": [1],
            "found": [True],
        }
        text = json.dumps({"file": "more/b.mp4", "width": 9, "height": 9, "frames": [frame]})
    else:
        text = "".join(formats.DOCUMENTS[format]([result_of(photo, 1)]))
    for place in _places(json.loads(text)):
        for odd in ODD:
            content = json.loads(text)
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            if place:
                inner[place[-1]] = odd
            path.write_text(json.dumps(content if place else odd))
            try:
                entries = read_box_files(path).entries
            except AnnotationError as error:
                assert "\n" not in str(error)
                continue
            for entry in entries:
                try:
                    entry.masks(photo, 0, (9, 9)) if isinstance(entry, KnownVideo) else entry.faces(photo, *SIZE)
                except KnownFacesError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize("format", ["csv", "yolo", "voc", "wider", "cvat"])
def test_whatever_is_cut_or_changed_is_a_line_or_boxes(format, photo, tmp_path):
    folder = written(result_of(photo, 2), format, tmp_path / "out")
    (path,) = [folder] if folder.is_file() else [one for one in folder.rglob("*") if one.is_file()]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        start, length = rng.integers(0, len(content)), rng.integers(0, 12)
        odd = [b"", b"\x00", b"\xff", b"nan", b"9" * 5000, b"-", b"\n", b",", b"1e999"][rng.integers(0, 9)]
        path.write_bytes(content[:start] + odd + content[start + length :])
        try:
            entries = read_box_files(path).entries
        except AnnotationError as error:
            assert "\n" not in str(error)
            continue
        for entry in entries:
            try:
                entry.faces(photo, *SIZE)
            except KnownFacesError as error:
                assert "\n" not in str(error)


def test_a_folder_of_all_kinds(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "faces.json").write_text(json.dumps({"images": [{"file": "a.jpg", "boxes": []}]}))
    (folder / "damaged.json").write_text("{")
    (folder / "faces_problems.csv").write_text("file,problem\n")
    (folder / ".hidden.json").write_text("{")
    (folder / "b.txt").write_text("")
    read = read_box_files(folder)
    assert sorted(entry.name for entry in read.entries) == ["a.jpg", "b"]
    assert len(read.problems) == 1 and "damaged.json: not valid JSON" in read.problems[0]
    (folder / "b.txt").write_text("0 .5 .5 .5 .5")
    assert read_box_files(folder).fingerprint != read.fingerprint
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="holds no files of boxes"):
        read_box_files(tmp_path / "empty")
    with pytest.raises(AnnotationError, match="no such file or folder"):
        read_box_files(tmp_path / "gone")


def _assigned(folder: Path, said: list[str], names: list[str], document: str = "faces.json", given=None):
    """What is assigned to files of these names below photos/, by name; an entry's box says which it is."""
    records = [{"file": name, "boxes": [[0, 0, number + 1, 1]]} for number, name in enumerate(said)]
    (folder / document).write_text(json.dumps({"images": records}))
    for name in names:
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / name).touch()
    files = find_inputs(given or [str(folder / "photos")], recursive=True).files
    found = assign(read_box_files(folder / document).entries, files)
    numbers = {file.name.as_posix(): int(one.boxes[0, 2]) - 1 for file, one in found.known.items()}
    return numbers, {file.name.as_posix(): line for file, line in found.problems.items()}, sum(found.unused.values())


@pytest.mark.parametrize(
    "said", [["b.jpg", "more/b.jpg"], ["old/b.jpg", "old/more/b.jpg"], ["C:\\old\\b.jpg", "C:\\old\\more\\b.jpg"]]
)
def test_entries_find_their_photos_in_another_place(said, tmp_path):
    assert _assigned(tmp_path, said, ["b.jpg", "more/b.jpg"]) == ({"b.jpg": 0, "more/b.jpg": 1}, {}, 0)


def test_the_whole_path_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = ["photos/b.jpg", str(tmp_path / "photos/more/b.jpg"), "elsewhere/b.jpg"]
    assert _assigned(tmp_path, said, ["b.jpg", "more/b.jpg"], given=["photos"]) == ({"b.jpg": 0, "more/b.jpg": 1}, {}, 1)


def test_boxes_of_photos_that_are_still_there_are_not_used_for_others(tmp_path):
    """Another camera's photos have the same names."""
    theirs = tmp_path / "camera1/b.jpg"
    theirs.parent.mkdir()
    theirs.write_bytes(b"another photo")
    numbers, problems, _ = _assigned(tmp_path, [str(theirs)], ["b.jpg"])
    assert numbers == {} and "is another file, which is still there" in problems["b.jpg"]
    theirs.write_bytes(b"")  # as large as the photo, which is a copy of it then
    assert _assigned(tmp_path, [str(theirs)], ["b.jpg"])[0] == {"b.jpg": 0}


def test_many_entries_are_matched_quickly():
    """As many comparisons as entries, not as pairs: with those, this takes a minute."""
    names = [f"{number}/0001.jpg" for number in range(5_000)]
    entries = [KnownFaces(Path("faces.json"), f"old/{name}") for name in names]
    files = [InputFile(Path("photos", name), Path(name)) for name in names]
    found = assign(entries, files)
    assert all(found.known[file].name == f"old/{file.name.as_posix()}" for file in files)


def test_no_choice_is_made_where_a_wrong_one_is_possible(tmp_path):
    numbers, problems, unused = _assigned(tmp_path, ["1/b.jpg", "2/b.jpg"], ["b.jpg"])
    assert numbers == {} and unused == 2
    assert "cannot tell which boxes are its own ('1/b.jpg' in " in problems["b.jpg"]
    (tmp_path / "other").mkdir()
    numbers, problems, unused = _assigned(tmp_path / "other", ["b.jpg"], ["1/b.jpg", "2/b.jpg"])
    assert numbers == {} and "cannot tell which of 2 files is meant by 'b.jpg' in " in problems["1/b.jpg"]
    assert set(problems) == {"1/b.jpg", "2/b.jpg"}


def test_entries_of_other_photos_fit_none(tmp_path):
    assert _assigned(tmp_path, ["x/b.jpg", "b.png", "b.jpg.jpg", "ab.jpg"], ["more/b.jpg"]) == ({}, {}, 4)


def test_accents_of_another_system(tmp_path):
    assert _assigned(tmp_path, ["e\u0301t\u00e9.jpg"], ["\u00e9te\u0301.jpg"])[0] == {"\u00e9te\u0301.jpg": 0}


@pytest.mark.parametrize("format", ALL)
def test_names_that_are_no_utf8(format, tmp_path):
    name = os.fsdecode(b"\xe9t\xe9.png")
    file = InputFile(tmp_path / name, Path(name))
    result = ImageResult(file.path, file.name, *SIZE, Faces(np.array([[1, 2, 3, 4]]), np.ones(1)))
    entries = read_box_files(written(result, format, tmp_path / "out")).entries
    assert isinstance(assign(entries, [file]).known[file], KnownFaces)


def test_label_files_of_names_that_are_cut(tmp_path):
    name = "é" * 125 + ".jpg"
    result = ImageResult(tmp_path / name, Path(name), 10, 10, Faces(np.array([[1, 2, 3, 4]]), np.ones(1)))
    label = formats.voc_name(result)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / label).write_text(formats.as_voc(result))
    file = InputFile(tmp_path / name, Path(name))
    assert assign(read_box_files(tmp_path / "labels").entries, [file]).known[file].boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("format", formats.VIDEO_DOCUMENTS)
def test_videos(format, tmp_path):
    from tinyfaces.jobs.tracking import TrackedFaces

    boxes = [np.array([[1.5, 2, 30.25, 40], [5, 6, 7, 8]], np.float32), np.empty((0, 4), np.float32), np.array([[3, 4, 5, 6]])]
    frames = [
        TrackedFaces(n / 25, Faces(one, np.full(len(one), 0.5)), np.arange(len(one)), np.arange(len(one)) == 0, one, (64, 48))
        for n, one in enumerate(boxes)
    ]
    path = tmp_path / f"clip.mp4.{format}"
    path.write_text("".join(formats.VIDEO_DOCUMENTS[format](Path("x/clip.mp4"), 64, 48, frames)))
    video = InputFile(tmp_path / "clip.mp4", Path("clip.mp4"))
    known = assign(read_box_files(path).entries, [video]).known[video]
    assert isinstance(known, KnownVideo) and known.complete == (format != "csv")
    for number, one in enumerate(boxes):
        np.testing.assert_array_equal(known.masks(video.path, number, (64, 48)), one)
    assert known.frames[0].tracks.tolist() == [0, 1] and known.frames[0].found.tolist() == [True, False]
    assert known.frames[2].time == pytest.approx(0.08)
    with pytest.raises(KnownFacesError, match=r"frame 2 is 32x48 pixels, but .* says 64x48"):
        known.masks(video.path, 2, (32, 48))
    with pytest.raises(KnownFacesError, match=r"has 2 frames, but .* lists 3"):
        known.check_end(video.path, 2)
    if format == "csv":
        assert len(known.masks(video.path, 3, (64, 48))) == 0
    else:
        with pytest.raises(KnownFacesError, match="has no entry for frame 3"):
            known.masks(video.path, 3, (64, 48))


def test_line_ends_within_names(tmp_path):
    name = "a\u2028b\x0bc\nd.jpg"
    (tmp_path / "a.csv").write_text(f'file,x1,y1,x2,y2\r\n"{name}",1,2,3,4\r\n', newline="")
    (tmp_path / "a.jsonl").write_text(json.dumps({"file": name, "boxes": []}, ensure_ascii=False) + "\r\n", newline="")
    for ending in ("csv", "jsonl"):
        assert [entry.name for entry in read_box_files(tmp_path / f"a.{ending}").entries] == [name]


def test_csv_of_a_spreadsheet_keeps_names_with_commas(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "x1", "y1", "x2", "y2", "score"), ("a, b.jpg", 1, 2, 3, 4, 0.5)])
    (entry,) = read_box_files(path).entries
    assert (entry.name, entry.boxes.tolist(), entry.scores.tolist()) == ("a, b.jpg", [[1, 2, 3, 4]], [0.5])
