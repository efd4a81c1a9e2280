"""Videos of two lengths: frames a second and peak memory of `tinyfaces anonymise`, on faces of the example photo that move.

python benchmarks/video.py [--seconds 10 600] [--size 320x240] [--model fast]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
RATE = 25
PROGRAM = (
    "import resource, sys\nfrom typer.testing import CliRunner\nfrom tinyfaces.cli import app\n"
    "done = CliRunner().invoke(app, ['anonymise', *sys.argv[1:]])\nassert done.exit_code == 0, done.output\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
)


def compose(path: Path, seconds: int, width: int, height: int) -> None:
    """Eight faces that drift over a grey background, with a noise as sound."""
    photo = Image.open(EXAMPLES / "solvay_1927.jpg").convert("RGB")
    boxes = json.loads((EXAMPLES / "solvay_1927.json").read_text())["boxes"][:8]
    rng = np.random.default_rng(0)
    faces = [
        photo.crop((x1 - 12, y1 - 12, x2 + 12, y2 + 20)).resize((22 + 2 * n, 28 + 2 * n))
        for n, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    places, steps = rng.uniform(0, 1, (8, 2)), rng.uniform(-0.01, 0.01, (8, 2))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "20"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for number in range(seconds * RATE):
            picture = Image.new("RGB", (width, height), (90, 90, 90))
            for face, place, step in zip(faces, places, steps, strict=True):
                x, y = np.abs((place + step * number) % 2 - 1) * (width - 40, height - 48)
                picture.paste(face, (int(x), int(y)))
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
            block = av.AudioFrame.from_ndarray(
                rng.normal(0, 0.1, (1, 44100 // RATE)).astype(np.float32), format="fltp", layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = 44100, number * (44100 // RATE), Fraction(1, 44100)
            container.mux(audio.encode(block))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 600])
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--model", default="fast")
    chosen = parser.parse_args()
    width, height = (int(side) for side in chosen.size.split("x"))
    print("| video | frames | frames a second | peak memory, MiB |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in chosen.seconds:
            source = Path(folder) / f"{seconds}.mp4"
            compose(source, seconds, width, height)
            started = time.monotonic()
            command = [sys.executable, "-c", PROGRAM, str(source), "--out", str(Path(folder) / "out"), "--model", chosen.model]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rate = seconds * RATE / (time.monotonic() - started)
            print(f"| {seconds} s, {chosen.size} | {seconds * RATE} | {rate:.1f} | {float(peak):.0f} |", flush=True)


if __name__ == "__main__":
    main()
