"""Load the service on this machine and compare it with the plain Python call, both on the same cores.

    python benchmarks/serve.py

Writes docs/service_benchmark.json and docs/service_benchmark.md: latency and throughput at 1, 8 and 64 clients, memory
over a minute of 64 clients, and how hostile uploads are met. Each client sends the next photo as soon as it has the answer
to the one before; the clients run on the cores that they load. Only this machine is ever asked.
"""

import argparse
import asyncio
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tinyfaces import Detector
from tinyfaces.detection.runtime import processor_name
from tinyfaces.files import write_atomically

ROOT = Path(__file__).parents[1]
CLIENTS = (1, 8, 64)
WIDTHS = (1024, 1024, 960, 800)  # of the photos sent in turn: some alike, some not
TINY_REQUESTS = 10_000


def photos() -> list[bytes]:
    """The example photo as JPEG of several sizes."""
    photo = Image.open(ROOT / "examples/solvay_1927.jpg").convert("RGB")
    files = []
    for width in WIDTHS:
        content = io.BytesIO()
        photo.resize((width, round(photo.height * width / photo.width)), Image.Resampling.LANCZOS).save(
            content, "JPEG", quality=90
        )
        files.append(content.getvalue())
    return files


def plain_loop(detector: Detector, seconds: float) -> list[float]:
    """Seconds of each `Detector.detect`, one photo after the other."""
    files = photos()
    times: list[float] = []
    while sum(times) < seconds:
        begun = time.perf_counter()
        detector.detect(Image.open(io.BytesIO(files[len(times) % len(files)])))
        times.append(time.perf_counter() - begun)
    return times


def measure_load(port: int, pid: int, threads: int, seconds: float, rounds: int) -> dict[str, dict]:
    """The plain call and the service at 1, 8 and 64 clients take turns; by their names, the median of each number."""
    detector = Detector(threads=threads)
    rows: dict[str, list[dict]] = {}
    for turn in range(rounds + 1):
        times = plain_loop(detector, seconds)
        found = {"plain": summary(times, sum(times))}
        found |= {str(number): asyncio.run(load(port, pid, number, seconds)) for number in CLIENTS}
        found["8"]["times_plain"] = round(found["8"]["per_second"] / found["plain"]["per_second"], 2)
        for name, row in found.items():
            if turn:  # the first round warms up
                rows.setdefault(name, []).append(row)
    result = {}
    for name, several in rows.items():
        keys = [key for key in several[0] if key != "statuses"]
        result[name] = {key: round(statistics.median(row[key] for row in several), 2) for key in keys}
        if name != "plain":
            result[name]["statuses"] = dict(sum((Counter(row["statuses"]) for row in several), Counter()))
    return result


def summary(times: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "photos": len(times),
        "per_second": round(len(times) / seconds, 2),
        "p50_ms": round(1e3 * statistics.median(ordered), 1),
        "p99_ms": round(1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
    }


@contextmanager
def service(options: list[str]):
    """The service in a process of its own: its process id and port."""
    command = [sys.executable, "-m", "tinyfaces", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert port is not None and process.poll() is None
        yield process.pid, int(port[1])
    finally:
        process.terminate()
        process.wait(30)


def resident(pid: int) -> float:
    """Megabytes of memory of a process (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def request(body: bytes) -> bytes:
    return b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def client(port: int, requests: list[bytes], first: int, until: float, times: list, statuses: Counter) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = first
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(requests[turn % len(requests)])
        status, _ = await one_answer(reader)
        statuses[status] += 1
        if status == 200:
            times.append((begun, time.perf_counter()))
            turn += 1
        else:
            await asyncio.sleep(1 if status == 429 else 0)
    writer.close()


async def load(port: int, pid: int, clients: int, seconds: float) -> dict:
    """What so many clients get for so many seconds, and the service's memory meanwhile, from the second quarter on."""
    requests = [request(content) for content in photos()]
    begun = time.perf_counter()
    times: list[tuple[float, float]] = []
    statuses: Counter = Counter()
    memory: list[float] = []

    async def watch() -> None:
        await asyncio.sleep(seconds / 4)
        while True:
            memory.append(resident(pid))
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*[client(port, requests, n, begun + seconds, times, statuses) for n in range(clients)])
    watching.cancel()
    spent = max(end for _, end in times) - begun
    half = len(memory) // 2
    return {
        **summary([end - start for start, end in times], spent),
        "statuses": dict(sorted(statuses.items())),
        "memory_first_half_mb": round(statistics.mean(memory[:half]), 1),
        "memory_second_half_mb": round(statistics.mean(memory[half:]), 1),
        "memory_most_mb": round(max(memory), 1),
        "memory_end_mb": round(memory[-1], 1),
    }


def png_of(width: int, height: int, rows: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def form(name: bytes, content: bytes) -> bytes:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n' % (name, content)
    head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def hostile(port: int) -> dict[str, dict]:
    """Status, message and milliseconds of the answer to each kind of hostile upload."""
    photo = photos()[0]
    noise = np.random.default_rng(0).integers(0, 255, 40_000_000).astype(np.uint8).tobytes()
    uploads = {
        "text instead of a picture": request(b"hello"),
        "truncated JPEG": request(photo[: len(photo) // 2]),
        "200 MP PNG, all there (0.2 MB)": request(png_of(20_000, 10_000, 10_000)),
        "4,295 MP in a PNG's header": request(png_of(2**16, 2**16, 1)),
        "40 MB of noise": request(noise),
        "name with ../": form(b"../../etc/passwd", photo),
    }
    results = {}
    for kind, sent in uploads.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begun = time.perf_counter()
        writer.write(sent)
        status, body = await one_answer(reader)
        milliseconds = 1e3 * (time.perf_counter() - begun)
        writer.close()
        results[kind] = {"status": status, "detail": json.loads(body)["detail"], "ms": round(milliseconds, 1)}
    return results


async def tiny(port: int) -> dict:
    """Thousands of requests of a few bytes over 32 connections, and a photo among them."""
    connections = 32

    async def send(number: int) -> Counter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        statuses: Counter = Counter()
        for _ in range(number):
            writer.write(request(b"x"))
            statuses[(await one_answer(reader))[0]] += 1
        writer.close()
        return statuses

    async def photo() -> float:
        await asyncio.sleep(0.5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begun = time.perf_counter()
        writer.write(request(photos()[0]))
        assert (await one_answer(reader))[0] == 200
        writer.close()
        return time.perf_counter() - begun

    begun = time.perf_counter()
    among = asyncio.create_task(photo())
    counts = await asyncio.gather(*[send(-(-TINY_REQUESTS // connections)) for _ in range(connections)])
    seconds = time.perf_counter() - begun
    total: Counter = sum(counts, Counter())
    return {"statuses": dict(total), "seconds": round(seconds, 2), "photo_among_them_ms": round(1e3 * await among, 1)}


async def slow(port: int, number: int = 300) -> dict:
    """Hundreds of senders that stall in their heads or bodies: how long a photo takes meanwhile."""
    writers = []
    for turn in range(number):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/de" if turn % 2 else request(photos()[0] if turn == 0 else bytes(200_000))[:5000])
        writers.append(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.perf_counter()
    writer.write(request(photos()[0]))
    status, _ = await one_answer(reader)
    seconds = time.perf_counter() - begun
    for each in [*writers, writer]:
        each.close()
    return {"senders": number, "photo_meanwhile_status": status, "photo_meanwhile_ms": round(1e3 * seconds, 1)}


def machine(threads: int) -> str:
    """Processor, threads, versions, and how busy it is."""
    import onnxruntime

    load = f"load average {os.getloadavg()[0]:.1f} at the start"  # of whatever else ran
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:  # as after `chrt -r 5`
        load += ", real-time priority over other programs"
    return f"{processor_name()}, {os.cpu_count()} cores, {threads} threads, ONNX Runtime {onnxruntime.__version__}; {load}"


def as_tables(results: dict) -> str:
    """The numbers in Markdown."""
    lines = ["# The service under load", "", f"    {results['command']}", "", f"Machine: {results['machine']}.", ""]
    if "load" in results:
        lines += [
            "The clients send the example photo as JPEG, 1024, 1024, 960 and 800 pixels wide, to the model `accurate`. They run",
            "on the same cores as the service. The Python loop and the service took turns; the table has the medians.", "",
            "| | Photos per second | p50, ms | p99, ms | Statuses |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, row in results["load"].items():
            title = "Python loop without the service" if name == "plain" else f"service, {name} client{'s' * (name != '1')}"
            told = statuses_of(row) if "statuses" in row else ""
            lines.append(f"| {title} | {row['per_second']} | {row['p50_ms']} | {row['p99_ms']} | {told} |")
        lines += [
            "",
            f"With 8 clients the service answers {results['load']['8']['times_plain']} times as many photos as the loop.",
        ]
    if "minute" in results:
        row = results["minute"]
        lines += [
            "", f"64 clients for {row['seconds']:g} s got {statuses_of(row)} at {row['per_second']} photos per second. From "
            f"second {row['seconds'] / 4:g} on, the service used {row['memory_first_half_mb']} MB on average in the first half, "
            f"{row['memory_second_half_mb']} MB in the second half, and {row['memory_most_mb']} MB at most.",
        ]  # fmt: skip
    if "hostile" in results:
        lines += ["", "| Hostile upload | Status | ms | Message |", "|---|---|---|---|"]
        lines += [f"| {kind} | {row['status']} | {row['ms']} | {row['detail']} |" for kind, row in results["hostile"].items()]
        tiny, slow = results["tiny"], results["slow"]
        lines += [
            "", f"{TINY_REQUESTS} requests of one byte got {statuses_of(tiny)} in {tiny['seconds']} s. A photo sent among them "
            f"took {tiny['photo_among_them_ms']} ms.",
            "", f"While {slow['senders']} clients stalled in the middle of an upload, a photo took "
            f"{slow['photo_meanwhile_ms']} ms (status {slow['photo_meanwhile_status']}).",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def statuses_of(row: dict) -> str:
    return ", ".join(f"{count} x {status}" for status, count in row["statuses"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the plain call and the service by turns")
    parser.add_argument("--minute", type=float, default=60, help="seconds of the long run with 64 clients")
    parser.add_argument("--parts", nargs="+", choices=("load", "minute", "hostile"), default=("load", "minute", "hostile"))
    parser.add_argument("--dry", action="store_true", help="print the numbers, write nothing")
    arguments = parser.parse_args()
    out = ROOT / "docs/service_benchmark.json"
    results = json.loads(out.read_text()) if out.exists() and not arguments.dry else {}
    results["command"] = "python benchmarks/serve.py"
    results["machine"] = machine(arguments.threads)
    options = ["--threads", str(arguments.threads)]
    if "load" in arguments.parts:
        with service(options) as (pid, port):
            results["load"] = measure_load(port, pid, arguments.threads, arguments.seconds, arguments.rounds)
    if "minute" in arguments.parts:
        with service(options) as (pid, port):
            results["minute"] = {"seconds": arguments.minute, **asyncio.run(load(port, pid, 64, arguments.minute))}
    if "hostile" in arguments.parts:
        with service(options) as (_, port):
            results["hostile"] = asyncio.run(hostile(port))
            results["tiny"] = asyncio.run(tiny(port))
            results["slow"] = asyncio.run(slow(port))
    if not arguments.dry:
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(out.with_suffix(".md"), as_tables(results).encode())
    print(as_tables(results))


if __name__ == "__main__":
    main()
