"""A service in a process of its own, as `tinyfaces serve` starts it."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Service:
    process: subprocess.Popen
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def client_class() -> Any:
    """FastAPI's `TestClient`; the test, or the file, is skipped where it or what it sends requests with is missing."""
    try:
        from fastapi.testclient import TestClient
    except ImportError:
        pytest.skip("needs the extra: pip install 'tinyfaces[serve]'", allow_module_level=True)
    except RuntimeError as error:  # Starlette's way to say that its HTTP client is missing
        pytest.skip(f"needs pip install 'tinyfaces[serve,test]': {error}", allow_module_level=True)
    return TestClient


@contextmanager
def running_service(*options: str) -> Iterator[Service]:
    """Start it on a free port; it is stopped by SIGTERM at the end."""
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
    command = [sys.executable, "-m", "tinyfaces", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stderr.readline()
        port = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        assert port, first
        service = Service(process, int(port[1]), [first])
        reader = threading.Thread(target=lambda: service.lines.extend(process.stderr), daemon=True)
        reader.start()
        yield service
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
