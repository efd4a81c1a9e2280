"""The web page in headless Chromium: real uploads to a real service, by mouse, keyboard, clipboard and touch."""

import csv
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browsing import browser as browser
from browsing import choose, encoded, needs_browser, serious_violations, watched_pages
from conftest import paint
from serving import running_service
from test_cover_threshold import unsure
from tinyfaces import Detector

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")

EXAMPLE = Path(__file__).parents[1] / "src/tinyfaces/service/page/example.jpg"

pytestmark = needs_browser


@pytest.fixture(scope="module")
def service(toy_model):
    with running_service("--model", str(toy_model), "--model", "accurate", "--max-megabytes", "2") as service:
        yield service
        assert len(service.lines) == 1, service.lines


@pytest.fixture
def open_page(browser, service):
    """Opens the page, with any options of a browser context; nothing may be asked of others, and no script may fail."""
    with watched_pages(browser, service.url, "", {"width": 1200, "height": 800}, expected="status of 4") as open_it:
        yield open_it


def grid(columns: int, rows: int) -> np.ndarray:
    """A photo of red squares for the toy model, a face each 16 pixels."""
    return paint(16 * rows, 16 * columns, [(16 * x + 8, 16 * y + 8) for x in range(columns) for y in range(rows)])


def faces_shown(page) -> int:
    return int(page.inner_text("#count").split()[0])


def frames_drawn(page) -> list[list[int]]:
    """The colours of the overlay, RGBA, row by row where anything is drawn."""
    return page.evaluate(
        """() => { const c = document.getElementById("overlay");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0, gold = 0;
        for (let i = 0; i < d.length; i += 4) { n += d[i + 3] > 0; gold += d[i] > 230 && d[i + 1] > 180 && d[i + 2] < 120; }
        return [n, gold]; }"""
    )


def test_the_example_with_a_mouse(open_page):
    page = open_page()
    page.click("#example")
    page.wait_for_selector("body[data-state=ready]")
    page.select_option("#model", "accurate")
    page.wait_for_selector("body[data-state=ready]")
    assert page.is_visible("#credit") and "Couprie" in page.inner_text("#credit")
    found = Detector().detect(EXAMPLE)
    assert faces_shown(page) == len(found) == 29
    page.wait_for_timeout(50)
    assert frames_drawn(page)[0] > 500 and frames_drawn(page)[1] == 0
    photo = page.locator("#photo").bounding_box()
    scale = photo["width"] / 560
    x1, y1, x2, y2 = found.boxes[0].tolist()
    page.mouse.move(photo["x"] + (x1 + x2) / 2 * scale, photo["y"] + (y1 + y2) / 2 * scale)
    page.wait_for_selector("#crops:visible")
    assert page.inner_text("#face-facts") == f"Face 1 of 29: {x2 - x1:.0f} \u00d7 {y2 - y1:.0f} px, score {found.scores[0]:.2f}"
    page.wait_for_timeout(50)
    assert frames_drawn(page)[1] > 20
    crop = page.evaluate("[...document.getElementById('original').getContext('2d').getImageData(60, 60, 40, 40).data]")
    assert np.std(crop[::4]) > 5


def test_sliding_asks_nothing_and_filters_by_score_and_height(open_page):
    page = open_page()
    large = [(64 + 64 * n, 64) for n in range(3)]
    choose(page, encoded(paint(160, 320, [(8, 8), (40, 8), (72, 8)], large)))
    assert faces_shown(page) == 6
    assert page.inner_text("#sizes").startswith("height: 8 px smallest")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#largest").fill("50")  # the geometric middle of 4 and 32 is 11
    assert faces_shown(page) == 3 and page.inner_text("#largest-value") == "11 px"
    page.locator("#smallest").fill("50")
    assert faces_shown(page) == 0
    page.locator("#largest").fill("100")
    assert faces_shown(page) == 3 and page.inner_text("#largest-value") == "any"
    page.locator("#smallest").fill("0")
    page.locator("#threshold").focus()
    page.keyboard.press("End")
    assert page.inner_text("#threshold-value") == "0.99" and faces_shown(page) == 3
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#threshold-value") == "0.96" and faces_shown(page) == 6  # 0.98 and more than 0.99
    assert not asked


def test_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")  # the link
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pick"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "example"
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-state=ready]")
    choose(page, encoded(grid(6, 4)))
    page.focus("#stage")
    for key, place in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowUp", 24)]:
        page.keyboard.press(key)
        assert page.inner_text("#face-facts").startswith(f"Face {place} of 24:")
    width = page.locator("#photo").bounding_box()["width"]
    page.keyboard.press("+")
    assert page.locator("#photo").bounding_box()["width"] == pytest.approx(1.6 * width, rel=0.01)
    page.keyboard.press("0")
    assert page.locator("#photo").bounding_box()["width"] == pytest.approx(width, rel=0.01)
    page.keyboard.press("Escape")
    assert page.is_hidden("#crops")
    names = page.evaluate(
        """[...document.querySelectorAll('button, input:not([hidden]), select, #stage')].map((e) =>
        e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent.trim())"""
    )
    assert all(names)


def test_dropping_and_pasting(open_page):
    page = open_page()
    page.evaluate("document.body.dataset.state = ''")
    script = """([bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
        const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
            : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
        document.getElementById("open").dispatchEvent(event);
    }"""
    for kind, columns in (("drop", 3), ("paste", 5)):
        page.evaluate(script, [list(encoded(grid(columns, 2))), kind])
        page.wait_for_selector(f"#count:text-is('{columns * 2} faces')")


def test_the_anonymised_view_needs_scores_that_depend_on_the_height(open_page):
    page = open_page()
    choose(page, encoded(unsure()))
    assert faces_shown(page) == 0
    page.check("input[value=anonymised]")
    assert page.inner_text("#threshold-value") == "by height" and faces_shown(page) == 1
    page.check("input[value=boxes]")
    assert page.inner_text("#threshold-value") == "0.30" and faces_shown(page) == 0
    page.check("input[value=anonymised]")
    page.locator("#threshold").fill("0.15")  # both are covered from there on
    assert page.inner_text("#threshold-value") == "0.15" and faces_shown(page) == 2
    page.wait_for_selector("#status:has-text('2 faces masked')")
    page.check("input[value=boxes]")
    page.check("input[value=anonymised]")  # which covers no less than the user asked for
    assert page.inner_text("#threshold-value") == "0.15" and faces_shown(page) == 2


def test_the_strength_is_chosen_on_the_page(open_page):
    page = open_page()
    choose(page, encoded(paint(96, 160, large=[(32, 32)])))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.check("input[value=anonymised]")
    page.wait_for_selector("#status:has-text('1 face masked')")
    page.locator("#strength").fill("5")
    assert page.inner_text("#strength-value") == "5"
    with page.expect_response("**/v1/picture?*strength=5*") as answer:
        pass
    assert answer.value.ok and "strength=1" in asked[0]


def test_the_anonymised_view_covers_the_faces_shown(open_page):
    page = open_page()
    noise = np.random.default_rng(0).integers(0, 40, (96, 160, 3)).astype(np.uint8)
    for x in (8, 40):
        noise[8:16, x : x + 8, 0] += 210
    choose(page, encoded(noise))
    assert faces_shown(page) == 2
    page.check("input[value=anonymised]")
    page.select_option("#method", "solid")
    page.wait_for_selector("#status:has-text('2 faces masked')")
    page.wait_for_timeout(400)
    with page.expect_download() as saved:
        page.click("#save-picture")
    assert saved.value.suggested_filename == "crowd_anonymised.png"
    covered = np.asarray(Image.open(saved.value.path()))
    assert not covered[10:14, 10:14].any() and not covered[10:14, 42:46].any()
    assert (covered[40:] == noise[40:]).all()
    assert page.evaluate("document.getElementById('photo').naturalWidth") == 160
    page.check("input[value=boxes]")
    with page.expect_download() as saved:
        page.click("#save-picture")
    drawn = np.asarray(Image.open(saved.value.path()))
    assert drawn[7, 9].tolist() == [0, 255, 0] and (drawn[8:16, 8:16] == noise[8:16, 8:16]).all()


def test_saved_boxes_are_those_shown(open_page):
    page = open_page()
    choose(page, encoded(paint(64, 96, [(8, 8), (40, 40)], [(64, 0)])), name='a "b",c.png')
    page.locator("#largest").fill("50")
    with page.expect_download() as saved:
        page.click("#save-json")
    image = json.loads(Path(saved.value.path()).read_text())["images"][0]
    assert image["file"] == 'a "b",c.png' and (image["width"], image["height"]) == (96, 64)
    assert sorted([round(side) for side in box] for box in image["boxes"]) == [[8, 8, 16, 16], [40, 40, 48, 48]]
    with page.expect_download() as saved:
        page.click("#save-csv")
    rows = list(csv.DictReader(Path(saved.value.path()).read_text().splitlines()))
    assert [row["file"] for row in rows] == ['a "b",c.png'] * 2
    assert [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows] == image["boxes"]


def test_refused_files_are_told_and_the_next_one_works(open_page):
    page = open_page()
    choose(page, b"no picture at all", state="refused")
    assert "not a picture" in page.inner_text("#status") and page.is_hidden("#work")
    choose(page, encoded(grid(8, 8))[:150], state="refused")
    assert "damaged" in page.inner_text("#status")
    choose(page, bytes(2_100_000), state="refused")
    assert "2 MB" in page.inner_text("#status")
    choose(page, encoded(grid(2, 2)))
    assert faces_shown(page) == 4 and page.inner_text("#status") == ""


def test_pictures_that_only_the_service_reads_are_shown_too(open_page):
    page = open_page()
    choose(page, encoded(grid(3, 2), "TIFF"), name="scan.tif")
    assert faces_shown(page) == 6
    assert page.evaluate("document.getElementById('photo').naturalWidth") == 48


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_turned_photos_are_shown_upright(open_page, kind):
    page = open_page()
    exif = Image.Exif()
    exif[0x0112] = 6
    choose(page, encoded(grid(6, 3), kind, exif=exif, quality=100))
    photo = page.locator("#photo").bounding_box()
    assert photo["height"] > photo["width"] and faces_shown(page) == 18


def test_on_a_phone_in_the_dark(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    choose(page, encoded(grid(4, 3)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in back[4:-1].split(",")) < 60
    photo = page.locator("#photo").bounding_box()
    scale = photo["width"] / 64
    page.touchscreen.tap(photo["x"] + 12 * scale, photo["y"] + 12 * scale)
    page.wait_for_selector("#crops:visible")
    assert "8 \u00d7 8 px" in page.inner_text("#face-facts")
    small = page.evaluate("[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 40).length")
    assert small == 0


def test_a_thousand_faces_stay_fluid(open_page):
    page = open_page()
    choose(page, encoded(grid(40, 25)))
    assert faces_shown(page) == 1000
    page.wait_for_timeout(200)
    times = page.evaluate(
        """async () => {
        const slider = document.getElementById("threshold"), times = [];
        for (let step = 0; step < 30; step++) {
            await new Promise(requestAnimationFrame);
            const begun = performance.now();
            slider.value = 0.15 + (step % 8) / 10;
            slider.dispatchEvent(new Event("input"));
            await new Promise(requestAnimationFrame); // the frame that draws
            await new Promise((done) => { const c = new MessageChannel(); c.port1.onmessage = done; c.port2.postMessage(0); });
            times.push(performance.now() - begun);
        }
        return times;
    }"""
    )
    assert faces_shown(page) == 1000 and len(times) == 30
    print(f"frame while sliding over 1,000 faces: median {np.median(times):.0f} ms, longest {max(times):.0f} ms")


def test_a_face_is_restored_from_what_surrounds_it(open_page):
    """With a stand-in for the second stage: what is sent is the face and its surroundings, exactly."""
    page = open_page()
    noise = np.random.default_rng(0).integers(0, 60, (120, 200, 3)).astype(np.uint8)
    noise[40:48, 80:88, 0] += 190
    sent = []

    def offer(route):
        route.fulfill(json={**route.fetch().json(), "restores": True})

    def restore(route):
        sent.append(route.request.post_data_buffer)
        route.fulfill(body=encoded(np.full((64, 64, 3), (10, 20, 200), np.uint8)), content_type="image/png")

    page.route("**/v1/models", offer)
    page.route("**/v1/restore", restore)
    page.reload()
    choose(page, encoded(noise))
    page.click("#next")
    page.wait_for_selector("#restored-caption:has-text('restored')")
    assert page.evaluate("[...document.getElementById('restored').getContext('2d').getImageData(80, 80, 1, 1).data]") == [
        10,
        20,
        200,
        255,
    ]
    picture = sent[0][sent[0].index(b"\x89PNG") :]
    part = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    x1, y1, x2, y2 = json.loads(re.search(rb'name="boxes"\s+(\[\[.*\]\])', sent[0])[1])[0]
    left, top = 80 - round(x1), 40 - round(y1)
    assert (x2 - x1, y2 - y1) == pytest.approx((8, 8), abs=0.5)
    assert (part == noise[top : top + part.shape[0], left : left + part.shape[1]]).all()
    assert left < 76 and top < 36 and part.shape[0] < 50 and part.shape[1] < 50
    page.click("#previous")
    page.click("#next")
    assert len(sent) == 1


def test_a_busy_service_is_asked_again(open_page):
    page = open_page()
    calls = []

    def busy_once(route):
        calls.append(time.monotonic())
        if len(calls) == 1:
            route.fulfill(status=429, headers={"Retry-After": "0.2"}, json={"detail": "the queue is full"})
        else:
            route.continue_()

    page.route("**/v1/detect*", busy_once)
    choose(page, encoded(grid(2, 2)))
    assert len(calls) == 2 and faces_shown(page) == 4


def test_the_description_of_the_addresses_works_offline(open_page, service):
    page = open_page()
    page.goto(f"{service.url}/docs")
    page.wait_for_selector("text=Find the faces in a picture")


def test_faces_are_chosen_by_place_with_the_mouse_and_by_text(open_page):
    page = open_page()
    choose(page, encoded(grid(8, 4)))
    assert faces_shown(page) == 32
    stage = page.locator("#stage").bounding_box()
    photo = page.locator("#photo").bounding_box()
    scale = photo["width"] / 128
    page.click("#places summary")
    page.click("#draw-except")
    assert page.get_attribute("#draw-except", "aria-pressed") == "true"
    page.mouse.move(photo["x"] + 2 * scale, photo["y"] + 2 * scale)
    page.mouse.down()
    page.mouse.move(photo["x"] + 20 * scale, photo["y"] + 20 * scale)
    page.mouse.move(photo["x"] + 32 * scale, photo["y"] + 62 * scale)
    page.mouse.up()
    assert faces_shown(page) == 24 and page.get_attribute("#draw-except", "aria-pressed") == "false"
    assert page.input_value("#except-region") == "2,2 32,2 32,62 2,62"
    assert page.locator("#crops").is_hidden()  # the drag did not choose a face
    page.mouse.click(photo["x"] + 108 * scale, photo["y"] + 12 * scale)
    assert page.locator("#crops").is_visible() and stage["width"] >= photo["width"]
    page.fill("#only-region", "0,0 0.5,0 0.5,1 0,1")
    assert faces_shown(page) == 8
    page.fill("#only-region", "0,0 0.5,0 0.5,1 0,1; 112,0 128,0 128,64 112,64")
    assert faces_shown(page) == 12
    page.fill("#only-region", "0,0 0.5")
    assert page.get_attribute("#only-region", "aria-invalid") == "true" and "3 corners" in page.inner_text("#status")
    page.fill("#only-region", "")
    assert page.get_attribute("#only-region", "aria-invalid") == "false" and faces_shown(page) == 24


def test_a_picture_and_an_emoji_as_cover(open_page):
    page = open_page()
    choose(page, encoded(paint(96, 160, large=[(32, 32)])))
    page.check("input[value=anonymised]")
    page.wait_for_selector("#status:has-text('1 face masked')")
    page.select_option("#cover", "picture")
    cover = {"name": "blue.png", "mimeType": "image/png", "buffer": encoded(np.full((8, 8, 3), (0, 0, 255), np.uint8))}

    def saved() -> np.ndarray:
        with page.expect_download() as download:
            page.click("#save-picture")
        return np.asarray(Image.open(download.value.path()).convert("RGB"))

    with page.expect_response("**/v1/picture?*"):
        page.set_input_files("#cover-file", cover)
    assert (saved()[44:52, 44:52] == (0, 0, 255)).all()
    page.evaluate("""() => { CanvasRenderingContext2D.prototype.fillText = function (text) {  // a browser with one emoji
        this.resetTransform();
        this.fillStyle = text === "😀" ? "rgb(0, 200, 0)" : "black";
        this.fillRect(0, 0, 256, 256); }; }""")
    with page.expect_response("**/v1/picture?*"):
        page.select_option("#cover", "emoji")
    assert (saved()[44:52, 44:52] == (0, 200, 0)).all()
    page.fill("#emoji", "🦊")
    page.wait_for_selector("#status.alert:has-text('no font with that emoji')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    page = open_page(color_scheme=scheme)
    choose(page, encoded(grid(4, 4)))
    page.check("input[value=anonymised]")
    page.select_option("#cover", "emoji")
    page.click("#places summary")
    assert serious_violations(page) == []
