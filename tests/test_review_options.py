"""The options of a review: which faces begin covered, boxes that are given, and what a review remembers of them."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from conftest import paint
from tinyfaces.cli.given_boxes import BoxesOptions
from tinyfaces.cli.options import DetectorOptions, InputOptions
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces
from tinyfaces.jobs.review_store import ReviewedFace
from tinyfaces.jobs.selection import Selection

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tinyfaces[serve]'")

LEFT = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]


@pytest.fixture
def photo(tmp_path, monkeypatch) -> Path:
    """A photo in which the toy model finds faces at (8, 8) and (80, 40), on noise that no mask leaves as it was."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 40, (64, 128, 3), np.uint8)
    Image.fromarray(np.maximum(paint(64, 128, [(8, 8), (80, 40)]), noise)).save("a.png")
    return tmp_path / "a.png"


@pytest.fixture
def open_review(photo, toy_model):
    """A function that opens a review of the photo, once it is searched."""
    from tinyfaces.cli.review import open_desk

    def opened(model=toy_model, given=None, start_over=False, **masking):
        desk = open_desk(
            InputOptions([photo.name]), DetectorOptions(model=str(model)), Masking(**masking), "out", given=given,
            start_over=start_over,
        )  # fmt: skip
        with desk:
            deadline = time.monotonic() + 30
            while desk.queue(-1)["photos"][0]["state"] == "waiting":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield desk

    def call(**options):
        review = opened(**options)
        reviews.append(review)
        return next(review)

    reviews = []
    yield call
    for review in reviews:
        review.close()


def states(desk) -> dict[tuple[int, int], str]:
    """By the corner of each face."""
    return {(round(face.box[0]), round(face.box[1])): face.state for face in desk.photo(1).faces}


def written(desk) -> np.ndarray:
    """The photo as it is written."""
    desk.accept(1, desk.photo(1).edition, True)
    desk.write()
    deadline = time.monotonic() + 30
    while desk.queue(-1)["writing"]["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert desk.queue(-1)["writing"]["problems"] == []
    return np.asarray(Image.open("out/a.png"))


def covered(photo: Path, boxes, style: MaskStyle) -> np.ndarray:
    pixels = np.array(Image.open(photo))
    mask_faces([Plane(pixels[..., channel], 1, 1, 0) for channel in range(3)], np.array(boxes, np.float32), style)
    return pixels


@pytest.mark.parametrize(
    "selection", [Selection(only_regions=[LEFT]), Selection(except_regions=[[(0.5, 0), (1, 0), (1, 1), (0.5, 1)]])]
)
def test_faces_that_are_left_out_begin_clear_and_can_be_covered(open_review, photo, selection):
    style = MaskStyle("pixelate", strength=3)
    desk = open_review(selection=selection, style=style)
    assert states(desk) == {(8, 8): "covered", (80, 40): "clear"}
    counts = desk.entry(1)
    assert (counts["found"], counts["covered"], counts["left_clear"]) == (2, 1, 1)
    assert counts["taken_away"] == counts["added"] == 0  # a person did neither
    first, second = desk.photo(1).faces
    assert (written(desk) == covered(photo, [first.box], style)).all()
    (record,) = json.loads(Path("out.state/review.json").read_text())["files"]
    assert record["left_clear"] == [[round(side, 3) for side in second.box]] and record["taken_away"] == []
    desk.change(1, 0, [ReviewedFace(second.number, second.box, None, "covered")])
    assert desk.entry(1)["added"] == 1 and desk.entry(1)["left_clear"] == 0
    assert (written(desk) == covered(photo, [first.box, second.box], style)).all()


def test_heights_too(open_review):
    assert set(states(open_review(selection=Selection(min_height=12))).values()) == {"clear"}


def test_given_boxes_are_covered_without_a_detector(open_review, photo):
    record = {"file": "a.png", "width": 128, "height": 64, "boxes": [[30, 20, 41, 33.5]], "scores": [0.01]}
    Path("boxes.json").write_text(json.dumps({"images": [record]}))
    desk = open_review(model="gone.onnx", given=BoxesOptions(boxes=Path("boxes.json")))
    assert states(desk) == {(30, 20): "covered"}
    assert (written(desk) == covered(photo, [[30, 20, 41, 33.5]], MaskStyle())).all()
    settings = json.loads(Path("out.state/review.json").read_text())["settings"]
    assert settings["boxes"] == "boxes.json" and "threshold" not in settings


def test_given_boxes_are_added_wherever_they_are(open_review):
    record = {"file": "a.png", "width": 128, "height": 64, "boxes": [[100, 10, 120, 20]], "scores": [1]}
    Path("plates.json").write_text(json.dumps({"images": [record]}))
    desk = open_review(given=BoxesOptions(also_boxes=Path("plates.json")), selection=Selection(only_regions=[LEFT]))
    assert states(desk) == {(8, 8): "covered", (80, 40): "clear", (100, 10): "covered"}


def test_a_photo_that_has_no_boxes_is_a_problem(open_review):
    Path("boxes.json").write_text(json.dumps({"images": [{"file": "b.png", "boxes": [], "scores": []}]}))
    desk = open_review(given=BoxesOptions(boxes=Path("boxes.json")))
    assert "has no entry in boxes.json" in desk.entry(1)["problem"]


def test_a_review_goes_on_with_its_own_options_only(open_review, photo, capsys):
    desk = open_review(selection=Selection(min_height=4))
    desk.accept(1, 0, True)
    desk.__exit__()
    with pytest.raises(typer.Exit):
        open_review(selection=Selection(min_height=5))
    error = capsys.readouterr().err
    assert "(min_height: 4, now 5); use those, or --start-over" in error and error.count("\n") == 1
    with pytest.raises(typer.Exit):
        open_review(cover=CoverThreshold.of(0.5), selection=Selection(min_height=4))
    assert "other settings (threshold: " in capsys.readouterr().err
    again = open_review(selection=Selection(min_height=4))
    assert again.entry(1)["accepted"] and capsys.readouterr().err == ""


def test_other_masks_are_told_and_hold_for_what_is_written_from_then_on(open_review, photo, capsys):
    desk = open_review()
    written(desk)
    assert desk.entry(1)["written"]
    desk.__exit__()
    capsys.readouterr()
    again = open_review(style=MaskStyle("solid"))
    assert "goes on with other masks (method: blur, now solid)" in capsys.readouterr().err
    assert again.entry(1)["accepted"] and not again.entry(1)["written"]
    assert not written(again)[8:16, 8:16].any()


@pytest.mark.parametrize("option", [("--min-height", "9"), ("--threshold", "0.3"), ("--only-region", "0,0 1,0 1,1")])
def test_exactly_the_given_boxes_and_a_choice_do_not_go_together(run, photo, option):
    Path("boxes.csv").write_text("file,x1,y1,x2,y2\n")
    output = run("review", "a.png", "--boxes", "boxes.csv", *option, code=2).output
    assert "--boxes masks exactly the boxes given" in output and not Path("out").exists()
