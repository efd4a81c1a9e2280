"""The review of videos in headless Chromium: real clicks, keys and fingers on frames and on the timeline."""

import numpy as np
import pytest

from browsing import browser as browser
from browsing import needs_browser, serious_violations, watched_pages
from reviewing import all_found, ask, exact_options, running_review
from test_review_page import wait_until

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
pytestmark = needs_browser

from PIL import Image  # noqa: E402

from conftest import paint  # noqa: E402
from test_video import crowd, frames_of, write  # noqa: E402

WIDTH, HEIGHT, FRAMES = 192, 128, 30


@pytest.fixture(scope="module")
def review(tmp_path_factory, toy_model):
    """A review of a clip with five faces and of a photo."""
    folder = tmp_path_factory.mktemp("film")
    write(folder / "clip.mp4", crowd(FRAMES)[0], sound=False)
    Image.fromarray(paint(64, 64, [(8, 8)])).save(folder / "photo.png")
    with running_review(folder, *exact_options(toy_model)) as service:
        all_found(service)
        service.folder = folder
        yield service
    assert not [line for line in service.lines if "Traceback" in line]


@pytest.fixture
def open_clip(browser, review):
    """A function that opens the page with the clip, of which nothing is decided."""
    number = next(entry["number"] for entry in ask(review, "")["photos"] if entry["name"] == "clip.mp4")
    facts = ask(review, f"/videos/{number}")
    undone = {
        "edition": facts["edition"],
        "tracks": [{"track": track, "state": "covered"} for track in facts["clear"]],
        "drawn": [{**face, "state": "deleted"} for face in facts["drawn"]],
    }
    ask(review, f"/videos/{number}/changes", undone)
    with watched_pages(browser, review.url, "/review", {"width": 1280, "height": 900}) as open_it:

        def open_and_wait(**options):
            page = open_it(**options)
            page.locator("#photos button", has_text="clip.mp4").click()
            page.wait_for_selector("body.filmed[data-frame='0']")
            page.number = number
            return page

        yield open_and_wait


def facts_of(review, page):
    return ask(review, f"/videos/{page.number}")


def drawn_of(review, page):
    return [face for face in facts_of(review, page)["drawn"] if face["state"] == "covered"]


def on_screen(page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the frame lies on the page, as long as all of it is shown."""
    stage = page.locator("#stage").bounding_box()
    scale = min(stage["width"] / WIDTH, stage["height"] / HEIGHT, 8)
    left, top = stage["x"] + (stage["width"] - WIDTH * scale) / 2, stage["y"] + (stage["height"] - HEIGHT * scale) / 2
    return left + x * scale, top + y * scale


def go_to(page, frame: int) -> None:
    page.fill("#seek", str(frame))
    page.wait_for_selector(f"body[data-frame='{frame}']")


def drag(page, *points) -> None:
    page.mouse.move(*on_screen(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, *point))
    page.mouse.up()


def test_switch_a_track_off_draw_a_face_in_two_frames_and_write(open_clip, review):
    page = open_clip()
    places = crowd(FRAMES)[1]
    x, y = places[0][0]
    page.mouse.click(*on_screen(page, x + 4, y + 4))
    wait_until(lambda: len(facts_of(review, page)["clear"]) == 1)
    assert page.inner_text("#face").endswith("clear, 0:00.00 to 0:01.16") and page.locator("#tracks li.clear.chosen").count() == 1
    go_to(page, 8)
    drag(page, (100, 100), (106, 104), (110, 112))
    wait_until(lambda: len(drawn_of(review, page)) == 1)
    go_to(page, 16)
    drag(page, (105, 106), (115, 110), (125, 106))
    wait_until(lambda: len(drawn_of(review, page)[0]["keys"]) == 2)
    (face,) = drawn_of(review, page)
    assert [key["frame"] for key in face["keys"]] == [8, 16]
    assert np.array([key["box"] for key in face["keys"]]) == pytest.approx(
        np.array([[100, 100, 110, 112], [120, 100, 130, 112]]), abs=1
    )
    go_to(page, 12)  # between them the box is halfway
    page.wait_for_timeout(200)
    shown = page.evaluate(
        """async (n) => { const answer = await fetch(`v1/review/videos/${n}/frames/12?covered=1`);
        const b = await createImageBitmap(await answer.blob());
        const c = new OffscreenCanvas(b.width, b.height).getContext("2d"); c.drawImage(b, 0, 0);
        return [...c.getImageData(0, 0, b.width, b.height).data]; }""",
        page.number,
    )
    page.keyboard.press("Enter")
    wait_until(lambda: ask(review, "")["photos"][page.number - 1]["accepted"])
    page.click("#write")
    page.wait_for_selector("#report:not([hidden])", timeout=30_000)
    assert "5 faces found, 1 added, 1 taken away" in page.inner_text("#report")
    before, after = (
        [frame.to_ndarray(format="rgb24") for frame in frames_of(review.folder / name)]
        for name in ("clip.mp4", "public/clip.mp4")
    )
    assert (np.array(shown, np.uint8).reshape(HEIGHT, WIDTH, 4)[..., :3] == after[12]).all()
    for number, here in enumerate(places):
        near = [(x, y) for x, y in here[1:] if abs(x - here[0][0]) < 24 and abs(y - here[0][1]) < 24]
        for place, (x, y) in enumerate(here):
            area = np.s_[y : y + 8, x : x + 8]
            if place:
                assert not after[number][area].any()
            elif not near and not 8 <= number <= 16:
                assert (after[number][area] == before[number][area]).all()
    assert not after[12][104:108, 112:118].any() and after[17][104:108, 122:128].all() and after[7][104:108, 102:108].all()


def test_a_video_by_keyboard_alone(open_clip, review):
    page = open_clip()
    page.focus("#stage")
    page.keyboard.press("ArrowDown")
    chosen = page.get_attribute("#tracks li.chosen button", "aria-label")
    assert chosen.startswith("Cover track") and chosen.endswith("0:00.00 to 0:01.16")
    page.keyboard.press(" ")
    wait_until(lambda: len(facts_of(review, page)["clear"]) == 1)
    assert page.get_attribute("#tracks li.chosen button", "aria-checked") == "false"
    page.keyboard.press("u")
    wait_until(lambda: facts_of(review, page)["clear"] == [])
    page.keyboard.press("r")
    wait_until(lambda: len(facts_of(review, page)["clear"]) == 1)
    for key, frame in [("ArrowRight", 1), ("l", 26), ("End", 29), ("j", 4), ("ArrowLeft", 3), ("Home", 0), ("l", 25)]:
        page.keyboard.press(key)
        page.wait_for_selector(f"body[data-frame='{frame}']")
    assert page.get_attribute("#seek", "aria-valuetext") == "frame 26 of 30, 0:01.00"
    page.keyboard.press("i")
    wait_until(lambda: len(drawn_of(review, page)) == 1)
    first = drawn_of(review, page)[0]["keys"][0]
    assert first["frame"] == 25
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-frame='26']")
    page.wait_for_timeout(200)
    page.keyboard.press("Shift+ArrowRight")
    wait_until(lambda: len(drawn_of(review, page)[0]["keys"]) == 2)
    assert np.subtract(drawn_of(review, page)[0]["keys"][1]["box"], first["box"]).tolist() == [1, 0, 1, 0]
    page.keyboard.press("k")
    wait_until(lambda: len(drawn_of(review, page)[0]["keys"]) == 1)
    page.keyboard.press("Delete")
    wait_until(lambda: drawn_of(review, page) == [])
    for _ in range(2):
        page.keyboard.press("u")
    wait_until(lambda: drawn_of(review, page) and len(drawn_of(review, page)[0]["keys"]) == 2)
    page.focus("#seek")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-frame='27']")
    page.keyboard.press("v")
    page.keyboard.press("p")
    page.keyboard.press("n")
    page.wait_for_selector("body:not(.filmed)")
    assert page.inner_text("#name") == "photo.png" and page.is_hidden("#film")
    page.keyboard.press("v")


def test_fingers_on_a_phone_in_the_dark(open_clip, review):
    page = open_clip(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    row = page.locator("#tracks li").nth(1)
    row.locator("button").tap()
    wait_until(lambda: len(facts_of(review, page)["clear"]) == 1)
    box = row.locator(".bars").bounding_box()
    row.scroll_into_view_if_needed()
    row.locator(".bars").tap(position={"x": box["width"] * 0.72, "y": 15})
    page.wait_for_selector("body[data-frame='21']")
    page.locator("#stage").scroll_into_view_if_needed()
    x, y = crowd(FRAMES)[1][21][4]
    page.touchscreen.tap(*on_screen(page, x + 4, y + 4))
    wait_until(lambda: len(facts_of(review, page)["clear"]) == 2)
    hands = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [(100, 104)]),
        ("touchMove", [(108, 110)]),
        ("touchMove", [(116, 120)]),
        ("touchEnd", []),
    ):
        touches = [dict(zip("xy", on_screen(page, *point), strict=True)) for point in points]
        hands.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    wait_until(lambda: len(drawn_of(review, page)) == 1)
    assert drawn_of(review, page)[0]["keys"][0]["frame"] == 21
    small = page.evaluate("[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 40).length")
    assert small == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_timeline(open_clip, scheme):
    page = open_clip(color_scheme=scheme)
    page.focus("#stage")
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    assert serious_violations(page) == []


def test_a_photo_is_drawn_until_the_first_frame_of_a_video_is_there(browser, tmp_path, toy_model):
    """Also where the page changes its size meanwhile, and where so many photos lie between that it is no longer kept ready."""
    write(tmp_path / "a.mp4", crowd(3)[0], sound=False)
    for number in range(6):
        Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / f"b{number}.png")
    with (
        running_review(tmp_path, *exact_options(toy_model)) as service,
        watched_pages(browser, service.url, "/review", {"width": 1280, "height": 900}) as open_it,
    ):
        all_found(service)
        page = open_it()
        page.locator("#photos button", has_text="b5.png").click()
        page.wait_for_selector("body:not(.filmed)[data-photo]")
        page.wait_for_timeout(500)
        held = []
        page.route("**/frames/**", lambda route: route.continue_() if held else held.append(route))
        page.locator("#photos button", has_text="a.mp4").click()
        page.wait_for_selector("body.filmed")
        page.wait_for_timeout(500)
        page.set_viewport_size({"width": 1000, "height": 800})
        page.wait_for_timeout(500)
        for route in held:
            route.continue_()
        page.wait_for_selector("body[data-frame='0']")


def test_frames_play_and_an_unsearched_video_opens_once_it_is_searched(open_clip, review):
    page = open_clip()
    page.click("#play")
    page.wait_for_selector(f"body[data-frame='{FRAMES - 1}']", timeout=20_000)
    assert page.get_attribute("#play", "aria-pressed") == "false"
    asked = []

    def late(route):
        """As if it were searched only after it was asked for twice."""
        answer = route.fetch()
        asked.append(1)
        facts = answer.json()
        route.fulfill(json={**facts, "state": "waiting"} if len(asked) < 2 else facts)

    page.route(f"**/v1/review/videos/{page.number}", late)
    page.reload()
    page.wait_for_selector("#photos button")
    page.locator("#photos button", has_text="clip.mp4").click()
    page.wait_for_selector("body.filmed[data-frame='0']")
    assert len(asked) == 2
