"""The service's answers, without a network: what is found, what is refused, how requests share the detector."""

import asyncio
import io
import json
import re
import struct
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
from conftest import corners, paint
from serving import client_class
from test_raw_photos import dng
from tinyfaces import Detector, Faces
from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.restoring import Restorer
from tinyfaces.detection.runtime import RuntimeOptions
from tinyfaces.jobs.masking import METHODS
from tinyfaces.service.app import create_app
from tinyfaces.service.limits import Limits
from tinyfaces.service.memory import Budget
from tinyfaces.service.queue import BATCH_IMAGES, DetectionQueue, Engine, QueueFull
from tinyfaces.service.routes import PAGE
from tinyfaces.weights import second_stage

TestClient = client_class()
EXAMPLE = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"
SMALL, LARGE = [(8, 8), (40, 40)], [(64, 0)]


def png(pixels: np.ndarray, **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    return content.getvalue()


def form(content: bytes, name="a.png") -> dict:
    return {"file": (name, content, "image/png")}


PHOTO = png(paint(64, 96, SMALL, LARGE))


@pytest.fixture(scope="module")
def toy(toy_model):
    return Detector(toy_model)


@contextmanager
def serving(detector, **limits):
    with TestClient(create_app({"toy": Engine(detector, detector)}, Limits(**limits))) as client:
        yield client


@pytest.fixture(scope="module")
def client(toy):
    with serving(toy, megabytes=4, megapixels=2) as client:
        yield client


def boxes_of(answer) -> set:
    return {tuple(round(side) for side in box) for box in answer.json()["boxes"]}


def test_a_form_and_plain_bytes_give_the_same_faces(client, toy):
    answer = client.post("/v1/detect", files=form(PHOTO))
    assert answer.status_code == 200
    assert boxes_of(answer) == corners(SMALL, LARGE)
    told = answer.json()
    assert told == {
        "file": "a.png", "width": 96, "height": 64, "model": "toy", "threshold": toy.threshold,
        **toy.detect(paint(64, 96, SMALL, LARGE)).to_dict(), "left_clear": {},
    }  # fmt: skip
    for kind in ("image/png", "application/octet-stream", "image/jpeg; charset=binary"):
        plain = client.post("/v1/detect", content=PHOTO, headers={"Content-Type": kind})
        assert plain.json() == {**told, "file": ""}


def test_options_are_the_detectors(client):
    assert boxes_of(client.post("/v1/detect?threshold=1", files=form(PHOTO))) == set()
    assert boxes_of(client.post("/v1/detect?max_height=8.5", files=form(PHOTO))) == corners(SMALL)
    assert boxes_of(client.post("/v1/detect?min_height=8.5", files=form(PHOTO))) == corners(large=LARGE)
    half = png(np.asarray(Image.fromarray(paint(64, 96, SMALL)).resize((48, 32), Image.Resampling.BOX)))
    assert boxes_of(client.post("/v1/detect", files=form(half))) == set()
    assert boxes_of(client.post("/v1/detect?scale=2", files=form(half))) != set()


@pytest.mark.parametrize(
    "query,word",
    [
        ("threshold=2", "threshold"), ("threshold=nan", "threshold"), ("scale=0", "scale"), ("scale=big", "scale"),
        ("output=gif", "output"), ("model=none", "choose from toy"), ("min_height=-1", "min_height"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_in_a_line(client, query, word):
    answer = client.post(f"/v1/detect?{query}", files=form(PHOTO))
    assert answer.status_code == 422
    assert word in answer.json()["detail"] and "\n" not in answer.json()["detail"]


def test_raw_files_of_cameras_are_refused_in_a_line(client):
    """Whatever they are called: the library that reads them is not exposed to the network."""
    for name in ("a.dng", "a.tif", "a.jpg"):
        for content in (dng(png(paint(64, 96))), b"\0\0\0\x18ftypcrx " + bytes(64), b"FUJIFILMCCD-RAW" + bytes(64)):
            answer = client.post("/v1/detect", files=form(content, name))
            assert answer.status_code == 415
            assert answer.json()["detail"] == "raw files of cameras are not read here: send a JPEG of it"


def test_the_picture_is_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = client.post("/v1/detect", files=form(png(paint(64, 96, [(8, 16)]), exif=exif)))
    assert (answer.json()["width"], answer.json()["height"]) == (64, 96)
    assert boxes_of(answer) == {(64 - 24, 8, 64 - 16, 16)}


def test_the_annotated_picture_is_that_of_draw(client, toy):
    answer = client.post("/v1/detect?output=annotated", files=form(PHOTO, "tr\u00e4um x.png"))
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-faces"] == "3"
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''tr%C3%A4um%20x_annotated.png"
    pixels = paint(64, 96, SMALL, LARGE)
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == np.asarray(toy.detect(pixels).draw(pixels))).all()


def test_known_boxes_are_drawn_without_detection(client):
    boxes = [[1, 2, 11, 12], [20.5, 20, 30, 33]]
    answer = client.post("/v1/picture", files=form(PHOTO), data={"boxes": json.dumps(boxes)})
    expected = Faces(np.array(boxes, np.float32), np.ones(2, np.float32)).draw(paint(64, 96, SMALL, LARGE))
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == np.asarray(expected)).all()
    nothing = client.post("/v1/picture", files=form(PHOTO), data={"boxes": "[]"})
    assert (np.asarray(Image.open(io.BytesIO(nothing.content))) == paint(64, 96, SMALL, LARGE)).all()


def test_an_answer_can_be_sent_back_as_boxes(client):
    """Round trip: detect, take a face away, cover the rest."""
    answer = client.post("/v1/detect?threshold=0.2", files=form(PHOTO)).json()
    whole = client.post("/v1/picture?output=anonymised", files=form(PHOTO), data={"boxes": json.dumps(answer)})
    direct = client.post("/v1/detect?output=anonymised", files=form(PHOTO))
    assert whole.content == direct.content and whole.headers["x-faces"] == "3"
    answer["boxes"] = answer["boxes"][1:]
    edited = client.post("/v1/picture?output=anonymised", files=form(PHOTO), data={"boxes": json.dumps(answer)})
    assert edited.headers["x-faces"] == "2" and edited.content != whole.content
    for wrong, word in (({"width": 95}, "for a picture of 95x64; it is 96x64"), ({"boxes": 3}, "field 'boxes' must be")):
        refused = client.post("/v1/picture", files=form(PHOTO), data={"boxes": json.dumps({**answer, **wrong})})
        assert refused.status_code == 422 and word in refused.json()["detail"]


def test_boxes_are_added_to_what_is_found(client):
    data = {"also_boxes": "[[70, 40, 80, 50]]"}
    answer = client.post("/v1/detect", files=form(PHOTO), data=data)
    assert boxes_of(answer) == corners(SMALL, LARGE) | {(70, 40, 80, 50)} and answer.json()["scores"][-1] == 1
    noise = np.maximum(np.random.default_rng(0).integers(1, 40, (64, 96, 3), np.uint8), paint(64, 96, SMALL, LARGE))
    covered = []
    for fields, count in ((None, "3"), (data, "4")):
        answer = client.post("/v1/detect?output=anonymised&method=solid", files=form(png(noise)), data=fields)
        assert answer.headers["x-faces"] == count
        covered.append((np.asarray(Image.open(io.BytesIO(answer.content))) == 0).all(axis=2))
    assert not covered[0][40:50, 70:80].all() and covered[1][40:50, 70:80].all()
    refused = client.post("/v1/detect", files=form(PHOTO), data={"also_boxes": "[[1, 2, 3]]"})
    assert refused.status_code == 422 and "field 'also_boxes' must be" in refused.json()["detail"]


def test_boxes_beyond_the_picture_are_cut_and_too_many_large_ones_refused(client):
    for output in ("annotated", "anonymised"):
        boxes = json.dumps([[-1e30, -5, 1e30, 20]])
        answer = client.post(f"/v1/picture?output={output}", files=form(PHOTO), data={"boxes": boxes})
        assert answer.status_code == 200 and answer.headers["x-faces"] == "1"
        many = json.dumps([[0, 0, 1e9, 1e9]] * 20_000)
        refused = client.post(f"/v1/picture?output={output}", files=form(PHOTO), data={"boxes": many})
        assert refused.status_code == 422 and "times" in refused.json()["detail"]
        more = json.dumps([[0, 0, 1, 1]] * 20_001)
        assert client.post(f"/v1/picture?output={output}", files=form(PHOTO), data={"boxes": more}).status_code == 422


@pytest.mark.parametrize("box", [[200, 5, 300, 9], [96, 5, 99, 9], [-9, 5, 0, 9], [5, 64, 9, 70], [5, -9, 9, 0]])
def test_boxes_outside_the_picture_are_refused(toy, box):
    with TestClient(
        create_app({"toy": Engine(toy, toy)}, restore=lambda pixels, boxes: np.zeros((1, 64, 64, 3), np.uint8))
    ) as client:
        for address, name in (("picture", "boxes"), ("picture?output=anonymised", "boxes"), ("restore", "boxes"),
                              ("detect", "also_boxes"), ("detect?output=anonymised", "also_boxes")):  # fmt: skip
            answer = client.post(f"/v1/{address}", files=form(PHOTO), data={name: json.dumps([[1, 2, 9, 12], box])})
            said = f"the picture is 96x64 pixels, but '{name}' has a box outside it ({' '.join(map(str, box))})"
            assert (answer.status_code, answer.json()["detail"]) == (422, said)
            inside = client.post(f"/v1/{address}", files=form(PHOTO), data={name: "[[95, 63, 999, 999]]"})
            assert inside.status_code == 200


def test_anonymised_pictures_are_covered_and_nowhere_else(client):
    noise = np.random.default_rng(0).integers(0, 60, (64, 96, 3)).astype(np.uint8)
    noise[8:16, 8:16, 0] += 190
    for method in METHODS:
        answer = client.post(f"/v1/detect?output=anonymised&method={method}", files=form(png(noise)))
        assert answer.headers["x-faces"] == "1"
        covered = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (covered[8:16, 8:16] != noise[8:16, 8:16]).any(axis=-1).mean() > 0.95
        assert (covered[32:] == noise[32:]).all() and (covered[:, 32:] == noise[:, 32:]).all()
        boxes = json.dumps([[8, 8, 16, 16]])
        known = client.post(f"/v1/picture?output=anonymised&method={method}", files=form(png(noise)), data={"boxes": boxes})
        assert known.content == answer.content
    assert not covered[8:16, 8:16].any()


def test_anonymised_pictures_keep_no_metadata(client):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    content = io.BytesIO()
    Image.fromarray(paint(64, 96, SMALL)).save(content, "JPEG", exif=exif, comment=b"a comment")
    picture = Image.open(io.BytesIO(client.post("/v1/detect?output=anonymised", files=form(content.getvalue())).content))
    assert picture.format == "JPEG" and not len(picture.getexif()) and "comment" not in picture.info


def test_anonymising_takes_lower_scores():
    asked = []

    class Noting:
        threshold = 0.5

        def detect(self, images, *, threshold, scale):
            asked.append(threshold)
            return [Faces.empty() for _ in images]

    with serving(Noting()) as client:
        for output in ("json", "annotated", "anonymised", "anonymised&threshold=0.7"):
            client.post(f"/v1/detect?output={output}", files=form(PHOTO))
    assert asked == [0.5, 0.5, 0.15, 0.7]


@pytest.mark.parametrize(
    "boxes",
    ["", "7", "{}x", "[[1, 2, 3]]", "[[1, 2, 1, 4]]", "[[1, 2, 1e400, 4]]", '["a"]', "[" * 100_000, f"[[0,0,1,{'9' * 999}]]"],
)
def test_wrong_boxes(client, boxes):
    answer = client.post("/v1/picture", files=form(PHOTO), data={"boxes": boxes})
    assert answer.status_code == 422 and "box" in answer.json()["detail"]


def test_the_shipped_model_finds_what_it_finds_in_python():
    detector = Detector()
    with TestClient(create_app({"accurate": Engine(detector, Detector(threads=1))})) as client:
        answer = client.post("/v1/detect", files={"file": (EXAMPLE.name, EXAMPLE.read_bytes())})
        assert answer.json()["boxes"] == detector.detect(EXAMPLE).to_dict()["boxes"]
        known_faces = np.array(json.loads(EXAMPLE.with_suffix(".json").read_text())["boxes"], np.float32)
        overlap = iou_matrix(np.array(answer.json()["boxes"], np.float32), known_faces)
        assert (overlap.max(axis=0) >= 0.5).all() and (overlap.max(axis=1) < 0.5).sum() <= 1
        known = client.get("/v1/models").json()
    assert known["default"] == "accurate" and known["models"][0]["ap"]["all"] > 0.5


def test_restored_faces_come_one_below_the_other(toy):
    def restore(pixels, boxes):
        return np.stack([np.full((64, 64, 3), pixels[int(y1), int(x1)], np.uint8) for x1, y1, _, _ in boxes.tolist()])

    photo = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    with TestClient(create_app({"toy": Engine(toy, toy)}, restore=restore)) as client:
        assert client.get("/v1/models").json()["restores"] is True
        answer = client.post("/v1/restore", files=form(png(photo)), data={"boxes": "[[3, 5, 9, 9], [30, 20, 40, 30.5]]"})
        assert "/v1/restore" in client.get("/openapi.json").json()["paths"]
    strip = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert strip.shape == (128, 64, 3)
    assert (strip[:64] == photo[5, 3]).all() and (strip[64:] == photo[20, 30]).all()


def test_restored_faces_are_those_of_the_library(toy):
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB").resize((560, 405)))
    detector = Detector()
    faces = detector.detect(photo)[:5]
    restore = Restorer(second_stage(), RuntimeOptions(threads=1)).restore_faces
    with TestClient(create_app({"toy": Engine(toy, toy)}, restore=restore)) as client:
        boxes = json.dumps(faces.boxes.tolist())
        answer = client.post("/v1/restore", files=form(png(photo)), data={"boxes": boxes})
        x1, y1, x2, y2 = faces.boxes[0].tolist()
        left, top = int(x1) - 40, int(y1) - 40  # as the page does it: the surroundings alone
        part = photo[top : int(y2) + 40, left : int(x2) + 40]
        box = json.dumps([[x1 - left, y1 - top, x2 - left, y2 - top]])
        alone = client.post("/v1/restore", files=form(png(part)), data={"boxes": box})
    strip = np.asarray(Image.open(io.BytesIO(answer.content))).reshape(5, 64, 64, 3)
    assert (strip == detector.restore(photo, faces)).all()
    assert np.abs(np.asarray(Image.open(io.BytesIO(alone.content))).astype(int) - strip[0]).max() <= 2


def test_without_a_second_stage_nothing_is_restored(client):
    assert client.get("/v1/models").json()["restores"] is False
    assert client.post("/v1/restore", files=form(PHOTO), data={"boxes": "[[0, 0, 8, 8]]"}).status_code == 404


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of a few kilobytes that claims as many grey pixels as one likes, and has them if `rows` are not fewer."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(b"\0" * (width + 1)) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG of one pixel with a comment that unpacks to 200 MB."""
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 200_000_000, 1))
    small = png(paint(1, 1))
    return small[:33] + comment + small[33:]


HOSTILE = {
    "text": (lambda: b"hello, I am no picture", 415, "not a picture"),
    "page": (lambda: b"<html><script>alert(1)</script></html>", 415, "not a picture"),
    "vector": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a picture"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", 415, "not a picture"),
    "cut header": (lambda: PHOTO[:20], 422, "damaged"),
    "cut": (lambda: PHOTO[: len(PHOTO) // 2], 422, "damaged or cut short"),
    "cut jpeg": (lambda: EXAMPLE.read_bytes()[:100_000], 422, "damaged or cut short"),
    "garbled": (lambda: PHOTO[:60] + bytes(200) + PHOTO[260:], 422, "damaged"),
    "20 MP": (lambda: png_of_zeros(4_000, 5_000), 413, "4000x5000: more than 2 megapixels"),
    "200 MP": (lambda: png_of_zeros(20_000, 10_000, rows=1), 413, "more than 2 megapixels"),
    "4 GP": (lambda: png_of_zeros(2**16, 2**16, rows=1), 413, "megapixels"),
    "text bomb": (text_bomb, 422, "damaged"),
    "empty": (lambda: b"", 400, "empty"),
    "large": (lambda: PHOTO + bytes(4_000_000), 413, "larger than 4 MB"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_the_service_goes_on(client, kind):
    make, status, words = HOSTILE[kind]
    answer = client.post("/v1/detect", files=form(make()))
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert "\n" not in answer.json()["detail"]
    assert boxes_of(client.post("/v1/detect", files=form(PHOTO))) == corners(SMALL, LARGE)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\a.png", "/a.png", "a/b.png", "..", "a\x07.png", "n" * 300])
def test_names_that_are_paths_are_refused(client, name):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
    header = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/detect", content=body % (name.replace("\\", "\\\\").encode(), PHOTO), headers=header)
    assert answer.status_code == 400 and answer.json()["detail"]
    assert client.post("/v1/detect", content=body % (b"a.png", PHOTO), headers=header).status_code == 200


def test_broken_forms(client):
    header = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"", b"nonsense", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n'):
        assert client.post("/v1/detect", content=body, headers=header).status_code == 400
    assert client.post("/v1/detect", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400
    assert client.post("/v1/detect", files={"picture": ("a.png", PHOTO)}).status_code == 400
    assert client.post("/v1/detect", files=[("file", ("a.png", PHOTO)), ("file", ("b.png", PHOTO))]).status_code == 400
    assert client.post("/v1/detect", content=b"{}", headers={"Content-Type": "application/json"}).status_code == 415
    assert client.get("/v1/detect").status_code == 405


def test_an_upload_without_a_length_is_cut_off_at_the_limit(client):
    sent = []

    def endless():
        while True:
            sent.append(100_000)
            yield bytes(100_000)

    async def call():
        answers = []

        async def receive():
            return {"type": "http.request", "body": next(parts), "more_body": True}

        async def send(message):
            answers.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"",
            "root_path": "", "scheme": "http", "headers": [(b"content-type", b"image/png")], "http_version": "1.1",
        }  # fmt: skip
        parts = endless()
        await client.app(scope, receive, send)
        return answers[0]["status"]

    assert client.portal.call(call) == 413
    assert sum(sent) <= 4_200_000


def test_nothing_goes_to_disk(client, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a file was about to be made")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    for opener in ("NamedTemporaryFile", "TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, opener, refuse)
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1200, 3)).astype(np.uint8)
    content = png(noise)
    assert len(content) > 3_000_000
    assert client.post("/v1/detect", files=form(content)).status_code == 200


def test_the_limit_is_for_the_enlargement_that_was_asked(toy):
    picture = form(png(paint(100, 100)))
    with serving(toy, megabytes=4, megapixels=0.015) as client:
        assert client.post("/v1/detect", files=picture).status_code == 200
        assert client.post("/v1/detect?scale=auto", files=picture).status_code == 413


def test_too_large_once_scaled(client):
    answer = client.post("/v1/detect?scale=16", files=form(png(paint(100, 100))))
    assert answer.status_code == 413 and "at scale 16" in answer.json()["detail"]


class Blocked:
    """A detector that waits for `go`; it finds nothing and remembers its batches."""

    threshold = 0.5

    def __init__(self):
        self.go = threading.Event()
        self.busy = threading.Event()
        self.batches = []

    def detect(self, images, *, threshold, scale):
        self.batches.append([image.shape[:2] for image in images])
        self.busy.set()
        assert self.go.wait(20)
        return [Faces.empty() for _ in images]


def test_a_full_queue_refuses_and_recovers():
    detector = Blocked()
    with serving(detector, queue=3) as client, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(client.post, "/v1/detect", files=form(PHOTO)) for _ in range(3)]
        deadline = time.monotonic() + 10
        while b"queue_taken 3.0" not in client.get("/metrics").content:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = client.post("/v1/detect", files=form(PHOTO))
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and "full" in refused.json()["detail"]
        assert client.get("/healthz").json() == {"status": "ok"}
        detector.go.set()
        assert [answer.result().status_code for answer in waiting] == [200] * 3
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 200


def test_too_many_bytes_at_once_are_refused():
    detector = Blocked()
    with serving(detector, held_megabytes=1.5 * len(PHOTO) / 1e6) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/v1/detect", content=PHOTO, headers={"Content-Type": "image/png"})
        assert detector.busy.wait(10)
        refused = client.post("/v1/detect", content=PHOTO, headers={"Content-Type": "image/png"})
        assert refused.status_code == 429 and "uploads" in refused.json()["detail"]
        detector.go.set()
        assert first.result().status_code == 200
        assert client.post("/v1/detect", content=PHOTO, headers={"Content-Type": "image/png"}).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up():
    detector = Blocked()
    with serving(detector, answer_seconds=0.2) as client:
        late = client.post("/v1/detect", files=form(PHOTO))
        assert late.status_code == 503 and "0.2 s" in late.json()["detail"]
        detector.go.set()
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 200


def test_a_failing_network_fails_its_requests_alone():
    class Failing(Blocked):
        def detect(self, images, *, threshold, scale):
            if not self.go.is_set():
                raise RuntimeError("out of luck")
            return [Faces.empty() for _ in images]

    detector = Failing()
    with TestClient(create_app({"toy": Engine(detector, detector)}), raise_server_exceptions=False) as client:
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 500
        detector.go.set()
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 200


def test_what_gathers_runs_together_and_like_with_like():
    detector = Blocked()
    engine = Engine(detector, detector)
    pixels = np.zeros((10, 10, 3), np.uint8)

    async def run():
        queue = DetectionQueue(100, 1)
        async with queue.running():
            first = asyncio.create_task(queue.detect(engine, pixels, 0.5, 1.0))
            await asyncio.to_thread(detector.busy.wait, 10)
            like = [asyncio.create_task(queue.detect(engine, pixels, 0.5, 1.0)) for _ in range(BATCH_IMAGES + 2)]
            other = asyncio.create_task(queue.detect(engine, pixels, 0.7, 1.0))
            large = asyncio.create_task(queue.detect(engine, np.zeros((2500, 2000, 3), np.uint8), 0.5, 1.0))
            gone = asyncio.create_task(queue.detect(engine, np.zeros((7, 7, 3), np.uint8), 0.5, 1.0))
            await asyncio.sleep(0.05)
            gone.cancel()
            detector.go.set()
            await asyncio.gather(first, *like, other, large)

    asyncio.run(run())
    sizes = [len(batch) for batch in detector.batches]
    assert sizes == [1, BATCH_IMAGES, 2, 1, 1]
    assert (2500, 2000) in detector.batches[-1] and not any((7, 7) in batch for batch in detector.batches)


def test_threads_share_what_waits_and_a_single_picture_gets_them_all():
    alone, shared = Blocked(), Blocked()
    pixels = np.zeros((10, 10, 3), np.uint8)

    async def run():
        queue = DetectionQueue(100, 2)
        async with queue.running():
            first = asyncio.create_task(queue.detect(Engine(alone, shared), pixels, 0.5, 1.0))
            await asyncio.to_thread(alone.busy.wait, 10)
            second = asyncio.create_task(queue.detect(Engine(alone, shared), pixels, 0.5, 1.0))
            await asyncio.to_thread(shared.busy.wait, 10)
            rest = [asyncio.create_task(queue.detect(Engine(alone, shared), pixels, 0.5, 1.0)) for _ in range(6)]
            await asyncio.sleep(0.05)
            alone.go.set()
            shared.go.set()
            await asyncio.gather(first, second, *rest)

    asyncio.run(run())
    assert [len(batch) for batch in alone.batches][:1] == [1]
    assert sorted(len(batch) for batch in shared.batches[:3]) == [1, 2, 3]


def test_places_are_given_back():
    queue = DetectionQueue(1, 1)
    with queue.place(), pytest.raises(QueueFull), queue.place():
        pass
    with queue.place():
        assert queue.taken == 1
    assert queue.taken == 0


def test_a_budget_is_never_exceeded_and_comes_in_turn():
    order, held, most = [], 0, 0

    async def take(budget, name, amount):
        nonlocal held, most
        async with budget.held(amount):
            order.append(name)
            held += min(amount, 10)
            most = max(most, held)
            await asyncio.sleep(0.01)
            held -= min(amount, 10)

    async def run():
        budget = Budget(10)
        tasks = [asyncio.create_task(take(budget, name, amount)) for name, amount in [("a", 6), ("b", 99), ("c", 3), ("d", 4)]]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await take(budget, "e", 99)

    asyncio.run(run())
    assert order == ["a", "c", "d", "e"] and most == 10


def test_metrics_tell_what_happened(toy):
    with serving(toy) as client:
        client.post("/v1/detect", files=form(PHOTO))
        client.post("/v1/detect", files=form(b"no"))
        client.get("/nowhere")
        text = client.get("/metrics").text
    for line in (
        'tinyfaces_requests_total{path="/v1/detect",status="200"} 1.0',
        'tinyfaces_requests_total{path="/v1/detect",status="415"} 1.0',
        'tinyfaces_requests_total{path="other",status="404"} 1.0',
        "tinyfaces_faces_total 3.0",
        f"tinyfaces_pixels_total {96 * 64}.0",
        "tinyfaces_batch_images_count 1.0",
        "tinyfaces_queue_taken 0.0",
        "tinyfaces_upload_bytes_held 0.0",
    ):
        assert line in text.splitlines()


def test_the_description_covers_all_addresses_and_its_page_is_local(client):
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {"/v1/detect", "/v1/picture", "/v1/models", "/healthz", "/metrics"}
    assert {"400", "408", "413", "415", "422", "429", "503"} <= set(description["paths"]["/v1/detect"]["post"]["responses"])
    page = client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses and all(address.startswith("/") for address in addresses) and "://" not in page
    assert all(client.get(address).status_code == 200 for address in addresses)


def test_the_page_asks_nobody_else(client):
    answer = client.get("/")
    assert answer.status_code == 200 and "default-src 'none'" in answer.headers["content-security-policy"]
    for file in PAGE.iterdir():
        assert client.get(f"/page/{file.name}").status_code == 200
        if file.suffix != ".jpg":
            text = file.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"(https?:)?//\w+\.\w+|@import", text), file
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


@pytest.mark.parametrize(
    "address,form,words",
    [
        ("/v1/detect?treshold=0.3", {}, "treshold: no such option; choose from output, threshold"),
        ("/v1/detect?threshold=0.3&threshold=0.5", {}, "threshold: given twice"),
        ("/v1/picture?threshold=0.3", {"boxes": "[]"}, "threshold: no such option"),
        ("/v1/restore?output=png", {"boxes": "[]"}, "output: no such option; there are none"),
        ("/v1/detect", {"threshold": "0.3"}, "threshold: no such form field"),
        ("/v1/picture", {"box": "[]"}, "box: no such form field; choose from file, boxes"),
        ("/v1/picture", {"boxes": ["[]", "[[1, 2, 3, 4]]"]}, "boxes: given twice"),
    ],
)
def test_what_is_not_known_is_told(toy, address, form, words):
    app = create_app({"toy": Engine(toy, toy)}, restore=lambda pixels, boxes: np.zeros((len(boxes), 64, 64, 3), np.uint8))
    with TestClient(app) as client:
        answer = client.post(address, files={"file": ("a.png", PHOTO, "image/png")}, data=form)
    assert answer.status_code == 422 and words in answer.json()["detail"], answer.json()


@pytest.mark.parametrize("names", (("file", "file"), ("file", "other"), ("other", "file")))
def test_a_second_file_is_told(client, names):
    answer = client.post("/v1/detect", files=[(name, ("a.png", PHOTO, "image/png")) for name in names])
    assert answer.status_code == 400 and "one file" in answer.json()["detail"], answer.json()


def test_pixels_of_given_up_requests_count_until_their_thread_ends(toy, monkeypatch):
    from tinyfaces.service import state as state_module

    begun, go_on = threading.Event(), threading.Event()
    decode = state_module.decode

    def slow(image):
        begun.set()
        assert go_on.wait(20)
        return decode(image)

    monkeypatch.setattr(state_module, "decode", slow)
    app = create_app({"toy": Engine(toy, toy)}, Limits(answer_seconds=0.3))
    state = app.state.service
    with TestClient(app) as client:
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 503
        assert begun.is_set()
        assert state._held_pixels.held_now == 64 * 96 and state._held_uploads.held >= len(PHOTO)
        go_on.set()
        deadline = time.monotonic() + 10
        while state._held_pixels.held_now or state._held_uploads.held:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_pixels_of_given_up_requests_count_until_the_network_is_through():
    go_on = threading.Event()

    class Slow:
        threshold = 0.5

        def detect(self, images, **options):
            assert go_on.wait(20)
            return [Faces.empty() for _ in images]

    app = create_app({"slow": Engine(Slow(), Slow())}, Limits(answer_seconds=0.3), lanes=1)
    state = app.state.service
    with TestClient(app) as client:
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 503  # in the network's thread
        assert client.post("/v1/detect", files=form(PHOTO)).status_code == 503  # waits for it, and is dropped
        assert 64 * 96 <= state._held_pixels.held_now <= 2 * 64 * 96
        go_on.set()
        deadline = time.monotonic() + 10
        while state._held_pixels.held_now or state._held_uploads.held:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_picture_does_not_fail_the_others_of_its_batch():
    class Picky:
        threshold = 0.5

        def detect(self, images, **options):
            if any(image.max() == 255 for image in images):
                raise MemoryError
            return [Faces.empty() for _ in images]

    async def run():
        picky = Picky()
        queue = DetectionQueue(8, 1)
        async with queue.running():
            pictures = [np.full((32, 32, 3), value, np.uint8) for value in (0, 255, 9)]
            jobs = [queue.detect(Engine(picky, picky), pixels, 0.5, None) for pixels in pictures]
            return await asyncio.gather(*jobs, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(first, Faces) and isinstance(second, MemoryError) and isinstance(third, Faces)


def test_what_a_picture_raises_is_one_line():
    class Failing:
        threshold = 0.5

        def detect(self, images, **options):
            raise struct.error("unpack")

    with serving(Failing()) as client:
        answer = client.post("/v1/detect", files=form(PHOTO))
        assert answer.status_code == 500 and answer.json() == {"detail": "the picture could not be searched (error)"}
