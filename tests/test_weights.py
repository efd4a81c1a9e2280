"""The shipped models: their record is true, and they find the faces of the example photo."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces import Detector, read_image
from tinyfaces.geometry import iou_matrix
from tinyfaces.runtime import STRIDES, load_session
from tinyfaces.weights import models

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module", params=["accurate", "fast"])
def name(request):
    return request.param


def test_the_record_is_true(name):
    record = models()[name]
    content = record.path.read_bytes()
    assert record.bytes == len(content) and record.sha256 == hashlib.sha256(content).hexdigest()
    assert 0 < record.threshold < 1 and 0 < record.ap["all"] < 1
    assert list(models()) == ["accurate", "fast"]


def test_parameters_and_cost_are_those_of_the_networks(name):
    torch = pytest.importorskip("torch")
    from tinyfaces.export import load_network

    network, variant = load_network(models()[name].path.with_suffix(".safetensors"))
    assert variant == name
    assert models()[name].parameters == sum(parameter.numel() for parameter in network.parameters())
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 96, 128)).astype(np.float32)
    with torch.no_grad():
        for ours, theirs in zip(load_session(models()[name].path).run(images), network(torch.from_numpy(images)), strict=True):
            assert np.abs(ours - theirs.numpy()).max() < 1e-3


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


@pytest.mark.parametrize("width,least,most_false", [(1600, 29, 1), (480, 28, 1), (240, 20, 2)])
def test_faces_of_the_example_photo(width, least, most_false):
    photo, known = _example(width)
    overlap = iou_matrix(Detector().detect(photo).boxes, known) >= 0.3
    assert overlap.any(0).sum() >= least
    assert (~overlap.any(1)).sum() <= most_false


def test_a_blank_photo_has_no_faces(name):
    for value in (0, 127, 255):
        assert len(Detector(name).detect(np.full((480, 640, 3), value, np.uint8))) == 0
