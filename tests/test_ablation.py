"""The ablation from end to end, small: every way is trained, measured and shown."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("torchmetrics")
cv2 = pytest.importorskip("cv2")

import tinyfaces.training.ablation as ablation  # noqa: E402
import tinyfaces.training.second_stage_loop as loop  # noqa: E402
from conftest import paint  # noqa: E402
from test_second_stage_loop import _candidates  # noqa: E402
from tinyfaces.data.annotations import AnnotatedImage  # noqa: E402
from tinyfaces.detection.fusion import Bounds  # noqa: E402
from tinyfaces.training.settings import SecondStageConfig  # noqa: E402


@pytest.mark.slow
def test_every_way_is_trained_and_measured(toy_model, tmp_path, monkeypatch):
    for module in (loop, ablation):
        monkeypatch.setattr(module, "read_candidates", lambda folder: _candidates(80))
    monkeypatch.setattr(ablation, "_BATCH", 32)
    monkeypatch.setattr(ablation, "train_classifier", partial(ablation.train_classifier, steps=30))
    photos = []
    for number in range(4):
        places = [(8, 8), (40, 8 * number), (64, 40)]
        pixels = paint(64, 96, places)
        pixels[40:48, 64:72, 0] = 210  # found, but undecided
        boxes = np.array([(x, y, x + 8, y + 8) for x, y in places[: 2 + number // 2]], np.float32)
        ones = np.ones(len(boxes), np.float32)
        photos.append((pixels, AnnotatedImage(Path(f"{number}.png"), 96, 64, boxes, ones < 0, ones)))
    config = SecondStageConfig(candidates="x", out=str(tmp_path / "runs"), steps=3, pretrain_steps=1, batch=8, threads=1)
    bounds = Bounds(undecided=(0.05, 1.0))
    said = []
    results = ablation.run_ablation(config, str(toy_model), photos, bounds, said.append)
    ways = {"detector alone", *(f"image enlarged x{n}, detector alone" for n in (2, 4)), *ablation.WAYS}
    assert set(results["detection"]) == ways
    # three squares found in every photo, the third no face in half of them
    assert results["detection"]["detector alone"]["all"] == pytest.approx(1, abs=0.06)
    assert results["candidates a photo"] == 3
    assert all(0 <= values["all"] <= 1 and values["ms"] > 0 for values in results["detection"].values())
    assert results["detection"]["everything"]["ms"] > results["detection"]["detector alone"]["ms"]

    restored = results["restoration"]
    assert restored["original"]["ssim"] == pytest.approx(1, abs=1e-3) and restored["bicubic"]["psnr"] < 40
    assert restored["original"]["accepted"] > 0.8  # 30 steps are enough for the squares of this test
    assert {"SRN alone", "everything", "everything, SRN's picture", "bilinear crop, discriminator"} <= set(restored)
    assert restored["SRN alone"]["psnr"] != restored["bilinear crop, discriminator"]["psnr"]
    tables = ablation.as_tables(results, "a command", "a machine", config)
    assert all(f"| {way} |" in tables for way in ways)
    ablation.write(results, tables, tmp_path / "out" / "ablation")
    assert json.loads((tmp_path / "out/ablation.json").read_text())["detection"].keys() == ways
    # what is trained is not trained again
    monkeypatch.setattr(loop, "draw", None)
    again = ablation.run_ablation(config, str(toy_model), photos, bounds, said.append)
    assert again["detection"]["everything"]["all"] == results["detection"]["everything"]["all"]
