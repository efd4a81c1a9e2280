"""Videos whose boxes are given: what is listed for a frame is masked in it, and nothing else."""

import json

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
pytest.importorskip("trackers", reason="trackers is not installed (the extra video)")

from test_video import HEIGHT, WIDTH, crowd, write  # noqa: E402

FRAMES = 12


@pytest.fixture
def places(tmp_path):
    """clip.mp4, and where its five squares are in each frame."""
    images, places = crowd(FRAMES)
    write(tmp_path / "clip.mp4", images, sound=False)
    return places


def frames_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def is_black(image: np.ndarray, place: tuple[int, int]) -> bool:
    x, y = place
    return bool((image[y + 1 : y + 7, x + 1 : x + 7] < 30).all())


def is_red(image: np.ndarray, place: tuple[int, int]) -> bool:
    x, y = place
    return bool((image[y + 2 : y + 6, x + 2 : x + 6, 0] > 200).all())


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_a_track_taken_away_and_a_box_added(format, run, places, tmp_path):
    run("detect", "clip.mp4", "--out", f"found.{format}")
    path = tmp_path / f"clip.mp4.{format}"
    text = path.read_text()
    first = tuple(map(float, places[0][0]))
    if format == "csv":
        head, *rows = [row.split(",") for row in text.splitlines()]
        gone = next(row[3] for row in rows if row[1] == "0" and (round(float(row[4])), round(float(row[5]))) == first)
        kept = [row for row in rows if row[3] != gone]
        added = ["clip.mp4", "5", "0.2", "99", "170", "100", "180", "110", "1", "1", str(WIDTH), str(HEIGHT)]
        path.write_text("\n".join(map(",".join, [head, *kept, added])))
    else:
        content = json.loads(text) if format == "json" else None
        frames = content["frames"] if content else [json.loads(line) for line in text.splitlines()]
        number = next(n for n, box in enumerate(frames[0]["boxes"]) if tuple(map(round, box[:2])) == first)
        gone = frames[0]["tracks"][number]
        for frame in frames:
            kept = [n for n, track in enumerate(frame["tracks"]) if track != gone]
            for name in ("boxes", "scores", "tracks", "found"):
                frame[name] = [frame[name][n] for n in kept]
        for name, value in {"boxes": [170, 100, 180, 110], "scores": 1, "tracks": 99, "found": True}.items():
            frames[5][name].append(value)
        path.write_text(json.dumps(content) if content else "\n".join(map(json.dumps, frames)))
    run("anonymise", "clip.mp4", "--boxes", path.name, "--method", "solid", "--model", "gone.onnx", "--report", "r.json")
    masked = frames_of(tmp_path / "anonymised/clip.mp4")
    assert len(masked) == FRAMES
    for number, (image, here) in enumerate(zip(masked, places, strict=True)):
        assert is_red(image, here[0]), number
        assert all(is_black(image, place) for place in here[1:]), number
        assert is_black(image, (171, 101)) == (number == 5)
    (file,) = json.loads((tmp_path / "r.json").read_text())["files"]
    assert (file["frames"], file["tracks"], file["faces"]) == (FRAMES, 5, 4 * FRAMES + 1)


def test_frames_without_an_entry_or_without_a_frame(run, places, tmp_path):
    run("detect", "clip.mp4", "--out", "found.json")
    path = tmp_path / "clip.mp4.json"
    content = json.loads(path.read_text())
    last = content["frames"].pop()
    path.write_text(json.dumps(content))
    output = run("anonymise", "clip.mp4", "--boxes", path.name, code=2).output
    assert f"clip.mp4: clip.mp4.json has no entry for frame {FRAMES - 1}" in output
    content["frames"] += [last, {**last, "frame": FRAMES}]
    path.write_text(json.dumps(content))
    output = run("anonymise", "clip.mp4", "--boxes", path.name, code=2).output
    assert f"clip.mp4: has {FRAMES} frames, but clip.mp4.json lists {FRAMES + 1}" in output
    content["frames"] = [{**frame, "width": 640} for frame in content["frames"]]
    path.write_text(json.dumps(content))
    output = run("anonymise", "clip.mp4", "--boxes", path.name, code=2).output
    assert f"clip.mp4: frame 0 is {WIDTH}x{HEIGHT} pixels, but clip.mp4.json says 640x{HEIGHT}" in output
    assert [file.name for file in (tmp_path / "anonymised").iterdir()] == [".tinyfaces"]


def test_boxes_beside_those_found(run, places, tmp_path):
    lines = [f"clip.mp4,{number},170,100,180,110" for number in range(3, 6)]
    (tmp_path / "plates.csv").write_text("\n".join(["file,frame,x1,y1,x2,y2", *lines]))
    run("anonymise", "clip.mp4", "--also-boxes", "plates.csv", "--method", "solid")
    for number, (image, here) in enumerate(zip(frames_of(tmp_path / "anonymised/clip.mp4"), places, strict=True)):
        assert all(is_black(image, place) for place in here), number
        assert is_black(image, (171, 101)) == (3 <= number < 6)
