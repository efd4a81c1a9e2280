"""Sessions: many threads may share one, whichever library does the work, and each gets its share of the processors."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces import Detector, ModelError
from tinyfaces.detection import runtime
from tinyfaces.detection.runtime import RuntimeOptions, load_session

EXAMPLE = Path(__file__).parents[1] / "examples" / "solvay_1927.jpg"
THREADS = 8


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request):
    pytest.importorskip(request.param)
    return request.param


def test_eight_threads_share_one_session(toy_model, backend):
    rng = np.random.default_rng(0)
    batches = [rng.uniform(0, 255, (1, 3, 32 * (1 + n % 3), 64)).astype(np.float32) for n in range(64)]
    session = load_session(toy_model, options=RuntimeOptions(backend, threads=2, workers=2))
    expected = [[output.copy() for output in session.run(batch)] for batch in batches]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(session.run, batches))
    for ours, theirs in zip(found, expected, strict=True):
        for output, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(output, other)


def test_eight_threads_share_one_detector_with_both_stages(backend):
    photo = Image.open(EXAMPLE).convert("RGB")
    photos = [np.asarray(photo.resize((320, 232)).crop((0, 0, 320 - 16 * n, 232))) for n in range(4)] * 4
    detector = Detector("fast", backend=backend, threads=2, workers=2, stages="both")
    expected = [detector.detect(pixels) for pixels in photos]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(detector.detect, photos))
    assert len(expected[0]) > 15
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)


def test_workers_share_the_threads(monkeypatch):
    assert RuntimeOptions(threads=8, workers=3).threads_per_worker == 2
    assert RuntimeOptions(threads=2, workers=8).threads_per_worker == 1
    monkeypatch.setattr(runtime, "usable_cpus", lambda: 6)
    assert RuntimeOptions(workers=2).threads_per_worker == 3 and RuntimeOptions().threads_per_worker == 6


@pytest.mark.parametrize(
    "options,words",
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"backend": "openvino", "device": "cuda"}, "'cpu' or 'gpu'"),
        ({"device": "gpu"}, "needs backend 'openvino'"),
        ({"precision": "int8", "device": "cuda"}, "CPU only"),
        ({"precision": "bfloat16"}, "needs backend 'openvino'"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(ModelError, match=words) as caught:
        RuntimeOptions(**options)
    assert "\n" not in str(caught.value)
