"""The page as static files: what is written where, and in headless Chromium that photos are searched and masked in the tab alone.

The tests in Chromium need the files of onnxruntime-web: `npm install onnxruntime-web@VERSION` in the checkout, or their folder in
the variable TINYFACES_ORT_WEB.
"""

import http.server
import io
import json
import os
import re
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from typer.testing import CliRunner

from browsing import browser as browser
from browsing import choose, encoded, needs_browser, static_server, watched_pages
from tinyfaces import Detector, read_image
from tinyfaces.cli import app
from tinyfaces.service import site_folder, static_page
from tinyfaces.service.site_folder import RECORD, SiteFolderError, write_site
from tinyfaces.service.static_page import GET_RUNTIME, RUNTIME_FOLDER, RUNTIME_VERSION
from tinyfaces.weights import second_stage

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "src/tinyfaces/service/page/example.jpg"
ORT_WEB = Path(os.environ.get("TINYFACES_ORT_WEB") or ROOT / RUNTIME_FOLDER)
needs_runtime = pytest.mark.skipif(
    not (ORT_WEB / "ort.wasm.bundle.min.mjs").is_file(),
    reason=f"needs onnxruntime-web: {GET_RUNTIME} in the checkout, or its folder in TINYFACES_ORT_WEB",
)


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["page", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the folder ---


def test_files_are_written_and_replaced(tmp_path):
    folder = tmp_path / "new" / "site"
    write_site(folder, {"index.html": b"1", "a/old.js": b"2", "a/b.js": b"3"})
    (folder / "CNAME").write_text("mine")
    write_site(folder, {"index.html": b"4", "a/b.js": b"3", "c.js": b"5"})
    files = contents(folder)
    record = json.loads(files.pop(RECORD))
    assert files == {"index.html": b"4", "a/b.js": b"3", "c.js": b"5", "CNAME": b"mine"}
    assert set(record["files"]) == {"index.html", "a/b.js", "c.js"}
    (tmp_path / "empty").mkdir()
    write_site(tmp_path / "empty", {"index.html": b"1"})
    assert set(contents(tmp_path / "empty")) == {"index.html", RECORD}


@pytest.mark.parametrize("name", ["index.html", "c.js", "holiday.jpg"])
def test_a_folder_of_others_is_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(SiteFolderError, match="not empty"):
        write_site(tmp_path, {"index.html": b"1", "c.js": b"2"})
    assert contents(tmp_path) == {name: b"mine"}


def test_files_that_were_changed_are_not_written_over(tmp_path):
    write_site(tmp_path, {"index.html": b"1", "a/b.js": b"2"})
    (tmp_path / "a/b.js").write_bytes(b"mine")
    (tmp_path / "c.js").write_bytes(b"also mine")
    before = contents(tmp_path)
    for name in ("a/b.js", "c.js"):
        with pytest.raises(SiteFolderError, match=re.escape(str(tmp_path / name))):
            write_site(tmp_path, {"index.html": b"3", name: b"4"})
        assert contents(tmp_path) == before
    write_site(tmp_path, {"index.html": b"3"})  # the changed file is no longer needed: it stays
    assert contents(tmp_path)["a/b.js"] == b"mine"


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "site").write_bytes(b"mine")
    with pytest.raises(SiteFolderError, match="is a file"):
        write_site(tmp_path / "site", {"index.html": b"1"})
    write_site(tmp_path / "other", {"index.html": b"1"})
    (tmp_path / "other" / RECORD).write_text("[]")
    with pytest.raises(SiteFolderError, match="damaged"):
        write_site(tmp_path / "other", {"index.html": b"1"})


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("after", range(5))
def test_a_run_that_fails_leaves_what_was_there(tmp_path, monkeypatch, earlier, after):
    """The disk is full after so many files."""
    folder = tmp_path / "site"
    if earlier:
        write_site(folder, {"index.html": b"1", "a.js": b"2"})
    before = contents(tmp_path)
    written, real = [], Path.write_bytes

    def full(path, content):
        if len(written) == after:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    files = {"index.html": b"3", "a.js": b"4", "b/c.js": b"5"}
    if after < 4:
        with pytest.raises(OSError):
            write_site(folder, files)
        assert contents(tmp_path) == before and folder.exists() == earlier
    monkeypatch.setattr(Path, "write_bytes", real)
    write_site(folder, files)
    assert {name: content for name, content in contents(folder).items() if name != RECORD} == files


@pytest.mark.parametrize("moves", range(4))
def test_after_a_run_that_was_killed_the_next_one_completes_the_page(tmp_path, monkeypatch, moves):
    """Killed while files are moved to their places: then there is no index.html, and no other file is half-written."""
    write_site(tmp_path, {"index.html": b"1", "a.js": b"2", "old.js": b"0"})
    real, moved = Path.replace, []

    def killed(path, target):
        if site_folder._STAGED in path.parts:
            if len(moved) == moves:
                raise KeyboardInterrupt
            moved.append(target)
        return real(path, target)

    files = {"index.html": b"3", "a.js": b"4", "b/c.js": b"5"}
    monkeypatch.setattr(Path, "replace", killed)
    if moves < 3:
        with pytest.raises(KeyboardInterrupt):
            write_site(tmp_path, files)
        assert not (tmp_path / "index.html").exists()
        assert (tmp_path / "a.js").read_bytes() in (b"2", b"4")
    monkeypatch.setattr(Path, "replace", real)
    write_site(tmp_path, files)
    assert {name: content for name, content in contents(tmp_path).items() if name != RECORD} == files


# --- the command ---


def test_without_the_runtime_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("--static", "site", code=2)
    assert said.count("\n") == 1 and f"npm install onnxruntime-web@{RUNTIME_VERSION}" in said and "--runtime" in said
    (tmp_path / "dist").mkdir()
    for name in static_page._RUNTIME_FILES:
        (tmp_path / "dist" / name).write_bytes(b"of another version")
    said = run("--static", "site", "--runtime", "dist", code=2)
    assert said.count("\n") == 1 and "SHA-256" in said and "ort.wasm.bundle.min.mjs" in said
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "slow"], "unknown model 'slow'"),
        (["--model", "fast", "--model", "fast"], "given twice"),
        (["--static", "page.json"], "is a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    said = run("--static", "site", *options, code=2)
    assert said.count("\n") == 1 and words in said and not list(tmp_path.iterdir())


# --- in the browser ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "site"
    run("--static", str(folder), "--runtime", str(ORT_WEB), "--model", "fast", "--model", "accurate")
    return folder


choose_in_tab = partial(choose, timeout=60_000)  # where the networks run on one core


@pytest.fixture
def open_page(browser, site):
    with static_server(site) as address, watched_pages(browser, address, "/", {"width": 1200, "height": 800}) as open_it:
        yield open_it


def boxes_saved(page) -> tuple[np.ndarray, np.ndarray]:
    with page.expect_download() as saved:
        page.click("#save-json")
    image = json.loads(Path(saved.value.path()).read_text())["images"][0]
    return np.array(image["boxes"], float).reshape(-1, 4), np.array(image["scores"])


def same_set(boxes: np.ndarray, wanted: np.ndarray) -> None:
    """Each face has a partner, none has two, and no side is more than a pixel away."""
    assert len(boxes) == len(wanted) > 0
    apart = np.abs(boxes[:, None] - wanted[None]).max(2)
    assert sorted(apart.argmin(1)) == list(range(len(wanted))) and apart.min(1).max() <= 1


@needs_runtime
@needs_browser
@pytest.mark.parametrize("model", ["fast", "accurate"])
def test_the_boxes_are_those_of_python(open_page, model):
    """By both stages: in the example photo, which is enlarged, turned by its EXIF, and one that is searched in tiles."""
    page = open_page()
    page.evaluate("document.body.dataset.state = ''")
    detector = Detector(model, precision="float32", device="cpu")
    assert detector.stages == "both"
    with Image.open(EXAMPLE) as opened:
        photo = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    photo.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", exif=exif, quality=92)
    files = [EXAMPLE.read_bytes(), turned.getvalue()]
    if model == "fast":
        files.append(encoded(np.tile(np.asarray(photo), (5, 4, 1)), "JPEG", quality=92))
    for number, content in enumerate(files):
        page.evaluate("document.body.dataset.state = ''")
        choose_in_tab(page, content)
        if not number and model == "accurate":
            page.evaluate("document.body.dataset.state = ''")
            page.select_option("#model", model)
            page.wait_for_selector("body[data-state=ready]", timeout=60_000)
        boxes, scores = boxes_saved(page)
        wanted = detector.detect(read_image(content))
        same_set(boxes, wanted.boxes)
        assert np.sort(scores) == pytest.approx(np.sort(wanted.scores), abs=0.01)
    assert "this tab" in page.inner_text("header") and page.is_hidden("text=this service")


@needs_runtime
@needs_browser
def test_what_is_saved_is_masked_and_has_no_metadata(open_page):
    page = open_page()
    exif = Image.Exif()
    exif[0x010E] = "at home"
    exif.get_ifd(0x8825)[1] = "N"
    photo = read_image(EXAMPLE)
    theirs, mine = ("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(theirs, mine)
    given = encoded(photo, "JPEG", exif=exif, quality=95, comment=b"mine", icc_profile=profile)
    assert b"mine" in given and mine in given
    choose_in_tab(page, given, name="crowd.jpg")
    boxes, _ = boxes_saved(page)
    page.check("input[value=anonymised]")
    page.select_option("#method", "solid")
    page.wait_for_selector("#status:has-text('masked')")
    page.wait_for_timeout(400)
    with page.expect_download() as saved:
        page.click("#save-picture")
    assert saved.value.suggested_filename == "crowd_anonymised.jpg"
    content = Path(saved.value.path()).read_bytes()
    made = Image.open(io.BytesIO(content))
    assert made.size == (photo.shape[1], photo.shape[0]) and not made.getexif() and not made.info.get("comment")
    assert not [word for word in (b"Exif", b"mine", mine, b"http") if word in content]
    for x, y in ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int).tolist():
        assert np.asarray(made)[y, x].max() < 16
    with page.expect_download() as saved:
        page.check("input[value=boxes]")
        page.click("#save-picture")
    framed = np.asarray(Image.open(saved.value.path())).astype(int)
    assert ((framed[..., 1] > 150) & (framed[..., 0] < 100)).sum() > 1000


@needs_runtime
@needs_browser
def test_a_png_keeps_all_pixels_but_the_masked(open_page):
    page = open_page()
    photo = read_image(EXAMPLE)
    choose_in_tab(page, encoded(photo))
    page.check("input[value=anonymised]")
    page.wait_for_selector("#status:has-text('masked')")
    page.wait_for_timeout(400)
    with page.expect_download() as saved:
        page.click("#save-picture")
    made = np.asarray(Image.open(saved.value.path()).convert("RGB"))
    assert made.shape == photo.shape and 0.02 < (made != photo).any(2).mean() < 0.3
    assert (made[-40:] == photo[-40:]).all()


@needs_runtime
@needs_browser
def test_refused_files_are_told_and_the_next_one_works(open_page):
    page = open_page()
    photo = encoded(read_image(EXAMPLE), "JPEG")
    for content, words in ((b"no picture", "cannot read"), (photo[:5000], "cannot read"), (b"", "empty")):
        page.evaluate("document.body.dataset.state = ''")
        choose_in_tab(page, content, state="refused")
        assert words in page.inner_text("#status") and page.is_hidden("#work")
    choose_in_tab(page, photo)
    assert page.inner_text("#status") == "" and page.inner_text("#count").startswith("2")


@needs_runtime
@needs_browser
def test_a_small_face_is_restored_in_the_tab(open_page):
    page = open_page()
    page.click("#example")
    page.wait_for_selector("body[data-state=ready]", timeout=60_000)
    page.click("#next")
    page.wait_for_selector("#restored-caption:has-text('restored')", timeout=30_000)


@needs_runtime
@needs_browser
def test_neither_the_page_nor_its_worker_can_ask_others(browser, site):
    """Nor could code that got into them: their policy keeps them from it."""
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *words):
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        with static_server(site) as address:
            page = browser.new_context().new_page()
            page.goto(address)
            page.click("#example")
            page.wait_for_selector("body[data-state=ready]", timeout=60_000)
            attempt = "(url) => fetch(url).then(() => 'answered', () => 'kept from it')"
            url = f"http://127.0.0.1:{other.server_port}/photo"
            assert [place.evaluate(attempt, url) for place in (page, *page.workers)] == ["kept from it"] * 2
            page.goto(f"{address}/site.json")
            assert page.evaluate(attempt, url) == "answered"  # as without the policy
            page.context.close()
    finally:
        other.shutdown()
        other.server_close()
    assert asked == ["/photo"]


@needs_runtime
def test_a_page_with_a_model_of_ones_own(tmp_path, toy_model):
    shutil.copy(toy_model, tmp_path / "mine.onnx")
    run("--static", str(tmp_path / "site"), "--runtime", str(ORT_WEB), "--model", str(tmp_path / "mine.onnx"), "--model", "fast")
    offers = json.loads((tmp_path / "site/site.json").read_text())
    assert [(model["name"], model["threshold"], model["enlarges"]) for model in offers["models"]] == [
        ("mine", 0.3, False),
        ("fast", Detector("fast").threshold, True),
    ]
    assert [model["second_stage"] for model in offers["models"]] == [
        None,  # as in Python
        {"judge": "models/judge.onnx", "rule": second_stage().rules["fast"]},
    ]
    assert (tmp_path / "site/models/judge.onnx").read_bytes() == second_stage().judge_path.read_bytes()
    assert (tmp_path / "site/models/mine.onnx").read_bytes() == toy_model.read_bytes()
    assert "research use only" in (tmp_path / "site/models/README.txt").read_text()
    page = (tmp_path / "site/index.html").read_text()
    assert "Content-Security-Policy" in page and "sent to this service" not in page and 'href="docs"' not in page
    run("--static", str(tmp_path / "alone"), "--runtime", str(ORT_WEB), "--model", str(tmp_path / "mine.onnx"))
    assert sorted(path.name for path in (tmp_path / "alone/models").glob("*.onnx")) == ["generator.onnx", "mine.onnx"]
