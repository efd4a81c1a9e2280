"""Crowd photos as videos with known faces: what is left uncovered, and processor time, where not every frame is searched.

A camera moves over each photo: slowly, fast, shaking, zooming, over people who walk, with cuts. One run gives all ways to
space the searched frames, on the same videos.

python benchmarks/video_speed.py photos/*.jpg --labels annotations.json.gz [--every 1 2 3 auto] [--model accurate]
    [--write libx264 libx264:veryfast]

Without --write, videos are only read and searched. With it they are also masked and encoded, once with each encoder.

Labels are in COCO's format, or none: then the faces that the model finds in the photo with a score of 0.5 count as known.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyfaces.data.annotations import read_coco
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import read_image
from tinyfaces.jobs.clips import Clip, write_masked
from tinyfaces.jobs.clocks import Packet
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.encoders import EncoderChoice
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.spacing import Spacing
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.jobs.video import VideoReader

RATE = 25
ENLARGED = 1.45
MOTIONS = ("slow", "fast", "shaking", "zoom", "walking", "cut")
Boxes = npt.NDArray[np.float64]


def windows(motion: str, frames: int, width: int, height: int, size: tuple[int, int]) -> Iterator[Boxes]:
    """What each frame shows of a photo of width x height: x1 y1 x2 y2."""
    rng = np.random.default_rng(0)
    room = np.array([width - size[0], height - size[1]], np.float64)
    for number in range(frames):
        turn = 2 * np.pi * number / RATE
        speed = {"slow": 2.0, "fast": 14.0}.get(motion, 3.0)
        corner = room / 2 + np.array([np.sin(turn * 0.25) * speed * RATE / 1.6, np.cos(turn * 0.2) * speed * RATE / 5])
        if motion == "shaking":
            corner += rng.normal(0, 5, 2)
        if motion == "cut" and number % 20 >= 10:
            corner = room - corner + np.array([size[0] / 2, 0])
        corner = np.clip(corner, 0, room)
        scale = 1 - 0.4 * abs((number / RATE) % 2 - 1) if motion == "zoom" else 1.0
        sides = np.array(size) * scale
        middle = corner + np.array(size) / 2
        yield np.concatenate([middle - sides / 2, middle + sides / 2])


def compose(path: Path, photo: Image.Image, faces: Boxes, motion: str, frames: int, size: tuple[int, int]) -> list[Boxes]:
    """Write a video that moves over a photo. Gives the faces wholly in each frame, in its pixels."""
    rng = np.random.default_rng(1)
    walkers = np.flatnonzero(rng.random(len(faces)) < 0.3) if motion == "walking" else np.zeros(0, np.int64)
    speeds = rng.uniform(-3, 3, (len(faces), 2))
    cutouts = {n: photo.crop(tuple(int(v) for v in faces[n])) for n in walkers.tolist()}
    truth = []
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "21"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for number, window in enumerate(windows(motion, frames, *photo.size, size)):
            here, picture = faces.copy(), photo
            if len(walkers):
                picture = photo.copy()
                for n, cutout in cutouts.items():
                    place = np.rint(faces[n, :2].astype(int) + speeds[n] * number)
                    picture.paste(cutout, (int(place[0]), int(place[1])))
                    here[n] += np.tile(speeds[n] * number, 2)
                hidden = [
                    m for m in range(len(faces)) if m not in cutouts and any(_overlap(here[m], here[n]) > 0.2 for n in cutouts)
                ]
                hidden += [n for n in cutouts if any(_overlap(here[n], here[m]) > 0.2 for m in cutouts if m > n)]
                here = np.delete(here, hidden, axis=0)
            shown = picture.resize(size, Image.Resampling.BILINEAR, box=tuple(window.tolist()))
            frame = av.VideoFrame.from_image(shown)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
            seen = (here - np.tile(window[:2], 2)) * (size[0] / (window[2] - window[0]))
            inside = (seen[:, :2] >= 0).all(axis=1) & (seen[:, 2:] <= size).all(axis=1)
            truth.append(seen[inside])
        container.mux(video.encode(None))
    return truth


def _overlap(box: Boxes, other: Boxes) -> float:
    """The share of a box that another one hides."""
    sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
    return float(sides.prod() / max((box[2:] - box[:2]).prod(), 1e-6))


def uncovered(faces: Boxes, masks: npt.NDArray[np.float32]) -> int:
    """How many of the faces have no mask over four fifths of them."""
    if not len(faces) or not len(masks):
        return len(faces)
    centres, halves = (masks[:, :2] + masks[:, 2:]) / 2, (masks[:, 2:] - masks[:, :2]) / 2 * ENLARGED
    low = np.maximum(faces[:, None, :2], centres - halves)
    high = np.minimum(faces[:, None, 2:], centres + halves)
    inside = np.maximum(high - low, 0).prod(axis=2) / np.maximum((faces[:, 2:] - faces[:, :2]).prod(axis=1), 1e-6)[:, None]
    return int((inside.max(axis=1) < 0.8).sum())


class Recorded:
    """A clip that remembers its masks."""

    def __init__(self, clip: Clip) -> None:
        self.video = clip.video
        self.masks: list[npt.NDArray[np.float32]] = []
        self._clip = clip

    def follow(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Iterator[tuple[av.VideoFrame, TrackedFaces]]:
        for frame, settled in self._clip.follow(on_packet):
            self.masks.append(settled.masks)
            yield frame, settled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--every", nargs="+", default=["1", "2", "3", "auto"])
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=list(MOTIONS))
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="threads that search; with 0 the main thread does")
    parser.add_argument("--write", nargs="+", metavar="ENCODER", default=[None])
    chosen = parser.parse_args()
    size = tuple(int(side) for side in chosen.size.split("x"))
    cover = CoverThreshold()
    detector = Detector(chosen.model, threads=max(chosen.threads, chosen.workers), workers=max(chosen.workers, 1))
    labels = {}
    if chosen.labels is not None:
        labels = {image.path.name: image for image in read_coco(chosen.labels, chosen.photos[0].parent)}
    ways = [(every, encoder) for encoder in chosen.write for every in chosen.every]
    totals = {(motion, *way): np.zeros(5) for motion in [*chosen.motions, "all"] for way in ways}
    print("| photo, motion | every, encoder | searched | faces | uncovered | processor s | s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in chosen.photos:
            photo = Image.fromarray(read_image(path))
            grown = max(1.0, 1.15 * size[0] / photo.width, 1.15 * size[1] / photo.height)
            if path.name in labels:
                image = labels[path.name]
                faces = image.boxes[~image.ignore].astype(np.float64) * grown
            else:
                faces = detector.detect(path, threshold=0.5).boxes.astype(np.float64) * grown
            photo = photo.resize((round(photo.width * grown), round(photo.height * grown)))
            for motion in chosen.motions:
                source = Path(folder) / "clip.mp4"
                truth = compose(source, photo, faces, motion, chosen.frames, (size[0], size[1]))
                for every, encoder in ways:
                    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
                    with VideoReader(source) as video:
                        clip = Clip(video, detector, chosen.workers, lambda done: None, cover, spacing=Spacing.of(every))
                        recorded = Recorded(clip)
                        if encoder is None:
                            for _ in recorded.follow():
                                pass
                        else:
                            target, choice = Path(folder) / "masked.mp4", EncoderChoice.of(encoder)
                            write_masked(recorded, target, MaskStyle(), quality=18, keep_metadata=False, encoder=choice)
                    after = resource.getrusage(resource.RUSAGE_SELF)
                    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    open_ = sum(map(uncovered, truth, recorded.masks))
                    took = time.monotonic() - began
                    row = np.array([clip.searched, sum(map(len, truth)), open_, spent, took])
                    totals[motion, every, encoder] += row
                    totals["all", every, encoder] += row
                    name = f"{path.stem[:24]}, {motion} | {every} {encoder or ''}"
                    print(
                        f"| {name} | {row[0]:.0f} | {row[1]:.0f} | {open_ / max(row[1], 1):.2%} | {spent:.1f} | {took:.1f} |",
                        flush=True,
                    )
    for (motion, every, encoder), row in totals.items():
        share = f"{row[2] / max(row[1], 1):.2%}"
        base = totals[motion, *ways[0]]
        print(
            f"| {motion} | {every} {encoder or ''} | {row[0]:.0f} | {row[1]:.0f} | {share} | {row[3]:.1f} "
            f"| {row[4]:.1f} | {base[3] / row[3]:.2f} times less processor time, {base[4] / row[4]:.2f} times as fast |"
        )


if __name__ == "__main__":
    main()
