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
    start = {"candidates": "x", "steps": 2, "pretrain_steps": 1, "batch": 8, "threads": 1}
    loop.train_second_stage(SecondStageConfig(**start, out=str(tmp_path / "start")))
    config = SecondStageConfig(
        **(start | {"steps": 3, "pretrain_steps": 0}),
        out=str(tmp_path / "runs"),
        start=str(tmp_path / "start/last.pt"),
        start_discriminator=False,
    )
    bounds = Bounds(undecided=(0.05, 1.0))
    said = []
    results = ablation.run_ablation(config, str(toy_model), photos, bounds, 2, said.append)
    detection = results["detection"]
    untrained = {"detector alone", "image enlarged x2, detector alone"}
    assert set(detection) == untrained | set(ablation.WAYS)
    assert all(len(figures) == (1 if way in untrained else 2) for way, figures in detection.items())
    # three squares found in every photo, the third no face in half of them
    assert detection["detector alone"][0]["all"] == pytest.approx(1, abs=0.06)
    assert results["candidates a photo"] == 3
    assert all(0 <= one["all"] <= 1 and one["ms"] > 0 for figures in detection.values() for one in figures)
    both = "generator that learns from the discriminator too"
    assert all(one["ms"] > detection["detector alone"][0]["ms"] for one in detection[both])
    first, second = (torch.load(tmp_path / f"runs/3-{seed}/last.pt", weights_only=True) for seed in (0, 1))
    assert not torch.equal(first["discriminator"]["face.weight"], second["discriminator"]["face.weight"])

    restored = results["restoration"]
    assert restored["original"][0]["ssim"] == pytest.approx(1, abs=1e-3) and restored["bicubic"][0]["psnr"] < 40
    assert restored["original"][0]["accepted"] > 0.8  # 30 steps are enough for the squares of this test
    only = "generator that only restores, discriminator"
    assert both in restored and not any("bicubic crop" in name or "judge" in name for name in restored)
    assert restored[only][0] == restored[only][1] != restored[both][0], "what is kept is the same from every seed"
    tables = ablation.as_tables(results, "a command", "a machine", config)
    assert all(f"| {way} |" in tables for way in detection)
    mean, spread = np.mean([one["psnr"] for one in restored[both]]), np.std([one["psnr"] for one in restored[both]], ddof=1)
    assert f"| {both} | {mean:.2f} ± {spread:.2f} |" in tables
    ablation.write(results, tables, tmp_path / "out" / "ablation")
    assert json.loads((tmp_path / "out/ablation.json").read_text())["detection"].keys() == detection.keys()
    # what is trained is not trained again
    monkeypatch.setattr(loop, "draw", None)
    again = ablation.run_ablation(config, str(toy_model), photos, bounds, 2, said.append)
    for way, figures in again["detection"].items():
        assert [one["all"] for one in figures] == [one["all"] for one in detection[way]]
