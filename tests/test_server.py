"""The service as a process: slow and hostile clients, many at once, and its end."""

import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")
pytest.importorskip("httpx2", reason="comes with the extra: pip install '.[test]'")
import httpx2 as httpx
import uvicorn

from conftest import corners, paint
from serving import running_service
from tinyfaces.cli import app
from tinyfaces.detection.images import read_image
from tinyfaces.service import server

EXAMPLE = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"


@pytest.fixture(scope="module")
def service(toy_model):
    with running_service("--model", str(toy_model), "--receive-timeout", "1", "--max-megabytes", "4") as service:
        yield service
        assert service.process.poll() is None
        assert len(service.lines) == 1, service.lines  # no traceback, no warning


def png(pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


PHOTO = png(paint(64, 96, [(8, 8)]))


def head(length: int, *more: str) -> bytes:
    lines = ["POST /v1/detect HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def alive(service) -> bool:
    answer = httpx.post(f"{service.url}/v1/detect", content=PHOTO, headers={"Content-Type": "image/png"}, timeout=10)
    return answer.status_code == 200 and len(answer.json()["boxes"]) == 1


def wait_for_metric(service, line: str) -> None:
    deadline = time.monotonic() + 10
    while line not in (text := httpx.get(f"{service.url}/metrics").text).splitlines():
        assert time.monotonic() < deadline, text
        time.sleep(0.005)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_senders_that_stall_get_408_and_are_cut_off(service):
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        begun = time.monotonic()
        connection.sendall(head(len(PHOTO)) + PHOTO[:30])
        answer = read_all(connection)
        assert b" 408 " in answer.splitlines()[0] and b"1 s to arrive" in answer
        assert 0.9 < time.monotonic() - begun < 5
    assert alive(service)


def test_many_slow_senders_keep_nobody_out(service):
    connections = [socket.create_connection(("127.0.0.1", service.port), 10) for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall(b"POST /v1/det" if number % 2 else head(4_000_000) + bytes(1000))
    begun = time.monotonic()
    assert alive(service)
    assert time.monotonic() - begun < 5
    for connection in connections:
        connection.close()


def connections_to(protocol, app, talk):
    """What `talk(reader, writer)` gives with a connection to an application served by a uvicorn protocol."""

    async def run():
        config = uvicorn.Config(app, http=protocol, log_level="critical")
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname(), limit=1000)
        begun = loop.time()
        with suppress(ConnectionError):
            await asyncio.wait_for(talk(reader, writer), 5)
        writer.close()
        listening.close()
        return loop.time() - begun

    return asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_head_that_never_ends_is_cut_off(sent):
    async def talk(reader, writer):
        writer.write(sent)
        assert await reader.read() == b""

    assert 0.2 < connections_to(server._deadline_protocol(0.3), lambda scope: None, talk) < 3


def test_a_client_that_never_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr(server, "_SEND_SECONDS", 0.3)
    over = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(50_000_000), "more_body": True})
        await send({"type": "http.response.body", "body": b"never sent while the first part waits"})
        over.set()

    async def talk(reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await over.wait()

    assert 0.2 < connections_to(server._deadline_protocol(5), app, talk) < 3


def test_too_large_is_told_before_it_is_sent(service):
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(head(10_000_000_000, "Expect: 100-continue"))
        assert b" 413 " in connection.recv(4096).splitlines()[0]
    answer = httpx.post(f"{service.url}/v1/detect", files={"file": ("a.png", PHOTO + bytes(8_000_000))})
    assert answer.status_code == 413 and "4 MB" in answer.json()["detail"]
    assert alive(service)


def test_thousands_of_tiny_requests(service):
    bodies = [b"", b"x", b"\x89PNG", PHOTO[:20], b"%PDF"]
    requests = b"".join(head(len(body)) + body for body in bodies)

    async def send(rounds):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        statuses = []
        for _ in range(rounds):
            writer.write(requests)
            for _ in bodies:
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                statuses.append(int(answer.split()[1]))
        writer.close()
        return statuses

    async def run():
        return await asyncio.gather(*[send(15) for _ in range(16)])

    for statuses in asyncio.run(run()):
        assert statuses == [400, 415, 415, 422, 415] * 15
    assert alive(service)


def test_nonsense_instead_of_http(service):
    for sent in (b"\x16\x03\x01\x02\x00hello", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 10, b"A" * 100_000):
        with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                read_all(connection)
    assert alive(service)


@pytest.mark.slow
def test_64_clients_each_get_their_own_faces(service):
    def ask(number):
        squares = [(8 * (number % 8), 8 * (number // 8)), (72, 8)]
        with httpx.Client(timeout=30) as client:
            statuses, boxes = [], None
            while boxes is None:
                answer = client.post(f"{service.url}/v1/detect", files={"file": ("a.png", png(paint(64, 96, squares)))})
                statuses.append(answer.status_code)
                boxes = answer.json().get("boxes")
                assert answer.status_code in (200, 429)
                time.sleep(0.05 if boxes is None else 0)
        return {tuple(round(side) for side in box) for box in boxes} == corners(squares)

    with ThreadPoolExecutor(64) as threads:
        assert all(threads.map(ask, range(64)))


def test_gone_clients_leave_no_places_taken(service):
    large = png(np.random.default_rng(0).integers(0, 200, (900, 1200, 3)).astype(np.uint8))
    for _ in range(12):
        with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
            connection.sendall(head(len(large)) + large)
    wait_for_metric(service, "tinyfaces_queue_taken 0.0")
    assert alive(service)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.slow
def test_requests_under_way_are_answered_before_the_end():
    with running_service("--model", "fast") as service:
        photo = png(np.concatenate([read_image(EXAMPLE)] * 3, axis=1))
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(httpx.post, f"{service.url}/v1/detect", files={"file": ("a.png", photo)}, timeout=60)
            wait_for_metric(service, "tinyfaces_queue_taken 1.0")
            os.kill(service.process.pid, signal.SIGTERM)
            assert len(answer.result().json()["boxes"]) >= 80
        assert service.process.wait(10) in (0, -signal.SIGTERM)
        assert len(service.lines) == 1, service.lines


def test_a_taken_port_is_told_in_a_line(service):
    result = CliRunner().invoke(app, ["serve", "--port", str(service.port), "--model", "fast"])
    assert result.exit_code == 2
    assert result.stderr == f"tinyfaces: port {service.port} is already in use\n"


@pytest.mark.parametrize("absent", ["fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "python_multipart"])
def test_an_absent_extra_is_told_in_a_line(monkeypatch, absent):
    for module in [name for name in sys.modules if name.startswith("tinyfaces.service")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, absent, None)
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1 and "pip install 'tinyfaces[serve]'" in result.stderr


def test_wrong_models(tmp_path):
    result = CliRunner().invoke(app, ["serve", "--model", "fast", "--model", "fast"])
    assert (result.exit_code, result.stderr) == (2, "tinyfaces: model 'fast' is given twice\n")
    (tmp_path / "x.onnx").write_text(json.dumps("no model"))
    result = CliRunner().invoke(app, ["serve", "--model", str(tmp_path / "x.onnx")])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_an_answer_on_a_kept_connection_does_not_wait_for_an_acknowledgement(service):
    with httpx.Client() as client:
        seconds = []
        for _ in range(30):
            begun = time.perf_counter()
            assert client.get(f"{service.url}/healthz").status_code == 200
            seconds.append(time.perf_counter() - begun)
    assert sorted(seconds)[len(seconds) // 2] < 0.010, seconds
