"""Our ByteTrack beside that of the library `trackers`, on made-up faces: the same identities, and time per frame.

pip install trackers 'opencv-python-headless' && python benchmarks/byte_track.py [--store tests/byte_track.json]

With --store, the sequences and what the library makes of them are written for the tests.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import supervision
from trackers import ByteTrackTracker

from tinyfaces.jobs.byte_track import ByteTrack

SURE = 0.6
STORED = {"calm": (12, 1.5, 0.0), "crossing": (14, 4.0, 0.0), "uneven times": (10, 2.5, 0.3)}
LARGE = {"30 faces": (30, 2.0, 0.0), "100 faces": (100, 2.0, 0.0), "300 faces": (300, 2.0, 0.0)}


def sequence(faces: int, speed: float, jitter: float, frames: int, seed: int) -> list[dict[str, Any]]:
    """Faces that walk about, tremble, are missed now and then, and are by turns sure and unsure; rounded as they are stored."""
    rng = np.random.default_rng(seed)
    side = 40 * np.sqrt(faces)
    centres, steps = rng.uniform(0, side, (faces, 2)), rng.normal(0, speed, (faces, 2))
    sides = rng.uniform(8, 30, faces)
    made, clock = [], 0.0
    for _ in range(frames):
        steps += rng.normal(0, speed / 20, steps.shape)
        centres += steps
        steps = np.where((centres < 0) | (centres > side), -steps, steps)
        there = rng.permutation(np.flatnonzero(rng.uniform(size=faces) > 0.12))
        half = sides[there, None] / 2
        middle = centres[there] + rng.normal(0, 0.4, (len(there), 2))
        boxes = np.round(np.concatenate([middle - half, middle + half], axis=1), 1)
        clock += 0.04 * (1 + rng.uniform(-jitter, jitter))
        made.append(
            {"time": round(clock, 3), "boxes": boxes.tolist(), "scores": np.round(rng.uniform(0.4, 1, len(there)), 2).tolist()}
        )
    return made


def by_library(frames: list[dict[str, Any]]) -> list[list[int]]:
    """The library's identities; -1 in the frame in which a face is new."""
    tracker = ByteTrackTracker(
        frame_rate=25, track_activation_threshold=SURE, high_conf_det_threshold=SURE, minimum_consecutive_frames=1
    )
    found = []
    for frame in frames:
        boxes, scores = _arrays(frame)
        detections = supervision.Detections(
            xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), int), data={"row": np.arange(len(boxes))}
        )
        tracked: Any = tracker.update(detections, timestamp=frame["time"])
        identities = np.full(len(boxes), -1)
        identities[np.asarray(tracked.data.get("row", ()), int)] = tracked.tracker_id
        found.append(identities.tolist())
    return found


def by_us(frames: list[dict[str, Any]]) -> list[list[int]]:
    """Our identities."""
    tracker = ByteTrack(25, SURE)
    return [tracker.update(*_arrays(frame), frame["time"]).tolist() for frame in frames]


def _arrays(frame: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(frame["boxes"], np.float32).reshape(-1, 4), np.array(frame["scores"], np.float32)


def differing(ours: list[list[int]], theirs: list[list[int]]) -> tuple[int, int]:
    """How many of the library's identified boxes have another identity with us, and how many there are."""
    same: dict[int, int] = {}
    back: dict[int, int] = {}
    pairs = [(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True) if b >= 0]
    wrong = sum(same.setdefault(b, a) != a or back.setdefault(a, b) != b for a, b in pairs)
    return wrong, len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    chosen = parser.parse_args()
    print("| sequence | boxes | with another identity | ours, ms a frame | trackers, ms a frame |\n|---|---|---|---|---|")
    stored = {}
    for name, settings in (STORED | LARGE).items():
        frames = sequence(*settings, frames=60 if name in STORED else 200, seed=len(name))
        times = []
        for track in (by_us, by_library):
            started = time.process_time()
            track(frames)
            times.append((time.process_time() - started) / len(frames) * 1e3)
        theirs = by_library(frames)
        wrong, count = differing(by_us(frames), theirs)
        print(f"| {name} | {count} | {wrong} | {times[0]:.1f} | {times[1]:.1f} |")
        if name in STORED:
            stored[name] = [frame | {"identities": identities} for frame, identities in zip(frames, theirs, strict=True)]
    if chosen.store is not None:
        chosen.store.write_text(json.dumps(stored, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
