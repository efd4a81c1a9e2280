"""Pages in headless Chromium, watched: no script may fail, and nothing may be asked of others."""

import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'tinyfaces[test]'")

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: apt-get install chromium, or CHROMIUM=its path")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield browser
        browser.close()


@contextmanager
def watched_pages(browser, origin: str, path: str, size: dict[str, int], expected: str = "") -> Iterator[Callable]:
    """A function that opens a page, with any options of a browser context.

    Args:
        browser: The fixture.
        origin: All that may be asked begins with it.
        path: Of the page.
        size: Of the window, unless an option says otherwise.
        expected: Messages that hold this text are no problem.
    """
    contexts, problems, asked = [], [], []

    def open_it(**options):
        context = browser.new_context(viewport=options.pop("viewport", size), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{origin}{path}")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not [text for text in problems if not expected or expected not in text]
    assert asked and all(url.startswith((origin, "blob:")) for url in asked)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image HxWx3 as a file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def choose(page: Any, content: bytes, name: str = "crowd.png", state: str = "ready", timeout: float | None = None) -> None:
    """Open a file on the page for photos, and wait until it says that it is in a state. timeout: in milliseconds."""
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_selector(f"body[data-state={state}]", timeout=timeout)


def serious_violations(page: Any) -> list[str]:
    """The serious findings of axe-core on a page. Skips the test where that is not installed."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python, which is in the extra test"
    )
    found = axe.Axe().run(page).response["violations"]
    return [one["id"] for one in found if one["impact"] in ("serious", "critical")]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def static_server(folder: Path) -> Iterator[str]:
    """Serves the files of a folder as `python -m http.server` does; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
