"""Damage thousands of small files, give them to the commands, and check what comes of each.

    python benchmarks/fuzz.py --photos 1000 --videos 100 --labels 500 --uploads 500 --seed 1

Files of every format are changed, cut, repeated and spliced. Then the command runs, in a process that is watched. It must end
with its own exit code and no traceback. Each file must have a result or a line; videos that are damaged in the middle may have
both. Results must be whole, given files unchanged, and nothing half-written left behind. No file may take more than 10 s or the
process more than 2 GiB. Whatever fails is printed, its files are kept in --keep, and the exit code is 1.

Needs the extras test and train.
"""

import argparse
import functools
import http.client
import io
import json
import os
import platform
import random
import re
import select
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
from PIL import Image

import fuzz_seeds

BATCH = {"photos": 25, "videos": 5, "labels": 25}
MOST_SECONDS, MOST_MIB = 10, 2048
PATIENCE = 60  # seconds for a whole batch, after which its process is killed
PHOTO_COMMANDS = (
    "anonymise --out out", "anonymise --out out --keep-metadata", "anonymise --out out --method solid --report out.json",
    "detect --out out/all.json --save-images", "anonymise --out out --method pixelate --shape box",
    "detect --out out --format voc",
    "detect --out out/all.csv", "count --density out --out out/all.json", "detect --out out --format yolo",
    "detect --out out/all.json --format coco", "restore --out out --threshold 0.2", "detect --out out --format wider",
)  # fmt: skip
VIDEO_COMMANDS = (
    "anonymise --out out", "anonymise --out out --keep-metadata --method solid", "detect --out out/all.jsonl",
    "detect --out out --format csv", "count --out out/all.json",
)  # fmt: skip
OUR_TROUBLE = re.compile(r"Traceback|Exception|Error\b|Warning\b|^  File ")
"""What no line that a library in C prints has, which Pillow lets libtiff and others do."""
DOCUMENTS = ("all.json", "all.jsonl", "all.csv")


# one batch, in the process that is watched


@contextmanager
def caught(folder: Path) -> Iterator[None]:
    """Send what this process prints, also from C, to the files `stdout` and `stderr` in a folder."""
    kept = [os.dup(number) for number in (1, 2)]
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def command(words: list[str], model: str, told: Path) -> int | str:
    """Run the command as its entry point does; gives its exit code, or what it raised."""
    from tinyfaces.cli import main

    sys.argv = ["tinyfaces", *words, "--model", model, "--threads", "1"]
    with caught(told):
        try:
            main()
        except SystemExit as exit:
            return exit.code if isinstance(exit.code, int) else int(bool(exit.code))
        except BaseException as error:
            return f"raised {type(error).__name__}: {error}"
    return 0


def spoken(told: Path, code: int | str) -> tuple[list[str], list[str]]:
    """What was said on the standard error, and what is wrong with it or with the exit code."""
    lines = (told / "stderr").read_text(errors="replace").splitlines() if (told / "stderr").exists() else []
    wrong = [f"the exit code is {code}"] if code not in (0, 1, 2) else []
    others = [line for line in lines if not line.startswith("tinyfaces: ")]
    wrong += [f"said: {line[:300]}" for line in others if OUR_TROUBLE.search(line)]
    return lines, wrong


def broken(path: Path) -> str | None:
    """What is wrong with a result; None if it is whole."""
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_bytes())
            case ".jsonl":
                [json.loads(line) for line in path.read_bytes().splitlines()]
            case ".xml":
                xml.etree.ElementTree.parse(path)
            case ".csv" | ".txt":
                if not path.read_text().endswith("\n") and path.stat().st_size:
                    return "ends within a line"
            case ".mp4" | ".m4v" | ".mov" | ".mkv" | ".webm" | ".ts" | ".mts" | ".m2ts":
                with av.open(str(path)) as container:
                    if not sum(1 for _ in container.decode(video=0)):
                        return "has no frames"
            case _:
                with Image.open(path) as image:
                    image.load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def photos_or_videos(kind: str, files: dict[str, bytes], batch: int, model: str) -> tuple[list[str], Counter]:
    """Give damaged files to a command, in the working folder; what was wrong, and how many were done or refused."""
    commands = PHOTO_COMMANDS if kind == "photos" else VIDEO_COMMANDS
    words = commands[batch % len(commands)].split()
    here = Path()
    for name, content in files.items():
        (here / "in").mkdir(exist_ok=True)
        (here / "in" / name).write_bytes(content)
    code = command([words[0], "in", "-q", *words[1:]], model, here)
    lines, wrong = spoken(here, code)
    results = [path for path in here.rglob("*") if path.is_file() and path.parts[0] not in ("in", "stdout", "stderr")]
    documents = "".join(path.read_text(errors="replace") for path in results if path.name in DOCUMENTS)
    outcomes: Counter = Counter()
    for name, content in files.items():
        refused = any(f"tinyfaces: in/{name}: " in line for line in lines)
        stem = name.rpartition(".")[0]
        done = name in documents or any(path.name.startswith((f"{stem}.", f"{stem}_")) for path in results)
        if not refused and not done and not (set(words) & {"out/all.csv", "csv"}):  # which has no line without a face
            wrong.append(f"{name}: has neither a result nor a line")
        if refused and done and kind == "photos":
            wrong.append(f"{name}: has a result and a line")
        if (here / "in" / name).read_bytes() != content:
            wrong.append(f"{name}: was changed")
        outcomes["in part" if refused and done else "refused" if refused else "done"] += 1
    for path in results:
        if path.name.endswith(".partial"):
            wrong.append(f"{path}: was left half-written")
        elif path.name not in ("journal", ".tinyfaces") and ".journal" not in path.name and (what := broken(path)):
            wrong.append(f"{path}: is not whole ({what})")
    return wrong, outcomes


def labels(files: dict[str, bytes], base: Path, model: str) -> tuple[list[str], Counter]:
    """Give each damaged annotation file to what reads it; what was wrong, and how many were read or refused."""
    wrong: list[str] = []
    outcomes: Counter = Counter()
    for name, content in files.items():
        told = Path(name.partition("_")[0])
        told.mkdir()
        refused, complaints = one_label(name.partition("_")[2], content, told, base, model)
        wrong += [f"{name}: {complaint}" for complaint in complaints]
        outcomes["refused" if refused else "done"] += 1
    return wrong, outcomes


def one_label(name: str, content: bytes, here: Path, base: Path, model: str) -> tuple[bool, list[str]]:
    """Whether a file was refused, and what was wrong about that."""
    here = here.absolute()
    file = here / name
    file.write_bytes(content)
    if name.endswith((".toml", "a.txt", "classes.txt", "a.xml")) or name.startswith(("wider_face_train", "predictions")):
        return by_reader(name, file, base)
    out = here / "ap.json"
    if name.startswith("coco"):
        words = ["evaluate", "coco", "--annotations", str(file), "--images", str(base / "event"), "--json", str(out)]
    elif name.startswith("wider"):
        for good in (base / "truth").iterdir():
            if good.name != name:
                (here / good.name).write_bytes(good.read_bytes())
        predictions = str(base / "predictions.zip")
        words = ["evaluate", "wider", "--predictions", predictions, "--ground-truth", str(here), "--json", str(out)]
    elif name == "regions.json":
        words = ["count", str(base / "event/a.jpg"), "--regions", str(file), "--out", str(out)]
    else:
        out = here / "found.json"
        words = ["detect", str(base / "event"), "--out", str(out), "--resume", "-q"]
    code = command(words, model, here)
    lines, complaints = spoken(here, code)
    if code == 2 and not any(str(here) in line or str(base) in line or "a.jpg" in line for line in lines):
        complaints.append(f"refused without a line that names a file: {lines}")
    if (code == 0) != out.exists():
        complaints.append(f"the exit code is {code}, and {out.name} is {'there' if out.exists() else 'not there'}")
    if out.exists() and (what := broken(out)):
        complaints.append(f"{out.name} is not whole ({what})")
    if "journal" not in name and file.is_file() and file.read_bytes() != content:
        complaints.append("was changed")
    complaints += [f"{path.name}: was left half-written" for path in here.rglob("*.partial")]
    return code != 0, complaints


@functools.cache
def truth_of(folder: Path) -> Any:
    from tinyfaces.evaluation.wider import read_ground_truth

    return read_ground_truth(folder)


def by_reader(name: str, file: Path, base: Path) -> tuple[bool, list[str]]:
    """`one_label` for what trainings read: a training says the error's message and ends."""
    from tinyfaces.data.annotations import read_wider
    from tinyfaces.data.labels import read_voc, read_yolo
    from tinyfaces.evaluation import wider
    from tinyfaces.training.settings import load_config

    if name == "classes.txt":
        (file.parent / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    readers: dict[str, Callable[[], object]] = {
        "toml": lambda: load_config(file, {}), "xml": lambda: read_voc(file.parent, base / "event"),
        "txt": lambda: read_yolo(file.parent, base / "event"),
    }  # fmt: skip
    if name == "predictions.txt":
        (file.parent / "event").mkdir()
        file = file.rename(file.parent / "event/a.txt").parents[1]
    try:
        with caught(base):
            if name.startswith("predictions"):
                wider.score(wider.read_predictions(file), truth_of(base / "truth"))
            elif name.startswith("wider"):
                read_wider(file, base)
            else:
                readers[name.rpartition(".")[2]]()
    except ValueError as error:
        line = str(error)
        one = "\n" not in line and (str(file) in line or str(file.parent) in line or str(base) in line or "event/" in line)
        ours = type(error).__module__.startswith("tinyfaces") or type(error) is ValueError
        return True, [] if one and ours else [f"raised {type(error).__name__}: {line[:300]!r}"]
    except BaseException as error:
        return True, [f"raised {type(error).__name__}: {str(error)[:300]!r}"]
    return False, []


def peak_mib() -> float:
    """The most memory of this process since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def batch_files(kind: str, batch: int, count: int, seed: int, place: Path) -> dict[str, bytes]:
    """The damaged files of a batch, by name: the same for the same numbers and seeds."""
    rng = random.Random(f"{seed} {kind} {batch}")
    seeds = {path.name: path.read_bytes() for path in sorted((place / kind).iterdir())}
    names, contents = list(seeds), list(seeds.values())
    files = {}
    for number in range(count):
        name = rng.choice(names)
        if name.endswith(".mat") and rng.random() < 0.8:  # each takes a process of its own, and half a second
            name = "coco.json"
        text = kind == "labels" and not name.endswith((".mat", ".gz", ".zip", ".journal"))
        content = fuzz_seeds.damaged(seeds[name], contents, rng, text)
        if kind == "photos" and rng.random() < 0.05:  # of another kind than its name says
            name = f"{name.partition('.')[0]}.{rng.choice(names).partition('.')[2]}"
        files[f"{number:03d}_{name}"] = content
    return files


def serve_batches(model: str, place: Path) -> None:
    """Do the batches that are asked for on the standard input, and answer on the standard output."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        files = batch_files(job["kind"], job["batch"], job["count"], job["seed"], place)
        files = {name: content for name, content in files.items() if job["only"] is None or name == job["only"]}
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            forget_peak()
            begun = time.monotonic()
            if job["kind"] == "labels":
                wrong, outcomes = labels(files, place / "base", model)
            else:
                wrong, outcomes = photos_or_videos(job["kind"], files, job["batch"], model)
            answer = {"wrong": wrong, "outcomes": outcomes, "seconds": time.monotonic() - begun, "mib": peak_mib()}
            os.chdir(place)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# the process that watches


class Watched:
    """A process that does batches. It is started anew when it died or was killed."""

    def __init__(self, model: str, place: Path) -> None:
        self._command = [sys.executable, __file__, "--serve-batches", str(place), "--model", model]
        self._process: subprocess.Popen | None = None

    def do(self, job: dict) -> dict:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        if select.select([process.stdout], [], [], PATIENCE)[0] and (line := process.stdout.readline()):
            return json.loads(line)
        died = process.poll() is not None or not self._alive(process)
        self.close()
        what = f"the process died (exit code {process.returncode})" if died else f"no answer within {PATIENCE} s"
        return {"wrong": [what], "outcomes": {}, "seconds": PATIENCE, "mib": 0, "lost": True}

    def close(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._process.kill()
            self._process.wait()
            self._process = None

    @staticmethod
    def _alive(process: subprocess.Popen) -> bool:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        return process.poll() is None


def run_batches(kind: str, total: int, seed: int, model: str, place: Path, keep: Path, say: Callable[[str], None]) -> dict:
    """All batches of a kind; what they came to."""
    watched, outcomes = Watched(model, place), Counter()
    most = {"seconds": 0.0, "mib": 0.0}
    failures: list[str] = []
    begun = time.monotonic()
    for batch, first in enumerate(range(0, total, BATCH[kind])):
        job = {"kind": kind, "batch": batch, "count": min(BATCH[kind], total - first), "seed": seed, "only": None}
        answer = watched.do(job)
        outcomes.update(answer["outcomes"])
        wrong = answer["wrong"]
        if answer["seconds"] > MOST_SECONDS or answer["mib"] > MOST_MIB or answer.get("lost"):
            wrong = wrong + blamed(watched, job, place, say)
        else:
            most = {name: max(number, answer[name]) for name, number in most.items()}
        if wrong:
            for name, content in batch_files(kind, batch, job["count"], seed, place).items():
                if any(name in line for line in wrong):
                    (keep / f"{kind}-{seed}-{batch}").mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind}-{seed}-{batch}" / name).write_bytes(content)
            failures += [f"{kind} {seed} {batch}: {line}" for line in wrong]
            say("\n".join(failures[-len(wrong) :]))
        if batch % 40 == 39:
            say(f"{kind}: {first + job['count']} of {total}, {dict(outcomes)}, {time.monotonic() - begun:.0f} s, {most}")
    watched.close()
    return {"files": total, **outcomes, "seconds": round(time.monotonic() - begun), "most": most, "failures": failures}


def blamed(watched: Watched, job: dict, place: Path, say: Callable[[str], None]) -> list[str]:
    """Which files of a batch, alone, take too much time or memory, or end the process."""
    wrong = []
    for name in batch_files(job["kind"], job["batch"], job["count"], job["seed"], place):
        answers = [watched.do({**job, "only": name}) for _ in range(2)]  # as the machine may have been busy
        answer = min(answers, key=lambda one: (one.get("lost", False), one["seconds"]))
        if answer.get("lost") or answer["seconds"] > MOST_SECONDS or answer["mib"] > MOST_MIB:
            wrong.append(f"{name}: {answer['seconds']:.1f} s, {answer['mib']:.0f} MiB {answer['wrong']}")
    say(f"{job['kind']} {job['batch']}: looked for a file that takes too much: {wrong or 'none does alone'}")
    return wrong


# uploads


def run_uploads(total: int, seed: int, model: str, place: Path, keep: Path, say: Callable[[str], None]) -> dict:
    """Send damaged photos to the service; what it answered."""
    rng = random.Random(f"{seed} uploads")
    photos = {path.name: path.read_bytes() for path in sorted((place / "photos").iterdir())}
    statuses: Counter = Counter()
    failures: list[str] = []
    slowest = 0.0
    arguments = ["serve", "--port", "0", "--model", model, "--threads", "1", "--receive-timeout", "2"]
    with tempfile.TemporaryFile("w+") as errors:
        service = subprocess.Popen([sys.executable, "-m", "tinyfaces", *arguments], stderr=errors)
        try:
            port = port_of(errors)
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=MOST_SECONDS)
            for number in range(total):
                name = rng.choice(list(photos))
                path, body, head = request_of(fuzz_seeds.damaged(photos[name], list(photos.values()), rng), rng)
                begun = time.monotonic()
                try:
                    line.request("POST", path, body, head)
                    answer = line.getresponse()
                    told, status = answer.read(), answer.status
                except (OSError, http.client.HTTPException) as error:
                    told, status = f"{type(error).__name__}: {error}".encode(), 0
                    line.close()
                slowest = max(slowest, time.monotonic() - begun)
                statuses[status] += 1
                if what := wrong_answer(status, told, path):
                    failures.append(f"upload {seed} {number} ({name}, {path}): {what}")
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"upload-{seed}-{number}").write_bytes(body)
                    say(failures[-1])
            mib = int(Path(f"/proc/{service.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
            if service.poll() is not None:
                failures.append(f"the service ended with the exit code {service.returncode}")
        finally:
            service.terminate()
            service.wait(30)
        errors.seek(0)
        said = errors.read()
        failures += [f"the service said: {said[-2000:]}"] if OUR_TROUBLE.search(said) else []
    failures += [f"the slowest answer took {slowest:.1f} s"] if slowest > MOST_SECONDS else []
    failures += [f"the service used {mib:.0f} MiB"] if mib > MOST_MIB else []
    say("\n".join([*failures, f"uploads: {total}, {dict(statuses)}"]))
    counted = {str(status): number for status, number in sorted(statuses.items())}
    return {"files": total, **counted, "most": {"seconds": slowest, "mib": mib}, "failures": failures}


def port_of(errors: io.TextIOBase) -> int:
    for _ in range(600):
        errors.seek(0)
        if "http://" in (text := errors.read()):
            return int(text.partition("http://127.0.0.1:")[2].split()[0])
        time.sleep(0.1)
    raise RuntimeError("the service did not start")


def request_of(content: bytes, rng: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers: most of them plain pictures, some forms, of which some are damaged."""
    path = "/v1/detect" + rng.choice(("", "", "?output=annotated", "?output=anonymised", "?threshold=0.1&method=solid"))
    if rng.random() < 0.6:
        return path, content, {"Content-Type": rng.choice(("image/jpeg", "image/png", "application/octet-stream"))}
    path = rng.choice((path, path, "/v1/restore", "/v1/picture"))
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + content + b"\r\n"
    if path in ("/v1/restore", "/v1/picture"):
        body += b'--b\r\nContent-Disposition: form-data; name="boxes"\r\n\r\n[[10, 10, 30, 30]]\r\n'
    body += b"--b--\r\n"
    if rng.random() < 0.5:
        body = fuzz_seeds.damaged(body, [body], rng, text=len(body) < 20_000)
    return path, body, {"Content-Type": "multipart/form-data; boundary=b"}


def wrong_answer(status: int, told: bytes, path: str) -> str | None:
    """What is wrong with an answer; None if it is right."""
    if status == 200:
        return None
    if status not in (400, 404, 408, 413, 415, 422):
        return f"status {status}, {told[:200]!r}"
    try:
        detail = json.loads(told)["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {status} without a message: {told[:200]!r}"
    return None if isinstance(detail, str) and detail and "\n" not in detail else f"status {status}, message {detail!r}"


def write_seeds(place: Path, wanted: list[str]) -> None:
    """Whole files of all kinds, in folders that have the names of the kinds."""
    (place / "scratch").mkdir()
    (place / "base").mkdir()
    made = {
        "photos": fuzz_seeds.photos(), "videos": fuzz_seeds.videos(place / "scratch") if "videos" in wanted else {},
        "labels": fuzz_seeds.labels(place / "base") if "labels" in wanted else {},
    }  # fmt: skip
    for kind, files in made.items():
        (place / kind).mkdir()
        for name, content in files.items():
            (place / kind / name).write_bytes(content)
    if "labels" in wanted:
        (place / "base/truth").mkdir()
        for name in ("wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in ("easy", "medium", "hard"))):
            source = name if name in made["labels"] else "wider_easy_val.mat"
            (place / "base/truth" / name).write_bytes(made["labels"][source])
        (place / "base/predictions.zip").write_bytes(made["labels"]["predictions.zip"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("photos", "videos", "labels", "uploads"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for the files that failed")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--serve-batches", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve_batches is not None:
        serve_batches(chosen.model, chosen.serve_batches)
        return
    wanted = [kind for kind in ("photos", "videos", "labels", "uploads") if getattr(chosen, kind)]
    figures: dict = {"command": " ".join(["python", *sys.argv]), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        write_seeds(place, wanted)
        for kind in wanted:
            total = getattr(chosen, kind)
            run = (total, chosen.seed, chosen.model, place, chosen.keep.absolute(), lambda line: print(line, flush=True))
            figures[kind] = run_uploads(*run) if kind == "uploads" else run_batches(kind, *run)
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    failures = [line for kind in wanted for line in figures[kind]["failures"]]
    print(json.dumps({kind: {**figures[kind], "failures": len(figures[kind]["failures"])} for kind in wanted}))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
