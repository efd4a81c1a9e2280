"""A review in a process of its own, as `tinyfaces review` starts it."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving import Service


@contextmanager
def running_review(folder: Path, *options: str) -> Iterator[Service]:
    """Start it in a folder, on a free port."""
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
    command = [sys.executable, "-m", "tinyfaces", "review", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if port := re.search(r"http://127\.0\.0\.1:(\d+)/review", line):
                yield Service(process, int(port[1]), lines)
                break
        else:
            raise AssertionError(lines)
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


def exact_options(model: Path) -> list[str]:
    """Options with which what is written can be compared exactly."""
    return [*". --out public --method solid --threshold 0.5 --quality 0 --threads 1 --model".split(), str(model)]


def ask(service: Service, path: str, content: Any = None, **headers: str) -> Any:
    """The JSON answer of an address below /v1/review; a POST where there is content."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{service.url}/v1/review{path}", body, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def all_found(service: Service) -> list[dict[str, Any]]:
    """The queue, once all photos are searched."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        photos = ask(service, "")["photos"]
        if all(photo["state"] != "waiting" for photo in photos):
            return photos
        time.sleep(0.05)
    raise AssertionError("the photos are not searched")
