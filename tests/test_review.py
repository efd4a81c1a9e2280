"""A review without its page: the store and a kill, the order of the queue, the covers shown, the guards, the written photos."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from reviewing import all_found, ask, running_review
from serving import running_service
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import ImageError, read_image
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.doubts import doubt
from tinyfaces.jobs.inputs import find_inputs
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces
from tinyfaces.jobs.review_store import Outdated, ReviewedFace, ReviewError, ReviewStore
from tinyfaces.jobs.reviewed_photos import ChangedSince, Decisions, write_reviewed
from tinyfaces.service.review_desk import Assignment, ReviewDesk
from tinyfaces.service.review_views import View, ViewCache

COVER = CoverThreshold.of(0.2)
FACES = Faces(np.array([[10, 10, 20, 20], [30, 30, 44, 44], [60, 10, 70, 24.5]]), np.array([0.9, 0.3, 0.12]))


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3)).astype(np.uint8)).save(path)
    return path


def open_store(tmp_path, **options) -> ReviewStore:
    return ReviewStore(tmp_path / "state/review", {"model": "toy"}, COVER, **options)


def entered(store: ReviewStore, path: Path) -> int:
    (number,) = store.enter([path])
    store.found(number, store.photo(number).stamp, (100, 80), FACES, 1.5)
    return number


def test_decisions_are_kept_and_told_apart(tmp_path, photo):
    store = open_store(tmp_path)
    number = entered(store, photo)
    assert [face.state for face in store.photo(number).faces] == ["covered", "covered", "clear"]
    changes = [
        ReviewedFace(0, (10, 10, 20, 20), None, "clear"),
        ReviewedFace(1, (31, 30, 45, 44), None, "covered"),
        ReviewedFace(2, tuple(FACES.boxes[2].tolist()), None, "covered"),
        ReviewedFace(3, (0.5, 1.25, 7, 9), None, "covered"),
    ]
    assert store.change(number, 0, changes) == 1
    with pytest.raises(Outdated):
        store.change(number, 0, changes)
    store.accept(number, 1, True)
    store.close()
    store = open_store(tmp_path)
    assert store.enter([photo]) == [number]
    known = store.photo(number)
    assert known.accepted and known.edition == 1 and known.doubt == 1.5
    decisions = Decisions.of(known)
    assert decisions.counts() == {"found": 2, "added": 2, "taken_away": 1, "moved": 1, "covered": 3, "left_clear": 0}
    assert [face.number for face in decisions.added] == [2, 3] and decisions.added[1].score is None
    assert known.covered.tolist() == [[31, 30, 45, 44], FACES.boxes[2].tolist(), [0.5, 1.25, 7, 9]]
    store.change(number, 1, changes[:1])
    assert not store.photo(number).accepted
    store.close()


def test_a_changed_file_is_searched_anew_and_a_new_one_is_added(tmp_path, photo):
    store = open_store(tmp_path)
    number = entered(store, photo)
    store.accept(number, 0, True)
    photo.write_bytes(photo.read_bytes() + b" ")
    other = tmp_path / "b.png"
    assert store.enter([photo, other]) == [number, number + 1]
    assert store.photo(number).size is None and not store.photo(number).accepted
    with pytest.raises(Outdated):
        store.change(number, 0, [])
    with pytest.raises(KeyError):
        store.photo(99)
    store.close()


def test_files_that_are_no_review_of_this_kind_are_one_line(tmp_path, photo):
    store = open_store(tmp_path)
    entered(store, photo)
    with pytest.raises(ReviewError, match="another review is using it"):
        open_store(tmp_path)
    store.close()
    with pytest.raises(ReviewError, match=r"threshold: 0\.2, now 0\.3.*--start-over"):
        ReviewStore(store.path, {"model": "toy"}, CoverThreshold.of(0.3))
    store = ReviewStore(store.path, {"model": "toy"}, CoverThreshold.of(0.3), start_over=True)
    with pytest.raises(KeyError):
        store.photo(1)
    store.close()
    (tmp_path / "other").write_bytes(b"no database" * 100)
    with pytest.raises(ReviewError, match="not the file of a review"):
        ReviewStore(tmp_path / "other", {}, CoverThreshold.of(0.2))
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE kept (a)")
    foreign.close()
    with pytest.raises(ReviewError, match="another program's database"):
        ReviewStore(tmp_path / "foreign", {}, CoverThreshold.of(0.2), start_over=True)
    assert sqlite3.connect(tmp_path / "foreign").execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_nothing_of_a_photo_is_in_the_store(tmp_path, photo):
    store = open_store(tmp_path)
    entered(store, photo)
    store.close()
    with sqlite3.connect(store.path) as database:
        values = [
            value
            for table in ("review", "photos", "changes")
            for row in database.execute(f"SELECT * FROM {table}")
            for value in row
        ]
    blobs = [value for value in values if isinstance(value, bytes)]
    assert blobs == [os.fsencode(photo)] and max(len(value) for value in values if isinstance(value, str)) < 300


_CLICKS = """
import sys
from pathlib import Path
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.review_store import ReviewStore, ReviewedFace
folder, begin = Path(sys.argv[1]), int(sys.argv[2])
store = ReviewStore(folder / "state/review", {}, CoverThreshold.of(0.2))
numbers = store.enter([folder / f"{n}.png" for n in range(200)])
print("ready", flush=True)
for click in range(begin, 100000):
    number = numbers[click % 200]
    store.change(number, store.photo(number).edition, [ReviewedFace(click // 200, (click, 1, click + 5, 6), None, "covered")])
    store.accept(number, store.photo(number).edition, True)
    print(click, flush=True)
"""


def test_a_kill_at_any_instant_loses_the_last_click_at_most(tmp_path):
    """200 photos; after each kill, every click that was answered is there, and at most one that was not."""
    moments = random.Random(0)
    done = 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", _CLICKS, str(tmp_path), str(done)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.01, 0.25))
        process.send_signal(signal.SIGKILL)
        answered = [int(line) for line in process.communicate()[0].splitlines() if line.strip()]
        answers = max(answered, default=done - 1) + 1
        store = ReviewStore(tmp_path / "state/review", {}, CoverThreshold.of(0.2))
        numbers = store.enter([tmp_path / f"{n}.png" for n in range(200)])
        there = sorted(int(face.box[0]) for number in numbers for face in store.photo(number).faces)
        assert there == list(range(len(there))) and answers <= len(there) <= answers + 1
        assert numbers == list(range(1, 201))
        done = len(there)
        store.close()
    assert done > 20


def test_doubt_is_where_scores_are_near_the_threshold_and_faces_are_large():
    def of(scores, side=10.0):
        return doubt(Faces(np.array([[0, 0, side, side]] * len(scores)), np.array(scores)), COVER, 1000, 1000)

    assert of([]) == of([0.9, 0.95, 0.5]) == 0
    assert of([0.2]) > of([0.25]) > of([0.4]) > 0
    assert of([0.2] * 5) == pytest.approx(5 * of([0.2]))
    assert of([0.2], 100) == pytest.approx(2) and of([0.2], 100) > of([0.2], 10)


@pytest.mark.parametrize("method", ["blur", "pixelate", "solid"])
def test_covers_that_follow_changes_are_those_of_the_writer(method):
    """Any order of changes gives the pixels of covering all boxes at once, and the part said to differ is all that does."""
    random_numbers = np.random.default_rng(3)
    pixels = random_numbers.integers(0, 255, (180, 240, 3)).astype(np.uint8)
    style = MaskStyle(method)
    view = View(pixels, Masking(style=style))
    corners = random_numbers.uniform(-5, 200, (30, 2))
    boxes = np.concatenate([corners, corners + random_numbers.uniform(3, 40, (30, 2))], axis=1).astype(np.float32)
    chosen = np.ones(30, bool)
    shown = pixels
    for _ in range(25):
        flips = random_numbers.integers(0, 30, 2)
        chosen[flips] = ~chosen[flips]
        boxes[flips[0]] += random_numbers.uniform(-4, 4)
        region = view.cover(boxes[chosen])
        expected = pixels.copy()
        mask_faces([Plane(expected[..., channel], 1, 1, 0) for channel in range(3)], boxes[chosen], style)
        assert (view._masked == expected).all()
        different = (shown != expected).any(axis=2)
        if region is not None:
            left, top, width, height = region
            different[top : top + height, left : left + width] = False
        assert not different.any()
        shown = expected
    assert view.cover(boxes[chosen].copy()) is None
    view.cover(boxes[:0])
    assert (view._masked == pixels).all() and not np.shares_memory(view._masked, pixels)


def test_few_photos_are_held_and_a_failed_one_is_tried_again():
    loads = []

    def load(number):
        loads.append(number)
        if number < 0:
            raise ImageError("damaged")
        return View(np.zeros((4, 4, 3), np.uint8), Masking())

    views = ViewCache(load)
    for number in (1, 2, 1, 3, 4, 5, 6, 7, 1, 2):
        views.get(number)
    assert loads == [1, 2, 3, 4, 5, 6, 7, 2]
    for _ in range(2):
        with pytest.raises(ImageError):
            views.get(-1)
    assert loads[-2:] == [-1, -1]


def test_written_photos_have_exactly_these_covers(tmp_path, photo):
    store = open_store(tmp_path)
    number = entered(store, photo)
    store.change(
        number, 0, [ReviewedFace(0, (10, 10, 20, 20), None, "deleted"), ReviewedFace(3, (70.5, 50, 90, 70), None, "covered")]
    )
    known = store.photo(number)
    target = tmp_path / "out/a.png"
    write_reviewed(known, target, Masking())
    pixels = np.asarray(Image.open(photo))
    expected = pixels.copy()
    boxes = np.array([[30, 30, 44, 44], [70.5, 50, 90, 70]], np.float32)
    mask_faces([Plane(expected[..., channel], 1, 1, 0) for channel in range(3)], boxes, MaskStyle())
    assert (np.asarray(Image.open(target)) == expected).all() and (expected[5:25, 5:25] == pixels[5:25, 5:25]).all()
    target.unlink()
    with pytest.raises(ChangedSince, match=r"a\.png: has changed"):
        write_reviewed(replace(known, stamp=(1, 1)), target, Masking())
    assert not target.exists()
    store.close()


def test_no_photo_is_searched_while_the_page_is_being_served(tmp_path, monkeypatch):
    for name in "ab":
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / f"{name}.png")
    files = find_inputs([str(tmp_path)], False, tmp_path / "out").files
    read, served = threading.Event(), threading.Event()

    def slowly(path):
        read.set()
        assert served.wait(10)
        return read_image(path)

    monkeypatch.setattr("tinyfaces.service.review_desk.read_image", slowly)
    assignment = Assignment({file: tmp_path / "out" / file.name for file in files}, tmp_path / "report.json", Masking())
    desk = ReviewDesk(open_store(tmp_path), SimpleNamespace(detect=lambda *_, **__: FACES[:0]), assignment)
    number = desk.queue(-1)["photos"][0]["number"]
    page = threading.Thread(target=desk.picture, args=(number, True))
    page.start()
    assert read.wait(10)
    with desk:
        time.sleep(0.2)
        assert [photo["state"] for photo in desk.queue(-1)["photos"]] == ["waiting"] * 2
        served.set()
        page.join()
        deadline = time.monotonic() + 10
        while {photo["state"] for photo in desk.queue(-1)["photos"]} != {"found"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, squares in (("one", [(40, 40)]), ("two", [(40, 40), (80, 80)])):
        Image.fromarray(paint(128, 160, squares)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def service(folder, toy_model):
    with running_review(folder, ".", "--out", "public", "--model", str(toy_model)) as service:
        yield service


@pytest.mark.slow
def test_a_review_over_http(service, folder):
    photos = {photo["name"]: photo for photo in all_found(service)}
    assert photos["broken.png"]["state"] == "problem" and "broken.png" in photos["broken.png"]["problem"]
    number = photos["two.png"]["number"]
    facts = ask(service, f"/photos/{number}")
    assert len(facts["faces"]) == 2 and (facts["width"], facts["height"]) == (160, 128)
    face = facts["faces"][0]
    change = {"edition": 0, "faces": [{"number": 0, "box": face[1:5], "state": "clear"}]}
    answer = ask(service, f"/photos/{number}/changes", change)
    assert answer["photo"]["taken_away"] == 1 and answer["region"][2] < 30
    for path, content, status in [
        (f"/photos/{number}/changes", change, 409),
        ("/photos/99/changes", change, 404),
        (f"/photos/{number}/changes", {**change, "faces": [{"number": 0, "box": [9, 9, 5, 5], "state": "clear"}]}, 422),
        (f"/photos/{number}/changes", {**change, "faces": [{"number": 0, "box": [1, 1, 5, 5], "state": "gone"}]}, 422),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(service, path, content)
        assert refused.value.code == status
    for name in ("one.png", "two.png"):
        one = photos[name]["number"]
        ask(service, f"/photos/{one}/accepted", {"edition": int(name == "two.png"), "accepted": True})
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    ask(service, "/writing", {})
    deadline = time.monotonic() + 20
    while (news := ask(service, ""))["writing"]["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert news["writing"]["written"] == 2 and news["writing"]["taken_away"] == 1 and news["writing"]["problems"] == []
    report = json.loads((folder / "public.state/review.json").read_text())
    listed = {Path(record["file"]).name: record for record in report["files"]}
    assert listed["two.png"]["found"] == 2 and len(listed["two.png"]["covered"]) == 1
    assert listed["two.png"]["taken_away"] == [[round(side, 3) for side in face[1:5]]]
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before
    assert sorted(path.name for path in (folder / "public").iterdir()) == [".tinyfaces", "one.png", "two.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/review", "/v1/review", "/v1/review/photos/1/picture", "/v1/review/photos/1/thumbnail"])
def test_other_sites_get_nothing(service, path, headers):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(service.url + path, headers=headers), timeout=5)
    assert refused.value.code == 403


@pytest.mark.slow
def test_the_page_has_a_strict_policy_and_photos_are_not_kept(service):
    with urllib.request.urlopen(f"{service.url}/review") as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert "<style" not in text and "style=" not in text and "onclick" not in text and text.count("<script") == 1
    all_found(service)
    with urllib.request.urlopen(f"{service.url}/v1/review/photos/2/picture") as answer:
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.slow
def test_a_killed_review_goes_on(tmp_path, toy_model):
    Image.fromarray(paint(64, 64, [(8, 8), (40, 40)])).save(tmp_path / "a.png")
    options = (".", "--out", "public", "--model", str(toy_model))
    with running_review(tmp_path, *options) as service:
        face = (all_found(service), ask(service, "/photos/1"))[1]["faces"][0]
        ask(service, "/photos/1/changes", {"edition": 0, "faces": [{"number": 0, "box": face[1:5], "state": "clear"}]})
        ask(service, "/photos/1/accepted", {"edition": 1, "accepted": True})
        service.process.kill()
    with running_review(tmp_path, *options) as service:
        (photo,) = ask(service, "")["photos"]
        assert photo["accepted"] and photo["taken_away"] == 1 and photo["state"] == "found"


def test_what_cannot_be_reviewed_is_one_line(run, tmp_path):
    Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / "a.png")
    assert "no such file" in run("review", "missing.png", code=2).output
    assert "is one of the input files" in run("review", "a.png", "--out", ".", code=2).output


@pytest.mark.slow
def test_the_service_can_hold_a_review(tmp_path, toy_model):
    Image.fromarray(paint(64, 64, [(8, 8), (40, 40)])).save(tmp_path / "a.png")
    options = ("--model", str(toy_model), "--review", str(tmp_path), "--review-out", str(tmp_path / "public"))
    with running_service(*options) as service:
        (photo,) = all_found(service)
        assert photo["covered"] == 2
        with (
            urllib.request.urlopen(f"{service.url}/review") as answer,
            urllib.request.urlopen(f"{service.url}/v1/models") as other,
        ):
            assert b"<title>Review" in answer.read() and json.load(other)["default"] == "toy"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(service, "", Origin="https://evil.example")


def test_a_service_for_others_holds_no_review(run, tmp_path):
    assert "127.0.0.1 only" in run("serve", "--host", "0.0.0.0", "--review", str(tmp_path), code=2).output
