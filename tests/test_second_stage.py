"""The second stage with networks whose answers are known: what goes through, what comes back, whose proposals it takes."""

import gc
import weakref

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tinyfaces.detection.detector as detector_module
from conftest import found, paint
from tinyfaces import Detector, Faces, ModelError
from tinyfaces.cli import app
from tinyfaces.detection.fusion import Bounds, FusionRule
from tinyfaces.detection.restoring import Restorer
from tinyfaces.detection.runtime import RuntimeOptions
from tinyfaces.detection.second_stage import SecondStage
from tinyfaces.weights import SecondStageRecord

onnx = pytest.importorskip("onnx", reason="onnx is not installed (the extra train)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RULE = FusionRule(Bounds(20.0, (0.05, 1.0), 1.0), (0, 1, 0, 0), (0, 1, 1, 0, 0, 0))


def _save(path, nodes, inputs, outputs, constants):
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, "toy", [value(*i) for i in inputs], [value(*o) for o in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _record(judge, generator):
    return SecondStageRecord("slim", str(judge), str(generator), {}, 0, 0.0, 0, 0.0, "", {"other": RULE.to_dict()})


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A judge whose face logit is 10 (mean of green - 0.5), and which shifts boxes by a tenth of their width to the right, and a
    generator that repeats each pixel 4x4 times."""
    scales = numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales")
    resize = helper.make_node("Resize", ["crops", "", "scales"], ["enlarged"], mode="nearest")
    same = helper.make_node("Identity", ["enlarged"], ["restored"])
    _save(
        tmp_path / "g.onnx", [resize, same], [("crops", ["n", 3, 16, 16])],
        [("enlarged", ["n", 3, 64, 64]), ("restored", ["n", 3, 64, 64])], [scales],
    )  # fmt: skip
    weights = {"face": [[0, 10, 0]], "box": [[0, 0, 0]] * 4}
    biases = {"face": [-5], "box": [0.1, 0, 0, 0]}
    constants, nodes = [], [helper.make_node("ReduceMean", ["crops"], ["mean"], axes=[2, 3], keepdims=0)]
    for name, rows in weights.items():
        constants.append(numpy_helper.from_array(np.array(rows, np.float32), f"w_{name}"))
        constants.append(numpy_helper.from_array(np.array(biases[name], np.float32), f"b_{name}"))
        raw = name if name == "box" else f"{name}_column"
        nodes.append(helper.make_node("Gemm", ["mean", f"w_{name}", f"b_{name}"], [raw], transB=1))
        if raw != name:
            nodes.append(helper.make_node("Squeeze", [raw, "axis"], [name]))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    _save(tmp_path / "j.onnx", nodes, [("crops", ["n", 3, 16, 16])], [("face", ["n"]), ("box", ["n", 4])], constants)
    toy = _record(tmp_path / "j.onnx", tmp_path / "g.onnx")
    monkeypatch.setattr(detector_module, "second_stage", lambda: toy)
    return toy


def _second(record, rule=RULE):
    return SecondStage(record, rule, RuntimeOptions(threads=1))


def _proposals():
    boxes = np.array([[10, 10, 20, 20], [40, 10, 50, 20], [10, 40, 40, 70], [60, 60, 70, 70]], np.float32)
    return Faces(boxes, np.array([0.5, 0.5, 0.5, 0.02], np.float32))


def test_small_and_undecided_ones_are_judged_moved_and_ranked(record):
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, 30:, 1] = 255
    (result,) = _second(record).apply([image], [_proposals()])
    logit = dict(
        zip(map(tuple, result.boxes.round(3).tolist()), np.log(result.scores / (1 - result.scores)).tolist(), strict=True)
    )
    assert logit[(41.0, 10.0, 51.0, 20.0)] == pytest.approx(5, abs=1e-3), "green: lifted, and moved by a tenth of its side"
    assert logit[(11.0, 10.0, 21.0, 20.0)] == pytest.approx(-5, abs=1e-3)
    assert logit[(10.0, 40.0, 40.0, 70.0)] == pytest.approx(0, abs=1e-6), "too large to be judged"
    assert (60.0, 60.0, 70.0, 70.0) in logit, "too unlikely to be judged"
    assert (np.diff(result.scores) <= 0).all()


def test_many_images_at_once_are_as_one_by_one(record):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60 + 5 * n, 90, 3), np.uint8) for n in range(4)]
    proposals = []
    for image in images:
        corner = rng.uniform(0, 50, (70, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (70, 2))], 1).clip(0, image.shape[0]).astype(np.float32)
        proposals.append(Faces(boxes, rng.random(70).astype(np.float32)))
    proposals[2] = Faces.empty()
    second = _second(record)
    together = second.apply(images, proposals)
    for image, faces, result in zip(images, proposals, together, strict=True):
        (alone,) = second.apply([image], [faces])
        np.testing.assert_allclose(result.boxes, alone.boxes, atol=1e-4)
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)
        assert (result.boxes[:, 2:] <= [image.shape[1], image.shape[0]]).all()


def test_corrected_boxes_end_at_the_image(record):
    image = np.full((60, 80, 3), 255, np.uint8)
    boxes = np.array([[70, 20, 80, 30], [40, 20, 50, 30]], np.float32)
    (result,) = _second(record).apply([image], [Faces(boxes, np.array([0.6, 0.5], np.float32))])
    assert sorted(result.boxes.round(3).tolist()) == [[41, 20, 51, 30], [71, 20, 80, 30]]


def test_boxes_that_come_together_leave_one(record):
    boxes = np.array([[10, 10, 20, 20], [11, 10, 21, 20]], np.float32)
    moved = Faces(np.concatenate([boxes[:1], boxes[1:] + 5]), np.array([0.6, 0.5], np.float32))
    image = np.full((60, 60, 3), 255, np.uint8)
    assert len(_second(record).apply([image], [moved])[0]) == 2
    assert len(_second(record).apply([image], [Faces(boxes, moved.scores)])[0]) == 1


def test_restored_crops(record, toy_model):
    detector = Detector(toy_model, threshold=0.3, stages="both")
    image = paint(64, 96, [(24, 24), (64, 40)])
    image[..., 1] = 255 * (image[..., 0] > 0)
    faces = detector.detect(image)
    restored = detector.restore(image, faces)
    assert len(faces) == 2 and restored.shape == (2, 64, 64, 3) and restored.dtype == np.uint8
    assert (detector.restore(image, faces[1:]) == restored[1:]).all()
    crop = restored[0]
    assert (crop == crop[::4, ::4].repeat(4, 0).repeat(4, 1)).all(), "this generator repeats pixels"
    assert crop[32, 32, 0] > 200 and crop[2, 2, 0] < 50
    alone = Detector(toy_model, threshold=0.3)
    before = alone.detect(image)
    assert (alone.restore(image, faces) == restored).all(), "a detector of the first stage alone restores too"
    assert alone.detect(image) == before, "and detects as before"


def test_faces_are_restored_from_a_file_an_image_and_an_array_alike(record, toy_model, tmp_path):
    image = paint(64, 96, [(0, 0), (64, 40)])
    image[..., 1] = image[..., 0]
    Image.fromarray(image).save(tmp_path / "a.png")
    detector = Detector(toy_model, threshold=0.3, stages="both")
    faces = detector.detect(image)
    restored = detector.restore(image, faces)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert (detector.restore(source, faces) == restored).all()


def test_faces_do_not_keep_the_photo_alive(record, toy_model):
    image = paint(64, 96, [(24, 24)])
    watched = weakref.ref(image)
    faces = Detector(toy_model, threshold=0.1, stages="both").detect(image)
    del image
    gc.collect()
    assert len(faces) and watched() is None


def test_stages(record, toy_model):
    image = paint(64, 96, [(24, 24)])
    image[:, :, 1] = 60
    alone = Detector(toy_model, threshold=0.5)
    assert alone.stages == "proposals" and found(alone.detect(image)) == {(24, 24, 32, 32)}
    both = Detector(toy_model, threshold=0.5, stages="both", rule=RULE)
    assert both.stages == "both"
    faces = both.detect(image, threshold=0.5)
    assert len(faces) == 1 and faces.scores[0] < alone.detect(image).scores[0]
    assert len(both.detect(image, threshold=0.99)) == 0
    with pytest.raises(ValueError, match="stages 'gan'"):
        Detector(toy_model, stages="gan")


def test_proposals_of_another_detector(record):
    supervision = pytest.importorskip("supervision")
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, 30:, 1] = 255
    given = _proposals()
    seen = []

    def pair(pixels):
        seen.append(pixels.shape)
        return given.boxes[::-1].astype(np.float64), given.scores[::-1]

    results = [
        Detector(proposals=proposals, threshold=0.3).detect(image)
        for proposals in (pair, lambda pixels: given, lambda pixels: given.to_supervision(), given.to_supervision())
    ]
    assert seen == [image.shape]
    for result in results:
        assert found(result) == {(41, 10, 51, 20), (10, 40, 40, 70)}
    assert found(Detector(proposals=pair, threshold=0.3, stages="proposals").detect(image)) == {
        (10, 10, 20, 20), (40, 10, 50, 20), (10, 40, 40, 70),
    }  # fmt: skip
    unscored = supervision.Detections(xyxy=given.boxes)
    with pytest.raises(ValueError, match="confidence"):
        Detector(proposals=unscored).detect(image)


def test_restore_command(record, toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    image = paint(96, 128, [(24, 24), (64, 40)], [(64, 64)])
    image[..., 1] = image.max(2)
    Image.fromarray(image).save("photos/a.png")
    (tmp_path / "photos/broken.jpg").write_bytes(b"nonsense")
    command = ["restore", "photos", "--model", str(toy_model), "--threshold", "0.3", "--max-height", "20"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "broken.jpg" in result.stderr and len(result.stderr.splitlines()) == 1
    assert "2 faces restored, 1 higher than 20 px skipped" in result.stdout
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "restored").rglob("*.png"))
    assert files == ["restored/a/000.png", "restored/a/001.png", "restored/a_restored.png"]
    pair = np.asarray(Image.open(files[0]))
    assert pair.shape == (64, 132, 3) and (pair[:, :64] == pair[:, 68:]).all(), "this generator only repeats pixels"
    assert Image.open(files[2]).size == (2 * 140, 72)
    assert CliRunner().invoke(app, ["restore", "nothing.jpg"]).exit_code == 2


def test_networks_that_do_not_fit_are_told(record, toy_model):
    with pytest.raises(ModelError, match="not a judge"):
        _second(_record(toy_model, record.generator))
    with pytest.raises(ModelError, match="not a generator"):
        Restorer(_record(record.judge, toy_model))


def test_other_proposals_have_a_threshold_of_their_own(record):
    given = _proposals()
    assert Detector(proposals=given).threshold == 0.3
    assert Detector(proposals=given, threshold=0.7).threshold == 0.7


def test_other_proposals_are_found_region_by_region():
    size = 2600
    small = [(40 + 620 * n, 40 + 600 * m) for n in range(5) for m in range(5)]
    image = paint(size, size, small, [])
    image[1000:1800, 900:1700, 1] = 255
    seen = []

    def propose(pixels):
        """Red squares in full detail, and what is green where most of the image is seen."""
        seen.append(pixels.shape[:2])
        boxes = []
        for y, x in np.argwhere(pixels[..., 0] == 255):
            before = (pixels[y - 1, x, 0] if y else 0, pixels[y, x - 1, 0] if x else 0)
            if before == (0, 0) and pixels[y : y + 8, x : x + 8, 0].all():
                boxes.append((x, y, x + 8, y + 8))
        green = np.argwhere(pixels[..., 1] > 128)
        if len(green):
            (top, left), (bottom, right) = green.min(0), green.max(0) + 1
            boxes.append((left, top, right, bottom))
        return np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32)

    detector = Detector(proposals=propose, threshold=0.5)
    faces = detector.detect_regions(image)
    sides = faces.boxes[:, 2] - faces.boxes[:, 0]
    assert found(faces[sides < 10]) == {(x, y, x + 8, y + 8) for x, y in small}
    np.testing.assert_allclose(faces.boxes[sides > 100], [[900, 1000, 1700, 1800]], atol=4)
    assert max(max(shape) for shape in seen) < 2000
    assert found(Detector(proposals=faces.to_supervision(), threshold=0.5).detect_regions(image)) == found(faces)
