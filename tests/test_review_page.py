"""The review page in headless Chromium: real clicks, keys and fingers on a real review."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from browsing import browser as browser
from browsing import needs_browser, serious_violations, watched_pages
from conftest import paint
from reviewing import all_found, ask, running_review

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
pytestmark = needs_browser

SQUARES = [(40, 40), (120, 40), (200, 120)]


def photo_of(squares, seed=0) -> np.ndarray:
    """Noise with red squares, which the toy model finds."""
    noise = np.random.default_rng(seed).integers(0, 40, (240, 320, 3)).astype(np.uint8)
    return np.maximum(noise, paint(240, 320, squares)) * np.where(paint(240, 320, squares)[..., :1] > 0, [1, 0, 0], 1).astype(
        np.uint8
    )


@pytest.fixture
def review(tmp_path, toy_model):
    """A review of three photos with one, two and three faces."""
    for count in (1, 2, 3):
        Image.fromarray(photo_of(SQUARES[:count], count)).save(tmp_path / f"{count}.png")
    with running_review(tmp_path, ".", "--out", "public", "--method", "solid", "--model", str(toy_model)) as service:
        all_found(service)
        yield service
    assert not [line for line in service.lines if "Traceback" in line]


@pytest.fixture
def open_page(browser, review):
    with watched_pages(browser, review.url, "/review", {"width": 1280, "height": 860}) as open_it:

        def open_and_wait(**options):
            page = open_it(**options)
            page.wait_for_selector("body[data-photo]")
            return page

        yield open_and_wait


def number_of(review, name: str) -> int:
    return next(photo["number"] for photo in ask(review, "")["photos"] if photo["name"] == name)


def states(review, number: int) -> list[str]:
    return [face[6] for face in ask(review, f"/photos/{number}")["faces"]]


def on_screen(page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the 320x240 photo lies on the page, as long as all of it is shown."""
    stage = page.locator("#stage").bounding_box()
    scale = min(stage["width"] / 320, stage["height"] / 240, 8)
    return stage["x"] + (stage["width"] - 320 * scale) / 2 + x * scale, stage["y"] + (
        stage["height"] - 240 * scale
    ) / 2 + y * scale


def go_to(page, review, name: str) -> int:
    number = number_of(review, name)
    page.locator("#photos button", has_text=name).click()
    page.wait_for_selector(f"body[data-photo='{number}']")
    return number


def wait_until(ask_it, timeout=5.0) -> None:
    deadline = time.monotonic() + timeout
    while not ask_it():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_accepted_is_written_with_exactly_the_chosen_faces_covered(open_page, review, tmp_path):
    page = open_page()
    number = go_to(page, review, "3.png")
    assert states(review, number) == ["covered"] * 3
    page.mouse.click(*on_screen(page, 44, 44))
    wait_until(lambda: states(review, number).count("clear") == 1)
    page.mouse.move(*on_screen(page, 250, 180))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 260, 190))
    page.mouse.move(*on_screen(page, 270, 204))
    page.mouse.up()
    wait_until(lambda: len(states(review, number)) == 4)
    drawn = ask(review, f"/photos/{number}")["faces"][3]
    assert np.array(drawn[1:5]) == pytest.approx([250, 180, 270, 204], abs=1)
    shown = page.evaluate(
        """async (n) => { const answer = await fetch(`v1/review/photos/${n}/picture?covered=1`);
        const b = await createImageBitmap(await answer.blob());
        const c = new OffscreenCanvas(b.width, b.height).getContext("2d"); c.drawImage(b, 0, 0);
        return [...c.getImageData(0, 0, b.width, b.height).data]; }""",
        number,
    )
    page.focus("#stage")
    page.keyboard.press("Enter")
    wait_until(lambda: ask(review, "")["photos"][number - 1]["accepted"])
    page.click("#write")
    page.wait_for_selector("#report:not([hidden])")
    assert "3 faces found, 1 added, 1 taken away, 0 moved" in page.inner_text("#report")
    written = np.asarray(Image.open(tmp_path / "public/3.png"))
    before = np.asarray(Image.open(tmp_path / "3.png"))
    assert (np.array(shown, np.uint8).reshape(240, 320, 4)[..., :3] == written).all()
    assert (written[30:60, 30:60] == before[30:60, 30:60]).all()
    assert not written[180:204, 250:270].any() and not written[40:48, 120:128].any() and not written[120:128, 200:208].any()
    open_there = np.ones((240, 320), bool)
    for x1, y1, x2, y2 in [(120, 40, 128, 48), (200, 120, 208, 128), tuple(drawn[1:5])]:
        half_x, half_y = (x2 - x1) / 2 * 1.45 + 3.5, (y2 - y1) / 2 * 1.45 + 3.5
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        open_there[max(0, int(y - half_y)) : int(y + half_y) + 1, max(0, int(x - half_x)) : int(x + half_x) + 1] = False
    assert (written[open_there] == before[open_there]).all()
    assert not (tmp_path / "public/1.png").exists()


def test_the_covers_on_the_page_are_those_of_the_file(open_page, review):
    page = open_page()
    number = go_to(page, review, "2.png")
    page.click("#frames")
    page.mouse.click(*on_screen(page, 44, 44))
    wait_until(lambda: "clear" in states(review, number))
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)
    shot = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    stage = page.locator("#stage").bounding_box()

    def colour(x, y):
        left, top = on_screen(page, x, y)
        return shot[round(top - stage["y"]), round(left - stage["x"])].tolist()

    assert colour(44, 44)[0] > 240 and max(colour(124, 44)) < 10
    page.click("#covers")
    page.wait_for_timeout(300)
    shot = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    assert colour(124, 44)[0] > 240


def test_move_resize_delete_undo_and_redo_with_the_mouse(open_page, review):
    page = open_page()
    number = go_to(page, review, "1.png")

    def box():
        return ask(review, f"/photos/{number}")["faces"][0][1:5]

    first = box()
    page.mouse.move(*on_screen(page, 44, 44))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 60, 54))
    page.mouse.move(*on_screen(page, 74, 64))
    page.mouse.up()
    wait_until(lambda: box() != first)
    assert np.array(box()) == pytest.approx(np.add(first, [30, 20, 30, 20]), abs=1)
    moved = box()
    x, y = on_screen(page, moved[2], moved[3])
    page.mouse.move(x + 4, y + 4)
    page.mouse.down()
    page.mouse.move(*on_screen(page, moved[2] + 20, moved[3] + 20))
    page.mouse.up()
    wait_until(lambda: box() != moved)
    assert box()[:2] == moved[:2] and box()[2] - moved[2] == pytest.approx(20, abs=2)
    page.click("#delete")
    wait_until(lambda: states(review, number) == ["deleted"])
    for _ in range(3):
        page.click("#undo")
    wait_until(lambda: box() == first and states(review, number) == ["covered"])
    page.click("#redo")
    wait_until(lambda: box() == moved)


def test_keyboard_alone(open_page, review):
    page = open_page()
    number = go_to(page, review, "2.png")
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    wait_until(lambda: states(review, number)[0] == "clear")
    assert page.inner_text("#face").startswith("Face 1 of 2: clear, 8 \u00d7 8 px")
    page.keyboard.press("i")
    wait_until(lambda: len(states(review, number)) == 3)
    before = ask(review, f"/photos/{number}")["faces"][2][1:5]
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "]"):
        page.keyboard.press(key)
    wait_until(lambda: np.allclose(np.array(ask(review, f"/photos/{number}")["faces"][2][1:5]) - before, [0, 0, 2, 2]))
    page.keyboard.press("Delete")
    wait_until(lambda: states(review, number)[2] == "deleted")
    page.keyboard.press("u")
    wait_until(lambda: states(review, number)[2] == "covered")
    page.keyboard.press("z")
    page.keyboard.press("0")
    names = [page.inner_text("#name")]
    for key in ("Enter", "Enter", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(150)
        names.append(page.inner_text("#name"))
    assert sorted(set(names)) == ["1.png", "2.png", "3.png"]
    wait_until(lambda: all(photo["accepted"] for photo in ask(review, "")["photos"]))
    assert page.inner_text("#progress") == "3 of 3 accepted"
    labels = page.evaluate("[...document.querySelectorAll('button')].map((b) => b.ariaLabel || b.textContent.trim())")
    assert all(labels)


def test_fingers_on_a_tablet_in_the_dark(open_page, review):
    page = open_page(viewport={"width": 820, "height": 1180}, has_touch=True, color_scheme="dark")
    number = go_to(page, review, "1.png")
    page.touchscreen.tap(*on_screen(page, 44, 44))
    wait_until(lambda: states(review, number) == ["clear"])
    page.touchscreen.tap(*on_screen(page, 44, 44))
    wait_until(lambda: states(review, number) == ["covered"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 820
    hands = page.context.new_cdp_session(page)

    def touch(kind, *points):
        hands.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]},
        )

    touch("touchStart", on_screen(page, 150, 100))
    touch("touchMove", on_screen(page, 170, 120))
    touch("touchMove", on_screen(page, 190, 140))
    touch("touchEnd")
    wait_until(lambda: len(states(review, number)) == 2)
    assert np.array(ask(review, f"/photos/{number}")["faces"][1][1:5]) == pytest.approx([150, 100, 190, 140], abs=1)
    one, other = on_screen(page, 150, 150), on_screen(page, 170, 150)
    touch("touchStart", one, other)
    touch("touchMove", (one[0] - 60, one[1]), (other[0] + 60, other[1]))
    touch("touchEnd")
    page.wait_for_timeout(300)
    assert len(states(review, number)) == 2
    small = page.evaluate("[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 40).length")
    assert small == 0


def test_phone(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    height = "document.getElementById('photos').offsetHeight"
    before = page.evaluate(height)
    page.evaluate("document.querySelector('#photos .note').textContent = 'cannot be read as a video '.repeat(20)")
    assert page.evaluate(height) <= before + 24  # a line more, not twenty


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.focus("#stage")
    page.keyboard.press("ArrowRight")

    assert serious_violations(page) == []
    page.evaluate("document.body.append(new Image(20, 20))")  # which has no text for those who do not see it
    assert serious_violations(page) == ["image-alt"]


def test_the_next_photo_comes_by_itself_once_it_is_searched(open_page, review):
    """As long as all other photos wait to be searched, accepting leaves the last one on the screen."""
    page = open_page()
    held = []

    def late(route):
        answer = route.fetch()
        news = answer.json()
        if len(held) < 2:
            for photo in news["photos"][1:]:
                photo["state"] = "waiting"
            held.append(news)
        else:
            news["photos"] = ask(review, "")["photos"]
        route.fulfill(json=news)

    page.route("**/v1/review?since=*", late)
    page.reload()
    page.wait_for_selector("body[data-photo]")
    first = page.inner_text("#name")
    page.focus("#stage")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#name:not(:text-is('{first}'))")
    wait_until(lambda: sum(photo["accepted"] for photo in ask(review, "")["photos"]) == 1)
    assert page.inner_text("#status") == ""


def test_the_page_says_so_where_nothing_is_left_or_nothing_can_be_shown(open_page, review):
    """Also where the photos that were waited for turn out to be problems."""
    page = open_page()
    stage = {"waiting": "waiting"}

    def spoilt(route):
        news = ask(review, "")
        for photo in news["photos"][0 if "all" in stage else 1 :]:
            photo.update(state=stage["waiting"], accepted=False, problem="a.png: no photo")
        route.fulfill(json=news)

    page.route("**/v1/review?since=*", spoilt)
    page.reload()
    page.wait_for_selector("body[data-photo]")
    page.focus("#stage")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('Looking for faces in the next photo')")
    stage["waiting"] = "problem"
    page.wait_for_selector("#status:has-text('No photo is left to decide about')")
    stage["all"] = True
    page.reload()
    page.wait_for_selector("#status.alert:has-text('None of these files can be shown')")


def most_doubtful_first(review) -> list[int]:
    return [photo["number"] for photo in sorted(ask(review, "")["photos"], key=lambda photo: -photo["doubt"])]


def held_back(page, review, numbers: list[int]) -> None:
    """Let the queue say of these photos that they wait to be searched, until the list is emptied."""

    def answer(route):
        news = ask(review, "")
        for photo in news["photos"]:
            if photo["number"] in numbers:
                photo["state"] = "waiting"
        route.fulfill(json=news)

    page.route("**/v1/review?since=*", answer)
    page.reload()
    page.wait_for_selector("body[data-photo]")


def test_the_next_photo_is_one_that_is_loaded_also_when_a_more_doubtful_one_is_found(open_page, review):
    page = open_page()
    doubtful, first, second = most_doubtful_first(review)
    waiting, pictures = [doubtful], []
    page.route(f"**/photos/{doubtful}/picture*", lambda route: pictures.append(route))  # its picture takes long
    with page.expect_response(f"**/photos/{second}/picture?covered=true"):
        held_back(page, review, waiting)
    assert page.get_attribute("body", "data-photo") == str(first)
    waiting.clear()
    page.wait_for_selector("#progress:not(:has-text('searched'))")
    page.focus("#stage")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"body[data-photo='{second}']")
    page.keyboard.press("Enter")
    wait_until(lambda: (page.wait_for_timeout(20), pictures)[1])
    pictures[0].continue_()
    page.wait_for_selector(f"body[data-photo='{doubtful}']")


def test_a_photo_does_not_come_again_while_its_acceptance_is_saved(open_page, review):
    page = open_page()
    first, *waiting = most_doubtful_first(review)
    saved = []
    page.route("**/accepted", lambda route: saved.append(route))
    held_back(page, review, waiting)
    page.focus("#stage")
    page.keyboard.press("Enter")
    with page.expect_response("**/v1/review?since=*"):
        pass
    saved[0].continue_()
    wait_until(lambda: (page.wait_for_timeout(20), ask(review, f"/photos/{first}")["accepted"])[1])
    waiting.clear()
    page.wait_for_selector(f"body:not([data-photo='{first}'])")


def test_covers_and_the_photo_itself_are_there_for_photos_loaded_with_either(open_page, review):
    page = open_page()
    number = go_to(page, review, "3.png")
    colour = "([x, y]) => [...document.getElementById('picture').getContext('2d').getImageData(x, y, 1, 1).data]"
    stage = page.locator("#stage").bounding_box()

    def shown() -> list[int]:
        left, top = on_screen(page, 44, 44)
        return page.evaluate(colour, [left - stage["x"], top - stage["y"]])

    wait_until(lambda: (page.wait_for_timeout(20), max(shown()[:3]) < 10)[1])
    page.focus("#stage")
    page.keyboard.press("v")
    wait_until(lambda: (page.wait_for_timeout(20), shown()[0] > 240)[1])
    page.keyboard.press("p")
    page.wait_for_selector(f"body:not([data-photo='{number}'])")
    wait_until(lambda: (page.wait_for_timeout(20), shown()[0] > 240)[1])
    page.keyboard.press("v")
    wait_until(lambda: (page.wait_for_timeout(20), max(shown()[:3]) < 10)[1])
