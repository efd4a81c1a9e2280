"""Encoders and presets side by side: processor time, size, and how far the decoded frames are from those that were encoded.

python benchmarks/video_encoders.py VIDEO ... [--encoder libx264 libx264:medium libx264:faster] [--quality 18] [--noise 4]

`--noise` adds grain like that of a camera, as a standard deviation of grey values. All frames of a video are held in memory.
"""

import argparse
import resource
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from tinyfaces.jobs.encoders import EncoderChoice

Frames = list[npt.NDArray[np.uint8]]
BLOCK = 8
RATE = 25


def decoded(path: Path) -> Frames:
    """Frames as planes below each other, yuv420p."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="yuv420p"), np.uint8) for frame in container.decode(video=0)]


def encode(frames: Frames, name: str, options: dict[str, str], path: Path) -> float:
    """Write a video. Gives the processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0] * 2 // 3, "yuv420p"
        for number, planes in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def psnr(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """Of two grey pictures, in dB."""
    return float(10 * np.log10(255**2 / max(((first.astype(np.float64) - second) ** 2).mean(), 1e-9)))


def ssim(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """The mean structural similarity of the blocks of 8x8 values of two grey pictures."""
    height, width = (side // BLOCK for side in first.shape)
    a, b = (
        one[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK).astype(np.float64) for one in (first, second)
    )
    mean_a, mean_b = a.mean(axis=(1, 3), keepdims=True), b.mean(axis=(1, 3), keepdims=True)
    spread = (a - mean_a).var(axis=(1, 3)) + (b - mean_b).var(axis=(1, 3))
    shared = ((a - mean_a) * (b - mean_b)).mean(axis=(1, 3))
    means = mean_a[:, 0, :, 0], mean_b[:, 0, :, 0]
    even, steady = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    light = (2 * means[0] * means[1] + even) / (means[0] ** 2 + means[1] ** 2 + even)
    return float((light * (2 * shared + steady) / (spread + steady)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--encoder", nargs="+", default=["libx264", "libx264:medium", "libx264:faster", "libx264:veryfast"])
    parser.add_argument("--quality", type=int, default=18)
    parser.add_argument("--noise", type=float, default=0.0)
    chosen = parser.parse_args()
    print("| video | encoder | options | processor s | kB | PSNR, dB | SSIM |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "encoded.mkv"
        for path in chosen.videos:
            frames = decoded(path)
            if chosen.noise:
                rng = np.random.default_rng(0)
                grain = (rng.normal(0, chosen.noise, planes.shape) for planes in frames)
                frames = [
                    np.clip(np.rint(planes + one), 0, 255).astype(np.uint8) for planes, one in zip(frames, grain, strict=True)
                ]
            rows = frames[0].shape[0] * 2 // 3
            for text in chosen.encoder:
                choice = EncoderChoice.of(text)
                options = choice.options(choice.names[0], chosen.quality)
                spent = encode(frames, choice.names[0], options, target)
                pairs = list(zip([one[:rows] for one in frames], [one[:rows] for one in decoded(target)], strict=True))
                likeness = np.mean([[psnr(*pair), ssim(*pair)] for pair in pairs], axis=0)
                said = " ".join(f"{name}={value}" for name, value in options.items())
                size = target.stat().st_size / 1000
                print(
                    f"| {path.name} | {text} | {said} | {spent:.2f} | {size:.0f} | {likeness[0]:.2f} | {likeness[1]:.4f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
