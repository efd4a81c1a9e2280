"""The shipped models' outputs, pinned: neither a change of the code nor of a library may change what they find unnoticed.

After new weights are shipped, or after a change that is meant to change results, `python tests/test_golden.py` writes the files
in tests/golden again.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfaces import Detector, Faces
from tinyfaces.detection.runtime import multiplies_int8, quiet_onnxruntime
from tinyfaces.weights import models, second_stage

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples/solvay_1927.jpg"
FOLDER = Path(__file__).with_name("golden")
WEIGHTS = ROOT / "src/tinyfaces/weights"

MODELS = ("accurate", "fast", "thorough")
PRECISIONS = ("float32", "int8")
CASES = {
    "proposals": {"stages": "proposals"},
    "both stages": {"width": 320, "stages": "both"},
    "low scores": {"width": 240, "threshold": 0.1},
    "enlarged, auto": {"width": 320, "scale": "auto"},
    "enlarged, tiled": {"width": 320, "scale": 8},  # 4.7 megapixels: in tiles, and as a whole
    "reduced": {"scale": 0.2},
    "region by region": {"scale": 1.6, "stages": "proposals"},
}
"""Options of the detector; width: of the photo, shrunk so that its faces are small enough for the second stage."""
EDGE = {"float32": 1e-3, "int8": 0.2}
"""A face whose score is this close to the threshold may be found on one processor and missed on another."""


def detect(model: str, precision: str, case: str) -> Faces:
    """The faces of the example photo."""
    options = dict(CASES[case])
    photo = Image.open(PHOTO)
    width = options.pop("width", photo.width)
    pixels = np.asarray(photo.convert("RGB").resize((width, photo.height * width // photo.width), Image.Resampling.BOX))
    detector = Detector(model, precision=precision, threads=2, **options)
    return detector.detect_regions(pixels) if case == "region by region" else detector.detect(pixels)


def onnx_files() -> list[str]:
    """The names of all shipped ONNX files."""
    return sorted(path.name for path in WEIGHTS.glob("*.onnx"))


def outputs(name: str) -> dict[str, list[float]]:
    """What a network gives for noise: of each output mean, standard deviation, and five values."""
    session = quiet_onnxruntime().InferenceSession(str(WEIGHTS / name), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    sides, largest = {"generator": ((16, 16), 1), "judge": ((16, 16), 1)}.get(name.split(".")[1], ((96, 160), 255))
    noise = (np.random.default_rng(0).random((2, 3, *sides), np.float32) * largest).astype(np.float32)
    found = {}
    for port, values in zip(session.get_outputs(), session.run(None, {given.name: noise}), strict=True):
        few = values.reshape(-1)[np.linspace(0, values.size - 1, 5).astype(int)]
        found[port.name] = [round(float(value), 5) for value in (values.mean(), values.std(), *few)]
    return found


def weights_digest() -> str:
    """Of all shipped ONNX files."""
    digest = hashlib.sha256()
    for name in onnx_files():
        digest.update((WEIGHTS / name).read_bytes())
    return digest.hexdigest()


def stored(name: str) -> dict:
    golden = json.loads((FOLDER / name).read_text())
    assert golden["weights"] == weights_digest(), "other weights: run `python tests/test_golden.py` to pin their outputs"
    return golden


def unmatched(faces: Faces, others: Faces, threshold: float, pixels: float, score: float) -> list[tuple[list[float], float]]:
    """The faces that score at least `threshold` for which the others have none with nearly the same box and score."""
    left = []
    for box, value in zip(faces.boxes, faces.scores, strict=True):
        same = (np.abs(others.boxes - box).max(axis=1, initial=0) <= pixels) & (np.abs(others.scores - value) <= score)
        if value >= threshold and not same.any():
            left.append((box.tolist(), float(value)))
    return left


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_faces_of_the_example_photo(model, precision, case):
    golden = stored("faces.json")
    expected = Faces(*(golden["faces"][model][precision][case][key] for key in ("boxes", "scores")))
    found = detect(model, precision, case)
    # Integer kernels differ between processors with and without VNNI; the files come from one that has it.
    pixels, score = (0.01, 1e-4) if precision == "float32" else (1.0, 0.05) if multiplies_int8() else (4.0, 0.2)
    least = CASES[case].get("threshold", models()[model].threshold) + EDGE[precision]
    assert unmatched(expected, found, least, pixels, score) == []
    assert unmatched(found, expected, least, pixels, score) == []


@pytest.mark.parametrize("name", onnx_files())
def test_outputs_of_each_network(name):
    expected = stored("networks.json")["networks"][name]
    found = outputs(name)
    assert list(found) == list(expected)
    for output, values in found.items():
        scale = max(1.0, float(np.abs(expected[output]).max()))
        tolerance = 1e-4 if ".int8." not in name else 0.1
        np.testing.assert_allclose(values, expected[output], rtol=0, atol=tolerance * scale, err_msg=output)


def test_all_that_is_shipped_is_pinned():
    assert set(models()) == set(MODELS)
    record = second_stage()
    assert {record.judge, record.generator, *(one.file for one in models().values())} <= set(onnx_files())


def write() -> None:
    """Write the files that the tests compare with."""
    FOLDER.mkdir(exist_ok=True)
    faces = {
        model: {precision: {case: detect(model, precision, case).to_dict() for case in CASES} for precision in PRECISIONS}
        for model in MODELS
    }
    networks = {name: outputs(name) for name in onnx_files()}
    for name, content in (("faces", faces), ("networks", networks)):
        text = json.dumps({"weights": weights_digest(), name: content}, indent=1)
        # A list of numbers, such as a box, on one line.
        lines = re.sub(r"\[\s+([-\d.e,\s]+?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
        (FOLDER / f"{name}.json").write_text(lines + "\n")


if __name__ == "__main__":
    write()
