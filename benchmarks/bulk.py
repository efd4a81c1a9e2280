"""Bulk runs against the simple loop over files, side by side, and where the time of a file goes.

python benchmarks/bulk.py [--files 32] [--model accurate] [--rounds 3]

The files are the example photo at several sizes around 1024 x 741, as JPEG. "loop" reads, finds and writes one file after
another with one detector of all threads (or of one); "bulk" is `tinyfaces.jobs.bulk.process` with its journal. The ways take
turns within each round; the table has the fastest of each, as other work on the machine only ever slows them. The milliseconds
of the parts come from one file after another on one thread.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tinyfaces import Detector, read_image
from tinyfaces.files import write_atomically
from tinyfaces.jobs.bulk import process
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.journal import Journal, Outcome
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.photos import anonymised, find_photo_faces, open_photo

PHOTO = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"
THREADS = len(os.sched_getaffinity(0))

Job = Callable[[Detector, Path, Path], None]


def make_files(folder: Path, number: int) -> list[Path]:
    photo = Image.open(PHOTO).convert("RGB")
    paths = []
    for n in range(number):
        width = 1024 + 16 * (n % 5)
        paths.append(folder / f"{n:04d}.jpg")
        photo.resize((width, width * photo.height // photo.width)).save(paths[-1], quality=90)
    return paths


def boxes_only(detector: Detector, path: Path, out: Path) -> None:
    faces = detector.detect(path)
    write_atomically(out / f"{path.stem}.txt", repr(faces.to_dict()).encode())


def with_picture(detector: Detector, path: Path, out: Path) -> None:
    pixels = read_image(path)
    content = io.BytesIO()
    detector.detect(pixels).draw(pixels).save(content, "JPEG", quality=92)
    write_atomically(out / path.name, content.getvalue())


def anonymise(detector: Detector, path: Path, out: Path) -> None:
    photo = open_photo(path)
    write_atomically(out / path.name, anonymised(photo, find_photo_faces(photo, detector, CoverThreshold())[0], MaskStyle()))


JOBS: dict[str, Job] = {"boxes": boxes_only, "boxes and pictures": with_picture, "anonymise": anonymise}


@dataclass(frozen=True)
class Spent:
    """Seconds, and processor seconds of all threads together."""

    seconds: float
    processor: float


@contextmanager
def spending(into: list[Spent]) -> Iterator[None]:
    seconds, processor = time.perf_counter(), time.process_time()
    yield
    into.append(Spent(time.perf_counter() - seconds, time.process_time() - processor))


def loop(job: Job, detector: Detector, paths: list[Path], out: Path) -> None:
    for path in paths:
        job(detector, path, out)


def bulk(job: Job, detector: Detector, paths: list[Path], out: Path) -> None:
    def work(file: InputFile) -> Outcome:
        job(detector, file.path, out)
        return Outcome({})

    journal = Journal(out / "bulk.journal", {})
    for _, outcome in process([InputFile(path, Path(path.name)) for path in paths], work, journal, THREADS):
        assert outcome.problem is None, outcome.problem
    journal.close(keep=False)


def parts(detector: Detector, paths: list[Path], out: Path) -> dict[str, float]:
    """Milliseconds a file: reading it, the network, and the rest of a run that also writes the picture; one thread."""
    network = 0.0
    run = detector._first._session.run

    def timed(images):
        nonlocal network
        started = time.perf_counter()
        outputs = run(images)
        network += time.perf_counter() - started
        return outputs

    detector._first._session.run = timed
    whole: list[Spent] = []
    with spending(whole):
        loop(with_picture, detector, paths, out)
    detector._first._session.run = run
    started = time.perf_counter()
    for path in paths:
        read_image(path)
    reading = time.perf_counter() - started
    return {
        name: seconds / len(paths) * 1000
        for name, seconds in (
            ("reading", reading),
            ("network", network),
            ("boxes, picture, writing", whole[0].seconds - network - reading),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        out.mkdir()
        paths = make_files(source, chosen.files)
        single, all_threads = Detector(chosen.model, threads=1), Detector(chosen.model, threads=THREADS)
        shared = Detector(chosen.model, threads=THREADS, workers=THREADS)
        for detector in (single, all_threads):
            detector.detect(paths[0])
        ways: dict[str, Callable[[Job], None]] = {
            "loop, 1 thread": lambda job: loop(job, single, paths, out),
            f"loop, {THREADS} threads": lambda job: loop(job, all_threads, paths, out),
            "bulk": lambda job: bulk(job, shared, paths, out),
        }
        print(f"{chosen.model}, {chosen.files} files, {THREADS} processors, fastest of {chosen.rounds} rounds")
        print("| job | way | files a second | bulk is faster by | processor ms a file |")
        print("|---|---|---|---|---|")
        for name, job in JOBS.items():
            spent: dict[str, list[Spent]] = {way: [] for way in ways}
            for _ in range(chosen.rounds):
                for way, run in ways.items():
                    with spending(spent[way]):
                        run(job)
            best = {way: min(rounds, key=lambda one: one.seconds) for way, rounds in spent.items()}
            for way, one in best.items():
                factor = f"{one.seconds / best['bulk'].seconds:.2f}"
                processor = min(other.processor for other in spent[way]) / chosen.files * 1000
                print(f"| {name} | {way} | {chosen.files / one.seconds:.2f} | {factor} | {processor:.1f} |", flush=True)
        print("a file on one thread, ms: " + ", ".join(f"{what} {ms:.1f}" for what, ms in parts(single, paths, out).items()))


if __name__ == "__main__":
    main()
