"""The detector with a network whose answers are known."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import corners, found, paint
from tinyfaces import Detector, Faces, ImageError, ModelError
from tinyfaces.detection.boxes import longer_sides
from tinyfaces.detection.context import rescore_by_neighbours
from tinyfaces.detection.decoding import supported
from tinyfaces.detection.first_stage import FRAME_PIXELS, TILED_ABOVE_PIXELS, FirstStage
from tinyfaces.detection.views import View
from tinyfaces.weights import models

EXAMPLE = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"


@pytest.fixture(scope="module")
def detector(toy_model):
    return Detector(toy_model, threshold=0.5)


def test_boxes_of_one_image(detector):
    small, large = [(0, 0), (40, 16), (88, 64)], [(32, 32)]
    faces = detector.detect(paint(72, 96, small, large))
    assert found(faces) == corners(small, large)
    network = np.full(len(faces), 1 / (1 + np.exp(-5.0)), np.float32)
    alone = supported(network, np.zeros(len(faces)), longer_sides(faces.boxes))
    np.testing.assert_allclose(faces.scores, rescore_by_neighbours(Faces(faces.boxes, alone)).scores, atol=1e-4)


def test_a_side_that_is_no_multiple_of_32(detector):
    image = paint(75, 101, [(88, 64)])
    assert found(detector.detect(image)) == corners([(88, 64)])
    assert found(detector.detect(Image.fromarray(image))) == corners([(88, 64)])


def test_a_list_is_batched_in_order(detector, tmp_path):
    rng = np.random.default_rng(0)
    places = [[(8 * int(x), 8 * int(y)) for x, y in rng.integers(0, 8, (3, 2))] for _ in range(9)]
    images = [paint(64 + 32 * (n % 3), 64, small) for n, small in enumerate(places)]
    Image.fromarray(images[4]).save(tmp_path / "four.png")
    images[4] = tmp_path / "four.png"
    results = detector.detect(images)
    assert [found(faces) for faces in results] == [corners(small) for small in places]
    assert detector.detect([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (10, 3000)])
def test_black_images_of_odd_sizes_have_no_faces(detector, size):
    assert len(detector.detect(np.zeros((*size, 3), np.uint8))) == 0


def test_large_images_are_tiled_without_doubled_or_cut_faces(detector):
    rng = np.random.default_rng(1)
    cells = rng.choice(94 * 125, 400, replace=False)
    small = [(32 * int(c % 125), 32 * int(c // 125)) for c in cells]
    large = [(32 * int(c % 125), 32 * int(c // 125)) for c in rng.choice(94 * 125, 60, replace=False) if c not in set(cells)]
    image = paint(3008, 4000, small, large)
    faces = detector.detect(image)
    assert found(faces) == corners(small, large)
    assert len(faces) == len(small) + len(large)
    assert (np.diff(faces.scores) <= 0).all()


def test_faces_larger_than_a_tile_come_from_the_reduced_frame(detector):
    # 3072 x 4096 is reduced to 1225 x 1633 and the square to 32 px there
    image = np.zeros((3072, 4096, 3), np.uint8)
    factor = (2_000_000 / (3072 * 4096)) ** 0.5
    side = round(32 / factor)
    left, top = round(512 / factor), round(256 / factor)
    image[top : top + side, left : left + side, 1] = 255
    boxes = detector.detect(image).boxes
    whole = np.abs(boxes - [left, top, left + side, top + side]).max(1) < 6
    assert whole.sum() == 1


@pytest.fixture(scope="module")
def detector_of_large_faces(toy_model, tmp_path_factory):
    """Takes a green square of 32 px for the middle of a face of 128 px."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(toy_model)
    constant = next(constant for constant in model.graph.initializer if constant.name == "b32")
    constant.CopyFrom(numpy_helper.from_array(np.array([-20.5, 0, 0, np.log(4), np.log(4)], np.float32), "b32"))
    path = tmp_path_factory.mktemp("large") / "toy.onnx"
    onnx.save(model, path)
    return Detector(path, threshold=0.5)


@pytest.mark.parametrize("width,height", [(1024, 1536), (1536, 2048), (3072, 4096)])
def test_faces_that_fill_much_of_an_image_come_from_the_thumbnail_pass(detector_of_large_faces, width, height):
    tiled = width * height > TILED_ABOVE_PIXELS
    factor = ((FRAME_PIXELS / (width * height)) ** 0.5 if tiled else 1) / 4
    left, top, side = round(96 / factor), round(128 / factor), round(32 / factor)
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side, 1] = 255
    boxes = detector_of_large_faces.detect(image).boxes
    middle, half = np.array([left, top] * 2) + side / 2, np.array([-1, -1, 1, 1]) * 64 / factor
    found_large = np.abs(boxes - (middle + half)).max(1) < 8
    assert found_large.sum() == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_face_of_the_thumbnail_pass_too_is_one_and_small_ones_beside_it_stay(monkeypatch, order):
    small = np.array([[100, 100, 120, 120], [106, 100, 126, 120]], np.float32)  # IoU of 0.54, as boxes drawn closer by voting
    scores = {1: (0.6, 0.9), -1: (0.9, 0.6)}[order]
    whole = Faces(np.concatenate([small, [[0, 0, 400, 400]]]), np.array([0.8, 0.7, scores[0]], np.float32))
    reduced = Faces(np.array([[5, 5, 101, 101], [10, 10, 40, 40]], np.float32), np.array([scores[1], 0.95], np.float32))
    stage = FirstStage(None)
    monkeypatch.setattr(stage, "_find_in_views", lambda views, _: [whole if max(v.size) == 1024 else reduced for v in views])
    faces = stage._find_in_wholes([View.of(paint(1024, 1024), (1024, 1024), (0, 0, 1024, 1024))], 0.1)[0]
    assert (np.diff(faces.scores) <= 0).all() and len(faces) == 3
    boxes = faces.boxes.round().tolist()
    assert all(box in boxes for box in small.tolist()) and ([0, 0, 400, 400] in boxes) == (order < 0)


def test_scale_enlarges(detector):
    image = np.asarray(Image.fromarray(paint(64, 96, [(24, 32)])).resize((48, 32), Image.Resampling.BOX))
    assert len(detector.detect(image)) == 0
    faces = detector.detect(image, scale=2)
    assert [tuple(box) for box in faces.boxes.round().tolist()] == [(12, 16, 16, 20)]


def test_auto_scale_doubles_small_images_and_leaves_large_ones(detector):
    image = paint(32, 64, [(8, 8)])
    image[8:12, 40:44, 0] = 255
    image[8:12, 44:48] = image[12:16, 40:48] = 0
    alone, auto = detector.detect(image), detector.detect(image, scale="auto")
    assert found(alone) == corners([(8, 8)])
    assert (40, 8, 44, 12) in found(auto)
    large = paint(1504, 1504, [(8, 8)])
    assert found(detector.detect(large, scale="auto")) == found(detector.detect(large))


@pytest.mark.parametrize("width,height,factor", [(160, 110, 1.5), (500, 400, 1.5**0.5), (700, 500, 1)])
def test_shipped_models_enlarge_small_images_and_own_ones_do_not(detector, width, height, factor):
    photo = Image.open(EXAMPLE).convert("RGB").resize((width, height))
    shipped = Detector("fast", stages="proposals", threshold=0.1, threads=2)
    as_usual = shipped.detect(photo)
    np.testing.assert_array_equal(as_usual.boxes, shipped.detect(photo, scale=factor).boxes)
    assert len(as_usual) and (factor == 1 or found(as_usual) != found(shipped.detect(photo, scale=1)))
    assert detector.scale == 1


def test_threshold(detector):
    image = paint(64, 64, [(8, 8)])
    image[40:48, 40:48, 0] = 220  # logit 1.5
    assert len(detector.detect(image)) == 2
    assert len(detector.detect(image, threshold=0.9)) == 1
    assert len(detector.detect(image, threshold=0.999)) == 0


def test_an_unreadable_image_names_itself_and_a_stream_goes_on(detector, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        detector.detect([paint(32, 32), tmp_path / "gone.jpg"])
    results = list(detector.stream([paint(32, 32, [(0, 0)]), tmp_path / "gone.jpg", paint(64, 32)]))
    assert [type(result).__name__ for result in results] == ["Faces", "ImageError", "Faces"]
    assert len(results[0]) == 1


@pytest.mark.parametrize(
    "arguments,word",
    [
        ({"model": "huge"}, "unknown model 'huge'"),
        ({"model": "gone.onnx"}, "gone.onnx: no such model file"),
        ({"backend": "abacus"}, "abacus"),
        ({"device": "tpu"}, "tpu"),
        ({"threshold": 1.5}, "within 0-1"),
        ({"scale": 0}, "above 0"),
        ({"scale": "big"}, "auto"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_told(toy_model, arguments, word):
    with pytest.raises(ValueError, match=word) as caught:
        Detector(**{"model": toy_model, **arguments})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_network(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        Detector(tmp_path / "x.onnx")


def test_openvino_gives_the_same(toy_model, detector):
    pytest.importorskip("openvino")
    image = paint(96, 128, [(8, 8), (40, 40)], [(64, 32)])
    assert found(Detector(toy_model, threshold=0.5, backend="openvino").detect(image)) == found(detector.detect(image))


def test_shipped_models_run_both_stages_and_others_the_first(toy_model):
    assert {Detector(name).stages for name in models()} == {"both"}
    assert Detector("fast", stages="proposals").stages == Detector(toy_model).stages == "proposals"


def test_a_shipped_file_by_its_path_is_the_shipped_model(tmp_path):
    record = models()["fast"]
    (tmp_path / "link.onnx").symlink_to(record.path)
    named = Detector("fast", precision="float32")
    for path in (record.path, str(record.path), tmp_path / "link.onnx"):
        by_path = Detector(path, precision="float32")
        assert (by_path.threshold, by_path.scale, by_path.stages) == (named.threshold, named.scale, named.stages)
        assert by_path._rule == named._rule
    assert Detector(record.int8_path).threshold == named.threshold
    (tmp_path / "copy.onnx").write_bytes(record.path.read_bytes())
    assert Detector(tmp_path / "copy.onnx").threshold == 0.3  # nobody says that it still is the same


def test_stream_gives_errors_while_images_fail(toy_model, tmp_path):
    taken = []

    def sources(kinds):
        for number, good in enumerate(kinds):
            taken.append(number)
            yield paint(32, 32, [(8, 8)]) if good else tmp_path / f"{number}.png"

    stream = Detector(toy_model).stream(sources([False] * 1000))
    for number in range(5):
        assert isinstance(next(stream), ImageError) and len(taken) == number + 1
    taken.clear()
    stream = Detector(toy_model).stream(sources([True] + [False] * 1000))
    assert len(next(stream)) == 1 and len(taken) < 40
    taken.clear()
    results = list(Detector(toy_model).stream(sources([number % 3 == 0 for number in range(100)])))
    assert [isinstance(one, ImageError) for one in results] == [number % 3 != 0 for number in range(100)]


def test_bytes_and_file_objects_are_images_everywhere(toy_model, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(paint(64, 96, small=[(8, 16)])).save(path)
    content, detector = path.read_bytes(), Detector(toy_model)
    expected = detector.detect(path)
    assert len(expected) == 1
    with path.open("rb") as file:
        sources = [content, bytearray(content), memoryview(content), file]
        assert [detector.detect(source) for source in sources] == detector.detect(sources) == [expected] * 4
        restored = detector.restore(path, expected)
        assert all((detector.restore(source, expected) == restored).all() for source in sources)
        assert expected.draw(file).tobytes() == expected.draw(path).tobytes()


def test_a_detector_is_shown_in_one_line(toy_model):
    assert repr(Detector(toy_model)) == f"Detector({str(toy_model)!r}, threshold=0.3, scale=1.0, stages='proposals')"
    shown = [Image.open(io.BytesIO(Detector(toy_model, threshold=value)._repr_png_())) for value in (0.3, 0.3, 0.31)]
    assert all(card.format == "PNG" and card.height < 200 for card in shown)
    assert shown[0].tobytes() == shown[1].tobytes() != shown[2].tobytes()  # it says how the detector is set
