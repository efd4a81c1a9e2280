"""The shipped models: their record is true, and they find the faces of the example photo."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces import Detector, read_image
from tinyfaces.detection.boxes import iou_matrix
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.runtime import GENERATOR, JUDGE, STRIDES, RuntimeOptions, int8_file, load_session
from tinyfaces.jobs.contact_sheets import low_crops
from tinyfaces.weights import models, second_stage

EXAMPLES = Path(__file__).parents[1] / "examples"
EXACT = RuntimeOptions(precision="float32")


@pytest.fixture(scope="module", params=["accurate", "fast", "thorough"])
def name(request):
    return request.param


def test_the_record_is_true(name):
    record = models()[name]
    content = record.path.read_bytes()
    assert record.bytes == len(content) and record.sha256 == hashlib.sha256(content).hexdigest()
    int8 = int8_file(record.path)
    assert record.int8_file == int8.name and record.int8_sha256 == hashlib.sha256(int8.read_bytes()).hexdigest()
    assert record.int8_ap["all"] == pytest.approx(record.ap["all"], abs=0.01)
    assert 0 < record.threshold < 1 and 0 < record.ap["all"] < 1
    assert list(models()) == ["accurate", "fast", "thorough"]
    assert record.wild_int8_ap["all"] == pytest.approx(record.wild_ap["all"], abs=0.01)


def test_parameters_and_cost_are_those_of_the_networks(name):
    torch = pytest.importorskip("torch")
    from tinyfaces.training.checkpoints import load_network

    network, variant = load_network(models()[name].path.with_suffix(".safetensors"))
    assert variant == name
    assert models()[name].parameters == sum(parameter.numel() for parameter in network.parameters())
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 96, 128)).astype(np.float32)
    with torch.no_grad():
        session = load_session(models()[name].path, options=EXACT)
        for ours, theirs in zip(session.run(images), network(torch.from_numpy(images)), strict=True):
            assert np.abs(ours - theirs.numpy()).max() < 0.03  # both files round their weights to 16 bits, this one after fusing


def test_any_batch_and_size(name):
    session = load_session(models()[name].path)
    for batch, height, width in ((1, 32, 32), (3, 64, 256), (2, 480, 640)):
        outputs = session.run(np.zeros((batch, 3, height, width), np.float32))
        assert [o.shape for o in outputs] == [(batch, 5, height // s, width // s) for s in STRIDES]


def _example(width):
    photo = Image.fromarray(read_image(EXAMPLES / "solvay_1927.jpg"))
    known = np.array(json.loads((EXAMPLES / "solvay_1927.json").read_text())["boxes"], np.float32)
    factor = width / photo.width
    return photo.resize((width, round(photo.height * factor)), Image.Resampling.LANCZOS), known * factor


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("width,least,most_false", [(1600, 29, 1), (480, 28, 1), (240, 26, 1)])
def test_faces_of_the_example_photo(width, least, most_false, precision):
    photo, known = _example(width)
    overlap = iou_matrix(Detector(precision=precision).detect(photo).boxes, known) >= 0.3
    assert overlap.any(0).sum() >= least
    assert (~overlap.any(1)).sum() <= most_false


def test_a_blank_photo_has_no_faces(name):
    for value in (0, 127, 255):
        assert len(Detector(name).detect(np.full((480, 640, 3), value, np.uint8))) == 0


def test_the_second_stages_record_is_true():
    record = second_stage()
    assert set(record.rules) == {*models(), "other"}
    exact = (record.judge_path, record.generator_path)
    for file in (*exact, *map(int8_file, exact)):
        assert record.sha256[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    for values in record.rules.values():
        rule = FusionRule.from_dict(values)
        low, high = rule.bounds.undecided
        assert 8 < rule.bounds.largest_side <= 64 and 0 < low < high < 1
        assert 0 <= rule.bounds.box <= 1 and 0 < rule.bounds.trust <= 1
        assert rule.both[2] > 0, "the more of a face, the higher the fused score"
    wheel = sum(path.stat().st_size for path in record.generator_path.parent.iterdir() if path.is_file())
    assert wheel < 40e6


def test_the_second_stage_is_what_was_trained():
    torch = pytest.importorskip("torch")
    from tinyfaces.training.checkpoints import load_second_stage
    from tinyfaces.training.networks.cost import count_macs
    from tinyfaces.training.networks.second_stage_networks import Mirrored

    record = second_stage()
    generator, _, settings = load_second_stage(record.generator_path.with_name("second_stage.safetensors"))
    judge = Mirrored(load_second_stage(record.judge_path.with_suffix(".safetensors"))[1])
    assert settings["variant"] == record.variant
    assert record.parameters == sum(p.numel() for p in judge.parameters())
    assert record.restoring_parameters == sum(p.numel() for p in generator.parameters())
    low = np.random.default_rng(0).random((7, 3, 16, 16), np.float32)
    with torch.no_grad():
        crops = torch.from_numpy(low)
        enlarged, restored = generator(crops)
        judged = judge(crops)
        costs = [count_macs(network, crops[:1]) / 1e9 for network in (judge, generator)]
    assert [record.gmac, record.restoring_gmac] == pytest.approx(costs, rel=0.01) and record.gmac < 0.02
    pictures = load_session(record.generator_path, GENERATOR, EXACT).run(low)
    judgements = load_session(record.judge_path, JUDGE, EXACT).run(low)
    for ours, theirs in zip([*pictures, *judgements], [enlarged, restored, judged.face, judged.box], strict=True):
        assert np.abs(ours - theirs.numpy()).max() < 1e-3


def test_restored_faces_are_sharper_and_show_the_same():
    photo, _ = _example(320)
    detector = Detector(threshold=0.5)
    faces = detector.detect(photo)[:12]
    restored = detector.restore(photo, faces)
    low = np.stack([np.asarray(Image.fromarray(crop).resize((16, 16), Image.Resampling.BOX)) for crop in restored])
    seen = low_crops(read_image(photo), faces.boxes)
    assert np.corrcoef(low.ravel(), seen.ravel())[0, 1] > 0.95
    bicubic = np.stack([np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.BICUBIC)) for crop in seen])
    edges = [np.abs(np.diff(pictures.astype(float).mean(-1), axis=2)).mean() for pictures in (restored, bicubic)]
    assert edges[0] > edges[1]


def test_both_stages_find_the_faces_of_the_example_photo(name):
    photo, known = _example(320)
    for stages, least in (("proposals", 18), ("both", 18)):
        overlap = iou_matrix(Detector(name, stages=stages).detect(photo).boxes, known) >= 0.3
        assert overlap.any(0).sum() >= least - 4 * (name == "fast")
