"""Gigapixel images: time and peak memory of `tinyfaces detect` on mosaics of the example photo, of several sizes and formats.

python benchmarks/large.py [--megapixels 150 600 1200] [--formats tif jpg] [--model fast]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyvips

PHOTO = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"


def mosaic(megapixels: float, path: Path) -> tuple[int, int, int]:
    """Write the photo side by side with itself; gives width, height and the number of copies."""
    photo = pyvips.Image.new_from_file(str(PHOTO))
    side = max(1, round((megapixels * 1e6 / (photo.width * photo.height)) ** 0.5))
    image = photo.replicate(side, side)
    if path.suffix == ".tif":
        image.tiffsave(str(path), tile=True, tile_width=256, tile_height=256, compression="jpeg", Q=85, bigtiff=True)
    else:
        image.jpegsave(str(path), Q=85)
    return image.width, image.height, side * side


def measure(path: Path, model: str) -> tuple[float, float, float, int]:
    """Seconds, processor seconds, peak memory in MiB, and faces of one run in a process of its own."""
    program = (
        "import json, resource, sys\n"
        "from tinyfaces.detection.detector import Detector\n"
        "from tinyfaces.detection.large import LargeImage\n"
        "from pathlib import Path\n"
        "faces = Detector(sys.argv[2]).detect_regions(LargeImage(Path(sys.argv[1])))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(json.dumps([len(faces), used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]))\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, str(path), model], capture_output=True, text=True, check=True)
    faces, peak, processor = json.loads(done.stdout)
    return time.monotonic() - started, processor, peak, faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[150, 600, 1200])
    parser.add_argument("--formats", nargs="+", default=["tif", "jpg"])
    parser.add_argument("--model", default="fast")
    chosen = parser.parse_args()
    print(
        "| file | megapixels | seconds | processor seconds per 100 megapixels | peak memory, MiB | faces per copy of the photo |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (f".{name}" for name in chosen.formats):
            for megapixels in chosen.megapixels:
                path = Path(folder) / f"mosaic{suffix}"
                width, height, copies = mosaic(megapixels, path)
                seconds, processor, peak, faces = measure(path, chosen.model)
                size = width * height / 1e6
                row = (f"{size:.0f}", f"{seconds:.1f}", f"{processor / size * 100:.2f}", f"{peak:.0f}", f"{faces / copies:.2f}")
                print(f"| {suffix[1:]} {width}x{height} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
